"""Looking along the way: what lies ahead of every vehicle on the lanes that its route takes, beyond its own edge.

On roads that meet and part the lane ahead depends on the driver, so that every vehicle looks along its own way, lane by
lane: for the first vehicle there, the next gate (a junction lane that takes the right of way to enter), the end of its
lane, and lanes with a lower speed limit. Who looks along a lane also tells it who is coming.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.bodies import covers_previous
from trafficgrad.network.road_network import LOOK_AHEAD, RoadNetwork
from trafficgrad.network.tables import LaneTables
from trafficgrad.state import PerDriver, TrafficState

GATES = 3  # how many of them a driver thinks of at a time
_CRAWL = 0.5  # m/s, of who stands


class Beyond(NamedTuple):
    """What is found beyond the own edge, without gradient. Offsets are metres of road from the origin of the lane
    looked along; last dimension: right, own, left lane.
    """

    leader: Tensor  # [B, N, 3] place in the order, n = none
    leader_offset: Tensor  # [B, N, 3] m to the origin of the leader's lane
    coming: Tensor  # [B, A] slot of the vehicle that will come to each lane first, -1 = none
    coming_distance: Tensor  # [B, A] m from its front to the lane's origin
    gate: Tensor  # [B, N, GATES] int64 the next junction lanes that take the right of way, nearest first; -1 = none
    gate_offset: Tensor  # [B, N, GATES] m to where they begin, inf = none
    end_offset: Tensor  # [B, N] m to where the own lane ends without leading on, inf = it does not
    slow: Tensor  # [B, N] int64 lane ahead whose speed limit binds first, -1 = none
    slow_offset: Tensor  # [B, N] m to where it begins


def plan_row(state: TrafficState, t: LaneTables) -> Tensor:
    """Row of the plan that each vehicle follows, [B, N] int64; for drivers without a route that of their edge."""
    plan = t.plan
    edges = len(plan.edge)
    on_route = plan.route_start[state.route.clamp(min=0)] + state.route_index
    own = t.edge[state.lane.clamp(min=0)]
    own = torch.where(own < edges, own, 0)  # on a junction lane it is not asked
    return torch.where(state.route >= 0, on_route, own)


def lane_after(lane: Tensor, row: Tensor, t: LaneTables) -> Tensor:
    """The lane that follows ``lane`` (>= 0) for drivers of plan row ``row``; -1 = none. Shapes broadcast."""
    j = t.junctions
    return torch.where(j.is_junction[lane], j.target[lane], t.plan.next_lane[row, t.number[lane]])


def row_after(entered: Tensor, row: Tensor, route: Tensor, t: LaneTables) -> Tensor:
    """Row of the plan once ``entered`` (>= 0) is the lane; on junction lanes it is still that of the edge left."""
    following = torch.where(route < 0, t.edge[entered], t.plan.following[row])
    return torch.where(t.junctions.is_junction[entered], row, following)


@torch.no_grad()
def look_along(
    state: TrafficState,
    network: RoadNetwork,
    order: Tensor,
    first: Tensor,
    front: Tensor,
    length: PerDriver,
    braking: PerDriver,
) -> Beyond:
    """Look along every vehicle's way, at least ``LOOK_AHEAD`` m.

    Parameters:
        order: [B, N] slots as sorted along the edges. first: [B, A] place in it of the first vehicle of every lane,
            n = none. front: [B, N] bool, nobody is ahead on the own lane. length: of the bodies, m, float or [B, N].
            braking: comfortable, m/s2, float or [B, N].
    """
    t = network.tables(state.position.dtype, state.position.device)
    j = t.junctions
    worlds, n = state.position.shape
    position, present = state.position.detach(), state.active & (state.lane >= 0)
    lane = state.lane.clamp(min=0)
    sides = (1,) if network.max_lanes == 1 else (0, 1, 2)
    own = sides.index(1)
    at = torch.stack([t.right[lane], lane, t.left[lane]], -1)[..., sides]
    alive = present[..., None] & (at >= 0)
    at = at.clamp(min=0)
    row = plan_row(state, t)[..., None].expand_as(at)
    route = state.route[..., None]
    offset = t.length[at]
    slot = torch.arange(n, device=lane.device).expand(worlds, n)

    rank = torch.empty_like(order).scatter_(1, order, slot)
    departing = _departing(state, length, rank, len(network.lanes))
    leader = torch.full_like(at, n)
    leader_offset = torch.zeros_like(offset)
    gate = torch.full((worlds, n, GATES), -1, device=lane.device)
    gate_offset = position.new_full((worlds, n, GATES), math.inf)
    gates = torch.arange(GATES, device=lane.device)
    seen_gates = torch.zeros_like(lane)
    end_offset = torch.full_like(position, math.inf)
    slow = torch.full_like(lane, -1)
    slow_offset = torch.full_like(position, math.inf)
    lowest = torch.full_like(position, math.inf)  # m2/s2, squared speed at which it is still comfortable to slow down
    # What was not yet met: by each of the sides a leader, by those in front a vehicle that they come up behind.
    seeking = alive.clone()
    announcing = front & present
    coming_lane, coming_distance = [], []
    for _ in range(network.hops):
        after = lane_after(at, row, t)
        ends = alive & (after < 0)
        wall = ends[..., own] & ~(t.plan.ends[row[..., own]] & ~j.is_junction[at[..., own]])
        end_offset = torch.where(wall, offset[..., own], end_offset)
        alive = alive & (after >= 0) & (offset - position[..., None] < LOOK_AHEAD)
        after = after.clamp(min=0)
        seeking = seeking & alive
        # On the next lane, or with the front on any other one and the rear still on this one: the nearer counts.
        found = first.gather(1, after.reshape(worlds, -1)).reshape(after.shape)
        leaving = departing.gather(1, at.reshape(worlds, -1)).reshape(at.shape)
        found = torch.where(_place_of(leaving, order, position) < _place_of(found, order, position), leaving, found)
        who = order.gather(1, found.reshape(worlds, -1).clamp(max=n - 1)).reshape(after.shape)
        meets = seeking & (found < n)
        itself = meets & (who == slot[..., None])
        leader = torch.where(meets & ~itself, found, leader)
        leader_offset = torch.where(meets, offset, leader_offset)
        seeking = seeking & ~meets
        way, start = after[..., own], offset[..., own]
        going = alive[..., own]
        announcing = announcing & going
        coming_lane.append(torch.where(announcing, way, len(network.lanes)))
        coming_distance.append(torch.where(announcing, start - position, math.inf))
        announcing = announcing & ~meets[..., own]
        new = going & j.gated[way]
        here = new[..., None] & (seen_gates[..., None] == gates)
        gate = torch.where(here, way[..., None], gate)
        gate_offset = torch.where(here, start[..., None], gate_offset)
        seen_gates = seen_gates + new.long()
        if network.has_speed_limits:
            square = t.speed_limit[way] ** 2 + 2.0 * braking * (start - position)
            slower = going & (square < lowest)
            slow, slow_offset = torch.where(slower, way, slow), torch.where(slower, start, slow_offset)
            lowest = torch.where(slower, square, lowest)
        row = torch.where(alive, row_after(after, row, route, t), row)
        at, offset = after, torch.where(alive, offset + t.length[after], offset)
        if at.device.type == "cpu" and not bool(alive.any()):  # elsewhere looking would wait for the device
            break
    coming, distance = _next_to_come(coming_lane, coming_distance, state.speed.detach(), len(network.lanes))
    shape = (worlds, n, 3)
    all_leaders = torch.full(shape, n, device=lane.device)
    all_offsets = position.new_zeros(shape)
    for i, side in enumerate(sides):
        all_leaders[..., side], all_offsets[..., side] = leader[..., i], leader_offset[..., i]
    return Beyond(all_leaders, all_offsets, coming, distance, gate, gate_offset, end_offset, slow, slow_offset)


def _departing(state: TrafficState, length: PerDriver, rank: Tensor, lanes: int) -> Tensor:
    """For every lane the last vehicle whose front has left it and whose rear has not, as a place; n = none. [B, A]."""
    worlds, n = rank.shape
    position = state.position.detach()
    leaves = state.active & covers_previous(state, length)
    lane = torch.where(leaves, state.previous, lanes)
    nearest = position.new_full((worlds, lanes + 1), math.inf).scatter_reduce(1, lane, position, "amin")
    place = torch.where(leaves & (position == nearest.gather(1, lane)), rank, n)
    return torch.full((worlds, lanes + 1), n, device=lane.device).scatter_reduce(1, lane, place, "amin")[:, :-1]


def _place_of(place: Tensor, order: Tensor, position: Tensor) -> Tensor:
    """Position of the vehicle at a place in the order, +inf where there is none. ``place`` [B, ...]."""
    n = order.shape[1]
    slot = order.gather(1, place.reshape(len(order), -1).clamp(max=n - 1))
    return torch.where(place < n, position.gather(1, slot).reshape(place.shape), math.inf)


def _next_to_come(lanes: list[Tensor], distances: list[Tensor], speed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For every lane the vehicle that would be there first, its slot and distance; of equals the higher slot.

    First in time: who stands at a junction nearby must not hide who comes fast from farther away.
    """
    worlds, n = speed.shape
    lane, distance = torch.cat(lanes, 1), torch.cat(distances, 1)
    time = distance / (speed + _CRAWL).repeat(1, len(lanes))
    soonest = time.new_full((worlds, count + 1), math.inf).scatter_reduce(1, lane, time, "amin")
    slot = torch.arange(n, device=lane.device).repeat(len(lanes)).expand(lane.shape)
    slot = torch.where((time == soonest.gather(1, lane)) & (lane < count), slot, -1)
    who = torch.full((worlds, count + 1), -1, device=lane.device).scatter_reduce(1, lane, slot, "amax")
    found = torch.where(slot == who.gather(1, lane), distance, math.inf)
    near = time.new_full((worlds, count + 1), math.inf).scatter_reduce(1, lane, found, "amin")
    return who[:, :-1], near[:, :-1]
