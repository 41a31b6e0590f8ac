"""The exact lane gate: its truth against an independent simulation, its estimators and the bias of the default."""

from __future__ import annotations

import math

import pytest
import torch

from trafficgrad.gradient_check.lane_gate import (
    SETTINGS,
    LaneGate,
    Quadrature,
    Setting,
    likelihood_ratio,
    pathwise,
)
from trafficgrad.gradients import LaneGradient


@pytest.fixture(scope="module")
def exact() -> Quadrature:
    return Quadrature(LaneGate())


def reached(u: float, gap: float = 45.0, truck: float = 14.0) -> float:
    """How far the car comes, by a scalar IDM of its own: ballistic steps, the lane is changed after the first."""
    a, b, headway, min_gap, dt = 1.0, 1.5, 1.0, 2.0, 0.1
    x, v, ahead = 0.0, 20.0 + 0.5 * u, gap
    for step in range(100):
        free = 1.0 - (v / (120 / 3.6)) ** 4
        interaction = 0.0
        if u <= 0 or step == 0:
            wished = min_gap + max(0.0, v * headway + v * (v - truck) / (2 * math.sqrt(a * b)))
            interaction = (wished / max(ahead - x, 1e-3)) ** 2
        after = max(0.0, v + a * (free - interaction) * dt)
        x, v, ahead = x + (v + after) / 2 * dt, after, ahead + truck * dt
    return x


def test_distances_are_those_of_an_independent_simulation():
    u = torch.tensor([-3.0, -0.7, -1e-9, 0.0, 1e-9, 0.4, 2.5], dtype=torch.float64)
    for gap, truck in ((45.0, 14.0), (70.0, 10.0)):
        found = LaneGate(gap, truck).distance(u)
        assert found.tolist() == pytest.approx([reached(x, gap, truck) for x in u.tolist()], abs=1e-9)


def test_between_the_switches_the_slope_is_the_derivative():
    u = torch.tensor([-2.0, -0.3, 0.3, 2.0], dtype=torch.float64)
    _, slope = LaneGate().slope(u)
    expected = [(reached(x + 1e-5) - reached(x - 1e-5)) / 2e-5 for x in u.tolist()]
    assert slope.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_truth_is_the_derivative_of_the_expectation(exact):
    """By brute force: the expectation at two means, summed over a fine grid of the independent simulation."""
    grid = torch.arange(-3.9995, 4.0, 0.001, dtype=torch.float64)  # 0 lies between two points
    distance = LaneGate().distance(grid)
    assert distance[3000].item() == pytest.approx(reached(grid[3000].item()), abs=1e-9)

    def expectation(mean: float) -> float:
        weight = torch.exp(-0.5 * ((grid - mean) / 0.5) ** 2) / (0.5 * math.sqrt(2 * math.pi)) * 0.001
        return float((weight * distance).sum())

    for mean in (-0.5, 0.0, 1.0):
        true = exact.truth(Setting(mean, 0.5))
        assert true.total == pytest.approx((expectation(mean + 1e-3) - expectation(mean - 1e-3)) / 2e-3, rel=1e-4)
        assert true.total == pytest.approx(true.pathwise + true.jump, rel=1e-9)
    assert exact.jump == pytest.approx(reached(1e-9) - reached(-1e-9), abs=1e-7)
    assert exact.truth(Setting(0.0, 0.5)).jump == pytest.approx(exact.jump / (0.5 * math.sqrt(2 * math.pi)))


def test_blocked_misses_exactly_the_jump(exact):
    for setting, bias in zip(SETTINGS, exact.biases(LaneGradient("blocked")), strict=True):
        true = exact.truth(setting)
        assert bias == pytest.approx(-true.jump / true.total, abs=1e-9)


@pytest.mark.parametrize("setting", [SETTINGS[1], SETTINGS[3], SETTINGS[7]])
def test_sampled_estimates_stay_within_their_errors(exact, setting):
    generator = torch.Generator().manual_seed(5)
    true = exact.truth(setting)
    score = likelihood_ratio(exact.gate, setting, 2000, generator)
    assert abs(score.value - true.total) <= 4 * score.standard_error
    # The error is small enough to tell the truth from its smooth part.
    assert true.jump > 4 * score.standard_error
    smooth = pathwise(exact.gate, setting, 500, generator)
    assert abs(smooth.value - true.pathwise) <= 4 * smooth.standard_error
    assert true.jump > 4 * smooth.standard_error


def test_the_default_halves_the_bias_in_most_settings(exact):
    blocked, ours = (exact.biases(LaneGradient(mode)) for mode in ("blocked", "straight_through"))
    halved = sum(abs(own) <= 0.5 * abs(other) for own, other in zip(ours, blocked, strict=True))
    assert len(SETTINGS) == 12 and halved >= 10
