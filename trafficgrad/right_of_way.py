"""Who may enter a junction, and what drivers do who may not.

A junction lane that others cross or that leads into the same lane as others takes a *right of way* to enter. It is
asked for from as far away as it takes to stop, kept until the rear has left the junction lane, and given when

- the signal, if there is one, is green (and, at a stop sign, the vehicle has stopped);
- nobody on the own lane is in front without the right of way;
- no vehicle that has the right of way for a crossing lane has still to clear the place where they cross;
- on the lane that it leads to, where others cross, there is room behind everybody who is on it or goes there;
- nobody with precedence asks at the same time, or comes too soon: those of higher rank go first, among equals who
  would be there first (then the lower slot);
- where lanes merge, there is a gap among those who have the right of way into the same lane.

Without it a driver sees a standing leader at the stop line. With it, where lanes merge, the leader is whoever is next
ahead on the way into the common lane. Rights of way never contradict each other, so that nobody drives through another,
and they are given by a strict order, so that nobody waits for ever for each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trafficgrad.bodies import covers_previous, last_bodies, lowest_rear
from trafficgrad.car_following.base import CarFollowing
from trafficgrad.errors import TrafficGradError
from trafficgrad.lane_change.base import OWN
from trafficgrad.network.conflicts import CROSSING, DIVERGE, MERGE
from trafficgrad.network.tables import JunctionTables, LaneTables
from trafficgrad.paths import lane_after, plan_row
from trafficgrad.signals import GREEN, YIELDING
from trafficgrad.state import Ahead, PerDriver, TrafficState

if TYPE_CHECKING:
    from trafficgrad.lane_stages import View
    from trafficgrad.simulator import Simulator

_AT_LINE = 3.0  # m beyond the standstill gap: so near to the line a vehicle stands at it
_STANDING = 0.3  # m/s
_GREEN_RANK = 1000  # a full green goes before everything else at the same junction
_SMALLEST_GAP = 0.5  # m, between vehicles in a merge
_FASTEST = 50.0  # m/s where there is no speed limit
_FAR = 1.0e4  # m, stands for infinite distances in formulas


@dataclass(frozen=True)
class RightOfWay:
    """How drivers behave at junctions; the same for all."""

    time_gap: float = 1.0  # s between clearing a crossing and the arrival of somebody with precedence
    safe_deceleration: float = 3.0  # m/s2 that merging may ask of oneself and of who comes behind
    stop_deceleration: float = 4.0  # m/s2, who would brake harder than this for a yellow or red drives on
    reaction_time: float = 1.0  # s, the right of way is asked for that much before braking must begin

    def __post_init__(self) -> None:
        for name in ("time_gap", "safe_deceleration", "stop_deceleration", "reaction_time"):
            if getattr(self, name) < 0:
                raise TrafficGradError(f"RightOfWay.{name} must be >= 0, got {getattr(self, name)}")


class Passage(NamedTuple):
    """Outcome of a step's decisions at junctions, without gradient. ``K`` obstacles are looked at beside the leader."""

    right_of_way: Tensor  # [B, N] int64 last junction lane that may be entered, -1 = none
    closed: Tensor  # [B, N] bool, there is a gate to stop at
    gate: Tensor  # [B, N] int64, which of the gates ahead
    leader: Tensor  # [B, N, K] int64 slot of a vehicle to follow, -1 = none
    leader_gap: Tensor  # [B, N, K] m without own and leader's positions' gradient


@torch.no_grad()
def decide_passage(sim: Simulator, state: TrafficState, view: View) -> Passage:
    """Who has the right of way in this step, and whom those who have it must follow beyond their lane's leader."""
    ahead = view.neighbors.ahead
    assert ahead is not None
    t, rules, model = view.tables, sim.right_of_way, view.model
    j, lanes = t.junctions, len(sim.network.lanes)
    worlds, n = state.position.shape
    position, speed = state.position.detach(), state.speed.detach()
    size = _detached(view.length)
    braking, gap0, push = (
        _detached(x) for x in (model.comfortable_deceleration, model.min_gap, model.max_acceleration)
    )
    present = state.active & (state.lane >= 0)
    lane = state.lane.clamp(min=0)
    inside = present & j.is_junction[lane]
    gates = torch.where(present[..., None], ahead.gate, -1)
    there = gates >= 0
    ways, distances = gates.clamp(min=0), torch.where(there, ahead.gate_distance.detach(), math.inf)

    # What the signals show, and who keeps the right of way that he has.
    letters = torch.full_like(gates, YIELDING)
    if sim.signals is not None:
        letters = sim.signals.shown(state.phase, torch.where(there, j.signal[ways], -1), j.signal_index[ways])
    last_held = there & (gates == state.right_of_way[..., None])
    held = last_held.flip(2).cummax(2)[0].flip(2)  # and all those before it
    leader = view.neighbors.leader[..., OWN]
    front = view.neighbors.gap[..., OWN].detach() + _pick_any(size, leader.clamp(min=0))
    before_line = (leader >= 0)[..., None] & (front[..., None] < distances)
    behind_waiting = before_line & ~_holds_too(gates, held, leader.clamp(min=0))
    to_stop = model.beside().acceleration(speed[..., None], distances, torch.where(there, speed[..., None], 0.0))
    committed = held & (to_stop < -rules.stop_deceleration)
    kept = (held & (committed | ((letters >= YIELDING) & ~behind_waiting))).long().cummin(2)[0].bool()

    # The gate that is next to ask for.
    number = kept.sum(-1, keepdim=True)
    asks_at_all = number[..., 0] < gates.shape[2]

    def of_next(x: Tensor) -> Tensor:
        return x.gather(2, number.clamp(max=gates.shape[2] - 1))[..., 0]

    gate = torch.where(asks_at_all, of_next(gates), -1)
    approaches, way = gate >= 0, gate.clamp(min=0)
    distance = torch.where(approaches, of_next(distances), math.inf)
    letter, first_behind = of_next(letters), ~of_next(before_line)
    is_open = letter >= YIELDING
    near = distance < speed * speed / (2.0 * braking) + speed * rules.reaction_time + gap0 + 1.0
    stopped = ~j.stop[way] | ((speed < _STANDING) & (distance < gap0 + _AT_LINE))
    target = j.target[way]
    needs = size + gap0
    bound_for = [torch.where(inside, j.target[lane], -1), *torch.where(kept, j.target[ways], -1).unbind(-1)]
    room = _room(state, t, torch.cat(bound_for, 1), needs, lanes).gather(1, target.clamp(min=0))
    short = t.length[target.clamp(min=0)] < needs
    leaves = t.plan.ends[t.edge[target.clamp(min=0)]]
    fits = (room >= needs) | ~j.crosses[way] | short | leaves
    able = approaches & is_open & stopped & fits
    asks = able & near & ~of_next(behind_waiting)
    comes = able & first_behind | asks
    rank = j.rank[way] + torch.where(letter == GREEN, _GREEN_RANK, 0)
    limit = t.speed_limit[way]
    arrival = _travel_time(distance.clamp(0.0, _FAR), speed, push, limit)

    # Per junction lane: who asks first, who comes first and with which rank, whose rear clears it last.
    first_time, first_slot = _first(torch.where(asks, way, lanes), arrival, lanes)
    coming = torch.where(comes, way, lanes)
    coming_time, _ = _first(coming, arrival, lanes)
    no_rank = torch.full((worlds, lanes + 1), -(10**6), device=lane.device)
    coming_rank = no_rank.scatter_reduce(1, coming, rank, "amax")[:, :-1]
    before = state.previous.clamp(min=0)
    leaving = present & covers_previous(state, size) & j.is_junction[before]
    holders = [torch.where(inside, lane, lanes), torch.where(leaving, before, lanes)]
    holders += torch.where(kept, ways, lanes).unbind(-1)
    rears = [position - size, t.length[before] + position - size, *(-d - size for d in distances.unbind(-1))]
    last = lowest_rear(torch.cat(holders, 1), torch.cat(rears, 1), lanes, n)

    # Against every foe of the way asked for: [B, N, F].
    foe, kind = j.foe[way], j.kind[way]
    flat = foe.clamp(min=0).reshape(worlds, -1)

    def of_foes(table: Tensor) -> Tensor:
        return table.gather(1, flat).reshape(foe.shape)

    foe_rank, foe_time, foe_slot = of_foes(coming_rank), of_foes(first_time), of_foes(first_slot)
    own_slot = torch.arange(n, device=lane.device)[:, None]
    mine, own_rank = arrival[..., None], rank[..., None]
    sooner = (foe_time < mine) | ((foe_time == mine) & (foe_slot < own_slot))
    yields = (foe_slot < n) & ((foe_rank > own_rank) | ((foe_rank == own_rank) & sooner))
    crossing = kind == CROSSING
    occupied = crossing & (of_foes(last.rear) < j.foe_exit[way])
    to_clear = distance[..., None].clamp(0.0, _FAR) + j.own_exit[way] + _wide(size)
    clear_at = _travel_time(to_clear, speed[..., None], _wide(push), limit[..., None])
    pace = t.speed_limit[foe.clamp(min=0)].clamp(max=_FASTEST)
    meets = of_foes(coming_time) + j.foe_entry[way] / pace < clear_at + rules.time_gap
    cut_off = crossing & (foe_rank > own_rank) & meets
    barred = ((yields & (crossing | (kind == MERGE))) | occupied | cut_off) & (foe >= 0)
    granted = asks & ~barred.any(-1)

    # Where lanes merge: the place in the common order, of those inside, of those who may enter and of those who ask.
    joins = approaches & j.merges[way] & near
    members = torch.stack(
        [
            torch.where(inside & j.merges[lane], j.target[lane], lanes),
            torch.where(joins, target, lanes),
            *torch.where(kept & j.merges[ways], j.target[ways], lanes).unbind(-1),
        ]
    )
    to_go = torch.stack(
        [
            t.length[lane] - position,
            (distance + t.length[way]).clamp(max=_FAR),
            *(distances + t.length[ways]).clamp(max=_FAR).unbind(-1),
        ]
    )
    no, yes = torch.zeros_like(inside), torch.ones_like(inside)
    first_rank = _goes_first(j)[way] & able
    has_it = torch.stack([yes, no, *[yes] * gates.shape[2]])
    counts = torch.stack([yes, first_rank, *[yes] * gates.shape[2]])
    next_ahead, ahead_gap, next_behind, behind_gap = _around_in_merge(members, to_go, has_it, counts, size, lanes)
    safe = _gap_is_safe(rules, model, speed, ahead_gap[1], next_ahead[1], behind_gap[1], next_behind[1])
    # Who has precedence and only comes must not hide somebody behind who has the right of way already.
    _, _, holder, holder_gap = _around_in_merge(members, to_go, has_it, has_it, size, lanes)
    safe = safe & _gap_is_safe(rules, model, speed, ahead_gap[1], next_ahead[1], holder_gap[1], holder[1])
    granted = granted & (safe | ~joins)

    follows = next_ahead.clone()
    follows[1] = torch.where(granted, follows[1], -1)
    beside, beside_gap = _parting(state, view, lanes, inside)
    return Passage(
        torch.where(granted, gate, torch.where(kept, gates, -1).gather(2, (number - 1).clamp(min=0))[..., 0]),
        approaches & ~granted & (near | ~is_open),
        number.clamp(max=gates.shape[2] - 1)[..., 0],
        torch.cat([follows.movedim(0, -1), beside[..., None]], -1),
        torch.cat([torch.where(follows >= 0, ahead_gap, math.inf).movedim(0, -1), beside_gap[..., None]], -1),
    )


def _holds_too(gates: Tensor, held: Tensor, leader: Tensor) -> Tensor:
    """Whether the leader [B, N] has the right of way to each of the gates, [B, N, G] bool."""
    g = gates.shape[2]
    who = leader[..., None].expand(-1, -1, g)
    theirs = torch.where(held, gates, -2).gather(1, who)
    return (gates[..., :, None] == theirs[..., None, :]).any(-1)


def _gap_is_safe(
    rules: RightOfWay,
    model: CarFollowing,
    speed: Tensor,
    gap: Tensor,
    leader: Tensor,
    rear_gap: Tensor,
    follower: Tensor,
) -> Tensor:
    """Whether a merging vehicle fits between the two next to it in the common order (-1 = nobody). All [B, N]."""
    leads, follows = leader >= 0, follower >= 0
    closing = torch.where(leads, speed - _pick(speed, leader), 0.0)
    own = model.acceleration(speed, torch.where(leads, gap, math.inf), closing)
    theirs_speed = _pick(speed, follower)
    closing = torch.where(follows, theirs_speed - speed, 0.0)
    behind = model.take(follower.clamp(min=0))
    theirs = behind.acceleration(theirs_speed, torch.where(follows, rear_gap, math.inf), closing)
    roomy = (~leads | (gap > _SMALLEST_GAP)) & (~follows | (rear_gap > _SMALLEST_GAP))
    return roomy & (own >= -rules.safe_deceleration) & (~follows | (theirs >= -rules.safe_deceleration))


def _parting(state: TrafficState, view: View, lanes: int, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The last body ahead on a way that parts from the own one and is not clear of it yet: slot (-1 = none) and gap."""
    t, n = view.tables, state.vehicles
    j, size, lane = t.junctions, _detached(view.length), state.lane.clamp(min=0)
    next_way = lane_after(lane, plan_row(state, t), t)
    current = torch.where(inside, lane, next_way.clamp(min=0))
    start = torch.where(inside, -state.position.detach(), t.length[lane] - state.position.detach())
    seen = last_bodies(state, t, view.length, lanes)
    other = j.foe[current]
    flat = other.clamp(min=0).reshape(state.worlds, -1)
    rear, slot = (x.gather(1, flat).reshape(other.shape) for x in (seen.rear, seen.slot))
    body = _pick_any(size, slot.clamp(min=0).reshape(state.worlds, -1))
    body = body.reshape(slot.shape) if isinstance(body, Tensor) and body.dim() else body
    begin = start[..., None]
    own_slot = torch.arange(n, device=lane.device)[:, None]
    in_way = (j.kind[current] == DIVERGE) & (other >= 0) & (slot >= 0) & (slot != own_slot)
    in_way &= (rear < j.foe_exit[current]) & (rear + body > -begin)
    in_way &= (inside | (next_way >= 0))[..., None] & (state.active & (state.lane >= 0))[..., None]
    gap, which = torch.where(in_way, begin + rear, math.inf).min(-1)
    return torch.where(torch.isfinite(gap), slot.gather(2, which[..., None])[..., 0], -1), gap


def passage_acceleration(passage: Passage, model: CarFollowing, state: TrafficState, ahead: Ahead) -> Tensor:
    """What others at junctions allow, m/s2, [B, N]; +inf where they ask for nothing.

    Differentiable in positions and speeds. What the gate asks for comes on top (:func:`stop_at_gate`).
    """
    speed = state.speed
    allowed = torch.full_like(speed, math.inf)
    for k in range(passage.leader.shape[-1]):
        who = passage.leader[..., k]
        there = who.clamp(min=0)
        follows = who >= 0
        # The gap's value is known; its derivative is that of the two positions.
        apart = state.position.gather(1, there) - state.position
        gap = passage.leader_gap[..., k] + (apart - apart.detach())
        behind = model.acceleration(
            speed, torch.where(follows, gap, math.inf), torch.where(follows, speed - speed.gather(1, there), 0.0)
        )
        allowed = torch.where(follows & (behind < allowed), behind, allowed)
    return allowed


def stop_at_gate(passage: Passage, model: CarFollowing, state: TrafficState, ahead: Ahead) -> Tensor:
    """Acceleration that stops a vehicle at the next gate that it may not enter yet, m/s2; +inf without one. [B, N]."""
    gate = ahead.gate.gather(2, passage.gate[..., None])[..., 0]
    distance = ahead.gate_distance.gather(2, passage.gate[..., None])[..., 0]
    there = gate >= 0
    stop = model.acceleration(state.speed, torch.where(there, distance, math.inf), torch.where(there, state.speed, 0.0))
    return torch.where(there, stop, math.inf)


def _detached(x: PerDriver) -> PerDriver:
    return x.detach() if isinstance(x, Tensor) else x


def _wide(x: PerDriver) -> PerDriver:
    return x[..., None] if isinstance(x, Tensor) and x.dim() else x


def _pick(x: Tensor, slot: Tensor) -> Tensor:
    return x.gather(1, slot.clamp(min=0))


def _pick_any(x: PerDriver, slot: Tensor) -> PerDriver:
    return x.gather(1, slot.clamp(min=0)) if isinstance(x, Tensor) and x.dim() else x


def _travel_time(distance: Tensor, speed: Tensor, acceleration: PerDriver, limit: Tensor) -> Tensor:
    """Time to drive ``distance``, speeding up with ``acceleration`` to ``limit``, s."""
    limit = torch.maximum(limit.clamp(max=_FASTEST), speed)
    gaining = (limit - speed) / acceleration
    on_the_way = (speed + limit) / 2.0 * gaining
    early = (torch.sqrt(speed * speed + 2.0 * acceleration * distance) - speed) / acceleration
    return torch.where(distance < on_the_way, early, gaining + (distance - on_the_way) / limit)


def _first(lane: Tensor, time: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """Per lane the earliest time (+inf = nobody) and whose it is (the number of slots = nobody's), [B, A]."""
    worlds, n = lane.shape
    earliest = time.new_full((worlds, lanes + 1), math.inf).scatter_reduce(1, lane, time, "amin")
    slot = torch.arange(n, device=lane.device).expand(worlds, n)
    mine = torch.where((time == earliest.gather(1, lane)) & (lane < lanes), slot, n)
    who = torch.full((worlds, lanes + 1), n, device=lane.device).scatter_reduce(1, lane, mine, "amin")
    return earliest[:, :-1], who[:, :-1]


def _room(state: TrafficState, t: LaneTables, heading: Tensor, needs: PerDriver, lanes: int) -> Tensor:
    """Metres of each lane [B, A] that nobody on it or bound for it will stand on in a jam.

    ``heading`` [B, k N]: lanes that vehicles are bound for, slots repeated, -1 = none.
    """
    present = state.active & (state.lane >= 0)
    used = torch.zeros_like(state.position.detach()) + needs
    where = torch.cat([torch.where(present, state.lane, lanes), torch.where(heading >= 0, heading, lanes)], 1)
    used = used.repeat(1, where.shape[1] // used.shape[1])
    total = used.new_zeros(state.worlds, lanes + 1).scatter_add(1, where, used)
    return t.length - total[:, :-1]


def _goes_first(j: JunctionTables) -> Tensor:
    """[A] bool: junction lanes to which all that merge with them give way."""
    foes = j.foe.clamp(min=0)
    merging = (j.kind == MERGE) & (j.foe >= 0)
    return ((j.rank[foes] < j.rank[:, None]) | ~merging).all(1) & j.merges


def _around_in_merge(
    joined: Tensor, to_go: Tensor, ahead_of: Tensor, behind_of: Tensor, size: PerDriver, lanes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Who is next before and next after each vehicle on the ways into one lane: slots (-1 = none) and gaps.

    Parameters:
        joined: [R, B, N] lane that a vehicle is on the way to, ``lanes`` = none; it may be on the way to several.
        to_go: [R, B, N] m to that lane's beginning. ahead_of, behind_of: [R, B, N] bool, who counts before and after.
        size: of the bodies, m.
    """
    rounds, worlds, n = joined.shape

    def flat(x: Tensor) -> Tensor:
        return x.movedim(0, 1).reshape(worlds, -1)

    lane, distance = flat(joined), flat(to_go)
    order = torch.sort(distance, dim=1, stable=True)[1]
    order = order.gather(1, torch.sort(lane.gather(1, order), dim=1, stable=True)[1])
    count = rounds * n
    place = torch.arange(count, device=lane.device).expand(worlds, count)
    group = lane.gather(1, order)
    member = group < lanes
    before = torch.where(flat(ahead_of).gather(1, order) & member, place, -1).cummax(1)[0]
    before = torch.cat([torch.full_like(before[:, :1], -1), before[:, :-1]], 1)
    after = torch.where(flat(behind_of).gather(1, order) & member, place, count).flip(1).cummin(1)[0].flip(1)
    after = torch.cat([after[:, 1:], torch.full_like(after[:, :1], count)], 1)
    in_group = member & (before >= 0) & (group.gather(1, before.clamp(min=0)) == group)
    ahead = torch.where(in_group, order.gather(1, before.clamp(min=0)), -1)
    in_group = member & (after < count) & (group.gather(1, after.clamp(max=count - 1)) == group)
    behind = torch.where(in_group, order.gather(1, after.clamp(max=count - 1)), -1)
    back = torch.empty_like(order).scatter_(1, order, place)
    ahead, behind = ahead.gather(1, back), behind.gather(1, back)
    ahead_gap = distance - _pick(distance, ahead) - _pick_any(size, ahead % n)
    own_size = size.repeat(1, rounds) if isinstance(size, Tensor) and size.dim() else size
    behind_gap = _pick(distance, behind) - distance - own_size

    def apart(x: Tensor) -> Tensor:
        return x.reshape(worlds, rounds, n).movedim(1, 0)

    slots = (torch.where(x >= 0, x % n, -1) for x in (ahead, behind))
    a, b = (apart(x) for x in slots)
    return a, apart(ahead_gap), b, apart(behind_gap)
