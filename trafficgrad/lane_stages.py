"""The lane stages of a simulation step: who wants and may change, what that means for gradients, and the change."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.car_following import CarFollowing
from trafficgrad.car_following.base import limit_speed, look_up
from trafficgrad.dynamics import stop_rule
from trafficgrad.gradients import clamp_contrast, membership_slopes, soft_membership, straight_through
from trafficgrad.lane_change import LaneChange, LaneEvaluation, evaluate_lanes
from trafficgrad.lane_change.base import LEFT, OWN, RIGHT, best_side, pick_sides, resolve_conflicts
from trafficgrad.lane_change.lane_choice import choice_logits, requested_direction
from trafficgrad.network.tables import LaneTables
from trafficgrad.route_following import EXTRA_BRAKING, RouteNeed
from trafficgrad.state import Action, Neighbors, PerDriver, TrafficState

if TYPE_CHECKING:
    from trafficgrad.simulator import Simulator


class View(NamedTuple):
    """What every stage of a step reads; all per vehicle."""

    tables: LaneTables
    model: CarFollowing  # parameters [B, N], desired speed under the lane's limit
    length: PerDriver
    neighbors: Neighbors
    exists: Tensor  # [B, N, 3] bool, right, own, left lane: it is there and may be entered
    need: RouteNeed | None  # what routes ask for; None where roads only go on


class LaneDecision(NamedTuple):
    """Outcome of the lane decisions."""

    direction: Tensor  # [B, N] int64, -1 right, 0 stay, 1 left
    min_gap: PerDriver  # [B, N] m, below which the change is refused after the motion
    shift: Tensor | None  # [B, N] m, 0 forward: W (q - sg q)
    relaxed: Tensor | None  # [B, N] m/s2, acceleration of deciding drivers in sigmoid mode
    evaluation: LaneEvaluation | None  # both sides, of all or the controlled vehicles, where gradients need it


def decide_lanes(
    sim: Simulator, state: TrafficState, view: View, following: Tensor, action: Action | None
) -> LaneDecision:
    """Who changes lane in this step, and the gradients that this choice carries."""
    asks = action is not None and action.lane is not None and bool(sim.fleet.rows("lane"))
    stay = LaneDecision(torch.zeros_like(state.lane), 0.0, None, None, None)
    if sim.network.max_lanes == 1 or (sim.lane_change is None and not asks and not sim.fleet.rows("steered")):
        return stay
    gradient = sim.lane_gradient
    soft = gradient.mode == "sigmoid" or (gradient.mode == "straight_through" and torch.is_grad_enabled())
    everybody = gradient.choices == "all"
    both = torch.tensor([RIGHT, LEFT], device=state.lane.device).expand(state.worlds, 2)
    # With gradients both sides matter, of all vehicles or of the controlled ones.
    relevant = (
        evaluate_sides(sim, state, view, following, both, None if everybody else sim.fleet.slots) if soft else None
    )

    ready = state.active & (state.cooldown <= 0.0) & (state.lane >= 0)
    direction, incentive = stay.direction, torch.zeros_like(state.position)
    min_gap: PerDriver = 0.0
    weights = None  # [B, N, 3], pi over right, own, left
    if sim.lane_change is not None:
        driver_model = sim.lane_change.for_drivers(state.driver)
        sides = driver_model.sides_at(state.time, sim.dt)
        with torch.set_grad_enabled(soft and everybody and torch.is_grad_enabled()):
            known = relevant is not None and everybody
            evaluation = relevant if known and relevant else evaluate_sides(sim, state, view, following, sides)
            free = ready & ~sim.fleet.mask(state.vehicles)
            considered = (evaluation.sides[:, :, None] == sides[:, None, :]).any(-1)
            feasible = driver_model.feasible(evaluation) & free[..., None]
            worth = driver_model.incentive(evaluation)
            if view.need is not None:
                feasible, worth = _with_route(sim, state, driver_model, evaluation, view.need, feasible, worth)
            feasible = feasible & considered[:, None, :]
        direction, incentive = best_side(feasible, worth, evaluation.sides)
        min_gap = driver_model.min_gap
        if known:
            logits = (worth / gradient.temperature).masked_fill(~feasible, -torch.inf)
            weights = torch.softmax(torch.stack([logits[..., 0], torch.zeros_like(incentive), logits[..., 1]], -1), -1)
    if asks:
        assert action is not None and action.lane is not None
        rows = sim.fleet.rows("lane")
        slots = sim.fleet.slots[rows]
        request = action.lane[:, rows]
        if relevant is None:
            evaluation = evaluate_sides(sim, state, view, following, both, slots)
        else:
            evaluation = _select(relevant, slots if everybody else torch.tensor(rows, device=slots.device))
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
            logits = choice_logits(request, gradient.choice_temperature).masked_fill(~offered, -torch.inf)
            if weights is None:
                weights = _certain_to_stay(view.neighbors.gap)
            weights = weights.index_copy(1, slots, torch.softmax(logits, -1))
    direction = _one_per_gap(sim, state, view, direction, incentive)
    shift = relaxed = None
    if weights is not None:
        shift = (weights[..., LEFT] - weights[..., RIGHT]) * view.tables.width[state.lane.clamp(min=0)]
        shift = straight_through(shift)
    if gradient.mode == "sigmoid" and weights is not None and relevant is not None:
        if everybody:
            relaxed = (weights * _all_lanes(relevant)).sum(-1)
        else:
            slots = sim.fleet.slots
            relaxed = following.index_copy(1, slots, (weights[:, slots] * _all_lanes(relevant)).sum(-1))
    return LaneDecision(direction, min_gap, shift, relaxed, relevant)


def _with_route(
    sim: Simulator,
    state: TrafficState,
    driver_model: LaneChange,
    evaluation: LaneEvaluation,
    need: RouteNeed,
    feasible: Tensor,
    worth: Tensor,
) -> tuple[Tensor, Tensor]:
    """Feasibility and incentive with the route's costs of lanes.

    A lane that must be left soon is left more readily: without a cool-down, and with harder braking of the new follower
    and of the vehicle itself. A lane that must be left sooner than the present one is not entered.
    """
    e, m = evaluation, driver_model.beside()
    gain = need.cost[..., OWN, None] - pick_sides(need.cost, e.sides)
    helps = gain > 0
    hardest = m.safe_deceleration + EXTRA_BRAKING * need.urgency[..., None]
    roomy = (e.gap >= m.min_gap) & (e.follower_gap >= m.min_gap)
    bearable = (e.follower_with >= -hardest) & (e.own_there >= -hardest)
    free = state.active & (state.lane >= 0) & ~sim.fleet.mask(state.vehicles)
    mandatory = helps & e.exists & roomy & bearable & free[..., None]
    return torch.where(helps, mandatory, feasible & (gain == 0)), worth + gain


def _certain_to_stay(like: Tensor) -> Tensor:
    """Weights [B, N, 3] of vehicles that keep their lane."""
    return torch.zeros_like(like).index_fill(2, torch.tensor([OWN], device=like.device), 1.0)


def evaluate_sides(
    sim: Simulator, state: TrafficState, view: View, following: Tensor, sides: Tensor, slots: Tensor | None = None
) -> LaneEvaluation:
    """Lane evaluation of all vehicles or of ``slots``."""
    neighbors, exists, there, lane = view.neighbors, view.exists, view.model, state.lane.clamp(min=0)
    if slots is not None:
        neighbors = tree.tree_map(lambda x: x[:, slots], dataclasses.replace(neighbors, ahead=None))
        exists, lane = exists[:, slots], lane[:, slots]
        there = there.take(slots.expand(state.worlds, -1))
    there = there.beside()
    if sim.network.has_speed_limits:
        beside = torch.stack([view.tables.right[lane], lane, view.tables.left[lane]], -1).clamp(min=0)
        limit = view.tables.limit(beside).gather(2, sides[:, None, :].expand(-1, lane.shape[1], -1))
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
    sim: Simulator, state: TrafficState, view: View, decision: LaneDecision, action: Action | None
) -> Tensor | None:
    """Straight-through terms: how accelerations would change were each vehicle a little further to the left.

    True derivative with respect to ``lateral``: 0 for hard lanes. Used: membership slopes times the difference of
    the accelerations with and without the vehicle in the lane, of the vehicle itself and of its followers.
    Zero in the forward pass, except for the presence of steered vehicles in ``sigmoid`` mode.
    """
    evaluation = decision.evaluation
    if evaluation is None:
        return None
    gradient, speed, fleet = sim.lane_gradient, state.speed, sim.fleet
    # M of the N vehicles have an evaluation: all, or the controlled ones.
    chosen = torch.arange(state.vehicles, device=speed.device) if gradient.choices == "all" else fleet.slots
    lateral, active, exists = state.lateral[:, chosen], state.active[:, chosen], view.exists[:, chosen]
    width = view.tables.width[state.lane[:, chosen].clamp(min=0)]
    steered = fleet.mask(state.vehicles, fleet.rows("steered"))[chosen] if fleet.rows("steered") else None
    beside = exists[..., (RIGHT, LEFT)]
    with torch.no_grad():
        followers = view.neighbors.follower[:, chosen]  # [B, M, 3]
        there = followers.clamp(min=0)
        flat = there.reshape(state.worlds, -1)

        def in_all_lanes(sides: Tensor, here: Tensor) -> Tensor:
            return torch.stack([sides[..., 0], here, sides[..., 1]], -1)

        own = _all_lanes(evaluation)
        with_it = in_all_lanes(evaluation.follower_with, evaluation.old_follower_with)
        without = in_all_lanes(evaluation.follower_without, evaluation.old_follower_without)
        # What a controlled vehicle does at most; it brakes for others without a floor (follow_limit comes last).
        cap = torch.full_like(speed, torch.inf)
        if action is not None and len(fleet.slots):
            cap = cap.index_copy(1, fleet.slots, action.acceleration.clamp(min=-sim.max_braking))

        def of_followers(x: Tensor) -> Tensor:
            return x.gather(1, flat).reshape(there.shape)

        braking = own_braking = braking_there = view.model.comfortable_deceleration
        if isinstance(braking, Tensor) and braking.dim():  # not one number for everybody
            own_braking, braking_there = braking[:, chosen, None], of_followers(braking)
        cap_there, v_there = of_followers(cap), of_followers(speed)

        def done(acceleration: Tensor, limit: Tensor, v: Tensor, comfortable: PerDriver) -> Tensor:
            ordinary = acceleration.clamp(min=-sim.max_braking)
            response = torch.where(torch.isinf(limit), ordinary, torch.minimum(limit, acceleration))
            return clamp_contrast(stop_rule(response, v, sim.dt), gradient.contrast_limits, comfortable)

        own = done(own, cap[:, chosen, None], speed[:, chosen, None], own_braking)
        effect = done(with_it, cap_there, v_there, braking_there) - done(without, cap_there, v_there, braking_there)
        if action is not None and not all(fleet.limited):
            # Without follow_limit the acceleration is the action, whoever is in front.
            deaf = fleet.mask(state.vehicles, [c for c, limited in enumerate(fleet.limited) if not limited])
            own = own.masked_fill(deaf[chosen][:, None], 0.0)
            effect = effect.masked_fill(deaf[there], 0.0)
        effect = torch.where(active[..., None] & (followers >= 0), effect, 0.0)
        slopes = membership_slopes(lateral, steered, beside, width, gradient.transition_width)
        slopes = torch.where(active[..., None], slopes, 0.0)
    moved = straight_through(lateral)[..., None] * slopes
    terms = torch.zeros_like(speed).index_copy(1, chosen, (moved * own).sum(-1))
    if gradient.mode == "sigmoid" and steered is not None:
        present = soft_membership(lateral, beside, width, gradient.transition_width) - _certain_to_stay(moved)
        moved = torch.where(steered[:, None] & exists[..., OWN, None], present, moved)
    return terms.scatter_add(1, flat, (moved * effect).reshape(state.worlds, -1))


def change_lanes(
    sim: Simulator, state: TrafficState, moved: TrafficState, displacement: Tensor, view: View, decision: LaneDecision
) -> TrafficState:
    """Carry the decisions out, unless a gap has become too small in the meantime."""
    if sim.network.max_lanes == 1 and not sim.fleet.rows("steered"):
        return moved
    lane, lateral, cooldown, previous = moved.lane, moved.lateral, moved.cooldown, moved.previous
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
        if not sim.network.is_unbranched:
            # A rear that is still on the edge before goes there too, where the lane beside leads to the new one.
            before = previous.clamp(min=0)
            aside = torch.where(wish > 0, view.tables.left[before], view.tables.right[before])
            leads = (aside >= 0) & (view.tables.successor[aside.clamp(min=0)] == target)
            previous = torch.where(goes & (previous >= 0) & leads, aside, previous)
        cooldown = torch.where(goes, _cooldown_after_change(sim, moved), cooldown)
    if decision.shift is not None:
        lateral = lateral + decision.shift
    if sim.fleet.rows("steered"):
        lane, lateral = _nearest_lane(sim, lane, lateral, moved.active, view.tables)
    return dataclasses.replace(moved, lane=lane, lateral=lateral, cooldown=cooldown, previous=previous)


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


def _select(evaluation: LaneEvaluation, slots: Tensor) -> LaneEvaluation:
    return LaneEvaluation(evaluation.sides, *(x[:, slots] for x in evaluation[1:]))
