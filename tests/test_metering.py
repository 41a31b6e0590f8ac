"""Meters: one vehicle for each green, rates as tensors, their gradients, and the section of a scenario."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import GradientMode, SignalGradient
from trafficgrad.network import Meter, RoadNetwork, bottleneck, intersection, merge
from trafficgrad.scenario_config import parse_scenario
from trafficgrad.signals import Signals
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState

DOUBLE = torch.float64
DT = 0.5
SCENARIO = """\
kind: traffic
name: metered
network: {kind: merge, meter: {rate: 600.0}}
demand: [{from: highway_in, rate: 900}, {from: ramp, rate: 400}]
driver_rows: 8
"""


@pytest.fixture(scope="module")
def network() -> RoadNetwork:
    """Long enough behind the merge that nobody leaves it."""
    roads = merge(pre_merge_length=100.0, post_merge_length=1200.0, ramp_length=200.0, meter=Meter(0.2))
    return roads.with_routes([["ramp", "ramp_end", "highway_out"]])


def simulator_of(network: RoadNetwork, rate: Tensor, mode: GradientMode = "blocked") -> Simulator:
    signals = Signals.of(network, DOUBLE).metered(0, rate)
    following = IDM(desired_speed=25.0)
    return Simulator(network, Fleet(), following, dt=DT, signals=signals, signal_gradient=SignalGradient(mode))


def queue(network: RoadNetwork, worlds: int, vehicles: int = 12) -> TrafficState:
    lane = network.lanes.index((network.edge_index("ramp"), 0))
    place = float(network.lane_length[lane]) - 2.0 - 7.5 * torch.arange(vehicles, dtype=DOUBLE)
    place = place.expand(worlds, -1)
    none = torch.zeros_like(place, dtype=torch.int64)
    return TrafficState(place, torch.zeros_like(place), none + lane, route=none, driver=none)


def test_every_green_lets_one_vehicle_go(network: RoadNetwork) -> None:
    rates = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3], dtype=DOUBLE)
    simulator, state = simulator_of(network, rates), queue(network, len(rates))
    ramp, state = state.lane, simulator.signals.start(state)
    with torch.no_grad():
        for _ in range(round(35.0 / DT)):
            state = simulator.step(state)
    passed = (state.lane != ramp).sum(1)
    # A vehicle needs up to 3 s from the beginning of its green to the line.
    assert bool((passed >= (rates * 32.0).floor() + 1).all()) and bool((passed <= (rates * 35.0).floor() + 1).all())


def test_a_rate_has_a_gradient_of_the_right_sign_and_size(network: RoadNetwork) -> None:
    """Metres driven in 40 s, mean over rates, against differences of 0.02 vehicles/s either way."""
    rates = torch.linspace(0.15, 0.25, 8, dtype=DOUBLE)

    def driven(rate: Tensor, mode: GradientMode) -> Tensor:
        simulator = simulator_of(network, rate, mode)
        state, total = simulator.signals.start(queue(network, len(rate))), torch.zeros((), dtype=DOUBLE)
        for _ in range(round(40.0 / DT)):
            state = simulator.step(state)
            total = total + DT * state.speed.sum()
        return total / len(rate)

    with torch.no_grad():
        reference = float(driven(rates + 0.02, "blocked") - driven(rates - 0.02, "blocked")) / 0.04
    assert reference > 5000.0
    leaf = rates.clone().requires_grad_()
    driven(leaf, "straight_through").backward()
    assert 0.75 * reference < float(leaf.grad.sum()) < 1.25 * reference


@pytest.mark.parametrize(("green", "counts"), [(2.0, False), (6.0, True)])
def test_when_a_short_green_ends_does_not_decide_who_gets_through(
    network: RoadNetwork, green: float, counts: bool
) -> None:
    """Who stops for the end of a long green would have passed with some density; a meter lets one vehicle go."""
    durations = torch.tensor([[green, 5.0]], dtype=DOUBLE, requires_grad=True)
    offset = torch.tensor([1.0 - green], dtype=DOUBLE)  # the red begins after 1 s
    signals = dataclasses.replace(Signals.of(network, DOUBLE), durations=durations, offset=offset)
    simulator = Simulator(network, Fleet(), IDM(desired_speed=25.0), dt=DT, signals=signals)
    state = queue(network, 1, 1)
    state = dataclasses.replace(state, position=state.position - 50.0, speed=state.speed + 12.0)
    end = simulator.simulate(signals.start(state), 4).state(-1)
    (slope,) = torch.autograd.grad(end.passed.sum(), durations)
    assert (float(slope[0, 0]) > 0.05) == counts and (counts or not bool(slope.any()))


def test_a_rate_gives_the_cycle(network: RoadNetwork) -> None:
    signals = Signals.of(network, DOUBLE)
    assert signals.durations.tolist() == [[2.0, 3.0]]
    rate = torch.tensor(0.25, dtype=DOUBLE, requires_grad=True)
    metered = signals.metered(0, rate)
    assert metered.durations.tolist() == [[2.0, 2.0]]
    metered.durations.sum().backward()
    assert float(rate.grad) == pytest.approx(-1.0 / 0.25**2)
    with pytest.raises(TrafficGradError, match=r"a rate of 0\.5 vehicles/s leaves no red"):
        signals.metered(0, torch.tensor(0.5))
    crossing = Signals.of(intersection())
    with pytest.raises(TrafficGradError, match="signal 0 is no meter"):
        crossing.metered(0, torch.tensor(0.2))


def test_lanes_take_turns_at_the_rate() -> None:
    rate = torch.tensor([0.5, 0.4], dtype=DOUBLE, requires_grad=True)
    metered = Signals.of(bottleneck(meter=Meter(0.25, green=1.5)), DOUBLE).metered(0, rate)
    durations = metered.durations[:, 0].detach()
    assert durations[:, ::2].unique().tolist() == [1.5]
    assert torch.allclose(durations[:, 1::2], torch.tensor([[0.5] * 4, [1.0] * 4], dtype=DOUBLE))
    metered.durations.sum().backward()
    assert torch.allclose(rate.grad, -4.0 / rate.detach() ** 2)


def test_a_bottleneck_that_is_metered_lets_as_many_through_as_its_lights() -> None:
    """Queues in all lanes: one vehicle for each green, and nobody stands between the lights and the end."""
    rates = torch.tensor([0.3, 0.4, 0.5], dtype=DOUBLE)
    roads = bottleneck(meter=Meter(0.25, green=1.9))
    network = roads.with_routes([["section_3", "section_3_end", "section_4", "section_5"]])
    signals = Signals.of(network, DOUBLE).metered(0, rates)
    simulator = Simulator(network, Fleet(), IDM(desired_speed=23.0), dt=DT, signals=signals)
    first = network.lanes.index((network.edge_index("section_3"), 0))
    place = 28.0 - 7.5 * torch.arange(4, dtype=DOUBLE).repeat(4)
    lanes = first + torch.arange(4).repeat_interleave(4)
    none = torch.zeros(3, 16, dtype=torch.int64)
    place = place.expand(3, -1)
    state = TrafficState(place, torch.zeros_like(place), lanes.expand(3, -1), route=none, driver=none)
    state = signals.start(state)
    slowest = torch.full((3,), torch.inf, dtype=DOUBLE)
    with torch.no_grad():
        for _ in range(round(30.0 / DT)):
            state = simulator.step(state)
            beyond = state.active & (network.edge[state.lane] == network.edge_index("section_4"))
            slowest = torch.minimum(slowest, torch.where(beyond, state.speed, torch.inf).amin(1))
    passed = 16 - (state.active & (state.lane < first + 4)).sum(1)
    assert bool((passed >= (rates * 27.0).floor()).all()) and bool((passed <= (rates * 30.0).ceil()).all())
    assert bool((slowest > 8.0).all())


def test_worlds_need_a_programme_each(network: RoadNetwork) -> None:
    simulator = simulator_of(network, torch.tensor([0.1, 0.2], dtype=DOUBLE))
    state = dataclasses.replace(queue(network, 3), phase=torch.zeros(3, 1).long(), phase_time=torch.zeros(3, 1))
    with pytest.raises(TrafficGradError, match=r"Signals\.durations are for 2 worlds, the state has 3"):
        simulator.step(state)


def test_a_scenario_has_a_meter() -> None:
    network = parse_scenario(SCENARIO, "metered").build_network()
    (signal,) = network.signals
    assert signal.name == "meter" and signal.durations == pytest.approx((2.0, 4.0))
    lengths = {name: float(network.lane_length[e]) for e, name in enumerate(network.edge_names)}
    assert lengths["ramp"] == 120.0 and lengths["ramp_end"] == 80.0
    assert [network.edge_names[e] for e in network.routes[1].tolist() if e >= 0] == ["ramp", "ramp_end", "highway_out"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.meter.rate=1800", "a green of 2 s .* expected a rate below 1800 vehicles/h, got 1800"),
        ("network.meter.distance=200", "a meter 200 m before the end of a ramp needs a ramp_length of more than that"),
        ("network.meter.rat=1", r"unknown key \(did you mean 'rate'\?\)"),
    ],
)
def test_wrong_meters_are_refused(setting: str, message: str) -> None:
    with pytest.raises(TrafficGradError, match=message):
        parse_scenario(SCENARIO, "metered", [setting])
    with pytest.raises(TrafficGradError, match=r"leaves no red at 0\.6 vehicles/s: choose a rate below 0\.5"):
        Meter(0.6)
