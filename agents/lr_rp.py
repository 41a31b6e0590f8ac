"""LR+RP: the likelihood-ratio and the pathwise gradient, each weighted by the inverse of its variance.

After Parmas et al., "PIPPS: Flexible Model-Based Policy Search Robust to the Curse of Chaos" (ICML 2018), as Son et al.
(NeurIPS 2023) use it: ``k_LR g_LR + k_RP g_RP`` with ``k_RP = var_LR / (var_LR + var_RP)``, ``k_LR = 1 - k_RP``.

The original compared variances that have no common unit: one of single samples with normalised advantages, the other of
whole trajectories with raw ones, both in the first 512 weights of the network alone, at the price of 32 more backward
passes (F11). Here both estimates are of the same gradient: per sample, in units of the same normalised advantages, by
the mean and the log standard deviation of the sample's own Gaussian. In these few numbers per sample a variance costs
nothing, and the chain rule through the network, which follows, is the same for both.

The variance is the trace of the covariance over the rollout's samples. It contains how much the true gradient differs
from state to state, in both estimates alike, which draws the weights towards one half.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.alpha_policy import clean_gradient
from trafficgrad.agents.base import Agent, Metrics
from trafficgrad.agents.losses import spread, standardized
from trafficgrad.agents.rollout import Rollout
from trafficgrad.agents.rp import PathwiseConfig
from trafficgrad.agents.single_step import (
    Cotangent,
    SingleStep,
    pathwise_cotangent,
    sample_variance,
    score_cotangent,
)


class LRRPConfig(PathwiseConfig):
    """``training.agent`` of kind ``lr_rp``."""

    kind: Literal["lr_rp"] = "lr_rp"


class LRRP(Agent):
    """Inverse-variance interpolation of LR and RP."""

    needs_gradient = True

    def __init__(self, config: LRRPConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.drop_nonfinite_gradient = config.nonfinite_gradient == "drop"
        self.config, self.networks = config, networks
        self.step = SingleStep(config, networks, generator)

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """One step of the policy along the weighted gradient, then the critic."""
        clean = clean_gradient(rollout, self.config.gradient_clip_quantile, self.networks.actor)
        lr = score_cotangent(rollout, standardized(rollout.advantage))
        rp = pathwise_cotangent(rollout, clean.gradient / spread(rollout.advantage))
        free = self.networks.actor.free
        lr, rp = (Cotangent(x.mean * free, x.log_std * free) for x in (lr, rp))
        var_lr, var_rp = (sample_variance(torch.cat(x, -1), rollout.present).sum() for x in (lr, rp))
        k_rp = var_lr / (var_lr + var_rp).clamp(min=torch.finfo(var_lr.dtype).tiny)
        mixed = Cotangent(*(torch.lerp(x, y, k_rp) for x, y in zip(lr, rp, strict=True)))
        metrics = self.step.run(rollout, mixed, progress)
        return metrics | clean.metrics() | {"k_rp": float(k_rp)}

    def state_dict(self) -> dict[str, Any]:
        """Optimisers."""
        return self.step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.step.load_state_dict(state)
