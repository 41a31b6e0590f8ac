"""Left turns that yield at a green wait inside the junction, and clear it before the next street gets green."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from junction_runs import CITY, LENGTH, WIDTH
from oracles.road_worlds import DOUBLE, Placed, road_lane, state_of, way_lane

import trafficgrad as tg
from trafficgrad.bodies import touching
from trafficgrad.network import RoadNetwork, intersection
from trafficgrad.network.conflicts import BODY_WIDTH
from trafficgrad.signals import YIELDING, Signals
from trafficgrad.state import TrafficState

DT = 0.1  # s
STREET = 35.0  # s of green, yellow and all-red that each street has
LEFT = ("south_in", "west_out")
ROUTES = [LEFT, ("north_in", "south_out"), ("north_in", "east_out"), ("south_in", "north_out"), ("west_in", "east_out")]


def lit(arm_length: float = 200.0) -> RoadNetwork:
    """One lane on each arm for all turns; first the one street has green, then the other."""
    network = intersection(lanes=1, left_lanes=0, protected_left=False, arm_length=arm_length)
    return network.with_routes([list(route) for route in ROUTES])


def simulator(network: RoadNetwork) -> tg.Simulator:
    return tg.Simulator(network, tg.Fleet(), CITY, dt=DT, signals=Signals.of(network, DOUBLE))


def at_green(sim: tg.Simulator, state: TrafficState) -> TrafficState:
    """The state at the moment when the left turn's light turns green."""
    assert sim.signals is not None
    index = way_index(sim.network)
    phase = next(p for p in range(int(sim.signals.phases[0])) if int(sim.signals.letters[0, p, index]) == YIELDING)
    begins = float(sim.signals.durations[0, :phase].sum())
    return sim.signals.start(dataclasses.replace(state, time=torch.full_like(state.time, begins)))


def way_index(network: RoadNetwork) -> int:
    return int(network.tables(DOUBLE, "cpu").junctions.signal_index[way_lane(network, *LEFT)])


def place_of(network: RoadNetwork) -> float:
    return float(network.tables(DOUBLE, "cpu").junctions.waits_at[way_lane(network, *LEFT)])


def first_near(line: np.ndarray, other: np.ndarray) -> float:
    """How far along a line a body first touches bodies on the other, m; inf = never."""

    def fine(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        along = np.concatenate([[0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
        at = np.linspace(0.0, along[-1], int(along[-1] / 0.05) + 2)
        return np.stack([np.interp(at, along, points[:, k]) for k in range(2)], -1), at

    (points, at), (others, _) = fine(line), fine(other)
    near = np.hypot(*np.moveaxis(points[:, None] - others, -1, 0)).min(1) < BODY_WIDTH
    return float(at[near][0]) if near.any() else math.inf


@pytest.mark.parametrize(("lanes", "left_lanes"), [(1, 0), (1, 1), (2, 1), (2, 2), (3, 1)])
def test_the_place_is_where_the_first_way_begins_that_is_open_too(lanes: int, left_lanes: int) -> None:
    network = intersection(lanes=lanes, left_lanes=left_lanes, protected_left=False)
    places = network.tables(DOUBLE, "cpu").junctions.waits_at.tolist()
    states = network.signals[0].states
    ways = {lane: network.connections[c] for lane, c in enumerate(network.lane_connection.tolist()) if c >= 0}
    lit_ways = {lane: way for lane, way in ways.items() if way.signal is not None}
    yielding = 0
    for lane, way in lit_ways.items():
        nearest = math.inf
        for other, foe in lit_ways.items():
            together = any(s[way.signal_index] in "gG" and s[foe.signal_index] in "gG" for s in states)
            if together and (way.from_edge, way.from_lane) != (foe.from_edge, foe.from_lane):
                pair = (network.lane_geometry(x).numpy() for x in (lane, other))
                nearest = min(nearest, first_near(*pair))
        yields = any(state[way.signal_index] == "g" for state in states)
        yielding += yields
        assert places[lane] == pytest.approx(nearest if yields else 0.0, abs=0.6), (way.from_edge, way.to_edge)
    assert yielding == 4 * max(1, left_lanes)
    assert not any(place for lane, place in enumerate(places) if lane not in lit_ways)


@pytest.mark.parametrize("options", [{}, {"control": "priority"}, {"control": "all_way_stop"}])
def test_nobody_waits_inside_who_has_a_phase_or_no_signal(options: dict[str, str]) -> None:
    network = intersection(**options)  # type: ignore[arg-type]
    assert not bool(network.tables(DOUBLE, "cpu").junctions.waits_at.any())


@torch.no_grad()
def test_a_left_turn_gets_through_a_dense_flow_at_the_end_of_each_green() -> None:
    """Traffic comes towards it without a gap. One vehicle waits inside and goes when the light is no longer green."""
    network = lit(arm_length=900.0)
    sim, place, way = simulator(network), place_of(network), way_lane(network, *LEFT)
    line = float(network.lane_length[road_lane(network, LEFT[0])])
    turning = [Placed(0, line - 2.0 - 7.0 * k) for k in range(4)]
    coming = [Placed(1, line - 2.0 - 14.0 * k, 6.0 if k else 0.0) for k in range(60)]
    state = at_green(sim, state_of(network, [[*turning, *coming]]))
    index, turned, stood = way_index(network), [math.inf] * 4, 0
    begins = float(state.time[0])
    for _ in range(round(2 * 2 * STREET / DT)):
        state = sim.step(state)
        assert len(touching(state, network, LENGTH, WIDTH)) == 0
        assert sim.signals is not None
        letter = int(sim.signals.letters[0, int(state.phase[0, 0]), index])
        inside = (state.lane[0, :4] == way).tolist()
        for k in range(4):
            waiting = inside[k] and float(state.position[0, k]) <= place
            stood += waiting and float(state.speed[0, k]) < 0.1
            if inside[k] and not waiting and math.isinf(turned[k]):
                assert letter < YIELDING, "nobody turns in front of them"
                turned[k] = float(state.time[0]) - begins
    assert stood * DT > 20.0
    assert 30.0 < turned[0] < 35.0 and 2 * STREET + 30.0 < turned[1] < 2 * STREET + 35.0, turned
    assert all(math.isinf(time) for time in turned[2:])


@torch.no_grad()
def test_the_cross_street_waits_until_the_junction_is_cleared() -> None:
    """Somebody still waits inside when the other street has green already."""
    network = lit()
    sim, way, cross = simulator(network), way_lane(network, *LEFT), way_lane(network, "west_in", "east_out")
    line = float(network.lane_length[road_lane(network, "west_in")])
    for speed, before in ((0.0, 1.8), (10.0, 30.0), (13.0, 80.0)):
        state = state_of(network, [[Placed(0, 0.0), Placed(4, line - before, speed)]])
        lane, position = state.lane.clone(), state.position.clone()
        lane[0, 0], position[0, 0] = way, place_of(network) - 0.5
        state = at_green(sim, dataclasses.replace(state, lane=lane, position=position))
        state = sim.signals.start(dataclasses.replace(state, time=state.time + STREET))  # type: ignore[union-attr]
        seen = [state]
        for _ in range(200):
            seen.append(sim.step(seen[-1]))
            assert len(touching(seen[-1], network, LENGTH, WIDTH)) == 0
        leaves = next(k for k, one in enumerate(seen) if int(one.lane[0, 0]) != way)
        enters = next(k for k, one in enumerate(seen) if int(one.lane[0, 1]) == cross)
        assert leaves < 70, "it goes at once"
        assert enters > leaves - 20


@torch.no_grad()
def test_two_left_turns_that_face_each_other_do_not_wait_for_those_behind_them() -> None:
    """Who goes straight on stands behind them, and so does not come: both turn at once."""
    network = lit()
    sim, line = simulator(network), float(network.lane_length[road_lane(network, "south_in")])
    state = at_green(
        sim,
        state_of(
            network, [[Placed(0, line - 2.0), Placed(3, line - 9.0), Placed(2, line - 2.0), Placed(1, line - 9.0)]]
        ),
    )
    ways = [way_lane(network, *ROUTES[k]) for k in (0, 2)]
    begins, over = float(state.time[0]), [math.inf, math.inf]
    for _ in range(300):
        after = sim.step(state)
        assert len(touching(after, network, LENGTH, WIDTH)) == 0
        for k, slot in enumerate((0, 2)):
            if int(state.lane[0, slot]) == ways[k] != int(after.lane[0, slot]):
                over[k] = float(after.time[0]) - begins
        state = after
    assert max(over) < 12.0, over
    assert not bool(network.is_junction[state.lane[0]].any()), "those behind them went on too"


@pytest.mark.parametrize("by", ["speed", "min_gap"])
def test_stopping_inside_is_differentiable(by: str) -> None:
    """Where it is on the way to its stop, by its first speed and by drivers' standstill gap: central differences."""
    network = lit()
    way, line = way_lane(network, *LEFT), float(network.lane_length[road_lane(network, LEFT[0])])
    coming = [Placed(1, line - 30.0 - 14.0 * k, 8.0) for k in range(8)]
    start = state_of(network, [[Placed(0, line - 25.0, 8.0), *coming]])

    def positions(value: torch.Tensor) -> list[torch.Tensor]:
        model = dataclasses.replace(CITY, min_gap=value) if by == "min_gap" else CITY
        sim = dataclasses.replace(simulator(network), car_following=model)
        state = at_green(sim, start)
        if by == "speed":
            state = dataclasses.replace(state, speed=torch.cat([value[None, None], start.speed[:, 1:]], 1))
        seen = []
        for _ in range(90):
            state = sim.step(state)
            seen.append(state.position[0, 0])
        assert int(state.lane[0, 0]) == way
        return seen

    value = torch.tensor(8.0 if by == "speed" else 2.0, dtype=DOUBLE, requires_grad=True)
    seen = positions(value)
    assert float(seen[-1].detach()) <= place_of(network)
    with torch.no_grad():
        high, low = (positions(value.detach() + shift) for shift in (1e-6, -1e-6))
    for step in (20, 45, 70):
        (slope,) = torch.autograd.grad(seen[step], value, retain_graph=True)
        assert float(slope) == pytest.approx(float(high[step] - low[step]) / 2e-6, rel=1e-5, abs=1e-7), step
        assert abs(float(slope)) > 1e-3
