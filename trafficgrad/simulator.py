"""One step of traffic, state in and state out, and rollouts of it.

Order within a step: neighbours of the state, accelerations, lane decisions from the same snapshot, motion (edge ends
included), lane changes. The new follower reacts in the next step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.car_following import CarFollowing
from trafficgrad.car_following.base import look_up
from trafficgrad.dynamics import INTEGRATORS, Integrator, integrate, kinematic_bicycle, stop_rule
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.gradients import (
    LaneGradient,
    clamp_contrast,
    membership_slopes,
    soft_membership,
    straight_through,
)
from trafficgrad.lane_change import LaneChange, LaneChoice, LaneEvaluation, evaluate_lanes
from trafficgrad.lane_change.base import LEFT, OWN, RIGHT, best_side, resolve_conflicts
from trafficgrad.lane_change.lane_choice import choice_logits, requested_direction
from trafficgrad.neighbors import find_neighbors, measure
from trafficgrad.network.road_network import LaneTables, RoadNetwork
from trafficgrad.state import Action, Fleet, Neighbors, PerDriver, TrafficState
from trafficgrad.trajectory import Trajectory

Controller = Callable[[TrafficState], Action]
Backend = Literal["auto", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "reference")
_FASTEST = 100.0  # m/s, bounds how many edge ends one step can cross


class _View(NamedTuple):
    """What every stage of a step reads; all per vehicle."""

    tables: LaneTables
    model: CarFollowing  # parameters [B, N], desired speed under the lane's limit
    length: PerDriver
    neighbors: Neighbors
    exists: Tensor  # [B, N, 3] bool, right, own, left lane


class _LaneDecision(NamedTuple):
    """Outcome of the lane decisions."""

    direction: Tensor  # [B, N] int64, -1 right, 0 stay, 1 left
    min_gap: PerDriver  # [B, N] m, below which the change is refused after the motion
    shift: Tensor | None  # [B, N] m, 0 forward: W (q - sg q)
    relaxed: Tensor | None  # [B, N] m/s2, acceleration of deciding drivers in sigmoid mode
    evaluation: LaneEvaluation | None  # both sides of all vehicles, where gradients need it


@dataclass(frozen=True)
class Simulator:
    """Batched differentiable traffic: a network, who drives on it, and how.

    ``step`` is pure: no state is kept and no random number is drawn. Worlds of a batch do not influence each other.
    """

    network: RoadNetwork
    fleet: Fleet
    car_following: CarFollowing
    lane_change: LaneChange | None = None
    lane_choice: LaneChoice = field(default_factory=LaneChoice)
    lane_gradient: LaneGradient = field(default_factory=LaneGradient)
    dt: float = 0.1  # s
    integrator: Integrator = "ballistic"
    max_braking: float = math.inf  # m/s2, floor of what any vehicle does
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("integrator", self.integrator, INTEGRATORS),
            ("backend", self.backend, BACKENDS),
        ):
            if value not in valid:
                raise TrafficGradError(f"Simulator.{name}: unknown {value!r}{nearest_name(str(value), valid)}; valid are {', '.join(valid)}")
        if not (self.dt > 0 and math.isfinite(self.dt)):
            raise TrafficGradError(f"Simulator.dt must be a finite number of seconds > 0, got {self.dt}")
        if not self.max_braking > 0:
            raise TrafficGradError(f"Simulator.max_braking must be > 0 m/s2, got {self.max_braking}")

    # ------------------------------------------------------------------ public

    def neighbors(self, state: TrafficState) -> Neighbors:
        """Leaders, followers, gaps and closing speeds of every vehicle in its own, right and left lane."""
        return measure(state, find_neighbors(state, self.network), look_up(self.fleet.length, state.driver))

    def step(
        self,
        state: TrafficState,
        action: Action | None = None,
        noise: Tensor | None = None,
        neighbors: Neighbors | None = None,
    ) -> TrafficState:
        """The state one time step later.

        Parameters:
            state: B worlds, N vehicles.
            action: of the C controlled vehicles, fields [B, C]; None lets them drive by car following and keep lanes.
            noise: standard normal [B, N]; adds acceleration_noise * sqrt(dt) * noise to the acceleration.
            neighbors: those of ``state``, if they are known already.

        Raises:
            TrafficGradError: wrong shape or (on the CPU) a non-finite value of the action.
        """
        if action is not None:
            self._check_action(action, (state.worlds, len(self.fleet.controlled)))
        view = self._look(state, neighbors)
        following = view.model.acceleration(state.speed, view.neighbors.gap[..., OWN], view.neighbors.closing_speed[..., OWN])
        decision = self._decide_lanes(state, view, following, action)
        acceleration = self._accelerate(state, following if decision.relaxed is None else decision.relaxed, action, noise)
        carried = self._membership_terms(state, view, decision, following, action)
        moved, displacement = self._move(state, view, acceleration, carried, action)
        return self._change_lanes(state, moved, displacement, view, decision)

    def simulate(
        self,
        state: TrafficState,
        steps: int,
        controller: Controller | None = None,
        *,
        actions: Action | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectory:
        """``steps`` time steps from ``state``.

        Parameters:
            controller: called with each state, returns the action; or
            actions: an open-loop plan with fields [T, B, C].
            noise: standard normal [T, B, N]; or generator: draws it where the fleet has acceleration noise.
                Without either the simulation is deterministic.

        Raises:
            TrafficGradError: both a controller and a plan, a plan or noise of another length, a non-finite plan.
        """
        if controller is not None and actions is not None:
            raise TrafficGradError("Simulator.simulate takes a controller or open-loop actions, not both")
        if actions is not None:
            self._check_action(actions, (steps, state.worlds, len(self.fleet.controlled)))
        if noise is not None and noise.shape != (steps, state.worlds, state.vehicles):
            raise TrafficGradError(f"noise must have shape {[steps, state.worlds, state.vehicles]}, got {list(noise.shape)}")
        states, taken = [state], []
        for t in range(steps):
            action = controller(state) if controller is not None else None
            if actions is not None:
                action = tree.index(actions, t)
            kick = noise[t] if noise is not None else self.sample_noise(state, generator) if generator is not None else None
            state = self.step(state, action, kick)
            states.append(state)
            if action is not None:
                taken.append(action)
        return Trajectory.of(states, tree.stack(taken) if taken else None, self.dt)

    def sample_noise(self, state: TrafficState, generator: torch.Generator | None = None) -> Tensor | None:
        """Standard normal [B, N] for one step, or None where no vehicle has acceleration noise."""
        if not isinstance(self.fleet.acceleration_noise, Tensor) and self.fleet.acceleration_noise == 0.0:
            return None
        like = state.position
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)

    # ------------------------------------------------------------------ roles

    @cached_property
    def _controlled(self) -> Tensor:
        return self.fleet.controlled if isinstance(self.fleet.controlled, Tensor) else torch.tensor(self.fleet.controlled)

    @cached_property
    def _steered(self) -> list[int]:
        return [c for c, kind in enumerate(self.fleet.control) if kind == "steered"]

    @cached_property
    def _requesting(self) -> list[int]:
        return [c for c, kind in enumerate(self.fleet.control) if kind == "lane"]

    def _mask(self, n: int, members: Tensor | list[int], device: torch.device) -> Tensor:
        """[N] bool: slots of the controlled vehicles ``members`` (rows of ``fleet.controlled``)."""
        return torch.zeros(n, dtype=torch.bool, device=device).index_fill(0, self._controlled[members], True)

    def _check_action(self, action: Action, shape: tuple[int, ...]) -> None:
        for name in ("acceleration", "lane", "steering"):
            value = getattr(action, name)
            if value is None:
                continue
            if tuple(value.shape) != shape:
                raise TrafficGradError(f"Action.{name} must have shape {list(shape)} ([..., worlds, controlled vehicles]), got {list(value.shape)}")
            # On other devices looking at values would wait for them; there a NaN shows in the state.
            if value.device.type == "cpu" and not bool(torch.isfinite(value).all()):
                place = (~torch.isfinite(value)).nonzero()[0].tolist()
                raise TrafficGradError(f"Action.{name} is not finite for controlled vehicle {place[-1]} of world {place[-2]}")

    # ------------------------------------------------------------------ stages

    def _look(self, state: TrafficState, neighbors: Neighbors | None) -> _View:
        tables = self.network.tables(state.position.dtype, state.position.device)
        model = self.car_following.for_drivers(state.driver)
        lane = state.lane.clamp(min=0)
        if self.network.has_speed_limits:
            factor = look_up(self.fleet.speed_factor, state.driver)
            model = _limit_speed(model, tables.speed_limit[lane] * factor)
        on_road = state.active & (state.lane >= 0)
        exists = torch.stack([on_road & (tables.right[lane] >= 0), on_road, on_road & (tables.left[lane] >= 0)], -1)
        length = look_up(self.fleet.length, state.driver)
        if neighbors is None:
            neighbors = measure(state, find_neighbors(state, self.network), length)
        return _View(tables, model, length, neighbors, exists)

    def _decide_lanes(self, state: TrafficState, view: _View, following: Tensor, action: Action | None) -> _LaneDecision:
        asks = action is not None and action.lane is not None and bool(self._requesting)
        stay = _LaneDecision(torch.zeros_like(state.lane), 0.0, None, None, None)
        if self.network.max_lanes == 1 or (self.lane_change is None and not asks and not self._steered):
            return stay
        mode = self.lane_gradient.mode
        soft = mode == "sigmoid" or (mode == "straight_through" and torch.is_grad_enabled())
        both = torch.tensor([RIGHT, LEFT], device=state.lane.device).expand(state.worlds, 2)
        everyone = self._evaluate(state, view, following, both) if soft else None

        n = state.vehicles
        ready = state.active & (state.cooldown <= 0.0) & (state.lane >= 0)
        direction, incentive = stay.direction, torch.zeros_like(state.position)
        min_gap: PerDriver = 0.0
        weights = None  # [B, N, 3], pi over right, own, left
        if self.lane_change is not None:
            driver_model = self.lane_change.for_drivers(state.driver)
            sides = driver_model.sides_at(state.time, self.dt)
            with torch.set_grad_enabled(soft and torch.is_grad_enabled()):
                evaluation = everyone or self._evaluate(state, view, following, sides)
                free = ready & ~self._mask(n, list(range(len(self._controlled))), state.lane.device)
                considered = (evaluation.sides[:, :, None] == sides[:, None, :]).any(-1)
                feasible = driver_model.feasible(evaluation) & free[..., None] & considered[:, None, :]
                worth = driver_model.incentive(evaluation)
            direction, incentive = best_side(feasible, worth, evaluation.sides)
            min_gap = driver_model.min_gap
            if soft:
                logits = (worth / self.lane_gradient.temperature).masked_fill(~feasible, -torch.inf)
                weights = torch.softmax(torch.stack([logits[..., 0], torch.zeros_like(incentive), logits[..., 1]], -1), -1)
        if asks:
            assert action is not None and action.lane is not None
            slots = self._controlled[self._requesting]
            request = action.lane[:, self._requesting]
            evaluation = _rows(everyone, slots) if everyone else self._evaluate(state, view, following, both, slots)
            feasible = self.lane_choice.feasible(evaluation) & ready[:, slots, None]
            wish = requested_direction(request)
            granted = ((wish == -1) & feasible[..., 0]) | ((wish == 1) & feasible[..., 1])
            direction = direction.index_copy(1, slots, torch.where(granted, wish, 0))
            own_gap = torch.as_tensor(min_gap, dtype=state.position.dtype, device=state.position.device)
            own_gap = own_gap.expand(state.position.shape)
            min_gap = own_gap.index_fill(1, slots, self.lane_choice.min_gap)
            if soft:
                stays = torch.ones_like(feasible[..., :1])
                offered = torch.cat([feasible[..., :1], stays, feasible[..., 1:]], -1)
                logits = choice_logits(request, self.lane_gradient.choice_temperature).masked_fill(~offered, -torch.inf)
                chosen = torch.softmax(logits, -1)
                if weights is None:
                    weights = torch.zeros_like(view.neighbors.gap).index_fill(2, torch.tensor([OWN], device=slots.device), 1.0)
                weights = weights.index_copy(1, slots, chosen)
        direction = self._one_per_gap(state, view, direction, incentive)
        shift = relaxed = None
        if weights is not None:
            shift = (weights[..., LEFT] - weights[..., RIGHT]) * view.tables.width[state.lane.clamp(min=0)]
            shift = straight_through(shift)
        if mode == "sigmoid" and weights is not None and everyone is not None:
            relaxed = (weights * _all_lanes(everyone)).sum(-1)
        return _LaneDecision(direction, min_gap, shift, relaxed, everyone)

    def _evaluate(self, state: TrafficState, view: _View, following: Tensor, sides: Tensor, slots: Tensor | None = None) -> LaneEvaluation:
        """Lane evaluation of all vehicles or of ``slots``."""
        neighbors, exists, there, lane = view.neighbors, view.exists, view.model, state.lane.clamp(min=0)
        if slots is not None:
            neighbors = tree.tree_map(lambda x: x[:, slots], neighbors)
            exists, lane = exists[:, slots], lane[:, slots]
            there = there.take(slots.expand(state.worlds, -1))
        there = there.beside()
        if self.network.has_speed_limits:
            beside = torch.stack([view.tables.right[lane], lane, view.tables.left[lane]], -1).clamp(min=0)
            limit = view.tables.speed_limit[beside].gather(2, sides[:, None, :].expand(-1, lane.shape[1], -1))
            base = self.car_following.for_drivers(state.driver if slots is None else state.driver[:, slots]).beside()
            factor = look_up(self.fleet.speed_factor, state.driver if slots is None else state.driver[:, slots])
            factor = factor[..., None] if isinstance(factor, Tensor) else factor
            there = _limit_speed(base, limit * factor)
        return evaluate_lanes(view.model, there, state.speed, following, view.length, neighbors, exists, sides, slots)

    def _one_per_gap(self, state: TrafficState, view: _View, direction: Tensor, incentive: Tensor) -> Tensor:
        lane = state.lane.clamp(min=0)
        target = torch.where(direction > 0, view.tables.left[lane], view.tables.right[lane]).clamp(min=0)
        leader = view.neighbors.leader.gather(2, (direction + OWN)[..., None])[..., 0]
        everyone_controlled = self._mask(state.vehicles, list(range(len(self._controlled))), lane.device)
        chains = len(self.network.lanes)
        return resolve_conflicts(direction, incentive, everyone_controlled, leader, view.tables.chain[target], chains)

    def _accelerate(self, state: TrafficState, following: Tensor, action: Action | None, noise: Tensor | None) -> Tensor:
        acceleration = following
        slots = self._controlled
        if action is not None and len(slots):
            acceleration = acceleration.index_copy(1, slots, action.acceleration)
        if noise is not None:
            size = look_up(self.fleet.acceleration_noise, state.driver)
            acceleration = acceleration + size * (noise * math.sqrt(self.dt))
        if math.isfinite(self.max_braking):
            acceleration = torch.where(acceleration > -self.max_braking, acceleration, -self.max_braking)
        if action is not None and any(self.fleet.follow_limit):
            limited = slots[list(self.fleet.follow_limit)]
            own, bound = acceleration[:, limited], following[:, limited]
            acceleration = acceleration.index_copy(1, limited, torch.where(own < bound, own, bound))
        return torch.where(state.active, acceleration, 0.0)

    def _membership_terms(
        self, state: TrafficState, view: _View, decision: _LaneDecision, following: Tensor, action: Action | None
    ) -> Tensor | None:
        """Straight-through terms: how accelerations would change were each vehicle a little further to the left.

        True derivative with respect to ``lateral``: 0 for hard lanes. Used: membership slopes times the difference of
        the accelerations with and without the vehicle in the lane, of the vehicle itself and of its followers.
        Zero in the forward pass, except for the presence of steered vehicles in ``sigmoid`` mode.
        """
        everyone = decision.evaluation
        if everyone is None:
            return None
        gradient, speed = self.lane_gradient, state.speed
        width = view.tables.width[state.lane.clamp(min=0)]
        steered = self._mask(state.vehicles, self._steered, speed.device) if self._steered else None
        beside = view.exists[..., (RIGHT, LEFT)]
        with torch.no_grad():
            slots = torch.stack([view.neighbors.follower[..., RIGHT], view.neighbors.follower[..., OWN], view.neighbors.follower[..., LEFT]], -1)
            there = slots.clamp(min=0)
            flat = there.reshape(state.worlds, -1)

            def done(acceleration: Tensor, v: Tensor) -> Tensor:
                floored = acceleration.clamp(min=-self.max_braking) if math.isfinite(self.max_braking) else acceleration
                return clamp_contrast(stop_rule(floored, v, self.dt), gradient.contrast_limits)

            v_there = speed.gather(1, flat).reshape(there.shape)
            own = _all_lanes(everyone)
            with_it = torch.stack([everyone.follower_with[..., 0], everyone.old_follower_with, everyone.follower_with[..., 1]], -1)
            without = torch.stack([everyone.follower_without[..., 0], everyone.old_follower_without, everyone.follower_without[..., 1]], -1)
            own_effect = lambda a: done(a, speed[..., None])  # noqa: E731
            if action is not None and len(self._controlled):
                cap = torch.full_like(speed, torch.inf).index_copy(1, self._controlled, action.acceleration)
                cap_there = cap.gather(1, flat).reshape(there.shape)
                own = torch.minimum(own, cap[..., None])
                with_it, without = torch.minimum(with_it, cap_there), torch.minimum(without, cap_there)
            own, effect = own_effect(own), done(with_it, v_there) - done(without, v_there)
            if action is not None and not all(self.fleet.follow_limit):
                # Their acceleration is the action, whoever is in front.
                members = [c for c, limited in enumerate(self.fleet.follow_limit) if not limited]
                deaf = self._mask(state.vehicles, members, speed.device)
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

    def _move(
        self, state: TrafficState, view: _View, acceleration: Tensor, carried: Tensor | None, action: Action | None
    ) -> tuple[TrafficState, Tensor]:
        """Integrate and cross edge ends; lanes beside are not entered yet. Returns the displacement along the road too."""
        displacement, speed = integrate(state.speed, acceleration, carried, self.dt, self.integrator)
        lateral = state.lateral * self.lane_gradient.decay(self.dt)
        heading = state.heading
        if self._steered and action is not None:
            rows, slots = self._steered, self._controlled[self._steered]
            pushed = acceleration if carried is None else acceleration + carried
            angle = torch.zeros_like(action.acceleration) if action.steering is None else action.steering
            length = view.length[:, slots] if isinstance(view.length, Tensor) else view.length
            motion = kinematic_bicycle(state.speed[:, slots], heading[:, slots], pushed[:, slots], angle[:, rows], length, self.dt)
            displacement = displacement.index_copy(1, slots, motion.along)
            speed = speed.index_copy(1, slots, motion.speed)
            lateral = lateral.index_copy(1, slots, state.lateral[:, slots] + motion.across)
            heading = heading.index_copy(1, slots, heading[:, slots] + motion.turned)
        displacement = torch.where(state.active, displacement, 0.0)
        position, lane, active = self._cross_edge_ends(state.position + displacement, state.lane, state.active, view.tables)
        waited = state.cooldown - self.dt
        moved = dataclasses.replace(
            state,
            position=position,
            speed=torch.where(state.active, speed, 0.0),
            lane=lane,
            lateral=lateral,
            heading=heading,
            # Rounding may leave a crumb of a whole number of steps.
            cooldown=torch.where(waited > 1e-3 * self.dt, waited, 0.0),
            active=active,
            time=state.time + self.dt,
        )
        return moved, displacement

    def _cross_edge_ends(self, position: Tensor, lane: Tensor, active: Tensor, t: LaneTables) -> tuple[Tensor, Tensor, Tensor]:
        hops = max(1, math.ceil(_FASTEST * self.dt / float(self.network.lane_length.min())))
        for _ in range(hops):
            here = lane.clamp(min=0)
            passed = (position >= t.length[here]) & (lane >= 0)
            following = t.successor[here]
            if not self.network.is_closed:
                active = active & ~(passed & (following < 0))
                passed = passed & (following >= 0)
            position = torch.where(passed, position - t.length[here], position)
            lane = torch.where(passed, following, lane)
        if self._steered:  # they may reverse over the start of an edge
            here = lane.clamp(min=0)
            back = (position < 0) & (lane >= 0) & (t.predecessor[here] >= 0)
            lane = torch.where(back, t.predecessor[here], lane)
            position = torch.where(back, position + t.length[lane.clamp(min=0)], position)
        return position, lane, active

    def _change_lanes(
        self, state: TrafficState, moved: TrafficState, displacement: Tensor, view: _View, decision: _LaneDecision
    ) -> TrafficState:
        if self.network.max_lanes == 1 and not self._steered:
            return moved
        lane, lateral, cooldown = moved.lane, moved.lateral, moved.cooldown
        here = lane.clamp(min=0)
        if self.lane_change is not None or self._requesting:
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
            cooldown = torch.where(goes, self._cooldown_after_change(moved), cooldown)
        if decision.shift is not None:
            lateral = lateral + decision.shift
        if self._steered:
            lane, lateral = self._nearest_lane(lane, lateral, moved.active, view.tables)
        return dataclasses.replace(moved, lane=lane, lateral=lateral, cooldown=cooldown)

    def _cooldown_after_change(self, state: TrafficState) -> Tensor:
        rest = look_up(self.lane_change.cooldown, state.driver) if self.lane_change is not None else 0.0
        full = torch.as_tensor(rest, dtype=state.position.dtype, device=state.position.device).expand(state.position.shape)
        return full.index_fill(1, self._controlled[self._requesting], self.lane_choice.cooldown)

    def _nearest_lane(self, lane: Tensor, lateral: Tensor, active: Tensor, t: LaneTables) -> tuple[Tensor, Tensor]:
        """Steered vehicles belong to the lane whose centre line is nearest; beyond the outer lanes' edges to none."""
        slots = self._controlled[self._steered]
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


def _limit_speed(model: CarFollowing, limit: Tensor) -> CarFollowing:
    wished = model.desired_speed
    bounded = torch.where(limit < wished, limit, wished)
    return dataclasses.replace(model, desired_speed=bounded)  # type: ignore[type-var]


def _all_lanes(evaluation: LaneEvaluation) -> Tensor:
    """Own accelerations in the right, own and left lane, [B, N, 3]; the evaluation holds both sides (right, left)."""
    return torch.stack([evaluation.own_there[..., 0], evaluation.own, evaluation.own_there[..., 1]], -1)


def _rows(evaluation: LaneEvaluation, slots: Tensor) -> LaneEvaluation:
    return LaneEvaluation(evaluation.sides, *(x[:, slots] for x in evaluation[1:]))
