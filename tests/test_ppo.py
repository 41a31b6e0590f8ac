"""PPO: its losses and one whole update against independent implementations, ratios, schedules, stops."""

import copy
import dataclasses
import math

import pytest
import torch
from toy_env import ToyEnv

from trafficgrad.agents.actor_critic import ActorCritic, CriticConfig, PolicyConfig, PolicySpec
from trafficgrad.agents.losses import (
    approximate_kl,
    clipped_surrogate_loss,
    gaussian_log_prob,
    joint,
    log_ratio,
    out_of_range_ratio,
)
from trafficgrad.agents.ppo import PPO, PPOConfig
from trafficgrad.agents.rollout import RolloutSettings, collect, start
from trafficgrad.errors import TrafficGradError


def networks_and_rollout(gradient=False, vehicles=2, frozen=(), seed=0, dtype=torch.float64, **policy):
    env = ToyEnv(vehicles, horizon=20, dtype=dtype)
    spec = PolicySpec(4, 2, vehicles, frozen, PolicyConfig(hidden=[16], **policy))
    networks = ActorCritic(spec, CriticConfig(hidden=[16]), torch.Generator().manual_seed(seed)).to(dtype)
    carry = start(env.reset(8, torch.Generator().manual_seed(seed)))
    settings = RolloutSettings(16, 0.97, 0.95)
    _, rollout = collect(env, carry, networks, settings, torch.Generator().manual_seed(seed), gradient)
    return networks, rollout


def update(networks, rollout, progress=0.0, **config):
    agent = PPO(PPOConfig(**config), networks, torch.Generator().manual_seed(5))
    return agent.update(rollout, progress)


def test_clipped_loss_by_hand():
    ratio = torch.tensor([0.5, 0.5, 1.1, 2.0, 2.0], dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0, 3.0, 1.0, -1.0], dtype=torch.float64)
    expected = -(0.5 - 0.8 + 3.3 + 1.2 - 2.0) / 5
    assert clipped_surrogate_loss(ratio.log(), advantage, 0.2).item() == pytest.approx(expected)
    assert out_of_range_ratio(ratio.log(), 0.2).item() == pytest.approx(0.8)


def test_likelihoods():
    action, mean = torch.randn(5, 3, 2), torch.randn(5, 3, 2)
    log_std = torch.tensor([-0.5, 0.3])
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action)
    torch.testing.assert_close(gaussian_log_prob(action, mean, log_std), expected.sum(-1))
    torch.testing.assert_close(gaussian_log_prob(action, mean, log_std, torch.tensor([1.0, 0.0])), expected[..., 0])
    torch.testing.assert_close(joint(expected.sum(-1), True), expected.sum((1, 2)))
    assert log_ratio(torch.tensor(1e9), torch.tensor(0.0)).exp().isfinite()
    assert approximate_kl(torch.zeros(3)) == 0 and approximate_kl(torch.tensor([0.3, -0.2])) > 0


@pytest.mark.parametrize("ratio", ["vehicle", "joint"])
def test_one_update_equals_a_plain_implementation(ratio):
    """Two full-batch steps, so that the second sees ratios other than 1."""
    networks, rollout = networks_and_rollout()
    reference, _ = networks_and_rollout()
    actor_steps = torch.optim.Adam(reference.actor.parameters(), lr=1e-2)
    critic_steps = torch.optim.Adam(reference.critic.parameters(), lr=2e-2)
    advantage = (rollout.advantage - rollout.advantage.mean()) / (rollout.advantage.std() + 1e-8)
    for _ in range(2):
        normal = torch.distributions.Normal(reference.actor(rollout.observation), reference.actor.log_std.exp())
        log_prob = normal.log_prob(rollout.action).sum(-1)
        difference = log_prob - rollout.log_prob
        rho = (difference.sum(-1) if ratio == "joint" else difference).exp()
        weight = advantage if ratio == "joint" else advantage[..., None]
        actor_loss = -torch.minimum(rho * weight, rho.clamp(0.8, 1.2) * weight).mean()
        value = reference.critic(rollout.observation.flatten(-2))
        critic_loss = (value - rollout.return_).square().mean()
        for loss, steps, parameters in (
            (actor_loss, actor_steps, reference.actor.parameters()),
            (critic_loss, critic_steps, reference.critic.parameters()),
        ):
            steps.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(parameters), 0.5)
            steps.step()
    update(networks, rollout, ratio=ratio, epochs=2, minibatch=10**6, learning_rate=1e-2, critic_learning_rate=2e-2)
    for mine, theirs in zip(networks.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


def test_an_update_raises_the_likelihood_of_good_actions_and_fits_the_values():
    networks, rollout = networks_and_rollout()
    critic_error = (rollout.value - rollout.return_).square().mean()
    metrics = update(networks, rollout, learning_rate=2e-3, critic_learning_rate=1e-2, minibatch=32)
    after = networks.actor.log_prob(rollout.observation, rollout.action)
    gain = ((after - rollout.log_prob) * (rollout.advantage - rollout.advantage.mean())[..., None]).mean()
    value = networks.critic(rollout.observation.flatten(-2))
    assert gain > 0 and (value - rollout.return_).square().mean() < critic_error
    assert metrics["epochs"] == 5 and all(math.isfinite(x) for x in metrics.values())


def test_kl_stop_and_schedule():
    networks, rollout = networks_and_rollout()
    assert update(networks, rollout, learning_rate=0.05, target_kl=1e-3, minibatch=16)["epochs"] < 5
    before = [x.clone() for x in networks.parameters()]
    metrics = update(networks, rollout, progress=1.0, schedule="linear")
    assert metrics["learning_rate"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, networks.parameters(), strict=True))
    assert update(networks, rollout, progress=0.25, schedule="linear", learning_rate=4e-4)["learning_rate"] == (
        pytest.approx(3e-4)
    )


def test_log_std_stays_in_its_bounds_and_comes_back():
    networks, rollout = networks_and_rollout(log_std=[1.0, -5.0])
    rollout = dataclasses.replace(rollout, advantage=torch.randn_like(rollout.advantage))
    update(networks, rollout, learning_rate=0.5, max_gradient_norm=10.0, minibatch=32)
    low, high = networks.spec.config.log_std_bounds
    assert ((networks.actor.log_std >= low) & (networks.actor.log_std <= high)).all()
    assert networks.actor.log_std.requires_grad
    with pytest.raises(TrafficGradError, match="log_std"):
        networks_and_rollout(log_std=-9.0)
    with pytest.raises(TrafficGradError, match="3 entries"):
        networks_and_rollout(log_std=[0.0, 0.0, 0.0])


def test_a_standard_deviation_that_is_not_learnt_stays():
    networks, rollout = networks_and_rollout(learn_std=False, log_std=[-0.6, -0.2])
    std = networks.actor.log_std.clone()
    weight = next(networks.actor.network.parameters()).detach().clone()
    metrics = update(networks, rollout, learning_rate=1e-2)
    assert torch.equal(networks.actor.log_std, std) and metrics["log_std_0"] == pytest.approx(-0.6)
    assert not torch.equal(weight, next(networks.actor.network.parameters()))
    again = ActorCritic(networks.spec, CriticConfig(hidden=[16])).to(torch.float64)
    again.load_state_dict(networks.state_dict())  # it is part of the policy
    assert torch.equal(again.actor.log_std, networks.actor.log_std)


def test_frozen_actions_are_not_learnt():
    networks, rollout = networks_and_rollout(frozen=(1,))
    update(networks, rollout, learning_rate=1e-2)
    assert networks.actor.log_std[1] == -0.5 and networks.actor.log_std[0] != -0.5
    assert (networks.actor(rollout.observation)[..., 1] == 0).all()


def test_initial_weights_do_not_touch_the_global_random_state():
    before = torch.get_rng_state()
    networks_and_rollout()
    assert torch.equal(before, torch.get_rng_state())


def test_joint_network_sees_the_other_vehicles():
    shared, rollout = networks_and_rollout(output_gain=1.0)
    joint_, _ = networks_and_rollout(output_gain=1.0, shared=False)
    seen = rollout.observation[0].clone()
    changed = seen.clone()
    changed[:, 1] += 1.0
    assert torch.equal(shared.actor(seen)[:, 0], shared.actor(changed)[:, 0])
    assert not torch.equal(joint_.actor(seen)[:, 0], joint_.actor(changed)[:, 0])
    assert joint_.actor(seen).shape == shared.actor(seen).shape == (8, 2, 2)


def test_the_policys_rate_follows_the_kl():
    """It grows while updates move the policy by less than half of target_kl, and shrinks beyond twice of it."""
    rates = {}
    for target in (1e-9, 1e3):
        networks, rollout = networks_and_rollout()
        agent = PPO(PPOConfig(schedule="kl", target_kl=target, minibatch=32), networks, torch.Generator())
        used = [agent.update(rollout)["learning_rate"] for _ in range(3)]
        rates[target] = used
        other = PPO(PPOConfig(schedule="kl", target_kl=target), networks, torch.Generator())
        other.load_state_dict(copy.deepcopy(agent.state_dict()))
        assert other.ppo.rate == agent.ppo.rate != used[0]
    assert rates[1e-9] == pytest.approx([5e-4, 5e-4 / 1.5, 5e-4 / 1.5**2])
    assert rates[1e3] == pytest.approx([5e-4, 5e-4 * 1.5, 5e-4 * 1.5**2])
    with pytest.raises(ValueError, match="target_kl"):
        PPOConfig(schedule="kl")


def test_the_critic_may_be_fitted_on_its_own():
    together, rollout = networks_and_rollout()
    alone, none = copy.deepcopy(together), copy.deepcopy(together)
    for networks, epochs in ((alone, 4), (none, 0)):
        config = PPOConfig(critic_epochs=epochs, critic_minibatch=16, minibatch=32)
        metrics = PPO(config, networks, torch.Generator().manual_seed(0)).update(rollout)
        assert math.isnan(metrics["critic_loss"]) == (epochs == 0)
    PPO(PPOConfig(minibatch=32), together, torch.Generator().manual_seed(0)).update(rollout)

    def error(networks):
        return (networks.value(rollout.observation) - rollout.return_).square().mean()

    assert error(alone) < error(none)
    fresh, _ = networks_and_rollout()
    assert error(none) == error(fresh)


def test_retries_take_a_worse_update_back_and_shrink_the_rate():
    """An update that made its own loss worse leaves the policy, at the latest after the last attempt."""
    networks, rollout = networks_and_rollout()
    config = PPOConfig(retries=3, critic_epochs=0, learning_rate=30.0, epochs=4, minibatch=10_000)
    agent = PPO(config, networks, torch.Generator())
    before = copy.deepcopy(networks.actor.state_dict())
    agent.update(rollout)
    assert all(torch.equal(x, before[name]) for name, x in networks.actor.state_dict().items())
    assert agent.ppo.rate == pytest.approx(30.0 / 1.5**2)  # all four failed; the next begins above the last
    gentle = PPO(PPOConfig(retries=3, critic_epochs=0, minibatch=10_000), networks, torch.Generator())
    metrics = gentle.update(rollout)
    assert gentle.ppo.rate == 5e-4 and metrics["actor_loss"] < 0  # never above learning_rate
    gentle.ppo.rate = 1e-4
    gentle.update(rollout)
    assert gentle.ppo.rate == pytest.approx(1.5e-4)
    assert not all(torch.equal(x, before[name]) for name, x in networks.actor.state_dict().items())
    with pytest.raises(ValueError, match="critic_epochs"):
        PPOConfig(retries=1)
