"""Traffic measures against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

import trafficgrad as tg
from trafficgrad import metrics
from trafficgrad.trajectory import Trajectory


def scene() -> tg.TrafficState:
    """Four vehicles at 2, 4, 6 and 100 m/s; the last one is not there."""
    return tg.TrafficState(
        position=torch.tensor([[10.0, 30.0, 50.0, 70.0]]).double(),
        speed=torch.tensor([[2.0, 4.0, 6.0, 100.0]]).double(),
        lane=torch.tensor([[0, 0, 1, 1]]),
        active=torch.tensor([[True, True, True, False]]),
    )


def test_means_and_deviations_count_active_vehicles_only() -> None:
    state = scene()
    assert metrics.mean_speed(state).tolist() == [4.0]
    assert metrics.speed_deviation(state).tolist() == pytest.approx([math.sqrt(8 / 3)])
    assert metrics.speed_error(state, 5.0).tolist() == pytest.approx([(3 + 1 + 1) / 3])
    chosen = torch.tensor([True, False, True, True])
    assert metrics.mean_speed(state, chosen).tolist() == [4.0]
    assert metrics.speed_error(state, 2.0, chosen).tolist() == [2.0]


def test_standing_is_the_share_of_active_vehicles_below_one_metre_per_second() -> None:
    speed = torch.tensor([[0.0, 0.9, 1.0, 5.0], [0.5, 1.5, 2.5, 0.5]]).double()
    active = torch.tensor([[True] * 4, [True, True, True, False]])
    state = tg.TrafficState(scene().position.expand(2, 4), speed, scene().lane.expand(2, 4), active=active)
    assert metrics.standing(state).tolist() == pytest.approx([2 / 4, 1 / 3])
    assert metrics.standing(state, torch.tensor([True, False, True, True])).tolist() == pytest.approx([1 / 3, 1 / 2])
    assert metrics.standing(state, below=2.0).tolist() == pytest.approx([3 / 4, 2 / 3])


def test_flow_is_density_times_mean_speed() -> None:
    network = tg.ring(100.0, lanes=2)
    assert metrics.density(scene(), network).tolist() == pytest.approx([3 / 200])
    assert metrics.flow(scene(), network).tolist() == pytest.approx([3 / 200 * 4.0])


def test_the_deviation_of_equal_speeds_has_slope_zero() -> None:
    speed = torch.full((1, 4), 3.0, dtype=torch.float64, requires_grad=True)
    state = tg.TrafficState(scene().position, speed, scene().lane)
    (gradient,) = torch.autograd.grad(metrics.speed_deviation(state).sum(), speed)
    assert gradient.tolist() == [[0.0] * 4]


def test_lane_changes_do_not_count_edge_ends() -> None:
    network = tg.ring(100.0, lanes=2, edges=2)  # lanes 0, 1 and then 2, 3
    states = [
        tg.TrafficState(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([lanes]))
        for lanes in ([0, 1], [2, 1], [3, 0], [3, 1])
    ]
    trajectory = Trajectory.of(states, None, 0.1)
    assert metrics.lane_changes(trajectory, network).tolist() == [3]
    assert metrics.lane_changes(trajectory, network, torch.tensor([True, False])).tolist() == [1]
