"""From a networkx graph to checked road data: every attribute looked at once, every default made explicit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network.connections import (
    RIGHTS_OF_WAY,
    Approach,
    Connection,
    EdgeKey,
    Line,
    curve,
    default_connections,
    default_rank,
    heading_at_end,
    heading_at_start,
    line_length,
    turning_speed,
    wrap_angle,
)
from trafficgrad.network.signals import Signal

EDGE_ATTRIBUTES = (
    "length", "lanes", "speed_limit", "lane_width", "geometry", "lane_geometry", "priority", "name",
)  # fmt: skip
NODE_ATTRIBUTES = ("position", "right_of_way", "connections", "name")
LARGEST_GAP = 1.0  # m between lanes that continue each other without a junction lane
SHORTEST_WAY = 0.5  # m, of a junction lane
_CORNER = 3.0  # m between the side of a crossing road and the stop line
_LARGEST_CUT = 0.4  # of an edge that a junction takes at each end
_BEND = math.radians(20.0)  # roads whose directions differ by less just go on


@dataclass(frozen=True)
class EdgeData:
    """One edge: its lanes run side by side and are equally long."""

    key: EdgeKey
    lanes: int
    length: float  # m
    speed_limit: float  # m/s, may be inf
    lane_width: float  # m
    line: Line  # [K, 2] m, centre of all its lanes, to the stop line
    lane_lines: tuple[Line, ...]  # [K, 2] m each, from right to left
    own_lane_lines: bool  # they were given, and are not just parallel to ``line``
    priority: int
    name: str | None


@dataclass(frozen=True)
class WayData:
    """One connection: complete, with the line that vehicles drive; None = the lanes join without a junction lane."""

    connection: Connection
    node: int
    line: Line | None
    length: float  # m, 0 without a line
    speed_limit: float  # m/s


@dataclass(frozen=True)
class RoadData:
    """Everything that a network is compiled from."""

    nodes: tuple[Hashable, ...]
    node_position: np.ndarray  # [nodes, 2] m
    right_of_way: tuple[str, ...]
    node_name: tuple[str | None, ...]
    edges: tuple[EdgeData, ...]
    ways: tuple[WayData, ...]
    signals: tuple[Signal, ...]


def read_graph(graph: nx.MultiDiGraph) -> RoadData:
    """Check a graph and complete it.

    Raises:
        TrafficGradError: one sentence that names the node, edge or connection that makes no sense.
    """
    if not isinstance(graph, nx.MultiDiGraph):
        raise TrafficGradError(f"RoadNetwork.from_graph expects a networkx.MultiDiGraph, got {type(graph).__name__}")
    if graph.number_of_edges() == 0:
        raise TrafficGradError("the road graph has no edges: add at least one with a length")
    nodes = tuple(graph.nodes)
    position, rules, names = [], [], []
    for node, data in graph.nodes(data=True):
        where = f"node {node!r} of the road graph"
        _known(where, data, NODE_ATTRIBUTES)
        xy = data.get("position")
        if not isinstance(xy, (tuple, list, np.ndarray)) or len(xy) != 2 or not _finite(xy):
            raise TrafficGradError(f"{where} needs the attribute position=(x, y) in metres")
        rule = data.get("right_of_way", "priority")
        if rule not in RIGHTS_OF_WAY:
            raise TrafficGradError(
                f"{where}: unknown right_of_way {rule!r}{nearest_name(str(rule), RIGHTS_OF_WAY)}; "
                f"valid are {', '.join(RIGHTS_OF_WAY)}"
            )
        position.append((float(xy[0]), float(xy[1])))
        rules.append(rule)
        names.append(data.get("name"))
    place = dict(zip(nodes, np.array(position), strict=True))
    radius = _junction_radii(graph, place)
    edges = tuple(
        _read_edge(graph, (u, v, key), data, place, radius) for u, v, key, data in graph.edges(keys=True, data=True)
    )
    signals = tuple(Signal.of(str(name), value) for name, value in graph.graph.get("signals", {}).items())
    ways: list[WayData] = []
    arriving: dict[Hashable, list[EdgeData]] = {node: [] for node in nodes}
    leaving: dict[Hashable, list[EdgeData]] = {node: [] for node in nodes}
    for edge in edges:
        leaving[edge.key[0]].append(edge)
        arriving[edge.key[1]].append(edge)
    for n, node in enumerate(nodes):
        given = graph.nodes[node].get("connections")
        ways += _read_node(n, node, rules[n], arriving[node], leaving[node], given, signals)
    return RoadData(nodes, np.array(position), tuple(rules), tuple(names), edges, tuple(ways), signals)


def _known(where: str, data: dict[str, Any], valid: Sequence[str]) -> None:
    for name in data:
        if name not in valid:
            raise TrafficGradError(
                f"{where}: unknown attribute {name!r}{nearest_name(str(name), valid)}; valid are {', '.join(valid)}"
            )


def _finite(values: Any) -> bool:
    try:
        return all(math.isfinite(float(value)) for value in values)
    except (TypeError, ValueError):
        return False


def _read_edge(
    graph: nx.MultiDiGraph,
    key: EdgeKey,
    data: dict[str, Any],
    place: dict[Hashable, np.ndarray],
    radius: dict[Hashable, float],
) -> EdgeData:
    where = f"edge {key[0]!r} -> {key[1]!r}"
    _known(where, data, EDGE_ATTRIBUTES)
    count = data.get("lanes", 1)
    limit, width = _number(where, data, "speed_limit", math.inf), _number(where, data, "lane_width", 3.5)
    if isinstance(count, bool) or not isinstance(count, (int, float)) or int(count) != count or count < 1:
        raise TrafficGradError(f"{where}: lanes must be an integer >= 1, got {count!r}")
    if not limit > 0 or not (width > 0 and math.isfinite(width)):
        raise TrafficGradError(f"{where}: speed_limit and lane_width must be > 0, got {limit} and {width}")
    lanes = int(count)
    priority = data.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TrafficGradError(f"{where}: priority must be an integer, got {priority!r}")
    name = data.get("name")
    if data.get("geometry") is not None:
        line = _line(where, data["geometry"])
    else:
        straight = np.stack([place[key[0]], place[key[1]]])
        if float(np.hypot(*(straight[1] - straight[0]))) == 0.0:
            raise TrafficGradError(f"{where}: its centre line has no length; give it a geometry with distinct points")
        both_ways = graph.has_edge(key[1], key[0])
        line = beside(straight, -lanes * width / 2) if both_ways else straight
        line = trimmed(line, radius[key[0]], radius[key[1]])
    own = data.get("lane_geometry")
    if own is None:
        lines = tuple(beside(line, (i - (lanes - 1) / 2) * width) for i in range(lanes))
    else:
        if len(own) != lanes:
            raise TrafficGradError(f"{where}: lane_geometry has {len(own)} lines for {lanes} lanes")
        lines = tuple(_line(f"{where}, lane {i}", points) for i, points in enumerate(own))
    length = _number(where, data, "length", line_length(line))
    if not (length > 0 and math.isfinite(length)):
        raise TrafficGradError(f"{where}: length must be a finite number of metres > 0, got {length}")
    return EdgeData(key, lanes, length, limit, width, line, lines, own is not None, priority, name)


def _number(where: str, data: dict[str, Any], name: str, default: float) -> float:
    value = data.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise TrafficGradError(f"{where}: {name} must be a number, got {value!r}")
    return float(value)


def _line(where: str, geometry: Any) -> Line:
    try:
        line = np.asarray(geometry, dtype=np.float64)
    except (TypeError, ValueError):
        line = np.empty(0)
    if line.ndim != 2 or line.shape[0] < 2 or line.shape[1] != 2 or not np.isfinite(line).all():
        raise TrafficGradError(f"{where}: geometry must be a list of at least two finite points (x, y) in metres")
    keep = np.concatenate([[True], np.hypot(*np.diff(line, axis=0).T) > 0])
    if keep.sum() < 2:
        raise TrafficGradError(f"{where}: its centre line has no length; give it a geometry with distinct points")
    return line[keep]


def beside(line: Line, offset: float) -> Line:
    """The parallel ``offset`` m to the left of a line, [K, 2] m. At bends it keeps its distance from both pieces."""
    step = np.diff(line, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], -1) / np.hypot(*step.T)[:, None]
    ends = normal[:1], normal[-1:]
    if np.allclose(line[0], line[-1]):  # a loop of one edge: no kink where it closes
        ends = ((normal[:1] + normal[-1:]) / 2,) * 2
    mitre = np.concatenate([ends[0], (normal[1:] + normal[:-1]) / 2, ends[1]])
    size = np.maximum(np.hypot(*mitre.T), 0.35)[:, None]  # hairpins get no spikes
    return line + offset * mitre / size**2


def trimmed(line: Line, start: float, end: float) -> Line:
    """A line without its first and last metres, at most ``_LARGEST_CUT`` of it at each end."""
    along = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    low, high = min(start, _LARGEST_CUT * along[-1]), along[-1] - min(end, _LARGEST_CUT * along[-1])
    at = np.concatenate([[low], along[(along > low) & (along < high)], [high]])
    return np.stack([np.interp(at, along, line[:, c]) for c in (0, 1)], axis=-1)


def _junction_radii(graph: nx.MultiDiGraph, place: dict[Hashable, np.ndarray]) -> dict[Hashable, float]:
    """How far from each node the edges that have no geometry of their own end, m; 0 where a road just goes on."""
    radii = {}
    for node in graph.nodes:
        roads: dict[Hashable, tuple[float, float]] = {}  # by neighbour: direction, width
        for u, v, data in [*graph.in_edges(node, data=True), *graph.out_edges(node, data=True)]:
            other = u if v == node else v
            if other == node:
                continue
            try:
                size = float(data.get("lanes", 1)) * float(data.get("lane_width", 3.5))
            except (TypeError, ValueError):
                size = 3.5  # told of when the edge is read
            direction = math.atan2(*(place[other] - place[node])[::-1])
            roads[other] = (direction, roads.get(other, (0.0, 0.0))[1] + size)
        signals = graph.nodes[node].get("right_of_way") == "signals"
        courses = [direction for direction, _ in roads.values()]
        bends = len(courses) == 2 and abs(abs(wrap_angle(courses[0] - courses[1])) - math.pi) > _BEND
        if len(roads) < 3 and not signals and not bends:
            radii[node] = 0.0
            continue
        widths = [
            b / 2
            for other, (_, b) in roads.items()
            if any(abs(math.sin(roads[one][0] - roads[other][0])) > math.sin(_BEND) for one in roads)
        ]
        radii[node] = max(widths, default=0.0) + _CORNER
    return radii


def _read_node(
    n: int,
    node: Hashable,
    rule: str,
    arriving: list[EdgeData],
    leaving: list[EdgeData],
    given: Any,
    signals: tuple[Signal, ...],
) -> list[WayData]:
    """The connections of a node, complete."""
    into = {e.key: Approach(e.key, e.lanes, heading_at_end(e.line), e.priority) for e in arriving}
    out = {e.key: Approach(e.key, e.lanes, heading_at_start(e.line), e.priority) for e in leaving}
    if given is None:
        ways = default_connections(list(into.values()), list(out.values()), rule)
    else:
        ways = [Connection.of(value, node) for value in given]
        _check_connections(node, ways, into, out, signals)
    ends = {e.key: e for e in arriving}
    starts = {e.key: e for e in leaving}
    left, taken = [(way.from_edge, way.from_lane) for way in ways], [(way.to_edge, way.to_lane) for way in ways]
    gaps = [
        float(np.hypot(*(starts[w.to_edge].lane_lines[w.to_lane][0] - ends[w.from_edge].lane_lines[w.from_lane][-1])))
        for w in ways
    ]
    # Roads that only go on need no junction: nothing meets, nothing crosses, nobody waits.
    plain = (
        len(set(taken)) == len(taken) == len(set(left))
        and (len(arriving) == 1 or len(leaving) == 1)
        and not any(way.stop or way.signal or way.length is not None or way.geometry for way in ways)
        and rule in ("priority", "zipper")
        and all(gap < LARGEST_GAP for gap in gaps)
    )
    data = []
    for way in ways:
        road, to = ends[way.from_edge], starts[way.to_edge]
        rank = way.priority
        if rank is None:
            rank = default_rank(into[way.from_edge], out[way.to_edge], rule)
        way = dataclasses.replace(way, priority=rank, stop=way.stop or rule == "all_way_stop")
        if plain:
            data.append(WayData(way, n, None, 0.0, min(road.speed_limit, to.speed_limit)))
            continue
        if way.geometry is not None:
            line = _line(f"node {node!r}, {way}", way.geometry)
        else:
            line = curve(road.lane_lines[way.from_lane], to.lane_lines[way.to_lane])
            if line_length(line) < 0.01:  # lanes that touch: the way is a point, as long as its length says
                ahead = heading_at_end(road.lane_lines[way.from_lane])
                line = np.stack([line[0], line[0] + 0.01 * np.array([math.cos(ahead), math.sin(ahead)])])
        length = max(SHORTEST_WAY, line_length(line)) if way.length is None else float(way.length)
        limit = min(turning_speed(line), max(road.speed_limit, to.speed_limit))
        limit = limit if way.speed_limit is None else float(way.speed_limit)
        points = tuple((float(x), float(y)) for x, y in line)
        way = dataclasses.replace(way, geometry=points, length=length, speed_limit=limit)
        data.append(WayData(way, n, line, length, limit))
    return data


def _check_connections(
    node: Hashable,
    ways: Sequence[Connection],
    into: dict[EdgeKey, Approach],
    out: dict[EdgeKey, Approach],
    signals: Sequence[Signal],
) -> None:
    """Every connection joins lanes that exist at the node, once, and obeys a signal that exists.

    Raises:
        TrafficGradError: one sentence that names it.
    """
    letters = {signal.name: len(signal.states[0]) for signal in signals}
    seen = set()
    for way in ways:
        where = f"node {node!r}: {way}"
        for key, number, side, verb in (
            (way.from_edge, way.from_lane, into, "ends"),
            (way.to_edge, way.to_lane, out, "begins"),
        ):
            if key not in side:
                raise TrafficGradError(f"{where} is dangling: no edge {key} {verb} in this node")
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < side[key].lanes:
                raise TrafficGradError(
                    f"{where} is dangling: edge {key} has the lanes 0 to {side[key].lanes - 1}, not {number!r}"
                )
        ends = (way.from_edge, way.from_lane, way.to_edge, way.to_lane)
        if ends in seen:
            raise TrafficGradError(f"{where} is given twice")
        seen.add(ends)
        for name in ("length", "speed_limit"):
            value = getattr(way, name)
            if value is not None and not (isinstance(value, (int, float)) and value > 0 and not math.isnan(value)):
                raise TrafficGradError(f"{where}: {name} must be > 0, got {value!r}")
        if way.length is not None and math.isinf(way.length):
            raise TrafficGradError(f"{where}: length must be a finite number of metres > 0, got {way.length}")
        if way.signal is not None:
            if way.signal not in letters:
                raise TrafficGradError(
                    f"{where}: there is no signal {way.signal!r}{nearest_name(way.signal, letters)} in the graph's "
                    "attribute signals"
                )
            if not 0 <= way.signal_index < letters[way.signal]:
                raise TrafficGradError(
                    f"{where}: signal {way.signal!r} has the letters 0 to {letters[way.signal] - 1}, "
                    f"not {way.signal_index}"
                )
