"""Common networks, built as networkx graphs and compiled."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.road_network import RoadNetwork

_POINTS_PER_TURN = 240  # of a drawn circle


def ring(
    length: float, lanes: int = 1, edges: int = 1, speed_limit: float = math.inf, lane_width: float = 3.5
) -> RoadNetwork:
    """A closed circular road, driven counter-clockwise.

    Parameters:
        length: circumference in m, the same for every lane. lanes: number of lanes; lane 0 is the right (outer) one.
        edges: number of equal edges that the circle is cut into. speed_limit: m/s. lane_width: m.
    """
    _check(length, lanes, edges)
    radius = length / (2 * math.pi)
    graph = nx.MultiDiGraph()
    points = max(2, _POINTS_PER_TURN // edges) + 1
    for e in range(edges):
        graph.add_node(e, position=_on_circle(radius, 2 * math.pi * e / edges))
    for e in range(edges):
        angles = np.linspace(2 * math.pi * e / edges, 2 * math.pi * (e + 1) / edges, points)
        graph.add_edge(
            e,
            (e + 1) % edges,
            length=length / edges,
            lanes=lanes,
            speed_limit=speed_limit,
            lane_width=lane_width,
            geometry=[_on_circle(radius, a) for a in angles],
        )
    return RoadNetwork.from_graph(graph)


def straight(
    length: float, lanes: int = 1, edges: int = 1, speed_limit: float = math.inf, lane_width: float = 3.5
) -> RoadNetwork:
    """An open straight road along +x; vehicles leave at its end. Parameters as :func:`ring`."""
    _check(length, lanes, edges)
    graph = nx.MultiDiGraph()
    for e in range(edges + 1):
        graph.add_node(e, position=(length * e / edges, 0.0))
    for e in range(edges):
        graph.add_edge(e, e + 1, length=length / edges, lanes=lanes, speed_limit=speed_limit, lane_width=lane_width)
    return RoadNetwork.from_graph(graph)


def _on_circle(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)


def _check(length: float, lanes: int, edges: int) -> None:
    if not (length > 0 and math.isfinite(length)):
        raise TrafficGradError(f"the road's length must be a finite number of metres > 0, got {length}")
    if lanes < 1 or edges < 1:
        raise TrafficGradError(f"a road needs at least one lane and one edge, got lanes={lanes}, edges={edges}")
