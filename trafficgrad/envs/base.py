"""What an environment is: pure functions ``reset`` and ``step`` on batches of worlds, differentiable where told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError
from trafficgrad.tree import register_record


class EnvState(Protocol):
    """State of ``B`` environments: a registered record of tensors (see :func:`trafficgrad.tree.register_record`).

    Besides its own fields it has the two below. Fields that belong to a pool of initial states (not to worlds) never
    require gradients.
    """

    @property
    def observation(self) -> Tensor:
        """[B, O], or [B, C, O] for a policy shared by ``C`` controlled vehicles or signals; of the state after
        autoreset.
        """

    @property
    def elapsed(self) -> Tensor:
        """[B] int64, environment steps since the episode began."""


@register_record
@dataclass(frozen=True)
class Transition:
    """What one environment step returned, one row per world."""

    observation: Tensor  # [B, O] or [B, C, O], after autoreset: what the policy sees next
    final_observation: Tensor  # same shape, before autoreset and with its graph: what the critic bootstraps from
    reward: Tensor  # [B]
    terminated: Tensor  # [B] bool, the task ended: the value of what follows is 0
    truncated: Tensor  # [B] bool, the time limit: the value of what follows is bootstrapped
    terms: dict[str, Tensor] = field(default_factory=dict)  # name -> [B], parts of the reward and task measures

    @property
    def done(self) -> Tensor:
        """[B] bool, the world was reset after this step."""
        return self.terminated | self.truncated


class DifferentiableEnv(ABC):
    """Batched functional environment with autoreset.

    ``step`` never changes its inputs. A finished world is replaced by a fresh one through ``where(done, fresh, next)``,
    so no gradient crosses a reset. Randomness comes from ``noise`` (drawn by :meth:`sample_noise`) and from the
    ``generator`` given to ``reset``; with ``noise=None`` a step is deterministic.
    """

    differentiable: ClassVar[bool] = True
    observation_labels: tuple[str, ...]  # O names, with units
    action_labels: tuple[str, ...]  # A names; a policy's action is [B, A] or [B, C, A], 1 = the action's scale
    agents: int | None  # C vehicles or signals that share one policy; None: observation [B, O], action [B, A]
    horizon: int  # environment steps of an episode
    task_measures: tuple[str, ...]  # names in ``Transition.terms`` worth a column in the training table

    @abstractmethod
    def reset(self, batch: int, generator: torch.Generator | None = None) -> Any:
        """Fresh ``EnvState`` of ``batch`` worlds, with the pool of initial states that autoreset draws from.

        ``generator`` lives on the CPU, so that every device meets the same initial states.
        """

    @abstractmethod
    def step(self, env_state: Any, action: Tensor, noise: Tensor | None = None) -> tuple[Any, Transition]:
        """One environment step; ``action`` is [B, A] or [B, C, A], in units of the action's scale."""

    @abstractmethod
    def sample_noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Standard normal noise for one ``step``, or None where the environment has none.

        ``generator`` may live on any device.
        """

    def present(self, env_state: Any) -> Tensor | None:
        """[B, C] bool: which agents are there to act; the actions of others do nothing. None: all of them, always."""
        return None

    def require_control(self) -> None:
        """Refuse an environment that leaves a policy nothing to do.

        Raises:
            TrafficGradError: it takes no actions.
        """
        if not self.action_labels:
            raise TrafficGradError("nothing in this environment takes actions")

    def stagger(self, env_state: Any, generator: torch.Generator | None = None) -> Any:
        """Spread the worlds over the phases of an episode, so that they do not all end in the same step of a training.

        Here: no phases, the state as it is.
        """
        return env_state
