"""Road networks of OpenStreetMap: ``.osm`` files, read with osmnx."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.connections import heading_at_end, heading_at_start, line_length
from trafficgrad.network.files import ImportSummary, Tally, check_xml, open_compressed
from trafficgrad.network.graph_reading import beside, trimmed

KMH, MPH = 1 / 3.6, 0.44704


class RoadClass(NamedTuple):
    """What is assumed of a road whose tags do not say it."""

    lanes: int  # in each direction
    speed_limit: float  # km/h
    priority: int  # at junctions, higher goes first


# Lanes: "Assumptions" of https://wiki.openstreetmap.org/wiki/Key:lanes. Priorities: the order of the classes in
# https://wiki.openstreetmap.org/wiki/Key:highway, slip roads below. Speed limits: round values between those in and out
# of towns that https://wiki.openstreetmap.org/wiki/Default_speed_limits lists for Europe; they only serve where no
# maxspeed is given, so give it where it matters.
ROAD_CLASSES = {
    "motorway": RoadClass(2, 120.0, 12),
    "trunk": RoadClass(2, 100.0, 11),
    "primary": RoadClass(1, 80.0, 10),
    "secondary": RoadClass(1, 70.0, 9),
    "tertiary": RoadClass(1, 60.0, 8),
    "motorway_link": RoadClass(1, 80.0, 7),
    "trunk_link": RoadClass(1, 60.0, 6),
    "primary_link": RoadClass(1, 50.0, 5),
    "secondary_link": RoadClass(1, 50.0, 4),
    "tertiary_link": RoadClass(1, 50.0, 3),
    "unclassified": RoadClass(1, 50.0, 2),
    "residential": RoadClass(1, 50.0, 1),
    "living_street": RoadClass(1, 10.0, 0),
    "service": RoadClass(1, 20.0, 0),
}
# Speed limits that maxspeed names by zone, km/h: of a country, or else those of most of Europe (same source).
ZONES = {
    "urban": 50.0, "rural": 90.0, "trunk": 110.0, "motorway": 130.0, "living_street": 20.0, "bicycle_road": 30.0,
    "DE:rural": 100.0, "DE:motorway": math.inf, "DE:living_street": 10.0, "AT:rural": 100.0, "CH:rural": 80.0,
    "CH:motorway": 120.0, "ES:motorway": 120.0, "FR:rural": 80.0, "NL:rural": 80.0, "NL:motorway": 100.0,
    "GB:nsl_restricted": 30 * MPH / KMH, "GB:nsl_single": 60 * MPH / KMH, "GB:nsl_dual": 70 * MPH / KMH,
    "GB:motorway": 70 * MPH / KMH, "walk": 7.0,
}  # fmt: skip
_LANE_WIDTH = 3.5  # m
_LANE_WIDTHS = (2.0, 5.0)  # m: a width tag that gives other values is not of the driven lanes
_CORNER = 3.0  # m between the side of a crossing road and the stop line
_SIGN_DISTANCE = 60.0  # m from the junction, at most, of a signal or a sign that belongs to it
_SHORT = 3.0  # m: edges up to it are joined to a junction
_AGAINST_ALL = 20  # priority that a sign takes off, and a roundabout adds: more than the classes differ
_WAY_TAGS = (
    "highway", "junction", "area", "service", "access", "vehicle", "motor_vehicle", "motorcar", "name", "oneway",
    "lanes", "lanes:forward", "lanes:backward", "maxspeed", "maxspeed:forward", "maxspeed:backward", "width",
)  # fmt: skip
_NODE_TAGS = ("highway", "direction", "traffic_signals:direction", "stop")
_EXPECTED = "an OpenStreetMap file"


def read_osm(path: Path | str) -> tuple[nx.MultiDiGraph, ImportSummary]:
    """Read an OpenStreetMap file, ``.osm`` or ``.osm.xml``, also packed (``.gz``, ``.bz2``), as the graph that
    ``RoadNetwork.from_graph`` compiles.

    Nodes are junctions, dead ends and places where a road changes, named by OSM's number, in metres of the UTM zone
    less an origin that the summary tells. Only the classes of ``ROAD_CLASSES`` are kept, without driveways, car
    parks and roads closed to cars. Lanes, speed limits and widths come from the tags, or else from that table.
    Roads are shifted to the right half and cut back at junctions, where they end at the stop line; traffic drives
    on the right. Those who drive in a roundabout go first; those who come to a stop or give-way sign go last;
    ``stop=all`` makes an all-way stop. Junctions with signals have ``right_of_way`` "signals"; for programmes see
    :func:`~trafficgrad.network.signal_defaults.default_programmes`. Edges below 3 m are joined to their junction.
    Turn restrictions and turn lanes are not read: connections follow from geometry.

    Nothing is fetched from the internet.

    Raises:
        TrafficGradError: the file is missing, damaged, no OpenStreetMap file or one without car roads, or osmnx is not
            installed.
    """
    path = Path(path)
    check_xml(path, ("osm",), _EXPECTED)
    tally = Tally("nodes", "edges", "lanes", "ways")
    roads = _parse(path)
    _keep_car_roads(roads, tally)
    if roads.number_of_edges() == 0:
        reasons = ", ".join(sorted(tally.left_out.get("ways", {}))) or "none"
        raise TrafficGradError(f"{path}: has no road for cars (ways: {reasons})")
    origin = _project(roads)
    rules, signs = _signs(roads, tally)
    for u, v, data in roads.edges(data=True):
        _describe(u, v, data, signs)
    roads = _simplify(roads)
    _join_short_edges(roads, rules, tally)
    graph = _build(roads, rules)
    tally.keep("nodes", graph.number_of_nodes())
    tally.keep("edges", graph.number_of_edges())
    tally.keep("lanes", sum(lanes for _, _, lanes in graph.edges(data="lanes")))
    summary = tally.summary(path)
    return graph, ImportSummary(summary.source, summary.read, summary.kept, summary.left_out, (*summary.notes, origin))


def speed_limit(text: str | None) -> float | None:
    """The value of a ``maxspeed`` tag in m/s; inf for "none", None where it says nothing that is understood.

    Numbers are km/h, or mph or knots if the tag says so; of several values the first counts. Zones such as "DE:urban"
    or "FR:zone30" are looked up in ``ZONES``.
    """
    first = (text or "").split(";")[0].strip()
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(km/h|kmh|kph|mph|knots)?", first)
    if number:
        unit = {"mph": MPH, "knots": 1852 / 3600}.get(number[2] or "", KMH)
        return float(number[1]) * unit or None
    if first == "none":
        return math.inf
    zone = re.fullmatch(r"(?:[A-Z]{2}(?:-\w+)?:)?zone:?(\d+)", first)
    if zone:
        return float(zone[1]) * KMH
    known = ZONES.get(first, ZONES.get(first.partition(":")[2]))
    return None if known is None else known * KMH


# ---------------------------------------------------------------------- reading


def _parse(path: Path) -> nx.MultiDiGraph:
    """The graph of all ways that osmnx makes: a node for every point, an edge for every piece and direction."""
    try:
        import osmnx
    except ImportError:
        raise TrafficGradError(
            f'{path.name}: OpenStreetMap files are read with osmnx, which is missing: pip install "trafficgrad[maps]"'
        ) from None
    settings = osmnx.settings
    before = settings.useful_tags_way, settings.useful_tags_node
    try:
        settings.useful_tags_way, settings.useful_tags_node = list(_WAY_TAGS), list(_NODE_TAGS)
        with _unpacked(path) as plain:
            return osmnx.graph_from_xml(plain, simplify=False, retain_all=True)
    except Exception as error:  # osmnx does not check: whatever it stumbles over, the file is wrong
        detail = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise TrafficGradError(f"{path}: is XML, but not {_EXPECTED} that osmnx can read ({detail})") from None
    finally:
        settings.useful_tags_way, settings.useful_tags_node = before


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """A file that is not compressed, whatever the name of ``path`` says."""
    with open_compressed(path) as packed, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "map.osm"
        with plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
        yield plain


def _keep_car_roads(roads: nx.MultiDiGraph, tally: Tally) -> None:
    """Remove the edges that cars do not use, and nodes without edges; count ways."""
    reasons: dict[int, str | None] = {}
    unwanted = []
    for u, v, key, data in roads.edges(keys=True, data=True):
        reasons[data["osmid"]] = reason = _why_not(data)
        motorway = data.get("highway") == "motorway"
        if reason or (motorway and data["reversed"]):
            unwanted.append((u, v, key))
        data["oneway"] |= motorway  # osmnx knows it of roundabouts; of motorways it waits for a tag
    roads.remove_edges_from(unwanted)
    roads.remove_nodes_from([node for node, degree in list(roads.degree) if degree == 0])
    for reason in reasons.values():
        if reason is None:
            tally.keep("ways")
        else:
            tally.drop("ways", reason)


def _why_not(tags: Mapping[str, Any]) -> str | None:
    """Why a way is no road for cars; None if it is one."""
    kind = tags.get("highway")
    if kind is None:
        return "that are no roads"
    if kind not in ROAD_CLASSES:
        return f"of class {kind}"
    if tags.get("area") == "yes":
        return "that are areas"
    if tags.get("service") in ("driveway", "parking_aisle", "drive-through", "emergency_access"):
        return "in car parks and drives"
    permission = next((tags[tag] for tag in ("motorcar", "motor_vehicle", "vehicle", "access") if tag in tags), "yes")
    return "closed to cars" if permission in ("no", "agricultural", "forestry") else None


def _project(roads: nx.MultiDiGraph) -> str:
    """Replace degrees by metres; says where the origin is."""
    import osmnx
    import shapely

    points = shapely.MultiPoint([(data["x"], data["y"]) for _, data in roads.nodes(data=True)])
    projected, system = osmnx.projection.project_geometry(points)
    xy = shapely.get_coordinates(projected)
    origin = np.floor(xy.min(axis=0))
    for (_, data), (x, y) in zip(roads.nodes(data=True), (xy - origin).tolist(), strict=True):
        data["x"], data["y"] = round(x, 3), round(y, 3)
    return f"origin: {origin[0]:.0f} m east, {origin[1]:.0f} m north in {system.name}"


# ---------------------------------------------------------------------- signs


def _signs(roads: nx.MultiDiGraph, tally: Tally) -> tuple[dict[Hashable, str], set[tuple[Hashable, Hashable]]]:
    """Right of way of junctions with signals or all-way stops, and last pieces of edges that end at a stop sign."""
    rules: dict[Hashable, str] = {}
    signs: set[tuple[Hashable, Hashable]] = set()
    for node, data in roads.nodes(data=True):
        sign = data.get("highway")
        if sign not in ("traffic_signals", "stop", "give_way"):
            continue
        all_way = data.get("stop") == "all"
        if len(_neighbours(roads, node)) > 2:
            approaches: list[tuple[Hashable, Hashable]] = [(node, node)]
        else:
            approaches = _junctions_ahead(roads, node, data)
        for before, junction in approaches:
            if sign == "traffic_signals":
                rules[junction] = "signals"
            elif sign == "stop" and all_way:
                rules.setdefault(junction, "all_way_stop")
            elif before != junction:
                signs.add((before, junction))
        if not approaches:
            tally.note("signals, stop and give-way signs away from junctions (left out)")
    return rules, signs


def _neighbours(roads: nx.MultiDiGraph, node: Hashable) -> set[Hashable]:
    return set(roads.predecessors(node)) | set(roads.successors(node))


def _junctions_ahead(
    roads: nx.MultiDiGraph, node: Hashable, tags: Mapping[str, Any]
) -> list[tuple[Hashable, Hashable]]:
    """Junctions that a sign at a point of a road is for, each with the point before it.

    The ``direction`` tag says for which drivers the sign is; without one it is for those who have the shorter way from
    it to a junction.
    """
    direction = tags.get("traffic_signals:direction", tags.get("direction"))
    found = []
    for came, _, data in roads.in_edges(node, data=True):
        if direction in ("forward", "backward") and data["reversed"] != (direction == "backward"):
            continue
        last, here, driven = came, node, 0.0
        while driven <= _SIGN_DISTANCE:
            onward = [to for to in roads.successors(here) if to != last]
            if len(onward) != 1 or (here != node and len(_neighbours(roads, here)) > 2):
                break
            driven += math.dist(_xy(roads, here), _xy(roads, onward[0]))
            last, here = here, onward[0]
        if here != node and driven <= _SIGN_DISTANCE and len(_neighbours(roads, here)) > 2:
            found.append((driven, last, here))
    found.sort(key=lambda one: one[0])
    return [(last, here) for _, last, here in (found if direction is not None else found[:1])]


def _xy(roads: nx.MultiDiGraph, node: Hashable) -> tuple[float, float]:
    return roads.nodes[node]["x"], roads.nodes[node]["y"]


# ---------------------------------------------------------------------- edges


def _describe(u: Hashable, v: Hashable, data: dict[str, Any], signs: set[tuple[Hashable, Hashable]]) -> None:
    """Replace the tags of one piece and direction of a road by what they mean.

    ``profile`` is the same for both directions and differs where the road changes, which makes a node.
    """
    tags, backward, one_way = dict(data), data["reversed"], data["oneway"]
    kind = ROAD_CLASSES[tags["highway"]]
    roundabout = tags.get("junction") == "roundabout"
    lanes = [_lanes(tags, side, one_way, kind) for side in ("forward", "backward")]
    limits = [speed_limit(tags.get(f"maxspeed:{side}", tags.get("maxspeed"))) for side in ("forward", "backward")]
    speeds = [kind.speed_limit * KMH if limit is None else limit for limit in limits]
    number = re.match(r"\d+(\.\d+)?", str(tags.get("width", "")))
    width = float(number[0]) / (lanes[0] if one_way else sum(lanes)) if number else _LANE_WIDTH
    width = width if _LANE_WIDTHS[0] <= width <= _LANE_WIDTHS[1] else _LANE_WIDTH
    priority = kind.priority + _AGAINST_ALL * roundabout
    data.clear()
    data.update(
        lanes=lanes[backward],
        speed_limit=speeds[backward],
        lane_width=width,
        priority=priority,
        sign=(u, v) in signs,
        both_ways=not one_way,
        name=tags.get("name", ""),
        profile=str((sorted(zip(lanes, speeds, strict=True)), width, priority, one_way)),
    )


def _lanes(tags: Mapping[str, Any], side: str, one_way: bool, kind: RoadClass) -> int:
    """Lanes of a road in one direction."""
    other = "backward" if side == "forward" else "forward"
    own, opposite, total = (_count(tags.get(tag)) for tag in (f"lanes:{side}", f"lanes:{other}", "lanes"))
    if own is not None and not one_way:
        return own
    if total is None:
        return kind.lanes
    if one_way:
        return total
    return max(1, total // 2 if opposite is None else total - opposite)


def _count(text: str | None) -> int | None:
    number = re.match(r"\d+", text or "")
    return max(1, int(number[0])) if number else None


def _simplify(roads: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """The graph with nodes only at junctions, ends and changes of a road; every edge has its line."""
    import osmnx

    # The sign of an edge is that of its last piece: a sign belongs to the junction it stands before.
    rules = {"lanes": min, "speed_limit": min, "sign": lambda signs: signs[-1], "name": lambda names: names[0]}
    roads = osmnx.simplify_graph(roads, edge_attrs_differ=["profile"], remove_rings=False, edge_attr_aggs=rules)
    for u, v, data in roads.edges(data=True):
        points = data["geometry"].coords if "geometry" in data else (_xy(roads, u), _xy(roads, v))
        data["line"] = np.array(points, dtype=np.float64)
    return roads


def _join_short_edges(roads: nx.MultiDiGraph, rules: dict[Hashable, str], tally: Tally) -> None:
    """Make one node of two that only an edge below ``_SHORT`` joins, unless a longer road joins them as well."""
    for u, v in list(dict.fromkeys((min(u, v), max(u, v)) for u, v in roads.edges() if u != v)):
        if u not in roads or v not in roads:
            continue
        between = [(a, b, k) for a, b in ((u, v), (v, u)) for k in (roads.get_edge_data(a, b) or ())]
        if not between or any(line_length(roads.edges[edge]["line"]) >= _SHORT for edge in between):
            continue
        if roads.degree(u) < roads.degree(v):
            u, v = v, u
        roads.remove_edges_from(between)
        place = np.array(_xy(roads, u))
        meeting = {*roads.in_edges(v, keys=True), *roads.out_edges(v, keys=True)}  # a loop is in both
        for a, b, data in [(*edge[:2], roads.edges[edge]) for edge in sorted(meeting)]:
            line = data["line"].copy()
            if b == v:
                line[-1] = place
            if a == v:
                line[0] = place
            roads.add_edge(u if a == v else a, u if b == v else b, **{**data, "line": line})
        roads.remove_node(v)
        if v in rules:
            rules.setdefault(u, rules.pop(v))
        tally.note(f"edges below {_SHORT:g} m (joined to their junction)", len(between))


def _build(roads: nx.MultiDiGraph, rules: Mapping[Hashable, str]) -> nx.MultiDiGraph:
    """The graph as ``RoadNetwork.from_graph`` wants it: edges on the right half, up to the stop line."""
    graph = nx.MultiDiGraph()
    radius = {node: _radius(roads, node, node in rules) for node in roads.nodes}
    for node in roads.nodes:
        graph.add_node(node, position=_xy(roads, node), right_of_way=rules.get(node, "priority"))
    for u, v, data in roads.edges(data=True):
        line = data["line"]
        if data["both_ways"]:
            line = beside(line, -data["lanes"] * data["lane_width"] / 2)
        line = trimmed(line, radius[u], radius[v])
        values = {name: data[name] for name in ("lanes", "speed_limit", "lane_width")}
        values["priority"] = data["priority"] - _AGAINST_ALL * data["sign"]
        if data["name"]:
            values["name"] = data["name"]
        graph.add_edge(u, v, geometry=[(round(x, 3), round(y, 3)) for x, y in line.tolist()], **values)
    return graph


def _radius(roads: nx.MultiDiGraph, node: Hashable, ruled: bool) -> float:
    """How far from a node the edges end, m: beyond the widest road that crosses; 0 where a road just goes on."""
    if len(_neighbours(roads, node)) < 3 and not ruled:
        return 0.0
    arms = [(heading_at_start(data["line"]), data) for _, _, data in roads.out_edges(node, data=True)]
    arms += [(heading_at_end(data["line"]) + math.pi, data) for _, _, data in roads.in_edges(node, data=True)]
    widths = [
        data["lanes"] * data["lane_width"] * (1.0 if data["both_ways"] else 0.5)
        for heading, data in arms
        if any(abs(math.sin(heading - other)) > math.sin(math.radians(20.0)) for other, _ in arms)
    ]
    return max(widths, default=0.0) + _CORNER
