"""A batch of traffic worlds as other libraries want it: started by a seed, acted on by normalised actions.

What the adapters to gymnasium, PettingZoo, TorchRL and Stable-Baselines3 have in common. Actions are normalised: -1 and
1 are the scenario's bounds of acceleration (and steering); a lane request above 1/3 means left, below -1/3 right. Where
signals are switched, theirs follow: above 0 asks for the next phase.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trafficgrad.envs.base import Transition
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import load_traffic

Array = NDArray[np.float32]
PICTURE_SIZE = (1280, 720)  # width and height of a rendered world, px
POOL_SIZE = 64  # initial states drawn at each reset, unless there are more worlds


class TrafficWorlds:
    """``B`` worlds of a scenario, their state and their random numbers.

    Attributes:
        env: the environment behind them.
        worlds: B. rows: C, controlled vehicles or signals that share a policy; 1 where one policy acts for all.
        observation_size, action_size: numbers in a row.
    """

    def __init__(
        self,
        scenario: str,
        overrides: Sequence[str] = (),
        worlds: int = 1,
        pool_size: int = POOL_SIZE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Read a scenario; nothing is drawn before :meth:`reset`.

        Parameters:
            scenario: a shipped name or a file. overrides: ``key=value`` strings.
            worlds: B. pool_size: initial states drawn at each reset, at least B; finished worlds restart from them.
            device, dtype: where and in what the simulator computes.

        Raises:
            TrafficGradError: no such scenario, one of another kind, or nothing in it is controlled.
        """
        if worlds < 1:
            raise TrafficGradError(f"expected at least 1 world, got {worlds}")
        size = max(pool_size, worlds)
        self.env = TrafficEnv(load_traffic(scenario, (*overrides, f"pool_size={size}")), device=device, dtype=dtype)
        self.env.require_control()
        self.worlds, self.rows = worlds, self.env.agents or 1
        self.observation_size, self.action_size = len(self.env.observation_labels), len(self.env.action_labels)
        self._generator, self._seeded = torch.Generator(), False
        self._state: TrafficEnvState | None = None

    @property
    def state(self) -> TrafficEnvState:
        """Where the worlds are.

        Raises:
            TrafficGradError: before the first :meth:`reset`.
        """
        if self._state is None:
            raise TrafficGradError("call reset() first: there is no traffic yet")
        return self._state

    @state.setter
    def state(self, state: TrafficEnvState) -> None:
        self._state = state

    @property
    def decision_seconds(self) -> float:
        """Simulated time of one decision, s."""
        return self.env.simulator.dt * self.env.scenario.simulation.decision_steps

    def seed(self, seed: int | None) -> None:
        """Begin the one stream of random numbers that the worlds share; None: with a seed of the system's."""
        self._seeded = True
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def reset(self, seed: int | None = None) -> TrafficEnvState:
        """Warm up a fresh pool and start all worlds from it; without ``seed`` the stream of random numbers goes on."""
        if seed is not None or not self._seeded:
            self.seed(seed)
        with torch.no_grad():
            self.state = self.env.reset(self.worlds, self._generator)
        return self.state

    def restart(self, worlds: Tensor) -> None:
        """Put ``worlds`` [B] bool into the next states of the pool, as at the end of an episode."""
        self.state = self.env.restart(self.state, worlds)

    def step(self, normalised: Tensor | NDArray[np.floating], gradient: bool = False) -> Transition:
        """One decision in every world; finished worlds restart.

        Parameters:
            normalised: B * C * A numbers in any shape, world by world and row by row; beyond -1 and 1 they are cut,
                with slope 0. gradient: keep the graph of this step, and of those before it.
        """
        state = self.state
        with torch.set_grad_enabled(gradient):
            action = self._action(torch.as_tensor(normalised, dtype=self.env.dtype, device=self.env.device))
            self.state, transition = self.env.step(state, action, self.env.sample_noise(self.worlds, self._generator))
        return transition

    def picture(self, world: int = 0) -> NDArray[np.uint8]:
        """RGB picture [height, width, 3] of a world, in the colours of the films."""
        # Lazily: drawing needs pygame, simulating does not.
        from trafficgrad.render import draw_state

        title = self.env.scenario.name
        return draw_state(self.state.traffic, self.env.simulator, world=world, size=PICTURE_SIZE, title=title)

    def _action(self, normalised: Tensor) -> Tensor:
        """Normalised numbers as the environment takes them, [B, C, A] or [B, A]."""
        env = self.env
        flat = normalised.reshape(self.worlds, -1).clamp(-1.0, 1.0)
        driving = flat.shape[1] - len(env.switches.signals)
        parts = [flat[:, driving:]]
        if driving:
            parts.insert(0, self._scaled(flat[:, :driving].unflatten(1, (len(env.slots), -1))).flatten(1))
        joined = torch.cat(parts, 1)
        return joined if env.agents is None else joined.unflatten(1, (env.agents, -1))

    def _scaled(self, rows: Tensor) -> Tensor:
        """Normalised rows [B, C, A] of vehicles as the environment takes them."""
        columns = list(rows.unbind(-1))
        control = self.env.scenario.control
        ranges = [(*control.acceleration, control.acceleration_scale), (*control.steering, control.steering_scale)]
        bounded = len(columns) if self.env.scenario.vehicles.controlled.control == "steered" else 1
        if control.command != "direct":
            bounded = 0  # these actions are normalised already
        for i, (low, high, scale) in enumerate(ranges[:bounded]):
            columns[i] = (low + 0.5 * (columns[i] + 1.0) * (high - low)) / scale
        return torch.stack(columns, -1)


def rows_of(x: Tensor) -> Array:
    """[B, ...] as single precision numpy [B, n], without graph."""
    return x.detach().reshape(x.shape[0], -1).to(torch.float32).cpu().numpy()
