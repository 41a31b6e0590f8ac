"""A road network: a networkx graph of nodes and edges, compiled once to tensors of lanes."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import networkx as nx
import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError

_EDGE_ATTRIBUTES = ("length", "lanes", "speed_limit", "lane_width", "geometry")


class Lane(NamedTuple):
    """One lane: its edge (row of ``RoadNetwork.edges``) and its number on that edge, 0 = right."""

    edge: int
    number: int


class LaneTables(NamedTuple):
    """What a simulation step reads, on one device and in one dtype. ``A`` lanes; -1 = none.

    ``ahead[j]`` and ``behind[j]`` serve pointer doubling along the road: the lane 2^j places ahead (behind), and the
    total length of the lanes passed on the way, the reached one included.
    """

    length: Tensor  # [A] m
    speed_limit: Tensor  # [A] m/s
    width: Tensor  # [A] m
    left: Tensor  # [A] int64
    right: Tensor  # [A] int64
    successor: Tensor  # [A] int64, where a vehicle without a route goes on
    predecessor: Tensor  # [A] int64
    edge: Tensor  # [A] int64
    number: Tensor  # [A] int64, place on the edge, 0 = right
    chain: Tensor  # [A] int64, lanes that continue each other share a chain
    offset: Tensor  # [A] m, from the start of the chain
    chain_length: Tensor  # [A] m, of a closed chain; inf for an open one
    ahead: tuple[tuple[Tensor, Tensor], ...]
    behind: tuple[tuple[Tensor, Tensor], ...]


class RoadNetwork:
    """Immutable road network. Make one with :meth:`from_graph` or a builder such as :func:`trafficgrad.network.ring`.

    Attributes:
        nodes: node names. node_position: [nodes, 2] m. edges: (from, to, key) of each. lanes: tuple of :class:`Lane`.
        lane_length, speed_limit (m/s, may be inf), lane_width: [A] float64.
        left, right: [A] int64 lane beside, -1 = none. successors: [A, S] int64 lanes that follow, -1 = padding.
        geometry: per edge the centre line, [K, 2] m. routes: [R, S] int64 edges of fixed routes (none yet).
    """

    def __init__(
        self,
        nodes: tuple[Hashable, ...],
        node_position: Tensor,
        edges: tuple[tuple[Hashable, Hashable, Hashable], ...],
        edge_lanes: tuple[int, ...],
        edge_length: tuple[float, ...],
        edge_speed_limit: tuple[float, ...],
        edge_lane_width: tuple[float, ...],
        geometry: tuple[Tensor, ...],
    ) -> None:
        self.nodes, self.node_position, self.edges, self.geometry = nodes, node_position, edges, geometry
        self.edge_lanes = edge_lanes
        self.lanes = tuple(Lane(e, i) for e, count in enumerate(edge_lanes) for i in range(count))
        first = [sum(edge_lanes[:e]) for e in range(len(edges))]
        self.lane_length = torch.tensor([edge_length[lane.edge] for lane in self.lanes], dtype=torch.float64)
        self.speed_limit = torch.tensor([edge_speed_limit[lane.edge] for lane in self.lanes], dtype=torch.float64)
        self.lane_width = torch.tensor([edge_lane_width[lane.edge] for lane in self.lanes], dtype=torch.float64)
        last = [edge_lanes[lane.edge] - 1 for lane in self.lanes]
        self.left = torch.tensor(
            [a + 1 if lane.number < n else -1 for a, (lane, n) in enumerate(zip(self.lanes, last, strict=True))],
            dtype=torch.int64,
        )
        self.right = torch.tensor(
            [a - 1 if lane.number > 0 else -1 for a, lane in enumerate(self.lanes)], dtype=torch.int64
        )
        self.edge = torch.tensor([lane.edge for lane in self.lanes], dtype=torch.int64)
        self.number = torch.tensor([lane.number for lane in self.lanes], dtype=torch.int64)
        leaving: dict[Hashable, list[int]] = {}
        for e, (u, _, _) in enumerate(edges):
            leaving.setdefault(u, []).append(e)
        following = [[first[e] + lane.number for e in leaving.get(edges[lane.edge][1], [])] for lane in self.lanes]
        width = max([1, *(len(f) for f in following)])
        self.successors = torch.tensor([f + [-1] * (width - len(f)) for f in following], dtype=torch.int64)
        self.routes = torch.empty(0, 0, dtype=torch.int64)
        self.max_lanes = max(edge_lanes)
        self.has_speed_limits = any(math.isfinite(v) for v in edge_speed_limit)
        self.is_closed = bool((self.successors[:, 0] >= 0).all())
        self._tables: dict[tuple[torch.dtype, str], LaneTables] = {}

    def __repr__(self) -> str:
        metres = float(self.lane_length.sum())
        sizes = f"{len(self.nodes)} nodes, {len(self.edges)} edges, {len(self.lanes)} lanes"
        return f"RoadNetwork({sizes}, {metres:.1f} lane-metres)"

    @classmethod
    def from_graph(cls, graph: nx.MultiDiGraph) -> RoadNetwork:
        """Compile a graph.

        Nodes have ``position`` (x, y) in m. Edges have ``length`` (m, default: of the geometry), ``lanes`` (default 1),
        ``speed_limit`` (m/s, default none), ``lane_width`` (m, default 3.5) and ``geometry`` (points of the centre line
        from node to node, default straight). Edges that meet in a node continue each other lane by lane.

        Raises:
            TrafficGradError: a missing or impossible attribute, or roads that merge, split or change their number of
                lanes (right of way and routes are not modelled yet).
        """
        if not isinstance(graph, nx.MultiDiGraph):
            raise TrafficGradError(
                f"RoadNetwork.from_graph expects a networkx.MultiDiGraph, got {type(graph).__name__}"
            )
        if graph.number_of_edges() == 0:
            raise TrafficGradError("the road graph has no edges: add at least one with a length")
        nodes = tuple(graph.nodes)
        position = {}
        for node, data in graph.nodes(data=True):
            if "position" not in data or len(data["position"]) != 2:
                raise TrafficGradError(f"node {node!r} of the road graph needs the attribute position=(x, y) in metres")
            position[node] = torch.tensor([float(c) for c in data["position"]], dtype=torch.float64)
        edges, lanes, lengths, limits, widths, geometry = [], [], [], [], [], []
        for u, v, key, data in graph.edges(keys=True, data=True):
            name = f"edge {u!r} -> {v!r}"
            line = _centre_line(name, position[u], position[v], data.get("geometry"))
            length = float(data.get("length", (line[1:] - line[:-1]).norm(dim=-1).sum()))
            count, limit, width = (
                data.get("lanes", 1),
                float(data.get("speed_limit", math.inf)),
                float(data.get("lane_width", 3.5)),
            )
            if not (length > 0 and math.isfinite(length)):
                raise TrafficGradError(f"{name}: length must be a finite number of metres > 0, got {length}")
            if isinstance(count, bool) or int(count) != count or count < 1:
                raise TrafficGradError(f"{name}: lanes must be an integer >= 1, got {count!r}")
            if not limit > 0 or not width > 0:
                raise TrafficGradError(f"{name}: speed_limit and lane_width must be > 0, got {limit} and {width}")
            edges.append((u, v, key))
            lanes.append(int(count))
            lengths.append(length)
            limits.append(limit)
            widths.append(width)
            geometry.append(line)
        for node in nodes:
            arriving = [lanes[e] for e, (_, v, _) in enumerate(edges) if v == node]
            leaving = [lanes[e] for e, (u, _, _) in enumerate(edges) if u == node]
            if len(arriving) > 1 or len(leaving) > 1:
                raise TrafficGradError(
                    f"node {node!r} joins {len(arriving)} arriving and {len(leaving)} leaving roads: "
                    "merges and diverges are not supported yet, one of each is"
                )
            if arriving and leaving and arriving != leaving:
                raise TrafficGradError(
                    f"at node {node!r} the road changes from {arriving[0]} to {leaving[0]} lanes: "
                    "lane drops are not supported yet"
                )
        return cls(
            nodes,
            torch.stack([position[n] for n in nodes]),
            tuple(edges),
            tuple(lanes),
            tuple(lengths),
            tuple(limits),
            tuple(widths),
            tuple(geometry),
        )

    def to_graph(self) -> nx.MultiDiGraph:
        """The graph again, every default written out. ``from_graph(network.to_graph())`` gives an equal network."""
        graph = nx.MultiDiGraph()
        for node, xy in zip(self.nodes, self.node_position.tolist(), strict=True):
            graph.add_node(node, position=tuple(xy))
        lane = 0  # first of the edge
        for e, (u, v, key) in enumerate(self.edges):
            values: dict[str, Any] = {
                "length": float(self.lane_length[lane]),
                "lanes": self.edge_lanes[e],
                "speed_limit": float(self.speed_limit[lane]),
                "lane_width": float(self.lane_width[lane]),
                "geometry": [tuple(p) for p in self.geometry[e].tolist()],
            }
            graph.add_edge(u, v, key=key, **{name: values[name] for name in _EDGE_ATTRIBUTES})
            lane += self.edge_lanes[e]
        return graph

    def tables(self, dtype: torch.dtype, device: torch.device | str) -> LaneTables:
        """The step's tensors in ``dtype`` on ``device``; made at the first call and kept."""
        key = (dtype, str(device))
        if key not in self._tables:
            self._tables[key] = self._compile(dtype, device)
        return self._tables[key]

    def _compile(self, dtype: torch.dtype, device: torch.device | str) -> LaneTables:
        successor = self.successors[:, 0]
        predecessor = torch.full_like(successor, -1)
        linked = (successor >= 0).nonzero()[:, 0]
        predecessor[successor[linked]] = linked
        chain, offset, chain_length = self._chains(successor, predecessor)
        hops = max(0, math.ceil(math.log2(max(1, int(torch.bincount(chain).max())))))
        ahead, behind = self._doubling(successor, hops), self._doubling(predecessor, hops)

        def real(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype)

        def whole(x: Tensor) -> Tensor:
            return x.to(device=device)

        return LaneTables(
            real(self.lane_length),
            real(self.speed_limit),
            real(self.lane_width),
            whole(self.left),
            whole(self.right),
            whole(successor),
            whole(predecessor),
            whole(self.edge),
            whole(self.number),
            whole(chain),
            real(offset),
            real(chain_length),
            tuple((whole(to), real(passed)) for to, passed in ahead),
            tuple((whole(to), real(passed)) for to, passed in behind),
        )

    def _chains(self, successor: Tensor, predecessor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chain of each lane, the lane's distance from the chain's start, and the length of closed chains."""
        after, before, size = successor.tolist(), predecessor.tolist(), self.lane_length.tolist()
        chain, offset, length = [-1] * len(after), [0.0] * len(after), [math.inf] * len(after)
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
            number = max(chain) + 1
            for lane in members:
                chain[lane] = number
                length[lane] = total if closed else math.inf
        return torch.tensor(chain), torch.tensor(offset, dtype=torch.float64), torch.tensor(length, dtype=torch.float64)

    def _doubling(self, to: Tensor, hops: int) -> list[tuple[Tensor, Tensor]]:
        passed = torch.where(to >= 0, self.lane_length[to.clamp(min=0)], torch.zeros_like(self.lane_length))
        levels = [(to, passed)]
        for _ in range(hops):
            there = to.clamp(min=0)
            passed = passed + torch.where(to >= 0, passed[there], torch.zeros_like(passed))
            to = torch.where(to >= 0, to[there], to)
            levels.append((to, passed))
        return levels

    def lane_geometry(self, lane: int) -> Tensor:
        """Centre line of a lane, [K, 2] m, world coordinates."""
        line = self.geometry[self.lanes[lane].edge]
        step = line[1:] - line[:-1]
        normal = torch.stack([-step[:, 1], step[:, 0]], -1) / step.norm(dim=-1, keepdim=True)
        ends = [normal[:1], normal[-1:]]
        if torch.allclose(line[0], line[-1]):  # a loop of one edge: no kink where it closes
            ends = [(normal[:1] + normal[-1:]) / 2] * 2
        at_points = torch.cat([ends[0], (normal[1:] + normal[:-1]) / 2, ends[1]])
        return line + self._offset(lane) * at_points / at_points.norm(dim=-1, keepdim=True)

    def locate(self, lane: Tensor, position: Tensor, lateral: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """World coordinates of points on lanes, for drawing.

        Parameters:
            lane: int64, any shape; -1 is read as lane 0. position: m along the lane, same shape; a value below 0 lies
                on the lane before. lateral: m to the left of the lane's centre line.

        Returns:
            xy [..., 2] in m and heading [...] in rad.
        """
        tables = self.tables(torch.float64, "cpu")
        lane, position = lane.cpu().clamp(min=0), position.detach().cpu().double()
        before = tables.predecessor[lane]
        back = (position < 0) & (before >= 0)
        lane = torch.where(back, before, lane)
        position = torch.where(back, position + tables.length[lane], position)
        across = torch.zeros_like(position) if lateral is None else lateral.detach().cpu().double()
        across = across + torch.tensor([self._offset(a) for a in range(len(self.lanes))], dtype=torch.float64)[lane]
        xy = torch.empty(*position.shape, 2, dtype=torch.float64)
        heading = torch.empty_like(position)
        for e, line in enumerate(self.geometry):
            here = tables.edge[lane] == e
            step = line[1:] - line[:-1]
            size = step.norm(dim=-1)
            along = torch.cat([torch.zeros(1, dtype=torch.float64), size.cumsum(0)])
            s = position[here] / tables.length[lane[here]] * along[-1]
            k = (torch.searchsorted(along, s.contiguous(), right=True) - 1).clamp(0, len(size) - 1)
            direction = step[k] / size[k, None]
            normal = torch.stack([-direction[:, 1], direction[:, 0]], -1)
            xy[here] = line[k] + (s - along[k])[:, None] * direction + across[here][:, None] * normal
            heading[here] = torch.atan2(direction[:, 1], direction[:, 0])
        return xy, heading

    def _offset(self, lane: int) -> float:
        """Distance of a lane's centre line to the left of its edge's centre line, m."""
        edge, index = self.lanes[lane]
        return (index - (self.edge_lanes[edge] - 1) / 2) * float(self.lane_width[lane])


def _centre_line(name: str, start: Tensor, end: Tensor, geometry: Any) -> Tensor:
    line = torch.stack([start, end]) if geometry is None else torch.as_tensor(geometry, dtype=torch.float64)
    if line.dim() != 2 or line.shape[0] < 2 or line.shape[1] != 2 or not bool(torch.isfinite(line).all()):
        raise TrafficGradError(f"{name}: geometry must be a list of at least two finite points (x, y) in metres")
    keep = torch.cat([torch.ones(1, dtype=torch.bool), (line[1:] - line[:-1]).norm(dim=-1) > 0])
    if int(keep.sum()) < 2:
        raise TrafficGradError(f"{name}: its centre line has no length; give it a geometry with distinct points")
    return line[keep]
