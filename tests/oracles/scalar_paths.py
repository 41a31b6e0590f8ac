"""Who surrounds whom on roads that meet and part, in plain Python: the independent second implementation.

Every vehicle's own way is walked lane by lane. On each lane all vehicles are looked at: those whose front is on it, and
those whose front has left it while their rear has not. Scalars, lists and explicit loops in float64; of the package
only the network's lengths, connections, conflicts, places to wait and routes are read. Vehicles at equal positions of a
lane are ordered by their index (the higher index is ahead).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from trafficgrad.network import RoadNetwork
from trafficgrad.network.conflicts import CROSSING, MERGE, find_conflicts

LOOK_AHEAD = 300.0  # m: lanes that begin nearer than this are looked at
CRAWL = 0.5  # m/s that a standing vehicle is taken to drive when it is asked who comes first


@dataclass(frozen=True)
class Driver:
    """One vehicle on the road."""

    lane: int
    position: float  # m
    speed: float  # m/s
    length: float  # m
    braking: float  # m/s2
    route: int = -1
    place: int = 0  # of the edge that it is on, or has just left, along its route
    previous: int = -1


@dataclass
class Surroundings:
    """What one vehicle sees; the lists are for the right, own and left lane."""

    leader: list[int] = field(default_factory=lambda: [-1, -1, -1])
    gap: list[float] = field(default_factory=lambda: [math.inf] * 3)
    follower: list[int] = field(default_factory=lambda: [-1, -1, -1])
    follower_gap: list[float] = field(default_factory=lambda: [math.inf] * 3)
    gates: list[int] = field(default_factory=list)  # the next three
    gate_distances: list[float] = field(default_factory=list)
    end_distance: float = math.inf
    slow: int = -1
    slow_distance: float = math.inf


class Roads:
    """A network as adjacency by plain numbers."""

    def __init__(self, network: RoadNetwork) -> None:
        self.length = network.lane_length.tolist()
        self.limit = network.speed_limit.tolist()
        self.left, self.right = network.left.tolist(), network.right.tolist()
        self.routes = [[e for e in row if e >= 0] for row in network.routes.tolist()]
        self.loops = network.route_loops.tolist()
        self.lanes = network.lanes
        numbers = {lane: i for i, lane in enumerate(network.lanes)}
        self.is_way = network.is_junction.tolist()
        way_of = {c: lane for lane, c in enumerate(network.lane_connection.tolist()) if c >= 0}
        self.ways: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (lane, next edge) -> (way or -1, lane after)
        self.first: dict[int, tuple[int, int]] = {}  # lane -> the first of its ways
        self.leads: set[int] = set()  # edges of which some lane goes on
        self.target: dict[int, int] = {}  # way -> lane after
        for c, one in enumerate(network.connections):
            start = numbers[network.edge_index(one.from_edge), one.from_lane]
            after = numbers[network.edge_index(one.to_edge), one.to_lane]
            way = way_of.get(c, -1)
            self.ways.setdefault((start, network.edge_index(one.to_edge)), []).append((way, after))
            self.first.setdefault(start, (way, after))
            self.leads.add(network.edge_index(one.from_edge))
            self.target[way] = after
        self.costs: dict[tuple[tuple[int, ...], int], float] = {}
        self.gated = self._gated(network, way_of)
        self.waits_at = network.tables(torch.float64, "cpu").junctions.waits_at.tolist()

    @staticmethod
    def _gated(network: RoadNetwork, way_of: dict[int, int]) -> set[int]:
        """Ways that take the right of way: crossed by others, merging with others, with a stop sign or a signal."""
        gated = {
            way for c, way in way_of.items() if network.connections[c].stop or network.connections[c].signal is not None
        }
        by_node: dict[object, list[int]] = {}
        for c in way_of:
            by_node.setdefault(network.connections[c].from_edge[1], []).append(c)
        for rows in by_node.values():
            ways = [network.connections[c] for c in rows]
            lines = [network.lane_geometry(way_of[c]).numpy() for c in rows]
            for conflict in find_conflicts(ways, lines, [1.0] * len(rows)):
                if conflict.kind in (CROSSING, MERGE):
                    gated.add(way_of[rows[conflict.own]])
        return gated

    def cost(self, edges: tuple[int, ...], lane: int) -> float:
        """Fewest lane changes that drive ``edges``, from ``lane`` of the first; those on short edges count more."""
        if len(edges) < 2:
            return 0.0
        if (edges, lane) not in self.costs:
            number = self.lanes[lane].number
            onward = [
                (abs(self.lanes[start].number - number), after)
                for (start, following), ways in self.ways.items()
                if self.lanes[start].edge == edges[0] and following == edges[1]
                for _, after in ways
            ]
            self.costs[edges, lane] = min(
                changes + (1.0 + 100.0 / self.length[after]) * self.cost(edges[1:], after) for changes, after in onward
            )
        return self.costs[edges, lane]

    def onward(self, lane: int, driver: Driver) -> Iterator[int]:
        """The lanes that follow ``lane`` on the driver's way; -1 as the last one where its lane is a dead end."""
        route = self.routes[driver.route] if driver.route >= 0 else None
        place = driver.place
        while True:
            if self.is_way[lane]:
                lane = self.target[lane]
                place += 1
                yield lane
                continue
            edge = self.lanes[lane].edge
            if route is None:
                if lane not in self.first:
                    if edge in self.leads:
                        yield -1
                    return
                way, after = self.first[lane]
            else:
                if place + 1 >= len(route) and not self.loops[driver.route]:
                    return
                following = route[(place + 1) % len(route)]
                ways = self.ways.get((lane, following), [])
                if not ways:
                    yield -1
                    return
                ahead = route[place % len(route) + 1 :] + (route if self.loops[driver.route] else [])
                way, after = min(ways, key=lambda way: self.cost(tuple(ahead), way[1]))  # the first of equals
            if way >= 0:
                lane = way
            else:
                lane = after
                place += 1
            yield lane


def surroundings(roads: Roads, drivers: Sequence[Driver]) -> list[Surroundings]:
    """What every vehicle sees."""
    seen = [Surroundings() for _ in drivers]
    comers: dict[int, list[tuple[float, int, float]]] = {}  # lane -> (time, -slot, distance) of those who come to it
    for i, me in enumerate(drivers):
        sides = (roads.right[me.lane], me.lane, roads.left[me.lane])
        for k, lane in enumerate(sides):
            if lane >= 0:
                _look_ahead(roads, drivers, i, k, lane, seen[i], comers)
    for i, me in enumerate(drivers):
        for k, lane in enumerate((roads.right[me.lane], me.lane, roads.left[me.lane])):
            if lane >= 0:
                _look_back(drivers, i, k, lane, seen[i], comers)
    return seen


def _look_ahead(
    roads: Roads,
    drivers: Sequence[Driver],
    i: int,
    k: int,
    lane: int,
    seen: Surroundings,
    comers: dict[int, list[tuple[float, int, float]]],
) -> None:
    me, own = drivers[i], k == 1
    on_lane = [(d.position, j) for j, d in enumerate(drivers) if d.lane == lane and (d.position, j) > (me.position, i)]
    met = bool(on_lane)
    if met:
        position, j = min(on_lane)
        seen.leader[k], seen.gap[k] = j, position - me.position - drivers[j].length
    if own and me.position <= roads.waits_at[lane] > 0:  # it has no right of way: it waits inside the junction
        seen.gates.append(lane)
        seen.gate_distances.append(-me.position)
    passed, offset, lowest = lane, roads.length[lane], math.inf
    for after in itertools.chain(roads.onward(lane, me), [None]):  # None: where the way ends
        start = offset - me.position
        if after == -1 and own:
            seen.end_distance = start
        if start >= LOOK_AHEAD:
            return
        if after is None or after < 0:
            tails = [(d.position, j) for j, d in enumerate(drivers) if d.previous == passed and d.position < d.length]
            if tails and not met:
                position, j = min(tails)
                if j != i:
                    seen.leader[k], seen.gap[k] = j, start + position - drivers[j].length
            return
        if own:
            if not met:
                comers.setdefault(after, []).append((start / (me.speed + CRAWL), -i, start))
            if after in roads.gated and len(seen.gates) < 3:
                seen.gates.append(after)
                seen.gate_distances.append(start)
            square = roads.limit[after] ** 2 + 2.0 * me.braking * start
            if square < lowest:
                lowest, seen.slow, seen.slow_distance = square, after, start
        if not met:
            # Fronts on the next lane, and fronts elsewhere whose rear is still on the lane passed.
            there = [(d.position, j) for j, d in enumerate(drivers) if d.lane == after]
            there += [(d.position, j) for j, d in enumerate(drivers) if d.previous == passed and d.position < d.length]
            if there:
                met = True
                position, j = min(there)
                if j != i:
                    seen.leader[k], seen.gap[k] = j, start + position - drivers[j].length
        passed, offset = after, offset + roads.length[after]


def _look_back(
    drivers: Sequence[Driver],
    i: int,
    k: int,
    lane: int,
    seen: Surroundings,
    comers: dict[int, list[tuple[float, int, float]]],
) -> None:
    me = drivers[i]
    behind = [(d.position, j) for j, d in enumerate(drivers) if d.lane == lane and (d.position, j) < (me.position, i)]
    if behind:
        position, j = max(behind)
        seen.follower[k], seen.follower_gap[k] = j, me.position - position - me.length
    elif lane in comers:
        _, slot, distance = min(comers[lane])
        if -slot != i:
            seen.follower[k], seen.follower_gap[k] = -slot, me.position + distance - me.length
