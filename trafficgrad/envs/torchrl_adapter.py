"""Traffic scenarios through TorchRL: a batch of worlds in one environment, differentiable where gradients are on.

Needs the package torchrl (``pip install "trafficgrad[rl]"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.envs.traffic_worlds import POOL_SIZE, TrafficWorlds
from trafficgrad.errors import missing_package

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Binary, Bounded, Composite, Unbounded
    from torchrl.envs import EnvBase
except ImportError as error:
    raise missing_package("torchrl", "rl", "TrafficTorchRLEnv") from error


class TrafficTorchRLEnv(EnvBase):
    """``B`` worlds of a traffic scenario, ``batch_size`` [B].

    | key | shape | |
    |---|---|---|
    | ``observation`` | [B, O], or [B, C, O] for a policy shared by C vehicles or signals | before any restart |
    | ``action`` | [B, A] or [B, C, A] | normalised, -1 to 1 (:mod:`trafficgrad.envs.traffic_worlds`) |
    | ``reward``, ``done``, ``terminated``, ``truncated`` | [B, 1] | |

    While gradients are on (they are off under ``torch.no_grad``), a step keeps its graph and that of the steps before:
    ``env.rollout(20, policy)["next", "reward"].sum().backward()`` goes through the traffic into the policy. No gradient
    crosses a restart. :meth:`detach_state` begins a new window.
    """

    def __init__(
        self,
        scenario: str,
        worlds: int = 1,
        overrides: Sequence[str] = (),
        pool_size: int = POOL_SIZE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Read a scenario.

        Parameters:
            scenario: a shipped name or a file. overrides: ``key=value`` strings.
            worlds: B. pool_size: initial states drawn at each reset of all worlds; finished worlds restart from them.
            device, dtype: where and in what the simulator computes.

        Raises:
            TrafficGradError: no such scenario, or nothing in it is controlled.
        """
        super().__init__(device=torch.device(device), batch_size=torch.Size([worlds]))
        self.world = TrafficWorlds(scenario, overrides, worlds, pool_size, device, dtype)
        self._restarted = torch.zeros(worlds, dtype=torch.bool, device=device)  # in the last step, by themselves
        rows = () if self.world.env.agents is None else (self.world.env.agents,)
        batch, where = (worlds,), {"device": torch.device(device)}
        observation = (worlds, *rows, self.world.observation_size)
        action = (worlds, *rows, self.world.action_size)
        self.observation_spec = Composite(
            observation=Unbounded(observation, dtype=dtype, **where), shape=batch, **where
        )
        self.action_spec = Bounded(-1.0, 1.0, action, dtype=dtype, **where)
        self.reward_spec = Unbounded((worlds, 1), dtype=dtype, **where)
        flags = {
            name: Binary(1, (worlds, 1), dtype=torch.bool, **where) for name in ("done", "terminated", "truncated")
        }
        self.done_spec = Composite(flags, shape=batch, **where)

    def detach_state(self) -> None:
        """Cut the worlds from the graph of the steps so far, for a new window of gradients."""
        self.world.state = tree.detach(self.world.state)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        """All worlds, from freshly warmed-up traffic; or those that ``_reset`` [B, 1] names, from the pool."""
        wanted = None if tensordict is None else tensordict.get("_reset", None)
        if wanted is None:
            self.world.reset()
        else:
            # Those that ended restarted in their last step.
            self.world.restart(wanted.reshape(-1) & ~self._restarted)
        self._restarted = torch.zeros_like(self._restarted)
        nothing = self._restarted[:, None]
        return self._told(self.world.state.observation, terminated=nothing, truncated=nothing)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        t = self.world.step(tensordict["action"], gradient=torch.is_grad_enabled())
        self._restarted = t.done
        told = self._told(t.final_observation, terminated=t.terminated[:, None], truncated=t.truncated[:, None])
        return told.set("reward", t.reward[:, None])

    def _told(self, observation: Tensor, terminated: Tensor, truncated: Tensor) -> TensorDict:
        flags = {"done": terminated | truncated, "terminated": terminated.clone(), "truncated": truncated.clone()}
        return TensorDict({"observation": observation, **flags}, self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self.world.seed(seed)
