"""Road graphs: what is refused and in which words, routes, and the way to a graph and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from oracles.road_worlds import add_road
from small_graphs import IN, OUT, edge_with, joined, random_graph, street

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.network.connections import Connection

# ---------------------------------------------------------------------------------------------- refusals


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
