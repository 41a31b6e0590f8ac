"""The window-gradient agent: its gradient is the derivative of the window's return, its samples are clipped."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy_env import ToyEnv

from trafficgrad.agents.actor_critic import ActorCritic, CriticConfig, PolicyConfig, PolicySpec
from trafficgrad.agents.experiment import TrainingConfig
from trafficgrad.agents.losses import gaussian_log_prob
from trafficgrad.agents.rollout import RolloutSettings, collect, start
from trafficgrad.agents.rp import RP, RPConfig

UNDAMPED = RolloutSettings(window=6, gamma=1.0, gae_lambda=1.0)


def build(squash="none", vehicles=2, dtype=torch.float64):
    env = ToyEnv(vehicles, horizon=50, reach=1e6, dtype=dtype)
    config = PolicyConfig(hidden=[16], output_gain=1.0, activation="elu", layer_norm=True, squash=squash)
    critic = CriticConfig(hidden=[16], activation="elu", layer_norm=True)
    networks = ActorCritic(PolicySpec(4, 2, vehicles, (), config), critic, torch.Generator().manual_seed(1)).to(dtype)
    networks.update_normalizer(torch.randn(200, 4, dtype=dtype, generator=torch.Generator().manual_seed(2)))
    return env, networks, start(env.reset(6, torch.Generator().manual_seed(3)))


def roll(env, networks, carry):
    return collect(env, carry, networks, UNDAMPED, torch.Generator().manual_seed(7), gradient=True)[1]


def window_return(env, networks, carry, rollout):
    """Sum over worlds of rewards and the last value, as a function of the policy's parameters: nothing is detached."""
    generator, state = torch.Generator().manual_seed(7), carry.env_state
    total = torch.zeros((), dtype=torch.float64)
    for t in range(UNDAMPED.window):
        mean = networks.actor(networks.normalizer(state.observation))
        torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        action = networks.actor.squash(mean + networks.actor.log_std.exp() * rollout.eps[t])
        state, transition = env.step(state, action, env.sample_noise(6, generator))
        total = total + transition.reward.sum()
    last = networks.normalizer(transition.final_observation)
    return total + networks.critic(networks.flatten(last)).sum()


@pytest.mark.parametrize("squash", ["none", "tanh"])
@pytest.mark.parametrize("vehicles", [2, None])
def test_its_gradient_is_that_of_the_windows_return(squash, vehicles):
    """Without damping every decision's advantage has the slope of the whole return; later reactions are included."""
    env, networks, carry = build(squash, vehicles)
    rollout = roll(env, networks, carry)
    assert not rollout.terminated.any() and not rollout.truncated.any()
    expected = torch.autograd.grad(
        window_return(env, networks, carry, rollout), list(networks.actor.parameters()), allow_unused=True
    )
    agent = RP(RPConfig(gradient_clip_quantile=1.0, max_gradient_norm=1e9), networks, torch.Generator())
    agent.update(rollout)
    samples = rollout.reward.numel()
    for parameter, gradient in zip(networks.actor.parameters(), expected, strict=True):
        assert gradient is not None and gradient.abs().max() > 0
        torch.testing.assert_close(-parameter.grad * samples, gradient, rtol=1e-9, atol=1e-11)


def test_one_wild_sample_does_not_decide():
    env, networks, carry = build()
    rollout = roll(env, networks, carry)
    wild = rollout.action_gradient.clone()
    wild[2, 3, 1] = 1e6
    gradients = {}
    for quantile in (1.0, 0.9):
        _, fresh, _ = build()
        agent = RP(RPConfig(gradient_clip_quantile=quantile, max_gradient_norm=1e9), fresh, torch.Generator())
        metrics = agent.update(dataclasses.replace(rollout, action_gradient=wild))
        assert metrics["gradient_norm_max"] == pytest.approx(1e6 * 2**0.5, rel=1e-6)
        gradients[quantile] = torch.cat([p.grad.flatten() for p in fresh.actor.parameters()])
    assert gradients[1.0].norm() > 1e3 * gradients[0.9].norm()


def test_a_squashed_policy_acts_through_tanh_and_keeps_the_gaussians_likelihood():
    env, networks, carry = build("tanh")
    rollout = roll(env, networks, carry)
    seen = []

    class Spy(ToyEnv):
        def step(self, env_state, action, noise=None):
            seen.append(action.detach())
            return super().step(env_state, action, noise)

    spy = Spy(2, horizon=50, reach=1e6, dtype=torch.float64)
    again = collect(spy, carry, networks, UNDAMPED, torch.Generator().manual_seed(7), gradient=False)[1]
    assert torch.equal(torch.stack(seen), again.action.tanh()) and again.action.abs().max() > 1
    log_prob = gaussian_log_prob(rollout.action, rollout.mean, rollout.log_std)
    torch.testing.assert_close(rollout.log_prob, log_prob, rtol=0, atol=0)
    policy, observation = networks.policy(), rollout.raw_observation[0]
    torch.testing.assert_close(policy(observation), rollout.mean[0].tanh())
    samples = torch.stack([policy.sample(observation, torch.Generator().manual_seed(s)) for s in range(2000)])
    spread = (torch.atanh(samples) - rollout.mean[0]).std(0)
    torch.testing.assert_close(spread, rollout.log_std.exp().expand_as(spread), rtol=0.08, atol=0)


def test_the_schedule_ends_at_zero():
    env, networks, carry = build()
    agent = RP(RPConfig(), networks, torch.Generator())
    rollout = roll(env, networks, carry)
    assert agent.update(rollout, progress=0.75)["learning_rate"] == pytest.approx(0.25e-3)


def test_windows_are_undamped_unless_asked_for():
    """RP's own gae_lambda stands in for that of the training; null leaves the training's."""
    plain = TrainingConfig.model_validate({"agent": {"kind": "rp"}})
    assert plain.gae_lambda == 0.95 and plain.rollout.gae_lambda == 1.0
    damped = TrainingConfig.model_validate({"agent": {"kind": "rp", "gae_lambda": None}, "gae_lambda": 0.9})
    assert damped.rollout.gae_lambda == 0.9
    other = TrainingConfig.model_validate({"agent": {"kind": "gippo"}})
    assert other.rollout.gae_lambda == 0.95
