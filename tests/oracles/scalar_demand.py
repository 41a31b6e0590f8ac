"""One step of demand in plain Python: the independent second implementation of queues and entries.

Scalars, lists and explicit loops in float64, bisection instead of Newton's method; nothing is shared with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
MOST_ARRIVALS = 4
WAITING_SHARE = 0.65
LOOK = 200.0


def uniform(seed: int, *counters: int) -> float:
    """Within (0, 1), by splitmix64 in unsigned integers."""

    def scramble(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    bits = scramble((seed + GOLDEN) & MASK)
    for counter in counters:
        bits = scramble((bits + (counter + 1) * GOLDEN) & MASK)
    return ((bits >> 12) + 0.5) / 2**52


@dataclass(frozen=True)
class Flow:
    """One inflow. ``lanes``: global numbers, from right to left."""

    lanes: list[int]
    kind: str
    rate: float = 0.0
    begin: float = 0.0
    end: float = math.inf
    times: list[float] = field(default_factory=list)
    listed: list[int] | None = None
    routes: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    drivers: tuple[int, int] = (0, 1)
    controlled_share: float = 0.0
    speed: float = math.inf


@dataclass(frozen=True)
class Driver:
    """What decides how a driver enters."""

    length: float
    desired_speed: float
    time_headway: float
    deceleration: float
    min_gap: float
    speed_factor: float


@dataclass(frozen=True)
class Vehicle:
    """What is in a slot."""

    active: bool
    position: float = 0.0
    speed: float = 0.0
    lane: int = 0
    previous: int = -1
    route: int = -1
    driver: int = 0
    identity: int = -1


@dataclass(frozen=True)
class World:
    """Everything that demand reads and writes."""

    vehicles: list[Vehicle]
    time: float
    seed: int
    arrivals: list[int]
    next_arrival: list[float]
    inserted: list[int]
    next_id: int


@dataclass(frozen=True)
class Roads:
    """Lanes, and how a route goes on from them."""

    length: list[float]
    limit: list[float]
    after: Callable[[int, int], int]  # (route, lane) -> lane, -1 = none
    direct: Callable[[int, int], bool]  # (route, lane): the route goes on from this lane without a change


def interval_end(world_seed: int, q: int, flow: Flow, previous: float, number: int) -> float:
    """When vehicle ``number`` of inflow q comes."""
    if flow.kind == "schedule":
        time = flow.times[number] if number < len(flow.times) else math.inf
    elif flow.rate == 0.0:
        time = math.inf
    elif flow.kind == "constant":
        time = previous + 1.0 / flow.rate
    else:
        time = previous - math.log(uniform(world_seed, q, number, 0)) / flow.rate
    return time if time < flow.end else math.inf


def entry_speed(d: Driver, desired: float, gap: float, leader: float, offset: float) -> float:
    """Largest speed at which to enter ``gap`` m behind a leader, when ``offset`` s are driven on at once."""
    if math.isinf(gap):
        return desired
    room = max(gap, d.min_gap)

    def fits(v: float) -> bool:
        left = room - v * offset
        if left <= 0.0:
            return False
        return (d.min_gap + v * d.time_headway) ** 2 <= left * left * (1.0 - (v / desired) ** 4)

    def stops(v: float) -> bool:  # after reaction time, behind a leader that brakes as hard
        return v * (d.time_headway + offset) + v * v / (2 * d.deceleration) <= (
            room - d.min_gap + leader * leader / (2 * d.deceleration)
        )

    low, high = 0.0, desired
    for _ in range(200):
        middle = (low + high) / 2
        if fits(middle) and stops(middle):
            low = middle
        else:
            high = middle
    return low


def last_bodies(world: World, roads: Roads, drivers: list[Driver]) -> tuple[list[float], list[float]]:
    """Rear and speed of the last vehicle on every lane."""
    rear, speed = [math.inf] * len(roads.length), [0.0] * len(roads.length)
    for v in world.vehicles:
        if not v.active:
            continue
        end = v.position - drivers[v.driver].length
        places = [(v.lane, end)]
        if v.previous >= 0 and end < 0:
            places.append((v.previous, end + roads.length[v.previous]))
        for lane, at in places:
            if at < rear[lane]:
                rear[lane], speed[lane] = at, v.speed
    return rear, speed


def advance(
    world: World,
    flows: list[Flow],
    roads: Roads,
    drivers: list[Driver],
    controlled: list[int],
    dt: float,
    coming: tuple[list[float], list[float]] | None = None,
) -> World:
    """The world after arrivals and entries of one step."""
    arrivals, coming_time = list(world.arrivals), list(world.next_arrival)
    for q, flow in enumerate(flows):
        for _ in range(MOST_ARRIVALS):
            if coming_time[q] <= world.time:
                arrivals[q] += 1
                coming_time[q] = interval_end(world.seed, q, flow, coming_time[q], arrivals[q])

    def wait(q: int) -> float:
        flow = flows[q]
        if flow.kind == "schedule":
            return world.time - flow.times[world.inserted[q]]
        return (arrivals[q] - world.inserted[q]) / (flow.rate if flow.rate > 0 else 1.0)

    queue = [q for q in range(len(flows)) if arrivals[q] > world.inserted[q]]
    queue.sort(key=lambda q: (-wait(q), q))
    rear, speed = last_bodies(world, roads, drivers)
    free_controlled = [c for c, slot in enumerate(controlled) if not world.vehicles[slot].active]
    free = [n for n, v in enumerate(world.vehicles) if not v.active and n not in controlled]
    vehicles, inserted, identity = list(world.vehicles), list(world.inserted), world.next_id
    taken: set[int] = set()
    for q in queue:
        flow, k = flows[q], world.inserted[q]
        if flow.listed is not None:
            route = flow.listed[k]
        elif flow.routes:
            shares, u, chosen = [x / sum(flow.shares) for x in flow.shares], uniform(world.seed, q, k, 1), 0
            while u >= sum(shares[: chosen + 1]) and chosen < len(shares) - 1:
                chosen += 1
            route = flow.routes[chosen]
        else:
            route = -1
        first, after = flow.drivers
        row = first + int(uniform(world.seed, q, k, 2) * (after - first))
        slot = None
        if uniform(world.seed, q, k, 3) < flow.controlled_share and free_controlled:
            row = free_controlled.pop(0)
            slot = controlled[row]
        d = drivers[row]
        since = world.time - world.next_arrival[q]
        fresh = world.arrivals[q] == world.inserted[q] and 0.0 <= since < 1.5 * dt
        offset = min(since, dt) if fresh else 0.0

        usable = [a for a in flow.lanes if roads.direct(route, a)] or flow.lanes
        seen = {}
        for a in usable:
            at, passed = a, 0.0
            while math.isinf(rear[at]) and passed < LOOK:
                onward = roads.after(route, at)
                if onward < 0:
                    break
                passed += roads.length[at]
                at = onward
            start = min(d.length, roads.length[a])
            seen[a] = (rear[at] + passed - start, speed[at])
        lane = max(usable, key=lambda a: (seen[a][0], -usable.index(a)))
        gap, leader = seen[lane]
        desired = min(d.desired_speed, roads.limit[lane] * d.speed_factor)
        v = min(entry_speed(d, desired, gap, leader, offset), flow.speed)
        safe = gap >= d.min_gap and v >= min(leader, WAITING_SHARE * desired, flow.speed)
        if coming is not None:
            spare, u = coming[0][lane] - d.min_gap, coming[1][lane]
            stopping = u * d.time_headway + u * u / (2 * d.deceleration) <= (spare + v * v / (2 * d.deceleration))
            safe = safe and spare >= u * d.time_headway and stopping
        if not safe or lane in taken:
            continue
        taken.add(lane)
        if slot is None:
            if not free:
                continue
            slot = free.pop(0)
        place = min(min(d.length, roads.length[lane]) + v * offset, roads.length[lane])
        vehicles[slot] = Vehicle(True, place, v, lane, -1, route, row, identity)
        identity += 1
        inserted[q] += 1
    return replace(
        world, vehicles=vehicles, arrivals=arrivals, next_arrival=coming_time, inserted=inserted, next_id=identity
    )
