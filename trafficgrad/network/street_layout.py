"""Straight two-way streets, the junctions of four of them, and the programmes of their signals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.connections import Connection, EdgeKey
from trafficgrad.network.layout import add_edge, check_choice, check_lengths, check_not_negative, sidestep, through
from trafficgrad.network.signals import KINDS, phases_in_turn

# Turns, and how many arms further counter-clockwise they lead. Drivers without a route take the first, straight on.
TURNS = (("straight", 2), ("right", 1), ("left", 3))
_CORNER = 5.0  # m between the side of a crossing street and the stop line; about the radius of its kerb
_TAPER = 30.0  # m in which a turning lane opens
_SHORTEST = 10.0  # m of street that must be left between junctions


@dataclass(frozen=True)
class Street:
    """A two-way street with the same lanes in both directions.

    With turning lanes it has a median as wide as they are: before junctions they take it, so that lanes that go
    straight on lie in line and turning lanes of both sides face each other.
    """

    lanes: int  # in each direction
    speed_limit: float  # m/s
    lane_width: float  # m
    left_lanes: int = 0  # turning lanes before junctions
    pocket_length: float = 0.0  # m, of the turning lanes
    priority: int = 0

    @property
    def median(self) -> float:
        """Width between the two directions, m."""
        return self.left_lanes * self.lane_width

    @property
    def stop_distance(self) -> float:
        """From the middle of the street to the stop lines of those who cross it, m."""
        return self.lanes * self.lane_width + self.median / 2 + _CORNER


class Arm(NamedTuple):
    """A street as it looks from a junction."""

    arriving: EdgeKey
    arriving_lanes: int
    left_lanes: int  # of those, the leftmost ones, which only turn left; 0 = the leftmost lane turns left too
    leaving: EdgeKey
    leaving_lanes: int


class Movement(NamedTuple):
    """A connection of a junction of four arms, and what it does."""

    connection: Connection
    arm: int  # it comes from: 0 east, 1 north, 2 west, 3 south
    turn: str  # straight, right or left


class End(NamedTuple):
    """One end of a street."""

    node: Hashable
    stop: float  # m from the node to where the street begins; 0 = the outer end of a street
    junction: bool


def add_street(
    graph: nx.MultiDiGraph, street: Street, ends: tuple[End, End], names: tuple[str, str], only_left: int = 0
) -> tuple[Arm, Arm]:
    """Add both directions of a straight street between two nodes, and return how it looks from either end.

    Parameters:
        names: of the edges from the first end to the second one and back; the part with turning lanes is an edge of
            its own, ``NAME_approach``. only_left: of the ordinary lanes, how many may only turn left.
    """
    firsts, lasts, counts = [], [], []
    for name, (start, end) in zip(names, (ends, ends[::-1]), strict=True):
        first, last, count = _add_direction(graph, street, start, end, name)
        firsts.append(first)
        lasts.append(last)
        counts.append(count)
    left = max(street.left_lanes, only_left)
    return (
        Arm(lasts[1], counts[1], left, firsts[0], street.lanes),
        Arm(lasts[0], counts[0], left, firsts[1], street.lanes),
    )


def _add_direction(
    graph: nx.MultiDiGraph, street: Street, start: End, end: End, name: str
) -> tuple[EdgeKey, EdgeKey, int]:
    """Its first and last edge, and the lanes of the last one."""
    p, q = (np.array(graph.nodes[one.node]["position"], dtype=float) for one in (start, end))
    whole = float(np.hypot(*(q - p)))
    ahead = (q - p) / whole
    right = np.array([ahead[1], -ahead[0]])
    turning = street.left_lanes if end.junction else 0
    pocket = street.pocket_length + _TAPER if turning else 0.0
    needed = start.stop + end.stop + pocket + _SHORTEST
    if whole < needed:
        raise TrafficGradError(
            f"street {name!r} is {whole:g} m long, but its junctions and turning lanes need at least {needed:g} m"
        )
    middle = street.lanes * street.lane_width / 2

    def road(begin: float, stop: float, lanes: int, to_the_right: float) -> dict[str, Any]:
        points = [p + along * ahead + to_the_right * right for along in (begin, stop)]
        return {
            "length": stop - begin,
            "lanes": lanes,
            "lane_width": street.lane_width,
            "speed_limit": street.speed_limit,
            "priority": street.priority,
            "geometry": [tuple(point.tolist()) for point in points],
        }

    stop = whole - end.stop
    ordinary = middle + street.median / 2
    if not turning:
        key = add_edge(graph, start.node, end.node, name, **road(start.stop, stop, street.lanes, ordinary))
        return key, key, street.lanes
    node = f"{name}_pocket"
    opens, begins = stop - pocket, stop - street.pocket_length
    graph.add_node(node, position=tuple((p + opens * ahead + ordinary * right).tolist()), name=node)
    first = add_edge(graph, start.node, node, name, **road(start.stop, opens, street.lanes, ordinary))
    lanes = street.lanes + turning
    # The turning lanes take the median: the right side stays where it is.
    beside = ordinary - turning * street.lane_width / 2
    last = add_edge(graph, node, end.node, f"{name}_approach", **road(begins, stop, lanes, beside))
    leftmost = street.median / 2 + street.lane_width / 2  # m to the right of the street's middle
    ways = through(first, last, street.lanes)
    for i in range(1, turning + 1):
        line = sidestep(
            p + opens * ahead + leftmost * right,
            p + begins * ahead + (leftmost - i * street.lane_width) * right,
            ahead,
        )
        ways.append(Connection(first, street.lanes - 1, last, street.lanes - 1 + i, geometry=line))
    graph.nodes[node]["connections"] = ways
    return first, last, lanes


def movements(arms: Sequence[Arm], turns: bool = True, signal: str | None = None) -> list[Movement]:
    """All ways across a junction of four arms (east, north, west, south), their signal letters in this order.

    Right turns lead from the rightmost lane to the rightmost one, left turns from the leftmost lanes to the leftmost
    ones, straight on every other lane leads to the one of its number.
    """
    found: list[Movement] = []
    for a, arm in enumerate(arms):
        ahead = arm.arriving_lanes - arm.left_lanes
        for turn, further in TURNS:
            if turn != "straight" and not turns:
                continue
            other = arms[(a + further) % 4]
            if turn == "straight":
                pairs = [(i, i) for i in range(min(ahead, other.leaving_lanes))]
            elif turn == "right":
                pairs = [(0, 0)]
            else:
                count = min(max(1, arm.left_lanes), other.leaving_lanes)
                pairs = [(arm.arriving_lanes - 1 - i, other.leaving_lanes - 1 - i) for i in reversed(range(count))]
            for i, j in pairs:
                letter = len(found) if signal is not None else -1
                way = Connection(arm.arriving, i, other.leaving, j, signal=signal, signal_index=letter)
                found.append(Movement(way, a, turn))
    return found


@dataclass(frozen=True)
class Timing:
    """How the signals of a junction of four arms are timed; pairs are of the east-west and the north-south street."""

    kind: str
    green: tuple[float, float]  # s
    left_green: tuple[float, float]  # s, of a phase for left turns alone before it; 0 = they yield within it
    yellow: float  # s
    all_red: float  # s, may be 0
    min_green: float  # s, where the signal is not fixed
    max_green: float  # s

    def check(self, builder: str) -> None:
        """All times make sense.

        Raises:
            TrafficGradError: names the parameter.
        """
        check_choice(builder, "kind", self.kind, KINDS)
        check_lengths(builder, green=min(self.green), yellow=self.yellow, min_green=self.min_green)
        check_lengths(builder, max_green=self.max_green)
        check_not_negative(builder, all_red=self.all_red, left_green=min(self.left_green))
        if self.kind == "fixed":
            return
        greens = [green for green in (*self.green, *self.left_green) if green > 0]
        if not (self.min_green <= min(greens) and max(greens) <= self.max_green):
            raise TrafficGradError(
                f"{builder}: a {self.kind} signal needs min_green <= every green <= max_green, got greens from "
                f"{min(greens):g} to {max(greens):g} s between {self.min_green:g} and {self.max_green:g} s"
            )


def programme(ways: Sequence[Movement], timing: Timing, offset: float) -> dict[str, Any]:
    """A signal programme of a junction, as a graph carries it."""
    greens = []
    for street in (0, 1):
        protected = timing.left_green[street] > 0
        if protected:
            state = "".join("G" if way.turn == "left" and way.arm % 2 == street else "r" for way in ways)
            greens.append((timing.left_green[street], state))
        left = "r" if protected else "g"
        state = "".join((left if way.turn == "left" else "G") if way.arm % 2 == street else "r" for way in ways)
        greens.append((timing.green[street], state))
    phases = phases_in_turn(greens, timing.yellow, timing.all_red)
    shown = {state for _, state in greens}
    for phase in phases:
        least = most = phase["duration"]
        if timing.kind != "fixed" and phase["state"] in shown:
            least, most = timing.min_green, timing.max_green
        phase.update(min_duration=least, max_duration=most)
    return {"kind": timing.kind, "offset": offset, "phases": phases}


def offsets_of(builder: str, offsets: float | Sequence[float], count: int) -> list[float]:
    """One offset in s for each of ``count`` signals.

    Raises:
        TrafficGradError: there are too few or too many, or one is no finite number.
    """
    if isinstance(offsets, int | float):
        offsets = [offsets] * count
    if len(offsets) != count:
        raise TrafficGradError(f"{builder}: offsets needs one value for each of {count} signals, got {len(offsets)}")
    for offset in offsets:
        if isinstance(offset, bool) or not isinstance(offset, int | float) or not math.isfinite(offset):
            raise TrafficGradError(f"{builder}: offsets must be finite numbers of seconds, got {offset!r}")
    return [float(offset) for offset in offsets]
