"""Traffic signals: programmes by the clock, by vehicles and by request; red, yellow, and how a queue discharges."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import networkx as nx
import pytest
import torch
from oracles.road_worlds import DOUBLE, Placed, add_road, road_lane, state_of, way_lane
from torch import Tensor

import trafficgrad as tg
from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import RoadNetwork, intersection
from trafficgrad.network.connections import Connection
from trafficgrad.signals import YIELDING, Signals
from trafficgrad.state import TrafficState

DT = 0.1  # s
MIN_GAP, LENGTH = 2.0, 5.0  # m
CITY = tg.IDM(desired_speed=15.0, time_headway=1.0, max_acceleration=1.0, comfortable_deceleration=1.5)
LINE = 400.0  # m from the start of the road to the stop line


def lit_road(*programmes: dict[str, Any], speed_limit: float = math.inf) -> RoadNetwork:
    """A road of 400 m to a stop line and 1,500 m after it, letter 0 of the first programme, "light 0", is for it."""
    graph = nx.MultiDiGraph()
    graph.add_node("line", position=(0.0, 0.0), right_of_way="signals")
    before = add_road(graph, "start", "line", "in", [(-LINE, 0.0), (0.0, 0.0)], speed_limit=speed_limit)
    after = add_road(graph, "line", "end", "out", [(10.0, 0.0), (1510.0, 0.0)], speed_limit=speed_limit)
    graph.graph["signals"] = {f"light {i}": programme for i, programme in enumerate(programmes)}
    graph.nodes["line"]["connections"] = [Connection(before, 0, after, 0, signal="light 0", signal_index=0)]
    return RoadNetwork.from_graph(graph).with_routes([["in", "out"]])


def phases(*parts: tuple[float, str], **more: Any) -> dict[str, Any]:
    return {"phases": [{"duration": duration, "state": state} for duration, state in parts], **more}


def simulator(network: RoadNetwork, dtype: torch.dtype = DOUBLE, **changes: Any) -> tg.Simulator:
    return tg.Simulator(network, tg.Fleet(), CITY, dt=DT, signals=Signals.of(network, dtype), **changes)


def started(sim: tg.Simulator, state: TrafficState) -> TrafficState:
    assert sim.signals is not None
    return sim.signals.start(state)


@torch.no_grad()
def states(
    sim: tg.Simulator, state: TrafficState, steps: int, action: Callable[[int], tg.Action] | None = None
) -> Iterator[TrafficState]:
    """The state at the start, started, and after every step."""
    state = started(sim, state)
    yield state
    for k in range(steps):
        state = sim.step(state, None if action is None else action(k))
        yield state


# ---------------------------------------------------------------------------------------------- by the clock


def random_programmes(count: int, seed: int) -> list[dict[str, Any]]:
    """Durations and offsets are whole numbers of steps."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        parts = [(rng.randint(5, 90) / 10, rng.choice("rygG") + "r") for _ in range(rng.randint(1, 5))]
        found.append(phases(*parts, offset=rng.randint(-200, 200) / 10))
    return found


def by_clock(programme: dict[str, Any], tenths: int) -> tuple[int, float]:
    """Phase and seconds since it began, in whole tenths of a second."""
    durations = [round(10 * part["duration"]) for part in programme["phases"]]
    moment = (tenths - round(10 * programme["offset"])) % sum(durations)
    phase = 0
    while moment >= durations[phase]:
        moment -= durations[phase]
        phase += 1
    return phase, moment / 10


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_fixed_programmes_run_by_the_clock(dtype: torch.dtype) -> None:
    """At every step for 100 s, switches at exact multiples of the step included."""
    programmes = random_programmes(12, seed=1)
    signals = Signals.of(lit_road(*programmes), dtype)
    assert signals is not None
    state = signals.start(TrafficState(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1), torch.zeros(1, 1).long()))
    switches = 0
    for step in range(1001):
        expected = [by_clock(programme, step) for programme in programmes]
        assert state.phase[0].tolist() == [phase for phase, _ in expected], f"after {step} steps"
        # Single precision knows the time to within 1e-5 of it, half a thousandth of a second and more.
        elapsed = torch.tensor([[seconds for _, seconds in expected]], dtype=dtype)
        assert torch.allclose(state.phase_time, elapsed, atol=2e-3), f"after {step} steps"
        assert state.phase_time.dtype == dtype
        before = state.phase
        state = signals.advance(dataclasses.replace(state, time=state.time + DT), DT, None, None)
        switches += int((state.phase != before).sum())
    assert switches > 150


def test_fixed_programmes_at_any_time() -> None:
    """``start`` at random times, by an explicit walk through the phases."""
    rng = random.Random(2)
    programmes = [
        phases(*((rng.uniform(0.5, 20.0), "Gr") for _ in range(rng.randint(1, 6))), offset=rng.uniform(-50.0, 50.0))
        for _ in range(10)
    ]
    signals = Signals.of(lit_road(*programmes), DOUBLE)
    assert signals is not None
    times = [rng.uniform(0.0, 3600.0) for _ in range(200)]
    worlds = TrafficState(torch.zeros(200, 1, dtype=DOUBLE), torch.zeros(200, 1), torch.zeros(200, 1).long())
    state = signals.start(dataclasses.replace(worlds, time=torch.tensor(times, dtype=DOUBLE)))
    for b, time in enumerate(times):
        for s, programme in enumerate(programmes):
            durations = [part["duration"] for part in programme["phases"]]
            phase, begin = 0, programme["offset"] - math.ceil(60.0 / sum(durations)) * sum(durations)
            while time - begin >= durations[phase] - 1e-4:
                begin += durations[phase]
                phase = (phase + 1) % len(durations)
            assert int(state.phase[b, s]) == phase
            assert float(state.phase_time[b, s]) == pytest.approx(max(0.0, time - begin), abs=1e-4)


def test_drivers_are_shown_the_letter_of_their_connection() -> None:
    network = intersection(lanes=2, left_lanes=0, protected_left=False)
    signals, (programme,) = Signals.of(network, DOUBLE), network.signals
    assert signals is not None
    ways = [c for c in network.connections if c.signal == programme.name]
    index = torch.tensor([[c.signal_index for c in ways] + [-1]])
    signal = torch.tensor([[0] * len(ways) + [-1]])
    for p, state in enumerate(programme.states):
        shown = signals.shown(torch.tensor([[p]]), signal, index)[0].tolist()
        assert shown == ["rygG".index(state[c.signal_index]) for c in ways] + [YIELDING]


# ---------------------------------------------------------------------------------------------- red and yellow


def test_red_is_a_standing_leader_at_the_stop_line() -> None:
    """The same trajectories as behind a parked vehicle whose rear bumper is at the line, on a plain road."""
    network = lit_road(phases((1000.0, "r")))
    sim = simulator(network)
    starts, speeds = [120.0, 200.0, 280.0, 330.0], [15.0, 8.0, 0.0, 12.0]
    reds = state_of(network, [[Placed(0, x, v)] for x, v in zip(starts, speeds, strict=True)])
    plain = tg.Simulator(tg.straight(1000.0), tg.Fleet(controlled=[1]), CITY, dt=DT)
    position = torch.tensor([[x, LINE + LENGTH] for x in starts], dtype=DOUBLE)
    speed = torch.tensor([[v, 0.0] for v in speeds], dtype=DOUBLE)
    parked = TrafficState(position, speed, torch.zeros(4, 2, dtype=torch.int64))
    stand = tg.Action(torch.zeros(4, 1, dtype=DOUBLE))
    for state in states(sim, reds, 420):
        assert torch.allclose(state.position[:, 0], parked.position[:, 0], atol=1e-9)
        parked = plain.step(parked, stand)
    gap = LINE - state.position[:, 0]
    # The last decimetres are crept, or overshot by what a step more or less of braking makes.
    assert bool(((gap - MIN_GAP).abs() < 0.3).all())
    assert float(state.speed.max()) < 0.01


def test_who_could_only_stop_by_braking_hard_drives_on_at_yellow() -> None:
    """Against the formula of the IDM before a standing obstacle, at the first sight of yellow."""
    network = lit_road(phases((2.0, "G"), (3.0, "y"), (500.0, "r")))
    sim = simulator(network)
    rules = sim.right_of_way
    worlds = [[Placed(0, x, v)] for v in (6.0, 10.0, 14.0) for x in [300.0 + 1.0 * k for k in range(70)]]
    first, decided, hardest = None, None, torch.zeros(len(worlds), dtype=DOUBLE)
    for state in states(sim, state_of(network, worlds), 220):
        lane, distance = state.lane[:, 0], LINE - state.position[:, 0]
        before = lane == road_lane(network, "in")
        if first is None and int(state.phase[0, 0]) == 1:
            first = before
            v = state.speed[:, 0]
            needed = CITY.acceleration(v, distance, v)
            decided = needed < -rules.stop_deceleration
            last = state
        elif first is not None:
            acceleration = (state.speed - last.speed)[:, 0] / DT
            hardest = torch.minimum(hardest, torch.where(before, acceleration, 0.0))
            last = state
    assert first is not None and decided is not None
    stopped = state.lane[:, 0] == road_lane(network, "in")
    assert torch.equal(stopped[first], ~decided[first])
    assert int((first & decided).sum()) > 20 and int((first & ~decided).sum()) > 20
    standing = LINE - state.position[stopped, 0]
    assert bool((standing > MIN_GAP - 0.3).all()), "nobody who stops stands on the line"
    # Who can stop with 4 m/s2 at first sight may need a little more on the way.
    assert float(hardest.min()) > -rules.stop_deceleration - 1.0


# ---------------------------------------------------------------------------------------------- queue discharge


def test_queue_discharges_at_the_saturation_headway_of_city_drivers() -> None:
    """v0 = 15 m/s, T = 1 s, a = 1 m/s2, b = 1.5 m/s2, s0 = 2 m, 5 m long, no speed limit, steps of 0.1 s.

    Headways at the stop line between the 5th and the 15th vehicle, and the start-up lost time: what the 15th vehicle
    is later than 15 such headways after green.
    """
    green = 3.0
    network = lit_road(phases((1000.0, "G"), (1000.0, "r"), offset=green))
    sim = simulator(network)
    queue = state_of(network, [[Placed(0, LINE - MIN_GAP - (LENGTH + MIN_GAP) * k) for k in range(18)]])
    crossed = [math.inf] * 18
    last = None
    for state in states(sim, queue, 420):
        for i in range(18):
            if math.isinf(crossed[i]) and int(state.lane[0, i]) == way_lane(network, "in", "out"):
                assert last is not None
                before, after = LINE - float(last.position[0, i]), float(state.position[0, i])
                crossed[i] = float(last.time[0]) + DT * before / (before + after) - green
        last = state
    assert crossed == sorted(crossed) and crossed[0] > 0.0
    headway = (crossed[14] - crossed[4]) / 10
    lost = crossed[14] - 15 * headway
    assert headway == pytest.approx(2.16, abs=0.1)
    assert 3.3 < lost < 4.7


# ---------------------------------------------------------------------------------------------- actuated

GREEN_TIME = {"min_duration": 5.0, "max_duration": 20.0}
ACTUATED = {
    "kind": "actuated",
    "phases": [
        {"duration": 10.0, "state": "G", **GREEN_TIME},
        {"duration": 3.0, "state": "y"},
        {"duration": 4.0, "state": "r"},
    ],
}


class Machine:
    """Phase and waiting time of a signal that is not fixed, in plain Python; times in steps."""

    def __init__(self, green: tuple[int, int], others: list[int]) -> None:
        self.least, self.most = green
        self.others = others
        self.phase, self.waited = 0, 0

    def step(self, ends_if_it_may: bool) -> None:
        self.waited += 1
        if self.phase == 0:
            over = (self.waited >= self.least and ends_if_it_may) or self.waited >= self.most
        else:
            over = self.waited >= self.others[self.phase - 1]
        if over:
            self.phase, self.waited = (self.phase + 1) % (1 + len(self.others)), 0


def runs(values: list[int]) -> list[tuple[int, int]]:
    """(value, how often in a row), without the unfinished last run."""
    found: list[tuple[int, int]] = []
    for value in values:
        if found and found[-1][0] == value:
            found[-1] = (value, found[-1][1] + 1)
        else:
            found.append((value, 1))
    return found[:-1]


def test_actuated_green_extends_while_vehicles_come_and_ends_after_a_gap() -> None:
    """One batch: nobody comes, a few come, many come, and a random stream."""
    network = lit_road(ACTUATED)
    sim, rng = simulator(network), random.Random(4)
    far = Placed(0, 700.0, 15.0, place=1)
    alone = [far] * 12
    few = [Placed(0, 330.0 - 30.0 * k, 14.0) for k in range(4)] + [far] * 8
    stream = [Placed(0, 380.0 - 30.0 * k, 14.0) for k in range(12)]
    places = [360.0]
    while len(places) < 12 and places[-1] > 40.0:
        places.append(places[-1] - rng.uniform(25.0, 60.0))
    random_stream = [Placed(0, x, 10.0) for x in places if x > 6.0]
    random_stream += [far] * (12 - len(random_stream))
    worlds = [alone, few, stream, random_stream]
    # Vehicles that are far away stand one behind the other.
    worlds = [
        [dataclasses.replace(one, position=700.0 - 20.0 * i) if one is far else one for i, one in enumerate(world)]
        for world in worlds
    ]
    machines = [Machine((50, 200), [30, 40]) for _ in worlds]
    shown: list[list[int]] = [[] for _ in worlds]
    last = None
    for state in states(sim, state_of(network, worlds), 430):
        if last is not None:
            distance = LINE - last.position
            near = (last.lane == road_lane(network, "in")) & (distance < 3.0 * last.speed + 5.0)
            for b, machine in enumerate(machines):
                machine.step(not bool(near[b].any()))
        for b, machine in enumerate(machines):
            assert int(state.phase[b, 0]) == machine.phase, (b, float(state.time[0]))
            assert float(state.phase_time[b, 0]) == pytest.approx(DT * machine.waited, abs=1e-6)
            shown[b].append(machine.phase)
        last = state
    # The first sample is the start, so that the first run is the whole first phase.
    greens = [[length for phase, length in runs(values) if phase == 0] for values in shown]
    assert set(greens[0]) == {50}, "nobody comes: the shortest green"
    assert 50 < greens[1][0] < 200, "few come: until the gap behind them"
    assert greens[2][0] == 200, "many come: the longest green"
    for values in shown:
        for phase, length in runs(values):
            assert 50 <= length <= 200 if phase == 0 else length == [30, 40][phase - 1]


# ---------------------------------------------------------------------------------------------- controlled


def test_controlled_signals_change_when_asked_within_their_bounds() -> None:
    """Random requests against a plain machine; yellow and all-red run their full time whatever is asked."""
    parts = [
        {"duration": 10.0, "state": "G", "min_duration": 4.0, "max_duration": 12.0},
        {"duration": 2.5, "state": "y"},
        {"duration": 1.5, "state": "r"},
    ]
    network = lit_road({"kind": "controlled", "phases": parts}, phases((6.0, "r"), (6.0, "G")))
    sim, rng, worlds = simulator(network), random.Random(5), 12
    machines = [Machine((40, 120), [25, 15]) for _ in range(worlds)]
    often = [0.0, 1.0] + [rng.choice([0.004, 0.02, 0.1]) for _ in range(worlds - 2)]
    asks = [[rng.random() < share for share in often] for _ in range(400)]
    shown: list[list[int]] = [[] for _ in range(worlds)]

    def action(k: int) -> tg.Action:
        wish = torch.tensor([[rng.uniform(0.01, 1.0) if ask else -rng.random(), 1.0] for ask in asks[k]], dtype=DOUBLE)
        return tg.Action(torch.zeros(worlds, 0, dtype=DOUBLE), signal=wish)

    for k, state in enumerate(states(sim, state_of(network, [[Placed(0, 50.0)]] * worlds), 400, action)):
        for b, machine in enumerate(machines):
            if k:
                machine.step(asks[k - 1][b])
            assert int(state.phase[b, 0]) == machine.phase, (b, k)
            shown[b].append(machine.phase)
            assert int(state.phase[b, 1]) == (k // 60) % 2, "requests do not move a fixed programme"
    greens = [[length for phase, length in runs(values) if phase == 0] for values in shown]
    assert set(greens[0]) == {120} and set(greens[1]) == {40}
    assert any(40 < length < 120 for some in greens[2:] for length in some)
    for values in shown:
        assert all(length == [25, 15][phase - 1] for phase, length in runs(values) if phase)


def test_without_requests_controlled_signals_go_on_at_their_longest_green() -> None:
    network = lit_road({**ACTUATED, "kind": "controlled"})
    values = [int(s.phase[0, 0]) for s in states(simulator(network), state_of(network, [[Placed(0, 50.0)]]), 280)]
    assert runs(values) == [(0, 200), (1, 30), (2, 40)]


# ---------------------------------------------------------------------------------------------- a busy intersection


def busy(dtype: torch.dtype, worlds: int) -> tuple[tg.Simulator, TrafficState]:
    """Four arms of two lanes and a turning lane, each with 700 vehicles/h to all other arms; green comes soon."""
    network = intersection(lanes=2, arm_length=150.0, green=12.0, left_green=6.0)
    graph = nx.DiGraph((network.edge_index(c.from_edge), network.edge_index(c.to_edge)) for c in network.connections)
    starts = [e for e in graph if graph.in_degree(e) == 0]
    ends = [e for e in graph if graph.out_degree(e) == 0]
    pairs = [(a, b) for a in starts for b in ends if network.edges[a][0] != network.edges[b][1]]
    network = network.with_routes([nx.shortest_path(graph, a, b) for a, b in pairs])
    inflows = [
        Inflow(a, tuple(r for r, (start, _) in enumerate(pairs) if start == a), kind="poisson", rate=700 / 3600)
        for a in starts
    ]
    sim = simulator(network, dtype, demand=Demand(inflows), lane_change=tg.MOBIL(sides="alternate"))
    slots = 90
    empty = TrafficState(
        torch.zeros(worlds, slots, dtype=dtype),
        torch.zeros(worlds, slots, dtype=dtype),
        torch.zeros(worlds, slots, dtype=torch.int64),
        active=torch.zeros(worlds, slots, dtype=torch.bool),
        driver=torch.zeros(worlds, slots, dtype=torch.int64),
        seed=torch.arange(worlds),
    )
    assert sim.demand is not None
    return sim, started(sim, sim.demand.start(empty))


@torch.no_grad()
def test_nobody_enters_on_red_but_who_could_not_have_stopped() -> None:
    """1,000 steps of two worlds. Who enters at yellow or red would have had to brake hard when the green ended."""
    sim, state = busy(torch.float32, worlds=2)
    network, signals = sim.network, sim.signals
    assert signals is not None
    junctions = network.tables(torch.float32, "cpu").junctions
    limit = sim.right_of_way.stop_deceleration
    needed = torch.zeros_like(state.speed)  # m/s2 to stop at the line, at the first sight of yellow
    was_green = torch.zeros_like(state.active)
    model = tg.IDM(13.9, 1.0, 1.0, 1.5)
    entered = {"green": 0, "late": 0}
    for _ in range(1000):
        around = sim.neighbors(state)
        assert around.ahead is not None
        gate, distance = around.ahead.gate[..., 0], around.ahead.gate_distance[..., 0]
        way = gate.clamp(min=0)
        letter = signals.shown(
            state.phase, torch.where(gate >= 0, junctions.signal[way], -1), junctions.signal_index[way]
        )
        green = letter >= YIELDING
        brakes = model.acceleration(state.speed, distance, state.speed)
        needed = torch.where(was_green & ~green, brakes, needed)
        after = sim.step(state, neighbors=around)
        goes = state.active & after.active & (after.lane == gate) & (gate >= 0)
        entered["green"] += int((goes & green).sum())
        entered["late"] += int((goes & ~green).sum())
        # Drivers who slow down for a turn feel up to 1 m/s2 more than this formula.
        assert bool((needed[goes & ~green] < -limit + 1.0).all())
        same = (after.lane == state.lane) & (after.vehicle_id == state.vehicle_id)
        was_green = green & same & (gate >= 0)
        state = after
    assert entered["green"] > 40 and entered["late"] > 5, entered
    assert torch.equal(state.active.sum(1) + state.left, state.inserted.sum(1))


def test_gradients_of_states_do_not_pass_through_the_clock() -> None:
    """Phases are data: a step with signals is differentiable and its phases are not."""
    network = lit_road(phases((3.0, "G"), (3.0, "r")))
    sim = simulator(network)
    speed = torch.tensor([[10.0]], dtype=DOUBLE, requires_grad=True)
    state = started(sim, dataclasses.replace(state_of(network, [[Placed(0, 200.0)]]), speed=speed))
    for _ in range(20):
        state = sim.step(state)
    assert not state.phase_time.requires_grad
    (slope,) = torch.autograd.grad(state.position.sum(), speed)
    shifted: list[Tensor] = []
    for shift in (1e-6, -1e-6):
        other = started(sim, dataclasses.replace(state_of(network, [[Placed(0, 200.0)]]), speed=speed.detach() + shift))
        for _ in range(20):
            other = sim.step(other)
        shifted.append(other.position)
    assert float(slope) == pytest.approx(float((shifted[0] - shifted[1]) / 2e-6), rel=1e-6)


def test_a_new_green_does_not_open_the_way_for_who_yields() -> None:
    """At the line when the light turns green: the left turn waits until the vehicle that comes towards it is over.

    It does so inside the junction, where the other's way begins.
    """
    network = intersection(lanes=1, left_lanes=0, protected_left=False)
    network = network.with_routes([["south_in", "west_out"], ["north_in", "south_out"]])
    line = float(network.lane_length[road_lane(network, "south_in")])
    left, straight = way_lane(network, "south_in", "west_out"), way_lane(network, "north_in", "south_out")
    # Nearer to the line than the standstill gap, where who brakes late for a yellow may come to stand.
    start = state_of(network, [[Placed(0, line - 0.01), Placed(1, line - 1.8)]])
    place = float(network.tables(DOUBLE, "cpu").junctions.waits_at[left])
    seen = [(*state.lane[0].tolist(), float(state.position[0, 0])) for state in states(simulator(network), start, 480)]
    begins = next(k for k, (_, other, _) in enumerate(seen) if other == straight)
    over = next(k for k, (_, other, _) in enumerate(seen) if k > begins and other != straight)
    enters = next(k for k, (own, _, _) in enumerate(seen) if own == left)
    turns = next(k for k, (own, _, position) in enumerate(seen) if own == left and position > place)
    assert enters < begins < over - 20 < turns
    assert place - 1.0 < seen[over - 20][2] < place
