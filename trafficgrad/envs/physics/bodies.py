"""What MuJoCo's bodies have in common as environments: gymnasium's tasks in batches, with gradients."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from trafficgrad.envs.physics.mujoco_step import MujocoStep, gymnasium_model
from trafficgrad.envs.transition import POOL_SIZE, TransitionEnv
from trafficgrad.physics_scenario import Integrator, RewardName

HORIZON = 1000  # decisions of an episode, as in gymnasium


class BodyEnv(TransitionEnv):
    """A body of MuJoCo that is to move along x. A subclass is one of gymnasium's environments.

    The simulator's state [B, nq + nv] is MuJoCo's ``qpos`` and ``qvel`` in float64, whatever the dtype of observations
    and rewards. Two rewards: ``gym`` is gymnasium's; ``shaped`` replaces its bonus for being upright, which has no
    slope, by terms that have one. ``terms`` has both (``gym``, ``shaped``), and the ``speed`` along x (m/s).
    """

    file: ClassVar[str]  # of gymnasium's model
    frame_skip: ClassVar[int]  # gymnasium's
    reset_noise: ClassVar[float]  # of positions uniform to either side; of rates that, or the standard deviation
    uniform_rates: ClassVar[bool]
    labels: ClassVar[tuple[str, ...]]  # of the observation
    actions: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        integrator: Integrator = "rk4",
        reward: RewardName = "gym",
        frame_skip: int | None = None,
        horizon: int = HORIZON,
        eps: float = 1e-8,
        centred: bool = False,
        pool_size: int = POOL_SIZE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Load the model.

        Parameters:
            integrator: ``rk4`` or ``euler``; see :class:`MujocoStep`, as for ``eps`` and ``centred``.
            reward: ``gym`` or ``shaped``. frame_skip: simulator steps of a decision; None: gymnasium's.
            horizon, pool_size, device, dtype: see :class:`TransitionEnv`.

        Raises:
            TrafficGradError: MuJoCo is not installed.
        """
        super().__init__(self.labels, self.actions, horizon, ("speed",), pool_size, device, dtype)
        model = gymnasium_model(self.file)
        self.simulator = MujocoStep(model, frame_skip or self.frame_skip, integrator, eps, centred)
        self.reward_name = reward
        self._start = torch.from_numpy(model.qpos0.copy()), torch.zeros(model.nv, dtype=torch.float64)

    def initial(self, count: int, generator: torch.Generator | None) -> Tensor:
        """See the base class: gymnasium's start, with noise of its distributions."""
        position, speed = self._start
        drawn = 2.0 * torch.rand(count, len(position), generator=generator, dtype=torch.float64) - 1.0
        rates = torch.rand if self.uniform_rates else torch.randn
        noise = rates(count, len(speed), generator=generator, dtype=torch.float64)
        noise = 2.0 * noise - 1.0 if self.uniform_rates else noise
        started = torch.cat([position + self.reset_noise * drawn, speed + self.reset_noise * noise], 1)
        return started.to(self.device)

    def advance(self, inner: Tensor, action: Tensor) -> Tensor:
        """See the base class."""
        return self.simulator(inner, action)

    def rewarded(self, inner: Tensor, action: Tensor, after: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        speed = (after[:, 0] - inner[:, 0]) / self.simulator.seconds
        gym, shaped = self.gym_reward(speed, action, after), self.shaped_reward(speed, action, after)
        return gym if self.reward_name == "gym" else shaped, {"gym": gym, "shaped": shaped, "speed": speed}

    @abstractmethod
    def gym_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """[B], gymnasium's reward; ``speed`` [B] along x, m/s."""

    @abstractmethod
    def shaped_reward(self, speed: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """[B], a reward with a slope wherever the body can do better."""
