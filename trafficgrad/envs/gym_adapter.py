"""Traffic scenarios through gymnasium, without gradients: one world (``Env``) or a batch (``VectorEnv``).

Observations and actions are flat numpy vectors: the rows of the controlled vehicles (or signals) joined. Actions are
normalised: -1 and 1 are the scenario's bounds of acceleration (and steering); a lane request above 1/3 means left,
below -1/3 right. Where signals are switched, theirs follow: above 0 asks for the next phase.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from trafficgrad.envs.base import Transition
from trafficgrad.envs.traffic import TrafficEnv, TrafficEnvState
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import load_traffic

Array = NDArray[np.float32]
_RENDER_SIZE = (1280, 720)


class _World:
    """The batched environment behind both adapters, its random numbers and the shapes gymnasium sees."""

    def __init__(self, scenario: str, overrides: tuple[str, ...], worlds: int, pool_size: int) -> None:
        loaded = load_traffic(scenario, (*overrides, f"pool_size={pool_size}"))
        self.env, self.worlds = TrafficEnv(loaded), worlds
        self.env.require_control()
        rows = self.env.agents or 1
        self.observation_space = spaces.Box(-np.inf, np.inf, (rows * len(self.env.observation_labels),), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (rows * len(self.env.action_labels),), np.float32)
        self.generator = torch.Generator()
        self.state: TrafficEnvState | None = None

    def reset(self, seed: int | None) -> TrafficEnvState:
        if seed is not None:
            self.generator.manual_seed(seed)
        elif self.state is None:
            self.generator.seed()
        with torch.no_grad():
            self.state = self.env.reset(self.worlds, self.generator)
        return self.state

    def step(self, action: Array) -> Transition:
        if self.state is None:
            raise TrafficGradError("call reset() before step()")
        flat = torch.as_tensor(np.asarray(action), dtype=self.env.dtype).reshape(self.worlds, -1).clamp(-1.0, 1.0)
        driving = flat.shape[1] - len(self.env.switches.signals)
        parts = [flat[:, driving:]]
        if driving:
            parts.insert(0, self._scaled(flat[:, :driving].unflatten(1, (len(self.env.slots), -1))).flatten(1))
        joined = torch.cat(parts, 1)
        rows = joined if self.env.agents is None else joined.unflatten(1, (self.env.agents, -1))
        with torch.no_grad():
            self.state, transition = self.env.step(self.state, rows, self.env.sample_noise(self.worlds, self.generator))
        return transition

    def _scaled(self, rows: Tensor) -> Tensor:
        """Normalised rows [B, C, A] of vehicles as the environment takes them."""
        columns = list((rows + 1.0).unbind(-1))
        control = self.env.scenario.control
        ranges = [(*control.acceleration, control.acceleration_scale), (*control.steering, control.steering_scale)]
        bounded = len(columns) if self.env.scenario.vehicles.controlled.control == "steered" else 1
        if control.command != "direct":
            bounded = 0  # these actions are normalised already
        for i, (low, high, scale) in enumerate(ranges[:bounded]):
            columns[i] = (low + 0.5 * columns[i] * (high - low)) / scale
        columns[bounded:] = [column - 1.0 for column in columns[bounded:]]
        return torch.stack(columns, -1)

    def frame(self) -> NDArray[np.uint8]:
        """The first world as an RGB picture, in the colours of the films."""
        # Lazily: drawing needs pygame, simulating does not.
        from trafficgrad.render import draw_state

        if self.state is None:
            raise TrafficGradError("call reset() before render()")
        return draw_state(self.state.traffic, self.env.simulator, size=_RENDER_SIZE, title=self.env.scenario.name)


def _array(x: Tensor) -> Array:
    return x.reshape(x.shape[0], -1).to(torch.float32).cpu().numpy()


class TrafficGymEnv(gymnasium.Env[Array, Array]):
    """One world of a traffic scenario.

    ``render_mode="rgb_array"``: :meth:`render` returns the picture. ``"human"``: ``reset`` and ``step`` show it in a
    window, at the pace of the traffic.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 2}  # noqa: RUF012 (gymnasium's)

    def __init__(self, scenario: str, overrides: tuple[str, ...] = (), render_mode: str | None = None) -> None:
        """``scenario``: a shipped name or a file; ``overrides``: ``key=value`` strings."""
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise TrafficGradError(
                f"unknown render_mode {render_mode!r}; valid are {', '.join(self.metadata['render_modes'])}"
            )
        self.world = _World(scenario, tuple(overrides), worlds=1, pool_size=1)
        self.observation_space, self.action_space = self.world.observation_space, self.world.action_space
        self.render_mode = render_mode
        self._window: Any = None
        self.metadata = {
            **self.metadata,
            "render_fps": round(1 / (self.world.env.simulator.dt * self.world.env.scenario.simulation.decision_steps)),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Warm up fresh traffic."""
        super().reset(seed=seed)
        observation = _array(self.world.reset(seed).observation)[0]
        self._show()
        return observation, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One decision; ``info`` holds the reward's parts and the task measures."""
        t = self.world.step(action)
        info = {name: float(value[0]) for name, value in t.terms.items()}
        self._show()
        return _array(t.final_observation)[0], float(t.reward[0]), bool(t.terminated[0]), bool(t.truncated[0]), info

    def render(self) -> NDArray[np.uint8] | None:
        """An RGB frame in ``rgb_array`` mode; the window of ``human`` mode needs no call."""
        return self.world.frame() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        from trafficgrad.render import PictureWindow

        if self._window is None:
            self._window = PictureWindow(_RENDER_SIZE, self.world.env.scenario.name)
        self._window.show(self.world.frame(), self.metadata["render_fps"])


class TrafficGymVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """A batch of worlds stepped together; finished worlds restart in the same step, from a pool of warmed-up states."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, scenario: str, num_envs: int = 1, overrides: tuple[str, ...] = (), pool_size: int = 64) -> None:
        """``pool_size``: initial states drawn at each reset; other parameters as :class:`TrafficGymEnv`."""
        self.world = _World(scenario, tuple(overrides), num_envs, max(pool_size, num_envs))
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = self.world.observation_space, self.world.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Warm up a fresh pool. A list of seeds is read as its first: worlds share one stream of random numbers."""
        first = seed[0] if isinstance(seed, list) else seed
        return _array(self.world.reset(first).observation), {}

    def step(self, actions: Array) -> tuple[Array, Any, Any, Any, dict[str, Any]]:
        """One decision in every world; the last observation of finished worlds is in ``info["final_obs"]``."""
        t = self.world.step(actions)
        info: dict[str, Any] = {name: value.cpu().numpy() for name, value in t.terms.items()}
        done = t.done.cpu().numpy()
        if done.any():
            final = np.empty(self.num_envs, dtype=object)
            for i in done.nonzero()[0]:
                final[i] = _array(t.final_observation)[i]
            info |= {"final_obs": final, "_final_obs": done}
        return (
            _array(t.observation),
            t.reward.double().cpu().numpy(),
            t.terminated.cpu().numpy(),
            t.truncated.cpu().numpy(),
            info,
        )
