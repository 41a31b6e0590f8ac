"""Where the ways across a node get in each other's way: crossings, merges and places where two ways part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trafficgrad.network.connections import Connection, Line
from trafficgrad.network.signals import Signal

BODY_WIDTH = 2.3  # m: nearer than this, centre line to centre line, bodies touch
_SPACING = 0.5  # m, of the points that are compared
_DEEP_ENOUGH = 2.0  # m into a junction, else those who yield wait at the line

CROSSING, MERGE, DIVERGE = 0, 1, 2


class Conflict(NamedTuple):
    """That of one way with another, seen from the first. Intervals are metres along each way's line."""

    own: int  # index into the ways
    foe: int
    kind: int  # CROSSING, MERGE: both lead into one lane, DIVERGE: both come from one lane
    own_entry: float
    own_exit: float
    foe_entry: float
    foe_exit: float


def find_conflicts(ways: Sequence[Connection], lines: Sequence[Line], lengths: Sequence[float]) -> list[Conflict]:
    """All conflicts among the ways across one node, each from both sides.

    Parameters:
        ways: the node's connections. lines: of their centres. lengths: that vehicles drive on them, m (a recorded
            length may differ a little from that of the line).
    """
    sampled = [_sample(line) for line in lines]
    boxes = np.array([[*points.min(0), *points.max(0)] for points, _ in sampled])
    found = []
    for i in range(len(ways)):
        for j in range(i):
            if ways[i].to_edge == ways[j].to_edge and ways[i].to_lane == ways[j].to_lane:
                kind = MERGE
            elif ways[i].from_edge == ways[j].from_edge and ways[i].from_lane == ways[j].from_lane:
                kind = DIVERGE
            else:
                kind = CROSSING
            if kind == CROSSING and not _boxes_meet(boxes[i], boxes[j]):
                continue
            zone = _zone(sampled[i], sampled[j])
            if kind == CROSSING and zone is None:
                continue
            (a, b), (c, d) = zone if zone is not None else ((0.0, 1.0), (0.0, 1.0))
            if kind == MERGE:
                b = d = 1.0
            elif kind == DIVERGE:
                a = c = 0.0
            mine, its = lengths[i], lengths[j]
            found.append(Conflict(i, j, kind, a * mine, b * mine, c * its, d * its))
            found.append(Conflict(j, i, kind, c * its, d * its, a * mine, b * mine))
    return found


def waiting_places(
    foes: Sequence[Sequence[Conflict]], ways: Sequence[Connection | None], signals: Sequence[Signal]
) -> list[float]:
    """How far those may go who yield at a green, to wait inside the junction until the others let them through, m.

    That is where the first way begins that may be open at the same time. 0 for ways that never yield at a green, that
    need not cross anybody then, or that would have to wait right behind the line.

    Parameters:
        foes: conflicts of each way. ways: None = no way, but a road lane. signals: of the network.
    """
    states = {signal.name: signal.states for signal in signals}

    def open_together(way: Connection, other: Connection) -> bool:
        if way.signal is None or other.signal != way.signal:
            return True  # it is not known when the other is open
        both = ((state[way.signal_index], state[other.signal_index]) for state in states[way.signal])
        return any(a in "gG" and b in "gG" for a, b in both)

    places = []
    for rows, way in zip(foes, ways, strict=True):
        place = 0.0
        if way is not None and way.signal is not None and any(s[way.signal_index] == "g" for s in states[way.signal]):
            rivals = [(c, ways[c.foe]) for c in rows if c.kind != DIVERGE]
            met = [c for c, foe in rivals if foe is not None and open_together(way, foe)]
            if any(c.kind == CROSSING for c in met):
                place = min(c.own_entry for c in met)
        places.append(place if place >= _DEEP_ENOUGH else 0.0)
    return places


def _sample(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Points along a line and their places, as shares of its length."""
    along = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    count = max(2, int(np.ceil(along[-1] / _SPACING)) + 1)
    at = np.linspace(0.0, along[-1], count)
    return np.stack([np.interp(at, along, line[:, k]) for k in range(2)], -1), np.linspace(0.0, 1.0, count)


def _boxes_meet(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] <= b[2:] + BODY_WIDTH).all() and (b[:2] <= a[2:] + BODY_WIDTH).all())


def _zone(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """First and last place on each line that is nearer to the other than a body's width, as shares of the lengths."""
    near = ((a[0][:, None, :] - b[0][None, :, :]) ** 2).sum(-1) < BODY_WIDTH**2
    on_a, on_b = near.any(1), near.any(0)
    if not on_a.any():
        return None
    places_a, places_b = a[1][on_a], b[1][on_b]
    return (float(places_a[0]), float(places_a[-1])), (float(places_b[0]), float(places_b[-1]))
