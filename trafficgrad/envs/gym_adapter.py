"""Traffic scenarios through gymnasium, without gradients: one world (``Env``) or a batch (``VectorEnv``).

Observations and actions are flat numpy vectors: the rows of the controlled vehicles (or signals) joined. What actions
mean: :mod:`trafficgrad.envs.traffic_worlds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from trafficgrad.envs.traffic_worlds import PICTURE_SIZE, POOL_SIZE, Array, TrafficWorlds, rows_of
from trafficgrad.errors import TrafficGradError


def joined_spaces(worlds: TrafficWorlds) -> tuple[spaces.Space[Array], spaces.Space[Array]]:
    """Observation and action space of one world whose rows are joined."""
    return (
        spaces.Box(-np.inf, np.inf, (worlds.rows * worlds.observation_size,), np.float32),
        spaces.Box(-1.0, 1.0, (worlds.rows * worlds.action_size,), np.float32),
    )


def check_render_mode(mode: str | None, valid: Sequence[str]) -> None:
    """Refuse a ``render_mode`` that there is not.

    Raises:
        TrafficGradError: naming the valid ones.
    """
    if mode is not None and mode not in valid:
        raise TrafficGradError(f"unknown render_mode {mode!r}; valid are {', '.join(valid)}")


class TrafficGymEnv(gymnasium.Env[Array, Array]):
    """One world of a traffic scenario.

    ``render_mode="rgb_array"``: :meth:`render` returns the picture. ``"human"``: ``reset`` and ``step`` show it in a
    window, at the pace of the traffic.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 2}  # noqa: RUF012 (gymnasium's)

    def __init__(self, scenario: str, overrides: tuple[str, ...] = (), render_mode: str | None = None) -> None:
        """``scenario``: a shipped name or a file; ``overrides``: ``key=value`` strings."""
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.world = TrafficWorlds(scenario, overrides, worlds=1, pool_size=1)
        self.observation_space, self.action_space = joined_spaces(self.world)
        self.render_mode = render_mode
        self._window: Any = None
        self.metadata = {**self.metadata, "render_fps": round(1 / self.world.decision_seconds)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Warm up fresh traffic."""
        super().reset(seed=seed)
        observation = rows_of(self.world.reset(seed).observation)[0]
        self._show()
        return observation, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One decision; ``info`` holds the reward's parts and the task measures."""
        t = self.world.step(action)
        info = {name: float(value[0]) for name, value in t.terms.items()}
        self._show()
        return rows_of(t.final_observation)[0], float(t.reward[0]), bool(t.terminated[0]), bool(t.truncated[0]), info

    def render(self) -> NDArray[np.uint8] | None:
        """An RGB frame in ``rgb_array`` mode; the window of ``human`` mode needs no call."""
        return self.world.picture() if self.render_mode == "rgb_array" else None

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
            self._window = PictureWindow(PICTURE_SIZE, self.world.env.scenario.name)
        self._window.show(self.world.picture(), self.metadata["render_fps"])


class TrafficGymVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """A batch of worlds stepped together; finished worlds restart in the same step, from a pool of warmed-up states.

    ``render_mode="rgb_array"``: :meth:`render` returns a picture of every world.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's)
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["rgb_array"],
        "render_fps": 2,
    }

    def __init__(
        self,
        scenario: str,
        num_envs: int = 1,
        overrides: tuple[str, ...] = (),
        pool_size: int = POOL_SIZE,
        render_mode: str | None = None,
    ) -> None:
        """``pool_size``: initial states drawn at each reset; other parameters as :class:`TrafficGymEnv`."""
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.world = TrafficWorlds(scenario, overrides, num_envs, pool_size)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = joined_spaces(self.world)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {**self.metadata, "render_fps": round(1 / self.world.decision_seconds)}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Warm up a fresh pool. A list of seeds is read as its first: worlds share one stream of random numbers."""
        first = seed[0] if isinstance(seed, list) else seed
        super().reset(seed=first)
        return rows_of(self.world.reset(first).observation), {}

    def step(self, actions: Array) -> tuple[Array, Any, Any, Any, dict[str, Any]]:
        """One decision in every world.

        ``info`` has an array for each of the reward's parts and the task measures, with a mask ``_NAME`` of the worlds
        that it is about. Finished worlds are fresh already, and nothing is known of them but what they look like: what
        they were like before is in ``info["final_obs"]`` and ``info["final_info"]``, with masks of their own.
        """
        t = self.world.step(actions)
        done = t.done.cpu().numpy()
        terms = {name: value.cpu().numpy() for name, value in t.terms.items()}
        info = _masked(terms, ~done)
        if done.any():
            final = np.full(self.num_envs, None, dtype=object)
            last = rows_of(t.final_observation)
            for i in done.nonzero()[0]:
                final[i] = last[i]
            info |= {"final_obs": final, "_final_obs": done}
            info |= {"final_info": _masked(terms, done), "_final_info": done.copy()}
        return (
            rows_of(t.observation),
            t.reward.double().cpu().numpy(),
            t.terminated.cpu().numpy(),
            t.truncated.cpu().numpy(),
            info,
        )

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """An RGB frame of every world in ``rgb_array`` mode."""
        if self.render_mode is None:
            return None
        return tuple(self.world.picture(i) for i in range(self.num_envs))


def _masked(terms: dict[str, NDArray[Any]], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Arrays as gymnasium's vector environments tell them: 0 where ``mask`` does not hold, and the mask beside them.

    Nothing at all where it holds nowhere.
    """
    if not mask.any():
        return {}
    told: dict[str, Any] = {}
    for name, values in terms.items():
        told[name] = np.where(mask, values, np.zeros_like(values))
        told[f"_{name}"] = mask.copy()
    return told
