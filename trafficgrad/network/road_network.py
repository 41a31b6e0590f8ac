"""A road network: a networkx graph of nodes and edges, compiled once to tensors of lanes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network.conflicts import CROSSING, DIVERGE, MERGE, Conflict, find_conflicts, waiting_places
from trafficgrad.network.connections import Connection, EdgeKey
from trafficgrad.network.graph_reading import RoadData, read_graph
from trafficgrad.network.plan import PlanTables, Way, check_route, compile_plan
from trafficgrad.network.signals import Signal
from trafficgrad.network.speed_limits import limits_of_lanes
from trafficgrad.network.tables import JunctionTables, LaneTables

LOOK_AHEAD = 300.0  # m along their way that drivers look for others, at least
_MOST_HOPS = 60  # lanes in a row that they look over


class Lane(NamedTuple):
    """One lane: its edge (row of ``RoadNetwork.edges``) and its number on that edge, 0 = right.

    A junction lane has an edge number of its own, ``len(edges)`` and up, and the number 0.
    """

    edge: int
    number: int


class RoadNetwork:
    """Immutable road network. Make one with :meth:`from_graph` or a builder such as :func:`trafficgrad.network.ring`.

    The lanes are those of the edges, edge by edge from right to left, and then one *junction lane* for every connection
    across a node that has a length.

    Attributes:
        nodes: node names. node_position: [nodes, 2] m. edges: (from, to, key) of each.
        edge_names: None where an edge has none. edge_lanes: lanes of each.
        connections: every :class:`~trafficgrad.network.connections.Connection`, complete.
        lanes: tuple of :class:`Lane`.
        signals: programmes of traffic signals.
        lane_length, speed_limit (m/s, may be inf), lane_width: [A] float64.
        left, right: [A] int64 lane beside, -1 = none. edge, number: [A] int64, as in ``lanes``.
        is_junction: [A] bool. origin: [A] int64, lane that a junction lane comes from. lane_connection: [A] int64 row
        of ``connections``, -1 for lanes of edges.
        successors, predecessors: [A, S] int64 lanes that follow (lead here), -1 = padding.
        geometry: per edge the centre line, [K, 2] m.
        routes: [R, S] int64 edges of fixed routes, -1 = padding. route_loops: [R] bool, they begin again at their end.
        max_lanes: most lanes of an edge. has_speed_limits: some lane has one.
        is_closed: every lane goes on. is_unbranched: roads only go on, nowhere do they meet, part or end a lane.
        limits: what :meth:`with_speed_limits` was given, for all lanes; None = ``speed_limit`` holds. base: the network
        without it.
    """

    def __init__(self, data: RoadData) -> None:
        self._data = data
        self.nodes = data.nodes
        self.node_position = torch.from_numpy(data.node_position)
        self.edges: tuple[EdgeKey, ...] = tuple(edge.key for edge in data.edges)
        self.edge_lanes = tuple(edge.lanes for edge in data.edges)
        self.edge_names = tuple(edge.name for edge in data.edges)
        self.geometry = tuple(torch.from_numpy(edge.line) for edge in data.edges)
        self.connections: tuple[Connection, ...] = tuple(way.connection for way in data.ways)
        self.signals: tuple[Signal, ...] = data.signals
        self._index = {key: e for e, key in enumerate(self.edges)}
        roads = [Lane(e, i) for e, count in enumerate(self.edge_lanes) for i in range(count)]
        crossing = [w for w, way in enumerate(data.ways) if way.line is not None]
        self.lanes = (*roads, *(Lane(len(self.edges) + j, 0) for j in range(len(crossing))))
        first = np.cumsum([0, *self.edge_lanes]).tolist()
        edge_of = [data.edges[lane.edge] for lane in roads]
        over = [data.ways[w] for w in crossing]
        widths = {edge.key: edge.lane_width for edge in data.edges}

        def real(on_roads: list[float], on_junctions: list[float]) -> Tensor:
            return torch.tensor([*on_roads, *on_junctions], dtype=torch.float64)

        self.lane_length = real([e.length for e in edge_of], [w.length for w in over])
        self.speed_limit = real([e.speed_limit for e in edge_of], [w.speed_limit for w in over])
        self.lane_width = real([e.lane_width for e in edge_of], [widths[w.connection.to_edge] for w in over])
        self._lines = [edge.lane_lines[lane.number] for edge, lane in zip(edge_of, roads, strict=True)]
        self._lines += [way.line for way in over if way.line is not None]
        none = [-1] * len(over)
        ends = [lane.number == edge.lanes - 1 for lane, edge in zip(roads, edge_of, strict=True)]
        self.left = torch.tensor([-1 if last else a + 1 for a, last in enumerate(ends)] + none)
        self.right = torch.tensor([a - 1 if lane.number > 0 else -1 for a, lane in enumerate(roads)] + none)
        self.edge = torch.tensor([lane.edge for lane in self.lanes])
        self.number = torch.tensor([lane.number for lane in self.lanes])
        self.is_junction = torch.arange(len(self.lanes)) >= len(roads)
        self.lane_connection = torch.tensor([-1] * len(roads) + crossing)
        lane_of_way = {w: len(roads) + j for j, w in enumerate(crossing)}
        following: list[list[int]] = [[] for _ in self.lanes]
        origin, self._target = [-1] * len(self.lanes), [-1] * len(self.lanes)
        self._ways: dict[tuple[int, int], list[Way]] = {}
        for w, way in enumerate(data.ways):
            c = way.connection
            e, f = self._index[c.from_edge], self._index[c.to_edge]
            start, to = first[e] + c.from_lane, first[f] + c.to_lane
            lane = lane_of_way.get(w, to)
            following[start].append(lane)
            if lane != to:
                following[lane].append(to)
                origin[lane], self._target[lane] = start, to
            self._ways.setdefault((e, f), []).append(Way(c.from_lane, lane, c.to_lane, way.length))
        self.origin = torch.tensor(origin)
        self.successors = _padded_rows(following)
        leading: list[list[int]] = [[] for _ in self.lanes]
        for lane, nexts in enumerate(following):
            for after in nexts:
                leading[after].append(lane)
        self.predecessors = _padded_rows(leading)
        self._conflicts = _conflicts_by_node(data, crossing, len(roads))
        self.routes = torch.empty(0, 0, dtype=torch.int64)
        self.route_loops = torch.empty(0, dtype=torch.bool)
        self._routes: tuple[tuple[int, ...], ...] = ()
        self.max_lanes = max(self.edge_lanes)
        self.has_speed_limits = bool(torch.isfinite(self.speed_limit).any())
        self.is_closed = all(following)
        dead_end = any(
            not following[a] and any(following[first[lane.edge] + i] for i in range(self.edge_lanes[lane.edge]))
            for a, lane in enumerate(roads)
        )
        branches = any(len(nexts) > 1 for nexts in (*following, *leading))
        same_limit = len(set(self.speed_limit.tolist())) == 1
        self.is_unbranched = not (branches or dead_end or bool(self.is_junction.any())) and same_limit
        self.hops = 0 if self.is_unbranched else _hops(following, self.lane_length.tolist())
        self._tables: dict[tuple[torch.dtype, str], LaneTables] = {}
        self.limits: Tensor | None = None
        self.base = self

    def __repr__(self) -> str:
        metres = float(self.lane_length[~self.is_junction].sum())
        sizes = f"{len(self.nodes)} nodes, {len(self.edges)} edges, {sum(self.edge_lanes)} lanes"
        more = f", {len(self.connections)} connections" if bool(self.is_junction.any()) else ""
        more += f", {len(self.signals)} signals" if self.signals else ""
        more += f", {len(self._routes)} routes" if self._routes else ""
        return f"RoadNetwork({sizes}{more}, {metres:.1f} lane-metres)"

    @classmethod
    def from_graph(cls, graph: nx.MultiDiGraph) -> RoadNetwork:
        """Compile a graph.

        Nodes have ``position`` (x, y) in m and may have ``right_of_way`` ("priority", "all_way_stop", "zipper",
        "signals"), ``connections`` and ``name``. Edges may have ``length`` (m, default: of the geometry), ``lanes``
        (default 1), ``speed_limit`` (m/s, default none), ``lane_width`` (m, default 3.5), ``geometry`` (points of the
        centre line up to the stop line; default straight, on the right half where the opposite edge exists, and cut
        back at junctions), ``lane_geometry`` (a line for each lane, from right to left), ``priority`` (of the road at
        junctions, higher goes first, default 0) and ``name``. The graph's attribute ``signals`` maps names to
        programmes. Without ``connections`` a node joins lanes by geometry.

        Raises:
            TrafficGradError: one sentence that names what is missing or makes no sense.
        """
        return cls(read_graph(graph))

    def to_graph(self) -> nx.MultiDiGraph:
        """The graph again, every default written out. ``from_graph(network.to_graph())`` gives an equal network.

        Routes are not part of a graph.
        """
        graph = nx.MultiDiGraph()
        data = self._data
        if self.signals:
            graph.graph["signals"] = {signal.name: signal.programme() for signal in self.signals}
        at_node: list[list[Connection]] = [[] for _ in self.nodes]
        for way in data.ways:
            at_node[way.node].append(way.connection)
        for n, node in enumerate(self.nodes):
            graph.add_node(node, position=tuple(data.node_position[n].tolist()), right_of_way=data.right_of_way[n])
            graph.nodes[node]["connections"] = tuple(at_node[n])
            if data.node_name[n] is not None:
                graph.nodes[node]["name"] = data.node_name[n]
        for edge in data.edges:
            values: dict[str, Any] = {
                "length": edge.length,
                "lanes": edge.lanes,
                "speed_limit": edge.speed_limit,
                "lane_width": edge.lane_width,
                "geometry": [tuple(p) for p in edge.line.tolist()],
                "priority": edge.priority,
            }
            if edge.own_lane_lines:
                values["lane_geometry"] = [[tuple(p) for p in line.tolist()] for line in edge.lane_lines]
            if edge.name is not None:
                values["name"] = edge.name
            graph.add_edge(*edge.key[:2], key=edge.key[2], **values)
        return graph

    # ------------------------------------------------------------------ routes

    def with_routes(
        self, routes: Sequence[Sequence[int | EdgeKey | str]], loops: bool | Sequence[bool] = False
    ) -> RoadNetwork:
        """The same network with fixed routes.

        Parameters:
            routes: each a sequence of edges: rows of ``edges``, (from, to, key), or keys or names that are unique.
            loops: whether a route begins again after its last edge, for all or for each.

        Raises:
            TrafficGradError: no such edge, or a route whose edges do not follow each other; it names them.
        """
        rows = tuple(tuple(self.edge_index(edge) for edge in route) for route in routes)
        again = [loops] * len(rows) if isinstance(loops, bool) else list(loops)
        if len(again) != len(rows):
            raise TrafficGradError(f"loops has {len(again)} entries for {len(rows)} routes")
        for route, loop in zip(rows, again, strict=True):
            check_route((*route, route[0]) if loop and route else route, self.edges, self._ways)
        other = copy.copy(self)
        longest = max((len(route) for route in rows), default=0)
        padded = [[*route, *[-1] * (longest - len(route))] for route in rows]
        other.routes = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)
        other.route_loops = torch.tensor(again, dtype=torch.bool)
        other._routes = rows
        other._tables = {}
        other.base = other
        if rows:
            other._look_along()
        return other

    def with_speed_limits(self, limits: Tensor) -> RoadNetwork:
        """The same network with other speed limits; the step's gradients by them are exact.

        Parameters:
            limits: m/s, of the edges [E], or of all lanes [A], and [B, E] or [B, A] where they differ from world to
                world (:func:`~trafficgrad.network.speed_limits.limits_of_lanes`). They may require gradients.

        Raises:
            TrafficGradError: another shape, or a limit that is not above 0.
        """
        other = copy.copy(self)
        other.limits = limits_of_lanes(self, limits)
        other.has_speed_limits = True
        other._look_along()
        return other

    def _look_along(self) -> None:
        """Drivers look along their way from now on, lane by lane, also where roads only go on."""
        if self.is_unbranched:
            self.is_unbranched = False
            successors = [[s for s in row if s >= 0] for row in self.successors.tolist()]
            self.hops = _hops(successors, self.lane_length.tolist())

    def edge_index(self, edge: int | EdgeKey | str) -> int:
        """Row of an edge that is given by its row, as (from, to, key), or by a key or name that only it has.

        Raises:
            TrafficGradError: there is no such edge, or several.
        """
        if isinstance(edge, int):
            if 0 <= edge < len(self.edges):
                return edge
            raise TrafficGradError(f"there is no edge {edge}; this network has the edges 0 to {len(self.edges) - 1}")
        if isinstance(edge, tuple | list) and len(edge) == 3 and (edge[0], edge[1], edge[2]) in self._index:
            return self._index[edge[0], edge[1], edge[2]]
        data = self._data.edges
        found = [e for e, one in enumerate(data) if edge in (one.key[2], one.name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise TrafficGradError(f"{len(found)} edges are called {edge!r}: name one as (from, to, key)")
        names = [str(one.name if one.name is not None else one.key[2]) for one in data] + [str(k) for k in self.edges]
        raise TrafficGradError(f"there is no edge {edge!r}{nearest_name(str(edge), names)} in this network")

    # ------------------------------------------------------------------ tensors of a step

    def tables(self, dtype: torch.dtype, device: torch.device | str) -> LaneTables:
        """The step's tensors in ``dtype`` on ``device``; made at the first call and kept, all but ``limits``."""
        key = (dtype, str(device))
        if key not in self._tables:
            self._tables[key] = _move(self._compile(), dtype, device)
        tables = self._tables[key]
        return tables if self.limits is None else tables._replace(speed_limit=self.limits.to(device, dtype))

    def _compile(self) -> LaneTables:
        several = (self.successors >= 0).sum(1) > 1
        successor = self.successors[:, 0]
        predecessor = torch.where((self.predecessors >= 0).sum(1) == 1, self.predecessors[:, 0], -1)
        # Chains only go where there is one way on and one way back.
        goes_on = (successor >= 0) & ~several & (predecessor[successor.clamp(min=0)] >= 0)
        comes_from = (predecessor >= 0) & goes_on[predecessor.clamp(min=0)]
        onward, back = torch.where(goes_on, successor, -1), torch.where(comes_from, predecessor, -1)
        chain, offset, chain_length = _chains(onward, back, self.lane_length)
        hops = max(0, math.ceil(math.log2(max(1, int(torch.bincount(chain).max())))))
        return LaneTables(
            self.lane_length,
            self.speed_limit,
            self.lane_width,
            self.left,
            self.right,
            successor,
            predecessor,
            self.edge,
            self.number,
            chain,
            offset,
            chain_length,
            _doubling(onward, self.lane_length, hops),
            _doubling(back, self.lane_length, hops),
            self._compile_junctions(),
            self.plan(),
        )

    def plan(self) -> PlanTables:
        """Which lane leads where, for drivers without a route and along every route."""
        lengths = [edge.length for edge in self._data.edges]
        return compile_plan(self.edge_lanes, lengths, self._ways, self._routes, self.route_loops.tolist())

    def _compile_junctions(self) -> JunctionTables:
        count = len(self.lanes)
        foes: list[list[Conflict]] = [[] for _ in range(count)]
        for conflict in self._conflicts:
            foes[conflict.own].append(conflict)
        width = max(1, *(len(rows) for rows in foes)) if count else 1
        kinds = [{c.kind for c in rows} for rows in foes]
        names = {signal.name: s for s, signal in enumerate(self.signals)}
        ways = [self.connections[c] if c >= 0 else None for c in self.lane_connection.tolist()]

        def table(field: str, filler: float, dtype: torch.dtype) -> Tensor:
            rows = [[getattr(c, field) for c in row] + [filler] * (width - len(row)) for row in foes]
            return torch.tensor(rows, dtype=dtype)

        def flag(values: list[bool]) -> Tensor:
            return torch.tensor(values, dtype=torch.bool)

        ranks = [0 if way is None or way.priority is None else way.priority for way in ways]
        outranked = [any(c.kind == MERGE and ranks[c.foe] > ranks[c.own] for c in rows) for rows in foes]
        alike = [any(c.kind == MERGE and ranks[c.foe] == ranks[c.own] for c in rows) for rows in foes]
        narrows = [min((c.own_entry for c in rows if c.kind == MERGE), default=0.0) for rows in foes]
        apart = [max((c.own_exit for c in rows if c.kind == DIVERGE), default=0.0) for rows in foes]
        stop = [way is not None and way.stop for way in ways]
        signal = [-1 if way is None or way.signal is None else names[way.signal] for way in ways]
        gated = [bool(k & {CROSSING, MERGE}) or s or g >= 0 for k, s, g in zip(kinds, stop, signal, strict=True)]
        return JunctionTables(
            self.is_junction,
            self.origin,
            torch.tensor(self._target),
            flag(gated),
            flag([CROSSING in k for k in kinds]),
            flag([MERGE in k for k in kinds]),
            flag(outranked),
            flag([zips and CROSSING not in k for zips, k in zip(alike, kinds, strict=True)]),
            torch.tensor(narrows, dtype=torch.float64),
            flag([DIVERGE in k for k in kinds]),
            torch.tensor(apart, dtype=torch.float64),
            torch.tensor(ranks),
            torch.tensor(waiting_places(foes, ways, self.signals), dtype=torch.float64),
            flag(stop),
            torch.tensor(signal),
            torch.tensor([-1 if way is None else way.signal_index for way in ways]),
            table("foe", -1, torch.int64),
            table("kind", -1, torch.int64),
            *(table(name, 0.0, torch.float64) for name in ("own_entry", "own_exit", "foe_entry", "foe_exit")),
        )

    # ------------------------------------------------------------------ geometry

    def lane_geometry(self, lane: int) -> Tensor:
        """Centre line of a lane, [K, 2] m, world coordinates."""
        return torch.from_numpy(self._lines[lane])

    def locate(self, lane: Tensor, position: Tensor, lateral: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """World coordinates of points on lanes, for drawing.

        Parameters:
            lane: int64, any shape; -1 is read as lane 0. position: m along the lane, same shape; a value below 0 lies
                on the lane before, where there is only one. lateral: m to the left of the lane's centre line.

        Returns:
            xy [..., 2] in m and heading [...] in rad.
        """
        tables = self.tables(torch.float64, "cpu")
        lane, position = lane.cpu().clamp(min=0), position.detach().cpu().double()
        before = tables.predecessor[lane]
        back = (position < 0) & (before >= 0)
        lane = torch.where(back, before, lane)
        position = torch.where(back, position + tables.length[lane], position)
        points, normals, starts, along, sizes = self._drawn()
        # All lines lie one behind the other on one axis, so that one search finds the piece of every vehicle.
        at = lane.numpy()
        s = (position / tables.length[lane]).numpy() * sizes[at]
        key = np.clip(s, 0.0, sizes[at]) + starts[1][at]
        k = np.searchsorted(along, key, side="right") - 1
        low, high = starts[0][at], starts[0][at + 1] - 2
        k = np.clip(k, low, high)
        step = points[k + 1] - points[k]
        direction = step / np.hypot(step[..., 0], step[..., 1])[..., None]
        beyond = s + starts[1][at] - along[k]
        across = np.zeros_like(s) if lateral is None else lateral.detach().cpu().double().numpy()
        size = np.hypot(step[..., 0], step[..., 1])
        place = np.clip(beyond / size, 0.0, 1.0)[..., None]
        normal = (1.0 - place) * normals[k] + place * normals[k + 1]
        normal = normal / np.hypot(normal[..., 0], normal[..., 1])[..., None]
        xy = points[k] + beyond[..., None] * direction + across[..., None] * normal
        return torch.as_tensor(xy), torch.as_tensor(np.arctan2(direction[..., 1], direction[..., 0]))

    def _drawn(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        """All lanes' points and normals, (first point, place on the common axis) of each, places of points, sizes."""
        if not hasattr(self, "_drawn_lines"):
            sizes = [np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()]) for line in self._lines]
            total = np.array([size[-1] for size in sizes])
            base = np.cumsum([0.0, *(total[:-1] + 1.0)])
            first = np.cumsum([0, *(len(line) for line in self._lines)])
            along = np.concatenate([size + b for size, b in zip(sizes, base, strict=True)])
            normals = np.concatenate([_normals(line) for line in self._lines])
            self._drawn_lines = (np.concatenate(self._lines), normals, (first, base), along, total)
        return self._drawn_lines


def _normals(line: np.ndarray) -> np.ndarray:
    """Unit vectors to the left at the points of a line, [K, 2]; at its ends as if it went on bending as it does."""
    step = np.diff(line, axis=0)
    pieces = np.stack([-step[:, 1], step[:, 0]], -1) / np.hypot(*step.T)[:, None]
    if len(pieces) == 1:
        return np.concatenate([pieces, pieces])
    inner = pieces[1:] + pieces[:-1]
    inner = inner / np.maximum(np.hypot(*inner.T), 1e-9)[:, None]

    def mirrored(normal: np.ndarray, about: np.ndarray) -> np.ndarray:
        return 2.0 * float(normal @ about) * about - normal

    return np.stack([mirrored(inner[0], pieces[0]), *inner, mirrored(inner[-1], pieces[-1])])


def _padded_rows(rows: list[list[int]]) -> Tensor:
    width = max(1, *(len(row) for row in rows)) if len(rows) > 1 else max(1, *map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int64)


def _conflicts_by_node(data: RoadData, crossing: list[int], roads: int) -> list[Conflict]:
    """Conflicts of all junction lanes, in lane numbers."""
    by_node: dict[int, list[int]] = {}
    for j, w in enumerate(crossing):
        by_node.setdefault(data.ways[w].node, []).append(j)
    found = []
    for members in by_node.values():
        ways = [data.ways[crossing[j]] for j in members]
        lines = [way.line for way in ways if way.line is not None]
        for conflict in find_conflicts([way.connection for way in ways], lines, [way.length for way in ways]):
            own, foe = roads + members[conflict.own], roads + members[conflict.foe]
            found.append(conflict._replace(own=own, foe=foe))
    return found


def _hops(following: list[list[int]], length: list[float]) -> int:
    """How many lanes in a row must be looked over, so that from every lane's end ``LOOK_AHEAD`` m are seen."""
    seen = [0.0] * len(length)
    for hop in range(1, _MOST_HOPS):
        seen = [min((length[b] + seen[b] for b in nexts), default=math.inf) for nexts in following]
        if min(seen) >= LOOK_AHEAD:
            return hop
    return _MOST_HOPS


def _chains(successor: Tensor, predecessor: Tensor, lane_length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Chain of each lane, the lane's distance from the chain's start, and the length of closed chains."""
    after, before, size = successor.tolist(), predecessor.tolist(), lane_length.tolist()
    chain, offset, length = [-1] * len(after), [0.0] * len(after), [math.inf] * len(after)
    number = 0
    for start in range(len(after)):
        if chain[start] >= 0:
            continue
        head = start
        while before[head] >= 0 and before[head] != start:
            head = before[head]
        closed = before[head] == start
        head = start if closed else head
        members: list[int] = []
        total, lane = 0.0, head
        while lane >= 0 and not (members and lane == head):
            members.append(lane)
            offset[lane] = total
            total += size[lane]
            lane = after[lane]
        for lane in members:
            chain[lane] = number
            length[lane] = total if closed else math.inf
        number += 1
    return torch.tensor(chain), torch.tensor(offset, dtype=torch.float64), torch.tensor(length, dtype=torch.float64)


def _doubling(to: Tensor, lane_length: Tensor, hops: int) -> tuple[tuple[Tensor, Tensor], ...]:
    passed = torch.where(to >= 0, lane_length[to.clamp(min=0)], torch.zeros_like(lane_length))
    levels = [(to, passed)]
    for _ in range(hops):
        there = to.clamp(min=0)
        passed = passed + torch.where(to >= 0, passed[there], torch.zeros_like(passed))
        to = torch.where(to >= 0, to[there], to)
        levels.append((to, passed))
    return tuple(levels)


def _move(value: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A table with its tensors moved, floating ones in ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    moved = [_move(part, dtype, device) for part in value]
    return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
