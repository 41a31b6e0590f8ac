"""What an agent is: it says whether it needs gradients through the environment, and turns a rollout into an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trafficgrad.agents.rollout import Rollout

Metrics = dict[str, float]


def spread_of_policy(rollout: Rollout) -> Metrics:
    """Log standard deviation of each action in the rollout, mean over its samples."""
    log_std = rollout.log_std
    means = log_std if log_std.dim() == 1 else log_std.flatten(0, -2).mean(0)
    return {f"log_std_{i}": x for i, x in enumerate(means.tolist())}


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
