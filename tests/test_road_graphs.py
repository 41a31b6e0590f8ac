"""Road graphs: what is refused and in which words, default connections, junction lanes, conflicts, and the plan."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from oracles.road_worlds import add_road

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.network.conflicts import BODY_WIDTH, CROSSING, DIVERGE, MERGE, find_conflicts
from trafficgrad.network.connections import Connection

IN, OUT = ("a", "b", 0), ("b", "c", 0)


# ---------------------------------------------------------------------------------------------- refusals


def street(**node: Any) -> nx.MultiDiGraph:
    """a -> b -> c along x, of two lanes each; attributes of the node b."""
    graph = nx.MultiDiGraph()
    graph.add_node("a", position=(0.0, 0.0))
    graph.add_node("b", position=(100.0, 0.0), **node)
    graph.add_node("c", position=(200.0, 0.0))
    graph.add_edge("a", "b", lanes=2)
    graph.add_edge("b", "c", lanes=2)
    return graph


def joined(*ways: Any) -> nx.MultiDiGraph:
    return street(connections=ways)


def edge_with(**attributes: Any) -> nx.MultiDiGraph:
    graph = street()
    graph.edges[IN].update(attributes)
    return graph


def signalled(phases: Any = ({"duration": 10.0, "state": "Gr"},), index: int = 0, name: str = "s", **more: Any) -> Any:
    graph = joined(Connection(IN, 0, OUT, 0, signal=name, signal_index=index))
    graph.graph["signals"] = {"s": {"phases": phases, **more}}
    return graph


def phase(**changes: Any) -> dict[str, Any]:
    return {"duration": 10.0, "state": "Gr", **changes}


BAD_GRAPHS: dict[str, tuple[nx.MultiDiGraph, str]] = {
    "connection from an edge that ends elsewhere": (
        joined(Connection(OUT, 0, OUT, 0)),
        "node 'b': connection from lane 0 of edge ('b', 'c', 0) to lane 0 of ('b', 'c', 0) is dangling: "
        "no edge ('b', 'c', 0) ends in this node",
    ),
    "connection to an edge that begins elsewhere": (
        joined(Connection(IN, 0, IN, 0)),
        "is dangling: no edge ('a', 'b', 0) begins in this node",
    ),
    "connection to no edge": (
        joined(Connection(IN, 0, ("b", "d", 0), 0)),
        "is dangling: no edge ('b', 'd', 0) begins in this node",
    ),
    "from a lane too far left": (joined(Connection(IN, 2, OUT, 0)), "edge ('a', 'b', 0) has the lanes 0 to 1, not 2"),
    "to a lane too far left": (joined(Connection(IN, 0, OUT, 7)), "edge ('b', 'c', 0) has the lanes 0 to 1, not 7"),
    "to a lane below 0": (joined(Connection(IN, 0, OUT, -1)), "edge ('b', 'c', 0) has the lanes 0 to 1, not -1"),
    "twice the same": (
        joined(Connection(IN, 0, OUT, 1), Connection(IN, 0, OUT, 1, stop=True)),
        "node 'b': connection from lane 0 of edge ('a', 'b', 0) to lane 1 of ('b', 'c', 0) is given twice",
    ),
    "connection of no length": (joined(Connection(IN, 0, OUT, 0, length=0.0)), "length must be > 0, got 0.0"),
    "endless connection": (
        joined(Connection(IN, 0, OUT, 0, length=math.inf)),
        "length must be a finite number of metres > 0, got inf",
    ),
    "connection at no speed": (joined(Connection(IN, 0, OUT, 0, speed_limit=-1.0)), "speed_limit must be > 0"),
    "unknown field of a connection": (
        joined({"from_edge": IN, "from_lane": 0, "to_edge": OUT, "to_lane": 0, "prioriti": 1}),
        "node 'b': unknown field 'prioriti' of a connection (did you mean 'priority'?)",
    ),
    "half a connection": (
        joined({"from_edge": IN, "from_lane": 0}),
        "node 'b': a connection lacks to_edge, to_lane",
    ),
    "no connection at all": (joined("a to b"), "a connection must be a Connection or a mapping of its fields"),
    "edge of no length": (edge_with(length=0.0), "edge 'a' -> 'b': length must be a finite number of metres > 0"),
    "edge of no extent": (
        edge_with(geometry=[(1.0, 2.0), (1.0, 2.0)]),
        "edge 'a' -> 'b': its centre line has no length; give it a geometry with distinct points",
    ),
    "unknown attribute of an edge": (
        edge_with(speedlimit=13.9),
        "edge 'a' -> 'b': unknown attribute 'speedlimit' (did you mean 'speed_limit'?); valid are length, lanes",
    ),
    "unknown attribute of a node": (
        street(conections=[]),
        "node 'b' of the road graph: unknown attribute 'conections' (did you mean 'connections'?); valid are position",
    ),
    "unknown right of way": (
        street(right_of_way="zippper"),
        "node 'b' of the road graph: unknown right_of_way 'zippper' (did you mean 'zipper'?); "
        "valid are priority, all_way_stop, zipper, signals",
    ),
    "fractional priority": (edge_with(priority=0.5), "edge 'a' -> 'b': priority must be an integer, got 0.5"),
    "too few lines of lanes": (
        edge_with(lane_geometry=[[(0.0, 0.0), (1.0, 0.0)]]),
        "edge 'a' -> 'b': lane_geometry has 1 lines for 2 lanes",
    ),
    "unknown letter": (signalled([phase(state="GR")]), "signal 's': phase 0 needs a state of the letters"),
    "no letter": (signalled([phase(state="")]), "signal 's': phase 0 needs a state of the letters"),
    "no duration": (
        signalled([phase(), phase(duration=0.0)]),
        "signal 's': phase 1 needs a duration > 0 s, got 0.0",
    ),
    "endless duration": (signalled([phase(duration=math.inf)]), "phase 0 needs a duration > 0 s, got inf"),
    "states of unequal length": (
        signalled([phase(), phase(state="rrr")]),
        "signal 's': all states need the same number of letters, got Gr, rrr",
    ),
    "shortest beyond longest": (
        signalled([phase(min_duration=20.0, max_duration=10.0)]),
        "signal 's': phase 0 needs 0 < min_duration <= max_duration, got 20.0, 10.0",
    ),
    "no phases": (signalled([]), "signal 's': expected at least one phase"),
    "unknown kind of signal": (
        signalled([phase()], kind="actuatd"),
        "signal 's': unknown kind 'actuatd' (did you mean 'actuated'?); valid are fixed, actuated, controlled",
    ),
    "letter beyond the state": (signalled(index=2), "signal 's' has the letters 0 to 1, not 2"),
    "no letter given": (signalled(index=-1), "signal 's' has the letters 0 to 1, not -1"),
    "unknown signal": (signalled(name="t"), "there is no signal 't'"),
}


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(TrafficGradError) as error:
        action()
    return str(error.value)


@pytest.mark.parametrize("case", BAD_GRAPHS)
def test_bad_graphs_are_refused_in_one_sentence_that_names_the_place(case: str) -> None:
    graph, words = BAD_GRAPHS[case]
    sentence = refused(lambda: RoadNetwork.from_graph(graph))
    assert words in sentence and "\n" not in sentence


def branching() -> RoadNetwork:
    """in -> straight or right -> far (after straight); two edges have the name "twin"."""
    graph = nx.MultiDiGraph()
    add_road(graph, "a", "b", "in", [(0.0, 0.0), (90.0, 0.0)])
    add_road(graph, "b", "c", "straight", [(110.0, 0.0), (200.0, 0.0)], name="twin")
    add_road(graph, "b", "d", "right", [(100.0, -10.0), (100.0, -100.0)], name="twin")
    add_road(graph, "c", "e", "far", [(200.0, 0.0), (300.0, 0.0)], name="farther")
    return RoadNetwork.from_graph(graph)


def test_routes_are_given_by_rows_keys_triples_or_names() -> None:
    network = branching()
    routes = [[0, 1, 3], ["in", "straight", "far"], [("a", "b", "in"), ("b", "c", "straight"), "farther"], ["right"]]
    with_routes = network.with_routes(routes)
    assert with_routes.routes.tolist() == [[0, 1, 3], [0, 1, 3], [0, 1, 3], [2, -1, -1]]
    assert with_routes.route_loops.tolist() == [False] * 4
    assert network.routes.shape == (0, 0), "the network itself stays as it was"


@pytest.mark.parametrize(
    ("routes", "loops", "words"),
    [
        ([["in", "far"]], False, "no connection leads from edge ('a', 'b', 'in') to edge ('c', 'e', 'far')"),
        ([["right", "in"]], False, "no connection leads from edge ('b', 'd', 'right') to edge ('a', 'b', 'in')"),
        ([["in", "straight"]], True, "from edge ('b', 'c', 'straight') to edge ('a', 'b', 'in')"),
        ([["in"], []], False, "a route needs at least one edge"),
        ([["inn", "straight"]], False, "there is no edge 'inn' (did you mean 'in'?) in this network"),
        ([["in", "twin"]], False, "2 edges are called 'twin': name one as (from, to, key)"),
        ([["in", 9]], False, "there is no edge 9; this network has the edges 0 to 3"),
        ([["in"], ["far"]], [True], "loops has 1 entries for 2 routes"),
    ],
)
def test_routes_that_cannot_be_driven_are_refused(routes: list, loops: bool | list[bool], words: str) -> None:
    network = branching()
    sentence = refused(lambda: network.with_routes(routes, loops))
    assert words in sentence


# ---------------------------------------------------------------------------------------------- there and back


def random_graph(seed: int) -> nx.MultiDiGraph:
    """Streets on a jittered lattice: one-way and two-way, 1-3 lanes, all rules, some own geometry and connections."""
    rng = random.Random(seed)
    graph = nx.MultiDiGraph()
    rows, columns = rng.randint(2, 3), rng.randint(2, 4)
    for i, j in itertools.product(range(rows), range(columns)):
        place = (150.0 * j + rng.uniform(-20, 20), 150.0 * i + rng.uniform(-20, 20))
        rule = rng.choice(["priority", "all_way_stop", "zipper", "signals"])
        graph.add_node(f"{i}{j}", position=place, right_of_way=rule)
        if rng.random() < 0.3:
            graph.nodes[f"{i}{j}"]["name"] = f"square {i}{j}"
    for i, j in itertools.product(range(rows), range(columns)):
        for a, b in ((i + 1, j), (i, j + 1)):
            if a == rows or b == columns:
                continue
            ways = [(f"{i}{j}", f"{a}{b}"), (f"{a}{b}", f"{i}{j}")]
            for u, v in rng.choice([ways, ways, ways[:1], ways[1:]]):
                road: dict[str, Any] = {"lanes": rng.randint(1, 3)}
                optional = {
                    "speed_limit": rng.choice([8.3, 13.9, math.inf]),
                    "priority": rng.randint(0, 2),
                    "lane_width": rng.choice([3.0, 3.5]),
                    "name": f"{u} to {v}",
                    "length": rng.uniform(100.0, 180.0),
                }
                road.update({name: value for name, value in optional.items() if rng.random() < 0.5})
                graph.add_edge(u, v, key=rng.choice(["k", 0]), **road)
    u, v, key = rng.choice(list(graph.edges(keys=True)))
    (x, y), (p, q) = graph.nodes[u]["position"], graph.nodes[v]["position"]
    line = [(x, y), ((x + p) / 2 + 5.0, (y + q) / 2 - 5.0), (p, q)]
    graph.edges[u, v, key].update(lanes=2, lane_geometry=[[(a + d, b) for a, b in line] for d in (0.0, 3.0)])
    network = RoadNetwork.from_graph(graph)
    node = rng.choice(sorted({way.from_edge[1] for way in network.connections}))
    ways = [way for way in network.connections if way.from_edge[1] == node]
    graph.graph["signals"] = {
        "lights": {
            "kind": rng.choice(["fixed", "actuated", "controlled"]),
            "offset": 3.5,
            "phases": [
                {"duration": 12.0, "state": "G" * len(ways)},
                {"duration": 3.0, "state": "y" * len(ways)},
                {"duration": 9.0, "state": "r" * len(ways)},
            ],
        }
    }
    graph.nodes[node]["connections"] = [
        Connection(*way_ends(way), signal="lights", signal_index=i, stop=rng.random() < 0.3)
        for i, way in enumerate(ways)
    ]
    return graph


def way_ends(way: Connection) -> tuple[Any, int, Any, int]:
    return way.from_edge, way.from_lane, way.to_edge, way.to_lane


def tensors(network: RoadNetwork) -> dict[str, torch.Tensor]:
    """Everything that is compiled."""
    found = {name: value for name, value in vars(network).items() if isinstance(value, torch.Tensor)}
    tables = network.tables(torch.float64, "cpu")
    for part in (tables, tables.junctions, tables.plan):
        found.update({f"{type(part).__name__}.{k}": v for k, v in part._asdict().items() if torch.is_tensor(v)})
    found.update({f"line of lane {lane}": network.lane_geometry(lane) for lane in range(len(network.lanes))})
    found.update({f"line of edge {e}": line for e, line in enumerate(network.geometry)})
    return found


@pytest.mark.parametrize("block", range(3))
def test_random_graphs_survive_the_way_there_and_back(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        network = RoadNetwork.from_graph(random_graph(seed))
        again = RoadNetwork.from_graph(network.to_graph())
        for name in ("nodes", "edges", "edge_names", "edge_lanes", "lanes", "connections", "signals"):
            assert getattr(again, name) == getattr(network, name), (seed, name)
        one, other = tensors(network), tensors(again)
        assert one.keys() == other.keys() and len(one) > 40
        for name, value in one.items():
            assert torch.equal(value, other[name]), (seed, name)
        assert again.to_graph().nodes(data=True) == network.to_graph().nodes(data=True)


# ---------------------------------------------------------------------------------------------- connections by geometry


def star(arriving: dict[str, tuple[float, int]], leaving: dict[str, tuple[float, int]], rule: str) -> RoadNetwork:
    """Straight roads at one node; for each the direction of driving in degrees (0 = east) and its lanes.

    The far nodes are named after their place, so that a road and its opposite direction lie between the same nodes.
    """
    graph = nx.MultiDiGraph()
    graph.add_node("node", position=(0.0, 0.0), right_of_way=rule)
    for name, (degrees, lanes) in arriving.items():
        direction = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
        far = round(degrees + 180) % 360
        graph.add_node(far, position=tuple(-200.0 * direction))
        graph.add_edge(far, "node", key=name, lanes=lanes)
    for name, (degrees, lanes) in leaving.items():
        direction = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
        far = round(degrees) % 360
        graph.add_node(far, position=tuple(200.0 * direction))
        graph.add_edge("node", far, key=name, lanes=lanes)
    return RoadNetwork.from_graph(graph)


FOUR_IN = {"from_west": (0.0, 2), "from_south": (90.0, 2), "from_east": (180.0, 2), "from_north": (270.0, 2)}
FOUR_OUT = {"east": (0.0, 2), "north": (90.0, 2), "west": (180.0, 2), "south": (270.0, 2)}
STRAIGHT_ON = [("from_west", "east"), ("from_south", "north"), ("from_east", "west"), ("from_north", "south")]
TO_THE_RIGHT = [("from_west", "south"), ("from_south", "east"), ("from_east", "north"), ("from_north", "west")]
TO_THE_LEFT = [("from_west", "north"), ("from_south", "west"), ("from_east", "south"), ("from_north", "east")]

EXPECTED: dict[str, tuple[dict, dict, str, set[tuple[str, int, str, int]]]] = {
    "lanes go on": ({"in": (0, 2)}, {"out": (0, 2)}, "priority", {("in", 0, "out", 0), ("in", 1, "out", 1)}),
    "round a bend": ({"in": (0, 2)}, {"out": (80, 2)}, "priority", {("in", 0, "out", 0), ("in", 1, "out", 1)}),
    "the left lane ends": ({"in": (0, 3)}, {"out": (0, 2)}, "priority", {("in", 0, "out", 0), ("in", 1, "out", 1)}),
    "a lane is added": ({"in": (0, 1)}, {"out": (0, 3)}, "priority", {("in", 0, "out", 0)}),
    "the lane that ends joins in a zipper": (
        {"in": (0, 3)},
        {"out": (0, 2)},
        "zipper",
        {("in", 0, "out", 0), ("in", 1, "out", 1), ("in", 2, "out", 1)},
    ),
    "two lanes that end join in a zipper": (
        {"in": (0, 3)},
        {"out": (0, 1)},
        "zipper",
        {("in", 0, "out", 0), ("in", 1, "out", 0), ("in", 2, "out", 0)},
    ),
    "merge from the right": (
        {"road": (0, 2), "ramp": (30, 1)},
        {"out": (0, 2)},
        "priority",
        {("road", 0, "out", 0), ("road", 1, "out", 1), ("ramp", 0, "out", 0)},
    ),
    "merge from the left": (
        {"road": (0, 2), "ramp": (-30, 1)},
        {"out": (0, 2)},
        "priority",
        {("road", 0, "out", 0), ("road", 1, "out", 1), ("ramp", 0, "out", 1)},
    ),
    "merge with a lane of its own on the right": (
        {"road": (0, 2), "ramp": (30, 1)},
        {"out": (0, 3)},
        "priority",
        {("ramp", 0, "out", 0), ("road", 0, "out", 1), ("road", 1, "out", 2)},
    ),
    "merge with a lane of its own on the left": (
        {"road": (0, 2), "ramp": (-30, 1)},
        {"out": (0, 3)},
        "priority",
        {("road", 0, "out", 0), ("road", 1, "out", 1), ("ramp", 0, "out", 2)},
    ),
    "each lane has its own way at a fork": (
        {"in": (0, 3)},
        {"left": (20, 2), "right": (-20, 1)},
        "priority",
        {("in", 0, "right", 0), ("in", 1, "left", 0), ("in", 2, "left", 1)},
    ),
    "exit to the right": (
        {"in": (0, 2)},
        {"out": (0, 2), "exit": (-30, 1)},
        "priority",
        {("in", 0, "out", 0), ("in", 1, "out", 1), ("in", 0, "exit", 0)},
    ),
    "exit to the left": (
        {"in": (0, 2)},
        {"out": (0, 2), "exit": (30, 1)},
        "priority",
        {("in", 0, "out", 0), ("in", 1, "out", 1), ("in", 1, "exit", 0)},
    ),
    "crossroads": (
        FOUR_IN,
        FOUR_OUT,
        "priority",
        {(a, i, b, i) for a, b in STRAIGHT_ON for i in (0, 1)}
        | {(a, 0, b, 0) for a, b in TO_THE_RIGHT}
        | {(a, 1, b, 1) for a, b in TO_THE_LEFT},
    ),
    "T-junction, from its stem": (
        {"stem": (90, 2)},
        {"west": (180, 1), "east": (0, 2)},
        "priority",
        {("stem", 0, "east", 0), ("stem", 1, "west", 0)},
    ),
    "nobody turns back at a dead end": ({"in": (0, 1)}, {"back": (180, 1)}, "priority", set()),
    "nobody turns back sharply": (
        {"in": (0, 1)},
        {"out": (0, 1), "back": (160, 1)},
        "priority",
        {("in", 0, "out", 0)},
    ),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_connections_by_geometry(case: str) -> None:
    arriving, leaving, rule, expected = EXPECTED[case]
    ways = star(arriving, leaving, rule).connections
    found = [(way.from_edge[2], way.from_lane, way.to_edge[2], way.to_lane) for way in ways]
    assert set(found) == expected and len(found) == len(expected)


@pytest.mark.parametrize("rule", ["priority", "all_way_stop", "signals", "zipper"])
def test_ranks_follow_the_roads_then_the_turns(rule: str) -> None:
    """Straight on before right before left; a road of higher priority before all of it; equal where all stop."""
    graph = star(FOUR_IN, FOUR_OUT, rule).to_graph()
    for _, data in graph.nodes(data=True):
        data["connections"] = [Connection(*way_ends(way)) for way in data["connections"]]
    for _, _, key, data in graph.edges(keys=True, data=True):
        data["priority"] = int(key in ("from_west", "from_east"))
    ways = {(way.from_edge[2], way.to_edge[2]): way for way in RoadNetwork.from_graph(graph).connections}
    rank = {name: way.priority for name, way in ways.items()}
    assert {way.stop for way in ways.values()} == {rule == "all_way_stop"}
    if rule in ("all_way_stop", "zipper"):
        assert set(rank.values()) == {0}
        return
    for (a, s), (_, r), (_, left) in zip(STRAIGHT_ON, TO_THE_RIGHT, TO_THE_LEFT, strict=True):
        assert rank[a, s] > rank[a, r] > rank[a, left]
    lowest_major = min(rank["from_west", to] for to in ("east", "south", "north"))
    highest_minor = max(rank["from_south", to] for to in ("north", "east", "west"))
    assert lowest_major > highest_minor if rule == "priority" else lowest_major < highest_minor


@pytest.mark.parametrize("block", range(3))
def test_junction_lanes_begin_and_end_at_the_lanes_that_they_join(block: int) -> None:
    seen = 0
    for seed in range(10 * block, 10 * block + 10):
        network = RoadNetwork.from_graph(random_graph(seed))
        roads = {lane: i for i, lane in enumerate(network.lanes)}
        for lane in torch.nonzero(network.is_junction)[:, 0].tolist():
            way = network.connections[int(network.lane_connection[lane])]
            start = roads[(network.edge_index(way.from_edge), way.from_lane)]
            end = roads[(network.edge_index(way.to_edge), way.to_lane)]
            line = network.lane_geometry(lane)
            assert torch.equal(line[0], network.lane_geometry(start)[-1])
            # Lanes that touch have a way of a centimetre, so that it has a direction.
            assert float((line[-1] - network.lane_geometry(end)[0]).norm()) <= 0.01 + 1e-9
            assert lane in network.successors[start].tolist()
            assert [x for x in network.successors[lane].tolist() if x >= 0] == [end]
            drawn = float((line[1:] - line[:-1]).norm(dim=1).sum())
            assert float(network.lane_length[lane]) == pytest.approx(max(0.5, drawn), abs=1e-9)
            seen += 1
    assert seen > 200


# ---------------------------------------------------------------------------------------------- conflicts

FINE = 0.05  # m


def fine(line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points every ``FINE`` m along a line and how far along it they lie, m."""
    along = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    at = np.linspace(0.0, along[-1], int(along[-1] / FINE) + 2)
    return np.stack([np.interp(at, along, line[:, k]) for k in range(2)], -1), at


def distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """From each point to the nearest place of a line, m: the feet of the perpendiculars on all its pieces."""
    start, step = line[:-1], np.diff(line, axis=0)
    share = ((points[:, None] - start) * step).sum(-1) / (step**2).sum(-1)
    feet = start + np.clip(share, 0.0, 1.0)[..., None] * step
    return np.hypot(*np.moveaxis(points[:, None] - feet, -1, 0)).min(1)


def zone(at: np.ndarray, apart: np.ndarray, width: float) -> tuple[float, float] | None:
    """First and last place that is nearer than ``width`` to the other line."""
    near = at[apart < width]
    return (float(near[0]), float(near[-1])) if len(near) else None


def kind_of(a: Connection, b: Connection) -> int:
    if way_ends(a)[2:] == way_ends(b)[2:]:
        return MERGE
    return DIVERGE if way_ends(a)[:2] == way_ends(b)[:2] else CROSSING


def test_conflicts_are_where_bodies_would_touch() -> None:
    """Against exact distances of points 0.05 m apart.

    The package compares points 0.5 m apart, so it may miss 0.25 m along either line: it must find what comes nearer
    than sqrt(w^2 - 0.5^2) to the other, must not find what stays farther than w, and a zone's end lies at most a step
    inside the stretch nearer than sqrt(w^2 - 0.25^2).
    """
    crossroads = star({k: (d + 7.0 * i, 2) for i, (k, (d, _)) in enumerate(FOUR_IN.items())}, FOUR_OUT, "priority")
    counted = {CROSSING: 0, MERGE: 0, DIVERGE: 0, None: 0}
    surely, place = math.sqrt(BODY_WIDTH**2 - 0.5**2), math.sqrt(BODY_WIDTH**2 - 0.25**2)
    for net in (crossroads, *(RoadNetwork.from_graph(random_graph(seed)) for seed in (1, 4))):
        junctions = net.tables(torch.float64, "cpu").junctions
        lanes = torch.nonzero(net.is_junction)[:, 0].tolist()
        ways = {lane: net.connections[int(net.lane_connection[lane])] for lane in lanes}
        lines = {lane: net.lane_geometry(lane).numpy() for lane in lanes}
        for lane, foe in itertools.permutations(lanes, 2):
            foes, a, b = junctions.foe[lane].tolist(), ways[lane], ways[foe]
            if a.from_edge[1] != b.from_edge[1]:
                assert foe not in foes
                continue
            points, at = fine(lines[lane])
            apart = distance(points, lines[foe])
            kind, nearest = kind_of(a, b), float(apart.min())
            if foe not in foes:
                assert kind == CROSSING and nearest >= surely, (a, b)
                counted[None] += 1
                continue
            f, back = foes.index(foe), junctions.foe[foe].tolist().index(lane)
            entry, end = float(junctions.own_entry[lane, f]), float(junctions.own_exit[lane, f])
            assert (float(junctions.foe_entry[foe, back]), float(junctions.foe_exit[foe, back])) == (entry, end)
            assert int(junctions.kind[lane, f]) == int(junctions.kind[foe, back]) == kind
            counted[kind] += 1
            # Ways that touch are a centimetre long and count as the shortest way, half a metre.
            scale = at[-1] / float(net.lane_length[lane])
            outer, inner = zone(at, apart, BODY_WIDTH), zone(at, apart, place)
            assert outer is not None, (a, b)
            if nearest >= surely:  # the places that come near may lie between the compared points
                continue
            assert inner is not None
            if kind == DIVERGE:
                assert entry == 0.0
            else:
                assert outer[0] - FINE <= entry * scale <= inner[0] + 0.5 + FINE, (a, b)
            if kind == MERGE:
                assert end == float(net.lane_length[lane])
            else:
                assert inner[1] - 0.5 - FINE <= end * scale <= outer[1] + FINE, (a, b)
    assert min(counted.values()) > 20, counted


def test_conflicts_of_recorded_lengths_are_scaled() -> None:
    """A way that is driven twice as long as its line is drawn has its places twice as far along."""
    ways = [Connection(("w", "n", 0), 0, ("n", "e", 0), 0), Connection(("s", "n", 0), 0, ("n", "t", 0), 0)]
    lines = [np.array([[-10.0, 0.0], [10.0, 0.0]]), np.array([[0.0, -10.0], [0.0, 10.0]])]
    once = find_conflicts(ways, lines, [20.0, 20.0])
    twice = find_conflicts(ways, lines, [40.0, 20.0])
    assert len(once) == len(twice) == 2
    for a, b in zip(once, twice, strict=True):
        own, foe = (2.0, 1.0) if a.own == 0 else (1.0, 2.0)
        assert (a.own, a.foe, a.kind) == (b.own, b.foe, CROSSING)
        assert (b.own_entry, b.own_exit) == pytest.approx((own * a.own_entry, own * a.own_exit))
        assert (b.foe_entry, b.foe_exit) == pytest.approx((foe * a.foe_entry, foe * a.foe_exit))


# ---------------------------------------------------------------------------------------------- the plan

LENGTHS = (25.0, 50.0, 100.0, 200.0, 400.0)  # 1 + 100 / length is exact in binary, so that ties are ties


def random_road(rng: random.Random, closed: bool) -> tuple[RoadNetwork, list[int]]:
    """Edges one after the other with random lanes and connections; the way along it, back to the start if closed."""
    count = rng.randint(2, 3) if closed else rng.randint(2, 5)
    graph = nx.MultiDiGraph()
    for i in range(count + (not closed)):
        turn = 2 * math.pi * i / count
        place = (300.0 * math.cos(turn), 300.0 * math.sin(turn)) if closed else (500.0 * i, 0.0)
        graph.add_node(i, position=place)
    keys = []
    for i in range(count):
        j = (i + 1) % count if closed else i + 1
        (x, y), (p, q) = graph.nodes[i]["position"], graph.nodes[j]["position"]
        line = [(x + 0.1 * (p - x), y + 0.1 * (q - y)), (p - 0.1 * (p - x), q - 0.1 * (q - y))]
        graph.add_edge(i, j, key="road", length=rng.choice(LENGTHS), lanes=rng.randint(1, 4), geometry=line)
        keys.append((i, j, "road"))
    for i in range(count if closed else count - 1):
        before, after = keys[i], keys[(i + 1) % count]
        lanes = graph.edges[before]["lanes"], graph.edges[after]["lanes"]
        pairs = list(itertools.product(range(lanes[0]), range(lanes[1])))
        chosen = rng.sample(pairs, rng.randint(1, min(3, len(pairs))))
        graph.nodes[before[1]]["connections"] = [Connection(before, a, after, b, length=16.0) for a, b in chosen]
    if not closed:
        graph.nodes[count]["connections"] = []
    return RoadNetwork.from_graph(graph), list(range(count))


def sequences(network: RoadNetwork, route: Sequence[int], lane: int) -> list[tuple[float, list[int], list[int]]]:
    """Every way to drive ``route`` from ``lane`` of its first edge: cost, lanes left at ends of edges, ways taken.

    A lane change costs 1 on the first edge, and on a later one the product of 1 + 100 m / length of the edges so far.
    """
    if len(route) == 1:
        return [(0.0, [], [])]
    e, f = network.edges[route[0]], network.edges[route[1]]
    weight = 1.0 + 100.0 / float(network.lane_length[network.edge == route[1]][0])
    found = []
    for c, way in enumerate(network.connections):
        if (way.from_edge, way.to_edge) == (e, f):
            for cost, lanes, ways in sequences(network, route[1:], way.to_lane):
                found.append((abs(way.from_lane - lane) + weight * cost, [way.from_lane, *lanes], [c, *ways]))
    return found


def best(network: RoadNetwork, route: Sequence[int], lane: int) -> tuple[float, int]:
    """Cost and first target of the best way; of equals the nearer lane, then the more to the right."""
    cost, _, target = min((cost, abs(lanes[0] - lane), lanes[0]) for cost, lanes, _ in sequences(network, route, lane))
    return cost, target


def followed(network: RoadNetwork, route: Sequence[int], lane: int) -> tuple[int, float]:
    """First connection along which ``lane`` goes on (-1 = none), and how far it can be followed, m (inf: for long)."""
    driven, taken, at = 0.0, -1, lane
    for i, edge in enumerate(route):
        if i == len(route) - 1:
            return taken, math.inf
        driven += float(network.lane_length[network.edge == edge][0])
        ways = [
            (best(network, route[i + 1 :], way.to_lane)[0] if i + 2 < len(route) else 0.0, c)
            for c, way in enumerate(network.connections)
            if (way.from_edge, way.to_edge) == (network.edges[edge], network.edges[route[i + 1]])
            and way.from_lane == at
        ]
        if not ways:
            return taken, driven if driven < 2000.0 else math.inf
        chosen = min(ways)[1]
        taken = chosen if i == 0 else taken
        at = network.connections[chosen].to_lane
        driven += 16.0
    raise AssertionError("a route has a last edge")


@pytest.mark.parametrize("closed", [False, True])
def test_plan_equals_a_search_over_all_sequences_of_lanes(closed: bool) -> None:
    changes = ends = 0
    for seed in range(40):
        road, route = random_road(random.Random(seed), closed)
        network = road.with_routes([route], loops=closed)
        plan = network.plan()
        ways = dict(zip(network.lane_connection.tolist(), range(len(network.lanes)), strict=True))
        first = int(plan.route_start[0])
        for i, edge in enumerate(route):
            ahead = [*route[i:], *route, *route][: 2 * len(route) - i] if closed else route[i:]
            row = first + i
            last = i == len(route) - 1 and not closed
            assert int(plan.edge[row]) == edge
            assert bool(plan.ends[row]) == last
            assert int(plan.following[row]) == (-1 if last else first if i == len(route) - 1 else row + 1)
            for k in range(network.edge_lanes[edge]):
                told = (seed, i, k)
                change, reach = int(plan.change[row, k]), float(plan.reach[row, k])
                if last:
                    assert (int(plan.next_lane[row, k]), change, reach) == (-1, 0, math.inf), told
                    continue
                taken, expected = followed(network, ahead, k)
                assert int(plan.next_lane[row, k]) == (ways[taken] if taken >= 0 else -1), told
                assert reach == pytest.approx(expected), told
                assert k + change == best(network, ahead, k)[1], told
                changes += change != 0
                ends += expected < math.inf
    assert changes > 50 and ends > 50


def test_plan_of_drivers_without_a_route_goes_on_along_the_first_successor() -> None:
    for seed in range(40):
        network, _ = random_road(random.Random(100 + seed), closed=False)
        plan = network.plan()
        for e, lanes in enumerate(network.edge_lanes):
            rows = [network.lanes.index((e, k)) for k in range(lanes)]
            onward = [int(network.successors[lane, 0]) for lane in rows]
            leads = [k for k in range(lanes) if onward[k] >= 0]
            assert plan.next_lane[e, :lanes].tolist() == onward
            assert bool(plan.ends[e]) == (not leads)
            for k in range(lanes):
                target = min(leads, key=lambda x: (abs(x - k), x)) if leads else k
                assert int(plan.change[e, k]) == target - k
                length = float(network.lane_length[rows[k]])
                assert float(plan.reach[e, k]) == (math.inf if not leads or k in leads else length)


def test_nodes_where_roads_only_go_on_need_no_junction_lane() -> None:
    """A stop sign, a signal, or a gap of more than a metre does ask for one."""
    plain = RoadNetwork.from_graph(street())
    assert not plain.is_junction.any() and plain.is_unbranched
    for graph in (
        joined(*(Connection(IN, i, OUT, i, stop=True) for i in (0, 1))),
        joined(*(Connection(IN, i, OUT, i, length=3.0) for i in (0, 1))),
        street(right_of_way="all_way_stop"),
    ):
        network = RoadNetwork.from_graph(graph)
        assert int(network.is_junction.sum()) == 2 and not network.is_unbranched
    with_gap = edge_with(geometry=[(0.0, 0.0), (98.5, 0.0)])
    network = RoadNetwork.from_graph(with_gap)
    assert network.lane_length[network.is_junction].tolist() == pytest.approx([1.5, 1.5])
