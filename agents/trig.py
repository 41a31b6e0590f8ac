"""TRIG: trust-region interpolated gradients, this project's own gradient-informed agent.

It keeps the idea of GI-PPO (Son et al., NeurIPS 2023), an analytic step first and PPO as the safeguard after it, and
replaces what its authors name as its limits: the bound to PPO, and a control of alpha by one number that grows and
shrinks by a constant factor.

1. **Two estimates of one gradient.** Per sample, by the mean and the log standard deviation of its own Gaussian: the
   likelihood ratio ``A d log pi`` and the pathwise ``dA/da da/d(mu, log sigma)``, in units of the same advantages. The
   pathwise one follows the simulator to the window's end (``gradient_lambda: 1``): with the advantage's own decay the
   critic's slope counts at every decision on the way, and the critic knows least about what was never tried.
2. **Interpolation by variance, for every action by itself** (``likelihood_ratio``): the weight of each estimate is the
   other's share of the variance, for each component of mean and log sigma. No test of the whole step decides for all.
3. **A trust region in KL** in place of the bound on the determinant: the natural gradient of the mixture, so long
   that the policy moves by ``kl`` per action component (:mod:`trafficgrad.agents.natural_step`). So alpha has no unit
   and needs no search, and a step costs a few products with the Fisher information, not up to 8 x 16 steps of Adam.
4. **The surrogate judges the step.** With advantages and importance ratios of the same samples the improvement is
   estimated, with its standard error over worlds. A step that makes it worse by more than that is halved, up to
   ``halvings`` times, and given up after that.
5. **PPO after it**, on the mixture density of the policy that acted and the one that has been reached; none with
   ``epochs: 0``, where the analytic gradient needs no safeguard.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.alpha_policy import clean_gradient
from trafficgrad.agents.base import Agent, Metrics
from trafficgrad.agents.losses import (
    approximate_kl,
    gaussian_log_prob,
    log_ratio,
    mixture_log_prob,
    out_of_range_ratio,
    spread,
    standardized,
)
from trafficgrad.agents.natural_step import FisherSolver
from trafficgrad.agents.ppo import PPOUpdate, UpdateConfig
from trafficgrad.agents.rollout import Rollout
from trafficgrad.agents.single_step import Cotangent, pathwise_cotangent, sample_variance, score_cotangent


class TRIGConfig(UpdateConfig):
    """``training.agent`` of kind ``trig``: the keys of PPO and those of the step before it."""

    kind: Literal["trig"] = "trig"
    use_gradient: bool = Field(
        default=True,
        description="false: dA/da is taken to be zero, which leaves PPO, behind a step by likelihood_ratio",
    )
    kl: float = Field(default=0.005, gt=0, description="how far the step goes, KL per action component")
    likelihood_ratio: bool = Field(
        default=False, description="mix the pathwise gradient with the likelihood ratio's, weighted by their variances"
    )
    moves_std: bool = Field(default=True, description="the step moves the standard deviation too")
    gradient_lambda: float | None = Field(
        default=1.0,
        ge=0,
        le=1,
        description="decay of the advantage whose gradient is followed: 1 follows the simulator to the window's end "
        "and asks the critic there only; null = training.gae_lambda",
    )
    gradient_clip_quantile: float = Field(
        default=0.95, gt=0, le=1, description="longer samples of dA/da are cut to this quantile; 1 = none"
    )
    halvings: int = Field(
        default=2, ge=0, description="times that a step which makes the surrogate worse is halved before it is given up"
    )
    curvature_samples: int | None = Field(
        default=512, ge=1, description="decisions of one world each that tell the Fisher information; null = all"
    )
    curvature_iterations: int = Field(default=8, ge=1, description="of conjugate gradients")
    damping: float = Field(default=1e-2, ge=0, description="added to the Fisher information")
    nonfinite_gradient: Literal["stop", "drop"] = Field(
        default="stop", description="a NaN in dA/da ends the run, or is left out"
    )


class TRIG(Agent):
    """Trust-region interpolated gradients."""

    def __init__(self, config: TRIGConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.needs_gradient = config.use_gradient
        self.drop_nonfinite_gradient = config.nonfinite_gradient == "drop"
        self.config, self.networks, self.generator = config, networks, generator
        self.ppo = PPOUpdate(config, networks, generator)

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """The step in the trust region, its judgement, then PPO on the mixture."""
        cotangent, metrics = self.direction(rollout)
        density = rollout.log_prob
        if cotangent is not None:
            taken, reached = self.step(rollout, cotangent, progress)
            metrics |= taken
            density = mixture_log_prob(density, reached)
        return metrics | self.ppo.run(rollout, density, progress)

    def direction(self, rollout: Rollout) -> tuple[Cotangent | None, Metrics]:
        """What is followed, sample by sample [T, B, C, A], None for nothing; and numbers for the log."""
        config, actor = self.config, self.networks.actor
        score = score_cotangent(rollout, standardized(rollout.advantage)) if config.likelihood_ratio else None
        if rollout.action_gradient is None:
            return score, {}
        clean = clean_gradient(rollout, config.gradient_clip_quantile, actor)
        pathwise = pathwise_cotangent(rollout, clean.gradient / spread(rollout.advantage))
        if score is None:
            return pathwise, clean.metrics()
        parts, shares = [], []
        for own, other in zip(score, pathwise, strict=True):
            by_lr, by_rp = (sample_variance(x, rollout.present) for x in (own, other))
            share = by_lr / (by_lr + by_rp).clamp(min=torch.finfo(own.dtype).tiny)
            parts.append(torch.lerp(own, other, share))
            shares.append(share)
        return Cotangent(*parts), clean.metrics() | {"k_rp": float(torch.stack(shares).mean())}

    def step(self, rollout: Rollout, cotangent: Cotangent, progress: float) -> tuple[Metrics, Tensor]:
        """Move the actor in the trust region, as far as the surrogate agrees.

        Returns:
            Numbers for the log, and the log-density per vehicle [T, B, C] of the policy that was reached at the actions
            that were taken.
        """
        config, actor = self.config, self.networks.actor
        remaining = 1.0 - progress if config.schedule == "linear" else 1.0
        kl = config.kl * remaining * (actor.spec.action_size - len(actor.spec.frozen))
        slopes = self._slopes(rollout, cotangent)
        solver = self._solver(rollout)
        direction = solver.solve(slopes)
        shift = solver.push(direction)
        length = float((kl / solver.kl(shift).clamp(min=torch.finfo(shift.mean.dtype).tiny)).sqrt())
        kept = [p.detach().clone() for p in actor.parameters()]
        for halved in range(config.halvings + 1):
            share = length * 0.5**halved
            with torch.no_grad():
                for p, x in zip(actor.parameters(), direction, strict=True):
                    p.add_(x, alpha=share)
            actor.project()
            numbers, reached = self._judge(rollout)
            if numbers["surrogate_improvement"] >= -numbers["surrogate_error"]:
                return numbers | {"kl_aimed": kl, "step": 0.5**halved}, reached
            with torch.no_grad():
                for p, before in zip(actor.parameters(), kept, strict=True):
                    p.copy_(before)
        return numbers | {"kl_aimed": kl, "step": 0.0}, rollout.log_prob

    def _slopes(self, rollout: Rollout, cotangent: Cotangent) -> list[Tensor]:
        """Of the objective by the actor's weights, from all samples."""
        actor = self.networks.actor
        mean, log_std = actor.distribution(rollout.observation)
        objective = (cotangent.mean * mean * actor.free).sum()
        if self.config.moves_std:
            objective = objective + (cotangent.log_std * log_std * actor.free).sum()
        agents = rollout.eps[..., 0].numel() if rollout.present is None else rollout.present.sum().clamp(min=1)
        parameters = list(actor.parameters())
        return list(torch.autograd.grad(objective / agents, parameters, allow_unused=True, materialize_grads=True))

    def _solver(self, rollout: Rollout) -> FisherSolver:
        """The policy's Fisher information, from some of the decisions."""
        config, samples = self.config, rollout.reward.numel()
        observation = rollout.observation.flatten(0, 1)
        present = torch.ones_like(rollout.eps[..., :1]) if rollout.present is None else rollout.present.unsqueeze(-1)
        weight = present.flatten(0, 1).to(observation.dtype)
        if config.curvature_samples is not None and config.curvature_samples < samples:
            order = torch.randperm(samples, generator=self.generator, device=observation.device)
            rows = order[: config.curvature_samples]
            observation, weight = observation[rows], weight[rows]
        return FisherSolver(
            self.networks.actor,
            observation,
            weight / weight.sum().clamp(min=1.0),
            self.generator,
            config.curvature_iterations,
            config.damping,
        )

    @torch.no_grad()
    def _judge(self, rollout: Rollout) -> tuple[Metrics, Tensor]:
        """What the surrogate says of the policy that was reached, and its log-density [T, B, C]."""
        config, actor, ppo = self.config, self.networks.actor, self.ppo
        mean, log_std = actor.distribution(rollout.observation)
        reached = gaussian_log_prob(rollout.action, mean, log_std, actor.free_or_none)
        if rollout.present is not None:
            reached = reached.masked_fill(~rollout.present, 0.0)
        counted = rollout.present if config.ratio == "vehicle" else None
        exponent = log_ratio(ppo.ratio_shape(reached), ppo.ratio_shape(rollout.log_prob))
        # By world: decisions of one world are not independent, worlds are.
        advantage = ppo.spread(standardized(rollout.advantage))
        gain = (advantage * (exponent.exp() - 1)).transpose(0, 1).flatten(1).mean(1)
        volume = ((log_std - rollout.log_std) * actor.free).sum(-1).flatten()
        values = [
            gain.mean(),
            gain.std() / len(gain) ** 0.5 if len(gain) > 1 else gain.abs().mean(),
            out_of_range_ratio(exponent, config.clip, counted),
            approximate_kl(exponent, counted),
            volume[volume.abs().argmax()].exp(),
            (mean - rollout.mean).square().mean().sqrt(),
        ]
        names = ("surrogate_improvement", "surrogate_error", "oorr", "kl_reached", "determinant", "mean_shift")
        return dict(zip(names, torch.stack(values).tolist(), strict=True)), reached

    def state_dict(self) -> dict[str, Any]:
        """The optimisers of PPO."""
        return {"ppo": self.ppo.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.ppo.load_state_dict(state["ppo"])
