"""Traffic that is simulated while it is watched: a source of frames that can be driven by others, or by hand, anew.

Decision after decision an environment goes on; what happened is kept in blocks, each drawn by frames of its own. To
let somebody else drive from a moment on, everything after it is forgotten; the noise stays what it was, so nothing but
the driver makes the difference. A window of decisions gets its gradient by driving it once more, with the same actions,
on a graph: once with straight-through lane changes and once with blocked ones; what is between is their share.
"""

from __future__ import annotations

import dataclasses
import math
import time as clock
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.agents.actor_critic import Policy
from trafficgrad.agents.episodes import EnvController, Traffic
from trafficgrad.car_following.base import limit_speed, look_up
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.errors import TrafficGradError
from trafficgrad.lane_change.base import OWN
from trafficgrad.network import RoadNetwork
from trafficgrad.render.frames import LANE_CHANGE_TIME, Details, TrajectoryFrames
from trafficgrad.render.moment import Frame, Gradient, Insight
from trafficgrad.render.style import Array
from trafficgrad.render.viewer import Wheel
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory

WINDOW = 32  # decisions of which the return is differentiated
HUMAN = "human driver"
_BLOCK_SECONDS = 1.0  # s of traffic that are drawn by the same frames, at least one decision
MOST_NUMBERS = 2e8  # of all kept states together, while somebody watches; then the beginning is forgotten


@dataclass(frozen=True)
class _Decision:
    """One decision and what led to it; the environment's state is that before it."""

    state: TrafficEnvState
    action: Tensor | None  # None: everybody drives like the others
    insight: Insight
    reward: float
    over: bool  # the episode ended with it
    states: list[TrafficState]  # after every simulator step


@dataclass
class _Block:
    """Decisions ``first`` to ``last`` (exclusive) and the frames that show them."""

    first: int
    last: int
    frames: TrajectoryFrames


@dataclass
class LiveTraffic:
    """One world of an environment as a source of frames (:class:`~trafficgrad.render.viewer.Drivable`).

    Args:
        env: the environment. traffic: one world's initial state and noise (``agents.episodes.held_out_traffic``).
        controllers: who may drive, by name, the first begins; None drives like everybody else.
        policy: whose mean and deviation are shown while the controller of that name drives.
        block_seconds: s of traffic that are simulated before any of them is shown.
        gradients: windows get their gradient.
        most_numbers: of all kept states together; beyond, the beginning is forgotten and cannot be shown any more.
    """

    env: TrafficEnv
    traffic: Traffic
    controllers: Mapping[str, EnvController | None]
    policy: tuple[str, Policy] | None = None
    block_seconds: float = _BLOCK_SECONDS
    gradients: bool = False
    most_numbers: float = math.inf

    network: RoadNetwork = field(init=False)
    max_speed: float = field(init=False)
    drivers: tuple[str, ...] = field(init=False)
    driver: str = field(init=False)

    def __post_init__(self) -> None:
        env = self.env
        self.network = env.simulator.network
        self.drivers = tuple(self.controllers)
        self.driver = self.drivers[0]
        self._steps = env.scenario.simulation.decision_steps
        self.step = env.simulator.dt
        self._seconds = self.step * self._steps
        self.start = float(self.traffic.initial.time[0])
        self._horizon = env.horizon
        self._generator = torch.Generator()
        self._generator.set_state(self.traffic.generators[0].get_state())
        self._noise: list[Tensor] = []
        self._decisions: list[_Decision] = []
        self._blocks: list[_Block] = []
        self._gradients: dict[int, list[Gradient]] = {}  # of windows, by their first decision
        self._worker: ThreadPoolExecutor | None = None
        self._pending: tuple[int, Future[list[Gradient]]] | None = None  # first decision, and what comes
        self._dropped = 0  # decisions whose states were forgotten
        self._state = env.start(self.traffic.initial)
        self._over = False
        self._wheels: dict[int, Wheel] = {}
        self.max_speed = self._fastest()
        self._simulate_block()

    def _fastest(self) -> float:
        """A round speed (m/s) that traffic hardly exceeds: above what is aimed at, and near what drivers wish for."""
        initial, env = self.traffic.initial, self.env
        desired = torch.as_tensor(look_up(env.simulator.car_following.desired_speed, initial.driver))
        wished = desired.expand_as(initial.active)[initial.active]
        speed = max(0.8 * float(wished.median()) if len(wished) else 16.0, 1.25 * (env.target or 0.0))
        return float(np.ceil(max(speed, 1.0) / 5.0 - 1e-6) * 5.0)

    # ------------------------------------------------------------------ a source of frames

    @property
    def end(self) -> float:
        """S, the end of the episode: when it ended, or the time limit."""
        count = len(self._decisions) if self._over else self._horizon
        return self.start + count * self._seconds

    @property
    def ready(self) -> float:
        """S, until when it is simulated and can be shown."""
        return self.start + self._blocks[-1].last * self._seconds

    def frame(self, time: float) -> Frame:
        """See :class:`~trafficgrad.render.moment.FrameSource`; at most :attr:`ready`."""
        time = min(max(time, self.start + self._dropped * self._seconds), self.ready)
        decision = min(int((time - self.start) / self._seconds + 1e-6), self._blocks[-1].last - 1)
        block = next(b for b in reversed(self._blocks) if b.first <= decision)
        frame = block.frames.frame(time)
        gradient = self._gradient_at(decision)
        if gradient is None:
            return frame
        return replace(frame, insight=replace(frame.insight, gradient=gradient))

    def prepare(self, time: float, seconds: float) -> None:
        """See :class:`~trafficgrad.render.viewer.Drivable`."""
        begun = clock.perf_counter()
        ahead = WINDOW if self.gradients and not self._wheels else 0
        while not self._over and self._shown_until(ahead) < time:
            self._simulate_block()
            if clock.perf_counter() - begun > seconds:
                return
        if self.gradients:
            self._differentiate_meanwhile(int((time - self.start) / self._seconds))

    def finish(self, time: float | None = None) -> None:
        """Simulate to the end of the episode, or to ``time`` (s), at once, gradients too where they are asked for."""
        until = self.end if time is None else time
        while not self._over and self.ready < min(until, self.end) - 1e-9:
            self._simulate_block()
        if self.gradients:
            for first in range(0, len(self._decisions), WINDOW):
                if first not in self._gradients:
                    self._gradients[first] = self._window(first, self._decisions[first : first + WINDOW])

    def switch(self, driver: str, time: float) -> None:
        """See :class:`~trafficgrad.render.viewer.Drivable`."""
        self.driver = driver
        self._wheels = {}
        self._cut(time)

    def steer(self, vehicle: int, wheel: Wheel | None, time: float) -> str:
        """See :class:`~trafficgrad.render.viewer.Drivable`."""
        control = self.env.scenario.control.command
        if control != "direct":
            return f"no wheel here: the policy commands {control}; --set control.command=direct makes one"
        if not len(self.env.slots):
            return "nobody here is controlled"
        before = self._wheels.get(vehicle)
        if wheel is None:
            self._wheels.pop(vehicle, None)
        else:
            self._wheels[vehicle] = wheel
        if before != wheel or before is None:
            self._cut(time)
        return ""

    def trajectory(self) -> Trajectory:
        """Everything simulated so far.

        Raises:
            TrafficGradError: the beginning was forgotten.
        """
        if self._dropped:
            raise TrafficGradError("the beginning of this traffic was forgotten: set most_numbers to keep all of it")
        states = [self.traffic.initial, *(state for d in self._decisions for state in d.states)]
        return Trajectory.of(states, None, self.step)

    @property
    def rewards(self) -> Tensor:
        """Of every decision so far, [D]."""
        return torch.tensor([d.reward for d in self._decisions])

    # ------------------------------------------------------------------ simulating

    def _shown_until(self, ahead: int) -> float:
        """Time (s) until which everything that is asked for can be shown, ``ahead`` decisions being needed beyond."""
        count = self._blocks[-1].last
        return self.start + (count - count % ahead if ahead else count) * self._seconds

    def _simulate_block(self) -> None:
        """Some decisions more, and the frames that show them."""
        first = len(self._decisions)
        count = 1 if self._wheels else max(1, round(self.block_seconds / self._seconds))
        for _ in range(min(count, self._horizon - first)):
            self._decide()
            if self._over:
                break
        self._add_block(first)
        self._drop_oldest()

    @torch.no_grad()
    def _decide(self) -> None:
        place, env, state = len(self._decisions), self.env, self._state
        while len(self._noise) <= place:
            shape = (self._steps, env.scenario.total)
            drawn = torch.randn(shape, generator=self._generator, dtype=env.dtype)
            self._noise.append(drawn[:, None].to(env.device))
        controller = self.controllers[self.driver]
        action = controller(state) if controller is not None else None
        if self._wheels:
            action = self._by_hand(state, action)
        insight = self._insight(state)
        after, transition, driven = env.advance(state, action, self._noise[place])
        over = bool(transition.done[0])
        reward = float(transition.reward[0])
        kinds = [term.kind for term in env.scenario.reward]
        terms: dict[str, float] = {name: float(transition.terms[name][0]) for name in kinds if name in transition.terms}
        insight = replace(insight, terms={"reward": reward, **terms})
        states = [driven.state(t + 1) for t in range(driven.steps)]
        self._decisions.append(_Decision(state, action, insight, reward, over, states))
        self._state, self._over = after, over or place + 1 >= self._horizon

    def _insight(self, state: TrafficEnvState) -> Insight:
        driver, by_hand = self.driver, tuple(sorted(self._wheels))
        if self.policy is None or self.policy[0] != self.driver or not self.env.action_labels:
            return Insight(driver, by_hand=by_hand)
        mean, deviation = self.policy[1].distribution(state.observation)
        count = max(len(self.env.slots), 1)
        labels = self.env.action_labels
        each = (
            labels
            if self.env.agents is not None
            else tuple(x.partition(": ")[2] for x in labels[: len(labels) // count])
        )
        if not len(self.env.slots):
            return Insight(driver)
        own, spread = (
            x[0].reshape(-1)[: count * len(each)].reshape(count, -1).cpu().numpy() for x in (mean, deviation)
        )
        return Insight(driver, labels=each, mean=own, deviation=spread, by_hand=by_hand)

    def _by_hand(self, state: TrafficEnvState, action: Tensor | None) -> Tensor:
        """The action with what is steered by hand in it; without one everybody else drives like the others."""
        traffic, env = state.traffic, self.env
        if action is None:
            action = env.encode(self._like_others(traffic), traffic)
        rows = action.reshape(1, len(env.slots), -1).clone()
        control = env.scenario.control
        for vehicle, wheel in self._wheels.items():
            low, high = control.acceleration
            rows[0, vehicle, 0] = (high if wheel.drive > 0 else -low) * wheel.drive / control.acceleration_scale
            if rows.shape[-1] > 1:
                steered = env.scenario.vehicles.controlled.control == "steered"
                most = control.steering[1] / control.steering_scale if steered else 1.0
                rows[0, vehicle, 1] = wheel.turn * most
        return rows.reshape(action.shape)

    def _like_others(self, traffic: TrafficState) -> Action:
        """What the controlled vehicles would do as ordinary drivers in their lane."""
        simulator = self.env.simulator
        around, slots = simulator.neighbors(traffic), self.env.slots
        model = simulator.car_following.for_drivers(traffic.driver)
        if self.network.has_speed_limits:
            tables = self.network.tables(traffic.position.dtype, traffic.position.device)
            factor = look_up(simulator.fleet.speed_factor, traffic.driver)
            model = limit_speed(model, tables.limit(traffic.lane.clamp(min=0)) * factor)
        all_of_them = model.acceleration(traffic.speed, around.gap[..., OWN], around.closing_speed[..., OWN])
        own = all_of_them[:, slots]
        kind = self.env.scenario.vehicles.controlled.control
        zero = torch.zeros_like(own)
        return Action(own, zero if kind == "lane" else None, zero if kind == "steered" else None)

    # ------------------------------------------------------------------ keeping and forgetting

    def _add_block(self, first: int) -> None:
        """Frames of the decisions from ``first`` on, with those before that their pictures need."""
        last = len(self._decisions)
        back = int(np.ceil(LANE_CHANGE_TIME / self._seconds)) + 1
        begin = max(self._dropped, first - back)
        states = [self._decisions[begin].state.traffic]
        states += [state for d in self._decisions[begin:last] for state in d.states]
        chosen = self._decisions[begin:last]
        rewards = np.repeat([d.reward for d in chosen], self._steps)
        details = Details(
            desired_speed=self.env.simulator.car_following.desired_speed,
            insights=[d.insight for d in chosen],
            decision_steps=self._steps,
        )
        trajectory = Trajectory.of(states, None, self.step)
        frames = TrajectoryFrames.of(trajectory, self.env.simulator, 0, {"reward": rewards}, details)
        self._blocks.append(_Block(first, last, frames))

    def _drop_oldest(self) -> None:
        """Forget the beginning where there is too much to keep."""
        each = 20 * self.env.scenario.total * (self._steps + 1)
        most = max(self.most_numbers / max(each, 1), 4 * WINDOW)
        while len(self._decisions) - self._dropped > most and len(self._blocks) > 1:
            block = self._blocks.pop(0)
            for i in range(self._dropped, block.last):
                self._decisions[i] = replace(self._decisions[i], states=[])
            self._dropped = block.last

    def _cut(self, time: float) -> None:
        """Forget what comes after the decision that ``time`` (s) is in, so that others may drive from there."""
        place = int(np.ceil((time - self.start) / self._seconds - 1e-6))
        place = max(place, 1, self._dropped + 1)
        if place >= len(self._decisions):
            return
        self._state = self._decisions[place].state
        self._over = False
        del self._decisions[place:]
        self._gradients = {i: x for i, x in self._gradients.items() if i + WINDOW <= place}
        self._pending = None  # whatever comes of it was of another future
        while self._blocks[-1].first >= place:
            self._blocks.pop()
        cut = self._blocks[-1]
        if cut.last > place:
            self._blocks.pop()
            self._add_block(cut.first)

    # ------------------------------------------------------------------ gradients

    def _gradient_at(self, decision: int) -> Gradient | None:
        window = self._gradients.get(decision - decision % WINDOW) if self.gradients else None
        return None if window is None or decision % WINDOW >= len(window) else window[decision % WINDOW]

    def _differentiate_meanwhile(self, decision: int) -> None:
        """Have the gradient of a decision's window, or else of the next, worked out in another thread.

        It takes as long as many pictures; the simulators in it are its own.
        """
        if self._pending is not None and self._pending[1].done():
            first, future = self._pending
            self._gradients[first], self._pending = future.result(), None
        if self._pending is not None:
            return
        for first in (decision - decision % WINDOW, decision - decision % WINDOW + WINDOW):
            window = self._decisions[first : first + WINDOW]
            complete = len(window) == WINDOW or (self._over and window)
            if complete and first not in self._gradients and first >= self._dropped:
                self._worker = self._worker or ThreadPoolExecutor(1, "gradients")
                self._pending = first, self._worker.submit(self._window, first, window)
                return

    def _window(self, first: int, decisions: Sequence[_Decision]) -> list[Gradient]:
        """Slopes of a window's return, through lane changes and without, for each decision."""
        whole = self._slopes(first, decisions, "straight_through")
        exact = self._slopes(first, decisions, "blocked")
        start = self.start + first * self._seconds
        end = start + len(decisions) * self._seconds
        most = [max(float(np.abs(pair[i]).max(initial=0.0)) for pair in (*whole, *exact)) for i in (0, 1)]
        return [
            Gradient(start, end, speed, speed - plain, action, action - other, most[0], most[1])
            for (speed, action), (plain, other) in zip(whole, exact, strict=True)
        ]

    def _slopes(
        self, first: int, decisions: Sequence[_Decision], mode: Literal["straight_through", "blocked"]
    ) -> list[tuple[Array, Array]]:
        """Of the sum of rewards, by speeds before each decision [N] and by each action [C, A], as arrays."""
        simulator = self.env.simulator
        env = self.env.with_simulator(replace(simulator, lane_gradient=replace(simulator.lane_gradient, mode=mode)))
        state = tree.detach(decisions[0].state)
        taps, actions, total = [], [], torch.zeros((), dtype=env.dtype, device=env.device)
        with torch.enable_grad():
            for i, decision in enumerate(decisions):
                tap = torch.zeros_like(state.traffic.speed, requires_grad=True)
                traffic = dataclasses.replace(state.traffic, speed=state.traffic.speed + tap)
                state = replace(state, scene=replace(state.scene, traffic=traffic))
                action = None
                if decision.action is not None:
                    action = decision.action.detach().clone().requires_grad_()
                    actions.append(action)
                taps.append(tap)
                state, transition = env.step(state, action, self._noise[first + i])
                total = total + transition.reward.sum()
            inputs = [*taps, *actions]
            if not total.requires_grad:
                slopes = [torch.zeros_like(x) for x in inputs]
            else:
                slopes = list(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))
        by_action = iter(slopes[len(taps) :])
        found = []
        for slope, decision in zip(slopes, decisions, strict=False):
            count = len(self.env.slots)
            action_slope = np.zeros((count, 0))
            if decision.action is not None:
                flat = next(by_action)[0].reshape(-1)
                width = len(flat) // count if count else 0
                action_slope = flat[: count * width].reshape(count, width).cpu().numpy()
            found.append((slope[0].cpu().numpy(), action_slope))
        return found
