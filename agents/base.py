"""What an agent is: it says whether it needs gradients through the environment, and turns a rollout into an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trafficgrad.agents.rollout import Rollout

Metrics = dict[str, float]


class Agent(ABC):
    """An algorithm. It changes the networks it was built with, and nothing else, in :meth:`update`.

    Constructor of every agent: ``Agent(config, networks, generator)`` with its own pydantic config, the
    :class:`~trafficgrad.agents.actor_critic.ActorCritic` that acts in the rollouts, and the generator of the run.
    """

    needs_gradient: bool  # the next rollout must carry ``action_gradient``, dA/da
    drop_nonfinite_gradient: bool  # the agent discards non-finite action gradients itself; otherwise they stop the run

    @abstractmethod
    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """One update from one rollout; ``progress`` in [0, 1] is the share of the budget already spent (schedules).

        Returns numbers for the log.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Optimisers and statistics as plain dicts, tensors and numbers (the networks are saved by the loop)."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
