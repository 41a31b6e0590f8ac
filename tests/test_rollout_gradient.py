"""The rollout: dA/da of one backward pass against brute force, bootstrapping, and the search for what is not finite."""

import dataclasses
import math

import pytest
import torch
from toy_env import ToyEnv, ToyState

from trafficgrad.agents.actor_critic import ActorCritic, CriticConfig, PolicyConfig, PolicySpec
from trafficgrad.agents.advantages import generalized_advantage
from trafficgrad.agents.rollout import NonFiniteError, RolloutSettings, begin, check_finite, collect, start

SETTINGS = RolloutSettings(window=12, gamma=0.97, gae_lambda=0.9, reward_offset=0.3)


def build(vehicles, shared=True, frozen=(), dtype=torch.float64, **env):
    env = ToyEnv(vehicles, dtype=dtype, **env)
    spec = PolicySpec(4, 2, vehicles, frozen, PolicyConfig(hidden=[16], output_gain=1.0, shared=shared))
    networks = ActorCritic(spec, CriticConfig(hidden=[16]), torch.Generator().manual_seed(1)).to(dtype)
    networks.update_normalizer(torch.randn(200, 4, dtype=dtype, generator=torch.Generator().manual_seed(2)))
    return env, networks, start(env.reset(6, torch.Generator().manual_seed(3)))


def advantages_with_graph(env, networks, carry, rollout, seed):
    """The same window again, advantages as differentiable functions of the actions; no scaling anywhere."""
    generator = torch.Generator().manual_seed(seed)
    state, actions, deltas, dones = carry.env_state, [], [], []
    for t in range(SETTINGS.window):
        seen = networks.normalizer(state.observation)
        action = networks.actor(seen) + networks.actor.log_std.exp() * rollout.eps[t]
        torch.randn(action.shape, generator=generator, dtype=action.dtype)
        noise = env.sample_noise(6, generator)
        state, transition = env.step(state, action, noise)
        value = networks.critic(networks.flatten(seen))
        after = networks.critic(networks.flatten(networks.normalizer(transition.final_observation)))
        after = torch.where(transition.terminated, 0.0, after)
        deltas.append(transition.reward - SETTINGS.reward_offset + SETTINGS.gamma * after - value)
        actions.append(action)
        dones.append(transition.done)
    advantages, running = [], torch.zeros_like(deltas[0])
    for t in reversed(range(SETTINGS.window)):
        running = deltas[t] + SETTINGS.gamma * SETTINGS.gae_lambda * torch.where(dones[t], 0.0, running)
        advantages.insert(0, running)
    return actions, advantages


@pytest.mark.parametrize(("vehicles", "shared"), [(2, True), (2, False), (None, True)])
def test_action_gradient_equals_brute_force(vehicles, shared):
    env, networks, carry = build(vehicles, shared)
    _, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=True)
    assert rollout.terminated.any() and rollout.truncated.any()  # resets of both kinds lie within the window
    assert not (rollout.terminated & rollout.truncated).any()
    actions, advantages = advantages_with_graph(env, networks, carry, rollout, 7)
    torch.testing.assert_close(rollout.action, torch.stack(actions).detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(rollout.advantage, torch.stack(advantages).detach(), rtol=1e-12, atol=1e-12)
    for t in range(SETTINGS.window):
        (expected,) = torch.autograd.grad(advantages[t].sum(), actions[t], retain_graph=True)
        assert expected.abs().max() > 0
        torch.testing.assert_close(rollout.action_gradient[t], expected, rtol=1e-10, atol=1e-12)


def test_gradient_does_not_change_the_rollout():
    env, networks, carry = build(2)
    after, plain = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=False)
    after_too, graph = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=True)
    assert plain.action_gradient is None
    for field in dataclasses.fields(plain):
        value, other = getattr(plain, field.name), getattr(graph, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other) and not other.requires_grad, field.name
    assert torch.equal(after.env_state.position, after_too.env_state.position)
    assert not after_too.env_state.position.requires_grad and not graph.action_gradient.requires_grad


def test_values_bootstrap_from_before_the_reset():
    env, networks, carry = build(2)
    _, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=False)
    generator, state = torch.Generator().manual_seed(7), carry.env_state
    for t in range(SETTINGS.window):
        torch.randn(rollout.action[t].shape, generator=generator, dtype=torch.float64)
        before = state
        state, transition = env.step(state, rollout.action[t], env.sample_noise(6, generator))
        final = networks.critic(networks.flatten(networks.normalizer(transition.final_observation))).detach()
        expected = torch.where(transition.terminated, 0.0, final)
        torch.testing.assert_close(rollout.next_value[t], expected, rtol=1e-12, atol=1e-12)
        ended = transition.done
        assert not torch.equal(before.observation, transition.final_observation)
        if ended.any():
            assert not torch.equal(state.observation[ended], transition.final_observation[ended])
    expected = generalized_advantage(
        rollout.reward - 0.3, rollout.value, rollout.next_value, rollout.terminated | rollout.truncated, 0.97, 0.9
    )
    assert torch.equal(rollout.advantage, expected) and torch.equal(rollout.return_, expected + rollout.value)


def test_log_likelihood_is_the_gaussian_one_and_frozen_actions_leave_it():
    env, networks, carry = build(2, frozen=(1,))
    _, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=True)
    assert (rollout.action[..., 1] == 0).all() and (rollout.action_gradient[..., 1] == 0).all()
    assert rollout.action_gradient[..., 0].abs().max() > 0
    normal = torch.distributions.Normal(rollout.mean[..., 0], rollout.log_std[0].exp())
    torch.testing.assert_close(rollout.log_prob, normal.log_prob(rollout.action[..., 0]), rtol=1e-12, atol=1e-12)


def test_episode_statistics_count_complete_episodes_only():
    env, networks, _ = build(2, reach=1e6)
    state = env.reset(3, torch.Generator().manual_seed(3))
    state = dataclasses.replace(state, elapsed=torch.tensor([0, 3, 6]))  # horizon 7; 12 decisions
    _, rollout = collect(env, start(state), networks, SETTINGS, torch.Generator().manual_seed(7), gradient=False)
    # World 0 ends complete at decision 7; world 1 was cut in at decision 4 and completes at 11; world 2 at 8.
    assert rollout.episodes == 3 and rollout.episode_length == 21
    expected = rollout.reward[0:7, 0].sum() + rollout.reward[4:11, 1].sum() + rollout.reward[1:8, 2].sum()
    torch.testing.assert_close(rollout.episode_return, expected)


def test_statistics_and_gradient_are_float32_too():
    env, networks, carry = build(2, dtype=torch.float32)
    _, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=True)
    assert {x.dtype for x in (rollout.advantage, rollout.action_gradient, rollout.log_prob)} == {torch.float32}


@pytest.mark.parametrize("gradient", [False, True])
def test_a_nan_is_found_with_step_world_and_vehicle(gradient):
    env, networks, carry = build(2, poison=(4, 5), horizon=50, reach=1e6)
    after, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient)
    with pytest.raises(NonFiniteError, match=r"iteration 3: the reward is nan at decision 5 of the window, world 4"):
        check_finite(rollout, after, context="iteration 3: ")


def test_a_nan_in_an_observation_names_the_controlled_vehicle():
    env, networks, carry = build(2, poison=(4, 5), horizon=50, reach=1e6)
    after, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=False)
    with pytest.raises(NonFiniteError) as caught:
        check_finite(dataclasses.replace(rollout, reward=torch.zeros_like(rollout.reward)), after)
    error = caught.value
    assert (error.quantity, error.step, error.world, error.vehicle) == ("value", 5, 4, None)
    clean = {"reward": torch.zeros_like(rollout.reward), "next_value": torch.zeros_like(rollout.reward)}
    with pytest.raises(NonFiniteError, match="world 4, controlled vehicle 1") as caught:
        check_finite(dataclasses.replace(rollout, **clean), after)
    assert (caught.value.quantity, caught.value.step) == ("observation", 6)


def test_a_nan_on_the_way_back_is_placed_where_it_began():
    class Kink(ToyEnv):
        def step(self, env_state: ToyState, action, noise=None):
            state, transition = super().step(env_state, action, noise)
            if self.steps == 4:
                zero = transition.final_observation[1, 0, 0] * 0.0
                broken = zero.sqrt() * torch.eye(6, dtype=zero.dtype)[1]  # value 0, infinite slope
                transition = dataclasses.replace(transition, reward=transition.reward + broken)
            return state, transition

    _, networks, carry = build(2)
    env = Kink(2, dtype=torch.float64)
    after, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=True)
    with pytest.raises(NonFiniteError, match="gradient of the advantage") as caught:
        check_finite(rollout, after)
    assert (caught.value.step, caught.value.world) == (3, 1)
    check_finite(rollout, after, gradient=False)


def test_a_nan_of_the_whole_world_names_the_vehicle_in_the_state():
    @dataclasses.dataclass
    class Traffic:
        speed: torch.Tensor

    from trafficgrad.tree import register_record

    register_record(Traffic)
    env, networks, carry = build(2)
    after, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=False)
    speed = torch.zeros(6, 9)
    speed[2, 7] = float("nan")
    reward = rollout.reward.clone()
    reward[3, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="reward is nan at decision 3 of the window, world 2, vehicle 7"):
        check_finite(dataclasses.replace(rollout, reward=reward), dataclasses.replace(after, env_state=Traffic(speed)))
    check_finite(rollout, after)


def test_the_last_observation_of_an_ended_task_may_be_anything():
    """A NaN there must not reach the action gradients: its value is 0 by definition."""

    class Crash(ToyEnv):
        def step(self, env_state: ToyState, action, noise=None):
            state, transition = super().step(env_state, action, noise)
            ended = transition.terminated[:, None, None]
            broken = torch.where(ended, float("nan"), transition.final_observation)
            return state, dataclasses.replace(transition, final_observation=broken)

    _, networks, carry = build(2)
    env = Crash(2, dtype=torch.float64)
    after, rollout = collect(env, carry, networks, SETTINGS, torch.Generator().manual_seed(7), gradient=True)
    assert rollout.terminated.any()
    check_finite(rollout, after)


@pytest.mark.parametrize("vehicles", [2, None])
def test_noise_with_a_memory_is_normal_and_fades(vehicles):
    """Correlation exp(-1 / memory) from one decision to the next, variance 1, and none across a reset."""
    env, networks, carry = build(vehicles, horizon=50)
    memory = 4.0
    settings = RolloutSettings(400, 0.9, 0.8, noise_memory=memory)
    generator = torch.Generator().manual_seed(0)
    carry = begin(carry.env_state, networks, settings, generator)
    after, rollout = collect(env, carry, networks, settings, generator, gradient=False)
    eps, done = rollout.eps, (rollout.terminated | rollout.truncated)[:-1]
    assert after.eps is not None and (eps.std() - 1).abs() < 0.02
    product = (eps[1:] * eps[:-1]).flatten(2).mean(-1)
    assert product[~done].mean().item() == pytest.approx(math.exp(-1 / memory), abs=0.02)
    assert done.sum() > 50 and abs(product[done].mean().item()) < 0.15
    again, _ = collect(env, after, networks, settings, generator, gradient=False)
    assert again.eps is not None
    plain = collect(env, start(carry.env_state), networks, RolloutSettings(400, 0.9, 0.8), generator, gradient=False)[1]
    product = (plain.eps[1:] * plain.eps[:-1]).mean()
    assert abs(product.item()) < 0.02
