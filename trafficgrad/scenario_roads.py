"""From the ``network``, ``signals`` and ``routes`` of a scenario to a road network, and ways through it."""

from __future__ import annotations

import functools
import importlib.resources
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx

from trafficgrad.config import error_at
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network import (
    RoadNetwork,
    arterial,
    bottleneck,
    figure_eight,
    grid,
    highway,
    intersection,
    merge,
    ring,
    roundabout,
    straight,
)
from trafficgrad.network.files import load_network
from trafficgrad.network.osm import read_osm
from trafficgrad.network.routing import Route, edge_graph
from trafficgrad.network.signal_defaults import default_programmes
from trafficgrad.network.signals import Meter
from trafficgrad.network.sumo import read_sumo
from trafficgrad.scenario_sections.roads import (
    BuiltNetwork,
    Edge,
    FileNetwork,
    MapNetwork,
    NetworkConfig,
    OsmNetwork,
    PlainNetwork,
    RingNetwork,
    SignalsConfig,
    StraightNetwork,
    SumoNetwork,
)

BUILDERS: dict[str, Callable[..., RoadNetwork]] = {
    "ring": ring,
    "straight": straight,
    "figure_eight": figure_eight,
    "merge": merge,
    "bottleneck": bottleneck,
    "grid": grid,
    "intersection": intersection,
    "roundabout": roundabout,
    "highway": highway,
    "arterial": arterial,
}
# Keys of a scenario that are paths of files.
PATHS = (("network", "path"), ("network", "routes"), ("origin_destination",), ("drivers",))
_KEPT = 8  # networks that are kept compiled


def is_plain(network: NetworkConfig) -> bool:
    """A ring or a straight road: starting places are rows of lanes there, and nobody needs a route."""
    return isinstance(network, RingNetwork | StraightNetwork)


# ---------------------------------------------------------------------- files


def maps_folder() -> Path:
    """Where the maps lie that ship with the package."""
    return Path(str(importlib.resources.files("trafficgrad.scenarios")))


def find_file(name: str, beside: Path | None = None) -> Path | None:
    """A file that a scenario names: beside the scenario, in the working folder, or shipped; None = it is not there."""
    folders = [*([] if beside is None else [beside]), Path(), maps_folder()]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def absolute_path(name: str, beside: Path | None) -> str:
    """The path that finds the same file from any folder; a shipped file keeps its name, which any machine knows.

    Raises:
        TrafficGradError: there is no such file.
    """
    found = find_file(name, beside)
    if found is None:
        folders = dict.fromkeys(str(folder.resolve()) for folder in (beside, Path.cwd()) if folder is not None)
        near = [file.name for file in maps_folder().iterdir()]
        near += [file.name for folder in folders if Path(folder).is_dir() for file in Path(folder).iterdir()]
        where = "" if Path(name).is_absolute() else f" in {', '.join(folders)} or among the maps that ship"
        raise TrafficGradError(f"there is no file {name!r}{where}{nearest_name(Path(name).name, near)}")
    is_shipped = found.resolve().is_relative_to(maps_folder().resolve())
    return str(found.resolve().relative_to(maps_folder().resolve()) if is_shipped else found.resolve())


def opened(name: str, key: str) -> Path:
    """The file of a setting.

    Raises:
        PydanticCustomError: there is none, an error that names the key.
    """
    found = find_file(name)
    if found is None:
        raise error_at(key, f"there is no file {name!r}")
    return found


# ---------------------------------------------------------------------- the network


def build_network(network: NetworkConfig, signals: SignalsConfig) -> RoadNetwork:
    """The road network, its signals controlled as ``signals`` says. The same settings give the same object.

    Raises:
        PydanticCustomError: it cannot be built, an error that names the key.
    """
    version: tuple[object, ...] = ()
    if isinstance(network, FileNetwork | SumoNetwork | OsmNetwork):
        path = opened(network.path, "network.path")
        version = (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size)
    return _compiled(network, signals, version)


def read_map(network: MapNetwork) -> nx.MultiDiGraph:
    """The graph in a file.

    Raises:
        PydanticCustomError: it is no network of this kind, an error that names the key.
    """
    path = opened(network.path, "network.path")
    try:
        if isinstance(network, SumoNetwork):
            return read_sumo(path)[0]
        if isinstance(network, OsmNetwork):
            return default_programmes(read_osm(path)[0])
        return load_network(path)
    except TrafficGradError as error:
        raise error_at("network.path", str(error)) from None


@functools.lru_cache(maxsize=_KEPT)
def _compiled(network: NetworkConfig, signals: SignalsConfig, version: tuple[object, ...]) -> RoadNetwork:
    changed = signals != SignalsConfig()
    if isinstance(network, FileNetwork | SumoNetwork | OsmNetwork):
        graph = read_map(network)
        try:
            built = RoadNetwork.from_graph(graph)
        except TrafficGradError as error:
            raise error_at("network.path", f"{network.path}: {error}") from None
    else:
        try:
            built = _from_builder(network, signals)
        except TrafficGradError as error:
            raise error_at("network", str(error)) from None
    if not changed:
        return built
    if not built.signals:
        raise error_at("signals", f"the network of kind {network.kind!r} has no signals here: leave this section out")
    graph = built.to_graph()
    graph.graph["signals"] = {s.name: _controlled(s.programme(), signals) for s in built.signals}
    try:
        return RoadNetwork.from_graph(graph)
    except TrafficGradError as error:
        raise error_at("signals", str(error)) from None


def _from_builder(network: BuiltNetwork | PlainNetwork, signals: SignalsConfig) -> RoadNetwork:
    builder, values = BUILDERS[network.kind], network.model_dump(exclude={"kind"})
    if values["speed_limit"] is None:
        values["speed_limit"] = math.inf
    if signals.control != "programme" and "kind" in inspect.signature(builder).parameters:
        values["kind"] = signals.control  # which also decides how long its greens may be
    if values.get("meter") is not None:
        values["meter"] = Meter(**{**values["meter"], "rate": values["meter"]["rate"] / 3600.0})
    return builder(**values)


def _controlled(programme: dict[str, Any], signals: SignalsConfig) -> dict[str, Any]:
    """A programme controlled in another way, with other bounds of its greens."""
    kind = programme["kind"] if signals.control == "programme" else signals.control
    phases = []
    for phase in programme["phases"]:
        phase = dict(phase)
        if "y" not in phase["state"] and set(phase["state"]) & set("gG"):
            if kind != programme["kind"] and phase["min_duration"] == phase["max_duration"]:
                del phase["min_duration"], phase["max_duration"]  # a fixed green says nothing about others
            if signals.min_green is not None:
                phase["min_duration"] = signals.min_green
            if signals.max_green is not None:
                phase["max_duration"] = signals.max_green
        phases.append(phase)
    return {**programme, "kind": kind, "phases": phases}


def edge_row(network: RoadNetwork, edge: Edge, key: str) -> int:
    """Row of an edge that a scenario names: by name or key, as ``node -> node``, or by row.

    Raises:
        PydanticCustomError: there is no such edge, an error that names the key and the nearest edge.
    """
    text = str(edge)
    ends = [part.strip() for part in text.split("->")]
    if len(ends) == 2:
        ways = [[str(u), str(v)] for u, v, _ in network.edges]
        found = [e for e, way in enumerate(ways) if way == ends]
        if len(found) == 1:
            return found[0]
        if found:
            raise error_at(key, f"{len(found)} edges lead from {ends[0]} to {ends[1]}: give a row, one of {found}")
        near = nearest_name(" -> ".join(ends), [" -> ".join(way) for way in ways])
        raise error_at(key, f"there is no edge {text!r}{near} in this network")
    try:
        return network.edge_index(text)
    except TrafficGradError as error:
        # Names of SUMO such as 12 read as numbers; only what is no name is a row.
        if text.isdecimal() and int(text) < len(network.edges):
            return int(text)
        raise error_at(key, str(error)) from None


def edge_name(network: RoadNetwork, edge: int) -> str:
    """What to call an edge in a message."""
    u, v, key = network.edges[edge]
    name = network.edge_names[edge]
    return repr(name if name is not None else key if isinstance(key, str) else f"{u} -> {v}")


# ---------------------------------------------------------------------- ways


class Ways:
    """Fastest ways through a network, and where it begins and ends."""

    def __init__(self, network: RoadNetwork) -> None:
        self.network = network
        self.graph = edge_graph(network)
        self.onward = self.graph.copy()  # without turning back
        if not network.is_unbranched:  # where roads only go on, nobody turns back: not on a ring of two edges either
            turns = [(e, f) for e, f in self.graph.edges if network.edges[e][:2] == network.edges[f][1::-1]]
            self.onward.remove_edges_from(turns)
        self.entries = [e for e in self.onward if self.onward.in_degree(e) == 0]
        self.exits = [e for e in self.onward if self.onward.out_degree(e) == 0]
        first = [0, *itertools.accumulate(network.edge_lanes)]
        self._length = [float(network.lane_length[a]) for a in first[:-1]]
        self._found: dict[tuple[int, bool], Mapping[int, list[int]]] = {}

    def fastest(self, start: int, ends: Iterable[int], turning_back: bool = True) -> dict[int, Route]:
        """The fastest route from one edge to each of those that can be reached."""
        if (start, turning_back) not in self._found:
            graph = self.graph if turning_back else self.onward
            self._found[start, turning_back] = nx.single_source_dijkstra_path(graph, start)
        found = self._found[start, turning_back]
        return {end: tuple(found[end]) for end in ends if end in found}

    def to_all_exits(self, start: int) -> list[Route]:
        """A route to every exit, but not back to the node where it starts."""
        origin = self.network.edges[start][0]
        ends = [e for e in self.exits if e == start or self.network.edges[e][1] != origin]
        return list(self.fastest(start, ends, turning_back=False).values())

    def loop(self) -> Route | None:
        """The only way round a closed network that has no choice of ways."""
        if not len(self.graph) or any(self.graph.out_degree(e) != 1 for e in self.graph):
            return None
        route = [0]
        while (following := next(iter(self.graph.successors(route[-1])))) != 0:
            if len(route) == len(self.graph):
                return None  # the first edge leads into a loop that it is no part of
            route.append(following)
        return tuple(route) if len(route) == len(self.graph) else None

    def time(self, route: Route, speed: float) -> float:
        """Free travel time on the edges of a route, for drivers who want to go ``speed``, s."""
        return sum(max(float(self.graph.nodes[e]["time"]), self._length[e] / speed) for e in route)
