"""The lane stages of a simulation step: who wants and may change, what that does to gradients, and the change itself."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.car_following import CarFollowing
from trafficgrad.car_following.base import limit_speed, look_up
from trafficgrad.dynamics import stop_rule
from trafficgrad.gradients import clamp_contrast, membership_slopes, soft_membership, straight_through
from trafficgrad.lane_change import LaneEvaluation, evaluate_lanes
from trafficgrad.lane_change.base import LEFT, OWN, RIGHT, best_side, resolve_conflicts
from trafficgrad.lane_change.lane_choice import choice_logits, requested_direction
from trafficgrad.network.road_network import LaneTables
from trafficgrad.state import Action, Neighbors, PerDriver, TrafficState

if TYPE_CHECKING:
    from trafficgrad.simulator import Simulator


class View(NamedTuple):
    """What every stage of a step reads; all per vehicle."""

    tables: LaneTables
    model: CarFollowing  # parameters [B, N], desired speed under the lane's limit
    length: PerDriver
    neighbors: Neighbors
    exists: Tensor  # [B, N, 3] bool, right, own, left lane


class LaneDecision(NamedTuple):
    """Outcome of the lane decisions."""

    direction: Tensor  # [B, N] int64, -1 right, 0 stay, 1 left
    min_gap: PerDriver  # [B, N] m, below which the change is refused after the motion
    shift: Tensor | None  # [B, N] m, 0 forward: W (q - sg q)
    relaxed: Tensor | None  # [B, N] m/s2, acceleration of deciding drivers in sigmoid mode
    evaluation: LaneEvaluation | None  # both sides of all vehicles, where gradients need it


def decide_lanes(
    sim: Simulator, state: TrafficState, view: View, following: Tensor, action: Action | None
) -> LaneDecision:
    asks = action is not None and action.lane is not None and bool(sim.fleet.rows("lane"))
    stay = LaneDecision(torch.zeros_like(state.lane), 0.0, None, None, None)
    if sim.network.max_lanes == 1 or (sim.lane_change is None and not asks and not sim.fleet.rows("steered")):
        return stay
    mode = sim.lane_gradient.mode
    soft = mode == "sigmoid" or (mode == "straight_through" and torch.is_grad_enabled())
    both = torch.tensor([RIGHT, LEFT], device=state.lane.device).expand(state.worlds, 2)
    everyone = _evaluate(sim, state, view, following, both) if soft else None

    n = state.vehicles
    ready = state.active & (state.cooldown <= 0.0) & (state.lane >= 0)
    direction, incentive = stay.direction, torch.zeros_like(state.position)
    min_gap: PerDriver = 0.0
    weights = None  # [B, N, 3], pi over right, own, left
    if sim.lane_change is not None:
        driver_model = sim.lane_change.for_drivers(state.driver)
        sides = driver_model.sides_at(state.time, sim.dt)
        with torch.set_grad_enabled(soft and torch.is_grad_enabled()):
            evaluation = everyone or _evaluate(sim, state, view, following, sides)
            free = ready & ~sim.fleet.mask(n)
            considered = (evaluation.sides[:, :, None] == sides[:, None, :]).any(-1)
            feasible = driver_model.feasible(evaluation) & free[..., None] & considered[:, None, :]
            worth = driver_model.incentive(evaluation)
        direction, incentive = best_side(feasible, worth, evaluation.sides)
        min_gap = driver_model.min_gap
        if soft:
            logits = (worth / sim.lane_gradient.temperature).masked_fill(~feasible, -torch.inf)
            weights = torch.softmax(torch.stack([logits[..., 0], torch.zeros_like(incentive), logits[..., 1]], -1), -1)
    if asks:
        assert action is not None and action.lane is not None
        slots = sim.fleet.slots[sim.fleet.rows("lane")]
        request = action.lane[:, sim.fleet.rows("lane")]
        evaluation = _rows(everyone, slots) if everyone else _evaluate(sim, state, view, following, both, slots)
        feasible = sim.lane_choice.feasible(evaluation) & ready[:, slots, None]
        wish = requested_direction(request)
        granted = ((wish == -1) & feasible[..., 0]) | ((wish == 1) & feasible[..., 1])
        direction = direction.index_copy(1, slots, torch.where(granted, wish, 0))
        own_gap = torch.as_tensor(min_gap, dtype=state.position.dtype, device=state.position.device)
        own_gap = own_gap.expand(state.position.shape)
        min_gap = own_gap.index_fill(1, slots, sim.lane_choice.min_gap)
        if soft:
            stays = torch.ones_like(feasible[..., :1])
            offered = torch.cat([feasible[..., :1], stays, feasible[..., 1:]], -1)
            logits = choice_logits(request, sim.lane_gradient.choice_temperature).masked_fill(~offered, -torch.inf)
            chosen = torch.softmax(logits, -1)
            if weights is None:
                weights = torch.zeros_like(view.neighbors.gap).index_fill(
                    2, torch.tensor([OWN], device=slots.device), 1.0
                )
            weights = weights.index_copy(1, slots, chosen)
    direction = _one_per_gap(sim, state, view, direction, incentive)
    shift = relaxed = None
    if weights is not None:
        shift = (weights[..., LEFT] - weights[..., RIGHT]) * view.tables.width[state.lane.clamp(min=0)]
        shift = straight_through(shift)
    if mode == "sigmoid" and weights is not None and everyone is not None:
        relaxed = (weights * _all_lanes(everyone)).sum(-1)
    return LaneDecision(direction, min_gap, shift, relaxed, everyone)


def _evaluate(
    sim: Simulator, state: TrafficState, view: View, following: Tensor, sides: Tensor, slots: Tensor | None = None
) -> LaneEvaluation:
    """Lane evaluation of all vehicles or of ``slots``."""
    neighbors, exists, there, lane = view.neighbors, view.exists, view.model, state.lane.clamp(min=0)
    if slots is not None:
        neighbors = tree.tree_map(lambda x: x[:, slots], neighbors)
        exists, lane = exists[:, slots], lane[:, slots]
        there = there.take(slots.expand(state.worlds, -1))
    there = there.beside()
    if sim.network.has_speed_limits:
        beside = torch.stack([view.tables.right[lane], lane, view.tables.left[lane]], -1).clamp(min=0)
        limit = view.tables.speed_limit[beside].gather(2, sides[:, None, :].expand(-1, lane.shape[1], -1))
        base = sim.car_following.for_drivers(state.driver if slots is None else state.driver[:, slots]).beside()
        factor = look_up(sim.fleet.speed_factor, state.driver if slots is None else state.driver[:, slots])
        factor = factor[..., None] if isinstance(factor, Tensor) else factor
        there = limit_speed(base, limit * factor)
    return evaluate_lanes(view.model, there, state.speed, following, view.length, neighbors, exists, sides, slots)


def _one_per_gap(sim: Simulator, state: TrafficState, view: View, direction: Tensor, incentive: Tensor) -> Tensor:
    lane = state.lane.clamp(min=0)
    target = torch.where(direction > 0, view.tables.left[lane], view.tables.right[lane]).clamp(min=0)
    leader = view.neighbors.leader.gather(2, (direction + OWN)[..., None])[..., 0]
    everyone_controlled = sim.fleet.mask(state.vehicles)
    chains = len(sim.network.lanes)
    return resolve_conflicts(direction, incentive, everyone_controlled, leader, view.tables.chain[target], chains)


def membership_terms(
    sim: Simulator, state: TrafficState, view: View, decision: LaneDecision, following: Tensor, action: Action | None
) -> Tensor | None:
    """Straight-through terms: how accelerations would change were each vehicle a little further to the left.

    True derivative with respect to ``lateral``: 0 for hard lanes. Used: membership slopes times the difference of
    the accelerations with and without the vehicle in the lane, of the vehicle itself and of its followers.
    Zero in the forward pass, except for the presence of steered vehicles in ``sigmoid`` mode.
    """
    everyone = decision.evaluation
    if everyone is None:
        return None
    gradient, speed = sim.lane_gradient, state.speed
    width = view.tables.width[state.lane.clamp(min=0)]
    steered = sim.fleet.mask(state.vehicles, sim.fleet.rows("steered")) if sim.fleet.rows("steered") else None
    beside = view.exists[..., (RIGHT, LEFT)]
    with torch.no_grad():
        slots = torch.stack(
            [
                view.neighbors.follower[..., RIGHT],
                view.neighbors.follower[..., OWN],
                view.neighbors.follower[..., LEFT],
            ],
            -1,
        )
        there = slots.clamp(min=0)
        flat = there.reshape(state.worlds, -1)

        def done(acceleration: Tensor, v: Tensor) -> Tensor:
            floored = acceleration.clamp(min=-sim.max_braking) if math.isfinite(sim.max_braking) else acceleration
            return clamp_contrast(stop_rule(floored, v, sim.dt), gradient.contrast_limits)

        v_there = speed.gather(1, flat).reshape(there.shape)
        own = _all_lanes(everyone)
        with_it = torch.stack(
            [everyone.follower_with[..., 0], everyone.old_follower_with, everyone.follower_with[..., 1]], -1
        )
        without = torch.stack(
            [everyone.follower_without[..., 0], everyone.old_follower_without, everyone.follower_without[..., 1]], -1
        )
        own_effect = lambda a: done(a, speed[..., None])  # noqa: E731
        if action is not None and len(sim.fleet.slots):
            cap = torch.full_like(speed, torch.inf).index_copy(1, sim.fleet.slots, action.acceleration)
            cap_there = cap.gather(1, flat).reshape(there.shape)
            own = torch.minimum(own, cap[..., None])
            with_it, without = torch.minimum(with_it, cap_there), torch.minimum(without, cap_there)
        own, effect = own_effect(own), done(with_it, v_there) - done(without, v_there)
        if action is not None and not all(sim.fleet.limited):
            # Their acceleration is the action, whoever is in front.
            members = [c for c, limited in enumerate(sim.fleet.limited) if not limited]
            deaf = sim.fleet.mask(state.vehicles, members)
            own = own.masked_fill(deaf[:, None], 0.0)
            effect = effect.masked_fill(deaf[there], 0.0)
        effect = torch.where(state.active[..., None] & (slots >= 0), effect, 0.0)
        slopes = membership_slopes(state.lateral, steered, beside, width, gradient.transition_width)
        slopes = torch.where(state.active[..., None], slopes, 0.0)
    moved = straight_through(state.lateral)[..., None] * slopes
    terms = (moved * own).sum(-1)
    if gradient.mode == "sigmoid" and steered is not None:
        present = soft_membership(state.lateral, beside, width, gradient.transition_width)
        hard = torch.zeros_like(present).index_fill(2, torch.tensor([OWN], device=present.device), 1.0)
        moved = torch.where(steered[:, None] & view.exists[..., OWN, None], present - hard, moved)
    return terms.scatter_add(1, flat, (moved * effect).reshape(state.worlds, -1))


def change_lanes(
    sim: Simulator, state: TrafficState, moved: TrafficState, displacement: Tensor, view: View, decision: LaneDecision
) -> TrafficState:
    if sim.network.max_lanes == 1 and not sim.fleet.rows("steered"):
        return moved
    lane, lateral, cooldown = moved.lane, moved.lateral, moved.cooldown
    here = lane.clamp(min=0)
    if sim.lane_change is not None or sim.fleet.rows("lane"):
        wish = decision.direction
        k = (wish + OWN)[..., None]
        target = torch.where(wish > 0, view.tables.left[here], view.tables.right[here])
        with torch.no_grad():

            def beside(x: Tensor) -> Tensor:
                return x.gather(2, k)[..., 0]

            leader, follower = beside(view.neighbors.leader), beside(view.neighbors.follower)
            ahead = torch.where(leader >= 0, displacement.gather(1, leader.clamp(min=0)), 0.0)
            behind = torch.where(follower >= 0, displacement.gather(1, follower.clamp(min=0)), 0.0)
            front = beside(view.neighbors.gap) + ahead - displacement
            rear = beside(view.neighbors.follower_gap) + displacement - behind
            goes = (wish != 0) & (target >= 0) & moved.active & (front >= decision.min_gap) & (rear >= decision.min_gap)
        lane = torch.where(goes, target, lane)
        cooldown = torch.where(goes, _cooldown_after_change(sim, moved), cooldown)
    if decision.shift is not None:
        lateral = lateral + decision.shift
    if sim.fleet.rows("steered"):
        lane, lateral = _nearest_lane(sim, lane, lateral, moved.active, view.tables)
    return dataclasses.replace(moved, lane=lane, lateral=lateral, cooldown=cooldown)


def _cooldown_after_change(sim: Simulator, state: TrafficState) -> Tensor:
    rest = look_up(sim.lane_change.cooldown, state.driver) if sim.lane_change is not None else 0.0
    full = torch.as_tensor(rest, dtype=state.position.dtype, device=state.position.device).expand(state.position.shape)
    return full.index_fill(1, sim.fleet.slots[sim.fleet.rows("lane")], sim.lane_choice.cooldown)


def _nearest_lane(
    sim: Simulator, lane: Tensor, lateral: Tensor, active: Tensor, t: LaneTables
) -> tuple[Tensor, Tensor]:
    """Steered vehicles belong to the lane whose centre line is nearest; beyond the outer lanes' edges to none."""
    slots = sim.fleet.slots[sim.fleet.rows("steered")]
    at, y = lane[:, slots], lateral[:, slots]
    here = at.clamp(min=0)
    width = t.width[here]
    side = (y >= width / 2).long() - (y <= -width / 2).long()
    target = torch.where(side > 0, t.left[here], t.right[here])
    crosses = (side != 0) & (at >= 0) & active[:, slots]
    arrives = crosses & (target >= 0)
    y = torch.where(arrives, y - side * width, y)
    at = torch.where(crosses, target, at)
    return lane.index_copy(1, slots, at), lateral.index_copy(1, slots, y)


def _all_lanes(evaluation: LaneEvaluation) -> Tensor:
    """Own accelerations in the right, own and left lane, [B, N, 3]; the evaluation holds both sides (right, left)."""
    return torch.stack([evaluation.own_there[..., 0], evaluation.own, evaluation.own_there[..., 1]], -1)


def _rows(evaluation: LaneEvaluation, slots: Tensor) -> LaneEvaluation:
    return LaneEvaluation(evaluation.sides, *(x[:, slots] for x in evaluation[1:]))
