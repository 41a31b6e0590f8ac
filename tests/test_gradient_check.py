"""The gradient check's parts: references that are known, windows, parameters, measures."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from small_gradient_check import TINY, lanes, mirrored, objective, ring

from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.gradient_check import (
    CheckSettings,
    Driver,
    Outcome,
    agreement,
    central_differences,
    check_gradients,
    collect_windows,
    evolution_strategies,
    parameters_of,
    pathwise_gradients,
    untrained_driver,
)
from trafficgrad.gradient_check.measures import clipped
from trafficgrad.gradient_check.references import STEPS
from trafficgrad.gradients import scale_gradient
from trafficgrad.scenario_config import load_scenario

# ---------------------------------------------------------------------- references


class Analytic:
    """J_1 = 2 a.theta and J_2 = a.theta + theta_0^2 + [theta_0 > edge], whose smoothed gradient is known."""

    slope = torch.tensor([1.0, -3.0, 0.5], dtype=torch.float64)

    def __init__(self, edge: float) -> None:
        self.edge = edge

    def __call__(self, theta: torch.Tensor, rows: torch.Tensor) -> Outcome:
        linear = theta @ self.slope * (rows + 1)
        over = theta[:, 0] > self.edge
        jump = linear + theta[:, 0] ** 2 + over
        return Outcome(torch.stack([2 * linear, jump], -1), theta[:, 1] > 0.25, over, over.long())


def test_evolution_strategies_find_the_gradient_of_a_smoothed_step():
    sd, edge, free = 0.1, 0.05, torch.ones(2, 3, dtype=torch.bool)
    found = evolution_strategies(Analytic(edge), free, 4000, sd, torch.Generator().manual_seed(0), worlds=1000)
    density = math.exp(-0.5 * (edge / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    truth = torch.stack([Analytic.slope, 2 * Analytic.slope])
    # Linear: without the control the standard error of the second row would be 0.2 = 12.8 / sqrt(4000).
    assert torch.allclose(found.estimate[:, 0], 2 * truth, atol=0.05)
    truth[:, 0] += density
    assert bool(((found.estimate[:, 1] - truth).abs() <= 4 * found.standard_error).all())
    # With the control c a pair contributes 5 |eps| [|eps| > 1/2] - c eps^2, c = 10 phi(1/2):
    # its variance is 25 (1 - 0.0308) - 10 c 4.5 phi(1/2) + 3 c^2 = 5.66.
    assert float(found.standard_error[0, 0]) == pytest.approx(math.sqrt(5.66 / 4000), rel=0.05)
    assert torch.allclose(found.changed, torch.full((2,), 0.3085, dtype=torch.float64), atol=0.02)
    assert torch.equal(found.changed, found.differs)
    assert torch.allclose(found.failed, torch.full((2,), 0.0062, dtype=torch.float64), atol=0.003)


def test_evolution_strategies_leave_alone_what_is_not_free():
    free = torch.tensor([[True, False, True]])
    found = evolution_strategies(Analytic(9.0), free, 40, 0.1, torch.Generator().manual_seed(0))
    assert float(found.estimate[0, :, 1].abs().max()) == 0.0
    assert float((found.estimate[0, 1, 2] - 0.5).abs()) <= 4 * float(found.standard_error[0, 2])


def test_central_differences_are_void_where_a_switch_lies_between():
    free = torch.ones(2, 3, dtype=torch.bool)
    for edge, valid in ((0.5 * STEPS[1], [False, True, True]), (2 * STEPS[0], [True, True, True])):
        found = central_differences(Analytic(edge), free, torch.Generator().manual_seed(0))
        assert found.valid.tolist() == [valid, valid]
        assert torch.allclose(found.derivative[:, 1:], torch.tensor([[-3.0, 0.5], [-6.0, 1.0]]).double(), atol=1e-8)
    some = central_differences(Analytic(1.0), free, torch.Generator().manual_seed(0), most=2)
    assert int(some.tried.sum()) == 2


# ---------------------------------------------------------------------- traffic without switches


@pytest.mark.parametrize("wrt", ["actions", "drivers", "initial"])
def test_all_three_agree_on_one_lane(wrt):
    settings = dataclasses.replace(TINY, wrt=wrt, sd=0.02)
    goal = objective(ring(), settings)
    free = goal.parameters.free(goal.windows.start)
    exact = central_differences(goal, free, torch.Generator().manual_seed(0), most=60)
    at_zero = pathwise_gradients(goal, torch.zeros(6, 1, goal.parameters.dimension, dtype=torch.float64))
    gradient = at_zero.gradients[:, 0, -1] * free
    assert int(exact.tried.sum()) >= 12 and int(exact.valid.sum()) >= 0.8 * int(exact.tried.sum())
    error = (gradient - exact.derivative).abs()[exact.valid]
    assert float(error.max()) < 1e-5 * float(exact.derivative.abs().max())

    smoothed = evolution_strategies(goal, free, 48, 0.02, torch.Generator().manual_seed(1))
    assert float(smoothed.differs.max()) == 0.0
    copies = pathwise_gradients(goal, mirrored(6, 16, goal.parameters.dimension, 0.02) * free[:, None], worlds=40)
    samples = copies.gradients[:, :, -1] * free[:, None]
    spread = (smoothed.standard_error**2 + samples.var(1) / 16).sqrt()
    distance = (samples.mean(1) - smoothed.estimate[:, -1]).abs()
    assert bool((distance <= 4 * spread + 1e-12).all())
    cosine = torch.cosine_similarity(samples.mean(1).flatten(), smoothed.estimate[:, -1].flatten(), 0)
    assert float(cosine) > (0.7 if wrt == "initial" else 0.97)  # 48 pairs for 44 numbers leave noise


def test_a_halved_gradient_is_found():
    env = ring()
    noise = torch.tensor(0.3)
    honest = Driver(
        "plan", lambda s: s.traffic.speed.new_zeros(s.traffic.worlds, 1, 1), lambda s: noise, squash=lambda x: x
    )
    halved = dataclasses.replace(honest, squash=lambda x: scale_gradient(x, 0.5))
    goal = objective(env, TINY, halved)
    free = goal.parameters.free(goal.windows.start)
    smoothed = evolution_strategies(goal, free, 48, 0.1, torch.Generator().manual_seed(1))
    samples = pathwise_gradients(goal, mirrored(6, 16, 2, 0.1)).gradients[:, :, -1]
    halves = torch.stack([samples[:, :8].mean(1), samples[:, 8:].mean(1)])
    everything = torch.ones(6, dtype=torch.bool)
    found = agreement(halves, smoothed.halves[:, :, -1], everything, torch.ones(2, dtype=torch.bool))
    assert found.true_cosine > 0.99
    assert found.norm_ratio == pytest.approx(0.5, abs=0.03)
    assert found.relative_bias == pytest.approx(0.5, abs=0.03)
    assert found.seen == pytest.approx(0.5, abs=0.03)


# ---------------------------------------------------------------------- windows and their return


def test_a_window_counts_until_its_failure_and_not_beyond():
    env = TrafficEnv(load_scenario("pace_car_2lane"), dtype=torch.float64)
    goal = objective(env, CheckSettings(windows=8, steps=90))
    outcome = goal(torch.zeros(8, goal.parameters.dimension, dtype=torch.float64), torch.arange(8))
    assert bool(outcome.failed.any()) and not bool(outcome.failed.all())
    windows = goal.windows
    for w in range(8):
        state, total = env.start(windows.start.index([w])), 0.0
        for t in range(90):
            action = windows.driver.act(state, windows.eps[t, [w]])
            state, transition = env.step(state, action, windows.noise[t][:, [w]])
            total += float(transition.reward)
            if bool(transition.terminated):
                assert float(transition.reward) == -1.0
                break
        assert bool(transition.terminated) == bool(outcome.failed[w])
        assert float(outcome.returns[w, -1]) == pytest.approx(total, abs=1e-12)


def test_windows_begin_at_states_of_their_driver_and_repeat_by_seed():
    env = ring()
    first, second, other = (
        collect_windows(env, untrained_driver(env, 0.3), 5, 4, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.start.position, second.start.position) and torch.equal(first.eps, second.eps)
    assert not torch.equal(first.start.position, other.start.position)
    assert first.eps.shape == (4, 5, 1, 1) and first.noise.shape == (4, 10, 5, 22)
    assert float(first.start.time.max()) > 0.5  # some have driven
    assert float(first.start.time.max()) <= 0.1 * (80 - 4 * 10) + 1e-6  # a whole window still fits


def test_gradients_of_shorter_horizons_are_those_of_shorter_windows():
    goal = objective(ring(), TINY)
    assert goal.horizons == [1, 2, 4]
    found = pathwise_gradients(goal, torch.zeros(6, 1, 2, dtype=torch.float64)).gradients[:, 0]
    assert float(found[:, :2, 1].abs().max()) == 0.0  # the second block acts later
    assert float(found[:, 2, 1].abs().min()) > 0.0
    shorter = pathwise_gradients(dataclasses.replace(goal, horizons=[2]), torch.zeros(6, 1, 2, dtype=torch.float64))
    assert torch.allclose(found[:, 1], shorter.gradients[:, 0, 0], rtol=1e-12, atol=0)
    halved = dataclasses.replace(goal, discount=0.5)
    rows, zero = torch.arange(6), torch.zeros(6, 2, dtype=torch.float64)
    full = goal(zero, rows).returns.diff(dim=1, prepend=torch.zeros(6, 1, dtype=torch.float64))
    weighted = halved(zero, rows).returns
    assert torch.allclose(weighted[:, 1], full[:, 0] + 0.5 * full[:, 1], rtol=1e-12)


def test_float32_worlds_work():
    result = check_gradients(ring(torch.float32), dataclasses.replace(TINY, pairs=16))
    assert result.modes["blocked"].agreement["all"]["everything"].true_cosine > 0.95


# ---------------------------------------------------------------------- parameters


@pytest.mark.parametrize("wrt", ["actions", "drivers", "initial"])
@pytest.mark.parametrize("per_vehicle", [False, True])
def test_gather_is_the_adjoint_of_spread(wrt, per_vehicle):
    env = lanes()
    settings = dataclasses.replace(TINY, wrt=wrt, steps=5, per_vehicle=per_vehicle).for_env(env)
    parameters = parameters_of(env, settings)
    theta = torch.randn(3, parameters.dimension, dtype=torch.float64)
    fine = parameters.spread(theta)
    expected = {"actions": (5, 1, 2), "drivers": (1, 8, 5), "initial": (1, 8, 2)}[wrt]
    assert fine.shape == (3, *expected)
    other = torch.randn_like(fine)
    assert float((fine * other).sum()) == pytest.approx(float((theta * parameters.gather(other)).sum()), rel=1e-12)
    sizes = {"actions": 6, "drivers": 40 if per_vehicle else 5, "initial": 16}  # 5 decisions: blocks of 2, 2 and 1
    assert parameters.dimension == sizes[wrt]


def test_driver_parameters_change_by_their_ratio():
    env = lanes()
    goal = objective(env, dataclasses.replace(TINY, wrt="drivers"))
    rows, theta = torch.arange(6), torch.zeros(6, 5, dtype=torch.float64)
    as_it_was = goal(theta, rows).returns
    model = env.simulator.car_following
    speed = model.desired_speed * torch.where(torch.arange(len(model.desired_speed)) > 0, 1.1, 1.0)  # row 0: controlled
    changed = dataclasses.replace(env.simulator, car_following=dataclasses.replace(model, desired_speed=speed))
    env.simulator, before = changed, env.simulator
    expected = goal(theta, rows).returns
    env.simulator = before
    theta[:, 0] = math.log(1.1)
    assert torch.allclose(goal(theta, rows).returns, expected, rtol=1e-12)
    assert float((expected - as_it_was).abs().min()) > 1e-6


def test_a_standing_vehicle_keeps_its_speed():
    goal = objective(ring(), dataclasses.replace(TINY, wrt="initial"))
    start = goal.windows.start
    start = dataclasses.replace(start, speed=start.speed.clone())
    start.speed[:, 3] = 0.0
    free = goal.parameters.free(start).view(6, 22, 2)
    assert not bool(free[:, 3, 1].any()) and bool(free[:, :, 0].all())


# ---------------------------------------------------------------------- measures


def test_agreement_by_hand():
    reference = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    gradient = torch.tensor([[4.0, 3.0], [0.0, 2.0]], dtype=torch.float64)
    both, every = torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    found = agreement(gradient.expand(2, 2, 2), reference.expand(2, 2, 2), both, every)
    assert found.cosine == pytest.approx(26 / math.sqrt(29 * 26))
    assert found.true_cosine == pytest.approx(found.cosine)
    assert found.norm_ratio == pytest.approx(math.sqrt(29 / 26))
    assert found.relative_bias == pytest.approx(math.sqrt(3 / 26))
    assert found.seen == pytest.approx(1.0)
    assert found.reference_norm == pytest.approx(math.sqrt(13))
    one = agreement(gradient.expand(2, 2, 2), reference.expand(2, 2, 2), torch.tensor([True, False]), every)
    assert one.windows == 1 and one.cosine == pytest.approx(24 / 25) and math.isnan(one.cosine_error)
    first = agreement(gradient.expand(2, 2, 2), reference.expand(2, 2, 2), both, torch.tensor([True, False]))
    assert first.norm_ratio == pytest.approx(4 / 3)
    none = agreement(gradient.expand(2, 2, 2), reference.expand(2, 2, 2), ~both, every)
    assert none.windows == 0 and math.isnan(none.cosine)


def test_noise_is_taken_out():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, 8, generator=generator, dtype=torch.float64)
    gradient = 0.5 * truth + torch.randn(2, 4000, 8, generator=generator, dtype=torch.float64)
    reference = truth + torch.randn(2, 4000, 8, generator=generator, dtype=torch.float64)
    found = agreement(gradient, reference, torch.ones(4000, dtype=torch.bool), torch.ones(8, dtype=torch.bool))
    assert found.cosine == pytest.approx(0.5 / math.sqrt(0.75 * 1.5), abs=0.03)  # half a variance of noise in each mean
    assert found.true_cosine == pytest.approx(1.0, abs=0.03)
    assert found.norm_ratio == pytest.approx(0.5, abs=0.02)
    assert found.relative_bias == pytest.approx(0.5, abs=0.03)
    assert found.reference_reliability == pytest.approx(0.5, abs=0.01)
    assert 0.002 < found.cosine_error < 0.008


def test_clipping_keeps_directions():
    gradients = torch.ones(10, 10, 1, dtype=torch.float64) * torch.arange(1, 101).view(10, 10, 1)
    cut = clipped(-gradients)
    limit = 95.05  # the 95 % quantile of 1 ... 100
    assert torch.allclose(cut, -gradients.clamp(max=limit))
