"""Traffic scenarios for Stable-Baselines3: a batch of worlds as its ``VecEnv``.

Needs the package stable-baselines3 (``pip install "trafficgrad[rl]"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficgrad.envs.gym_adapter import check_render_mode, joined_spaces
from trafficgrad.envs.traffic_worlds import POOL_SIZE, Array, TrafficWorlds, rows_of
from trafficgrad.errors import TrafficGradError, missing_package

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise missing_package("stable-baselines3", "rl", "TrafficVecEnv") from error


class TrafficVecEnv(VecEnv):
    """``num_envs`` worlds stepped together; finished worlds restart in the same step.

    Spaces are those of :class:`~trafficgrad.envs.gym_adapter.TrafficGymEnv`. The infos of a world hold the reward's
    parts and the task measures, and where it ended ``terminal_observation`` and ``TimeLimit.truncated``, as
    Stable-Baselines3 reads them. ``VecMonitor`` around it adds returns and lengths of episodes to the log.
    """

    def __init__(
        self,
        scenario: str,
        num_envs: int = 1,
        overrides: Sequence[str] = (),
        pool_size: int = POOL_SIZE,
        render_mode: str | None = None,
    ) -> None:
        """Read a scenario.

        Parameters:
            scenario: a shipped name or a file. overrides: ``key=value`` strings.
            num_envs: number of worlds. pool_size: initial states drawn at each reset.
            render_mode: ``"rgb_array"``: ``render()`` shows all worlds in one picture.

        Raises:
            TrafficGradError: no such scenario, or nothing in it is controlled.
        """
        check_render_mode(render_mode, ["rgb_array"])
        self.world = TrafficWorlds(scenario, overrides, num_envs, pool_size)
        self.render_mode = render_mode
        self._actions: NDArray[np.floating] | None = None
        super().__init__(num_envs, *joined_spaces(self.world))

    def reset(self) -> Array:
        """Warm up a fresh pool. Of the seeds given to ``seed`` the first counts: the worlds share one stream."""
        state = self.world.reset(self._seeds[0])
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return rows_of(state.observation)

    def step_async(self, actions: NDArray[np.floating]) -> None:
        """Keep the actions [num_envs, A] for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, NDArray[np.bool_], list[dict[str, Any]]]:
        """One decision in every world."""
        if self._actions is None:
            raise TrafficGradError("call step_async() before step_wait(): there are no actions")
        t = self.world.step(self._actions)
        self._actions = None
        terms = {name: value.tolist() for name, value in t.terms.items()}
        infos: list[dict[str, Any]] = [{name: told[i] for name, told in terms.items()} for i in range(self.num_envs)]
        done = t.done.cpu().numpy()
        if done.any():
            last, late = rows_of(t.final_observation), t.truncated.tolist()
            for i in done.nonzero()[0]:
                infos[i] |= {"terminal_observation": last[i], "TimeLimit.truncated": late[i]}
        return rows_of(t.observation), t.reward.float().cpu().numpy(), done, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """A picture of every world, or None of each without ``render_mode``."""
        return [None if self.render_mode is None else self.world.picture(i) for i in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute, once for each of the worlds, which have it in common."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused where it is for some worlds only, as they have their attributes in common."""
        if len(list(self._get_indices(indices))) < self.num_envs:
            raise TrafficGradError(f"the worlds share {attr_name!r}: set it for all, not for indices {indices}")
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refused: worlds are no objects of their own.

        Raises:
            TrafficGradError: always.
        """
        raise TrafficGradError(f"the worlds are stepped together and have no method {method_name!r} of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No world is wrapped by itself."""
        return [False for _ in self._get_indices(indices)]
