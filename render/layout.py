"""The roads of a network laid out straight: where along and across its road somebody is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trafficgrad.network import RoadNetwork
from trafficgrad.render.style import Array


@dataclass(frozen=True)
class Road:
    """Edges that continue each other, as one road with its own distance scale."""

    edges: tuple[int, ...]
    starts: Array  # [edges] m, distance at which each edge begins
    length: float  # m
    closed: bool  # the end leads into the start


class RoadLayout:
    """Every lane's place on its road.

    A point is (road, distance in m along it, offset in m to the left of the road's middle line): lane changes and edge
    ends are then ordinary motion, which is what interpolation and straightened drawings need.

    Attributes:
        roads: tuple of :class:`Road`. road, edge: int64 ``[A]`` per lane. start: ``[A]`` m, where the lane begins.
        before, after: int64 ``[E]``, the edge that continues an edge on its road, -1 = none.
        offset: ``[A]`` m, lane's centre line to the left of the road's middle. width: ``[A]`` m. half_width: ``[E]`` m.
    """

    def __init__(self, network: RoadNetwork) -> None:
        self.network = network
        lanes = network.lanes
        self.edge = np.array([lane.edge for lane in lanes], dtype=np.int64)
        self.width = network.lane_width.detach().cpu().numpy().astype(np.float64)
        edges = int(self.edge.max()) + 1
        self.lanes_of = tuple(np.flatnonzero(self.edge == e) for e in range(edges))
        self.half_width = np.array([self.width[members].sum() / 2 for members in self.lanes_of])
        self.offset = np.concatenate(
            [
                np.cumsum(self.width[m]) - self.width[m] / 2 - half
                for m, half in zip(self.lanes_of, self.half_width, strict=True)
            ]
        )
        self.edge_length = np.array([float(network.lane_length[m[0]]) for m in self.lanes_of])
        self.roads = self._join(network)
        self.road = np.zeros(len(lanes), dtype=np.int64)
        self.start = np.zeros(len(lanes))
        self.before, self.after = np.full(edges, -1), np.full(edges, -1)
        for r, road in enumerate(self.roads):
            for edge, start in zip(road.edges, road.starts, strict=True):
                self.road[self.lanes_of[edge]], self.start[self.lanes_of[edge]] = r, start
            chain = [*road.edges, road.edges[0]] if road.closed else list(road.edges)
            self.after[chain[:-1]], self.before[chain[1:]] = chain[1:], chain[:-1]

    def _join(self, network: RoadNetwork) -> tuple[Road, ...]:
        """Follow edges from each road's first one; where roads merge or split a new one begins."""
        after = [
            sorted(
                {
                    int(self.edge[lane])
                    for lane in network.successors[torch.from_numpy(m)].unique().tolist()
                    if lane >= 0
                }
            )
            for m in self.lanes_of
        ]
        before: list[list[int]] = [[] for _ in after]
        for e, following in enumerate(after):
            for f in following:
                before[f].append(e)
        continues = [len(b) == 1 and len(after[b[0]]) == 1 for b in before]
        done: set[int] = set()
        roads = []
        for first in [*(e for e, c in enumerate(continues) if not c), *range(len(after))]:
            if first in done:
                continue
            chain = [first]
            while len(after[chain[-1]]) == 1 and continues[after[chain[-1]][0]] and after[chain[-1]][0] not in chain:
                chain.append(after[chain[-1]][0])
            done.update(chain)
            lengths = self.edge_length[chain]
            closed = continues[first] and after[chain[-1]] == [first]
            roads.append(Road(tuple(chain), np.cumsum(lengths) - lengths, float(lengths.sum()), closed))
        return tuple(roads)

    def middle_line(self, edge: int) -> Array:
        """Middle of an edge's road surface, ``[K, 2]`` m in the world."""
        outer = (self.network.lane_geometry(int(self.lanes_of[edge][i])).detach().cpu().numpy() for i in (0, -1))
        return np.asarray(sum(outer) / 2.0, dtype=np.float64)

    def wrap(self, road: Array, distance: Array) -> Array:
        """Distances brought into the first lap of closed roads; others as they are."""
        length = np.array([r.length for r in self.roads])[road]
        closed = np.array([r.closed for r in self.roads])[road]
        return np.where(closed, np.mod(distance, length), distance)

    def nearest(self, road: Array, distance: Array) -> Array:
        """Differences of distances, taken the short way round on closed roads."""
        length = np.array([r.length for r in self.roads])[road]
        closed = np.array([r.closed for r in self.roads])[road]
        return np.where(closed, np.mod(distance + length / 2, length) - length / 2, distance)

    def locate(self, road: Array, distance: Array, offset: Array) -> tuple[Array, Array]:
        """World coordinates ``[..., 2]`` m and the road's direction ``[...]`` rad at points of roads."""
        distance = self.wrap(road, distance)
        lane = np.zeros(road.shape, dtype=np.int64)
        for r, one in enumerate(self.roads):
            here = road == r
            edge = np.asarray(one.edges)[
                np.clip(np.searchsorted(one.starts, distance[here], side="right") - 1, 0, None)
            ]
            lane[here] = np.array([m[0] for m in self.lanes_of])[edge]
        xy, heading = self.network.locate(
            torch.from_numpy(lane),
            torch.from_numpy(distance - self.start[lane]),
            torch.from_numpy(offset - self.offset[lane]),
        )
        return xy.numpy(), heading.numpy()
