"""Road networks and plain demand for SUMO, so that the same roads can be driven by both simulators."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import networkx as nx

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file
from trafficgrad.network.connections import Connection, EdgeKey
from trafficgrad.network.road_network import RoadNetwork

_NO_LIMIT = 100.0  # m/s, what SUMO is told of roads without a speed limit
_NODE_TYPES = {"all_way_stop": "allway_stop", "zipper": "zipper", "signals": "traffic_light"}
_SIGNAL_TYPES = {"fixed": "static", "actuated": "actuated", "controlled": "static"}
_FORBIDDEN = re.compile(r"""[\s|\\'";,:!<>&\x00-\x1f]""")  # in SUMO's ids


class SumoFlow(NamedTuple):
    """Vehicles that drive one route at equal intervals."""

    edges: Sequence[EdgeKey]  # (from, to, key) of each
    rate: float  # vehicles per hour
    begin: float  # s
    end: float  # s


def write_sumo(network: nx.MultiDiGraph | RoadNetwork, folder: Path | str, name: str) -> list[Path]:
    """Write a road network as SUMO's plain XML: ``NAME.nod.xml``, ``.edg.xml``, ``.con.xml`` and ``.tll.xml``.

    If ``netconvert`` is on the PATH it also makes ``NAME.net.xml`` of them; otherwise that is ``netconvert -n
    NAME.nod.xml -e NAME.edg.xml -x NAME.con.xml -i NAME.tll.xml -o NAME.net.xml``. Lengths, widths, speed limits, lines
    and signal programmes are ours; right of way is worked out by netconvert from the priorities of the roads and the
    type of the node. :func:`sumo_ids` gives SUMO's names.

    Returns:
        the files written.

    Raises:
        TrafficGradError: the graph makes no sense, the folder cannot be written, or netconvert refuses the files.
    """
    folder = Path(folder)
    graph = _complete(network)
    nodes, edges = sumo_ids(graph)
    signal_ids = _unique({signal: str(signal) for signal in graph.graph.get("signals", {})})
    connections = [way for _, ways in graph.nodes(data="connections") for way in ways]
    parts = {
        "nod": _nodes(graph, nodes, signal_ids),
        "edg": _edges(graph, nodes, edges),
        "con": _connections(connections, edges),
        "tll": _signals(graph, connections, edges, signal_ids),
    }
    paths = {kind: folder / f"{name}.{kind}.xml" for kind in parts}
    for kind, element in parts.items():
        _write(paths[kind], element)
    net = _convert(paths, folder / f"{name}.net.xml")
    return [*paths.values(), *net]


def write_sumo_routes(
    network: nx.MultiDiGraph | RoadNetwork, demand: Iterable[SumoFlow], path: Path | str, vehicle_type: str = ""
) -> Path:
    """Write flows on fixed routes as a SUMO route file, for the network that :func:`write_sumo` writes.

    Parameters:
        demand: flows, or tuples (edges, vehicles per hour, begin in s, end in s).
        vehicle_type: attributes of the ``<vType>`` of all vehicles, such as ``'carFollowModel="IDM" tau="1.5"'``.

    Raises:
        TrafficGradError: a flow makes no sense, or the file cannot be written.
    """
    path = Path(path)
    _, edges = sumo_ids(_complete(network))
    root = ElementTree.Element("routes")
    try:
        kind = ElementTree.fromstring(f"<vType {vehicle_type}/>")
    except ElementTree.ParseError:
        raise TrafficGradError(
            f"vehicle_type must be attributes such as 'accel=\"1.5\"', got {vehicle_type!r}"
        ) from None
    kind.set("id", "vehicle")
    root.append(kind)
    for number, flow in enumerate(sorted((SumoFlow(*flow) for flow in demand), key=lambda flow: flow.begin)):
        if not (flow.rate > 0 and 0 <= flow.begin < flow.end < math.inf):
            raise TrafficGradError(f"flow {number}: expected a rate > 0 and finite begin < end, got {flow[1:]}")
        unknown = [edge for edge in flow.edges if edge not in edges]
        if unknown or not flow.edges:
            raise TrafficGradError(
                f"flow {number}: {f'the network has no edge {unknown[0]!r}' if unknown else 'no edges'}"
            )
        route = ElementTree.SubElement(root, "route", id=f"route{number}")
        route.set("edges", " ".join(edges[edge] for edge in flow.edges))
        values = {"begin": flow.begin, "end": flow.end, "vehsPerHour": flow.rate}
        attributes = {name: _shown(value) for name, value in values.items()}
        ElementTree.SubElement(
            root, "flow", {"id": f"flow{number}", "type": "vehicle", "route": f"route{number}", **attributes},
            departLane="best", departSpeed="max",
        )  # fmt: skip
    _write(path, root)
    return path


def sumo_ids(graph: nx.MultiDiGraph) -> tuple[dict[Hashable, str], dict[EdgeKey, str]]:
    """What the nodes and edges of a graph are called in SUMO's files.

    Names that SUMO cannot use are changed. An edge has its key as name if that is a text, or else from_to.
    """
    nodes = _unique({node: str(node) for node in graph.nodes})
    keys = list(graph.edges(keys=True))
    own = {str(key) for _, _, key in keys if isinstance(key, str)}
    if len(own) == len(keys):
        return nodes, _unique({edge: str(edge[2]) for edge in keys})
    return nodes, _unique({edge: f"{edge[0]}_{edge[1]}" for edge in keys})


def _unique(names: dict) -> dict:
    """Names that SUMO accepts, each once."""
    taken: set[str] = set()
    result = {}
    for key, name in names.items():
        clean = _FORBIDDEN.sub("_", name) or "_"
        number = 1
        while clean in taken:
            number += 1
            clean = f"{_FORBIDDEN.sub('_', name)}_{number}"
        taken.add(clean)
        result[key] = clean
    return result


def _complete(network: nx.MultiDiGraph | RoadNetwork) -> nx.MultiDiGraph:
    """The graph with every default written out, connections included."""
    return (network if isinstance(network, RoadNetwork) else RoadNetwork.from_graph(network)).to_graph()


def _nodes(graph: nx.MultiDiGraph, ids: dict[Hashable, str], signal_ids: dict[str, str]) -> ElementTree.Element:
    root = ElementTree.Element("nodes")
    for node, data in graph.nodes(data=True):
        ways: Sequence[Connection] = data["connections"]
        signals = [way.signal for way in ways if way.signal is not None]
        kind = _NODE_TYPES.get(data["right_of_way"], "priority_stop" if any(way.stop for way in ways) else "priority")
        if kind == "traffic_light" and not signals:
            kind = "priority"
        x, y = data["position"]
        element = ElementTree.SubElement(root, "node", id=ids[node], x=_shown(x), y=_shown(y), type=kind)
        if kind == "traffic_light":
            element.set("tl", signal_ids[signals[0]])
    return root


def _edges(graph: nx.MultiDiGraph, nodes: dict[Hashable, str], ids: dict[EdgeKey, str]) -> ElementTree.Element:
    root = ElementTree.Element("edges")
    for u, v, key, data in graph.edges(keys=True, data=True):
        values = {
            "priority": str(data["priority"]),
            "numLanes": str(data["lanes"]),
            "speed": _shown(min(data["speed_limit"], _NO_LIMIT)),
            "width": _shown(data["lane_width"]),
            "length": _shown(data["length"]),
            "spreadType": "center",  # the line is the middle of the edge's own lanes
            "shape": _line(data["geometry"]),
        }
        attributes = {"id": ids[u, v, key], "from": nodes[u], "to": nodes[v], **values}
        element = ElementTree.SubElement(root, "edge", attributes)
        if data.get("name"):
            element.set("name", data["name"])
        for number, line in enumerate(data.get("lane_geometry") or ()):
            ElementTree.SubElement(element, "lane", index=str(number), shape=_line(line))
    return root


def _connections(connections: Iterable[Connection], ids: dict[EdgeKey, str]) -> ElementTree.Element:
    root = ElementTree.Element("connections")
    leading = set()
    for way in connections:
        leading.add(way.from_edge)
        element = ElementTree.SubElement(root, "connection", _ends(way, ids))
        if way.geometry is not None:
            element.set("shape", _line(way.geometry))
        if way.length is not None:
            element.set("length", _shown(way.length))
        if way.speed_limit is not None:
            element.set("speed", _shown(min(way.speed_limit, _NO_LIMIT)))
    for edge, name in ids.items():
        if edge not in leading:  # or netconvert would think of some
            ElementTree.SubElement(root, "connection", {"from": name})
    return root


def _signals(
    graph: nx.MultiDiGraph, connections: Iterable[Connection], ids: dict[EdgeKey, str], signal_ids: dict[str, str]
) -> ElementTree.Element:
    root = ElementTree.Element("tlLogics")
    for name, programme in graph.graph.get("signals", {}).items():
        kind = _SIGNAL_TYPES[programme["kind"]]
        offset = _shown(programme["offset"])
        logic = ElementTree.SubElement(root, "tlLogic", id=signal_ids[name], type=kind, programID="0", offset=offset)
        for phase in programme["phases"]:
            element = ElementTree.SubElement(logic, "phase", duration=_shown(phase["duration"]), state=phase["state"])
            if kind == "actuated":
                element.set("minDur", _shown(phase["min_duration"]))
                element.set("maxDur", _shown(phase["max_duration"]))
    for way in connections:
        if way.signal is not None:
            values = {**_ends(way, ids), "tl": signal_ids[way.signal], "linkIndex": str(way.signal_index)}
            ElementTree.SubElement(root, "connection", values)
    return root


def _ends(way: Connection, ids: dict[EdgeKey, str]) -> dict[str, str]:
    edges = {"from": ids[way.from_edge], "to": ids[way.to_edge]}
    return {**edges, "fromLane": str(way.from_lane), "toLane": str(way.to_lane)}


def _line(points: Iterable[Sequence[float]]) -> str:
    return " ".join(f"{_shown(x)},{_shown(y)}" for x, y in points)


def _shown(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _write(path: Path, root: ElementTree.Element) -> None:
    ElementTree.indent(root)
    with complete_file(path) as partial:
        ElementTree.ElementTree(root).write(partial, encoding="utf-8", xml_declaration=True)


def _convert(paths: dict[str, Path], net: Path) -> list[Path]:
    """Make the network file if netconvert is there."""
    program = shutil.which("netconvert")
    if program is None:
        return []
    options = {"nod": "-n", "edg": "-e", "con": "-x", "tll": "-i"}
    command = [program, "-o", str(net), "--no-turnarounds", "--offset.disable-normalization", "--precision", "6"]
    for kind, option in options.items():
        command += [option, str(paths[kind])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        error = next((line for line in done.stderr.splitlines() if line.startswith("Error")), done.stderr.strip()[:200])
        raise TrafficGradError(f"netconvert refuses {str(net).removesuffix('.net.xml')}: {error}")
    return [net]
