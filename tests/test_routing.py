"""Routes: fastest ways against brute force, origin-destination tables, turn shares against enumeration by hand."""

from __future__ import annotations

import itertools
import math
import random

import networkx as nx
import pytest
import torch

import trafficgrad as tg
from trafficgrad import TrafficGradError
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.routing import (
    UNLIMITED,
    edge_graph,
    routes_from_od,
    routes_from_turns,
    shortest_route,
)


def network_of(arcs: list[tuple[str, str]], both_ways: bool = False, **edge: object) -> RoadNetwork:
    """A network on given arcs; its nodes lie on a circle."""
    graph = nx.MultiDiGraph()
    names = sorted({name for arc in arcs for name in arc})
    for i, name in enumerate(names):
        angle = 2 * math.pi * i / len(names)
        graph.add_node(name, position=(200 * math.cos(angle), 200 * math.sin(angle)))
    for u, v in arcs:
        graph.add_edge(u, v, key=0, name=f"{u}{v}", **edge)
        if both_ways:
            graph.add_edge(v, u, key=0, name=f"{v}{u}", **edge)
    for node in graph.nodes:  # every way is allowed, back too
        graph.nodes[node]["connections"] = [
            {"from_edge": (u, node, 0), "from_lane": 0, "to_edge": (node, v, 0), "to_lane": 0}
            for u in graph.predecessors(node)
            for v in graph.successors(node)
        ]
    return RoadNetwork.from_graph(graph)


CROSS = network_of([("w", "m"), ("m", "e"), ("m", "n"), ("n", "x"), ("e", "x")])


def names(network: RoadNetwork, route: tuple[int, ...]) -> list[str]:
    return ["".join(network.edges[e][:2]) for e in route]


def travel_time(network: RoadNetwork, route: tuple[int, ...]) -> float:
    """From the lanes, without the first edge."""
    total = 0.0
    for e, f in itertools.pairwise(route):
        ways = [c for c in network.connections if (c.from_edge, c.to_edge) == (network.edges[e], network.edges[f])]
        total += min((c.length or 0.0) / min(c.speed_limit or UNLIMITED, UNLIMITED) for c in ways)
        lane = [lane.edge for lane in network.lanes].index(f)
        total += float(network.lane_length[lane]) / min(float(network.speed_limit[lane]), UNLIMITED)
    return total


def test_edge_graph_joins_edges_where_connections_do() -> None:
    graph = edge_graph(CROSS)
    arcs = {tuple(names(CROSS, arc)) for arc in graph.edges}
    assert arcs == {("wm", "me"), ("wm", "mn"), ("me", "ex"), ("mn", "nx")}
    for e, f, weight in graph.edges(data="weight"):
        assert weight == pytest.approx(travel_time(CROSS, (e, f)))
    two_lanes = tg.straight(100.0, lanes=2, edges=2, speed_limit=10.0)
    assert edge_graph(two_lanes).edges[0, 1]["weight"] == pytest.approx(5.0)


@pytest.mark.parametrize("seed", range(8))
def test_shortest_route_against_all_simple_paths(seed: int) -> None:
    draw = random.Random(seed)
    nodes = "abcdefg"
    arcs = [(u, v) for u in nodes for v in nodes if u != v and draw.random() < 0.4]
    graph = network_of(arcs).to_graph()
    for _, _, data in graph.edges(data=True):
        data["speed_limit"] = draw.choice([5.0, 12.0, 30.0, math.inf])
    network = RoadNetwork.from_graph(graph)
    onward: dict[int, list[int]] = {e: [] for e in range(len(network.edges))}
    for way in network.connections:
        onward[network.edges.index(way.from_edge)].append(network.edges.index(way.to_edge))

    def simple_paths(path: tuple[int, ...], end: int) -> list[tuple[int, ...]]:
        if path[-1] == end:
            return [path]
        return (
            [p for f in onward[path[-1]] if f not in path for p in simple_paths((*path, f), end)]
            if len(path) < 6
            else []
        )

    for _ in range(6):
        start, end = draw.randrange(len(arcs)), draw.randrange(len(arcs))
        times = [travel_time(network, path) for path in simple_paths((start,), end)]
        try:
            route = shortest_route(network, start, end)
        except TrafficGradError:
            assert not times
            continue
        assert (route[0], route[-1]) == (start, end)
        assert travel_time(network, route) <= min(times) + 1e-9
        network.with_routes([route])  # it can be driven


def test_edges_by_row_key_and_name() -> None:
    expected = shortest_route(CROSS, "wm", "ex")
    assert names(CROSS, expected) == ["wm", "me", "ex"]
    assert shortest_route(CROSS, ("w", "m", 0), CROSS.edges.index(("e", "x", 0))) == expected
    assert names(CROSS, shortest_route(CROSS, "me", "me")) == ["me"]


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(TrafficGradError, match=r"no way from edge \('m', 'e', 0\) to edge \('w', 'm', 0\)"):
        shortest_route(CROSS, "me", "wm")
    with pytest.raises(TrafficGradError, match=r"no edge 'wn'.*did you mean"):
        shortest_route(CROSS, "wn", "me")
    with pytest.raises(TrafficGradError, match="there is no edge 77"):
        shortest_route(CROSS, 0, 77)


# ---------------------------------------------------------------------------------------------- origins, destinations


def test_origin_destination_table() -> None:
    flows = {("wm", "ex"): 300.0, ("wm", "nx"): 100.0, ("me", "ex"): 36.0, (("w", "m", 0), "ex"): 50.0, ("mn", "nx"): 0}
    routes, origins = routes_from_od(CROSS, flows)
    assert [names(CROSS, route) for route in routes] == [["wm", "me", "ex"], ["wm", "mn", "nx"], ["me", "ex"]]
    assert [CROSS.edges[origin.edge][:2] for origin in origins] == [("w", "m"), ("m", "e")]
    assert [origin.routes for origin in origins] == [(0, 1), (2,)]
    assert [origin.rate for origin in origins] == pytest.approx([450.0 / 3600.0, 0.01])
    assert origins[0].shares == pytest.approx((350.0 / 450.0, 100.0 / 450.0))
    driven = CROSS.with_routes(routes)
    assert [int(driven.routes[row, 0]) for origin in origins for row in origin.routes] == [
        origin.edge for origin in origins for _ in origin.routes
    ]


@pytest.mark.parametrize(
    ("flows", "message"),
    [
        ({("wm", "me"): -1.0}, "flow from edge 'wm' to edge 'me' must be finite and >= 0"),
        ({("wm", "me"): math.inf}, "must be finite"),
        ({("wm", "me"): 0.0}, "no flow > 0"),
        ({}, "no flow > 0"),
        ({("me", "wm"): 1.0}, "no way from edge"),
        ({("wm", "eX"): 1.0}, "did you mean"),
    ],
)
def test_bad_tables_are_refused(flows: dict, message: str) -> None:
    with pytest.raises(TrafficGradError, match=message):
        routes_from_od(CROSS, flows)


# ---------------------------------------------------------------------------------------------- turn shares


def test_turn_shares_are_exact_where_the_routes_are_few() -> None:
    routes, shares = routes_from_turns(CROSS, "wm", {("wm", "me"): 1.0, ("wm", "mn"): 3.0})
    assert [names(CROSS, route) for route in routes] == [["wm", "mn", "nx"], ["wm", "me", "ex"]]
    assert shares == pytest.approx((0.75, 0.25))
    _, equal = routes_from_turns(CROSS, "wm")
    assert equal == pytest.approx((0.5, 0.5))
    only, certain = routes_from_turns(CROSS, "wm", {("wm", "me"): 0.4})
    assert ([names(CROSS, route) for route in only], certain) == ([["wm", "me", "ex"]], (1.0,))


ROUNDABOUT = network_of([("a", "b"), ("b", "c"), ("c", "a"), ("c", "z")])
LOOP = {("bc", "ca"): 0.5, ("bc", "cz"): 0.5}


def test_routes_around_a_loop_end_at_the_longest() -> None:
    routes, shares = routes_from_turns(ROUNDABOUT, "ab", LOOP, longest=9)
    around = ["ab", "bc", "ca"]
    assert [names(ROUNDABOUT, route) for route in routes[:2]] == [["ab", "bc", "cz"], [*around, "ab", "bc", "cz"]]
    assert sorted(len(route) for route in routes) == [3, 6, 9, 9]
    assert shares == pytest.approx((0.5, 0.25, 0.125, 0.125)) and sum(shares) == pytest.approx(1.0)


def test_drawn_routes_have_nearly_the_exact_shares() -> None:
    big, longest, count = network_of([*itertools.permutations("abcd", 2), ("a", "z")]), 13, 1000
    exact = dict(zip(*routes_from_turns(big, "bc", count=100_000, longest=longest), strict=True))
    assert len(exact) > count and sum(exact.values()) == pytest.approx(1.0)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    drawn, again = (
        dict(zip(*routes_from_turns(big, "bc", None, count, generator, longest=longest), strict=True))
        for generator in generators
    )
    assert drawn == again
    assert set(drawn) <= set(exact) and sum(drawn.values()) == pytest.approx(1.0)
    for size in range(2, longest + 1):
        for second in range(len(big.edges)):
            p, found = (
                sum(share for route, share in routes.items() if (len(route), route[1]) == (size, second))
                for routes in (exact, drawn)
            )
            assert abs(found - p) <= 4.5 * math.sqrt(p * (1 - p) / count)


def test_nobody_goes_back_unless_told() -> None:
    network = network_of([("a", "b"), ("b", "c"), ("b", "d")], both_ways=True)
    routes, shares = routes_from_turns(network, "ab")
    assert [names(network, route) for route in routes] == [["ab", "bc"], ["ab", "bd"]] and shares == (0.5, 0.5)
    with pytest.raises(TrafficGradError, match="no way out: every edge that is reached from"):
        routes_from_turns(network, "ab", u_turns=True)
    told, shares = routes_from_turns(network, "ab", {("ab", "ba"): 0.1, ("ab", "bc"): 0.9})
    assert [names(network, route) for route in told] == [["ab", "bc"], ["ab", "ba"]]
    assert shares == pytest.approx((0.9, 0.1))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({("wm", "me"): -0.5}, "must be finite and >= 0, got -0.5"),
        ({("wm", "me"): 0.0}, r"no way out of edge \('w', 'm', 0\): all its turn shares are 0"),
        ({("wm", "ex"): 1.0}, "no connection leads from edge"),
        ({("wm", "mee"): 1.0}, "did you mean 'me'"),
    ],
)
def test_bad_turn_shares_are_refused(shares: dict, message: str) -> None:
    with pytest.raises(TrafficGradError, match=message):
        routes_from_turns(CROSS, "wm", shares)


def test_too_many_routes_and_no_exit_are_refused() -> None:
    big = network_of([*itertools.permutations("abcd", 2), ("a", "z")])
    with pytest.raises(TrafficGradError, match="more than 1000 routes"):
        routes_from_turns(big, "bc")
    with pytest.raises(TrafficGradError, match="a fixed route that loops"):
        routes_from_turns(tg.ring(100.0, edges=3), 0)
    with pytest.raises(TrafficGradError, match="at least 1"):
        routes_from_turns(CROSS, "wm", count=0)
