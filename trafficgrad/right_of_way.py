"""Who may enter a junction, and what drivers do who may not.

A junction lane that others cross or that leads into the same lane as others takes a *right of way* to enter. It is
asked for from as far away as it takes to stop, kept until the rear has left the junction lane, and given when

- the signal, if there is one, is green (and, at a stop sign, the vehicle has stopped);
- nobody on the own lane is in front without the right of way;
- no vehicle that has the right of way for a crossing lane has still to clear the place where they cross;
- on the lane that it leads to there is room behind everybody who is on it or goes there: where others cross, and,
  while it is jammed, for those who give way to others on the way into it (else a roundabout fills up and locks);
- nobody with precedence asks at the same time, or comes too soon: those of higher rank go first, among equals who
  would be there first (then the lower slot), at stop signs who has stood longest, told by how far away the one ahead
  of it is by now; there two go together who do not cross each other, if a third hardly waits longer for it;
- where lanes merge, there is a gap among those who have the right of way into the same lane.

Where lanes of equal rank join, nothing crosses and nobody stands, drivers fall in line before: from ``zip_distance`` on
they leave room for who is next ahead on the way to the common lane, whatever its lane, as far as comfortable braking
allows.

Without it a driver sees a standing leader at the stop line. Who yields at a green may come nearer: up to where the ways
begin that are open at the same time, if that lies inside the junction, one vehicle on a lane. There it asks again, and
when its light is no longer green it goes before everybody else, so that the junction is cleared.

With the right of way, where lanes merge, the leader is whoever is next ahead on the way into the common lane. Rights of
way never contradict each other, so that nobody drives through another, and they are given by a strict order, so that
nobody waits for ever for each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trafficgrad.bodies import bodies_ahead, covers_previous, lowest_rear
from trafficgrad.car_following.base import CarFollowing
from trafficgrad.errors import TrafficGradError
from trafficgrad.lane_change.base import OWN
from trafficgrad.merge_order import around_in_merge, columns_where, of_columns
from trafficgrad.network.conflicts import CROSSING, DIVERGE, MERGE
from trafficgrad.network.tables import JunctionTables, LaneTables
from trafficgrad.paths import lane_after, plan_row, waits_inside
from trafficgrad.signals import GREEN, YELLOW, YIELDING
from trafficgrad.state import Ahead, PerDriver, TrafficState

if TYPE_CHECKING:
    from trafficgrad.lane_stages import View
    from trafficgrad.simulator import Simulator

_AT_LINE = 3.0  # m beyond the standstill gap: so near to the line a vehicle stands at it
_STANDING = 0.3  # m/s
_TOGETHER = 2.5  # s that somebody may have to wait longer at a stop sign, so that two go at once who do not cross
_CLEAR_OF_OTHERS = 0.5  # m before their way, where those stand who wait inside a junction
_SLOW = 6.0  # m/s
_ROOM_LATER = 0.4  # m that may be missing beside each other, for each m before the place where lanes have joined,
_OPENS = 0.5  # as long as this share of comfortable braking opens them on the way there
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
    zip_distance: float = 50.0  # m before lanes join in turn, from where drivers leave room for each other

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise TrafficGradError(f"RightOfWay.{field.name} must be >= 0, got {getattr(self, field.name)}")


class Passage(NamedTuple):
    """Outcome of a step's decisions at junctions, without gradient. ``K`` obstacles are looked at beside the leader."""

    right_of_way: Tensor  # [B, N] int64 last junction lane that may be entered, -1 = none
    closed: Tensor  # [B, N] bool, there is a gate to stop at
    gate: Tensor  # [B, N] int64, which of the gates ahead
    enters: Tensor  # [B, N] bool, that gate may be passed, to wait inside the junction
    leader: Tensor  # [B, N, K] int64 slot of a vehicle to follow, -1 = none
    leader_gap: Tensor  # [B, N, K] m without own and leader's positions' gradient
    zip_leader: Tensor  # [B, N] int64 slot of a vehicle to leave room for where lanes join in turn, -1 = none
    zip_gap: Tensor  # [B, N] m, below 0 beside it; without gradient


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
    waits = waits_inside(state, t)
    inside = present & j.is_junction[lane] & ~waits  # and may go on
    gates = torch.where(present[..., None], ahead.gate, -1)
    there = gates >= 0
    ways, distances = gates.clamp(min=0), torch.where(there, ahead.gate_distance.detach(), math.inf)

    # What the signals show, and who keeps the right of way that he has.
    letters = torch.full_like(gates, YIELDING)
    if sim.signals is not None:
        letters = sim.signals.shown(state.phase, torch.where(there, j.signal[ways], -1), j.signal_index[ways])
    # Behind a junction that was waited in, the right of way to it is no longer one.
    last_held = there & (gates == state.right_of_way[..., None]) & (gates != state.previous[..., None])
    held = last_held.flip(2).cummax(2)[0].flip(2)  # and all those before it
    leader = view.neighbors.leader[..., OWN]
    front = view.neighbors.gap[..., OWN].detach() + _pick_any(size, leader.clamp(min=0))
    before_line = (leader >= 0)[..., None] & (front[..., None] < distances)
    blocked = _blocked_lanes(waits, lane, position - size, j, lanes).gather(1, j.origin[ways].clamp(min=0).flatten(1))
    blocked = blocked.reshape(gates.shape) & there & ~waits[..., None]
    behind_waiting = blocked | before_line & ~_holds_too(gates, held, leader.clamp(min=0))
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
    letter, first_behind = of_next(letters), ~of_next(before_line | blocked)
    is_open = (letter >= YIELDING) | waits
    near = distance < speed * speed / (2.0 * braking) + speed * rules.reaction_time + gap0 + 1.0
    stopped = ~j.stop[way] | ((speed < _STANDING) & (distance < gap0 + _AT_LINE))
    target = j.target[way]
    needs = size + gap0
    bound_for = [torch.where(inside | waits, j.target[lane], -1), *torch.where(kept, j.target[ways], -1).unbind(-1)]
    room = _room(state, t, torch.cat(bound_for, 1), needs, lanes).gather(1, target.clamp(min=0))
    room = room + torch.where(waits, needs, 0.0)  # its own is there
    short = t.length[target.clamp(min=0)] < needs
    leaves = t.plan.ends[t.edge[target.clamp(min=0)]]
    jammed = _slow_lanes(present, state.lane, speed, lanes).gather(1, target.clamp(min=0))
    fits = (room >= needs) | ~(j.crosses[way] | (j.gives_way[way] & jammed)) | short | leaves
    able = approaches & is_open & stopped & fits
    # One at a time waits inside, and nobody passes it.
    somebody = torch.zeros(worlds, lanes + 1, dtype=torch.bool, device=lane.device)
    somebody = somebody.scatter(1, torch.where(waits, lane, lanes), waits)
    is_free = waits | ~somebody.gather(1, way)
    asks = able & near & ~of_next(behind_waiting) & is_free
    comes = able & first_behind | asks
    rank = j.rank[way] + torch.where(letter == GREEN, _GREEN_RANK, 0)
    rank = rank + torch.where(waits & (letter < YIELDING), 2 * _GREEN_RANK, 0)  # the junction is cleared first
    limit = t.limit(way)
    arrival = _travel_time(distance.clamp(0.0, _FAR), speed, push, limit)
    # Lanes that join in turn: nearest first, as in the order that they fall in line by.
    arrival = torch.where(j.zips[way], (distance + t.length[way]).clamp(max=_FAR), arrival)
    # At stop signs who has stood longest: the one ahead of it is the farthest away.
    stood = view.neighbors.gap[..., OWN].detach().clamp(max=_FAR)
    arrival = torch.where(j.stop[way] & stopped, -stood, arrival)
    zips = approaches & is_open & j.zips[way] & (distance < rules.zip_distance)

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
    last_waiting = lowest_rear(torch.where(waits, lane, lanes), position - size, lanes, n)

    # Against every foe of the way asked for, for those who ask, and those who could wait inside: [B, M, F].
    depth = j.waits_at[way]
    yielding = (letter == YIELDING) | ((letter == YELLOW) & (of_next(to_stop) < -rules.stop_deceleration))
    could_wait = approaches & (depth > 0) & yielding & near & fits & first_behind & ~waits & is_free
    some = columns_where(asks | could_wait)
    asked, mine, own_rank, limit, to_way = (x[:, some] for x in (way, arrival, rank, limit, distance))
    foe, kind = j.foe[asked], j.kind[asked]
    flat = foe.clamp(min=0).reshape(worlds, -1)

    def of_foes(table: Tensor) -> Tensor:
        return table.gather(1, flat).reshape(foe.shape)

    foe_rank, foe_time, foe_slot = of_foes(coming_rank), of_foes(first_time), of_foes(first_slot)
    mine, own_rank = mine[..., None], own_rank[..., None]
    sooner = (foe_time < mine) | ((foe_time == mine) & (foe_slot < some[:, None]))
    yields = (foe_slot < n) & ((foe_rank > own_rank) | ((foe_rank == own_rank) & sooner))
    crossing = kind == CROSSING
    in_the_way = j.foe_entry[asked] < j.waits_at[foe.clamp(min=0)]  # of those who wait there
    occupied = (of_foes(last.rear) < j.foe_exit[asked]) | (of_foes(last_waiting.rear) < j.foe_exit[asked]) & in_the_way
    occupied = occupied & crossing & (foe >= 0)
    to_clear = to_way[..., None].clamp(-_FAR, _FAR) + j.own_exit[asked] + _wide(of_columns(size, some))
    still = to_clear > 0  # ahead of the rear
    to_clear = to_clear.clamp(min=0.0)
    clear_at = _travel_time(to_clear, speed[:, some, None], _wide(of_columns(push, some)), limit[..., None])
    pace = t.limit(foe.clamp(min=0)).clamp(max=_FASTEST)
    meets = of_foes(coming_time) + j.foe_entry[asked] / pace < clear_at + rules.time_gap
    cut_off = crossing & (foe_rank > own_rank) & meets
    if asked.device.type != "cpu" or bool(j.stop[asked].any()):
        # At stop signs nobody waits for who has to wait about as long anyway: who do not cross each other go together.
        first = torch.where(first_slot.gather(1, asked) == some, asked, lanes)
        to_leave = torch.where(occupied, j.foe_exit[asked] - of_foes(last.rear), 0.0)
        later = of_foes(_busy_until(t, first, foe, to_leave, last.slot, speed, push))
        yields = yields & ~(j.stop[asked][..., None] & (later > 0) & (clear_at <= later + _TOGETHER))
    barred = ((yields & (crossing | (kind == MERGE))) | occupied | cut_off) & (foe >= 0) & still
    granted = asks & ~torch.zeros_like(asks).index_copy(1, some, barred.any(-1))
    before_it = occupied & (j.own_entry[asked] < depth[:, some, None])
    could_wait = could_wait & ~torch.zeros_like(asks).index_copy(1, some, before_it.any(-1))

    # Where lanes merge: the place in the common order, of those inside, of those who may enter and of those who ask.
    joins = approaches & j.merges[way] & near
    members = torch.stack(
        [
            torch.where(inside & j.merges[lane], j.target[lane], lanes),
            torch.where(joins | zips, target, lanes),
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
    # Beside each other is no danger yet where lanes only begin to join: room is needed the more the nearer that is.
    apart = torch.stack(
        [
            torch.where(j.zips[lane], j.narrows[lane] - position, 0.0),
            torch.where(j.zips[way], distance.clamp(max=_FAR) + j.narrows[way], 0.0),
            *torch.where(j.zips[ways], distances.clamp(max=_FAR) + j.narrows[ways], 0.0).unbind(-1),
        ]
    ).clamp(min=0.0)
    no, yes = torch.zeros_like(inside), torch.ones_like(inside)
    some = columns_where(joins)
    first_rank = able & torch.zeros_like(able).index_copy(1, some, _goes_first(j, way[:, some]))
    has_it = torch.stack([yes, no, *[yes] * gates.shape[2]])
    counts = torch.stack([yes, first_rank, *[yes] * gates.shape[2]])
    (next_ahead, ahead_gap), *behind = around_in_merge(members, to_go, has_it, (counts, has_it), size, lanes)
    time = apart / speed.clamp(min=_STANDING)
    room_later = torch.minimum(_ROOM_LATER * apart, 0.5 * _OPENS * braking * time * time)
    ahead_gap = ahead_gap + room_later
    # Who has precedence and only comes must not hide somebody behind who has the right of way already: both count.
    for follower, rear_gap in behind:
        safe = _gap_is_safe(rules, model, speed, ahead_gap[1], next_ahead[1], rear_gap[1], follower[1])
        granted = granted & (safe | ~joins)

    follows = next_ahead.clone()
    follows[1] = torch.where(granted, follows[1], -1)
    zip_leader, zip_gap = torch.full_like(gate, -1), torch.zeros_like(speed)
    if zips.device.type != "cpu" or bool(zips.any()):
        in_turn = torch.stack([yes, zips, *[yes] * gates.shape[2]])
        [(zip_ahead, to_it)] = around_in_merge(members, to_go, in_turn, (), size, lanes)
        zip_leader, zip_gap = torch.where(zips & ~granted, zip_ahead[1], -1), (to_it + room_later)[1]
    beside, beside_gap = _parting(state, view, lanes, inside | waits)
    last_kept = torch.where(kept, gates, -1).gather(2, (number - 1).clamp(min=0))[..., 0]
    # Where others wait inside, who may go on is known by having the right of way to the own lane.
    last_kept = torch.where((last_kept < 0) & inside & (j.waits_at[lane] > 0), lane, last_kept)
    enters = (waits | could_wait) & ~granted
    return Passage(
        torch.where(granted, gate, last_kept),
        approaches & ~granted & ~enters & (near | ~is_open),
        number.clamp(max=gates.shape[2] - 1)[..., 0],
        enters,
        torch.cat([follows.movedim(0, -1), beside[..., None]], -1),
        torch.cat([torch.where(follows >= 0, ahead_gap, math.inf).movedim(0, -1), beside_gap[..., None]], -1),
        zip_leader,
        zip_gap,
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
    """The next body ahead on a way that parts from the own one and is not clear of it yet: slot (-1 = none) and gap."""
    t, n = view.tables, state.vehicles
    j, lane = t.junctions, state.lane.clamp(min=0)
    next_way = lane_after(lane, plan_row(state, t), t)
    current = torch.where(inside, lane, next_way.clamp(min=0))
    start = torch.where(inside, -state.position.detach(), t.length[lane] - state.position.detach())
    valid = (inside | (next_way >= 0)) & state.active & (state.lane >= 0)
    some = columns_where(valid & j.parts[current])
    current, begin, valid = (x[:, some, None] for x in (current, start, valid))
    current = current[..., 0]
    other = j.foe[current]
    flat, place = other.clamp(min=0).reshape(state.worlds, -1), (-begin).expand(other.shape).reshape(state.worlds, -1)
    seen = bodies_ahead(state, t, view.length, lanes, flat, place)
    rear, slot = (x.reshape(other.shape) for x in seen)
    in_way = (j.kind[current] == DIVERGE) & (other >= 0) & (slot >= 0) & (slot != some[:, None])
    in_way &= (rear < j.foe_exit[current]) & valid
    gap, which = torch.where(in_way, begin + rear, math.inf).min(-1)
    who = torch.where(torch.isfinite(gap), slot.gather(2, which[..., None])[..., 0], -1)
    nobody, nothing = torch.full((state.worlds, n), -1, device=lane.device), start.new_full(start.shape, math.inf)
    return nobody.index_copy(1, some, who), nothing.index_copy(1, some, gap)


def passage_acceleration(passage: Passage, model: CarFollowing, state: TrafficState, ahead: Ahead) -> Tensor:
    """What others at junctions allow, m/s2, [B, N]; +inf where they ask for nothing.

    Differentiable in positions and speeds. What the gate asks for comes on top (:func:`stop_at_gate`).
    """
    speed = state.speed
    allowed = torch.full_like(speed, math.inf)

    def behind(who: Tensor, known: Tensor, smallest: float) -> Tensor:
        there, follows = who.clamp(min=0), who >= 0
        # The gap's value is known; its derivative is that of the two positions.
        apart = state.position.gather(1, there) - state.position
        gap = (known + (apart - apart.detach())).clamp(min=smallest)
        closing = torch.where(follows, speed - speed.gather(1, there), 0.0)
        return model.acceleration(speed, torch.where(follows, gap, math.inf), closing)

    for k in range(passage.leader.shape[-1]):
        who = passage.leader[..., k]
        following = behind(who, passage.leader_gap[..., k], -math.inf)
        allowed = torch.where((who >= 0) & (following < allowed), following, allowed)
    # Room for who comes before from the lane beside: nobody brakes harder for it than is comfortable.
    who = passage.zip_leader
    following = behind(who, passage.zip_gap, _SMALLEST_GAP)
    following = torch.maximum(following, torch.zeros_like(following) - model.comfortable_deceleration)
    return torch.where((who >= 0) & (following < allowed), following, allowed)


def stop_at_gate(
    passage: Passage, model: CarFollowing, state: TrafficState, ahead: Ahead, junctions: JunctionTables
) -> Tensor:
    """Acceleration that stops a vehicle at the next gate that it may not enter yet, m/s2; +inf without one. [B, N].

    Who may pass it to wait behind stops where the others' way begins.
    """
    gate = ahead.gate.gather(2, passage.gate[..., None])[..., 0]
    distance = ahead.gate_distance.gather(2, passage.gate[..., None])[..., 0]
    depth = junctions.waits_at[gate.clamp(min=0)] - _CLEAR_OF_OTHERS + model.min_gap
    distance = torch.where(passage.enters, distance + depth, distance)
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


def _busy_until(
    t: LaneTables, asked: Tensor, foe: Tensor, to_leave: Tensor, holder: Tensor, speed: Tensor, push: PerDriver
) -> Tensor:
    """How long those who ask for a lane [B, A] wait in any case until the ways that cross it are clear, s; 0 = nobody.

    Parameters:
        asked: [B, M] lanes, their number = left out. foe: [B, M, F]. to_leave: [B, M, F] m that the last holder of a
            foe has still to drive until it is clear, 0 = it is. holder: [B, A] its slot, -1 = none.
    """
    flat = foe.clamp(min=0).flatten(1)
    slot = holder.gather(1, flat)
    there, distance = slot.clamp(min=0), to_leave.clamp(0.0, _FAR).flatten(1)
    time = _travel_time(distance, _pick(speed, there), _pick_any(push, there), t.limit(flat))
    longest = torch.where((slot >= 0) & (distance > 0), time, 0.0).reshape(foe.shape).amax(-1)
    lanes = holder.shape[1]
    return speed.new_zeros(len(speed), lanes + 1).scatter_reduce(1, asked, longest, "amax")[:, :-1]


def _blocked_lanes(waits: Tensor, lane: Tensor, rear: Tensor, j: JunctionTables, lanes: int) -> Tensor:
    """Lanes before a junction whose next vehicle has to stay behind somebody who waits inside, [B, A] bool."""
    stays = torch.where(waits & (rear < j.apart[lane]), j.origin[lane], lanes)
    none = torch.zeros(len(lane), lanes + 1, dtype=torch.bool, device=lane.device)
    return none.scatter(1, stays, True)[:, :-1]


def _slow_lanes(present: Tensor, lane: Tensor, speed: Tensor, lanes: int) -> Tensor:
    """Lanes on which somebody is slower than ``_SLOW``, [B, A] bool."""
    slow = torch.where(present & (speed < _SLOW), lane, lanes)
    none = torch.zeros(len(lane), lanes + 1, dtype=torch.bool, device=lane.device)
    return none.scatter(1, slow, True)[:, :-1]


def _goes_first(j: JunctionTables, lane: Tensor) -> Tensor:
    """Whether all that merge with a junction lane (>= 0) give way to it; bool of the shape of ``lane``."""
    foe = j.foe[lane]
    merging = (j.kind[lane] == MERGE) & (foe >= 0)
    return ((j.rank[foe.clamp(min=0)] < j.rank[lane][..., None]) | ~merging).all(-1) & j.merges[lane]
