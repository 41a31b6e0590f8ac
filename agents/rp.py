"""The window-gradient agent (RP): it follows the simulator's gradient, with no safeguard.

One Adam step a rollout along the reparameterised policy gradient. With a = mu(o) + sigma eps the gradient of the
advantages with respect to the policy's parameters theta is, at fixed eps,

    sum over t of  dA_t/da_t  da_t/dtheta,

where dA_t/da_t already contains the policy's later reactions (closed loop, see :mod:`trafficgrad.agents.rollout`), so
da_t/dtheta is taken at the observation that was seen. Every decision counts as the start of an advantage; short windows
and a critic at their end keep the gradient from exploding, as in SHAC (Xu et al., "Accelerated Policy Learning with
Parallel Differentiable Simulation", ICLR 2022), whose windows are not damped either (``gae_lambda: 1``).

The size of dA/da has a heavy tail (one cut-in can dominate a batch): samples are cut to a quantile of their norms one
by one before they are added up.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.alpha_policy import clean_gradient
from trafficgrad.agents.base import Agent, Metrics
from trafficgrad.agents.rollout import Rollout
from trafficgrad.agents.single_step import SingleStep, SingleStepConfig, pathwise_cotangent


class PathwiseConfig(SingleStepConfig):
    """Keys of the agents that take one step a rollout and look at dA/da."""

    gradient_clip_quantile: float = Field(
        default=0.95, gt=0, le=1, description="longer samples of dA/da are cut to this quantile; 1 = none"
    )
    nonfinite_gradient: Literal["stop", "drop"] = Field(
        default="stop", description="a NaN in dA/da ends the run, or is left out"
    )


class RPConfig(PathwiseConfig):
    """``training.agent`` of kind ``rp``."""

    kind: Literal["rp"] = "rp"
    gae_lambda: float | None = Field(
        default=1.0,
        ge=0,
        le=1,
        description="takes the place of training.gae_lambda: 1 follows the simulator to the window's end and asks the "
        "critic there only; with less its gradient counts at every decision on the way; null = training.gae_lambda",
    )


class RP(Agent):
    """Reparameterised policy gradient through the window."""

    needs_gradient = True

    def __init__(self, config: PathwiseConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.drop_nonfinite_gradient = config.nonfinite_gradient == "drop"
        self.config, self.networks = config, networks
        self.step = SingleStep(config, networks, generator)

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """One step of the policy along its window gradient, then the critic."""
        clean = clean_gradient(rollout, self.config.gradient_clip_quantile, self.networks.actor)
        metrics = self.step.run(rollout, pathwise_cotangent(rollout, clean.gradient), progress)
        return metrics | clean.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Optimisers."""
        return self.step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.step.load_state_dict(state)
