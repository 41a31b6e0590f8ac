"""Lane changes that a route asks for, in time, and how others make room for them.

A lane that does not lead on along the route costs the more the nearer its end is, and the more changes it still takes;
the cost enters MOBIL's incentive. Who must leave its lane soon is let in: the vehicle behind in the lane beside falls
back, and so does the vehicle itself behind the one ahead there, as far as moderate braking goes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.car_following import CarFollowing
from trafficgrad.lane_change.base import LEFT, OWN, RIGHT
from trafficgrad.network.tables import LaneTables
from trafficgrad.paths import plan_row
from trafficgrad.state import Ahead, Neighbors, PerDriver, TrafficState

INCENTIVE = 5.0  # m/s2 that a lane costs whose end is here: more than any gain of speed
WISH = 0.5  # m/s2 that each lane change needed costs already when a lane's end comes into view
FIRST_THOUGHT = 2.0  # times the distance at which the need begins to grow
LOOK = 30.0  # m for each lane change needed, at standstill
LOOK_TIME = 8.0  # s of travel for each lane change needed
URGENT = 0.1  # of the way from no need to the lane's end: from here on others make room
EXTRA_BRAKING = 2.0  # m/s2 that a change at the lane's end may ask for more than an ordinary one
ROOM_BRAKING = 2.0  # m/s2, the most that making room asks for
STAGGER = 14.0  # m: two cars and their gaps
_ALONGSIDE = 1.0  # m behind: who stands nearer could not make room, and goes on
_SLOW = 1.0  # m/s: whoever is slower stops within the standstill gap
_JAMMED = 5.0  # m/s: where all are slower, lanes move side by side
_LAST_BRAKING = 3.0  # m/s2 that what comes after a lane change may ask for


class RouteNeed(NamedTuple):
    """Right, own and left lane as the route sees them, without gradient."""

    cost: Tensor  # [B, N, 3] m/s2
    urgency: Tensor  # [B, N] of the own lane, 0 to 1
    side: Tensor  # [B, N] int64, -1 right, 0, +1 left: where the lane lies that leads on


@torch.no_grad()
def route_need(state: TrafficState, t: LaneTables) -> RouteNeed:
    """What the routes ask of every vehicle's lane."""
    plan, lane = t.plan, state.lane.clamp(min=0)
    row = plan_row(state, t)
    number = t.number[lane]
    speed, position = state.speed.detach(), state.position.detach()
    urgencies, costs = [], []
    for k in (-1, 0, 1):
        at = (number + k).clamp(0, plan.change.shape[1] - 1)
        need = plan.change[row, at].abs()
        left = (plan.reach[row, at] - position).clamp(min=0.0)
        needed = (need.to(speed.dtype) * (LOOK + LOOK_TIME * speed)).clamp(min=1.0)
        must = (need > 0) & ~t.junctions.is_junction[lane]
        urgency = torch.where(must, 1.0 - left / needed, 0.0).clamp(0.0, 1.0)
        urgencies.append(urgency)
        wish = torch.where(must & (left < FIRST_THOUGHT * needed), WISH * need.to(speed.dtype), 0.0)
        costs.append(INCENTIVE * urgency + wish)
    side = torch.where(t.junctions.is_junction[lane], 0, plan.change[row, number].sign())
    return RouteNeed(torch.stack(costs, -1), urgencies[OWN], side)


@torch.no_grad()
def may_change(state: TrafficState, length: PerDriver, ahead: Ahead, t: LaneTables) -> Tensor:
    """Whether a vehicle may leave its lane for the right and for the left one, [B, N, 2] bool.

    Not with the right of way into a junction, nor with the rear still in the last one, nor so near to the edge's end
    that there would be no time for what the other lane leads to: a right of way to ask for, a turn to slow down for,
    another way that parts from it.
    """
    speed, lane = state.speed.detach(), state.lane.clamp(min=0)
    row, j = plan_row(state, t), t.junctions
    slow = speed < _SLOW
    out = (state.previous < 0) | (state.position.detach() >= length)
    bound = (state.right_of_way >= 0) & ~(slow & torch.isfinite(ahead.end_distance))
    late = t.length[lane] - state.position.detach() < speed * speed / (2.0 * _LAST_BRAKING) + 0.5 * speed
    sides = []
    for k in (-1, 1):
        number = (t.number[lane] + k).clamp(0, t.plan.next_lane.shape[1] - 1)
        after = t.plan.next_lane[row, number]
        way = after.clamp(min=0)
        demanding = (after >= 0) & j.is_junction[way] & (j.gated[way] | j.parts[way] | (t.limit(way) < speed))
        sides.append(out & ~bound & (slow | ~(late & demanding)))
    return torch.stack(sides, -1)


def end_of_lane(state: TrafficState, model: CarFollowing, ahead: Ahead, t: LaneTables) -> Tensor:
    """Acceleration that lets a vehicle stop where its lane ends without leading on; +inf where it leads on. [B, N].

    Who has to go to the right stops ``STAGGER`` m earlier: two vehicles side by side at the ends of their lanes that
    need each other's would wait for ever.
    """
    ends = torch.isfinite(ahead.end_distance)
    lane = state.lane.clamp(min=0)
    to_the_right = t.plan.change[plan_row(state, t), t.number[lane]] < 0
    early = ahead.end_distance - STAGGER
    distance = torch.where(to_the_right & (early > 0.0), early, ahead.end_distance)
    stop = model.acceleration(state.speed, torch.where(ends, distance, math.inf), torch.where(ends, state.speed, 0.0))
    return torch.where(ends, stop, math.inf)


def make_room(state: TrafficState, model: CarFollowing, around: Neighbors, exists: Tensor, need: RouteNeed) -> Tensor:
    """Acceleration of those who make room for urgent lane changes, and of those who need it; +inf for others. [B, N].

    In slow traffic, of two side by side the one whose front is behind falls back; else they would stay so to the lane's
    end. Standing it does not: two that wait for each other side by side would stand for ever.
    ``exists`` [B, N, 3]: the right, own and left lane may be entered.
    """
    speed = state.speed
    k = torch.where(need.side > 0, LEFT, RIGHT)[..., None]

    def there(x: Tensor) -> Tensor:
        return x.gather(2, k)[..., 0]

    urgent = (need.urgency > URGENT) & (need.side != 0) & state.active & there(exists)
    rolls = (speed > _SLOW) & (speed < _JAMMED)
    leads = urgent & (there(around.leader) >= 0) & ((there(around.gap) > 0.0) | rolls)
    own = model.acceleration(
        speed,
        torch.where(leads, there(around.gap), math.inf),
        torch.where(leads, there(around.closing_speed), 0.0),
    )
    allowed = torch.where(leads, torch.where(own > -ROOM_BRAKING, own, -ROOM_BRAKING), math.inf)
    follower = there(around.follower)
    slot = follower.clamp(min=0)
    follows = urgent & (follower >= 0) & ((there(around.follower_gap) > _ALONGSIDE) | rolls.gather(1, slot))
    theirs = model.take(slot).acceleration(
        speed.gather(1, slot),
        torch.where(follows, there(around.follower_gap), math.inf),
        torch.where(follows, there(around.follower_closing_speed), 0.0),
    )
    theirs = torch.where(follows, torch.where(theirs > -ROOM_BRAKING, theirs, -ROOM_BRAKING), math.inf)
    return allowed.scatter_reduce(1, slot, theirs, "amin")
