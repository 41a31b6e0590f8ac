"""How vehicles enter the road: at the beginning of an edge, as fast as is safe there, in a slot that is free."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.bodies import last_bodies
from trafficgrad.car_following.base import CarFollowing, look_up
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.tables import LaneTables
from trafficgrad.paths import lane_after, row_after
from trafficgrad.state import Fleet, PerDriver, TrafficState

# Who could enter only slower than the last vehicle waits, unless that drives faster than this share of one's desired
# speed: about where the flow is largest. Entering at any speed that is safe would make a jam of the entrance.
WAITING_SHARE = 0.65
LOOK = 200.0  # m beyond its lane that an entering driver looks for the vehicle ahead
MOST_HOPS = 12  # lanes in a row that it looks over
_NEWTON_STEPS = 5
_SMALLEST, _FAR = 1e-3, 1e3  # m, s: bounds inside formulas


class EntryDrivers(NamedTuple):
    """What of the drivers decides how they enter. Each is per driver."""

    length: PerDriver  # m
    desired_speed: PerDriver  # m/s
    time_headway: PerDriver  # s
    comfortable_deceleration: PerDriver  # m/s2
    min_gap: PerDriver  # m
    exponent: PerDriver = 4.0  # -, of the speed in the model's free acceleration
    speed_factor: PerDriver = 1.0  # -, times the speed limit bounds the desired speed

    @classmethod
    def of(cls, model: CarFollowing, fleet: Fleet) -> EntryDrivers:
        """Those of a simulator."""
        return cls(
            fleet.length,
            model.desired_speed,
            model.time_headway,
            model.comfortable_deceleration,
            model.min_gap,
            getattr(model, "exponent", 4.0),
            fleet.speed_factor,
        )

    def look_up(self, driver: Tensor) -> EntryDrivers:
        """Those of the drivers [B, Q]: floats stay, tables become [B, Q]."""
        return EntryDrivers(*(look_up(value, driver) for value in self))


class Entrance(NamedTuple):
    """What a simulator tells about the road after a step, for vehicles to enter it."""

    network: RoadNetwork
    drivers: EntryDrivers
    controlled: Tensor  # [C] int64, slots of the controlled vehicles; driver c drives in the c-th
    dt: float  # s, of the step just made
    rear: Tensor  # [B, A] m from the lane's origin to the rear of the last vehicle with its body there, inf = none
    speed: Tensor  # [B, A] m/s of that vehicle, 0 = none
    coming_distance: Tensor | None = None  # [B, A] m from who comes to the lane next to its origin, inf = nobody
    coming_speed: Tensor | None = None  # [B, A] m/s of that vehicle, 0 = nobody


def last_vehicles(state: TrafficState, t: LaneTables, length: PerDriver) -> tuple[Tensor, Tensor]:
    """``rear`` and ``speed`` of :class:`Entrance`, with gradients. ``length``: float or [B, N] per vehicle, m."""
    seen = last_bodies(state, t, length, len(t.length))
    there, slot = seen.slot >= 0, seen.slot.clamp(min=0)
    rear = (state.position - length).gather(1, slot)
    lane = torch.arange(len(t.length), device=slot.device)
    rear = rear + torch.where(state.lane.gather(1, slot) == lane, 0.0, t.length)  # else the front has left the lane
    return torch.where(there, rear, math.inf), torch.where(there, state.speed.gather(1, slot), 0.0)


class Heads(NamedTuple):
    """The vehicle at the head of every inflow's queue. Fields [B, Q]."""

    waits: Tensor  # bool, there is one
    order: Tensor  # int64, inflows from the longest wait to the shortest
    offset: Tensor  # s since it came, if it came in this step; else 0
    route: Tensor  # int64
    driver: Tensor  # int64
    slot_row: Tensor  # int64, row of the controlled slots that is kept for it; -1 = an ordinary slot


class Entry(NamedTuple):
    """Where and how a head would enter. Fields [B, Q]."""

    lane: Tensor  # int64
    position: Tensor  # m
    speed: Tensor  # m/s
    safe: Tensor  # bool


class Doors(NamedTuple):
    """Where the inflows lead: ``Q`` inflows, ``K`` lanes."""

    edge: Tensor  # [Q] int64
    lanes: Tensor  # [Q, K] int64, padded by the last one
    allowed: Tensor  # [Q, K] bool, the lane may be entered
    speed: Tensor  # [Q] m/s that is not exceeded, inf = none
    hops: int  # lanes in a row to look over


def find_entries(state: TrafficState, heads: Heads, doors: Doors, entrance: Entrance) -> Entry:
    """Where and how the heads of the queues would enter, and whether that is safe."""
    roads = entrance.network.tables(state.position.dtype, state.position.device)
    lanes, allowed = doors.lanes, doors.allowed
    own = entrance.drivers.look_up(heads.driver)
    worlds, inflows = heads.route.shape
    row = torch.where(heads.route >= 0, roads.plan.route_start[heads.route.clamp(min=0)], doors.edge)
    direct = allowed & (roads.plan.change[row] == 0)
    usable = torch.where(direct.any(-1, keepdim=True), direct, allowed)
    rear, speed = _look_ahead(lanes.expand(worlds, -1, -1), row, heads.route, roads, entrance, doors.hops)
    room = roads.length[lanes]
    length = own.length[..., None] if isinstance(own.length, Tensor) else own.length
    start = torch.where(length < room, length, room)
    free = torch.where(usable, (rear - start).detach(), -math.inf)
    best = free.argmax(-1, keepdim=True)  # the rightmost of equals

    def chosen(x: Tensor) -> Tensor:
        return x.expand(worlds, inflows, -1).gather(2, best)[..., 0]

    lane, start, room, leader_speed = chosen(lanes), chosen(start), chosen(room), chosen(speed)
    gap = chosen(rear) - start
    limit = roads.limit(lane) * own.speed_factor
    desired = torch.where(limit < own.desired_speed, limit, own.desired_speed)
    possible = entry_speed(own, desired, gap, leader_speed, heads.offset)
    entering = torch.where(doors.speed < possible, doors.speed, possible)
    wanted = torch.minimum(torch.minimum(leader_speed, WAITING_SHARE * desired), doors.speed).detach()
    safe = heads.waits & (gap >= own.min_gap) & (entering >= wanted)
    if entrance.coming_distance is not None and entrance.coming_speed is not None:
        behind = entrance.coming_distance.detach().gather(1, lane)
        approaching = entrance.coming_speed.detach().gather(1, lane)
        spare = behind - own.min_gap
        accepted = _stopping_speed(own, spare.clamp(0.0, _FAR), entering.detach(), own.time_headway)
        safe = safe & (spare >= approaching * own.time_headway) & (approaching <= accepted)
    place = start + entering * heads.offset
    return Entry(lane, torch.where(place < room, place, room), entering, safe)


def entry_speed(own: EntryDrivers, desired: Tensor, gap: Tensor, leader_speed: Tensor, offset: Tensor) -> Tensor:
    """The largest speed at which to enter, m/s; exact gradients. Everything [B, Q], ``own`` looked up.

    It is at most the desired speed, the one of IDM's equilibrium at this gap, s (1 - (v / v0)^delta)^(1/2) = s0 + v T,
    and the one from which, after driving on for T, one comes to a stop behind a leader that brakes as comfortably
    (S. Krauss: Microscopic modeling of traffic flow, DLR 1998). The gap is what the entering vehicle leaves after
    driving for ``offset`` s: s = gap - v offset.

    Parameters:
        gap: m to the leader's rear from where the vehicle enters; inf = nobody; read as min_gap where it is smaller.
    """
    follows = torch.isfinite(gap)
    least = torch.where(gap > own.min_gap, gap, own.min_gap)
    room = torch.where(follows, torch.where(least > _SMALLEST, least, _SMALLEST), _FAR)
    reach = own.time_headway + offset
    stopping = _stopping_speed(own, room - own.min_gap, leader_speed, reach)

    def excess(speed: Tensor) -> tuple[Tensor, Tensor]:
        """Of (s0 + v T)^2 / s^2 + (v / v0)^delta over 1, and its slope in v."""
        left = (room - offset * speed).clamp(min=_SMALLEST)
        ratio, share = (own.min_gap + own.time_headway * speed) / left, speed / desired
        slope = 2.0 * ratio * (own.time_headway + offset * ratio) / left
        slope = slope + own.exponent * share ** (own.exponent - 1.0) / desired
        return ratio * ratio + share**own.exponent - 1.0, slope

    with torch.no_grad():  # convex and increasing: from above Newton's steps go down to the root
        speed = torch.minimum(desired, (room - own.min_gap) / reach.clamp(min=_SMALLEST)).clamp(min=0.0)
        for _ in range(_NEWTON_STEPS):
            value, slope = excess(speed)
            speed = (speed - value / slope.clamp(min=1e-9)).clamp(min=0.0)
    value, slope = excess(speed)
    even = speed - value / slope.detach().clamp(min=1e-9)
    speed = torch.where(stopping < even, stopping, even)
    return torch.where(follows, torch.where(speed > 0.0, speed, 0.0), desired)


def _stopping_speed(own: EntryDrivers, spare: Tensor, leader_speed: Tensor, reach: Tensor | PerDriver) -> Tensor:
    """From which one stops ``spare`` m behind a leader that brakes as comfortably, after ``reach`` s more, m/s."""
    braking = own.comfortable_deceleration
    root = (braking * reach) ** 2 + leader_speed * leader_speed + 2.0 * braking * spare
    return torch.where(root > 1e-12, root, 1e-12).sqrt() - braking * reach


def _look_ahead(
    lane: Tensor, row: Tensor, route: Tensor, roads: LaneTables, entrance: Entrance, hops: int
) -> tuple[Tensor, Tensor]:
    """Rear and speed of the last vehicle on each lane [B, Q, K], or of the first met beyond it; inf and 0 = none."""

    def at(table: Tensor, lanes: Tensor) -> Tensor:
        return table.gather(1, lanes.reshape(len(lanes), -1)).reshape(lanes.shape)

    rear, speed = at(entrance.rear, lane), at(entrance.speed, lane)
    row, route = row[..., None].expand_as(lane), route[..., None]
    passed = torch.zeros_like(rear, requires_grad=False)
    seeking = torch.isinf(rear)
    for _ in range(hops):
        after = lane_after(lane, row, roads)
        seeking = seeking & (after >= 0) & (passed < LOOK)
        if lane.device.type == "cpu" and not bool(seeking.any()):
            break
        passed = passed + roads.length[lane]
        lane = torch.where(seeking, after, lane)
        row = torch.where(seeking, row_after(lane, row, route, roads), row)
        found = seeking & torch.isfinite(at(entrance.rear, lane))
        rear = torch.where(found, at(entrance.rear, lane) + passed, rear)
        speed = torch.where(found, at(entrance.speed, lane), speed)
        seeking = seeking & ~found
    return rear, speed


def insert(state: TrafficState, heads: Heads, entry: Entry, entrance: Entrance) -> TrafficState:
    """The heads that may and can enter, in the slots that they get."""
    order, slots = heads.order, entrance.controlled
    n, lanes = state.vehicles, entrance.rear.shape[1]
    # One vehicle a lane: the one that comes first in the order.
    inflow = torch.arange(order.shape[1], device=order.device).expand_as(order)
    turn = torch.empty_like(order).scatter_(1, order, inflow)
    turn = torch.where(entry.safe, turn, order.shape[1])
    first = torch.full((state.worlds, lanes), order.shape[1], device=order.device)
    first = first.scatter_reduce(1, entry.lane, turn, "amin")
    enters = entry.safe & (turn == first.gather(1, entry.lane))

    ordinary = enters & (heads.slot_row < 0)
    open_slots = ~state.active & ~torch.zeros(n, dtype=torch.bool, device=order.device).index_fill(0, slots, True)
    slot = free_places(open_slots).gather(1, rank_among(ordinary, order).clamp(0, n))
    if len(slots):
        slot = torch.where(heads.slot_row >= 0, slots[heads.slot_row.clamp(min=0)], slot)
    enters = enters & (slot < n)
    if enters.device.type == "cpu" and not bool(enters.any()):
        return state
    slot = torch.where(enters, slot, n)
    source = torch.full((state.worlds, n + 1), -1, device=order.device).scatter(1, slot, inflow)[:, :-1]
    new, source = source >= 0, source.clamp(min=0)
    zero = torch.zeros_like(entry.position, requires_grad=False)
    none = torch.full_like(order, -1)

    def put(old: Tensor, value: Tensor) -> Tensor:
        return torch.where(new, value.gather(1, source), old)

    return dataclasses.replace(
        state,
        position=put(state.position, entry.position),
        speed=put(state.speed, entry.speed),
        lane=put(state.lane, entry.lane),
        lateral=put(state.lateral, zero),
        heading=put(state.heading, zero),
        cooldown=put(state.cooldown, zero),
        passed=put(state.passed, zero),
        route=put(state.route, heads.route),
        route_index=put(state.route_index, torch.zeros_like(order)),
        previous=put(state.previous, none),
        right_of_way=put(state.right_of_way, none),
        vehicle_id=put(state.vehicle_id, state.next_id[:, None] + rank_among(enters, order)),
        driver=put(state.driver, heads.driver),
        active=state.active | new,
        inserted=state.inserted + enters,
        next_id=state.next_id + enters.sum(1),
    )


def rank_among(members: Tensor, order: Tensor) -> Tensor:
    """Place of each member [B, Q] among the members, in the order; -1 and up for the others."""
    rank = members.gather(1, order).cumsum(1) - 1
    return torch.empty_like(rank).scatter_(1, order, rank)


def free_places(free: Tensor) -> Tensor:
    """Index of the r-th free place, [B, M + 1] for ``free`` [B, M]; M = there are not so many."""
    count = free.shape[1]
    rank = torch.where(free, free.cumsum(1) - 1, count)
    index = torch.arange(count, device=free.device).expand(free.shape)
    places = torch.full((len(free), count + 1), count, device=free.device).scatter(1, rank, index)
    return places.index_fill(1, torch.tensor([count], device=free.device), count)
