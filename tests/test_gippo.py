"""GI-PPO: the alpha step goes the right way, its tests, its regression, the mixture, and the ablation that is PPO."""

import copy
import dataclasses
import math

import pytest
import torch
from test_ppo import networks_and_rollout

from trafficgrad.agents.alpha_policy import AlphaRegression, BiasTest, clean_gradient, variance_test
from trafficgrad.agents.experiment import TrainingConfig
from trafficgrad.agents.gippo import GIPPO, GIPPOConfig, gippo
from trafficgrad.agents.losses import mixture_log_prob
from trafficgrad.agents.ppo import PPO, PPOConfig, adam


def agent_and_rollout(policy=None, **config):
    networks, rollout = networks_and_rollout(gradient=True, **(policy or {}))
    return GIPPO(GIPPOConfig(**config), networks, torch.Generator().manual_seed(5)), rollout


def quadratic(networks, rollout):
    """A rollout of a one-step task: A(o, a) = -sum |a - o_xy|^2 over vehicles, dA/da exact."""
    wanted = rollout.observation[..., :2]
    gap = rollout.action - wanted
    return dataclasses.replace(rollout, advantage=-gap.square().sum((-2, -1)), action_gradient=-2 * gap), wanted


def expected_reward(networks, rollout, wanted):
    mean, variance = networks.actor(rollout.observation), (2 * networks.actor.log_std).exp()
    return -((mean - wanted).square() + variance).sum(-1).mean()


@pytest.mark.parametrize(("alpha", "better"), [(0.05, True), (-0.05, False)])
def test_alpha_step_improves_a_quadratic_and_its_opposite_worsens_it(alpha, better):
    agent, rollout = agent_and_rollout()
    rollout, wanted = quadratic(agent.networks, rollout)
    before = expected_reward(agent.networks, rollout, wanted)
    agent.alpha = alpha
    metrics, log_prob = agent.alpha_step(rollout)
    after = expected_reward(agent.networks, rollout, wanted)
    assert (after > before) == better and abs(after - before) > 1e-3
    assert (metrics["surrogate_improvement"] > 0) == better
    assert metrics["regression_after"] < metrics["regression_before"]
    ratio = (log_prob - rollout.log_prob).exp()
    advantage = ((rollout.advantage - rollout.advantage.mean()) / rollout.advantage.std())[..., None]
    assert metrics["surrogate_improvement"] == pytest.approx((advantage * ratio).mean().item(), rel=1e-6)
    outside = ((ratio < 0.8) | (ratio > 1.2)).double().mean().item()
    assert metrics["oorr"] == pytest.approx(outside)


@pytest.mark.parametrize(("alpha", "better"), [(0.05, True), (-0.05, False)])
def test_alpha_step_improves_the_surrogate_of_the_dynamic_task(alpha, better):
    agent, rollout = agent_and_rollout()
    agent.alpha = alpha
    assert (agent.alpha_step(rollout)[0]["surrogate_improvement"] > 0) == better


def test_an_offset_of_the_advantages_changes_no_test():
    """The original compared sums of uncentred advantages (F5)."""
    results = []
    for offset in (0.0, 1000.0):
        agent, rollout = agent_and_rollout()
        results.append(agent.alpha_step(dataclasses.replace(rollout, advantage=rollout.advantage + offset))[0])
    assert results[0]["surrogate_improvement"] == pytest.approx(results[1]["surrogate_improvement"], abs=1e-9)


def test_without_gradient_it_is_ppo_bit_for_bit():
    networks, rollout = networks_and_rollout()
    others = copy.deepcopy(networks)
    ppo = PPO(PPOConfig(minibatch=32), networks, torch.Generator().manual_seed(5))
    other = gippo(GIPPOConfig(minibatch=32, use_gradient=False), others, torch.Generator().manual_seed(5))
    assert not other.needs_gradient
    assert ppo.update(rollout) == other.update(rollout)
    assert all(torch.equal(a, b) for a, b in zip(networks.parameters(), others.parameters(), strict=True))


def test_zero_gradient_leaves_the_policy_where_it_is():
    agent, rollout = agent_and_rollout()
    before = copy.deepcopy(agent.networks.state_dict())
    rollout = dataclasses.replace(rollout, action_gradient=torch.zeros_like(rollout.action_gradient))
    metrics, log_prob = agent.alpha_step(rollout)
    # The first loss is rounding error: a step that does not lower it is taken back.
    torch.testing.assert_close(log_prob, rollout.log_prob, rtol=0, atol=1e-9)
    assert metrics["mean_shift"] < 1e-9 and metrics["oorr"] == 0
    for name, value in agent.networks.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-9)


def test_the_standard_deviation_may_stay_out_of_the_regression():
    """It then keeps its value to the last bit, also after PPO has left gradients behind; otherwise it is fitted."""
    for moves in (True, False):
        agent, rollout = agent_and_rollout(alpha_moves_std=moves)
        agent.update(rollout)
        before, weight = (
            x.detach().clone() for x in (agent.networks.actor.log_std, next(agent.networks.actor.network.parameters()))
        )
        agent.alpha_step(rollout)
        assert torch.equal(before, agent.networks.actor.log_std) == (not moves)
        assert not torch.equal(weight, next(agent.networks.actor.network.parameters()))


def test_a_standard_deviation_that_is_not_learnt_stays():
    agent, rollout = agent_and_rollout(policy={"learn_std": False})
    before = agent.networks.actor.log_std.clone()
    metrics = agent.update(rollout)
    assert torch.equal(before, agent.networks.actor.log_std)
    assert metrics["sigma_ratio"] == 1.0 and metrics["mean_shift"] > 0


def test_the_gradient_rests_where_alpha_has_fallen_to_its_least():
    agent, rollout = agent_and_rollout(alpha=0.1, alpha_min=0.1, rest=3)
    alone = dataclasses.replace(rollout, action_gradient=None)
    asked = []
    for _ in range(6):
        asked.append(agent.needs_gradient)
        metrics = agent.update(rollout if asked[-1] else alone)
        assert ("mean_shift" in metrics) == asked[-1]
        agent.alpha = 0.1
    assert asked == [True, False, False] * 2
    agent.alpha = 0.2
    agent.updates += 1
    assert agent.needs_gradient
    other, _ = agent_and_rollout(alpha=0.1, alpha_min=0.1, rest=3)
    other.load_state_dict(agent.state_dict())
    assert other.updates == agent.updates and other.alpha == 0.2
    always, _ = agent_and_rollout(alpha=0.1, alpha_min=0.1)
    always.updates = 1
    assert always.needs_gradient


def test_mixture_density_is_exact_even_far_apart():
    first = torch.tensor([-1.0, -2.0, -700.0, -1.0, -2000.0], dtype=torch.float64)
    second = torch.tensor([-1.0, -9.0, -1.0, -700.0, -2001.0], dtype=torch.float64)
    actual = mixture_log_prob(first, second)
    direct = torch.log((first[:4].exp() + second[:4].exp()) / 2)
    torch.testing.assert_close(actual[:4], direct, rtol=1e-14, atol=1e-14)
    assert actual[4].item() == pytest.approx(-2000 + math.log((1 + math.exp(-1)) / 2))


def test_update_uses_the_mixture_of_old_and_alpha_policy(monkeypatch):
    agent, rollout = agent_and_rollout(alpha=0.5)
    seen = {}
    run = agent.ppo.run

    def spy(rollout_, density, progress):
        alpha_density = agent.networks.actor.log_prob(rollout.observation, rollout.action).detach()
        seen["expected"] = torch.log((rollout.log_prob.exp() + alpha_density.exp()) / 2)
        seen["density"] = density
        return run(rollout_, density, progress)

    monkeypatch.setattr(agent.ppo, "run", spy)
    metrics = agent.update(rollout)
    torch.testing.assert_close(seen["density"], seen["expected"], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(seen["density"], rollout.log_prob)
    assert {"alpha", "oorr", "surrogate_improvement", "sigma_ratio", "gradient_norm", "gradient_norm_max", "kl"} <= (
        metrics.keys()
    )


def test_alpha_follows_its_tests_within_its_bounds():
    agent, rollout = agent_and_rollout(alpha=0.1)
    assert agent.alpha_step(rollout)[0]["alpha"] == 0.1
    assert agent.alpha == pytest.approx(0.11)  # all tests passed
    for config in ({"max_oorr": 1e-9}, {"max_sigma_change": 1e-9}):
        agent, rollout = agent_and_rollout(alpha=0.1, **config)
        agent.alpha_step(rollout)
        assert agent.alpha == pytest.approx(0.1 / 1.1)
    agent, rollout = agent_and_rollout(alpha=0.1, alpha_max=0.1)
    agent.alpha_step(rollout)
    assert agent.alpha == 0.1
    agent, rollout = agent_and_rollout(alpha=0.1, alpha_min=0.1, max_oorr=1e-9)
    agent.alpha_step(rollout)
    assert agent.alpha == 0.1


def test_alpha_grows_only_where_the_improvement_exceeds_its_error():
    agent, rollout = agent_and_rollout(alpha=0.1)
    metrics = agent.alpha_step(rollout)[0]
    assert metrics["surrogate_improvement"] > metrics["surrogate_error"] > 0
    assert agent.alpha == pytest.approx(0.11)
    agent, rollout = agent_and_rollout(alpha=0.1)
    worse = dataclasses.replace(rollout, advantage=-rollout.advantage)
    assert agent.alpha_step(worse)[0]["surrogate_improvement"] < 0
    assert agent.alpha == pytest.approx(0.1 / 1.1)


def test_bias_test():
    test = BiasTest()
    for improvement in (0.10, 0.12, 0.11, 0.09, 0.10):
        assert test.passes(improvement)[0]
    passed, z = test.passes(-0.05)
    assert not passed and z < -1
    assert BiasTest().passes(-1.0) == (True, 0.0)  # nothing to compare with yet
    noisy = BiasTest()
    for i in range(40):
        noisy.passes(0.3 if i % 2 else -0.3)
    assert noisy.passes(-0.2)[0]  # negative, but not unusual


def test_variance_test_is_per_dimension():
    old = torch.zeros(64)
    steady, worst = variance_test(old + math.log(1.3), old, 0.4)  # the determinant changed by 1.3^64
    assert steady and worst.item() == pytest.approx(1.3)
    changed = old.clone()
    changed[5] = math.log(0.5)
    steady, worst = variance_test(changed, old, 0.4)
    assert not steady and worst.item() == pytest.approx(0.5)


def test_gradients_are_clipped_per_sample_and_cleaned():
    agent, rollout = agent_and_rollout()
    gradient = torch.ones(10, 10, 1, 2, dtype=torch.float64)
    gradient[0, 0] = 1e6
    gradient[1, 1, 0, 0] = float("nan")
    rollout = dataclasses.replace(rollout, action_gradient=gradient)
    clean = clean_gradient(rollout, 0.95, agent.networks.actor)
    variance = torch.where(gradient.isfinite().all(-1, keepdim=True), gradient, 0.0).flatten(0, -2).var(0, correction=0)
    assert clean.variance.item() == pytest.approx(variance.sum().item())
    norm = clean.gradient.norm(dim=-1)
    assert norm[0, 0].item() == pytest.approx(math.sqrt(2)) and norm[1, 1] == 0
    assert clean.dropped.item() == pytest.approx(0.01) and clean.median.item() == pytest.approx(math.sqrt(2))
    assert clean.largest.item() == pytest.approx(1e6 * math.sqrt(2))
    assert torch.equal(clean.gradient[5], gradient[5])


def test_scale_never_makes_a_burst_longer_and_fades_with_the_gradients():
    agent, rollout = agent_and_rollout()

    def rms(factor):
        scaled = dataclasses.replace(rollout, action_gradient=rollout.action_gradient * factor)
        return agent.direction(scaled)[0].square().mean().sqrt().item()

    assert rms(1.0) == pytest.approx(1.0)
    assert rms(100.0) == pytest.approx(1.0)
    assert rms(0.01) < 0.01
    raw, _ = agent_and_rollout(gradient_scale="raw", gradient_clip_quantile=1.0)
    torch.testing.assert_close(raw.direction(rollout)[0], rollout.action_gradient)


def test_a_failed_regression_restores_parameters_and_moments():
    networks, rollout = networks_and_rollout(gradient=True)
    actor = networks.actor
    optimizer = adam(actor.parameters(), 1e-3, betas=(0.7, 0.95))
    regression = AlphaRegression(actor, optimizer, 1e-3, 4)
    target = rollout.action + 0.1
    parts = (rollout.observation, (rollout.mean, rollout.log_std), rollout.eps, target)
    fit = regression.fit(*parts)
    assert fit.converged and fit.attempts == 1 and regression.learning_rate == 1e-3
    weights, moments = copy.deepcopy(actor.state_dict()), copy.deepcopy(optimizer.state_dict())
    regression.learning_rate = 1e6
    begin = actor(rollout.observation).detach(), actor.log_std.detach()
    fit = regression.fit(rollout.observation, begin, *parts[2:])
    assert not fit.converged and fit.attempts == AlphaRegression.ATTEMPTS
    assert regression.learning_rate == pytest.approx(1e6 / 1.5)
    assert all(torch.equal(weights[name], value) for name, value in actor.state_dict().items())
    for number, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments["state"][number][name], value) for name, value in state.items())


def test_a_rate_that_is_too_bold_is_shrunk_until_it_fits():
    networks, rollout = networks_and_rollout(gradient=True)
    optimizer = adam(networks.actor.parameters(), 1.0, betas=(0.7, 0.95))
    regression = AlphaRegression(networks.actor, optimizer, 0.3, 3)
    begin = rollout.mean, rollout.log_std
    fit = regression.fit(rollout.observation, begin, rollout.eps, rollout.action + 0.05)
    assert fit.converged and fit.attempts > 1 and fit.after < fit.before
    assert regression.learning_rate == 0.3  # the next call starts from the configured rate again


@pytest.mark.parametrize("minibatch", [None, 16])
def test_regression_on_all_samples_or_on_minibatches(minibatch):
    agent, rollout = agent_and_rollout(alpha_minibatch=minibatch)
    metrics = agent.alpha_step(rollout)[0]
    assert metrics["surrogate_improvement"] > 0
    assert metrics["regression_after"] < metrics["regression_before"]


def test_state_is_restored():
    agent, rollout = agent_and_rollout()
    agent.update(rollout)
    other, _ = agent_and_rollout(alpha=0.7)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert other.alpha == agent.alpha != 0.7
    assert other.bias.state_dict() == agent.bias.state_dict() and other.mean_square == agent.mean_square > 0


@pytest.mark.parametrize("restore", [True, False])
def test_moments_of_a_failed_regression_may_stay_as_published(restore):
    networks, rollout = networks_and_rollout(gradient=True)
    optimizer = adam(networks.actor.parameters(), 1e-3, betas=(0.7, 0.95))
    regression = AlphaRegression(networks.actor, optimizer, 1e6, 4, restore_moments=restore)
    begin = rollout.mean, rollout.log_std
    assert not regression.fit(rollout.observation, begin, rollout.eps, rollout.action + 0.1).converged
    assert (len(optimizer.state_dict()["state"]) == 0) == restore
    assert torch.equal(networks.actor(rollout.observation), rollout.mean)


def test_the_gradient_may_follow_the_simulator_to_the_windows_end():
    """It then belongs to an undamped advantage; advantages and critic keep the training's decay."""
    config = TrainingConfig.model_validate({"agent": {"kind": "gippo", "gradient_lambda": 1.0}, "gae_lambda": 0.9})
    assert config.rollout.gradient_lambda == 1.0 and config.rollout.gae_lambda == 0.9
    assert TrainingConfig.model_validate({"agent": {"kind": "gippo"}}).rollout.gradient_lambda is None


def test_the_noises_memory_may_fade_over_the_budget():
    section = {"noise_memory": 8.0}
    assert TrainingConfig.model_validate(section).rollout_at(0.75).noise_memory == 8.0
    fading = TrainingConfig.model_validate({**section, "noise_memory_schedule": "linear"})
    assert [fading.rollout_at(x).noise_memory for x in (0.0, 0.5, 0.75)] == [8.0, 4.0, 2.0]
