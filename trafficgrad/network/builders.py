"""Common networks, built as networkx graphs and compiled: straight and round ones."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.connections import LATERAL_ACCELERATION, Connection, EdgeKey
from trafficgrad.network.layout import (
    add_edge,
    add_node,
    arc,
    arc_edge,
    arc_radii,
    check_choice,
    check_counts,
    check_lengths,
    check_speeds,
    through,
)
from trafficgrad.network.road_network import RoadNetwork

_POINTS_PER_TURN = 240  # of a drawn circle
_CORNER = 3.0  # m between the side of a crossing road and the stop line
_RING_SHARE = 0.36  # of the angle between two arms, that an entry or an exit takes at most
_EXIT_ARC = 11.0  # m of a ring road, from where an exit begins to the arm's axis
_WAITING_ARC = 4.0  # m of it, on both sides of the axis: a vehicle that waits to pass the entry leaves the exit free


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
            # Exact circles, so that the lanes of consecutive edges meet; lane 0 is the outer one.
            lane_geometry=[
                [_on_circle(max(radius - (k - (lanes - 1) / 2) * lane_width, 0.01 * radius), a) for a in angles]
                for k in range(lanes)
            ],
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


def figure_eight(
    radius: float = 30.0,
    lanes: int = 1,
    speed_limit: float = 30.0,
    right_of_way: str = "priority",
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A closed figure eight: two three-quarter loops, joined by straight roads that cross at one junction.

    Vehicles go straight at the crossing, and all have the same rank there: first come, first served. The way round is
    (3 pi + 4) radius long, 402.7 m by default: the layout and size of Flow's figure eight [1, 2], whose 14 vehicles
    queue at the crossing.

    Edges, in driving order: ``left`` (to the crossing), ``right``, ``upper_ring``, ``top`` (to the crossing),
    ``bottom``, ``lower_ring``.

    Parameters:
        radius: m, of the loops, and half the length of the straight roads. lanes: number of lanes. speed_limit: m/s.
        right_of_way: at the crossing, "priority" or "all_way_stop". lane_width: m.

    References:
        [1] Wu et al., Flow: a modular learning framework for mixed autonomy traffic, arXiv 1710.05465.
        [2] Vinitsky et al., Benchmarks for reinforcement learning in mixed-autonomy traffic, CoRL 2018.
    """
    where = "figure_eight"
    check_lengths(where, radius=radius, lane_width=lane_width)
    check_speeds(where, speed_limit=speed_limit)
    check_counts(where, lanes=lanes)
    check_choice(where, "right_of_way", right_of_way, ("priority", "all_way_stop"))
    stop = lanes * lane_width / 2 + _CORNER
    if radius <= stop + 1.0:
        raise TrafficGradError(f"{where}: radius must be more than {stop + 1.0:g} m for {lanes} lanes, got {radius}")
    graph = nx.MultiDiGraph()
    for node, x, y in (("left", -1, 0), ("center", 0, 0), ("right", 1, 0), ("top", 0, 1), ("bottom", 0, -1)):
        graph.add_node(node, position=(radius * x, radius * y), name=node)
    keys = {}
    for name, start, end, a, b in (
        ("left", "left", "center", (-radius, 0.0), (-stop, 0.0)),
        ("right", "center", "right", (stop, 0.0), (radius, 0.0)),
        ("top", "top", "center", (0.0, radius), (0.0, stop)),
        ("bottom", "center", "bottom", (0.0, -stop), (0.0, -radius)),
    ):
        values = {"lanes": lanes, "lane_width": lane_width, "speed_limit": speed_limit, "geometry": [a, b]}
        keys[name] = add_edge(graph, start, end, name, **values)
    for name, start, end, center, angles in (
        ("upper_ring", "right", "top", (radius, radius), (-math.pi / 2, math.pi)),
        ("lower_ring", "bottom", "left", (-radius, -radius), (0.0, -1.5 * math.pi)),
    ):
        loop = arc_edge(center, radius, angles, lanes, lane_width)
        keys[name] = add_edge(graph, start, end, name, speed_limit=speed_limit, **loop)
    graph.nodes["center"]["right_of_way"] = right_of_way
    graph.nodes["center"]["connections"] = [
        *through(keys["left"], keys["right"], lanes),
        *through(keys["top"], keys["bottom"], lanes),
    ]
    return RoadNetwork.from_graph(graph)


def roundabout(
    arms: int = 4,
    radius: float = 20.0,
    lanes: int = 1,
    arm_length: float = 150.0,
    speed_limit: float = 13.9,
    lane_width: float = 3.5,
) -> RoadNetwork:
    """A roundabout, driven counter-clockwise; who is on it goes first.

    Of two lanes each leads into the same lane of the ring, and each may leave it at every exit: who leaves it from the
    inner lane yields to those who stay on the outer one.

    Edges: for every arm NAME ``NAME_in``, ``NAME_out``, ``ring_at_NAME`` (from its exit to its entry: taken by those
    who pass it) and ``ring_after_NAME`` (from its entry to the next exit). The arms are, counter-clockwise, ``east``,
    ``north``, ``west``, ``south`` if they are four, else ``arm_0``, ``arm_1``, ... with the first one in the east.
    From the south to the north: south_in, ring_after_south, ring_at_east, ring_after_east, north_out.

    Parameters:
        arms: number of arms, >= 2. radius: m, of the middle of the ring road. lanes: 1 or 2, of the ring and of every
        road in each direction. arm_length: m, from the middle of the roundabout to the outer end of each arm.
        speed_limit: m/s, of the arms; on the ring the curve asks for less. lane_width: m.
    """
    where = "roundabout"
    check_lengths(where, radius=radius, arm_length=arm_length, lane_width=lane_width)
    check_speeds(where, speed_limit=speed_limit)
    check_counts(where, least=2, arms=arms)
    if lanes not in (1, 2) or isinstance(lanes, bool):
        raise TrafficGradError(f"{where}: lanes must be 1 or 2, got {lanes!r}")
    gap = 2 * math.pi / arms
    road = lanes * lane_width
    least = _EXIT_ARC / (_RING_SHARE * gap)
    if radius < least:
        raise TrafficGradError(f"{where}: {arms} arms need a radius of at least {least:.1f} m, got {radius}")
    # Angles from an arm's axis: where the curves of entry and exit reach the ring, and where those who pass are clear.
    outer, inner = _EXIT_ARC / radius, _WAITING_ARC / radius
    # So far out that the curves bend evenly, but clear of the ring.
    even = radius * math.cos(outer) + (radius * math.sin(outer) - road / 2) / math.tan(0.62 * (math.pi / 2 - outer))
    stop = max(radius + road / 2 + _CORNER, even)
    if arm_length < stop + 10.0:
        raise TrafficGradError(f"{where}: arm_length must be at least {stop + 10.0:.1f} m, got {arm_length}")
    names = ("east", "north", "west", "south") if arms == 4 else tuple(f"arm_{a}" for a in range(arms))
    slow = min(speed_limit, math.sqrt(LATERAL_ACCELERATION * radius))
    graph = nx.MultiDiGraph()
    for a, name in enumerate(names):
        add_node(graph, name, _on_circle(arm_length, a * gap))
        for node, angle in ((f"{name}_exit", a * gap - outer), (f"{name}_entry", a * gap + outer)):
            add_node(graph, node, _on_circle(radius, angle))
    roads = {"lanes": lanes, "lane_width": lane_width, "speed_limit": speed_limit}
    keys = {}
    for a, name in enumerate(names):
        following = names[(a + 1) % arms]
        axis = np.array(_on_circle(1.0, a * gap))
        side = road / 2 * np.array([-axis[1], axis[0]])  # inbound traffic keeps to it
        leads_in = [tuple((distance * axis + side).tolist()) for distance in (arm_length, stop)]
        leads_out = [tuple((distance * axis - side).tolist()) for distance in (stop, arm_length)]
        keys[f"{name}_in"] = add_edge(graph, name, f"{name}_entry", f"{name}_in", geometry=leads_in, **roads)
        keys[f"{name}_out"] = add_edge(graph, f"{name}_exit", name, f"{name}_out", geometry=leads_out, **roads)
        passing, onward = (a * gap - inner, a * gap + inner), (a * gap + outer, (a + 1) * gap - outer)
        for edge, start, end, angles in (
            (f"ring_at_{name}", f"{name}_exit", f"{name}_entry", passing),
            (f"ring_after_{name}", f"{name}_entry", f"{following}_exit", onward),
        ):
            ring_road = arc_edge((0.0, 0.0), radius, angles, lanes, lane_width)
            keys[edge] = add_edge(graph, start, end, edge, speed_limit=slow, priority=1, **ring_road)
    for a, name in enumerate(names):
        before, at, after = f"ring_after_{names[a - 1]}", f"ring_at_{name}", f"ring_after_{name}"
        exits = _on_ring(keys[before], keys[at], radius, (a * gap - outer, a * gap - inner), lanes, lane_width)
        entries = _on_ring(keys[at], keys[after], radius, (a * gap + inner, a * gap + outer), lanes, lane_width)
        exits += [Connection(keys[before], i, keys[f"{name}_out"], i, priority=1) for i in range(lanes)]
        entries += [Connection(keys[f"{name}_in"], i, keys[after], i, priority=0) for i in range(lanes)]
        graph.nodes[f"{name}_exit"]["connections"] = exits
        graph.nodes[f"{name}_entry"]["connections"] = entries
    return RoadNetwork.from_graph(graph)


def _on_ring(
    start: EdgeKey, end: EdgeKey, radius: float, angles: tuple[float, float], lanes: int, lane_width: float
) -> list[Connection]:
    """Connections that go on along the ring road of a roundabout, past an exit or an entry."""
    lines = [arc((0.0, 0.0), r, *angles).tolist() for r in arc_radii(radius, angles, lanes, lane_width)]
    return [
        Connection(start, i, end, i, geometry=tuple((x, y) for x, y in line), priority=2)
        for i, line in enumerate(lines)
    ]


def _on_circle(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)


def _check(length: float, lanes: int, edges: int) -> None:
    if not (length > 0 and math.isfinite(length)):
        raise TrafficGradError(f"the road's length must be a finite number of metres > 0, got {length}")
    if lanes < 1 or edges < 1:
        raise TrafficGradError(f"a road needs at least one lane and one edge, got lanes={lanes}, edges={edges}")
