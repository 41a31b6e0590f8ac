"""Small road graphs that several tests build on."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import networkx as nx
import numpy as np

from trafficgrad.network import RoadNetwork
from trafficgrad.network.connections import Connection

IN, OUT = ("a", "b", 0), ("b", "c", 0)
FOUR_IN = {"from_west": (0.0, 2), "from_south": (90.0, 2), "from_east": (180.0, 2), "from_north": (270.0, 2)}
FOUR_OUT = {"east": (0.0, 2), "north": (90.0, 2), "west": (180.0, 2), "south": (270.0, 2)}


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
