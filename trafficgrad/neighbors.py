"""Leaders and followers in the own, left and right lane, across edge ends and around closed roads, by sorting.

One sort by (edge, position, slot) puts the vehicles of an edge in order. In that order the last vehicle of lane k at or
before a place is a running maximum over k's vehicles: O(N log N + N K) with K the largest number of lanes on an edge.
Where roads only go on, vehicles with no neighbour on their own edge look it up in a table of the first (last) vehicle
found from each lane's end (start) onwards, filled by pointer doubling along the road: it sees any distance. Where roads
meet and part, every vehicle looks along its own way instead (:mod:`trafficgrad.paths`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.paths import Beyond, look_along
from trafficgrad.state import Ahead, Neighbors, PerDriver, TrafficState


class NeighborIndex(NamedTuple):
    """Who surrounds whom, without gradient: vehicle slots (-1 = none) and metres of road between the lanes' origins.

    The distance from i to its leader is position[leader] - position[i] + leader_offset; to its follower
    position[i] - position[follower] + follower_offset. Last dimension: right, own, left lane.
    """

    leader: Tensor  # [B, N, 3] int64
    follower: Tensor  # [B, N, 3] int64
    leader_offset: Tensor  # [B, N, 3] m
    follower_offset: Tensor  # [B, N, 3] m
    beyond: Beyond | None  # None where roads only go on


@torch.no_grad()
def find_neighbors(
    state: TrafficState, network: RoadNetwork, length: PerDriver, braking: PerDriver = 1.5
) -> NeighborIndex:
    """Search leaders and followers. Ties in position are ordered by slot: the higher slot is ahead.

    ``length`` of the bodies in m and ``braking``, the comfortable deceleration in m/s2, are floats or [B, N] per
    vehicle: who still stands on a lane that he leaves, and from where on a lower speed limit ahead matters.
    """
    position, lane = state.position.detach(), state.lane
    t = network.tables(position.dtype, position.device)
    worlds, n = position.shape
    k = network.max_lanes
    present = state.active & (lane >= 0)
    lane0 = lane.clamp(min=0)

    order = torch.sort(position, dim=1, stable=True)[1]
    if len(network.edges) > 1:
        by_edge = torch.sort(t.edge[lane0].gather(1, order), dim=1, stable=True)[1]
        order = order.gather(1, by_edge)
    place = torch.arange(n, device=position.device)
    rank = torch.empty_like(order).scatter_(1, order, place.expand(worlds, n))
    # Absent vehicles get a lane index that no query asks for.
    local = torch.where(present, t.number[lane0], torch.full_like(lane, k))
    sorted_local = local.gather(1, order)[:, None, :] == torch.arange(k, device=position.device)[:, None]
    # Arithmetic instead of `where`: with a mask like this it is an order of magnitude faster.
    before = ((place + 1) * sorted_local - 1).cummax(2)[0]
    after = ((place - n) * sorted_local + n).flip(2).cummin(2)[0].flip(2)

    sorted_lane = torch.where(present, lane0, torch.full_like(lane, len(network.lanes))).gather(1, order)
    places = place.expand(worlds, n)
    table = (worlds, len(network.lanes) + 1)
    first = torch.full(table, n, device=position.device).scatter_reduce_(1, sorted_lane, places, "amin")[:, :-1]
    last = torch.full(table, -1, device=position.device).scatter_reduce_(1, sorted_lane, places, "amax")[:, :-1]
    beyond = None
    if network.is_unbranched:
        ahead, ahead_offset = _look_along(first, n, t.ahead, network.is_closed, forward=True)
        behind, behind_offset = _look_along(last, -1, t.behind, network.is_closed, forward=False)
    else:
        next_place = after.reshape(worlds, -1).gather(1, t.number[lane0] * n + (rank + 1).clamp(max=n - 1))
        alone = ~_on_same_edge(next_place, rank, order, t.edge[lane0], n)
        beyond = look_along(state, network, order, first, alone, length, braking)

    sides = 1 if k == 1 else 3
    shape = (worlds, n, 3)
    leader = torch.full(shape, -1, device=position.device)
    follower = torch.full(shape, -1, device=position.device)
    leader_offset = position.new_zeros(shape)
    follower_offset = position.new_zeros(shape)
    sorted_edge = t.edge[lane0].gather(1, order) if len(network.edges) > 1 else None
    for side in (1,) if sides == 1 else (0, 1, 2):
        if side == 1:
            target, exists = lane0, present
        else:
            target = (t.right if side == 0 else t.left)[lane0]
            exists = present & (target >= 0)
            target = target.clamp(min=0)
        row = t.number[target] * n
        # Strictly before and after the own place: step back by one, except at the ends of the row.
        found_before = before.reshape(worlds, -1).gather(1, row + (rank - 1).clamp(min=0))
        found_after = after.reshape(worlds, -1).gather(1, row + (rank + 1).clamp(max=n - 1))
        same_before = (found_before >= 0) & (found_before < rank)
        same_after = (found_after < n) & (found_after > rank)
        if sorted_edge is not None:
            own_edge = t.edge[lane0]
            same_before &= sorted_edge.gather(1, found_before.clamp(min=0)) == own_edge
            same_after &= sorted_edge.gather(1, found_after.clamp(max=n - 1)) == own_edge
        if beyond is None:
            far_behind, back = behind.gather(1, target), behind_offset.gather(1, target)
            far_ahead, onward = ahead.gather(1, target), t.length[target] + ahead_offset.gather(1, target)
        else:
            far_ahead, onward = beyond.leader[..., side], beyond.leader_offset[..., side]
            comes = beyond.coming.gather(1, target)
            back = beyond.coming_distance.gather(1, target) + position.gather(1, comes.clamp(min=0))
            far_behind = torch.where(comes >= 0, rank.gather(1, comes.clamp(min=0)), -1)
        lead = torch.where(same_after, found_after, far_ahead)
        follow = torch.where(same_before, found_before, far_behind)
        own_slot = places
        lead_slot = order.gather(1, lead.clamp(max=n - 1))
        follow_slot = order.gather(1, follow.clamp(min=0))
        has_lead = exists & (lead < n) & (lead_slot != own_slot)
        has_follow = exists & (follow >= 0) & (follow_slot != own_slot)
        leader[..., side] = torch.where(has_lead, lead_slot, torch.full_like(lane, -1))
        follower[..., side] = torch.where(has_follow, follow_slot, torch.full_like(lane, -1))
        zero = torch.zeros_like(position)
        leader_offset[..., side] = torch.where(same_after, zero, onward)
        follower_offset[..., side] = torch.where(same_before, zero, back)
    return NeighborIndex(leader, follower, leader_offset, follower_offset, beyond)


def _on_same_edge(place: Tensor, rank: Tensor, order: Tensor, edge: Tensor, n: int) -> Tensor:
    """Whether the vehicle at ``place`` of the order comes after the own ``rank``, on the own ``edge``."""
    there = order.gather(1, place.clamp(max=n - 1))
    return (place < n) & (place > rank) & (edge.gather(1, there) == edge)


def _look_along(
    found: Tensor, none: int, levels: tuple[tuple[Tensor, Tensor], ...], closed: bool, forward: bool
) -> tuple[Tensor, Tensor]:
    """First vehicle met beyond each lane's end (or before its start), as a place in the order, and the road between.

    ``found`` [B, A] is the first (last) vehicle on each lane itself. The offset counts the lanes passed between the
    lane's end and the start of the lane where the vehicle is; looking backwards that lane's own length is included.
    """
    worlds = found.shape[0]

    def at(table: Tensor, to: Tensor, missing: float) -> Tensor:
        values = table.gather(1, to.clamp(min=0).expand(worlds, -1))
        return values if closed else values.masked_fill(to < 0, missing)

    to, passed = levels[0]
    result = at(found, to, none)
    offset = torch.zeros_like(passed) if forward else passed
    offset = offset.expand(worlds, -1)
    for to, passed in levels[:-1]:
        # Level j covers 2^j lanes; those with nothing there continue from the lane 2^j places on.
        missing = result == none
        further, further_offset = at(result, to, none), at(offset, to, 0.0)
        result = torch.where(missing, further, result)
        offset = torch.where(missing, passed + further_offset, offset)
    return result, offset


def measure(state: TrafficState, index: NeighborIndex, length: PerDriver) -> Neighbors:
    """Gaps and closing speeds, with gradients through positions and speeds (and lengths).

    ``length`` is a float or [B, N] per vehicle, m.
    """
    worlds, n = state.position.shape
    wide = (worlds, n * 3)

    def pick(x: Tensor, slots: Tensor) -> Tensor:
        return x.gather(1, slots.clamp(min=0).reshape(wide)).reshape(worlds, n, 3)

    position, speed = state.position, state.speed
    x, v = position[..., None], speed[..., None]
    leader_length = pick(length, index.leader) if isinstance(length, Tensor) else length
    own_length = length[..., None] if isinstance(length, Tensor) else length
    has_leader, has_follower = index.leader >= 0, index.follower >= 0
    infinite, zero = position.new_full((), math.inf), position.new_zeros(())
    gap = pick(position, index.leader) - x + index.leader_offset - leader_length
    back = x - pick(position, index.follower) + index.follower_offset - own_length
    beyond, ahead = index.beyond, None
    if beyond is not None:
        ahead = Ahead(
            beyond.gate,
            beyond.gate_offset - x,
            beyond.end_offset - position,
            beyond.slow,
            beyond.slow_offset - position,
            beyond.coming,
            beyond.coming_distance,
        )
    return Neighbors(
        leader=index.leader,
        follower=index.follower,
        gap=torch.where(has_leader, gap, infinite),
        follower_gap=torch.where(has_follower, back, infinite),
        closing_speed=torch.where(has_leader, v - pick(speed, index.leader), zero),
        follower_closing_speed=torch.where(has_follower, pick(speed, index.follower) - v, zero),
        ahead=ahead,
    )
