"""The plan that leads drivers along their routes, against a search over all sequences of lanes."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import networkx as nx
import pytest
from small_graphs import IN, OUT, edge_with, joined, street

from trafficgrad.network import RoadNetwork
from trafficgrad.network.connections import Connection

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
