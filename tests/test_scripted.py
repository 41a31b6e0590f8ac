"""Hand-written controllers against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

import trafficgrad as tg
from trafficgrad.agents.controllers import baselines
from trafficgrad.control import FanOutAndAlign, KeepLane, KeepLaneAndAlign, Ramp
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.scenario_config import load_scenario
from trafficgrad.scenario_sections.control import ScriptedConfig

LANES, LENGTH = 4, 400.0


def simulator(controlled: int, lanes: int = LANES) -> tg.Simulator:
    return tg.Simulator(tg.ring(LENGTH, lanes=lanes), tg.Fleet(controlled=range(controlled), control="lane"), tg.IDM())


def state(position: list[float], lane: list[int], speed: float = 6.0, time: float = 0.0) -> tg.TrafficState:
    return tg.TrafficState(
        torch.tensor([position]).double(),
        torch.full((1, len(position)), speed).double(),
        torch.tensor([lane]),
        time=torch.tensor([time]).double(),
    )


@pytest.mark.parametrize(
    ("time", "speed"), [(0.0, 4.55), (25.0, 5.0375), (50.0, 5.525), (100.0, 6.5), (250.0, 6.5), (-1.0, 4.55)]
)
def test_the_ramp_is_a_straight_line_and_then_the_target(time: float, speed: float) -> None:
    assert Ramp(4.55, 100.0)(6.5, torch.tensor(time).double()).item() == pytest.approx(speed, abs=1e-12)


def test_a_ramp_may_lead_down() -> None:
    assert Ramp(20.0, 10.0)(12.0, torch.tensor([0.0, 5.0, 20.0])).tolist() == [20.0, 16.0, 12.0]


@pytest.mark.parametrize("kind", [KeepLaneAndAlign, FanOutAndAlign])
def test_side_by_side_the_acceleration_leads_to_the_ramps_speed_of_every_world(kind: type) -> None:
    """Without a distance to close, a = clip(ramp(t) - v)."""
    worlds = [state([10.0] * 4, [0, 1, 2, 3], time=time) for time in (0.0, 50.0, 100.0)]
    together = tg.TrafficState(
        *(torch.cat([getattr(world, name) for world in worlds]) for name in ("position", "speed", "lane")),
        time=torch.cat([world.time for world in worlds]),
    )
    ramped = kind(simulator(4), 6.5, ramp=Ramp(4.55, 100.0))(together).acceleration
    expected = torch.tensor([4.55 - 6.0, 5.525 - 6.0, 6.5 - 6.0]).double()[:, None].expand(3, 4)
    torch.testing.assert_close(ramped, expected)
    constant = kind(simulator(4), 6.5)(together).acceleration
    torch.testing.assert_close(constant, torch.full((3, 4), 0.5).double())


@pytest.mark.parametrize("kind", [KeepLaneAndAlign, FanOutAndAlign])
def test_who_is_behind_goes_faster_by_at_most_the_correction(kind: type) -> None:
    """Two vehicles at 390 m and 30 m of a ring of 400 m: the mean place is 10 m, each is 20 m away from it."""
    scene = state([390.0, 30.0], [0, 1])
    action = kind(simulator(2), 6.0)(scene)
    assert action.acceleration[0].tolist() == pytest.approx([0.05 * 20.0, -0.05 * 20.0])
    action = kind(simulator(2), 6.0, correction=0.25)(scene)
    assert action.acceleration[0].tolist() == pytest.approx([0.25, -0.25])
    action = kind(simulator(2), 60.0, bounds=(-3.0, 2.0))(scene)
    assert action.acceleration[0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("controlled", "lane", "wanted"),
    [
        (4, [0, 0, 0, 0], [0, 1, 2, 3]),
        (4, [3, 0, 1, 2], [3, 0, 1, 2]),
        (3, [0, 0, 0], [0, 1, 2]),  # the left lane stays open
        (3, [3, 3, 3], [0, 1, 2]),
        (3, [2, 0, 1], [2, 0, 1]),
        (2, [0, 0], [0, 2]),
        (6, [0] * 6, [0, 0, 1, 2, 2, 3]),
    ],
)
def test_lanes_are_given_from_right_to_left(controlled: int, lane: list[int], wanted: list[int]) -> None:
    request = FanOutAndAlign(simulator(controlled), 12.0)(state([10.0 * q for q in range(controlled)], lane)).lane
    ask = [float(max(-1, min(1, goal - now))) for goal, now in zip(wanted, lane, strict=True)]
    assert request is not None and request[0].tolist() == ask


def test_who_keeps_the_lane_asks_for_none() -> None:
    scene = state([0.0, 20.0, 40.0, 60.0], [0] * 4)
    for controller in (KeepLane(simulator(4), 6.5), KeepLaneAndAlign(simulator(4), 6.5)):
        assert controller(scene).lane is None
    assert KeepLane(simulator(4), 6.5)(scene).acceleration[0].tolist() == [0.5] * 4


def test_the_scenario_says_how_vehicles_align() -> None:
    tiny = ["simulation.warmup_steps=5", "pool_size=2", "driver_rows=16"]
    flagship = TrafficEnv(load_scenario("ring_4lane", tiny))
    assert list(baselines(flagship)) == ["human only", "keep lane", "fan out and align"]
    env = TrafficEnv(load_scenario("ring_4lane_waves", tiny), dtype=torch.float64)
    table = baselines(env)
    assert list(table) == ["human only", "keep lane", "keep lane and align", "fan out and align"]
    begun = env.reset(2, torch.Generator().manual_seed(0))
    traffic, row = begun.traffic, {name: drive(begun) for name, drive in table.items() if drive is not None}
    hand_made = FanOutAndAlign(env.simulator, 6.5, correction=2.0, ramp=Ramp(4.55, 100.0))
    assert torch.equal(row["fan out and align"], env.encode(hand_made(traffic), traffic))
    assert torch.equal(row["keep lane and align"][..., 0], row["fan out and align"][..., 0])
    assert row["keep lane and align"][..., 1].abs().max() == 0.0
    assert row["fan out and align"][..., 1].abs().max() > 1 / 3
    target = 4.55 + 0.05 * _behind(traffic, env)
    expected = (target - traffic.speed[:, env.slots]).clamp(-3.0, 2.0) / 2.0  # an action of 1 is 2 m/s2
    torch.testing.assert_close(row["fan out and align"][..., 0], expected)


def _behind(traffic: tg.TrafficState, env: TrafficEnv) -> torch.Tensor:
    """Distance to the circular mean place by complex numbers, m, at most what 2 m/s correct."""
    turn = 2j * math.pi / 300.0
    place = torch.exp(turn * traffic.position[:, env.slots])
    mean = place.sum(1, keepdim=True)
    return ((mean / mean.abs() / place).angle() * 300.0 / (2 * math.pi)).clamp(-40.0, 40.0)


def test_defaults_are_those_of_the_controllers() -> None:
    scripted, controller = ScriptedConfig(), FanOutAndAlign(simulator(1), 12.0)
    assert (scripted.ramp, scripted.correction) == (controller.ramp, controller.correction)
    assert KeepLaneAndAlign(simulator(1), 12.0).correction == controller.correction
