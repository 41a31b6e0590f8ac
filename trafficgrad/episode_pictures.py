"""Looking at an environment without roads: one episode of a cart-pole or a body, as a window, a film or a still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from trafficgrad import render
from trafficgrad.agents.episodes import HELD_OUT, dtype_of, policy_controller
from trafficgrad.agents.evaluation import LoadedRun
from trafficgrad.envs import make_env
from trafficgrad.envs.physics import BodyEnv, CartpoleSwingUp
from trafficgrad.envs.physics.body_picture import BodyPainter
from trafficgrad.envs.transition import TransitionEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import CartpoleScenario, MujocoScenario, Scenario

Painter = Callable[[Tensor, Tensor, tuple[int, int]], NDArray[np.uint8]]  # a world's state and action, size in px


@dataclass
class EpisodeFilm:
    """A recorded episode of one world (:class:`~trafficgrad.render.PictureSource`)."""

    states: list[Tensor]  # [T + 1] of [S]
    actions: list[Tensor]  # [T] of [A]
    returns: list[float]  # [T], sums of the rewards so far
    step: float  # s of a decision
    painter: Painter
    start: float = 0.0  # s

    @property
    def end(self) -> float:
        """s, the end of the episode."""
        return len(self.actions) * self.step

    def picture(self, time: float, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See the protocol: the state reached last."""
        place = self._place(time)
        return self.painter(self.states[place], self.actions[min(place, len(self.actions) - 1)], size)

    def caption(self, time: float) -> str:
        """See the protocol."""
        place = self._place(time)
        return f"time {place * self.step:.1f} s, return {self.returns[place - 1] if place else 0.0:.1f}"

    def _place(self, time: float) -> int:
        return min(max(int(time / self.step + 1e-6), 0), len(self.actions))


def can_be_shown(scenario: Scenario) -> bool:
    """Whether episodes of the scenario have pictures here."""
    return isinstance(scenario, CartpoleScenario | MujocoScenario)


@torch.no_grad()
def record_episode(scenario: Scenario, run: LoadedRun | None, seed: int, seconds: float | None = None) -> EpisodeFilm:
    """Play one held-out episode to its end, by the run's deterministic policy, or with action 0.

    Parameters:
        seconds: the first part only.

    Raises:
        TrafficGradError: there are no pictures of the scenario, it needs a package that is missing, or no time.
    """
    env = make_env(scenario.judged(), dtype=torch.float32 if run is None else dtype_of(run.policy))
    painter, step = _painter(env)
    if seconds is not None and not seconds > 0:
        raise TrafficGradError(f"seconds must be a number > 0, got {seconds}")
    decisions = env.horizon if seconds is None else max(1, min(env.horizon, round(seconds / step)))
    assert isinstance(env, TransitionEnv)
    state = env.reset(1, torch.Generator().manual_seed(HELD_OUT + seed))
    controller = None if run is None else policy_controller(run.policy)
    states, actions = [state.inner[0]], list[Tensor]()
    returns: list[float] = []
    for _ in range(decisions):
        action = torch.zeros(1, len(env.action_labels)) if controller is None else controller(state)
        before = state
        state, transition = env.step(before, action)
        over = bool(transition.done)
        # After the last decision the state is already a fresh one.
        states.append((env.advance(before.inner, action.clamp(-1.0, 1.0)) if over else state.inner)[0])
        actions.append(action[0])
        returns.append(float(transition.reward) + (returns[-1] if returns else 0.0))
        if over:
            break
    return EpisodeFilm(states, actions, returns, step, painter)


def episodes(
    scenario: Scenario, run: LoadedRun | None, seed: int, seconds: float | None = None
) -> Iterator[render.PictureSource]:
    """Held-out episodes without end, the first of ``seed``."""
    while True:
        yield record_episode(scenario, run, seed, seconds)
        seed += 1


def film(
    scenario: Scenario,
    run: LoadedRun | None,
    path: Path,
    seed: int = 0,
    seconds: float | None = None,
    speed: float = 1.0,
    size: tuple[int, int] = (1280, 720),
    fps: float = 25.0,
    at: float | None = None,
    title: str = "",
) -> Path:
    """Write a film or a still of an episode; see :func:`trafficgrad.render.film_pictures`."""
    source = record_episode(scenario, run, seed, seconds)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"drawing {path.name}")
        return render.film_pictures(
            source,
            path,
            size=size,
            fps=fps,
            time_factor=speed,
            title=title,
            at=at,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _painter(env: object) -> tuple[Painter, float]:
    """How states of the environment are drawn, and the time of a decision, s."""
    if isinstance(env, CartpoleSwingUp):
        config = env.config

        def cartpole(state: Tensor, action: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
            return render.draw_cartpole(
                float(state[0]),
                float(state[1]),
                float(action[0].clamp(-1.0, 1.0)),
                track=config.track,
                pole_length=config.pole_length,
                size=size,
            )

        return cartpole, config.dt
    if isinstance(env, BodyEnv):
        painter = BodyPainter(env.file)
        return lambda state, action, size: painter.draw(state, size), env.simulator.seconds
    raise TrafficGradError("there are no pictures of this environment: `trafficgrad evaluate` tells what it does")
