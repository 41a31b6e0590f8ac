"""The traffic environment: a scenario's simulator, observation, reward and autoreset, as pure batched functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trafficgrad import metrics, tree
from trafficgrad.envs.base import DifferentiableEnv, Transition
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import scale_gradient
from trafficgrad.observations import local_labels, observe_local
from trafficgrad.rewards import reward_terms
from trafficgrad.scenario_models import PaceReward
from trafficgrad.state import Action, Neighbors, TrafficState
from trafficgrad.traffic_scenario import TrafficScenario
from trafficgrad.tree import register_record


@register_record
@dataclass(frozen=True)
class Scene:
    """Traffic, who surrounds whom in it, and what is observed of it."""

    traffic: TrafficState
    neighbors: Neighbors
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
    steering. The acceleration is held for ``decision_steps`` simulator steps. The lane request is offered in each of
    them until it is granted; its gradient is that of the granting step, or the mean over the offers if none was
    granted.

    ``step(..., action=None)`` lets the controlled vehicles drive like everybody else.
    An overlap of two vehicles is a collision and ends the episode.
    """

    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        scenario: TrafficScenario,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``seed`` draws the table of human drivers."""
        self.scenario, self.device, self.dtype = scenario, torch.device(device), dtype
        self.simulator = scenario.build(seed, dtype, device)
        self.slots = self.simulator.fleet.slots
        if len(self.slots) == 0:
            raise TrafficGradError(
                f"scenario {scenario.name!r} has no controlled vehicle: set vehicles.controlled.count to at least 1"
            )
        self.human = torch.ones(scenario.total, dtype=torch.bool, device=self.device)
        self.human[self.slots] = False
        self._rewards = reward_terms(scenario.reward, self.human)
        shared = scenario.observation.shared
        self.agents = len(self.slots) if shared else None
        labels = local_labels(scenario.observation, self.simulator.network.max_lanes)
        second = {"lane": ("lane_request",), "steered": ("steering",), "acceleration": ()}[
            scenario.vehicles.controlled.control
        ]
        actions = ("acceleration", *second)
        every = range(len(self.slots))
        self.observation_labels = labels if shared else tuple(f"{c}: {x}" for c in every for x in labels)
        self.action_labels = actions if shared else tuple(f"{c}: {x}" for c in every for x in actions)
        self.horizon = scenario.horizon
        self.target = next((term.target for term in scenario.reward if isinstance(term, PaceReward)), None)
        self.task_measures = ("mean_speed", "speed_deviation") if self.target is None else ("speed_error", "mean_speed")

    # ------------------------------------------------------------------ interface

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
        rows = torch.arange(batch, device=self.device) % pool.worlds
        return TrafficEnvState(tree.index(scenes, rows), torch.zeros_like(rows), scenes, (rows + batch) % pool.worlds)

    def stagger(self, env_state: TrafficEnvState, generator: torch.Generator | None = None) -> TrafficEnvState:
        """Give every world a random place in its episode, so that resets spread evenly over time."""
        place = self.device if generator is None else generator.device
        elapsed = torch.randint(0, self.horizon, env_state.elapsed.shape, generator=generator, device=place)
        return dataclasses.replace(env_state, elapsed=elapsed.to(self.device))

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
    ) -> tuple[TrafficEnvState, Transition, list[TrafficState]]:
        """Like :meth:`step`; also returns the state after each simulator step (before any reset), for recording."""
        state, around = env_state.scene.traffic, env_state.scene.neighbors
        steps = self.scenario.simulation.decision_steps
        plan = _HeldAction(self, action, steps, state) if action is not None else None
        index = self.simulator.network.tables(self.dtype, self.device).number
        states, sums = [], dict.fromkeys(self._rewards, state.speed.new_zeros(state.worlds))
        collided = torch.zeros(state.worlds, dtype=torch.bool, device=self.device)
        changes = state.speed.new_zeros(state.worlds)
        for i in range(steps):
            applied = plan.at(i) if plan is not None else None
            after = self.simulator.step(state, applied, None if noise is None else noise[i], around)
            around = self.simulator.neighbors(after)
            changed = index[after.lane.clamp(min=0)] != index[state.lane.clamp(min=0)]
            if plan is not None:
                plan.granted(changed[:, self.slots])
            for name, (_, function) in self._rewards.items():
                sums[name] = sums[name] + function(state, applied, after, around)
            collided = collided | metrics.overlaps(around).any(-1)
            changes = changes + changed.sum(-1)
            state = after
            states.append(state)
        parts = {name: total / steps for name, total in sums.items()}
        reward = state.speed.new_zeros(state.worlds)
        for name, (weight, _) in self._rewards.items():
            reward = reward + weight * parts[name]
        terms = {name: part.detach() for name, part in parts.items()} | self._measures(state, changes, collided)
        scene = Scene(state, around, self._observe(state, around))
        elapsed = env_state.elapsed + 1
        transition_end = {"terminated": collided, "truncated": (elapsed >= self.horizon) & ~collided}
        transition = Transition(scene.observation, scene.observation, reward, **transition_end, terms=terms)
        after_reset = self._autoreset(dataclasses.replace(env_state, scene=scene, elapsed=elapsed), transition.done)
        return after_reset, dataclasses.replace(transition, observation=after_reset.observation), states

    def encode(self, action: Action) -> Tensor:
        """The action row(s) that make the controlled vehicles do ``action`` (for scripted controllers)."""
        control = self.scenario.control
        parts = [action.acceleration / control.acceleration_scale]
        if self.scenario.vehicles.controlled.control == "lane":
            parts.append(torch.zeros_like(parts[0]) if action.lane is None else action.lane)
        elif self.scenario.vehicles.controlled.control == "steered":
            parts.append(
                torch.zeros_like(parts[0]) if action.steering is None else action.steering / control.steering_scale
            )
        row = torch.stack(parts, -1)
        return row if self.agents is not None else row.flatten(1)

    # ------------------------------------------------------------------ parts

    def _look(self, traffic: TrafficState) -> Scene:
        around = self.simulator.neighbors(traffic)
        return Scene(traffic, around, self._observe(traffic, around))

    def _observe(self, traffic: TrafficState, around: Neighbors) -> Tensor:
        rows = observe_local(traffic, around, self.simulator, self.scenario.observation)
        return rows if self.agents is not None else rows.flatten(1)

    @torch.no_grad()
    def _measures(self, state: TrafficState, changes: Tensor, collided: Tensor) -> dict[str, Tensor]:
        measures = {
            "mean_speed": metrics.mean_speed(state),
            "speed_deviation": metrics.speed_deviation(state, self.human),
            "lane_changes": changes,
            "collisions": collided.to(state.speed.dtype),
        }
        if self.target is not None:
            measures["speed_error"] = metrics.speed_error(state, self.target, self.human)
        return measures

    def _autoreset(self, env_state: TrafficEnvState, done: Tensor) -> TrafficEnvState:
        # Looking at the values is free on a CPU; elsewhere it would wait for the device.
        if self.device.type == "cpu" and not bool(done.any()):
            return env_state
        fresh = tree.index(env_state.pool, env_state.pool_next)
        size, worlds = env_state.pool.traffic.worlds, len(done)
        return dataclasses.replace(
            env_state,
            scene=tree.where(done, fresh, env_state.scene),
            elapsed=torch.where(done, 0, env_state.elapsed),
            pool_next=torch.where(done, (env_state.pool_next + worlds) % size, env_state.pool_next),
        )


class _HeldAction:
    """One decision's action, offered to the simulator step by step."""

    def __init__(self, env: TrafficEnv, action: Tensor, steps: int, like: TrafficState) -> None:
        rows = action.reshape(like.worlds, len(env.slots), -1)
        # Elsewhere than on a CPU looking at values would wait for the device.
        if rows.device.type == "cpu" and not bool(torch.isfinite(rows).all()):
            world, vehicle, _ = (~torch.isfinite(rows)).nonzero()[0].tolist()
            raise TrafficGradError(f"the action is not finite for controlled vehicle {vehicle} of world {world}")
        control, self._kind = env.scenario.control, env.scenario.vehicles.controlled.control
        low, high = control.acceleration
        self._acceleration = _clip(rows[..., 0] * control.acceleration_scale, low, high)
        self._second = rows[..., 1] if rows.shape[-1] > 1 else None
        if self._kind == "steered" and self._second is not None:
            self._second = _clip(self._second * control.steering_scale, *control.steering)
        self._done = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        # Weights of the offers' gradients; they are known at the decision's end, before anybody asks for a gradient.
        self._weights = rows.new_full((steps, *rows.shape[:2]), 1.0 / steps)
        self._step = 0

    def at(self, i: int) -> Action:
        """The action of simulator step ``i``."""
        self._step = i
        if self._kind != "lane" or self._second is None:
            return Action(self._acceleration, None, self._second)
        request = scale_gradient(self._second, self._weights[i])
        return Action(self._acceleration, torch.where(self._done, 0.0, request))

    def granted(self, changed: Tensor) -> None:
        """Tell which controlled vehicles [B, C] changed lane in the step just done."""
        first = changed & ~self._done
        only_here = torch.zeros_like(self._weights)
        only_here[self._step] = 1.0
        self._weights.copy_(torch.where(first, only_here, self._weights))
        self._done = self._done | changed


def _clip(x: Tensor, low: float, high: float) -> Tensor:
    return torch.where(x > low, torch.where(x < high, x, high), low)
