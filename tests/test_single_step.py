"""LR, LR+RP and PE: their gradients against independent ones; policies that tell their own standard deviation."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from toy_env import ToyEnv

from trafficgrad.agents.actor_critic import ActorCritic, CriticConfig, PolicyConfig, PolicySpec
from trafficgrad.agents.experiment import TrainingConfig
from trafficgrad.agents.losses import standardized
from trafficgrad.agents.lr import LR, LRConfig
from trafficgrad.agents.lr_rp import LRRP, LRRPConfig
from trafficgrad.agents.pe import PEConfig
from trafficgrad.agents.rollout import RolloutSettings, collect, start
from trafficgrad.agents.rp import RP
from trafficgrad.agents.single_step import pathwise_cotangent, score_cotangent
from trafficgrad.errors import TrafficGradError

SETTINGS = RolloutSettings(window=6, gamma=0.95, gae_lambda=0.9)
UNCLIPPED = {"max_gradient_norm": 1e9}


def build(std="global", vehicles=2, frozen=(), settings=SETTINGS, **critic):
    """Toy environment, networks and a rollout with gradient, in double precision."""
    env = ToyEnv(vehicles, horizon=4, dtype=torch.float64)
    config = PolicyConfig(hidden=[16], output_gain=1.0, std=std, log_std=[-0.3, -0.8], activation="elu")
    spec = PolicySpec(4, 2, vehicles, frozen, config)
    networks = ActorCritic(spec, CriticConfig(hidden=[16], **critic), torch.Generator().manual_seed(1)).double()
    networks.update_normalizer(torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    carry = start(env.reset(8, torch.Generator().manual_seed(3)))
    return networks, collect(env, carry, networks, settings, torch.Generator().manual_seed(7), gradient=True)[1]


def gradients(networks):
    return [p.grad for p in networks.actor.parameters()]


@pytest.mark.parametrize("std", ["global", "state"])
@pytest.mark.parametrize("vehicles", [2, None])
def test_lr_follows_the_score(std, vehicles):
    networks, rollout = build(std, vehicles)
    normal = torch.distributions.Normal
    mean, log_std = networks.actor.distribution(rollout.observation)
    log_prob = normal(mean, log_std.exp()).log_prob(rollout.action).sum(-1)
    weight = (rollout.advantage - rollout.advantage.mean()) / rollout.advantage.std()
    joint = log_prob.sum(-1) if vehicles else log_prob
    expected = torch.autograd.grad(-(weight * joint).mean(), list(networks.actor.parameters()))
    LR(LRConfig(**UNCLIPPED), networks, torch.Generator()).update(rollout)
    for actual, wanted in zip(gradients(networks), expected, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("std", ["global", "state"])
def test_lr_rp_weighs_by_the_other_ones_variance(std):
    networks, rollout = build(std)
    rollout = dataclasses.replace(rollout, action_gradient=rollout.action_gradient * 10)  # of comparable variance
    lr = score_cotangent(rollout, standardized(rollout.advantage))
    rp = pathwise_cotangent(rollout, rollout.action_gradient / rollout.advantage.std())
    spread = [torch.cat(x, -1).flatten(0, -2).var(0).sum() for x in (lr, rp)]
    k = spread[0] / (spread[0] + spread[1])
    assert 0.01 < k < 0.99
    mean, log_std = networks.actor.distribution(rollout.observation)
    objective = sum(
        (((1 - k) * a + k * b) * x).sum() for a, b, x in zip(lr, rp, (mean, log_std), strict=True)
    ) / rollout.reward.numel()  # fmt: skip
    expected = torch.autograd.grad(-objective, list(networks.actor.parameters()))
    agent = LRRP(LRRPConfig(gradient_clip_quantile=1.0, **UNCLIPPED), networks, torch.Generator())
    metrics = agent.update(rollout)
    assert metrics["k_rp"] == pytest.approx(k.item())
    for actual, wanted in zip(gradients(networks), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


def test_lr_rp_listens_to_the_quieter_one():
    networks, rollout = build()
    noisy = rollout.action_gradient * 1e4
    for gradient, low, high in ((noisy, 0.0, 0.01), (noisy * 1e-8, 0.99, 1.0)):
        own = copy.deepcopy(networks)
        agent = LRRP(LRRPConfig(gradient_clip_quantile=1.0), own, torch.Generator())
        k = agent.update(dataclasses.replace(rollout, action_gradient=gradient))["k_rp"]
        assert low <= k <= high


def test_both_estimates_are_of_one_gradient():
    """On a one-step task both have the same expectation: the variances are of the same thing (F11)."""
    _, rollout = build("state")
    generator = torch.Generator().manual_seed(0)
    shape = (400_000, 1, 1, 2)
    eps = torch.randn(shape, dtype=torch.float64, generator=generator)
    mean, log_std = torch.tensor([0.3, -0.5]).double(), torch.tensor([-0.4, 0.1]).double()
    action = mean + log_std.exp() * eps
    advantage = (torch.sin(action) - 0.2 * action.square()).sum((-1, -2))
    one = dataclasses.replace(
        rollout, eps=eps, action=action, log_std=log_std, advantage=advantage, reward=advantage, present=None
    )
    lr = score_cotangent(one, advantage - advantage.mean())
    rp = pathwise_cotangent(one, torch.cos(action) - 0.4 * action)
    for first, second in zip(lr, rp, strict=True):
        assert second.flatten(0, -2).mean(0).abs().min() > 0.05
        torch.testing.assert_close(first.flatten(0, -2).mean(0), second.flatten(0, -2).mean(0), rtol=0.05, atol=0.01)


def test_pe_looks_one_step_ahead():
    """Its gradient is that of r(s, a) + gamma V(s') alone; the critic's targets keep the usual lambda."""
    config = TrainingConfig.model_validate({"agent": {"kind": "pe"}, "gamma": 0.95, "gae_lambda": 0.9, "window": 6})
    assert config.rollout == RolloutSettings(6, 0.95, 0.9, 0.0, gradient_lambda=0.0)
    networks, rollout = build(settings=config.rollout)
    env = ToyEnv(2, horizon=4, dtype=torch.float64)
    generator, state = torch.Generator().manual_seed(7), env.reset(8, torch.Generator().manual_seed(3))
    for t in range(6):
        torch.randn(rollout.eps[t].shape, generator=generator, dtype=torch.float64)
        action = rollout.action[t].clone().requires_grad_()
        state, transition = env.step(state, action, env.sample_noise(8, generator))
        value = networks.value(networks.normalizer(transition.final_observation))
        ahead = transition.reward + 0.95 * value.masked_fill(transition.terminated, 0.0)
        (expected,) = torch.autograd.grad(ahead.sum(), action)
        torch.testing.assert_close(rollout.action_gradient[t], expected, rtol=1e-9, atol=1e-12)
    _, usual = build()
    assert torch.equal(usual.advantage, rollout.advantage)
    assert not torch.allclose(usual.action_gradient[0], rollout.action_gradient[0])
    RP(PEConfig(), networks, torch.Generator()).update(rollout)


def test_frozen_actions_stay_out_of_every_estimate():
    for agent, config in ((LR, LRConfig(**UNCLIPPED)), (LRRP, LRRPConfig(**UNCLIPPED))):
        networks, rollout = build(frozen=(1,))
        before = networks.actor.log_std.detach().clone()
        agent(config, networks, torch.Generator()).update(rollout)
        assert networks.actor.log_std[1] == before[1] and networks.actor.log_std[0] != before[0]


def test_a_policy_that_tells_its_own_standard_deviation():
    networks, rollout = build("state")
    mean, log_std = networks.actor.distribution(rollout.observation)
    assert log_std.shape == mean.shape == rollout.log_std.shape and log_std[..., 0].std() > 0.01
    torch.testing.assert_close(rollout.action, mean + log_std.exp() * rollout.eps)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(rollout.action).sum(-1)
    torch.testing.assert_close(rollout.log_prob, expected)
    policy, observation = networks.policy(), rollout.raw_observation[0]
    samples = torch.stack([policy.sample(observation, torch.Generator().manual_seed(s)) for s in range(4000)])
    torch.testing.assert_close(samples.std(0), log_std[0].exp(), rtol=0.08, atol=0)
    torch.testing.assert_close(policy(observation), mean[0])


def test_its_bounds_cut_the_value_and_keep_the_slope():
    config = PolicyConfig(hidden=[4], std="state", log_std=0.9, log_std_bounds=(-1.0, 1.0), output_gain=5.0)
    networks = ActorCritic(PolicySpec(4, 2, None, (), config), CriticConfig(hidden=[4]), torch.Generator())
    observation = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    _, log_std = networks.actor.distribution(observation)
    assert log_std.max() == 1.0 and log_std.min() == -1.0
    (slope,) = torch.autograd.grad(log_std.sum(), networks.actor.network[-1].bias)
    assert slope.tolist() == [0.0, 0.0, 64.0, 64.0]
    with pytest.raises(TrafficGradError, match="learn_std"):
        spec = PolicySpec(4, 2, None, (), PolicyConfig(std="state", learn_std=False))
        ActorCritic(spec, CriticConfig(), torch.Generator())


def test_torchs_own_initialisation_is_bounded_and_seeded():
    config = PolicyConfig(hidden=[32], initialization="default", std="state", log_std=0.0)
    spec = PolicySpec(4, 2, None, (), config)
    state = torch.get_rng_state()
    first, second = (ActorCritic(spec, CriticConfig(), torch.Generator().manual_seed(4)).actor for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.network[0].weight.abs().max() <= 0.5 and first.network[0].bias.abs().max() > 0
    assert first.network[2].weight.abs().max() <= 32**-0.5


def test_the_target_network_follows_and_tells_the_values():
    networks, rollout = build(target_share=0.25)
    assert networks.target is not None
    old = copy.deepcopy(networks.target)
    LR(LRConfig(critic_epochs=3, critic_minibatch=16), networks, torch.Generator()).update(rollout)
    pairs = zip(old.parameters(), networks.critic.parameters(), networks.target.parameters(), strict=True)
    for before, critic, now in pairs:
        torch.testing.assert_close(now, 0.25 * before + 0.75 * critic)
    flat = rollout.observation.flatten(-2)
    assert torch.equal(networks.value(rollout.observation), networks.target(flat))
    assert not torch.allclose(networks.critic(flat), networks.target(flat))
    torch.testing.assert_close(rollout.value, old(flat))


def test_values_in_units_of_their_spread_are_learnt_at_any_scale():
    errors = []
    for normalize in (True, False):
        networks, rollout = build(normalize_value=normalize)
        far = dataclasses.replace(rollout, return_=rollout.return_ * 1000.0 - 5000.0)
        agent = LR(LRConfig(critic_epochs=60, critic_minibatch=16, schedule="constant"), networks, torch.Generator())
        agent.update(far)
        miss = networks.value(rollout.observation) - far.return_
        errors.append((miss.var() / far.return_.var()).item())
        errors.append((miss.mean().abs() / far.return_.std()).item())
    assert errors[0] < 0.5 and errors[1] < 0.1
    assert errors[3] > 1.0  # without it the critic is still far from the mean
