"""Functions to be optimised, as environments of one decision: De Jong's and Ackley's, of any number of variables.

They are the first tasks of "Gradient Informed Proximal Policy Optimization" (Son et al., NeurIPS 2023): nothing is
observed, nothing follows, and the gradient of the reward is exact. What is left is how an algorithm uses it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from trafficgrad.envs.base import DifferentiableEnv, Transition
from trafficgrad.errors import TrafficGradError
from trafficgrad.function_scenario import FunctionName, FunctionScenario
from trafficgrad.tree import register_record


@register_record
@dataclass(frozen=True)
class FunctionEnvState:
    """State of ``B`` environments that have none: it is the same before every decision."""

    observation: Tensor  # [B, 1], always 0
    elapsed: Tensor  # [B] int64, always 0: every decision is the first of its episode


class FunctionEnv(DifferentiableEnv):
    """A function of ``n`` variables in the box [-bound, bound]^n, to be made as large as possible.

    An action [B, n] is clipped to [-1, 1] (slope 0 outside) and multiplied by the bound: that is the point x, and the
    reward is the function there. It is 0 at the optimum and negative elsewhere. The decision ends the episode
    (``terminated``), so no value of what follows is added to the reward. There is no noise. A subclass is one function.

    ``terms["distance"]`` is the root mean square over the coordinates of x - optimum, in units of the bound.
    """

    differentiable: ClassVar[bool] = True
    bound: ClassVar[float]  # half the edge of the box

    def __init__(
        self,
        dimension: int,
        optimum: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Let the best point be where it shall.

        Parameters:
            dimension: n, number of variables. optimum: [n], the best point, within the bound; None: the origin.
            device, dtype: of states, rewards and the optimum.

        Raises:
            TrafficGradError: no variable, an optimum of another shape or outside the box.
        """
        if dimension < 1:
            raise TrafficGradError(f"a function needs at least 1 variable, got dimension {dimension}")
        optimum = torch.zeros(dimension) if optimum is None else optimum.detach()
        if optimum.shape != (dimension,):
            raise TrafficGradError(f"optimum has shape {list(optimum.shape)}, expected [{dimension}], the dimension")
        if not bool((optimum.abs() <= self.bound).all()):
            farthest = float(optimum.abs().max())
            raise TrafficGradError(f"optimum must lie within +-{self.bound}, got a coordinate of size {farthest:g}")
        self.device, self.dtype = torch.device(device), dtype
        self.optimum = optimum.to(self.device, dtype)
        self.observation_labels = ("nothing",)
        self.action_labels = tuple(f"x{i}" for i in range(1, dimension + 1))
        self.agents = None
        self.horizon = 1
        self.task_measures = ("distance",)

    @abstractmethod
    def value(self, offset: Tensor) -> Tensor:
        """[B], the function where x - optimum = ``offset`` [B, n]; 0 for offset 0."""

    def reset(self, batch: int, generator: torch.Generator | None = None) -> FunctionEnvState:
        """See the base class; nothing is drawn."""
        return FunctionEnvState(
            torch.zeros(batch, 1, dtype=self.dtype, device=self.device),
            torch.zeros(batch, dtype=torch.int64, device=self.device),
        )

    def step(
        self, env_state: FunctionEnvState, action: Tensor, noise: Tensor | None = None
    ) -> tuple[FunctionEnvState, Transition]:
        """The one decision of an episode; see the class.

        Raises:
            TrafficGradError: an action of another shape than [B, n].
        """
        worlds, dimension = len(env_state.elapsed), len(self.optimum)
        if action.shape != (worlds, dimension):
            raise TrafficGradError(f"action has shape {list(action.shape)}, expected [{worlds}, {dimension}]")
        offset = self.bound * action.clamp(-1.0, 1.0) - self.optimum
        distance = torch.linalg.vector_norm(offset.detach(), dim=-1) / (math.sqrt(dimension) * self.bound)
        after = self.reset(worlds)
        done = torch.ones_like(after.elapsed, dtype=torch.bool)
        return after, Transition(
            observation=after.observation,
            final_observation=after.observation,
            reward=self.value(offset),
            terminated=done,
            truncated=~done,
            terms={"distance": distance},
        )

    def sample_noise(self, batch: int, generator: torch.Generator | None = None) -> None:
        """None: there is no noise."""
        return None


@final
class DeJong(FunctionEnv):
    """De Jong's first function, the sphere: ``-sum_i x_i^2`` within +-5.12.

    Reference: K. A. De Jong, "An Analysis of the Behavior of a Class of Genetic Adaptive Systems", 1975.
    """

    bound = 5.12

    def value(self, offset: Tensor) -> Tensor:
        """See the base class."""
        return -offset.square().sum(-1)


@final
class Ackley(FunctionEnv):
    """Ackley's function, a cone in a plain of many local optima, within +-32.768.

    ``20 exp(-0.2 sqrt(mean_i x_i^2)) + exp(mean_i cos(2 pi x_i)) - 20 - e``

    The optimum is the cone's tip, where the function has no derivative; its gradient there is 0.

    Reference: D. H. Ackley, "A Connectionist Machine for Genetic Hillclimbing", 1987.
    """

    bound = 32.768

    def value(self, offset: Tensor) -> Tensor:
        """See the base class."""
        # Near the optimum both exponentials nearly cancel what is subtracted from them. With expm1, and with
        # cos(2 pi x) - 1 = -2 sin(pi x)^2, nothing cancels. The norm, unlike a root of a mean, has slope 0 at 0.
        n = offset.shape[-1]
        sine = torch.sin(math.pi * offset)
        cone = torch.expm1(torch.linalg.vector_norm(offset, dim=-1) * (-0.2 / math.sqrt(n)))
        waves = torch.expm1(torch.linalg.vecdot(sine, sine) * (-2.0 / n))
        return torch.add(20.0 * cone, waves, alpha=math.e)


FUNCTIONS: dict[FunctionName, type[DeJong] | type[Ackley]] = {"de_jong": DeJong, "ackley": Ackley}


def function_env(
    scenario: FunctionScenario,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FunctionEnv:
    """The environment of a scenario; ``seed`` draws nothing, the optimum has one of its own."""
    function = FUNCTIONS[scenario.function]
    return function(scenario.dimension, function.bound * scenario.place_of_optimum(), device, dtype)
