"""Traffic scenarios through PettingZoo's parallel interface: every controlled vehicle (or signal) is an agent.

Needs the package pettingzoo (``pip install "trafficgrad[rl]"``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from trafficgrad.envs.gym_adapter import check_render_mode
from trafficgrad.envs.traffic_worlds import Array, TrafficWorlds, rows_of
from trafficgrad.errors import TrafficGradError, missing_package

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise missing_package("pettingzoo", "rl", "TrafficParallelEnv") from error

Infos = dict[str, dict[str, Any]]


class TrafficParallelEnv(ParallelEnv[str, Array, Array]):
    """One world of a traffic scenario in which every controlled vehicle, or every signal, decides for itself.

    Agents are ``vehicle_0``, ``vehicle_1``, ... or ``signal_0``, ...; all have the same spaces: a row of the
    observation, and normalised actions (:mod:`trafficgrad.envs.traffic_worlds`). All get the world's reward.

    On a closed road agents are the same for good, and end together. On an open road they come and go:

    - A vehicle that leaves is ``terminated``; it sees zeros then.
    - One that comes is an agent with the next free number; ``step`` tells its first observation, with reward 0.
      How many will come nobody knows, so there is no ``possible_agents``.
    - While nobody is there, time passes until somebody comes or the episode ends: ``agents`` is empty only after it.
    """

    metadata: dict[str, Any] = {"name": "trafficgrad", "render_modes": ["rgb_array"], "is_parallelizable": True}  # noqa: RUF012

    def __init__(self, scenario: str, overrides: tuple[str, ...] = (), render_mode: str | None = None) -> None:
        """Read a scenario.

        Parameters:
            scenario: a shipped name or a file. overrides: ``key=value`` strings.
            render_mode: ``"rgb_array"``: :meth:`render` returns the picture.

        Raises:
            TrafficGradError: no such scenario, nothing is controlled, or one policy acts for several vehicles at once.
        """
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.world = TrafficWorlds(scenario, overrides, worlds=1, pool_size=1)
        env = self.world.env
        acting = len(env.slots) + len(env.switches.signals)
        if env.agents is None and acting > 1:
            raise TrafficGradError(
                f"in scenario {env.scenario.name!r} one policy sees and does everything for {acting} vehicles or "
                "signals: set observation.shared: true, which gives each a row of its own"
            )
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1 / self.world.decision_seconds)}
        rows = self.world.rows
        self._kind = "vehicle" if len(env.slots) else "signal"
        self._observation_space = spaces.Box(-np.inf, np.inf, (self.world.observation_size,), np.float32)
        self._action_space = spaces.Box(-1.0, 1.0, (self.world.action_size,), np.float32)
        self.state_space = spaces.Box(-np.inf, np.inf, (rows * self.world.observation_size,), np.float32)
        self._names: list[str | None] = [None] * rows  # of whom the rows are about; None: nobody is there
        self._vehicles = torch.full((rows,), -1)  # their identities
        self._named = 0
        self.agents: list[str] = []
        if not self._is_open():
            self.possible_agents = [f"{self._kind}_{i}" for i in range(rows)]

    def observation_space(self, agent: str) -> spaces.Box:
        """The same for every agent."""
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Box:
        """The same for every agent."""
        return self._action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Array], Infos]:
        """Warm up fresh traffic."""
        self.world.reset(seed)
        self._named, self._names = 0, [None] * len(self._names)
        self._register()
        if not self.agents and not self._wait():
            raise TrafficGradError(
                f"nobody who is controlled came within an episode of scenario {self.world.env.scenario.name!r}: raise "
                "demand or controlled_share, or make the episode longer (simulation.horizon_steps)"
            )
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """One decision of everybody in ``agents``; infos hold the reward's parts and the task measures.

        Raises:
            TrafficGradError: the episode is over, or an agent has no action.
        """
        if not self.agents:
            raise TrafficGradError("the episode is over, nobody is left to act: call reset()")
        rows = np.zeros((len(self._names), self.world.action_size), np.float32)
        for i, name in enumerate(self._names):
            if name is not None and name not in actions:
                raise TrafficGradError(
                    f"agent {name!r} has no action: expected one for each of {', '.join(self.agents)}"
                )
            if name is not None:
                rows[i] = actions[name]
        acted = self.agents
        t = self.world.step(rows)
        info = {name: float(value[0]) for name, value in t.terms.items()}
        observations: dict[str, Array]
        if bool(t.done[0]):
            observations = self._observations(t.final_observation)
            ended, late = bool(t.terminated[0]), bool(t.truncated[0])
            self.agents = []
            terminated, truncated = dict.fromkeys(acted, ended), dict.fromkeys(acted, late)
        else:
            self._register()
            left = [name for name in acted if name not in self.agents]
            if not self.agents:
                self._wait()
            observations = {name: np.zeros(self.world.observation_size, np.float32) for name in left}
            observations |= self._observations()
            terminated = {name: name in left for name in observations}
            truncated = dict.fromkeys(observations, False)
        rewards = {name: float(t.reward[0]) if name in acted else 0.0 for name in observations}
        infos = {name: dict(info) if name in acted else {} for name in observations}
        return observations, rewards, terminated, truncated, infos

    def state(self) -> Array:
        """The rows of all agents joined, for critics that see everything; zeros for those who are not there."""
        return rows_of(self.world.state.observation)[0]

    def render(self) -> NDArray[np.uint8] | None:
        """An RGB frame in ``rgb_array`` mode."""
        return None if self.render_mode is None else self.world.picture()

    def close(self) -> None:
        """Nothing is open."""

    def _is_open(self) -> bool:
        """Whether vehicles come and go."""
        return self.world.env.may_be_absent

    def _register(self) -> None:
        """Give a name to everybody who has come, and take it from those who have left."""
        present = self._present()
        vehicles = self.world.state.traffic.vehicle_id[0, self.world.env.slots] if self._is_open() else self._vehicles
        for i, there in enumerate(present):
            if there and (self._names[i] is None or bool(vehicles[i] != self._vehicles[i])):
                self._names[i] = f"{self._kind}_{self._named}"
                self._named += 1
            elif not there:
                self._names[i] = None
        self._vehicles = vehicles
        self.agents = [name for name in self._names if name is not None]

    def _present(self) -> list[bool]:
        present = self.world.env.present(self.world.state)
        return [True] * len(self._names) if present is None else present[0].tolist()

    def _wait(self) -> bool:
        """Let time pass until somebody is there; False if the episode ended before."""
        nothing = np.zeros((len(self._names), self.world.action_size), np.float32)
        while not self.agents:
            if bool(self.world.step(nothing).done[0]):
                return False
            self._register()
        return True

    def _observations(self, rows: Tensor | None = None) -> dict[str, Array]:
        """What everybody who is there sees; ``rows`` instead of what the present state shows."""
        seen = self.world.state.observation if rows is None else rows
        each = rows_of(seen).reshape(len(self._names), -1)
        return {name: each[i] for i, name in enumerate(self._names) if name is not None}
