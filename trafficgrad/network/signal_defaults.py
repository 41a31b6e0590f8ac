"""Signal programmes for junctions of which nothing is known but that they have signals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np

from trafficgrad.network.connections import (
    Connection,
    EdgeKey,
    heading_at_end,
    heading_at_start,
    turn_of,
    wrap_angle,
)
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.signals import phases_in_turn

_LARGEST_KINK = math.radians(60.0)  # two approaches of one road deviate at most so much from opposite directions


def default_programmes(
    graph: nx.MultiDiGraph, green: float = 30.0, yellow: float = 3.0, all_red: float = 2.0
) -> nx.MultiDiGraph:
    """A copy of a road graph in which every node with signals has a programme.

    A node whose ``right_of_way`` is "signals" and whose connections obey no signal yet gets a fixed one of its name.
    Opposite approaches have green together, the others each in turn. Straight on and right have green, left turns yield
    to the opposite approach while it has green too. Nodes without ``connections`` get those that
    ``RoadNetwork.from_graph`` makes.

    Parameters:
        green, yellow, all_red: duration of the parts of each turn, s; ``all_red`` may be 0.

    Raises:
        TrafficGradError: ``RoadNetwork.from_graph`` refuses the graph.
    """
    result = graph.copy()
    signals = dict(graph.graph.get("signals", {}))
    complete = RoadNetwork.from_graph(graph).to_graph()
    lines = {(u, v, key): np.array(line) for u, v, key, line in complete.edges(keys=True, data="geometry")}
    for node, data in complete.nodes(data=True):
        ways: Sequence[Connection] = data["connections"]
        if data["right_of_way"] != "signals" or not ways or any(way.signal is not None for way in ways):
            continue
        name = _free_name(node, signals)
        if graph.nodes[node].get("connections") is None:  # only the ends are decided: lines stay up to from_graph
            ways = [Connection(way.from_edge, way.from_lane, way.to_edge, way.to_lane) for way in ways]
        else:
            ways = [Connection.of(way, node) for way in graph.nodes[node]["connections"]]
        result.nodes[node]["connections"] = tuple(
            dataclasses.replace(way, signal=name, signal_index=i) for i, way in enumerate(ways)
        )
        signals[name] = {"kind": "fixed", "offset": 0.0, "phases": _phases(ways, lines, green, yellow, all_red)}
    result.graph["signals"] = signals
    return result


def _free_name(node: Hashable, taken: Mapping[str, Any]) -> str:
    name = str(node)
    while name in taken:
        name += "'"
    return name


def _phases(
    ways: Sequence[Connection], lines: Mapping[EdgeKey, np.ndarray], green: float, yellow: float, all_red: float
) -> list[dict[str, Any]]:
    greens = []
    approaches = list(dict.fromkeys(way.from_edge for way in ways))
    for group in _opposite({edge: heading_at_end(lines[edge]) for edge in approaches}):
        letters = []
        for way in ways:
            turn = turn_of(wrap_angle(heading_at_start(lines[way.to_edge]) - heading_at_end(lines[way.from_edge])))
            yields = len(group) > 1 and turn in ("left", "back")
            letters.append("r" if way.from_edge not in group else "g" if yields else "G")
        greens.append((green, "".join(letters)))
    return phases_in_turn(greens, yellow, all_red)


def _opposite(heading: Mapping[EdgeKey, float]) -> list[tuple[EdgeKey, ...]]:
    """Approaches by twos that face each other, the most exact first, and those that are left one by one."""
    edges = list(heading)
    pairs = sorted(
        (abs(wrap_angle(heading[b] - heading[a] - math.pi)), i, j)
        for i, a in enumerate(edges)
        for j, b in enumerate(edges)
        if i < j
    )
    groups: list[tuple[EdgeKey, ...]] = []
    free = set(edges)
    for kink, i, j in pairs:
        if kink <= _LARGEST_KINK and edges[i] in free and edges[j] in free:
            groups.append((edges[i], edges[j]))
            free -= {edges[i], edges[j]}
    return groups + [(edge,) for edge in edges if edge in free]
