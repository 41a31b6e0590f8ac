"""What the builders of networks share: checks of parameters, edges with names, lines of straights and arcs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network.connections import Connection, EdgeKey, Line

_STEP = math.radians(2.0)  # between the points of an arc


def check_lengths(builder: str, **values: float) -> None:
    """Each value is a finite number > 0.

    Raises:
        TrafficGradError: names the parameter.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 < value < math.inf):
            raise TrafficGradError(f"{builder}: {name} must be a finite number > 0, got {value!r}")


def check_not_negative(builder: str, **values: float) -> None:
    """Each value is a finite number >= 0.

    Raises:
        TrafficGradError: names the parameter.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value < math.inf):
            raise TrafficGradError(f"{builder}: {name} must be a finite number >= 0, got {value!r}")


def check_speeds(builder: str, **values: float) -> None:
    """Each value is a speed limit: > 0, infinite for none.

    Raises:
        TrafficGradError: names the parameter.
    """
    for name, value in values.items():
        if not (_is_number(value) and value > 0):
            raise TrafficGradError(f"{builder}: {name} must be > 0 m/s (inf = no limit), got {value!r}")


def check_counts(builder: str, least: int = 1, **values: int) -> None:
    """Each value is an integer that is not too small.

    Raises:
        TrafficGradError: names the parameter.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise TrafficGradError(f"{builder}: {name} must be an integer >= {least}, got {value!r}")


def check_choice(builder: str, name: str, value: str, valid: Sequence[str]) -> None:
    """The value is one of the valid ones.

    Raises:
        TrafficGradError: names them, and the nearest.
    """
    if value not in valid:
        raise TrafficGradError(
            f"{builder}: unknown {name} {value!r}{nearest_name(str(value), valid)}; valid are {', '.join(valid)}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def add_edge(graph: nx.MultiDiGraph, start: Hashable, end: Hashable, name: str, **attributes: Any) -> EdgeKey:
    """Add an edge that is found by its name, and return its key."""
    graph.add_edge(start, end, key=name, name=name, **attributes)
    return (start, end, name)


def add_node(graph: nx.MultiDiGraph, name: str, position: tuple[float, float]) -> None:
    """Add a node; until it gets connections nothing passes it, so that nobody turns round at the end of a road."""
    graph.add_node(name, position=position, name=name, connections=())


def through(start: EdgeKey, end: EdgeKey, lanes: int, first: int = 0, to_first: int = 0) -> list[Connection]:
    """Connections of ``lanes`` lanes that go on side by side, from lanes ``first`` ... to lanes ``to_first`` ..."""
    return [Connection(start, first + i, end, to_first + i) for i in range(lanes)]


def straight_lines(x: tuple[float, float], y: float, lanes: int, lane_width: float) -> dict[str, Any]:
    """Attributes of a straight edge along +x whose lanes lie around ``y`` m."""
    return {
        "length": x[1] - x[0],
        "lanes": lanes,
        "lane_width": lane_width,
        "geometry": [(x[0], y), (x[1], y)],
    }


def arc(center: tuple[float, float], radius: float, start: float, end: float) -> Line:
    """Points on a circle, [K, 2] m, from one angle (rad) to another: counter-clockwise if ``end`` is the larger."""
    angle = np.linspace(start, end, max(2, math.ceil(abs(end - start) / _STEP)) + 1)
    return np.array(center) + radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def arc_edge(
    center: tuple[float, float], radius: float, angles: tuple[float, float], lanes: int, lane_width: float
) -> dict[str, Any]:
    """Attributes of an edge on a circle; all its lanes are as long as their middle."""
    lines = [arc(center, r, *angles) for r in arc_radii(radius, angles, lanes, lane_width)]
    return {
        "length": radius * abs(angles[1] - angles[0]),
        "lanes": lanes,
        "lane_width": lane_width,
        "geometry": arc(center, radius, *angles).tolist(),
        "lane_geometry": [line.tolist() for line in lines],
    }


def arc_radii(radius: float, angles: tuple[float, float], lanes: int, lane_width: float) -> list[float]:
    """Radius of each lane, m, from right to left: the right lane is the outer one of a left-hand bend."""
    side = 1.0 if angles[1] > angles[0] else -1.0
    return [radius + side * ((lanes - 1) / 2 - i) * lane_width for i in range(lanes)]


def sidestep(start: Sequence[float], end: Sequence[float], ahead: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Line of a smooth change from one lane to a parallel one, m.

    Parameters:
        start, end: m. ahead: direction of both lanes, a unit vector.
    """
    p, q, unit = np.array(start), np.array(end), np.array(ahead)
    along = float((q - p) @ unit) * unit
    share = np.linspace(0.0, 1.0, 17)[:, None]
    line = p + share * along + share**2 * (3 - 2 * share) * (q - p - along)
    return tuple((x, y) for x, y in line.tolist())


def bend(start: tuple[float, float], heading: float, pieces: Sequence[tuple[float, float]]) -> Line:
    """A line of straights and arcs, [K, 2] m.

    Parameters:
        start: m. heading: of its beginning, rad. pieces: (length in m, turn in rad, + = left) of each.
    """
    points = [np.array(start)]
    for length, turn in pieces:
        count = max(1, math.ceil(abs(turn) / _STEP))
        step = length / count
        # The chord of an arc is a little shorter than the arc, and points half a step further.
        chord = step * (math.sin(turn / count / 2) / (turn / count / 2) if turn else 1.0)
        for k in range(count):
            middle = heading + (k + 0.5) * turn / count
            points.append(points[-1] + chord * np.array([math.cos(middle), math.sin(middle)]))
        heading += turn
    return np.stack(points)


def split_line(line: Line, distance: float) -> tuple[Line, Line]:
    """The first ``distance`` m of a line [K, 2] and the rest of it."""
    along = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    point = np.array([[np.interp(distance, along, line[:, i]) for i in range(2)]])
    return np.concatenate([line[along < distance], point]), np.concatenate([point, line[along > distance]])
