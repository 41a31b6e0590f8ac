"""Files of road networks: the JSON format of trafficgrad, and what the readers of other formats share."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import math
import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, cast
from xml.parsers import expat

import networkx as nx
import numpy as np
from annotated_types import Len
from pydantic import Field
from torch import Tensor

from trafficgrad.config import Document, StrictModel
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file
from trafficgrad.network.connections import Connection
from trafficgrad.network.road_network import RoadNetwork

FORMAT, VERSION = "trafficgrad network", 1
_EXPECTED = f'a road network in JSON, with "format": "{FORMAT}" and "version": {VERSION}'

Name = int | str
Number = float | Literal["inf"]  # JSON has no infinity
Point = Annotated[list[float], Len(2, 2)]
EdgeName = Annotated[list[Name], Len(3, 3)]


# ---------------------------------------------------------------------- our own format


class _Connection(StrictModel):
    from_edge: EdgeName
    from_lane: int
    to_edge: EdgeName
    to_lane: int
    geometry: list[Point] | None = None
    length: float | None = None
    speed_limit: Number | None = None
    priority: int | None = None
    stop: bool = False
    signal: str | None = None
    signal_index: int = -1


class _Node(StrictModel):
    id: Name
    position: Point
    right_of_way: str = "priority"
    connections: list[_Connection] | None = None
    name: str | None = None


class _Edge(StrictModel):
    from_node: Name
    to_node: Name
    key: Name
    length: float = math.nan
    lanes: int = 1
    speed_limit: Number = "inf"
    lane_width: float = 3.5
    geometry: list[Point] | None = None
    lane_geometry: list[list[Point]] | None = None
    priority: int = 0
    name: str | None = None


class _Phase(StrictModel):
    duration: float
    state: str
    min_duration: float = math.nan
    max_duration: float = math.nan


class _Programme(StrictModel):
    kind: str = "fixed"
    offset: float = 0.0
    phases: list[_Phase]


class _Network(StrictModel):
    format: Literal["trafficgrad network"]
    version: Literal[1]
    nodes: list[_Node]
    edges: list[_Edge]
    signals: dict[str, _Programme] = Field(default_factory=dict)


def save_network(network: nx.MultiDiGraph | RoadNetwork, path: Path | str) -> Path:
    """Write a road network as JSON. :func:`load_network` gives back every attribute that
    :meth:`RoadNetwork.from_graph` knows; names of nodes and keys of edges must be text or integers.

    Raises:
        TrafficGradError: an attribute has no place in the format, or the file cannot be written.
    """
    path = Path(path)
    text = network_text(network, path.name)
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def network_text(network: nx.MultiDiGraph | RoadNetwork, name: str = "the network") -> str:
    """What :func:`save_network` writes; ``name`` is what messages call it."""
    graph = network.to_graph() if isinstance(network, RoadNetwork) else network
    nodes = [{"id": node, **_plain(data)} for node, data in graph.nodes(data=True)]
    edges = [
        {"from_node": u, "to_node": v, "key": k, **_plain(data)} for u, v, k, data in graph.edges(keys=True, data=True)
    ]
    data = {
        "format": FORMAT,
        "version": VERSION,
        "nodes": nodes,
        "edges": edges,
        "signals": _plain(graph.graph.get("signals", {})),
    }
    Document(data, f"cannot write {name!r}", {}).validate(_Network)
    lines = ["{", f'"format": {json.dumps(FORMAT)},', f'"version": {VERSION},']
    for part in ("nodes", "edges"):  # one node or edge a line, so that differences of two files can be read
        rows = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in data[part])
        lines.append(f'"{part}": [\n{rows}\n],')
    lines += [f'"signals": {json.dumps(data["signals"], ensure_ascii=False, allow_nan=False)}', "}", ""]
    return "\n".join(lines)


def load_network(path: Path | str) -> nx.MultiDiGraph:
    """Read what :func:`save_network` wrote, as the graph that :meth:`RoadNetwork.from_graph` compiles.

    Raises:
        TrafficGradError: the file cannot be read or is no complete network; one sentence that names it.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrafficGradError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return parse_network(content, str(path))


def parse_network(text: bytes | str, path: str) -> nx.MultiDiGraph:
    """Like :func:`load_network`, from what :func:`network_text` gave; ``path`` is what messages call it."""
    try:
        data = json.loads(text)
    except UnicodeDecodeError:
        raise TrafficGradError(f"{path}: is not a text file, expected {_EXPECTED}") from None
    except json.JSONDecodeError as error:
        if not error.doc.strip():
            raise TrafficGradError(f"{path}: is empty, expected {_EXPECTED}") from None
        raise TrafficGradError(
            f"{path}:{error.lineno}: is not complete JSON ({error.msg}), expected {_EXPECTED}"
        ) from None
    except RecursionError:
        raise TrafficGradError(f"{path}: is nested too deeply, expected {_EXPECTED}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TrafficGradError(f"{path}: is JSON of something else, expected {_EXPECTED}")
    if data.get("version") != VERSION:
        raise TrafficGradError(
            f"{path}: has the version {data.get('version')!r}, this trafficgrad reads version {VERSION}"
        )
    content = Document(data, path, {}).validate(_Network).model_dump(exclude_unset=True)
    graph = nx.MultiDiGraph()
    if content.get("signals"):
        graph.graph["signals"] = content["signals"]
    for values in content["nodes"]:
        node = values.pop("id")
        if node in graph:
            raise TrafficGradError(f"{path}: the node {node!r} is given twice")
        graph.add_node(node, **_restored(values))
    for values in content["edges"]:
        u, v, key = (values.pop(name) for name in ("from_node", "to_node", "key"))
        for end in (u, v):
            if end not in graph:
                raise TrafficGradError(
                    f"{path}: edge {u!r} -> {v!r} uses the node {end!r}, which the file does not have"
                )
        if graph.has_edge(u, v, key):
            raise TrafficGradError(f"{path}: the edge {u!r} -> {v!r} with key {key!r} is given twice")
        graph.add_edge(u, v, key=key, **_restored(values))
    return graph


def _plain(value: Any) -> Any:
    """A value as JSON has it: no tuples, arrays, tensors, infinities and no defaults of connections."""
    if isinstance(value, Connection):
        fields = dataclasses.fields(value)
        return {f.name: _plain(getattr(value, f.name)) for f in fields if getattr(value, f.name) != f.default}
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return "inf" if isinstance(value, float) and value == math.inf else value


def _restored(values: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a node, an edge or a connection as a graph has them."""
    tuples: dict[str, Callable[[Any], Any]] = {
        "position": tuple,
        "from_edge": tuple,
        "to_edge": tuple,
        "speed_limit": float,
        "geometry": lambda line: [tuple(point) for point in line],
        "lane_geometry": lambda lines: [[tuple(point) for point in line] for line in lines],
        "connections": lambda rows: tuple(_connection(row) for row in rows),
    }
    return {
        name: tuples[name](value) if name in tuples and value is not None else value for name, value in values.items()
    }


def _connection(row: dict[str, Any]) -> Connection:
    values = _restored(row)
    if values.get("geometry") is not None:
        values["geometry"] = tuple(values["geometry"])
    return Connection(**values)


# ---------------------------------------------------------------------- other formats


@dataclass(frozen=True)
class ImportSummary:
    """What reading another program's file gave. ``str()`` gives a few lines.

    For every kind, ``read[kind] == kept[kind] + sum(left_out[kind].values())``.

    Attributes:
        source: name of the file.
        read: kind (such as "lanes") -> how many the file has. kept: those that came into the result.
        left_out: kind -> reason -> number.
        notes: what was kept but simplified, and how often.
    """

    source: str
    read: Mapping[str, int]
    kept: Mapping[str, int]
    left_out: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{count} {kind[:-1] if count == 1 else kind}" for kind, count in self.kept.items() if count]
        lines = [f"{self.source}: {', '.join(parts) or 'nothing'}"]
        for kind, reasons in self.left_out.items():
            if any(reasons.values()):
                parts = [f"{count} {reason}" for reason, count in sorted(reasons.items()) if count]
                lines.append(f"  of {self.read[kind]} {kind} left out: {', '.join(parts)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


class Tally:
    """Counts while a file is read, and becomes an :class:`ImportSummary` that names ``kinds`` in this order."""

    def __init__(self, *kinds: str) -> None:
        self.kept = dict.fromkeys(kinds, 0)
        self.left_out: dict[str, dict[str, int]] = {}
        self.notes: dict[str, int] = {}

    def keep(self, kind: str, count: int = 1) -> None:
        """Count what came into the result."""
        self.kept[kind] = self.kept.get(kind, 0) + count

    def drop(self, kind: str, reason: str, count: int = 1) -> None:
        """Count what did not."""
        self.kept.setdefault(kind, 0)
        reasons = self.left_out.setdefault(kind, {})
        reasons[reason] = reasons.get(reason, 0) + count

    def note(self, sentence: str, count: int = 1) -> None:
        """Count what is simplified."""
        self.notes[sentence] = self.notes.get(sentence, 0) + count

    def summary(self, source: Path | str) -> ImportSummary:
        """Of everything counted so far."""
        read = {kind: count + sum(self.left_out.get(kind, {}).values()) for kind, count in self.kept.items()}
        left_out = {kind: self.left_out[kind] for kind in self.kept if kind in self.left_out}
        notes = tuple(f"{sentence}: {count}" for sentence, count in self.notes.items())
        return ImportSummary(Path(source).name, read, dict(self.kept), left_out, notes)


def open_compressed(path: Path) -> IO[bytes]:
    """A file to read, unpacked if its first bytes say that it is gzip or bzip2, whatever its name is."""
    with path.open("rb") as file:
        start = file.read(3)
    if start[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(path))
    return bz2.open(path) if start == b"BZh" else path.open("rb")


def check_xml(path: Path, roots: tuple[str, ...], expected: str) -> dict[str, str]:
    """Read an XML file to its end once, so that what parses it next meets no surprise.

    Parameters:
        roots: valid names of the outermost element. expected: what the file should be, for messages.

    Returns:
        the attributes of the outermost element.

    Raises:
        TrafficGradError: the file is missing, empty, damaged, no XML or XML of something else. A document type
            declaration is refused too: its entities can name other files, or expand a small file without end.
    """
    parser = expat.ParserCreate()
    found: list[dict[str, str]] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if not found:
            if name not in roots:
                wanted = " or ".join(f"<{root}>" for root in roots)
                raise TrafficGradError(f"{path}: begins with <{name}>, expected {expected} that begins with {wanted}")
            found.append(attributes)

    def doctype(*_: Hashable) -> None:
        raise TrafficGradError(
            f"{path}:{parser.CurrentLineNumber}: has a document type declaration, which is refused for safety, "
            f"expected {expected} without <!DOCTYPE>"
        )

    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, doctype
    try:
        with open_compressed(path) as file:
            if not file.peek(1):  # type: ignore[attr-defined]
                raise TrafficGradError(f"{path}: is empty, expected {expected}")
            parser.ParseFile(file)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise TrafficGradError(f"{path}:{error.lineno}: is not complete XML ({reason}), expected {expected}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise TrafficGradError(f"{path}: is a damaged archive, expected {expected}") from None
    except OSError as error:
        if error.errno is None:  # bz2 says so of damaged content
            raise TrafficGradError(f"{path}: is a damaged archive, expected {expected}") from None
        raise TrafficGradError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return found[0]
