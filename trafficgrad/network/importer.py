"""Reading a road network, whatever program wrote it."""

from __future__ import annotations

from pathlib import Path

import networkx as nx

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network.files import ImportSummary, Tally, load_network, open_compressed
from trafficgrad.network.osm import read_osm
from trafficgrad.network.signal_defaults import default_programmes
from trafficgrad.network.sumo import read_sumo

ENDINGS = {
    ".net.xml": "sumo", ".net.xml.gz": "sumo",
    ".osm": "osm", ".osm.xml": "osm", ".osm.gz": "osm", ".osm.bz2": "osm",
    ".json": "trafficgrad",
}  # fmt: skip
_START = 4096  # bytes of a file with another ending that are looked at


def import_network(path: Path | str) -> tuple[nx.MultiDiGraph, ImportSummary]:
    """Read a road network of SUMO, OpenStreetMap or trafficgrad as the graph that ``RoadNetwork.from_graph`` compiles.

    The ending of the file's name decides which it is (``ENDINGS``); with another ending, such as ``.xml``, the file's
    first bytes do. OpenStreetMap knows where signals are, but not their programmes: they get default ones.

    Raises:
        TrafficGradError: the file is of no known kind, or what :func:`~trafficgrad.network.sumo.read_sumo`,
            :func:`~trafficgrad.network.osm.read_osm` or :func:`~trafficgrad.network.files.load_network` say.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "sumo":
        return read_sumo(path)
    if kind == "osm":
        graph, summary = read_osm(path)
        return default_programmes(graph), summary
    graph = load_network(path)
    tally = Tally("nodes", "edges", "lanes", "connections", "signals")
    tally.keep("nodes", graph.number_of_nodes())
    tally.keep("edges", graph.number_of_edges())
    tally.keep("lanes", sum(lanes for _, _, lanes in graph.edges(data="lanes", default=1)))
    tally.keep("connections", sum(len(ways or ()) for _, ways in graph.nodes(data="connections")))
    tally.keep("signals", len(graph.graph.get("signals", {})))
    return graph, tally.summary(path)


def _kind(path: Path) -> str:
    name = path.name.lower()
    for ending, kind in ENDINGS.items():
        if name.endswith(ending):
            return kind
    try:
        with open_compressed(path) as file:
            start = file.read(_START)
    except OSError as error:
        raise TrafficGradError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except EOFError:
        start = b""
    for mark, kind in ((b"<net ", "sumo"), (b"<osm", "osm"), (b'"trafficgrad network"', "trafficgrad")):
        if mark in start:
            return kind
    ending = "".join(path.suffixes)
    raise TrafficGradError(
        f"{path}: is no road network that can be read, expected a file that ends in one of "
        f"{', '.join(ENDINGS)}{nearest_name(ending, ENDINGS) if ending else ''}"
    )
