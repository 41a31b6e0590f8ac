"""The built networks: exact facts of each, and what must hold on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import networkx as nx
import numpy as np
import pytest
import torch

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import (
    Meter,
    RoadNetwork,
    arterial,
    bottleneck,
    figure_eight,
    grid,
    highway,
    intersection,
    merge,
    roundabout,
)
from trafficgrad.network.conflicts import CROSSING, DIVERGE, MERGE

CASES: dict[str, Callable[[], RoadNetwork]] = {
    "figure_eight": figure_eight,
    "figure_eight, 2 lanes": lambda: figure_eight(radius=40.0, lanes=2, right_of_way="all_way_stop"),
    "merge": merge,
    "merge, 2 lanes, zipper": lambda: merge(lanes=2, right_of_way="zipper"),
    "merge, acceleration lane": lambda: merge(lanes=2, acceleration_lane=200.0),
    "merge, acceleration lane, zipper": lambda: merge(acceleration_lane=150.0, right_of_way="zipper"),
    "bottleneck": bottleneck,
    "bottleneck, 8 lanes": lambda: bottleneck(8),
    "grid": lambda: grid(2, 3),
    "grid, straight on": lambda: grid(2, 3, turns=False, kind="actuated"),
    "grid, 1 x 1": lambda: grid(1, 1),
    "grid, protected": lambda: grid(2, 2, lanes=2, protected_left=True, offsets=[0.0, 5.0, 10.0, 15.0]),
    "intersection": intersection,
    "intersection, 1 lane": lambda: intersection(1, left_lanes=0, protected_left=False),
    "intersection, 3 lanes, 2 turning": lambda: intersection(3, left_lanes=2, kind="controlled"),
    "intersection, left lane": lambda: intersection(2, left_lanes=0),
    "intersection, yielding": lambda: intersection(2, protected_left=False, all_red=0.0),
    "intersection, priority": lambda: intersection(control="priority", left_lanes=0),
    "intersection, all-way stop": lambda: intersection(1, control="all_way_stop"),
    "roundabout": roundabout,
    "roundabout, 2 lanes": lambda: roundabout(lanes=2),
    "roundabout, 3 arms": lambda: roundabout(arms=3, radius=15.0),
    "roundabout, 6 arms": lambda: roundabout(arms=6, radius=40.0, lanes=2),
    "highway": highway,
    "highway, on-ramp": lambda: highway(on_ramp_at=1000.0),
    "highway, off-ramp": lambda: highway(off_ramp_at=1000.0, lanes=2),
    "highway, both": lambda: highway(on_ramp_at=800.0, off_ramp_at=2000.0),
    "highway, exit first": lambda: highway(on_ramp_at=2000.0, off_ramp_at=800.0),
    "highway, weaving": lambda: highway(on_ramp_at=1000.0, off_ramp_at=1400.0, lanes=1),
    "arterial": arterial,
    "arterial, turning lanes": lambda: arterial(3, [250.0, 400.0], left_lanes=1, protected_left=True, side_lanes=2),
    "arterial, left lane": lambda: arterial(2, protected_left=True, offsets=[0.0, 20.0]),
}
LANE_DROPS = {
    "merge, acceleration lane": {("highway_merge", 0)},
    "highway, on-ramp": {("highway_1", 0)},
    "highway, both": {("highway_1", 0)},
    "highway, exit first": {("highway_3", 0)},
}
LANES_THAT_OPEN = {
    "highway, off-ramp": {("highway_1", 0)},
    "highway, both": {("highway_3", 0)},
    "highway, exit first": {("highway_1", 0)},
}

every_network = pytest.mark.parametrize("case", CASES)


@cache
def build(case: str) -> RoadNetwork:
    return CASES[case]()


def name_of(network: RoadNetwork, edge: int) -> str:
    return str(network.edges[edge][2])


def neighbours(table: torch.Tensor, lane: int) -> list[int]:
    return [a for a in table[lane].tolist() if a >= 0]


def edge_graph(network: RoadNetwork) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(key[2] for key in network.edges)
    graph.add_edges_from((way.from_edge[2], way.to_edge[2]) for way in network.connections)
    return graph


def entries_and_exits(network: RoadNetwork) -> tuple[set[str], set[str]]:
    graph = edge_graph(network)
    return {e for e in graph if not graph.in_degree(e)}, {e for e in graph if not graph.out_degree(e)}


def routes_between(network: RoadNetwork) -> set[tuple[str, str]]:
    graph = edge_graph(network)
    entries, exits = entries_and_exits(network)
    return {(a, b) for a in entries for b in exits if nx.has_path(graph, a, b)}


def conflicts(network: RoadNetwork) -> dict[tuple[int, int], int]:
    """Kind of conflict of two connections, by their rows."""
    tables = network.tables(torch.float64, "cpu").junctions
    found = {}
    for lane in torch.nonzero(tables.is_junction)[:, 0].tolist():
        for foe, kind in zip(tables.foe[lane].tolist(), tables.kind[lane].tolist(), strict=True):
            if foe >= 0:
                found[int(network.lane_connection[lane]), int(network.lane_connection[foe])] = kind
    return found


def way(network: RoadNetwork, start: str, end: str, lane: int = 0) -> int:
    """Row of the connection from a lane of one edge to another edge."""
    rows = [
        c
        for c, one in enumerate(network.connections)
        if (one.from_edge[2], one.to_edge[2], one.from_lane) == (start, end, lane)
    ]
    assert len(rows) == 1, (start, end, lane, rows)
    return rows[0]


def length_of(network: RoadNetwork, name: str) -> float:
    edge = network.edge_index(name)
    return float(network.lane_length[network.edge == edge][0])


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    cross, dot = a[0] * b[1] - a[1] * b[0], float(a @ b)
    return abs(math.degrees(math.atan2(cross, dot)))


# ---------------------------------------------------------------------- what holds everywhere


@every_network
def test_names_are_unique_and_found(case: str) -> None:
    network = build(case)
    names = [key[2] for key in network.edges]
    assert len(set(names)) == len(names)
    assert [network.edge_index(name) for name in names] == list(range(len(names)))


@every_network
def test_lanes_join_where_they_end(case: str) -> None:
    network = build(case)
    for lane in range(len(network.lanes)):
        line = network.lane_geometry(lane).numpy()
        for after in neighbours(network.successors, lane):
            onward = network.lane_geometry(after).numpy()
            assert np.hypot(*(onward[0] - line[-1])) < 0.01
            # Curves are drawn in pieces of up to 13 degrees: half a piece.
            assert angle_between(line[-1] - line[-2], onward[1] - onward[0]) < 8.0


@every_network
def test_lengths_are_those_of_the_lines(case: str) -> None:
    network = build(case)
    for lane, along in enumerate(network.lane_length.tolist()):
        if network.is_junction[lane] or network.max_lanes == 1:  # lanes of a bend are as long as their middle
            drawn = float(np.hypot(*np.diff(network.lane_geometry(lane).numpy(), axis=0).T).sum())
            assert along == pytest.approx(drawn, rel=1e-3)


@every_network
def test_lanes_keep_their_distance(case: str) -> None:
    """No two roads lie on each other: lanes of edges that do not follow each other are a lane's width apart."""
    network = build(case)
    joined = {(way.from_edge, way.to_edge) for way in network.connections}
    lines = []
    for lane in torch.nonzero(~network.is_junction)[:, 0].tolist():
        points = network.lane_geometry(lane).numpy()
        along = np.concatenate([[0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
        at = np.linspace(0.0, along[-1], int(along[-1] / 2.0) + 2)
        lines.append(np.stack([np.interp(at, along, points[:, k]) for k in range(2)], -1))
    for a, one in enumerate(lines):
        for b in range(a):
            first, second = (network.edges[network.lanes[lane].edge] for lane in (a, b))
            if first == second or (first, second) in joined or (second, first) in joined:
                continue
            other = lines[b]
            if (one.min(0) > other.max(0) + 4.0).any() or (other.min(0) > one.max(0) + 4.0).any():
                continue
            distance = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1)).min()
            assert distance > 3.4, (first, second, distance)


@every_network
def test_lanes_lead_somewhere(case: str) -> None:
    network = build(case)
    entries, exits = entries_and_exits(network)
    ends, opens = set(), set()
    for lane in torch.nonzero(~network.is_junction)[:, 0].tolist():
        name, number = name_of(network, network.lanes[lane].edge), network.lanes[lane].number
        if name not in exits and not neighbours(network.successors, lane):
            ends.add((name, number))
        if name not in entries and not neighbours(network.predecessors, lane):
            opens.add((name, number))
    assert ends == LANE_DROPS.get(case, set())
    assert opens == LANES_THAT_OPEN.get(case, set())


@every_network
def test_routes_compile(case: str) -> None:
    network = build(case)
    graph = edge_graph(network)
    pairs = sorted(routes_between(network))
    routed = network.with_routes([nx.shortest_path(graph, a, b) for a, b in pairs])
    assert len(routed.routes) == len(pairs)


@every_network
def test_graph_round_trip(case: str) -> None:
    network = build(case)
    again = RoadNetwork.from_graph(network.to_graph())
    assert again.edges == network.edges
    assert again.lanes == network.lanes
    assert again.connections == network.connections
    assert again.signals == network.signals
    assert torch.equal(again.lane_length, network.lane_length)
    assert torch.equal(again.speed_limit, network.speed_limit)
    assert torch.equal(again.successors, network.successors)
    assert conflicts(again) == conflicts(network)


# ---------------------------------------------------------------------- signals

with_signals = pytest.mark.parametrize("case", [case for case in CASES if build(case).signals])


@with_signals
def test_every_connection_of_a_junction_has_its_letter(case: str) -> None:
    network = build(case)
    for signal in network.signals:
        letters = [way.signal_index for way in network.connections if way.signal == signal.name]
        assert letters == list(range(len(signal.states[0])))
        assert len({way.from_edge[1] for way in network.connections if way.signal == signal.name}) == 1


@with_signals
def test_green_for_nobody_who_crosses_another_green(case: str) -> None:
    network = build(case)
    states = {signal.name: signal.states for signal in network.signals}
    ways = network.connections
    yields = 0
    for (one, other), kind in conflicts(network).items():
        a, b = ways[one], ways[other]
        if kind == DIVERGE or a.signal is None:
            continue
        for state in states[a.signal]:
            pair = state[a.signal_index] + state[b.signal_index]
            assert pair not in ("GG", "gg"), (a, b)
            if pair == "gG":
                yields += 1
                assert a.priority < b.priority
    protected = "protected" in case or "turn" in case or "left lane" in case or case == "intersection"
    assert yields > 0 or protected or case == "grid, straight on"


@with_signals
def test_yellow_and_red_follow_green(case: str) -> None:
    for signal in build(case).signals:
        for letter in range(len(signal.states[0])):
            shown = [state[letter] for state in signal.states]
            assert set(shown) >= {"r", "y"} and set(shown) & set("gG")
            for now, then in zip(shown, [*shown[1:], shown[0]], strict=True):
                assert now + then not in ("Gr", "gr", "ry", "yG", "yg")


@pytest.mark.parametrize("kind", ["fixed", "actuated", "controlled"])
def test_only_greens_may_be_stretched(kind: str) -> None:
    (signal,) = intersection(kind=kind, min_green=7.0, max_green=50.0).signals
    assert signal.kind == kind
    for state, duration, least, most in zip(
        signal.states, signal.durations, signal.shortest, signal.longest, strict=True
    ):
        stretches = kind != "fixed" and "G" in state
        assert (least, most) == ((7.0, 50.0) if stretches else (duration, duration))


def test_phases_of_an_intersection() -> None:
    (signal,) = intersection(left_lanes=0, lanes=1, protected_left=False, offset=4.0).signals
    assert signal.name == "center" and signal.offset == 4.0 and signal.kind == "fixed"
    # Straight, right, left from the east, the north, the west, the south.
    assert signal.states == (
        "GGgrrrGGgrrr", "yyyrrryyyrrr", "rrrrrrrrrrrr",
        "rrrGGgrrrGGg", "rrryyyrrryyy", "rrrrrrrrrrrr",
    )  # fmt: skip
    assert signal.durations == (30.0, 3.0, 2.0, 30.0, 3.0, 2.0)


def test_cycle_and_offsets_of_an_arterial() -> None:
    network = arterial(3, offsets=[0.0, 20.0, 40.0], cycle=80.0, green=35.0)
    assert [signal.name for signal in network.signals] == ["signal_0", "signal_1", "signal_2"]
    assert [signal.offset for signal in network.signals] == [0.0, 20.0, 40.0]
    assert [signal.cycle for signal in network.signals] == [80.0, 80.0, 80.0]
    assert network.signals[0].durations == (35.0, 3.0, 2.0, 35.0, 3.0, 2.0)
    protected = arterial(1, protected_left=True, left_green=8.0)
    assert protected.signals[0].durations == (8.0, 3.0, 2.0, 30.0, 3.0, 2.0, 7.0, 3.0, 2.0)
    main = network.connections[way(network, "east_1", "east_2")]
    assert network.signals[1].states[0][main.signal_index] == "G"


# ---------------------------------------------------------------------- each builder


def test_figure_eight() -> None:
    network = figure_eight()
    assert len(network.edges) == 6 and sum(network.edge_lanes) == 6
    assert float(network.lane_length.sum()) == pytest.approx((3 * math.pi + 4) * 30.0, abs=1e-6)
    assert network.is_closed and int(network.is_junction.sum()) == 2
    loop = ["left", "right", "upper_ring", "top", "bottom", "lower_ring"]
    assert len(network.with_routes([loop], loops=True).routes) == 1
    one, other = way(network, "left", "right"), way(network, "top", "bottom")
    assert conflicts(network) == {(one, other): CROSSING, (other, one): CROSSING}
    ways = network.connections
    assert ways[one].priority == ways[other].priority and not ways[one].stop
    stops = figure_eight(right_of_way="all_way_stop").connections
    assert [c.stop for c in stops if c.from_edge[2] in ("left", "top")] == [True, True]


def test_merge() -> None:
    network = merge()
    assert [key[2] for key in network.edges] == ["highway_in", "ramp", "highway_out"]
    assert routes_between(network) == {("highway_in", "highway_out"), ("ramp", "highway_out")}
    road, ramp = way(network, "highway_in", "highway_out"), way(network, "ramp", "highway_out")
    length = length_of(network, "highway_in") + network.connections[road].length + length_of(network, "highway_out")
    assert length == pytest.approx(700.0)
    assert length_of(network, "ramp") == 200.0
    assert conflicts(network)[road, ramp] == MERGE
    assert network.connections[road].priority > network.connections[ramp].priority
    assert set(network.speed_limit.tolist()) == {30.0}
    zipper = merge(right_of_way="zipper").connections
    assert zipper[road].priority == zipper[ramp].priority


def test_merge_with_two_lanes_leaves_the_left_one_alone() -> None:
    network = merge(lanes=2)
    ramp = way(network, "ramp", "highway_out")
    foes = {b for a, b in conflicts(network) if a == ramp}
    assert foes == {way(network, "highway_in", "highway_out", 0)}


def test_merge_with_an_acceleration_lane() -> None:
    network = merge(lanes=2, acceleration_lane=200.0)
    assert not network.is_junction.any()  # lanes only go on, or end
    middle = network.edge_index("highway_merge")
    assert network.edge_lanes[middle] == 3
    assert length_of(network, "highway_merge") == 200.0 and length_of(network, "highway_out") == 100.0
    assert network.connections[way(network, "ramp", "highway_merge")].to_lane == 0
    assert network.connections[way(network, "highway_in", "highway_merge")].to_lane == 1
    zipper = merge(lanes=2, acceleration_lane=200.0, right_of_way="zipper")
    kinds = conflicts(zipper)
    pair = way(zipper, "highway_merge", "highway_out", 0), way(zipper, "highway_merge", "highway_out", 1)
    assert kinds == {pair: MERGE, pair[::-1]: MERGE}


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_bottleneck(lanes: int) -> None:
    network = bottleneck(lanes)
    assert network.edge_lanes == (lanes, lanes, lanes, lanes // 2, lanes // 4)
    zips = [way for way in network.connections if way.geometry is not None]
    assert [(c.from_lane, c.to_lane) for c in zips if c.from_edge[2] == "section_3"] == [
        (i, i // 2) for i in range(lanes)
    ]
    lengths = [length_of(network, f"section_{s}") for s in range(1, 6)]
    assert lengths == [100.0, 310.0, 110.0, 15.0, 155.0] and sum(lengths) + 30.0 + 15.0 == 735.0
    assert set(network.speed_limit.tolist()) == {23.0}
    assert {c.priority for c in zips} == {0}
    pairs = {(a, b) for a, b in conflicts(network)}
    ways = network.connections
    assert {(ways[a].from_lane // 2, ways[a].to_edge) for a, _ in pairs} == {
        (ways[b].from_lane // 2, ways[b].to_edge) for _, b in pairs
    }
    assert len(pairs) == lanes + lanes // 2  # each lane with the other one of its pair
    assert set(conflicts(network).values()) == {MERGE}


@pytest.mark.parametrize(("lanes", "turns"), [(4, [0, 2, 1, 3]), (8, [0, 4, 2, 6, 1, 5, 3, 7])])
def test_bottleneck_with_a_meter(lanes: int, turns: list[int]) -> None:
    network = bottleneck(lanes, meter=Meter(0.5, green=1.5, distance=60.0))
    assert network.edge_lanes == (lanes, lanes, lanes, lanes, lanes // 2, lanes // 4)
    assert length_of(network, "section_3") == 50.0 and length_of(network, "section_3_end") == 60.0
    (signal,) = network.signals
    assert signal.name == "meter" and signal.durations == (1.5, 0.5) * lanes
    assert [state.find("G") for state in signal.states] == [lane for turn in turns for lane in (turn, -1)]
    stops = [network.connections[way(network, "section_3", "section_3_end", i)] for i in range(lanes)]
    assert [(stop.to_lane, stop.signal, stop.signal_index) for stop in stops] == [(i, "meter", i) for i in range(lanes)]


def test_grid() -> None:
    network = grid()
    assert len(network.edges) == 48 and len(network.signals) == 9 and len(network.connections) == 9 * 12
    entries, exits = entries_and_exits(network)
    assert len(entries) == len(exits) == 12
    assert routes_between(network) == {(a, b) for a in entries for b in exits}
    straight = network.connections[way(network, "east_1_1", "east_1_2")]
    assert length_of(network, "east_1_1") + straight.length == pytest.approx(300.0)
    network.with_routes([["east_0_0", "east_0_1", "north_1_1", "north_2_1", "west_2_1", "west_2_0"]])


def test_grid_without_turns() -> None:
    network = grid(2, 3, turns=False)
    assert len(network.connections) == 6 * 4
    expected = {(f"east_{r}_0", f"east_{r}_3") for r in range(2)} | {(f"west_{r}_3", f"west_{r}_0") for r in range(2)}
    expected |= {(f"north_0_{c}", f"north_2_{c}") for c in range(3)}
    expected |= {(f"south_2_{c}", f"south_0_{c}") for c in range(3)}
    assert routes_between(network) == expected
    assert network.signals[0].states[0] == "GrGr"


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("intersection")])
def test_intersection_leads_everywhere_but_back(case: str) -> None:
    sides = ("east", "north", "west", "south")
    assert routes_between(build(case)) == {(f"{a}_in", f"{b}_out") for a in sides for b in sides if a != b}


def test_intersection() -> None:
    network = intersection()
    assert len(network.edges) == 12 and len(network.connections) == 4 * (4 + 3)
    assert network.edge_lanes[network.edge_index("west_in_approach")] == 3
    assert length_of(network, "west_in_approach") == 60.0
    turns = [c for c in network.connections if c.from_edge[2] == "west_in_approach"]
    assert [(c.from_lane, c.to_edge[2], c.to_lane) for c in turns] == [
        (0, "east_out", 0),
        (1, "east_out", 1),
        (0, "south_out", 0),
        (2, "north_out", 1),
    ]
    along = length_of(network, "west_in") + 30.0 + 60.0
    crossing = network.connections[way(network, "west_in_approach", "east_out")]
    assert along + crossing.length / 2 == pytest.approx(200.0)
    right = network.connections[way(network, "west_in_approach", "south_out")]
    assert 3.0 < right.speed_limit < 6.0 < crossing.speed_limit == 13.9


@pytest.mark.parametrize("case", ["grid", "arterial", "intersection", "intersection, priority"])
def test_drivers_without_a_route_go_straight_on(case: str) -> None:
    network = build(case)
    tables = network.tables(torch.float64, "cpu")
    for lane in torch.nonzero(~network.is_junction)[:, 0].tolist():
        after = int(tables.successor[lane])
        if after >= 0 and len(neighbours(network.successors, lane)) > 1:
            line = network.lane_geometry(after).numpy()
            assert angle_between(line[1] - line[0], line[-1] - line[-2]) < 1.0


@pytest.mark.parametrize("turning", [0, 1])
def test_conflicts_of_an_intersection(turning: int) -> None:
    network = intersection(2, left_lanes=turning)
    end = "_in_approach" if turning else "_in"
    left = 1 + turning
    straight = {side: way(network, side + end, other + "_out") for side, other in (("west", "east"), ("east", "west"))}
    across = way(network, "south" + end, "north_out")
    lefts = way(network, "west" + end, "north_out", left), way(network, "east" + end, "south_out", left)
    kinds = conflicts(network)
    assert (straight["west"], straight["east"]) not in kinds
    assert lefts not in kinds
    assert kinds[straight["west"], across] == kinds[straight["east"], across] == CROSSING
    assert kinds[lefts[0], straight["east"]] == kinds[lefts[1], straight["west"]] == CROSSING
    assert (lefts[0], straight["west"]) not in kinds  # its own neighbour
    right = way(network, "east" + end, "north_out")
    assert (lefts[0], right) not in kinds  # each has a lane of its own
    assert (straight["west"], right) not in kinds


def test_right_of_way_at_an_intersection() -> None:
    network = intersection(1, control="priority", left_lanes=0)
    assert not network.signals
    rank = {(c.from_edge[2], c.to_edge[2]): c.priority for c in network.connections}
    order = [("west_in", "east_out"), ("west_in", "south_out"), ("west_in", "north_out"), ("south_in", "north_out")]
    assert [rank[pair] for pair in order] == sorted({rank[pair] for pair in order}, reverse=True)
    stops = intersection(1, control="all_way_stop", left_lanes=0).connections
    assert all(c.stop for c in stops) and {c.priority for c in stops} == {0}


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("roundabout")])
def test_who_waits_on_a_roundabout_leaves_the_exit_free(case: str) -> None:
    """Else the ring locks: everybody in it waits for the next one, whose rear stands in the way of the exit."""
    network = build(case)
    tables = network.tables(torch.float64, "cpu").junctions
    at = [e for e in range(len(network.edges)) if name_of(network, e).startswith("ring_at_")]
    assert min(length_of(network, name_of(network, e)) for e in at) > 7.0  # a car and the gap before it
    for lane in torch.nonzero(tables.is_junction)[:, 0].tolist():
        if int(network.edge[tables.target[lane]]) in at:
            shared = tables.own_exit[lane][tables.foe[lane] >= 0]
            assert len(shared) and float(shared.max()) <= float(network.lane_length[lane])


@pytest.mark.parametrize("lanes", [1, 2])
def test_roundabout(lanes: int) -> None:
    network = roundabout(lanes=lanes)
    sides = ("east", "north", "west", "south")
    assert len(network.edges) == 16 and len(network.connections) == 16 * lanes
    assert routes_between(network) == {(f"{a}_in", f"{b}_out") for a in sides for b in sides}
    route = ["south_in", "ring_after_south", "ring_at_east", "ring_after_east", "north_out"]
    network.with_routes([route])
    kinds = conflicts(network)
    enters, passes = way(network, "east_in", "ring_after_east"), way(network, "ring_at_east", "ring_after_east")
    assert kinds[enters, passes] == MERGE
    assert network.connections[enters].priority < network.connections[passes].priority
    ring = network.lane_geometry(int(torch.nonzero(network.edge == network.edge_index("ring_after_east"))[0])).numpy()
    assert np.hypot(*ring.T) == pytest.approx(20.0 + (lanes - 1) * 1.75)
    assert ring[0][0] * ring[-1][1] - ring[0][1] * ring[-1][0] > 0  # counter-clockwise
    if lanes == 2:
        leaves = way(network, "ring_after_south", "east_out", 1)
        stays = way(network, "ring_after_south", "ring_at_east", 0)
        assert kinds[leaves, stays] == CROSSING
        assert network.connections[leaves].priority < network.connections[stays].priority


def test_highway() -> None:
    assert len(highway().edges) == 1 and float(highway().lane_length.sum()) == 9000.0
    both = highway(on_ramp_at=800.0, off_ramp_at=2000.0)
    assert [length_of(both, f"highway_{k}") for k in range(5)] == [800.0, 250.0, 750.0, 200.0, 1000.0]
    assert both.edge_lanes[:5] == (3, 4, 3, 4, 3)
    assert not both.is_junction.any()
    expected = {(a, b) for a in ("highway_0", "on_ramp") for b in ("highway_4", "off_ramp")}
    assert routes_between(both) == expected
    assert both.connections[way(both, "highway_3", "off_ramp")].from_lane == 0
    weaving = highway(on_ramp_at=1000.0, off_ramp_at=1400.0, lanes=2)
    assert [length_of(weaving, f"highway_{k}") for k in range(3)] == [1000.0, 400.0, 1600.0]
    assert routes_between(weaving) == {(a, b) for a in ("highway_0", "on_ramp") for b in ("highway_2", "off_ramp")}
    first_off = build("highway, exit first")
    assert ("on_ramp", "off_ramp") not in routes_between(first_off)
    assert ("highway_0", "off_ramp") in routes_between(first_off)


def test_arterial() -> None:
    network = arterial()
    assert len(network.edges) == 2 * 6 + 5 * 4 and len(network.signals) == 5
    assert len(network.connections) == 5 * (2 * 4 + 2 * 3)
    entries, exits = entries_and_exits(network)
    assert len(entries) == len(exits) == 12
    back = {("east_0", "west_0"), ("west_5", "east_5")}
    back |= {(f"{side}_in_{j}", f"{side}_out_{j}") for side in ("north", "south") for j in range(5)}
    assert routes_between(network) == {(a, b) for a in entries for b in exits} - back
    across = network.connections[way(network, "east_1", "east_2")]
    assert length_of(network, "east_1") + across.length == pytest.approx(300.0)
    total = sum(length_of(network, f"east_{j}") for j in range(6)) + 5 * across.length
    assert total == pytest.approx(4 * 300.0 + 2 * 200.0)
    uneven = arterial(3, [250.0, 400.0])
    assert uneven.node_position[list(uneven.nodes).index("junction_2")].tolist() == [650.0, 0.0]


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: figure_eight(radius=-1.0), "figure_eight: radius must be a finite number > 0, got -1.0"),
        (lambda: figure_eight(radius=10.0, lanes=4), "radius must be more than 11 m for 4 lanes, got 10.0"),
        (lambda: figure_eight(right_of_way="zipper"), "unknown right_of_way 'zipper'.*all_way_stop"),
        (lambda: figure_eight(lanes=0), "figure_eight: lanes must be an integer >= 1, got 0"),
        (lambda: merge(right_of_way="ziper"), "did you mean 'zipper'"),
        (lambda: merge(post_merge_length=30.0), "post_merge_length must be more than the 40 m .* got 30.0"),
        (lambda: merge(acceleration_lane=-5.0), "acceleration_lane must be a finite number >= 0, got -5.0"),
        (lambda: merge(speed_limit=0.0), "speed_limit must be > 0 m/s"),
        (lambda: merge(ramp_length=math.nan), "ramp_length must be a finite number > 0, got nan"),
        (lambda: bottleneck(6), "lanes must be a multiple of 4, since it is halved twice, got 6"),
        (lambda: bottleneck(lengths=[100.0, 100.0]), "lengths needs 5 values, one a section, got 2"),
        (lambda: bottleneck(lengths=[100.0, 100.0, 20.0, 30.0, 50.0]), "section 3 must be longer than the 30 m"),
        (lambda: bottleneck(meter=Meter(0.2, distance=110.0)), "a meter 110 m before .* is 110 m long up to there"),
        (lambda: grid(rows=0), "grid: rows must be an integer >= 1, got 0"),
        (lambda: grid(inner_length=20.0), "street 'east_0_1' is 20 m long, but .* need at least 27 m"),
        (lambda: grid(protected_left=True), "grid: protected left turns need a lane of their own.* got one lane"),
        (lambda: grid(offsets=[0.0, 1.0]), "offsets needs one value for each of 9 signals, got 2"),
        (lambda: grid(kind="adaptive"), "grid: unknown kind 'adaptive'.*fixed, actuated, controlled"),
        (lambda: grid(yellow=0.0), "grid: yellow must be a finite number > 0, got 0.0"),
        (lambda: intersection(control="yield"), "unknown control 'yield'.*all_way_stop"),
        (lambda: intersection(1, left_lanes=2), "2 turning lanes cannot lead into 1 lanes"),
        (lambda: intersection(1, left_lanes=0), "protected left turns need a lane of their own"),
        (lambda: intersection(arm_length=100.0), "street 'east_in' is 100 m long, but .* need at least 113.75 m"),
        (lambda: intersection(kind="actuated", max_green=20.0), "min_green <= every green <= max_green"),
        (lambda: roundabout(arms=1), "roundabout: arms must be an integer >= 2, got 1"),
        (lambda: roundabout(lanes=3), "lanes must be 1 or 2, got 3"),
        (lambda: roundabout(arms=8, radius=15.0), "8 arms need a radius of at least 38.9 m, got 15.0"),
        (lambda: roundabout(arm_length=30.0), "arm_length must be at least 38.9 m, got 30.0"),
        (lambda: highway(on_ramp_at=2900.0), "extra lane from 2900 to 3150 m .* highway's 3000 m"),
        (lambda: highway(off_ramp_at=100.0), "extra lane from -100 to 100 m"),
        (lambda: highway(on_ramp_at=500.0, off_ramp_at=500.0), "must differ, both are 500.0"),
        (lambda: arterial(3, [200.0]), "spacing needs one value for each of the 2 sections between junctions, got 1"),
        (lambda: arterial(green="long"), "arterial: green must be a finite number > 0, got 'long'"),  # type: ignore[arg-type]
        (lambda: arterial(cycle=40.0), "a cycle of 40 s leaves 0 s of green to the side streets"),
        (lambda: arterial(left_lanes=2), "2 turning lanes cannot lead into 1 lanes; choose left_lanes <= side_lanes"),
    ],
)
def test_mistakes_get_one_sentence(call: Callable[[], RoadNetwork], sentence: str) -> None:
    with pytest.raises(TrafficGradError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
