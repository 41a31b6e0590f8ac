"""TRIG: natural steps against dense algebra, the trust region, the surrogate's veto, and what is left without it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from test_gippo import expected_reward, quadratic
from test_ppo import networks_and_rollout

from trafficgrad.agents.actor_critic import Actor, PolicyConfig, PolicySpec
from trafficgrad.agents.experiment import Experiment, TrainingConfig
from trafficgrad.agents.natural_step import FisherSolver, Shift, conjugate_gradients, dot
from trafficgrad.agents.ppo import PPO, PPOConfig
from trafficgrad.agents.train import train
from trafficgrad.agents.trig import TRIG, TRIGConfig
from trafficgrad.envs import Ackley, DeJong

ALONE = {"epochs": 0, "critic_epochs": 0, "gradient_clip_quantile": 1.0, "curvature_samples": None}


def agent_and_rollout(policy=None, **config):
    networks, rollout = networks_and_rollout(gradient=True, **(policy or {}))
    return TRIG(TRIGConfig(**config), networks, torch.Generator().manual_seed(5)), rollout


def test_one_rollout_in_so_many_asks_for_a_gradient_also_after_a_resume():
    agent, rollout = agent_and_rollout(gradient_every=3, **ALONE)
    without = dataclasses.replace(rollout, action_gradient=None)
    asked = []
    for _ in range(5):
        asked.append(agent.needs_gradient)
        metrics = agent.update(rollout if agent.needs_gradient else without)
        assert ("trust" in metrics) == asked[-1] and metrics["step"] > 0  # the others step too, by the likelihood ratio
    assert asked == [True, False, False, True, False]
    resumed, _ = agent_and_rollout(gradient_every=3, **ALONE)
    resumed.load_state_dict(agent.state_dict())
    assert not resumed.needs_gradient
    resumed.update(without)
    assert resumed.needs_gradient


def small_solver(std, damping=1e-3, iterations=200):
    config = PolicyConfig(hidden=[5], activation="elu", std=std, log_std=[-0.4, 0.3], output_gain=1.0)
    actor = Actor(PolicySpec(3, 2, None, (), config), torch.Generator().manual_seed(0)).double()
    observation = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.rand(20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    solver = FisherSolver(actor, observation, weight, torch.Generator().manual_seed(3), iterations, damping)
    return actor, observation, weight, solver


def dense(actor, observation, weight):
    """Jacobian [S, 2 A, P] of mean and log sigma by the weights, and the Fisher information [P, P], by torch.func."""
    parameters = {name: p.detach() for name, p in actor.named_parameters()}

    def told(values):
        class Told(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.actor = actor

            def forward(self, x):
                mean, log_std = self.actor.distribution(x)
                return torch.cat([mean, log_std.expand_as(mean)], -1)

        return torch.func.functional_call(Told(), {f"actor.{k}": v for k, v in values.items()}, (observation,))

    jacobian = torch.func.jacrev(told)(parameters)
    j = torch.cat([jacobian[name].flatten(2) for name in parameters], -1)
    mean, log_std = actor.distribution(observation)
    metric = torch.cat([torch.exp(-2 * log_std.expand_as(mean)), torch.full_like(mean, 2.0)], -1).detach()
    return j, torch.einsum("sop,so,s,soq->pq", j, metric, weight[:, 0], j)


def flat(parts):
    return torch.cat([p.flatten() for p in parts])


@pytest.mark.parametrize("std", ["global", "state"])
def test_products_and_natural_direction_are_those_of_dense_algebra(std):
    actor, observation, weight, solver = small_solver(std)
    j, fisher = dense(actor, observation, weight)
    generator = torch.Generator().manual_seed(4)
    vector = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in actor.parameters()]
    shift = solver.push(vector)
    torch.testing.assert_close(torch.cat(shift, -1), j @ flat(vector))
    slopes = Shift(*(torch.randn(20, 2, dtype=torch.float64, generator=generator) for _ in range(2)))
    torch.testing.assert_close(flat(solver.pull(slopes)), torch.einsum("so,sop->p", torch.cat(slopes, -1), j))
    torch.testing.assert_close(solver.kl(shift), 0.5 * flat(vector) @ fisher @ flat(vector))
    expected = torch.linalg.solve(fisher + 1e-3 * torch.eye(len(fisher), dtype=torch.float64), flat(vector))
    torch.testing.assert_close(flat(solver.solve(vector)), expected, rtol=1e-4, atol=1e-4)


def test_conjugate_gradients_solve_and_stop():
    root = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, target = root @ root.T, torch.arange(12.0, dtype=torch.float64)
    calls = []

    def product(vector):
        calls.append(1)
        return [matrix @ vector[0]]

    (x,) = conjugate_gradients(product, [target], [matrix.diagonal()], 60, 0.5)
    torch.testing.assert_close((matrix + 0.5 * torch.eye(12)) @ x, target, rtol=0, atol=1e-7)
    assert len(calls) < 60
    (zero,) = conjugate_gradients(product, [torch.zeros(12, dtype=torch.float64)], [matrix.diagonal()], 5, 0.5)
    assert not zero.any() and dot([target], [target]) == 506


@pytest.mark.parametrize("policy", [{}, {"std": "state"}, {"learn_std": False}])
def test_the_step_moves_the_policy_by_kl_and_improves(policy):
    agent, rollout = agent_and_rollout(policy, kl=0.003, **ALONE)
    rollout, wanted = quadratic(agent.networks, rollout)
    before = expected_reward_of(agent, rollout, wanted)
    metrics = agent.update(rollout)
    assert metrics["kl_aimed"] == pytest.approx(0.006)
    assert metrics["kl_reached"] == pytest.approx(0.006, rel=0.35)  # estimated by samples, to second order
    assert metrics["step"] == 1.0 and metrics["surrogate_improvement"] > metrics["surrogate_error"] > 0
    assert expected_reward_of(agent, rollout, wanted) > before + 1e-3


def test_the_warm_up_lets_the_trust_region_grow():
    agent, rollout = agent_and_rollout(kl=0.004, warmup=0.5, schedule="linear")
    rollout, _ = quadratic(agent.networks, rollout)
    aimed = [agent.update(rollout, progress)["kl_aimed"] for progress in (0.0, 0.25, 0.5, 0.75)]
    assert aimed == pytest.approx([0.008 * x for x in (0.002 / 0.5, 0.75 * 0.5, 0.5, 0.25)])


def expected_reward_of(agent, rollout, wanted):
    if not agent.networks.actor.tells_std:
        return expected_reward(agent.networks, rollout, wanted)
    mean, log_std = agent.networks.actor.distribution(rollout.observation)
    return -((mean - wanted).square() + (2 * log_std).exp()).sum(-1).mean()


def test_a_step_that_the_surrogate_refutes_is_halved_and_given_up():
    agent, rollout = agent_and_rollout(kl=0.02, halvings=2, likelihood_ratio=False, **ALONE)
    rollout, _ = quadratic(agent.networks, rollout)
    before = copy.deepcopy(agent.networks.state_dict())
    wrong = dataclasses.replace(rollout, action_gradient=-rollout.action_gradient)
    assert agent.update(wrong)["step"] == 0.0
    assert all(torch.equal(x, before[name]) for name, x in agent.networks.state_dict().items())


def test_a_step_is_halved_until_the_surrogate_agrees(monkeypatch):
    moved = {}
    for refusals in (0, 2):
        agent, rollout = agent_and_rollout(kl=0.004, halvings=3, **ALONE)
        judge, said = agent.ppo.judge, []

        def strict(*moved_to, judge=judge, said=said, refusals=refusals):
            numbers, reached = judge(*moved_to)
            said.append(numbers["kl_reached"])
            return numbers | ({"surrogate_improvement": -1e9} if len(said) <= refusals else {}), reached

        monkeypatch.setattr(agent.ppo, "judge", strict)
        assert agent.update(rollout)["step"] == 0.5**refusals
        moved[refusals] = said[-1]
    assert moved[2] == pytest.approx(moved[0] / 16, rel=0.2)


def test_mixed_with_the_likelihood_ratio_by_variance():
    numbers = {}
    for factor in (1e-5, 1.0, 1e5):
        agent, rollout = agent_and_rollout(likelihood_ratio=True, **ALONE)
        scaled = dataclasses.replace(rollout, action_gradient=rollout.action_gradient * factor)
        numbers[factor] = agent.slopes(scaled, agent._solver(rollout))[1]
    assert 0.5 < numbers[1e-5]["k_rp"] == pytest.approx(numbers[1e5]["k_rp"])  # whatever its unit
    agent, rollout = agent_and_rollout(likelihood_ratio=True, **ALONE)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        noise = 1e3 * torch.randn(rollout.eps.shape, dtype=torch.float64, generator=generator)
        noisy = dataclasses.replace(rollout, action_gradient=rollout.action_gradient + noise)
        metrics = agent.slopes(noisy, agent._solver(rollout))[1]
    assert metrics["k_rp"] < 0.7 * numbers[1.0]["k_rp"]
    alone, _ = agent_and_rollout(likelihood_ratio=True, use_gradient=False, **ALONE)
    assert not alone.needs_gradient
    slopes, metrics = alone.slopes(dataclasses.replace(rollout, action_gradient=None), alone._solver(rollout))
    assert metrics == {} and flat(slopes).abs().max() > 0


def test_a_gradient_that_the_samples_do_not_confirm_loses_its_weight():
    agent, rollout = agent_and_rollout(trust_memory=0.5, **ALONE)
    rollout, wanted = quadratic(agent.networks, rollout)
    wrong = dataclasses.replace(rollout, action_gradient=-rollout.action_gradient)
    solver = agent._solver(rollout)
    metrics = agent.slopes(rollout, solver)[1]
    assert metrics["trust"] == 1.0 and 0.3 < metrics["scale"] < 1.2
    for _ in range(5):
        metrics = agent.slopes(wrong, solver)[1]
    assert metrics["trust"] == 0.0 == metrics["k_rp"]
    before = expected_reward(agent.networks, rollout, wanted)
    agent.update(wrong)  # what is left is the likelihood ratio, and that is right
    assert expected_reward(agent.networks, rollout, wanted) > before
    other, _ = agent_and_rollout(**ALONE)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert other.found == agent.found < 0 and other.updates == agent.updates


def test_without_gradient_it_is_ppo_bit_for_bit():
    networks, rollout = networks_and_rollout()
    others = copy.deepcopy(networks)
    ppo = PPO(PPOConfig(minibatch=32), networks, torch.Generator().manual_seed(5))
    config = TRIGConfig(
        minibatch=32, use_gradient=False, likelihood_ratio=False, epochs=5, schedule="constant", critic_epochs=None
    )
    other = TRIG(config, others, torch.Generator().manual_seed(5))
    assert ppo.update(rollout) == other.update(rollout)
    assert all(torch.equal(a, b) for a, b in zip(networks.parameters(), others.parameters(), strict=True))


def test_the_standard_deviation_may_stay():
    for moves in (True, False):
        agent, rollout = agent_and_rollout(moves_std=moves, kl=0.01, **ALONE)
        before = agent.networks.actor.log_std.detach().clone()
        agent.update(rollout)
        assert torch.equal(before, agent.networks.actor.log_std) == (not moves)


def test_vehicles_that_are_not_there_count_nowhere():
    results = []
    for value in (0.0, 50.0):
        agent, rollout = agent_and_rollout(likelihood_ratio=True, kl=0.01, **ALONE)
        present = torch.ones(rollout.eps.shape[:-1], dtype=torch.bool)
        present[::2, :, 1] = False
        gradient = torch.where(present.unsqueeze(-1), rollout.action_gradient, 0.0)
        eps = torch.where(present.unsqueeze(-1), rollout.eps, value)
        log_prob = rollout.log_prob.masked_fill(~present, 0.0)
        agent.update(
            dataclasses.replace(rollout, present=present, action_gradient=gradient, eps=eps, log_prob=log_prob)
        )
        results.append(flat([p.detach() for p in agent.networks.actor.parameters()]))
    assert torch.equal(*results)


FUNCTION = {
    "worlds": 64, "window": 1, "dtype": "float64", "threads": 1, "simulator_threads": 1,
    "policy": {"hidden": [32, 32], "activation": "elu", "layer_norm": True, "squash": "tanh", "std": "state",
               "initialization": "default", "log_std": 0.0, "log_std_bounds": [-40.0, 2.0]},
}  # fmt: skip
NATURAL = {"kind": "trig", "likelihood_ratio": True, "kl": 0.02, "minibatch": 64}


@pytest.mark.parametrize(("env", "reached"), [(DeJong(64), -1e-5), (Ackley(1), -1e-2)])
def test_it_goes_far_beyond_the_others_on_functions(tmp_path, env, reached):
    """In 120 updates of 64 samples; PPO and the pathwise gradient alone are at -1 or worse by then."""
    exact = type(env)(len(env.optimum), dtype=torch.float64)
    returns = {}
    for agent in (NATURAL | ALONE, {"kind": "rp", "gradient_clip_quantile": 1.0, "critic_epochs": 0}):
        config = TrainingConfig.model_validate({**FUNCTION, "decisions": 64 * 120, "seed": 1, "agent": agent})
        result = train(Experiment(exact, config), tmp_path / str(agent["kind"]), progress=False)
        returns[agent["kind"]] = result.metrics["episode_return"]
    assert returns["trig"] > reached and returns["rp"] < 100 * reached
