"""The traffic environment: a scenario's simulator, observation, reward and autoreset, as pure batched functions."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trafficgrad import metrics, tree
from trafficgrad.envs.base import DifferentiableEnv, Transition
from trafficgrad.envs.held_action import SWITCH, ActionBounds, HeldAction, Switches, action_labels, encode
from trafficgrad.envs.lane_command import LaneCommand
from trafficgrad.envs.outcome import Driven, Judge, Outcome, wish_of
from trafficgrad.errors import TrafficGradError
from trafficgrad.observations import controlled_signals, observation_labels, observe
from trafficgrad.randomness import mix
from trafficgrad.rewards import WeightedReward
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Neighbors, TrafficState
from trafficgrad.traffic_scenario import TrafficScenario
from trafficgrad.trajectory import Trajectory
from trafficgrad.tree import register_record


@register_record
@dataclass(frozen=True)
class Scene:
    """Traffic, and what is observed of it."""

    traffic: TrafficState
    observation: Tensor  # [B, C, O] or [B, C * O]


@register_record
@dataclass(frozen=True)
class TrafficEnvState:
    """State of ``B`` traffic environments."""

    scene: Scene
    elapsed: Tensor  # [B] int64, decisions since the episode began
    pool: Scene  # P initial states drawn beforehand
    pool_next: Tensor  # [B] int64, which of them the world takes at its next reset

    @property
    def observation(self) -> Tensor:
        """What the policy sees."""
        return self.scene.observation

    @property
    def traffic(self) -> TrafficState:
        """The simulator's state."""
        return self.scene.traffic


class TrafficEnv(DifferentiableEnv):
    """A traffic scenario as environment.

    An action row holds the acceleration (in units of the scenario's ``acceleration_scale``, clipped to its bounds
    with slope 0 outside) and, depending on the control, the lane request (above 1/3 left, below -1/3 right) or the
    steering; with ``control.command: heading_and_speed`` a desired speed and heading. It is held for
    ``decision_steps`` simulator steps (:class:`~trafficgrad.envs.held_action.HeldAction`). With ``control.signals:
    switch`` every controlled signal takes a number, above 0 asks for its next phase: in a row of its own where no
    vehicle is controlled, else behind the joined rows of the vehicles.

    ``step(..., action=None)`` lets the controlled vehicles drive like everybody else. A scenario in which nothing is
    controlled runs too, with observations and actions of no rows; :meth:`require_control` refuses it where a policy is
    needed.
    What the scenario's ``failure`` section names ends the episode, and may replace the decision's reward.
    """

    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        scenario: TrafficScenario,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rewards: Mapping[str, WeightedReward] | None = None,
    ) -> None:
        """``seed`` draws the table of human drivers.

        ``rewards``: weight and function of terms that are added to those of the scenario, by name; see
        :mod:`trafficgrad.rewards`. They are computed in PyTorch.

        Raises:
            TrafficGradError: the scenario has a term of that name.
        """
        self.scenario, self.device, self.dtype = scenario, torch.device(device), dtype
        self.simulator = scenario.build(seed, dtype, device)
        self.slots = self.simulator.fleet.slots
        switched = scenario.control.signals == "switch"
        signals = controlled_signals(self.simulator).to(self.device) if switched else self.slots[:0]
        count = 0 if self.simulator.signals is None else self.simulator.signals.count
        self.switches = Switches(signals, count)
        self.human = torch.ones(scenario.total, dtype=torch.bool, device=self.device)
        self.human[self.slots] = False
        self._rewards = dict(rewards or {})
        self._judge = Judge(scenario, self.simulator, self.human, self._rewards)
        shared = scenario.observation.shared
        rows = len(self.slots) or len(signals)
        self.agents = rows if shared else None
        self.observation_labels = observation_labels(scenario, self.simulator) if rows else ()
        actions = (action_labels(scenario) if len(self.slots) else SWITCH) if rows else ()
        if not rows:
            self.agents = 0
        elif not shared:
            names = [self.simulator.network.signals[s].name for s in signals.tolist()]
            driving = [f"{c}: {x}" for c in range(len(self.slots)) for x in actions]
            actions = (*driving, *(f"signal {name}: {x}" for name in names for x in SWITCH))
        self.action_labels = actions
        self.horizon = scenario.horizon
        self.target = self._judge.target
        self.task_measures = ("mean_speed", "speed_deviation") if self.target is None else ("speed_error", "mean_speed")
        self._open = self._judge.is_open
        known = self.simulator.demand is None and not self._rewards  # to the fused kernel
        self._wish = wish_of(scenario, self.target) if known else None
        self._lanes = self._lane_command()
        self._bounds = ActionBounds(scenario, self.dtype, self.device)

    # ------------------------------------------------------------------ interface

    def with_simulator(self, simulator: Simulator) -> TrafficEnv:
        """The same environment on another simulator of the same vehicles, with other parameters."""
        other = copy.copy(self)
        other.simulator = simulator
        other._judge = Judge(self.scenario, simulator, self.human, self._rewards)
        other._lanes = other._lane_command()
        return other

    def reset(self, batch: int, generator: torch.Generator | None = None) -> TrafficEnvState:
        """Draw the pool of warmed-up initial states and start ``batch`` worlds from it."""
        count = max(1, self.scenario.pool_size)
        pool = self.scenario.initial_state(count, generator, self.dtype, self.device, simulator=self.simulator)
        return self.start(pool, batch)

    def start(self, pool: TrafficState, batch: int | None = None) -> TrafficEnvState:
        """Start worlds from given traffic states: world b from row b modulo the pool's size."""
        with torch.no_grad():
            scenes = self._look(pool)
        batch = pool.worlds if batch is None else batch
        worlds = torch.arange(batch, device=self.device)
        rows = worlds % pool.worlds
        scene = tree.index(scenes, rows)
        if self.simulator.demand is not None and batch > pool.worlds:  # worlds from the same row part from now on
            seed = scene.traffic.seed
            parted = torch.where(worlds < pool.worlds, seed, mix(seed, worlds // pool.worlds))
            scene = _with_seed(scene, parted)
        return TrafficEnvState(scene, torch.zeros_like(rows), scenes, (rows + batch) % pool.worlds)

    @torch.no_grad()
    def stagger(self, env_state: TrafficEnvState, generator: torch.Generator | None = None) -> TrafficEnvState:
        """Give every world a random place in its episode, so that resets spread evenly over time.

        Traffic that was warmed up looks the same at all times, so setting the clock is enough, unless its demand
        begins, ends or follows a schedule. Otherwise the worlds are driven there, the controlled vehicles like
        everybody else: worlds in the same phase would all fail together, and every update would see one phase only.
        """
        place = self.device if generator is None else generator.device
        elapsed = torch.randint(0, self.horizon, env_state.elapsed.shape, generator=generator, device=place)
        elapsed = elapsed.to(self.device)
        if self.scenario.simulation.warmup_steps and self._is_stationary():
            return dataclasses.replace(env_state, elapsed=elapsed)
        for t in range(int(elapsed.max())):
            driven, _ = self.step(env_state, None, self.sample_noise(len(elapsed), generator))
            going = t < elapsed
            env_state = dataclasses.replace(
                env_state,
                scene=tree.where(going, driven.scene, env_state.scene),
                elapsed=torch.where(going, driven.elapsed, env_state.elapsed),
                pool_next=torch.where(going, driven.pool_next, env_state.pool_next),
            )
        return env_state

    def sample_noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """[decision_steps, B, N] standard normal."""
        shape = (self.scenario.simulation.decision_steps, batch, self.scenario.total)
        place = self.device if generator is None else generator.device
        return torch.randn(shape, dtype=self.dtype, device=place, generator=generator).to(self.device)

    def step(
        self, env_state: TrafficEnvState, action: Tensor | None, noise: Tensor | None = None
    ) -> tuple[TrafficEnvState, Transition]:
        """One decision; see the class."""
        env_state, transition, _ = self.advance(env_state, action, noise)
        return env_state, transition

    def advance(
        self, env_state: TrafficEnvState, action: Tensor | None, noise: Tensor | None = None
    ) -> tuple[TrafficEnvState, Transition, Driven]:
        """Like :meth:`step`; also returns what happened in all simulator steps, for recording."""
        begin = env_state.scene.traffic
        plan = None
        if action is not None:
            plan = HeldAction(self.scenario, action, begin, self.slots, self.switches, self._lanes)
        outcome, driven = self._decide(begin, plan, noise) or self._drive(begin, plan, noise)
        failed, reward = outcome.failed, None
        for name, (weight, _) in self._judge.rewards.items():
            part = outcome.parts[name] if weight == 1.0 else weight * outcome.parts[name]
            reward = part if reward is None else reward + part
        if reward is None:
            reward = begin.speed.new_zeros(begin.worlds)
        if self.scenario.failure.reward is not None:
            reward = torch.where(failed, self.scenario.failure.reward, reward)
        terms = {name: part.detach() for name, part in outcome.parts.items()} | outcome.measures
        if outcome.observation is None:
            scene = self._look(outcome.last, outcome.around)
        else:
            scene = Scene(outcome.last, outcome.observation)
        elapsed = env_state.elapsed + 1
        transition_end = {"terminated": failed, "truncated": (elapsed >= self.horizon) & ~failed}
        transition = Transition(scene.observation, scene.observation, reward, **transition_end, terms=terms)
        after_reset = self.restart(dataclasses.replace(env_state, scene=scene, elapsed=elapsed), transition.done)
        return after_reset, dataclasses.replace(transition, observation=after_reset.observation), driven

    def _decide(
        self, begin: TrafficState, plan: HeldAction | None, noise: Tensor | None
    ) -> tuple[Outcome, Driven] | None:
        """All simulator steps of a decision and what they lead to in one call of the fused kernel; None where that
        cannot be.
        """
        if self._wish is None:
            return None
        steps = self.scenario.simulation.decision_steps
        action = None if plan is None else plan.constant(begin, steps, self._bounds)
        if plan is not None and action is None:
            return None
        decision = self.simulator.decide(begin, steps, action, noise, self._wish)
        if decision is None:
            return None
        outcome = self._judge.told(decision, self.scenario.observation.shared)
        return outcome, Driven(decision.whole, [action], steps)

    def _drive(self, begin: TrafficState, plan: HeldAction | None, noise: Tensor | None) -> tuple[Outcome, Driven]:
        """The same in PyTorch, but for the simulator steps."""
        found = self._drive_at_once(begin, plan, noise) or self._drive_step_by_step(begin, plan, noise)
        driven, last, overlapping, changes, around = found
        return self._judge.judge(driven, begin, last, overlapping, changes, around), driven

    def _drive_at_once(
        self, begin: TrafficState, plan: HeldAction | None, noise: Tensor | None
    ) -> tuple[Driven, TrafficState, Tensor, Tensor, Neighbors] | None:
        """All simulator steps of a decision in one call of the fused kernel; None where that cannot be."""
        if self._open and plan is not None and len(self.slots):
            return None  # the action is not for those who come to a slot in between
        steps = self.scenario.simulation.decision_steps
        action = None if plan is None else plan.constant(begin, steps, self._bounds)
        if plan is not None and action is None:
            return None
        record = self.simulator.hold(begin, steps, action, noise)
        if record is None:
            return None
        whole, overlapping = record
        last = whole.state(-1)
        around = self.simulator.neighbors(last)
        overlapping = torch.cat([overlapping[1:], metrics.overlaps(around).any(-1)[None]])
        changes = metrics.lane_changes(whole, self.simulator.network).to(self.dtype)
        return Driven(lambda: whole, [action], steps), last, overlapping, changes, around

    def _drive_step_by_step(
        self, begin: TrafficState, plan: HeldAction | None, noise: Tensor | None
    ) -> tuple[Driven, TrafficState, Tensor, Tensor, Neighbors]:
        state, changes = begin, begin.speed.new_zeros(begin.worlds)
        around = None
        states: list[TrafficState] = [begin]
        actions: list[Action | None] = []
        overlapping = []
        for i in range(self.scenario.simulation.decision_steps):
            applied = plan.at(i, state) if plan is not None else None
            after = self.simulator.step(state, applied, None if noise is None else noise[i], around)
            around = self.simulator.neighbors(after)
            changed = metrics.changed_lanes(state, after, self.simulator.network)
            if plan is not None:
                plan.granted(changed)
            changes = changes + (changed & after.active).sum(-1)
            states.append(after)
            actions.append(applied)
            overlapping.append(metrics.overlaps(around).any(-1))
            state = after
        assert around is not None
        driven = Driven(lambda: Trajectory.of(states, None, self.simulator.dt), actions, len(actions))
        return driven, state, torch.stack(overlapping), changes, around

    def rewards_of(self, trajectory: Trajectory) -> Tensor:
        """The reward of every simulator step of a trajectory of this scenario, [T, B]; differentiable.

        The reward of a decision is the mean over its steps. What the ``failure`` section does is left out.
        """
        return self._judge.rewards_along(trajectory, trajectory.actions)

    def restart(self, env_state: TrafficEnvState, done: Tensor) -> TrafficEnvState:
        """The worlds ``done`` [B] bool begin anew, from the next states of the pool; :meth:`step` ends with it."""
        # Looking at the values is free on a CPU; elsewhere it would wait for the device.
        if self.device.type == "cpu" and not bool(done.any()):
            return env_state
        fresh = tree.index(env_state.pool, env_state.pool_next)
        if self.simulator.demand is not None:  # after those already on their way a row brings others each time
            fresh = _with_seed(fresh, mix(fresh.traffic.seed, env_state.traffic.seed))
        size, worlds = env_state.pool.traffic.worlds, len(done)
        return dataclasses.replace(
            env_state,
            scene=tree.where(done, fresh, env_state.scene),
            elapsed=torch.where(done, 0, env_state.elapsed),
            pool_next=torch.where(done, (env_state.pool_next + worlds) % size, env_state.pool_next),
        )

    def encode(self, action: Action, traffic: TrafficState) -> Tensor:
        """The action row(s) that make the controlled vehicles do ``action`` now (for scripted controllers)."""
        rows, requests = encode(self.scenario, action, traffic, self.slots, self.switches)
        if self.agents is None:
            return torch.cat([rows.flatten(1), requests], 1)
        return rows if len(self.slots) else requests[..., None]

    @property
    def may_be_absent(self) -> bool:
        """Whether agents are vehicles that come and go."""
        return self.agents is not None and len(self.slots) > 0 and self._open

    def present(self, env_state: TrafficEnvState) -> Tensor | None:
        """See the base class; on roads that nobody comes to or leaves everybody is always there."""
        return env_state.traffic.active[:, self.slots] if self.may_be_absent else None

    def require_control(self) -> None:
        """See the base class."""
        if not self.action_labels:
            raise TrafficGradError(
                f"scenario {self.scenario.name!r} has no controlled vehicle: set vehicles.controlled.count to at least "
                "1" + ("" if self.simulator.signals is None else " (or control.signals: switch)")
            )

    # ------------------------------------------------------------------ parts

    def _lane_command(self) -> LaneCommand | None:
        control = self.scenario.control
        if control.command != "lanes":
            return None
        return LaneCommand(control.lanes, control.speed, self.simulator)

    def _look(self, traffic: TrafficState, around: Neighbors | None = None) -> Scene:
        if not self.observation_labels:
            return Scene(traffic, traffic.speed.new_zeros(traffic.worlds, 0, 0))
        scenario = self.scenario
        return Scene(traffic, observe(traffic, around, self.simulator, scenario.observation, scenario.control))

    def _is_stationary(self) -> bool:
        """Whether traffic that was warmed up meets the same demand at all times."""
        if self.simulator.demand is None:
            return True
        warm = self.scenario.simulation.warmup_steps * self.simulator.dt
        inflows = self.simulator.demand.inflows
        return all(i.kind != "schedule" and i.begin <= warm and math.isinf(i.end) for i in inflows)


def _with_seed(scene: Scene, seed: Tensor) -> Scene:
    return dataclasses.replace(scene, traffic=dataclasses.replace(scene.traffic, seed=seed))
