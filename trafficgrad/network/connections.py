"""Connections of lanes across a node: what they are, those by geometry, and the line that a vehicle drives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trafficgrad.errors import TrafficGradError, nearest_name

EdgeKey = tuple[Hashable, Hashable, Hashable]
Line = np.ndarray  # [K, 2] m
RIGHTS_OF_WAY = ("priority", "all_way_stop", "zipper", "signals")
STRAIGHT = math.radians(45.0)  # turns up to it go straight on
U_TURN = math.radians(150.0)  # turns from it on go back
LATERAL_ACCELERATION = 3.0  # m/s2 that drivers accept in a turn
_TURN_RANK = {"straight": 2, "right": 1, "left": 0, "back": -1}


@dataclass(frozen=True)
class Connection:
    """A way from a lane that ends in a node to a lane that begins there."""

    from_edge: EdgeKey  # (u, v, key), ends in the node
    from_lane: int  # 0 = right
    to_edge: EdgeKey  # begins in the node
    to_lane: int
    geometry: tuple[tuple[float, float], ...] | None = None  # m, from lane end to lane beginning; None = smooth curve
    length: float | None = None  # m; None = of the geometry
    speed_limit: float | None = None  # m/s; None = by curvature and the roads' limits
    priority: int | None = None  # rank within the node, higher first, equal = first come first served; None = by road
    stop: bool = False  # must stop before it enters
    signal: str | None = None  # name of the programme
    signal_index: int = -1  # letter of the programme's states

    @classmethod
    def of(cls, value: Any, node: Hashable) -> Connection:
        """``value``, a connection or a mapping of its fields.

        Raises:
            TrafficGradError: it is neither, or has unknown or missing fields.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise TrafficGradError(
                f"node {node!r}: a connection must be a Connection or a mapping of its fields, got {value!r}"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        for name in value:
            if name not in names:
                raise TrafficGradError(
                    f"node {node!r}: unknown field {name!r} of a connection{nearest_name(str(name), names)}"
                )
        missing = [name for name in names[:4] if name not in value]
        if missing:
            raise TrafficGradError(f"node {node!r}: a connection lacks {', '.join(missing)}")
        values = dict(value)
        for name in ("from_edge", "to_edge"):
            values[name] = tuple(values[name])
        if values.get("geometry") is not None:
            values["geometry"] = tuple((float(x), float(y)) for x, y in values["geometry"])
        return cls(**values)

    def __str__(self) -> str:
        return (
            f"connection from lane {self.from_lane} of edge {self.from_edge} to lane {self.to_lane} of {self.to_edge}"
        )


class Approach(NamedTuple):
    """An edge as it looks from one of its nodes."""

    key: EdgeKey
    lanes: int
    direction: float  # rad, of driving at the node
    priority: int


def turn_angle(arriving: Approach, leaving: Approach) -> float:
    """From one direction to the other, rad, + = left, within (-pi, pi]."""
    return wrap_angle(leaving.direction - arriving.direction)


def wrap_angle(angle: float) -> float:
    """The same angle within (-pi, pi]."""
    return math.pi - (math.pi - angle) % (2.0 * math.pi)


def default_connections(
    arriving: Sequence[Approach], leaving: Sequence[Approach], right_of_way: str
) -> list[Connection]:
    """Connections of a node by the directions and lane numbers of its edges.

    Straight on, lane i leads to lane i. A right turn leads from the rightmost to the rightmost lane, a left turn from
    the leftmost to the leftmost one. Of several ways straight on the straightest counts. Where roads of together n
    lanes meet n lanes, or n lanes part into as many, each lane has its own. Nobody turns back the way that he came.
    """
    connections: list[Connection] = []
    for road in arriving:
        turns = {way.key: turn_angle(road, way) for way in leaving}
        ways = [way for way in leaving if not _turns_back(road, way, turns[way.key])]
        ways.sort(key=lambda way: turns[way.key])  # from right to left
        ahead = [way for way in ways if abs(turns[way.key]) <= STRAIGHT]
        straight = min(ahead, key=lambda way: abs(turns[way.key])) if ahead else None
        own = len(ways) > 1 and len(ahead) == len(ways) and sum(way.lanes for way in ways) == road.lanes
        first = 0
        for way in ways:
            angle = turns[way.key]
            if own:  # every lane has its own way
                pairs = [(first + i, i) for i in range(way.lanes)]
                first += way.lanes
            elif way is straight or len(ways) == 1:
                pairs = _straight_pairs(road, way, arriving, right_of_way)
            else:
                reference = turns[straight.key] if straight is not None else 0.0
                right = angle < reference
                shared = min(road.lanes, way.lanes) if abs(angle) <= STRAIGHT else 1
                pairs = [(i, i) if right else (road.lanes - 1 - i, way.lanes - 1 - i) for i in range(shared)]
            connections += [Connection(road.key, i, way.key, j) for i, j in pairs]
    return connections


def _turns_back(road: Approach, way: Approach, angle: float) -> bool:
    return abs(angle) >= U_TURN or (way.key[1] == road.key[0] and abs(angle) > STRAIGHT)


def _straight_pairs(
    road: Approach, way: Approach, arriving: Sequence[Approach], right_of_way: str
) -> list[tuple[int, int]]:
    """Lanes that continue each other from ``road`` to ``way``; see :func:`default_connections`."""
    together = [other for other in arriving if abs(turn_angle(other, way)) <= STRAIGHT]
    together.sort(key=lambda other: turn_angle(other, way))  # who turns right most comes from the right
    shift = 0
    if len(together) > 1 and sum(other.lanes for other in together) == way.lanes:
        shift = sum(other.lanes for other in together[: together.index(road)])
    elif len(together) > 1 and together.index(road) == len(together) - 1 and turn_angle(road, way) > 0:
        shift = max(0, way.lanes - road.lanes)  # it comes from the left
    pairs = [(i, i + shift) for i in range(road.lanes) if i + shift < way.lanes]
    if right_of_way == "zipper":  # lanes that are left over join the last one
        pairs += [(i, way.lanes - 1) for i in range(way.lanes - shift, road.lanes)]
    return pairs


def turn_of(angle: float) -> str:
    """``straight``, ``left``, ``right`` or ``back``."""
    if abs(angle) <= STRAIGHT:
        return "straight"
    if abs(angle) >= U_TURN:
        return "back"
    return "left" if angle > 0 else "right"


def default_rank(arriving: Approach, leaving: Approach, right_of_way: str) -> int:
    """Rank of a connection without a ``priority``: of the road first, then straight on, right, left turns.

    All are equal where everybody stops, or where lanes merge like a zip.
    """
    if right_of_way in ("all_way_stop", "zipper"):
        return 0
    road = 0 if right_of_way == "signals" else arriving.priority
    return 10 * road + _TURN_RANK[turn_of(turn_angle(arriving, leaving))]


def curve(start: Line, end: Line) -> Line:
    """A smooth line from the end of the line ``start`` to the beginning of the line ``end``, [K, 2] m.

    A cubic Bezier curve; its control points lie 0.39 chords along both directions, which makes a right angle a circle.
    """
    p, q = start[-1], end[0]
    chord = float(np.hypot(*(q - p)))
    before, after = heading_at_end(start), heading_at_start(end)
    course = math.atan2(q[1] - p[1], q[0] - p[0])
    bend = max(abs(wrap_angle(course - before)), abs(wrap_angle(after - course)))
    if chord < 0.01 or bend < 1e-3:
        return np.stack([p, q])
    reach = chord * (0.39 if bend < 1.4 else 0.6)
    b = p + reach * np.array([math.cos(before), math.sin(before)])
    c = q - reach * np.array([math.cos(after), math.sin(after)])
    count = int(min(32, max(12, math.ceil(bend / 0.06)))) + 1
    t = np.linspace(0.0, 1.0, count)[:, None]
    return (1 - t) ** 3 * p + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * q


def heading_at_end(line: Line) -> float:
    """Direction of the last piece of a line, rad."""
    return math.atan2(*(line[-1] - line[-2])[::-1])


def heading_at_start(line: Line) -> float:
    """Direction of the first piece of a line, rad."""
    return math.atan2(*(line[1] - line[0])[::-1])


def line_length(line: Line) -> float:
    """Length of a line, m."""
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def turning_speed(line: Line) -> float:
    """Speed at which a curve asks for ``LATERAL_ACCELERATION``, m/s: sqrt(a R), R from the sharpest stretch of 5 m."""
    step = np.diff(line, axis=0)
    size = np.hypot(step[:, 0], step[:, 1])
    direction = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    if len(direction) < 2 or np.ptp(direction) < math.radians(10.0):
        return math.inf
    middle = np.cumsum(size) - size / 2
    window = min(5.0, float(middle[-1] - middle[0]))
    ahead = np.interp(middle + window, middle, direction)
    turned = np.abs(ahead - direction)[middle + window <= middle[-1] + 1e-9]
    sharpest = float(turned.max()) if len(turned) else 0.0
    return math.sqrt(LATERAL_ACCELERATION * window / sharpest) if sharpest > 1e-6 else math.inf
