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
_WORTHWHILE = 0.75  # fewer than this share of the looks along side lanes go on: the others are left out


class Beyond(NamedTuple):
    """What is found beyond the own edge, without gradient. Offsets are metres of road from the origin of the lane
    looked along; last dimension: right, own, left lane.
    """

    leader: Tensor  # [B, N, 3] place in the order, n = none
    leader_offset: Tensor  # [B, N, 3] m to the origin of the leader's lane
    coming: Tensor  # [B, A] slot of the vehicle that will come to each lane first, -1 = none
    coming_distance: Tensor  # [B, A] m from its front to the lane's origin
    gate: Tensor  # [B, N, GATES] int64 the next junction lanes that take the right of way, nearest first; -1 = none.
    # Who waits inside a junction asks for its own lane first.
    gate_offset: Tensor  # [B, N, GATES] m to where they begin, inf = none
    end_offset: Tensor  # [B, N] m to where the own lane ends without leading on, inf = it does not
    slow: Tensor  # [B, N] int64 lane ahead whose speed limit binds first, -1 = none
    slow_offset: Tensor  # [B, N] m to where it begins


class _Looks(NamedTuple):
    """How far looking along the ways has come; ``C`` looks, the first N along the own lanes."""

    column: Tensor  # [C] int64, which of all looks
    at: Tensor  # [B, C] int64 lane
    row: Tensor  # [B, C] int64 of the plan
    route: Tensor  # [B, C] int64
    offset: Tensor  # [B, C] m to that lane's end
    alive: Tensor  # [B, C] bool, it leads on
    seeking: Tensor  # [B, C] bool, nobody was met
    place: Tensor  # [B, C] m, where the vehicle is
    leader: Tensor  # [B, C] int64, as in Beyond
    leader_offset: Tensor  # [B, C] m


def plan_row(state: TrafficState, t: LaneTables) -> Tensor:
    """Row of the plan that each vehicle follows, [B, N] int64; for drivers without a route that of their edge."""
    plan = t.plan
    edges = len(plan.edge)
    on_route = plan.route_start[state.route.clamp(min=0)] + state.route_index
    own = t.edge[state.lane.clamp(min=0)]
    own = torch.where(own < edges, own, 0)  # on a junction lane it is not asked
    return torch.where(state.route >= 0, on_route, own)


def waits_inside(state: TrafficState, t: LaneTables) -> Tensor:
    """Who has entered a junction and has no right of way yet to go on there, [B, N] bool."""
    place = t.junctions.waits_at[state.lane.clamp(min=0)]
    inside = state.active & (state.lane >= 0) & (place > 0)
    return inside & (state.right_of_way < 0) & (state.position.detach() <= place)


def lane_after(lane: Tensor, row: Tensor, t: LaneTables) -> Tensor:
    """The lane that follows ``lane`` (>= 0) for drivers of plan row ``row``; -1 = none. Shapes broadcast."""
    j, next_lane = t.junctions, t.plan.next_lane
    onward = _pick(next_lane.reshape(-1), row * next_lane.shape[1] + _pick(t.number, lane))
    return torch.where(_pick(j.is_junction, lane), _pick(j.target, lane), onward)


def row_after(entered: Tensor, row: Tensor, route: Tensor, t: LaneTables) -> Tensor:
    """Row of the plan once ``entered`` (>= 0) is the lane; on junction lanes it is still that of the edge left."""
    following = torch.where(route < 0, _pick(t.edge, entered), _pick(t.plan.following, row))
    return torch.where(_pick(t.junctions.is_junction, entered), row, following)


def _pick(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` of a table [A], by the faster of PyTorch's two ways."""
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


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
    on_cpu = lane.device.type == "cpu"  # elsewhere looking would wait for the device
    # One look a column: first along all own lanes, then along right and left ones where they are.
    sides = 1 if network.max_lanes == 1 else 3
    begin = lane if sides == 1 else torch.cat([lane, t.right[lane], t.left[lane]], 1)
    exists, begin = present.repeat(1, sides) & (begin >= 0), begin.clamp(min=0)
    slot = torch.arange(n, device=lane.device)
    rank = torch.empty_like(order).scatter_(1, order, slot.expand(worlds, n))
    column = torch.arange(n * sides, device=lane.device)
    if on_cpu and sides > 1:
        column = torch.cat([slot, exists[:, n:].any(0).nonzero()[:, 0] + n])
    whose, at, alive = column % n, begin.index_select(1, column), exists.index_select(1, column)
    row, route, place = (x.index_select(1, whose) for x in (plan_row(state, t), state.route, position))
    offset = t.length[at]
    looks = _Looks(
        column, at, row, route, offset, alive, alive, place, torch.full_like(at, n), torch.zeros_like(offset)
    )
    leader, leader_offset = torch.full_like(begin, n), position.new_zeros(begin.shape)

    departing = _departing(state, length, rank, len(network.lanes))
    gate = torch.full((worlds, n, GATES), -1, device=lane.device)
    gate_offset = position.new_full((worlds, n, GATES), math.inf)
    gates = torch.arange(GATES, device=lane.device)
    waits = waits_inside(state, t)  # in front of the rest of the own lane
    gate[..., 0] = torch.where(waits, lane, -1)
    gate_offset[..., 0] = torch.where(waits, 0.0, math.inf)
    seen_gates = waits.long()
    end_offset = torch.full_like(position, math.inf)
    slow = torch.full_like(lane, -1)
    slow_offset = torch.full_like(position, math.inf)
    lowest = torch.full_like(position, math.inf)  # m2/s2, squared speed at which it is still comfortable to slow down
    # What was not yet met: by each look a leader, by those in front a vehicle that they come up behind.
    announcing = front & present
    coming_lane, coming_distance = [], []
    for _ in range(network.hops):
        if on_cpu:
            looks = _without_idle(looks, n, leader, leader_offset)
        column, at, row, route, offset, alive, seeking, place, found_leader, found_offset = looks
        after = lane_after(at, row, t)
        ends = alive[:, :n] & (after[:, :n] < 0)
        wall = ends & ~(t.plan.ends[row[:, :n]] & ~j.is_junction[at[:, :n]])
        end_offset = torch.where(wall, offset[:, :n], end_offset)
        alive = alive & (offset - place < LOOK_AHEAD)
        seeking = seeking & alive
        alive = alive & (after >= 0)
        after = after.clamp(min=0)
        # On the next lane, or with the front on any other one and the rear still on this one: the nearer counts. The
        # latter also where the own way ends here, as on a lane beside from which the route does not go on.
        found, leaving = torch.where(alive, first.gather(1, after), n), departing.gather(1, at)
        found = torch.where(_place_of(leaving, order, position) < _place_of(found, order, position), leaving, found)
        who = order.gather(1, found.clamp(max=n - 1))
        meets = seeking & (found < n)
        itself = meets & (who == column % n)
        found_leader = torch.where(meets & ~itself, found, found_leader)
        found_offset = torch.where(meets, offset, found_offset)
        seeking = seeking & alive & ~meets
        way, start = after[:, :n], offset[:, :n]
        going = alive[:, :n]
        announcing = announcing & going
        coming_lane.append(torch.where(announcing, way, len(network.lanes)))
        coming_distance.append(torch.where(announcing, start - position, math.inf))
        announcing = announcing & ~meets[:, :n]
        new = going & j.gated[way]
        here = new[..., None] & (seen_gates[..., None] == gates)
        gate = torch.where(here, way[..., None], gate)
        gate_offset = torch.where(here, start[..., None], gate_offset)
        seen_gates = seen_gates + new.long()
        if network.has_speed_limits:
            square = t.limit(way) ** 2 + 2.0 * braking * (start - position)
            slower = going & (square < lowest)
            slow, slow_offset = torch.where(slower, way, slow), torch.where(slower, start, slow_offset)
            lowest = torch.where(slower, square, lowest)
        row = torch.where(alive, row_after(after, row, route, t), row)
        offset = torch.where(alive, offset + t.length[after], offset)
        looks = _Looks(column, after, row, route, offset, alive, seeking, place, found_leader, found_offset)
        if on_cpu and not bool(going.any() | seeking.any()):
            break
    _write_down(looks, leader, leader_offset)
    coming, distance = _next_to_come(coming_lane, coming_distance, state.speed.detach(), len(network.lanes))
    order_of_sides = [1, 0, 2] if sides == 3 else [0]  # right, own, left
    by_side = (x.reshape(worlds, sides, n).movedim(1, -1)[..., order_of_sides] for x in (leader, leader_offset))
    all_leaders, all_offsets = (
        x if sides == 3 else torch.nn.functional.pad(x, (1, 1), value=fill)
        for x, fill in zip(by_side, (n, 0.0), strict=True)
    )
    return Beyond(all_leaders, all_offsets, coming, distance, gate, gate_offset, end_offset, slow, slow_offset)


def _without_idle(looks: _Looks, n: int, leader: Tensor, leader_offset: Tensor) -> _Looks:
    """Without the looks along side lanes that seek nobody any more, if they are many; what they found is kept."""
    seeking = looks.seeking[:, n:].any(0)
    if int(seeking.sum()) >= _WORTHWHILE * len(seeking):
        return looks
    _write_down(looks, leader, leader_offset)
    kept = torch.cat([torch.arange(n, device=seeking.device), seeking.nonzero()[:, 0] + n])
    return _Looks(looks.column[kept], *(x.index_select(1, kept) for x in looks[1:]))


def _write_down(looks: _Looks, leader: Tensor, leader_offset: Tensor) -> None:
    """Put what was found where it belongs among all looks."""
    leader.index_copy_(1, looks.column, looks.leader)
    leader_offset.index_copy_(1, looks.column, looks.leader_offset)


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
