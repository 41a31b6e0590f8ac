"""One step of traffic, state in and state out, and rollouts of it.

Order within a step: neighbours of the state, accelerations, lane decisions from the same snapshot, motion (edge ends
included), lane changes. The new follower reacts in the next step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.car_following import CarFollowing
from trafficgrad.car_following.base import limit_speed, look_up
from trafficgrad.demand import Demand
from trafficgrad.dynamics import INTEGRATORS, Integrator, integrate, kinematic_bicycle
from trafficgrad.entrances import Entrance, EntryDrivers, last_vehicles
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.gradients import LaneGradient, SignalGradient
from trafficgrad.kernels import BACKENDS, Backend, BackendChoice, choose, decision, fused, plan_for, sight
from trafficgrad.kernels.decision import Decision, Wish
from trafficgrad.lane_change import LaneChange, LaneChoice
from trafficgrad.lane_change.base import LEFT, OWN, RIGHT, LaneEvaluation
from trafficgrad.lane_stages import View, change_lanes, decide_lanes, evaluate_sides, membership_terms
from trafficgrad.neighbors import find_neighbors, measure
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.speed_limits import check_worlds
from trafficgrad.network.tables import LaneTables
from trafficgrad.paths import lane_after, plan_row, row_after
from trafficgrad.right_of_way import Passage, RightOfWay, decide_passage, passage_acceleration, stop_at_gate
from trafficgrad.route_following import end_of_lane, make_room, may_change, route_need
from trafficgrad.signal_gradients import Changes, carry_passing, changes, hide_passing, shared_step
from trafficgrad.signals import Signals
from trafficgrad.state import Action, Ahead, Fleet, Neighbors, PerDriver, TrafficState
from trafficgrad.trajectory import Trajectory

Controller = Callable[[TrafficState], Action]
_FASTEST = 100.0  # m/s, bounds how many edge ends one step can cross
_MOST_CROSSINGS = 20  # of them in any case


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
    right_of_way: RightOfWay = field(default_factory=RightOfWay)
    signals: Signals | None = None
    signal_gradient: SignalGradient = field(default_factory=SignalGradient)
    demand: Demand | None = None

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("integrator", self.integrator, INTEGRATORS),
            ("backend", self.backend, BACKENDS),
        ):
            if value not in valid:
                raise TrafficGradError(
                    f"Simulator.{name}: unknown {value!r}{nearest_name(str(value), valid)}; "
                    f"valid are {', '.join(valid)}"
                )
        if not (self.dt > 0 and math.isfinite(self.dt)):
            raise TrafficGradError(f"Simulator.dt must be a finite number of seconds > 0, got {self.dt}")
        if self.demand is not None:
            self.demand.check(self.network, EntryDrivers.of(self.car_following, self.fleet))
        if not self.max_braking > 0:
            raise TrafficGradError(f"Simulator.max_braking must be > 0 m/s2, got {self.max_braking}")

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the fields, not what the fused kernel keeps of them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def running_backend(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> BackendChoice:
        """Which implementation of the step runs for states of this dtype and device, and why.

        Raises:
            TrafficGradError: ``backend`` demands the fused one and it cannot be had; the sentence says why.
        """
        return choose(self, dtype, device)

    # ------------------------------------------------------------------ public

    @property
    def crossings(self) -> int:
        """How many edge ends a vehicle can cross in one step."""
        hops = max(1, math.ceil(_FASTEST * self.dt / float(self.network.lane_length.min())))
        return min(hops, _MOST_CROSSINGS)

    def neighbors(self, state: TrafficState) -> Neighbors:
        """Leaders, followers, gaps and closing speeds of every vehicle in its own, right and left lane."""
        plan = plan_for(self, state)
        if plan is not None:
            return sight.neighbors(plan, state)
        braking = look_up(self.car_following.comfortable_deceleration, state.driver)
        length = look_up(self.fleet.length, state.driver)
        return measure(state, find_neighbors(state, self.network, length, braking), length)

    def evaluate_lanes(self, state: TrafficState) -> LaneEvaluation:
        """What a change to the right or to the left would mean for every vehicle, ``S`` = 2: accelerations and gaps.

        Lane-change models decide on it; :mod:`trafficgrad.calibration` learns from it why drivers changed lanes.
        """
        view = self._look(state, None)
        gap, closing = view.neighbors.gap[..., OWN], view.neighbors.closing_speed[..., OWN]
        following = view.model.acceleration(state.speed, gap, closing)
        sides = torch.tensor([RIGHT, LEFT], device=state.lane.device).expand(state.worlds, 2)
        return evaluate_sides(self, state, view, following, sides)

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
        shape = (state.worlds, len(self.fleet.slots))
        plan = plan_for(self, state)
        if plan is not None:
            if action is not None:
                self._check_shapes(action, shape)
            return fused.step(plan, state, action, noise)
        if action is not None:
            self._check_action(action, shape)
            action = tree.move(action, dtype=state.position.dtype)
        check_worlds(self.network, state.worlds)
        if self.signals is not None:
            self.signals.check_worlds(state.worlds)
        state = hide_passing(self, state)
        view = self._look(state, neighbors)
        following = view.model.acceleration(
            state.speed, view.neighbors.gap[..., OWN], view.neighbors.closing_speed[..., OWN]
        )
        decision = decide_lanes(self, state, view, following, action)
        passage = None if view.neighbors.ahead is None else decide_passage(self, state, view)
        following = following if decision.relaxed is None else decision.relaxed
        following, change = self._restrain(state, view, following, passage)
        acceleration = self._accelerate(state, following, action, noise)
        carried = membership_terms(self, state, view, decision, action)
        moved, displacement = self._move(state, view, acceleration, carried, action)
        if passage is not None:
            moved = dataclasses.replace(moved, right_of_way=passage.right_of_way)
        changed = change_lanes(self, state, moved, displacement, view, decision)
        if change is not None and passage is not None:
            changed = carry_passing(self, state, changed, view, passage, change)
        ahead = view.neighbors.ahead
        changed = self._let_in(changed, None if ahead is None else (ahead.coming, ahead.coming_distance))
        if self.signals is None:
            return changed
        assert ahead is not None
        wanted = self.signals.wanted(state, ahead, view.tables)
        return self.signals.advance(changed, self.dt, wanted, None if action is None else action.signal)

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
            self._check_action(actions, (steps, state.worlds, len(self.fleet.slots)))
        if noise is not None and noise.shape != (steps, state.worlds, state.vehicles):
            raise TrafficGradError(
                f"noise must have shape {[steps, state.worlds, state.vehicles]}, got {list(noise.shape)}"
            )
        plan = plan_for(self, state) if controller is None and steps else None
        if plan is not None:
            if noise is None and generator is not None:
                drawn = [self.sample_noise(state, generator) for _ in range(steps)]
                noise = None if drawn[0] is None else torch.stack([x for x in drawn if x is not None])
            return fused.rollout(plan, state, steps, actions, noise, self.dt)
        states, taken = [state], []
        for t in range(steps):
            action = controller(state) if controller is not None else None
            if actions is not None:
                action = tree.index(actions, t)
            kick = (
                noise[t]
                if noise is not None
                else self.sample_noise(state, generator)
                if generator is not None
                else None
            )
            state = self.step(state, action, kick)
            states.append(state)
            if action is not None:
                taken.append(action)
        return Trajectory.of(states, tree.stack(taken) if taken else None, self.dt)

    def hold(
        self, state: TrafficState, steps: int, action: Action | None, noise: Tensor | None = None
    ) -> tuple[Trajectory, Tensor] | None:
        """``steps`` steps with one action [B, C] in one call of the fused kernel; None where that does not run.

        A lane request is dropped once it is granted; its gradient is that of the granting step, or the mean over the
        steps where none granted it. Signals are asked in every step. Also returns whether somebody was within the
        vehicle ahead before each step, [T, B] bool.

        Raises:
            TrafficGradError: wrong shape or a non-finite value of the action.
        """
        plan = plan_for(self, state)
        if plan is None:
            return None
        if action is not None:
            self._check_shapes(action, (state.worlds, len(self.fleet.slots)))
            if action.signal is not None:
                action = dataclasses.replace(action, signal=action.signal.expand(steps, *action.signal.shape))
        return fused.hold(plan, state, steps, action, noise, self.dt)

    def decide(
        self, state: TrafficState, steps: int, action: Action | None, noise: Tensor | None, wish: Wish
    ) -> Decision | None:
        """Like :meth:`hold`, with what an environment makes of it; None where the kernel does not tell that."""
        plan = plan_for(self, state)
        if plan is None or decision.why_not(plan, wish) is not None:
            return None
        if action is not None:
            self._check_shapes(action, (state.worlds, len(self.fleet.slots)))
        return decision.decide(plan, wish, state, steps, action, noise, self.dt)

    def sample_noise(self, state: TrafficState, generator: torch.Generator | None = None) -> Tensor | None:
        """Standard normal [B, N] for one step, or None where no vehicle has acceleration noise."""
        if not isinstance(self.fleet.acceleration_noise, Tensor) and self.fleet.acceleration_noise == 0.0:
            return None
        like = state.position
        place = like.device if generator is None else generator.device
        return torch.randn(like.shape, dtype=like.dtype, device=place, generator=generator).to(like.device)

    def _check_shapes(self, action: Action, shape: tuple[int, ...]) -> None:
        signals = (*shape[:-1], 0 if self.signals is None else self.signals.count)
        for name in ("acceleration", "lane", "steering", "signal"):
            value = getattr(action, name)
            if value is None:
                continue
            if name == "signal" and tuple(value.shape) != signals:
                raise TrafficGradError(
                    f"Action.signal must have shape {list(signals)} ([..., worlds, signals]), got {list(value.shape)}"
                )
            if name != "signal" and tuple(value.shape) != shape:
                raise TrafficGradError(
                    f"Action.{name} must have shape {list(shape)} ([..., worlds, controlled vehicles]), "
                    f"got {list(value.shape)}"
                )

    def _check_action(self, action: Action, shape: tuple[int, ...]) -> None:
        self._check_shapes(action, shape)
        for name in ("acceleration", "lane", "steering", "signal"):
            value = getattr(action, name)
            # On other devices looking at values would wait for them; there a NaN shows in the state.
            if value is not None and value.device.type == "cpu" and not bool(torch.isfinite(value).all()):
                place = (~torch.isfinite(value)).nonzero()[0].tolist()
                whose = "signal" if name == "signal" else "controlled vehicle"
                raise TrafficGradError(f"Action.{name} is not finite for {whose} {place[-1]} of world {place[-2]}")

    # ------------------------------------------------------------------ stages

    def _look(self, state: TrafficState, neighbors: Neighbors | None) -> View:
        tables = self.network.tables(state.position.dtype, state.position.device)
        model = self.car_following.for_drivers(state.driver)
        lane = state.lane.clamp(min=0)
        factor = look_up(self.fleet.speed_factor, state.driver)
        if self.network.has_speed_limits:
            model = limit_speed(model, tables.limit(lane) * factor)
        length = look_up(self.fleet.length, state.driver)
        if neighbors is None:
            neighbors = self.neighbors(state)
        on_road = state.active & (state.lane >= 0)
        ahead, need = neighbors.ahead, None
        sides = on_road[..., None]
        if ahead is not None:
            if self.network.has_speed_limits:
                model = self._slow_in_time(model, ahead, tables, factor)
            sides = sides & may_change(state, length, ahead, tables)
        right, left = sides[..., 0] & (tables.right[lane] >= 0), sides[..., -1] & (tables.left[lane] >= 0)
        exists = torch.stack([right, on_road, left], -1)
        if ahead is not None and self.lane_change is not None and self.network.max_lanes > 1:
            need = route_need(state, tables)
        return View(tables, model, length, neighbors, exists, need)

    def _slow_in_time(self, model: CarFollowing, ahead: Ahead, tables: LaneTables, factor: PerDriver) -> CarFollowing:
        """For a lower limit ahead: the desired speed from which comfortable braking reaches it there."""
        slower = ahead.slow >= 0
        limit = tables.limit(ahead.slow.clamp(min=0)) * factor
        distance = torch.where(ahead.slow_distance > 0.0, ahead.slow_distance, 0.0)
        square = limit**2 + 2.0 * model.comfortable_deceleration * torch.where(slower, distance, 0.0)
        known = slower & torch.isfinite(square)
        return limit_speed(model, torch.where(known, torch.where(known, square, 1.0).sqrt(), math.inf))

    def _restrain(
        self, state: TrafficState, view: View, following: Tensor, passage: Passage | None
    ) -> tuple[Tensor, Changes | None]:
        """What drivers do behind their leaders, as far as junctions, lane ends and others' lane changes allow it."""
        ahead = view.neighbors.ahead
        if passage is None or ahead is None:
            return following, None
        bounds = [
            passage_acceleration(passage, view.model, state, ahead),
            end_of_lane(state, view.model, ahead, view.tables),
        ]
        if view.need is not None:
            bounds.append(make_room(state, view.model, view.neighbors, view.exists, view.need))
        for bound in bounds:
            following = torch.where(bound < following, bound, following)
        gate = stop_at_gate(passage, view.model, state, ahead, view.tables.junctions)
        restrained = torch.where((passage.closed | passage.enters) & (gate < following), gate, following)
        if self.signals is None or self.signal_gradient.mode == "blocked":
            return restrained, None
        change = changes(self.signals, state, view, passage, self.dt, self.signal_gradient.headway)
        shared = shared_step(change, following, gate, self.dt, self.signal_gradient.mode)
        return torch.where(change.turns_green | change.turns_red, shared, restrained), change

    def _let_in(self, state: TrafficState, coming: tuple[Tensor, Tensor] | None) -> TrafficState:
        """Vehicles that come; ``coming`` to each lane next before the step, [B, A] slots and metres."""
        return state if self.demand is None else self.demand.advance(state, self._entrance(state, coming))

    def _entrance(self, state: TrafficState, coming: tuple[Tensor, Tensor] | None) -> Entrance:
        """What vehicles that want to enter see of the road."""
        t = self.network.tables(state.position.dtype, state.position.device)
        length = look_up(self.fleet.length, state.driver)
        rear, speed = last_vehicles(state, t, length)
        drivers = EntryDrivers.of(self.car_following, self.fleet)
        if coming is None:
            return Entrance(self.network, drivers, self.fleet.slots, self.dt, rear, speed)
        # Who was coming before this step has come nearer by what he drove.
        who, distance = coming
        pace = state.speed.gather(1, who.clamp(min=0))
        pace = torch.where(who >= 0, pace, 0.0)
        near = distance - pace * self.dt
        return Entrance(self.network, drivers, self.fleet.slots, self.dt, rear, speed, near, pace)

    def _accelerate(
        self, state: TrafficState, following: Tensor, action: Action | None, noise: Tensor | None
    ) -> Tensor:
        acceleration = following
        slots = self.fleet.slots
        if action is not None and len(slots):
            acceleration = acceleration.index_copy(1, slots, action.acceleration)
        if noise is not None:
            size = look_up(self.fleet.acceleration_noise, state.driver)
            acceleration = acceleration + size * (noise * math.sqrt(self.dt))
        if math.isfinite(self.max_braking):
            acceleration = torch.where(acceleration > -self.max_braking, acceleration, -self.max_braking)
        if action is not None and any(self.fleet.limited):
            limited = slots[self.fleet.limited]
            own, bound = acceleration[:, limited], following[:, limited]
            acceleration = acceleration.index_copy(1, limited, torch.where(own < bound, own, bound))
        return torch.where(state.active, acceleration, 0.0)

    def _move(
        self, state: TrafficState, view: View, acceleration: Tensor, carried: Tensor | None, action: Action | None
    ) -> tuple[TrafficState, Tensor]:
        """Integrate and cross edge ends; lanes beside are not entered yet. Also returns the displacement."""
        displacement, speed = integrate(state.speed, acceleration, carried, self.dt, self.integrator)
        lateral = state.lateral * self.lane_gradient.decay(self.dt)
        heading = state.heading
        if self.fleet.rows("steered") and action is not None:
            rows, slots = self.fleet.rows("steered"), self.fleet.slots[self.fleet.rows("steered")]
            pushed = acceleration if carried is None else acceleration + carried
            angle = torch.zeros_like(action.acceleration) if action.steering is None else action.steering
            length = view.length[:, slots] if isinstance(view.length, Tensor) else view.length
            motion = kinematic_bicycle(
                state.speed[:, slots], heading[:, slots], pushed[:, slots], angle[:, rows], length, self.dt
            )
            displacement = displacement.index_copy(1, slots, motion.along)
            speed = speed.index_copy(1, slots, motion.speed)
            lateral = lateral.index_copy(1, slots, state.lateral[:, slots] + motion.across)
            heading = heading.index_copy(1, slots, heading[:, slots] + motion.turned)
        displacement = torch.where(state.active, displacement, 0.0)
        waited = state.cooldown - self.dt
        moved = dataclasses.replace(
            self._cross_edge_ends(state.position + displacement, state, view.tables),
            speed=torch.where(state.active, speed, 0.0),
            lateral=lateral,
            heading=heading,
            # Rounding may leave a crumb of a whole number of steps.
            cooldown=torch.where(waited > 1e-3 * self.dt, waited, 0.0),
            time=self._next_time(state.time),
        )
        return moved, displacement

    def _next_time(self, time: Tensor) -> Tensor:
        """One step later. Whole numbers of steps stay so: in float32 a sum of 36,000 tenths is off by a second."""
        steps = time / self.dt
        whole = torch.round(steps)
        return torch.where((steps - whole).abs() < 0.01, (whole + 1.0) * self.dt, time + self.dt)

    def _cross_edge_ends(self, position: Tensor, state: TrafficState, t: LaneTables) -> TrafficState:
        """Go on to the lanes that follow; who has none left leaves the road, unless others of its edge lead on."""
        lane, active, previous, route_index = state.lane, state.active, state.previous, state.route_index
        branched = not self.network.is_unbranched
        row = plan_row(state, t) if branched else route_index
        for _ in range(self.crossings):
            here = lane.clamp(min=0)
            passed = (position >= t.length[here]) & (lane >= 0) & active
            following = lane_after(here, row, t) if branched else t.successor[here]
            if branched:
                # A lane that ends beside others that lead on is left by changing lanes alone.
                stuck = passed & (following < 0) & ~t.plan.ends[row] & ~t.junctions.is_junction[here]
                position = torch.where(stuck, t.length[here], position)
                passed = passed & ~stuck
            if not self.network.is_closed:
                active = active & ~(passed & (following < 0))
                passed = passed & (following >= 0)
            position = torch.where(passed, position - t.length[here], position)
            previous = torch.where(passed, lane, previous)
            lane = torch.where(passed, following, lane)
            if branched:
                row = torch.where(passed, row_after(lane.clamp(min=0), row, state.route, t), row)
            if position.device.type == "cpu" and not bool(passed.any()):
                break
        if branched:
            start = t.plan.route_start[state.route.clamp(min=0)]
            route_index = torch.where(state.route >= 0, row - start, route_index)
        if self.fleet.rows("steered"):  # they may reverse over the start of an edge
            here = lane.clamp(min=0)
            back = (position < 0) & (lane >= 0) & (t.predecessor[here] >= 0)
            lane = torch.where(back, t.predecessor[here], lane)
            position = torch.where(back, position + t.length[lane.clamp(min=0)], position)
        return dataclasses.replace(
            state,
            position=position,
            lane=lane,
            active=active,
            previous=previous,
            route_index=route_index,
            left=state.left + (state.active & ~active).sum(1),
        )
