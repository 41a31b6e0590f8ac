"""Where lanes lie: along and across the roads that they form, and in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from trafficgrad.network import RoadNetwork
from trafficgrad.render.style import Array

_SHARPEST = 0.35  # cosine of half a bend, from which on parallels no longer keep their distance: hairpins get no spikes
_MEDIAN = 0.75  # of half a street's width, that may lie between the two directions of one street
_OPPOSITE = 0.97  # minus the cosine between them


@dataclass(frozen=True)
class Road:
    """Edges that continue each other, as one road with its own distance scale."""

    edges: tuple[int, ...]
    starts: Array  # [edges] m, distance at which each edge begins
    length: float  # m
    closed: bool  # the end leads into the start


class RoadLayout:
    """Every lane's place on its road, and its line in the world. A junction lane counts as an edge of its own.

    A point of a road is (road, distance in m along it, offset in m to the left of the road's middle line). Pictures may
    draw streets wider than to scale: then everything moves away from the street's *axis*, which is the middle of a road
    in one direction and the border between the directions of a two-way street. ``aside`` is the way from the axis to a
    point; across a junction it passes from that of one street to that of the other.

    Attributes:
        roads: tuple of :class:`Road`. road, edge: int64 ``[A]`` per lane. start: ``[A]`` m, where the lane begins.
        lanes_of: the lanes of each of the ``E`` edges, junction lanes included. edge_length: ``[E]`` m.
        before, after: int64 ``[E]``, the edge that continues an edge on its road, -1 = none.
        offset: ``[A]`` m, lane's centre line to the left of the road's middle. width: ``[A]`` m. half_width: ``[E]`` m.
        axis: ``[A]`` m, lane's centre line to the left of the street's axis; 0 for junction lanes.
        lines, normals, asides: of each lane ``[K, 2]`` m: its points, what moves them 1 m to the left, and from where
            on the axis they come.
        successors: lanes that follow each lane. origin, target: int64 ``[A]``, lane before and after a junction lane.
    """

    def __init__(self, network: RoadNetwork) -> None:
        self.network = network
        self.edge = network.edge.numpy()
        self.is_junction = network.is_junction.numpy()
        self.width = network.lane_width.detach().cpu().numpy().astype(np.float64)
        edges = int(self.edge.max()) + 1
        first = np.searchsorted(self.edge, np.arange(edges + 1))  # lanes come edge by edge
        self.lanes_of = tuple(np.arange(first[e], first[e + 1]) for e in range(edges))
        self.half_width = np.add.reduceat(self.width, first[:-1]) / 2
        self.offset = np.concatenate(
            [
                np.cumsum(self.width[m]) - self.width[m] / 2 - half
                for m, half in zip(self.lanes_of, self.half_width, strict=True)
            ]
        )
        self.lane_length = network.lane_length.numpy()
        self.edge_length = self.lane_length[first[:-1]]
        self.successors = [[s for s in row if s >= 0] for row in network.successors.tolist()]
        before = network.predecessors[:, 0].numpy()
        self.origin = np.where(self.is_junction, before, -1)
        self.target = np.where(self.is_junction, network.successors[:, 0].numpy(), -1)
        self.roads = self._join()
        self._length = np.array([r.length for r in self.roads])
        self._closed = np.array([r.closed for r in self.roads])
        self.road, self.start = np.zeros(len(self.edge), dtype=np.int64), np.zeros(len(self.edge))
        self.before, self.after = np.full(edges, -1), np.full(edges, -1)
        for r, road in enumerate(self.roads):
            for edge, start in zip(road.edges, road.starts, strict=True):
                self.road[self.lanes_of[edge]], self.start[self.lanes_of[edge]] = r, start
            chain = [*road.edges, road.edges[0]] if road.closed else list(road.edges)
            self.after[chain[:-1]], self.before[chain[1:]] = chain[1:], chain[:-1]
        self.lines = tuple(
            network.lane_geometry(lane).detach().cpu().numpy().astype(np.float64) for lane in range(len(self.edge))
        )
        self.normals = tuple(self._normals(lane) for lane in range(len(self.edge)))
        self.axis = self._axes()
        self._ends = self._end_asides()
        self.asides = tuple(self._asides(lane) for lane in range(len(self.edge)))

    @staticmethod
    @lru_cache(maxsize=8)
    def of(network: RoadNetwork) -> RoadLayout:
        """The layout of a network, made once."""
        return RoadLayout(network)

    def _join(self) -> tuple[Road, ...]:
        """Follow edges from each road's first one; where roads merge or split a new one begins."""
        after = [sorted({int(self.edge[s]) for lane in m for s in self.successors[lane]}) for m in self.lanes_of]
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
            while len(after[chain[-1]]) == 1 and continues[after[chain[-1]][0]] and after[chain[-1]][0] != first:
                chain.append(after[chain[-1]][0])
            done.update(chain)
            lengths = self.edge_length[chain]
            closed = continues[first] and after[chain[-1]] == [first]
            roads.append(Road(tuple(chain), np.cumsum(lengths) - lengths, float(lengths.sum()), closed))
        return tuple(roads)

    def _normals(self, lane: int) -> Array:
        """Where an edge of the same road goes on, both share their last direction, so that no notch shows."""
        edge, number = self.edge[lane], lane - self.lanes_of[self.edge[lane]][0]
        step = left_of(directions(self.lines[lane]))
        before, after = int(self.before[edge]), int(self.after[edge])
        first, last = step[:1], step[-1:]
        if before >= 0:
            first = left_of(directions(self.lines[self.lanes_of[before][: number + 1][-1]]))[-1:]
        if after >= 0:
            last = left_of(directions(self.lines[self.lanes_of[after][: number + 1][-1]]))[:1]
        mitre = (np.concatenate([first, step]) + np.concatenate([step, last])) / 2
        return np.asarray(mitre / np.maximum(np.linalg.norm(mitre, axis=1, keepdims=True), _SHARPEST) ** 2)

    def _axes(self) -> Array:
        """``offset``, but from the left border where traffic comes the other way beside it."""
        axis = self.offset.copy()
        edges = range(len(self.network.edges))
        cell = 4 * float(self.half_width.max()) * _MEDIAN
        near: dict[tuple[int, int], list[tuple[int, Array, Array]]] = {}
        borders = []
        for e in edges:
            lane = self.lanes_of[e][-1]
            line = self.lines[lane] + self.width[lane] / 2 * self.normals[lane]
            count = 2 * int(np.ceil(self.edge_length[e] / cell)) + 1
            points = along_line(line, (np.arange(count) + 0.5) / count)
            ahead = along_line(line, (np.arange(count) + 0.6) / count) - points
            borders.append((points[count // 2], ahead[count // 2]))
            for point, step in zip(points, ahead, strict=True):
                near.setdefault((int(point[0] // cell), int(point[1] // cell)), []).append((e, point, step))
        for e, (here, step) in enumerate(borders):
            x, y = (int(v // cell) for v in here)
            for other, point, its in (o for i in (-1, 0, 1) for j in (-1, 0, 1) for o in near.get((x + i, y + j), ())):
                across = abs(step[0] * (point - here)[1] - step[1] * (point - here)[0]) / np.linalg.norm(step)
                if (
                    across < _MEDIAN * (self.half_width[e] + self.half_width[other])
                    and np.linalg.norm(point - here) < cell
                    and step @ its < -_OPPOSITE * np.linalg.norm(step) * np.linalg.norm(its)
                ):
                    axis[self.lanes_of[e]] -= self.half_width[e]
                    break
        return axis

    def _end_asides(self) -> Array:
        """``[A, 2, 2]``: ``aside`` at a junction lane's beginning and end; it is that of the roads there."""
        ends = np.zeros((len(self.edge), 2, 2))
        for lane in np.flatnonzero(self.is_junction):
            a, b = self.origin[lane], self.target[lane]
            ends[lane] = self.axis[a] * self.normals[a][-1], self.axis[b] * self.normals[b][0]
        return ends

    def _asides(self, lane: int) -> Array:
        if not self.is_junction[lane]:
            return np.asarray(self.axis[lane] * self.normals[lane])
        share = place_on(self.lines[lane])[:, None]
        return np.asarray((1.0 - share) * self._ends[lane, 0] + share * self._ends[lane, 1])

    def beside(self, lane: int, offset: float, scale: float = 1.0) -> Array:
        """The line ``offset`` m left of a lane's centre, streets drawn ``scale`` times as wide: ``[K, 2]`` m."""
        return np.asarray(
            self.lines[lane] + (scale - 1.0) * self.asides[lane] + scale * offset * self.normals[lane],
            dtype=np.float64,
        )

    def borders(self, edge: int, scale: float = 1.0) -> tuple[Array, Array]:
        """Right and left border of an edge, ``[K, 2]`` m each, both in driving direction."""
        right, left = self.lanes_of[edge][0], self.lanes_of[edge][-1]
        return (
            self.beside(int(right), -self.width[right] / 2, scale),
            self.beside(int(left), self.width[left] / 2, scale),
        )

    def middle_line(self, edge: int) -> Array:
        """Middle of an edge's road surface, ``[K, 2]`` m in the world."""
        right, left = self.lines[self.lanes_of[edge][0]], self.lines[self.lanes_of[edge][-1]]
        if len(right) != len(left):  # lanes with lines of their own
            share = np.union1d(place_on(right), place_on(left))
            right, left = along_line(right, share), along_line(left, share)
        return np.asarray((right + left) / 2.0, dtype=np.float64)

    def wrap(self, road: Array, distance: Array) -> Array:
        """Distances brought into the first lap of closed roads; others as they are."""
        return np.where(self._closed[road], np.mod(distance, self._length[road]), distance)

    def locate(self, road: Array, distance: Array, offset: Array) -> tuple[Array, Array]:
        """World coordinates ``[..., 2]`` m and the road's direction ``[...]`` rad at points of roads."""
        distance = self.wrap(road, distance)
        lane = np.zeros(road.shape, dtype=np.int64)
        for r in np.unique(road):
            here, one = road == r, self.roads[r]
            piece = np.clip(np.searchsorted(one.starts, distance[here], side="right") - 1, 0, None)
            lane[here] = np.array([self.lanes_of[e][0] for e in one.edges])[piece]
        return self.on_lane(lane, distance - self.start[lane], offset - self.offset[lane])

    def on_lane(self, lane: Array, position: Array, lateral: Array) -> tuple[Array, Array]:
        """World coordinates ``[..., 2]`` m and directions ``[...]`` rad ``lateral`` m left of points of lanes."""
        xy, heading = self.network.locate(*(torch.from_numpy(np.asarray(x)) for x in (lane, position, lateral)))
        return xy.numpy(), heading.numpy()

    def aside(self, lane: Array, position: Array, lateral: Array, heading: Array) -> Array:
        """The way from the street's axis to points of lanes, ``[N, 2]`` m. ``heading`` is the road's there, rad."""
        left = np.stack([-np.sin(heading), np.cos(heading)], -1)
        share = np.clip(position / self.lane_length[lane], 0.0, 1.0)[:, None]
        across = (1.0 - share) * self._ends[lane, 0] + share * self._ends[lane, 1]
        return np.asarray(across + (self.axis[lane] + lateral)[:, None] * left)


def directions(line: Array) -> Array:
    """Unit vectors of a line's pieces, ``[K-1, 2]``."""
    step = np.diff(line, axis=0)
    return np.asarray(step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9))


def left_of(direction: Array) -> Array:
    """Vectors ``[..., 2]`` turned a quarter to the left."""
    return np.stack([-direction[..., 1], direction[..., 0]], -1)


def lengths_along(line: Array) -> Array:
    """How far along a line each of its points lies, m ``[K]``."""
    return np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])


def place_on(line: Array) -> Array:
    """Places of a line's points, as shares of its length ``[K]``."""
    along = lengths_along(line)
    return np.asarray(along / along[-1])


def along_line(line: Array, share: Array | Sequence[float]) -> Array:
    """Points of a line at shares of its length, ``[len(share), 2]``."""
    at = place_on(line)
    return np.stack([np.interp(share, at, line[:, i]) for i in range(2)], -1)
