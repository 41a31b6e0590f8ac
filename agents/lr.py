"""The likelihood-ratio agent (LR): REINFORCE with a critic, the plainest policy gradient.

One Adam step a rollout on ``-mean(A log pi(a))`` with normalised advantages (Williams 1992; the LR of Son et al.,
NeurIPS 2023). It needs no gradient through the environment and is not biased by any discrete choice, but its variance
grows with the number of actions.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.base import Agent, Metrics
from trafficgrad.agents.losses import standardized
from trafficgrad.agents.rollout import Rollout
from trafficgrad.agents.single_step import SingleStep, SingleStepConfig, score_cotangent


class LRConfig(SingleStepConfig):
    """``training.agent`` of kind ``lr``."""

    kind: Literal["lr"] = "lr"


class LR(Agent):
    """Likelihood-ratio policy gradient."""

    needs_gradient = False
    drop_nonfinite_gradient = False

    def __init__(self, config: LRConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.step = SingleStep(config, networks, generator)

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """One step of the policy along ``A d log pi``, then the critic."""
        return self.step.run(rollout, score_cotangent(rollout, standardized(rollout.advantage)), progress)

    def state_dict(self) -> dict[str, Any]:
        """Optimisers."""
        return self.step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.step.load_state_dict(state)
