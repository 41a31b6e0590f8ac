"""Gradients through the times of signal changes: exact where they are, of the right size where they are estimates."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.demand import Demand, Inflow
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import GradientMode, SignalGradient, pass_density
from trafficgrad.network import RoadNetwork, intersection
from trafficgrad.scenario_config import parse_scenario
from trafficgrad.signals import Signals
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState

DOUBLE = torch.float64
SCENARIO = """\
kind: traffic
name: cross
network: {kind: intersection}
demand: [{from: west_in, rate: 400}]
driver_rows: 8
"""
EARLY = -30.0  # s, offset with which the arm from the north has green after 5 s


@pytest.fixture(scope="module")
def network() -> RoadNetwork:
    """One lane on each of four arms of 250 m, straight on only; phases of 30, 3, 2, 30, 3 and 2 s."""
    roads = intersection(lanes=1, left_lanes=0, protected_left=False, arm_length=250.0)
    streets = [["west_in", "east_out"], ["east_in", "west_out"], ["north_in", "south_out"], ["south_in", "north_out"]]
    return roads.with_routes(streets)


def simulator_of(network: RoadNetwork, mode: GradientMode, dt: float, dtype: torch.dtype = DOUBLE) -> Simulator:
    return Simulator(
        network,
        Fleet(),
        IDM(desired_speed=15.0),
        dt=dt,
        signals=Signals.of(network, dtype),
        signal_gradient=SignalGradient(mode),
    )


def with_timing(simulator: Simulator, offset: Tensor, green: Tensor) -> Simulator:
    """Both greens together stay 60 s."""
    rest = simulator.signals.durations
    durations = torch.stack([green, rest[0, 1], rest[0, 2], 60.0 - green, rest[0, 4], rest[0, 5]])[None]
    return dataclasses.replace(
        simulator, signals=dataclasses.replace(simulator.signals, durations=durations, offset=offset[None])
    )


def queue(network: RoadNetwork, vehicles: int = 5) -> TrafficState:
    """Standing in the arm from the north, whose signal turns green after 35 s of the programme."""
    lane = network.lanes.index((network.edge_index("north_in"), 0))
    end = float(network.lane_length[lane])
    position = end - 2.0 - 7.5 * torch.arange(vehicles, dtype=DOUBLE)
    return TrafficState(
        position,
        torch.zeros(vehicles, dtype=DOUBLE),
        torch.full((vehicles,), lane),
        route=torch.full((1, vehicles), 2),
        driver=torch.zeros(1, vehicles, dtype=torch.int64),
    )


def driven(simulator: Simulator, state: TrafficState, offset: Tensor, green: Tensor, seconds: float) -> Tensor:
    """Sum of the distances from the stop line that the vehicles reach, m."""
    timed = with_timing(simulator, offset, green)
    length = state.position[0, 0].detach() + 2.0
    now = timed.signals.start(state)
    for _ in range(round(seconds / simulator.dt)):
        now = timed.step(now)
    t = simulator.network.tables(DOUBLE, "cpu")
    from_line = torch.where(t.junctions.is_junction[now.lane], now.position, now.position - length)
    beyond = (now.lane != state.lane) & ~t.junctions.is_junction[now.lane]
    junction = t.length[t.plan.next_lane[t.plan.route_start[2], 0]]
    return torch.where(beyond, now.position + junction, from_line).sum()


def test_the_start_of_a_green_is_exact_where_the_step_is_shared_out(network: RoadNetwork) -> None:
    """``sigmoid`` is a smooth function of the times, so that central differences know its derivative."""
    simulator = simulator_of(network, "sigmoid", dt=0.1)
    state, green = queue(network), torch.tensor(30.0, dtype=DOUBLE)
    offset = torch.tensor(EARLY + 0.03, dtype=DOUBLE, requires_grad=True)
    driven(simulator, state, offset, green, 20.0).backward()
    values = [driven(simulator, state, offset.detach() + e, green, 20.0) for e in (1e-4, -1e-4)]
    assert float(offset.grad) == pytest.approx(float(values[0] - values[1]) / 2e-4, rel=1e-5)


def test_the_start_of_a_green_is_right_where_values_are_hard(network: RoadNetwork) -> None:
    """A green later by one step moves the whole discharge by one step: differences of whole steps know the slope.

    The gradient's change acts on one step and the differences' on two, so that they agree to first order in the step.
    """
    state, green = queue(network), torch.tensor(30.0, dtype=DOUBLE)
    errors = []
    for dt in (0.2, 0.1):
        simulator = simulator_of(network, "straight_through", dt)
        offset = torch.tensor(EARLY, dtype=DOUBLE, requires_grad=True)
        driven(simulator, state, offset, green, 20.0).backward()
        values = [driven(simulator, state, offset.detach() + e, green, 20.0) for e in (dt, -dt)]
        slope = float(values[0] - values[1]) / (2 * dt)
        assert slope < -30.0  # five vehicles, some of them fast by now
        errors.append(abs(float(offset.grad) / slope - 1.0))
    assert errors[1] < 0.6 * errors[0] and errors[1] < 0.05


def test_blocked_has_no_gradient_and_no_mode_but_sigmoid_changes_values(network: RoadNetwork) -> None:
    state = queue(network)
    offset, green = torch.tensor(EARLY + 0.03, dtype=DOUBLE), torch.tensor(30.0, dtype=DOUBLE)
    values = {}
    for mode in ("straight_through", "blocked", "sigmoid"):
        simulator = simulator_of(network, mode, dt=0.1)
        times = offset.clone().requires_grad_()
        value = driven(simulator, state, times, green, 10.0)
        values[mode] = float(value.detach())
        assert value.requires_grad == (mode != "blocked")
        with torch.no_grad():
            assert float(driven(simulator, state, offset, green, 10.0)) == values[mode]
    assert values["straight_through"] == values["blocked"] != values["sigmoid"]


def test_pass_density_is_a_density() -> None:
    """Vehicles every 0.05 s at 12 m/s: their densities sum up to the flow of 20 vehicles/s."""
    model, speed, headway, hardest = IDM(desired_speed=15.0), 12.0, 2.0, 4.0
    distance = 0.05 * speed * torch.arange(1, 4000, dtype=DOUBLE)
    v = torch.full_like(distance, speed)
    stopping = model.acceleration(v, distance, v)
    free = model.acceleration(v, torch.full_like(distance, math.inf), torch.zeros_like(v))
    stops = stopping >= -hardest
    density = pass_density(distance, v, free, stopping, hardest, headway)
    assert float(density[stops].sum()) == pytest.approx(20.0, rel=0.02)
    assert float(density[stops][0]) == pytest.approx(1.0 / headway, rel=0.03)  # the first that stops nearly passes


def test_a_split_has_a_gradient_of_the_right_sign_and_size(network: RoadNetwork) -> None:
    """Against differences of 6 s with the same traffic, over 24 worlds; the short green is clearly too short."""
    worlds, slots, dt = 24, 60, 0.5
    rates = [600.0, 600.0, 250.0, 250.0]
    demand = Demand([Inflow(int(network.routes[r, 0]), (r,), rate=rates[r] / 3600.0) for r in range(4)])
    simulator = simulator_of(network, "straight_through", dt, torch.float32)
    simulator = dataclasses.replace(simulator, demand=demand)
    none = torch.zeros(worlds, slots)
    state = TrafficState(none, none, none.long(), driver=none.long(), active=none.bool(), seed=torch.arange(worlds))
    state = demand.start(state)

    def gained(green: Tensor) -> Tensor:
        timed = with_timing(simulator, torch.zeros(()), green)
        now = timed.signals.start(state)
        total = torch.zeros(worlds)
        for step in range(round(180.0 / dt)):
            now = timed.step(now)
            if step * dt >= 30.0:
                lost = torch.where(now.active, 1.0 - now.speed / 13.9, 0.0).sum(1) + demand.waiting(now).sum(1)
                total = total - dt * lost
        return total

    with torch.no_grad():
        each = (gained(torch.tensor(25.0)) - gained(torch.tensor(19.0))) / 6.0
    reference, error = float(each.mean()), float(each.std()) / worlds**0.5
    assert reference > 10.0 * error  # the reference knows what it says
    green = torch.tensor(22.0, requires_grad=True)
    gained(green).mean().backward()
    assert 0.4 * reference < float(green.grad) < 2.0 * reference


def test_bad_settings_are_refused() -> None:
    with pytest.raises(TrafficGradError, match="did you mean 'blocked'"):
        SignalGradient("blokced")  # type: ignore[arg-type]
    with pytest.raises(TrafficGradError, match=r"SignalGradient\.headway must be > 0 s, got 0"):
        SignalGradient(headway=0.0)
    with pytest.raises(TrafficGradError, match=r"did you mean 'headway'"):
        parse_scenario(SCENARIO, "cross", ["signal_gradient.headwy=1"])
    with pytest.raises(TrafficGradError, match=r"signal_gradient\.headway: .* greater than 0"):
        parse_scenario(SCENARIO, "cross", ["signal_gradient.headway=0"])


def test_a_scenario_says_how_gradients_pass_signals() -> None:
    usual = parse_scenario(SCENARIO, "cross")
    assert usual.build().signal_gradient == SignalGradient()
    changed = ["signal_gradient.mode=sigmoid", "signal_gradient.headway=1.5"]
    assert parse_scenario(SCENARIO, "cross", changed).build().signal_gradient == SignalGradient("sigmoid", 1.5)
    assert parse_scenario(usual.to_yaml(), "cross") == usual


def test_worlds_have_programmes_of_their_own(network: RoadNetwork) -> None:
    signals = Signals.of(network, DOUBLE)
    shift = torch.tensor([0.0, 7.0, -11.0], dtype=DOUBLE)
    longer = torch.stack([signals.durations, signals.durations + 1.0, 0.5 * signals.durations])
    several = dataclasses.replace(signals, durations=longer, offset=signals.offset + shift[:, None])
    state = several.start(TrafficState(*(torch.zeros(3, 1, dtype=DOUBLE) for _ in range(2)), torch.zeros(3, 1).long()))
    for time in torch.arange(1.0, 140.0, 6.5, dtype=DOUBLE):
        state = several.advance(dataclasses.replace(state, time=time.expand(3)), 6.5, None, None)
        for world in range(3):
            alone = dataclasses.replace(signals, durations=longer[world], offset=several.offset[world])
            own = alone.start(state.index(torch.tensor([world])))
            assert own.phase.item() == state.phase[world, 0].item()
            assert torch.equal(own.phase_time[0], state.phase_time[world])
            assert torch.equal(alone.begun(own)[0], several.begun(state)[world])
            assert torch.equal(alone.remaining(own)[0], several.remaining(state)[world])
