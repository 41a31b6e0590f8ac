"""Road networks of SUMO: ``.net.xml`` files, read with sumolib."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.connections import Connection, EdgeKey
from trafficgrad.network.files import ImportSummary, Tally, check_xml

# What SUMO calls the rule of a junction, where the rule is not "priority". Signals are seen by their connections.
_RIGHT_OF_WAY = {"allway_stop": "all_way_stop", "zipper": "zipper"}
_STOP_STATES = "sw"  # of a connection: stop sign, all-way stop
# Letters of signal states: red and yellow together is red; off and blinking means yield, off with priority means go;
# a green arrow for the right turn that asks to stop first is read as green that yields.
_LETTERS = {"r": "r", "u": "r", "y": "y", "Y": "y", "g": "g", "s": "g", "o": "g", "G": "G", "O": "G"}
_KINDS = {"static": "fixed", "actuated": "actuated", "delay_based": "actuated"}
_ON_FOOT = {"pedestrian", "wheelchair"}
_BY_BICYCLE = {*_ON_FOOT, "bicycle", "scooter"}
_ON_RAILS = {"tram", "rail_urban", "rail", "rail_electric", "rail_fast", "subway", "cable_car"}
_ON_ROADS = {
    "private", "hov", "taxi", "bus", "coach", "delivery", "truck", "trailer", "motorcycle", "moped", "evehicle",
    "emergency", "authority", "army", "vip",
}  # fmt: skip
_EXPECTED = "a SUMO network"


def read_sumo(path: Path | str, vehicle_class: str = "passenger") -> tuple[nx.MultiDiGraph, ImportSummary]:
    """Read a SUMO network, ``.net.xml`` or ``.net.xml.gz``, as the graph that ``RoadNetwork.from_graph`` compiles.

    Nodes have the names of SUMO's junctions, edges the key of SUMO's edges. Only what cars may use is kept: lanes
    without them are dropped and the others of their edge numbered anew, then edges without lanes, then nodes without
    edges. Connections carry SUMO's internal lanes (line, length, speed), the rank that follows from SUMO's
    right-of-way matrix (see :func:`yield_ranks`), stop signs and signals. Of several programmes of a signal the one
    called "0" is taken, or else the first. In left-hand networks lanes are counted from the other side, so that lane 0
    is on the right here too.

    Parameters:
        vehicle_class: SUMO's name of the vehicles that count as cars, such as "passenger", "truck" or "bus".

    Returns:
        the graph, and a summary that counts what was read and what was left out.

    Raises:
        TrafficGradError: the file is missing, damaged, no SUMO network or one without car roads, or sumolib is not
            installed.
    """
    path = Path(path)
    attributes = check_xml(path, ("net",), _EXPECTED)
    net = _parse(path)
    tally = Tally("nodes", "edges", "lanes", "connections", "signals")
    left_hand = attributes.get("lefthand", "").lower() in ("true", "1")
    numbers = _car_lanes(net, tally, vehicle_class, left_hand)
    if not numbers:
        instead = ", ".join(sorted(tally.left_out.get("edges", {}))) or "there are none"
        raise TrafficGradError(f"{path}: has no road for vehicles of SUMO's class {vehicle_class!r} (roads: {instead})")
    names = {edge: (edge.getFromNode().getID(), edge.getToNode().getID(), edge.getID()) for edge in numbers}
    graph = nx.MultiDiGraph()
    used = {node for edge in numbers for node in (edge.getFromNode(), edge.getToNode())}
    for node in net.getNodes():
        if node in used:
            graph.add_node(node.getID(), position=tuple(node.getCoord()))
            tally.keep("nodes")
        else:
            tally.drop("nodes", "without car roads")
    for edge, lanes in numbers.items():
        u, v, key = names[edge]
        graph.add_edge(u, v, key=key, **_edge_attributes(edge, sorted(lanes, key=lanes.__getitem__), tally))
    programmes = _programmes(net, tally)
    signals = set()
    for node in net.getNodes():
        ways = _connections(node, vehicle_class, numbers, names, programmes, tally)
        if node not in used:
            continue
        for way in ways:
            if way.signal is not None and way.signal_index >= len(programmes[way.signal]["phases"][0]["state"]):
                raise TrafficGradError(
                    f"{path}: {way} obeys letter {way.signal_index} of signal {way.signal!r}, whose states are shorter"
                )
        own = {way.signal for way in ways if way.signal is not None}
        signals |= own
        rule = "signals" if own else _RIGHT_OF_WAY.get(node.getType(), "priority")
        graph.nodes[node.getID()].update(right_of_way=rule, connections=tuple(ways))
    graph.graph["signals"] = {name: programme for name, programme in programmes.items() if name in signals}
    for name in programmes:
        if name in signals:
            tally.keep("signals")
        else:
            tally.drop("signals", "without car traffic")
    return graph, tally.summary(path)


def yield_ranks(yields: Mapping[int, Iterable[int]]) -> dict[int, int]:
    """Ranks of the links of a junction, higher first, from who must yield to whom.

    A link that yields to nobody has rank 0, and every link ranks below those that it yields to. Links that yield to
    each other in a circle, such as all four roads of a right-before-left junction, cannot all obey: among them those
    that yield to fewer go first, and those that yield to equally many share a rank.

    Parameters:
        yields: link -> links that it yields to.
    """
    relation = nx.DiGraph([(link, other) for link, others in yields.items() for other in others])
    relation.add_nodes_from(yields)
    circles = nx.condensation(relation)
    ranks: dict[int, int] = {}
    lowest: dict[int, int] = {}  # rank in each circle
    for circle in reversed(list(nx.topological_sort(circles))):
        highest = min((lowest[other] for other in circles.successors(circle)), default=1) - 1
        members = circles.nodes[circle]["members"]
        needs = sorted({len(set(yields[link])) for link in members})
        ranks |= {link: highest - needs.index(len(set(yields[link]))) for link in members}
        lowest[circle] = highest - len(needs) + 1
    return ranks


def _parse(path: Path) -> Any:
    """The network of sumolib."""
    try:
        import sumolib
    except ImportError:
        raise TrafficGradError(
            f'{path.name}: SUMO networks are read with sumolib, which is missing: pip install "trafficgrad[maps]"'
        ) from None
    try:
        return sumolib.net.readNet(str(path), withInternal=True, withPrograms=True, lxml=False)
    except Exception as error:  # sumolib does not check: whatever it stumbles over, the file is wrong
        detail = f"missing {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise TrafficGradError(f"{path}: is XML, but not {_EXPECTED} that sumolib can read ({detail})") from None


def _car_lanes(net: Any, tally: Tally, vehicle_class: str, left_hand: bool) -> dict[Any, dict[Any, int]]:
    """Every edge that cars may use -> its lanes that they may use -> the number of each, 0 = right."""
    numbers = {}
    for edge in net.getEdges():
        if edge.getFunction():
            tally.drop(
                "edges inside junctions",
                {"walkingarea": "walking areas", "crossing": "crossings"}.get(edge.getFunction(), "internal"),
            )
            continue
        lanes = [lane for lane in edge.getLanes() if lane.allows(vehicle_class)]
        for lane in edge.getLanes():
            if lane not in lanes:
                tally.drop("lanes", _who_else(lane.getPermissions()))
        if not lanes:
            tally.drop("edges", _who_else(edge.getPermissions()))
            continue
        tally.keep("edges")
        tally.keep("lanes", len(lanes))
        numbers[edge] = {lane: number for number, lane in enumerate(reversed(lanes) if left_hand else lanes)}
    return numbers


def _who_else(allowed: Iterable[str]) -> str:
    """Whom a lane is for that is not for passenger cars."""
    classes = set(allowed)
    if not classes:
        return "closed"
    if classes <= _ON_FOOT:
        return "for pedestrians"
    if classes <= _BY_BICYCLE:
        return "for bicycles"
    if classes & _ON_ROADS:
        return "for buses and other special vehicles"
    return "on rails" if classes & _ON_RAILS else "for others than cars"


def _edge_attributes(edge: Any, lanes: Sequence[Any], tally: Tally) -> dict[str, Any]:
    """Attributes of an edge with the given lanes, from right to left."""
    values: dict[str, Any] = {
        "length": lanes[0].getLength(),
        "lanes": len(lanes),
        "speed_limit": max(lane.getSpeed() for lane in lanes),
        "lane_width": statistics.fmean(lane.getWidth() for lane in lanes),
        "priority": edge.getPriority(),
    }
    if len({lane.getSpeed() for lane in lanes}) > 1:
        tally.note("edges whose lanes have different speed limits (the highest holds on all)")
    if edge.getName():
        values["name"] = edge.getName()
    shapes = [_distinct(lane.getShape()) for lane in lanes]
    if all(len(shape) > 1 for shape in shapes):
        values["lane_geometry"] = shapes
        values["geometry"] = _middle(shapes)
    return values


def _distinct(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line without points that repeat the one before."""
    line: list[tuple[float, float]] = []
    for x, y in points:
        if not line or (x, y) != line[-1]:
            line.append((float(x), float(y)))
    return line


def _middle(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of lines that run side by side, point by point or, if they have different points, by their share."""
    if len({len(line) for line in lines}) == 1:
        return [tuple(point) for point in np.mean(lines, axis=0).tolist()]
    arrays = [np.array(line) for line in lines]
    shares = [np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()]) for line in arrays]
    shares = [share / share[-1] for share in shares]
    at = np.unique(np.concatenate(shares))
    rows = [[np.interp(at, share, line[:, c]) for c in (0, 1)] for share, line in zip(shares, arrays, strict=True)]
    return _distinct(np.mean(rows, axis=0).T.tolist())


def _connections(
    node: Any,
    vehicle_class: str,
    numbers: Mapping[Any, Mapping[Any, int]],
    names: Mapping[Any, EdgeKey],
    programmes: Mapping[str, Any],
    tally: Tally,
) -> list[Connection]:
    """Connections of a junction for cars, with their ranks; the others are counted."""
    indices = _link_indices(node)
    kept: dict[int, Any] = {}
    for edge in node.getIncoming():
        for lane in edge.getLanes() if not edge.getFunction() else ():
            for link in lane.getOutgoing():
                if link.getTo().getFunction():
                    continue
                to = numbers.get(link.getTo(), {})
                if lane not in numbers.get(edge, {}) or link.getToLane() not in to:
                    tally.drop("connections", "of lanes without cars")
                elif not link.allows(vehicle_class):
                    tally.drop("connections", "closed to cars")
                else:
                    kept[indices[link]] = link
    tally.keep("connections", len(kept))
    yields = {i: [j for j in kept if _yields(node, i, j) and _meet(kept[i], kept[j], programmes)] for i in kept}
    ranks = yield_ranks(yields) if node.getType() not in _RIGHT_OF_WAY else {}
    ways = []
    for i, link in kept.items():
        line, length, speed = _way_across(link)
        signal = link.getTLSID() or None
        if signal not in programmes:
            if signal:
                tally.note("connections of signals without a programme (left to right of way)")
            signal = None
        elif link.getTLLinkIndex2() >= 0:
            tally.note("connections with a second signal inside the junction (left out)")
        ways.append(
            Connection(
                names[link.getFrom()],
                numbers[link.getFrom()][link.getFromLane()],
                names[link.getTo()],
                numbers[link.getTo()][link.getToLane()],
                geometry=line,
                length=length,
                speed_limit=speed,
                priority=ranks.get(i, 0),
                stop=link.getState() in _STOP_STATES,
                signal=signal,
                signal_index=link.getTLLinkIndex() if signal else -1,
            )
        )
    return ways


def _link_indices(node: Any) -> dict[Any, int]:
    """Row of each connection of a junction in its right-of-way matrix.

    Rows are counted along the junction's ``incLanes``, each lane's connections in the order of the file; those from
    lanes to walking areas have none. sumolib's ``getLinkIndex`` counts alike, but anew for every connection.
    """
    lanes = {lane.getID(): lane for edge in node.getIncoming() for lane in edge.getLanes()}
    indices: dict[Any, int] = {}
    ordered = [lanes[name] for name in node._incLanes if name in lanes]
    for lane in [*ordered, *(lane for lane in lanes.values() if lane not in ordered)]:
        if lane.getEdge().getFunction():
            continue  # crossings come last and yield to nobody who drives
        for link in lane.getOutgoing():
            if link.getTo().getFunction() != "walkingarea":
                indices[link] = len(indices)
    return indices


def _yields(node: Any, link: int, other: int) -> bool:
    """Whether a connection of a junction must let another one pass."""
    response = node._prohibits.get(link, "")
    return other < len(response) and response[-1 - other] == "1"


def _meet(link: Any, other: Any, programmes: Mapping[str, Any]) -> bool:
    """Whether two connections may drive at a time and the first must watch the second; signals part the others."""
    signal = link.getTLSID()
    if signal != other.getTLSID() or signal not in programmes:
        return True
    i, j = link.getTLLinkIndex(), other.getTLLinkIndex()
    states = [phase["state"] for phase in programmes[signal]["phases"]]
    return any(state[i : i + 1] == "g" and state[j : j + 1] in ("g", "G") for state in states)


def _way_across(link: Any) -> tuple[tuple[tuple[float, float], ...] | None, float | None, float | None]:
    """Line, length (m) and speed limit (m/s) of SUMO's internal lanes of a connection; None where it has none."""
    points: list[tuple[float, float]] = []
    length, speeds = 0.0, []
    via = link.getViaLaneID()
    net_lane = {lane.getID(): lane for edge in _inside(link) for lane in edge.getLanes()} if via else {}
    while via in net_lane:
        piece = net_lane.pop(via)
        points += piece.getShape()
        length += piece.getLength()
        speeds.append(piece.getSpeed())
        via = next((on.getViaLaneID() for on in piece.getOutgoing() if on.getToLane() is link.getToLane()), "")
    if not speeds:
        return None, None, None
    line = _distinct(points)
    return tuple(line) if len(line) > 1 else None, length, min(speeds)


def _inside(link: Any) -> list[Any]:
    """SUMO's internal edges of the junction that a connection crosses."""
    return [edge for edge in link.getJunction().getIncoming() if edge.getFunction() == "internal"]


def _programmes(net: Any, tally: Tally) -> dict[str, dict[str, Any]]:
    """Every signal's programme, in the form that a graph carries."""
    programmes: dict[str, dict[str, Any]] = {}
    for light in net.getTrafficLights():
        choice = light.getPrograms()
        programme: Any = choice.get("0") or next(iter(choice.values()), None)
        phases = [phase for phase in programme.getPhases() if phase.duration > 0] if programme is not None else []
        if not phases:
            tally.drop("signals", "without a programme")
            continue
        if len(choice) > 1:
            tally.note("signals with several programmes (one is taken)")
        if any(set(phase.state) - set(_LETTERS) for phase in phases):
            tally.note("signals with unknown letters in their states (read as red)")
        if any(phase.next for phase in phases):
            tally.note("signals that may skip phases (here all follow in order)")
        kind = _KINDS.get(programme.getType(), "fixed")
        if programme.getType() not in _KINDS:
            tally.note(f"signals of SUMO's type {programme.getType()!r} (here with fixed times)")
        programmes[light.getID()] = {
            "kind": kind,
            "offset": float(programme.getOffset()),
            "phases": [_phase(phase, kind) for phase in phases],
        }
    return programmes


def _phase(phase: Any, kind: str) -> dict[str, Hashable]:
    state = "".join(_LETTERS.get(letter, "r") for letter in phase.state)
    values: dict[str, Hashable] = {"duration": float(phase.duration), "state": state}
    if kind == "actuated":  # a phase without bounds always lasts its duration
        shortest = float(phase.minDur) if phase.minDur > 0 else float(phase.duration)
        longest = float(phase.maxDur) if phase.maxDur > 0 else float(phase.duration)
        values |= {"min_duration": shortest, "max_duration": max(shortest, longest)}
    return values
