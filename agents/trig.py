"""TRIG: trust-region interpolated gradients, this project's own gradient-informed agent.

It keeps the idea of GI-PPO (Son et al., NeurIPS 2023), to follow the analytic gradient of the advantage as far as the
samples confirm it, and replaces what its authors name as its limits: the bound to PPO, and a control of alpha by one
number that grows and shrinks by a constant factor.

1. **Two estimates of one gradient.** Per sample, by the mean and the log standard deviation of its own Gaussian: the
   likelihood ratio ``A d log pi`` and the pathwise ``dA/da da/d(mu, log sigma)``, in units of the same advantages. The
   pathwise one follows the simulator to the window's end (``gradient_lambda: 1``): with the advantage's own decay the
   critic's slope counts at every decision on the way, and the critic knows least about what was never tried.
2. **Interpolation by variance, for every action by itself** (``likelihood_ratio``): the weight of each estimate is the
   other's share of the variance, for each component of mean and log sigma. No test of the whole step decides for all.
   Variance alone would trust a gradient that is quiet and wrong. So the pathwise one is first brought to the length
   that the likelihood ratio confirms along it, over the last updates (``scale``; that through a lane change may be ten
   times too long, and right), and its weight is multiplied by how sure that is to be above 0 (``trust``).
3. **A trust region in KL** in place of the bound on the determinant: the natural gradient of the mixture, so long
   that the policy moves by ``kl`` per action component (:mod:`trafficgrad.agents.natural_step`). So alpha has no unit
   and needs no search, and a step costs a few products with the Fisher information, not up to 8 x 16 steps of Adam.
4. **The surrogate judges the step.** With advantages and importance ratios of the same samples the improvement is
   estimated, with its standard error over worlds. A step that makes it worse by more than that is halved, up to
   ``halvings`` times, and given up after that.
5. **PPO after it** only where it is asked for (``epochs``), on the mixture density of the policy that acted and the one
   that has been reached. What PPO safeguards, the likelihood ratio in the mixture and the surrogate's veto do too.
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
    mixture_log_prob,
    spread,
    standardized,
)
from trafficgrad.agents.natural_step import FisherSolver, dot
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
    gradient_every: int = Field(
        default=1,
        ge=1,
        description="one rollout in so many carries a gradient, the others have the likelihood ratio's step, if any, "
        "and PPO: for simulators whose gradients cost several times the simulation",
    )
    epochs: int = Field(default=0, ge=0, description="passes of PPO over the rollout after the step; 0: no PPO")
    schedule: Literal["constant", "linear", "kl"] = Field(
        default="linear",
        description="linear: kl and the rates of critic and PPO fall to 0 over the budget; kl: see agent ppo",
    )
    critic_epochs: int | None = Field(
        default=8, ge=0, description="passes of the critic over the rollout, on its own; null = in PPO's minibatches"
    )
    kl: float = Field(default=0.005, gt=0, description="how far the step goes, KL per action component")
    warmup: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the budget over which kl grows from 0 to its value: long steps that a critic without "
        "experience suggests may lead where nothing else is tried any more",
    )
    likelihood_ratio: bool = Field(
        default=True, description="mix the pathwise gradient with the likelihood ratio's, weighted by their variances"
    )
    trust_memory: float = Field(
        default=0.1, gt=0, le=1, description="weight of the newest update in how far the pathwise gradient is confirmed"
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

    LEAST = 0.002  # share of the budget that the warm-up begins with: a step of no length tells nothing

    def __init__(self, config: TRIGConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.drop_nonfinite_gradient = config.nonfinite_gradient == "drop"
        self.config, self.networks, self.generator = config, networks, generator
        self.ppo = PPOUpdate(config, networks, generator)
        self.found, self.variance, self.updates = 0.0, 0.0, 0
        self.rollouts = 0

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """See the base class; ``gradient_every``."""
        return self.config.use_gradient and self.rollouts % self.config.gradient_every == 0

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """The step in the trust region, its judgement, then PPO on the mixture."""
        self.rollouts += 1
        known = self.config.use_gradient and rollout.action_gradient is not None
        if not known and not self.config.likelihood_ratio:
            return self.ppo.run(rollout, rollout.log_prob, progress)
        solver = self._solver(rollout)
        slopes, metrics = self.slopes(rollout, solver)
        taken, reached = self.step(rollout, slopes, solver, progress)
        density = mixture_log_prob(rollout.log_prob, reached)
        return metrics | taken | self.ppo.run(rollout, density, progress)

    def slopes(self, rollout: Rollout, solver: FisherSolver) -> tuple[list[Tensor], Metrics]:
        """The gradient that is followed, by the actor's weights, and numbers for the log."""
        config, actor = self.config, self.networks.actor
        score = score_cotangent(rollout, standardized(rollout.advantage)) if config.likelihood_ratio else None
        if rollout.action_gradient is None:
            assert score is not None, "TRIG needs a rollout with gradient, or likelihood_ratio"
            return self._chain(rollout, score), {}
        clean = clean_gradient(rollout, config.gradient_clip_quantile, actor)
        pathwise = pathwise_cotangent(rollout, clean.gradient / spread(rollout.advantage))
        if score is None:
            return self._chain(rollout, pathwise), clean.metrics()
        lr, rp = self._chain(rollout, score), self._chain(rollout, pathwise)
        scale, trust = self._confirmed(lr, rp, solver)
        if trust == 0.0:
            return lr, clean.metrics() | {"k_rp": 0.0, "trust": 0.0, "scale": scale}
        tiny = torch.finfo(clean.gradient.dtype).tiny
        parts, shares = [], []
        for own, other in zip(score, pathwise, strict=True):
            by_lr, by_rp = (sample_variance(x, rollout.present) for x in (own, scale * other))
            share = trust * by_lr / (by_lr + by_rp).clamp(min=tiny)
            parts.append(torch.lerp(own, scale * other, share))
            shares.append(share)
        numbers = {"k_rp": float(torch.stack(shares).mean()), "trust": trust, "scale": scale}
        return self._chain(rollout, Cotangent(*parts)), clean.metrics() | numbers

    def _confirmed(self, lr: list[Tensor], rp: list[Tensor], solver: FisherSolver) -> tuple[float, float]:
        """How much of the slope that the pathwise gradient promises along itself the likelihood ratio finds there.

        The coefficient of the regression of one on the other, in the metric of the Fisher information's diagonal, over
        the last updates: 1 where both agree, a tenth where the pathwise one is ten times too long, 0 or less where what
        it promises does not come.

        Returns:
            That coefficient, and how sure it is to be above 0: its square beside its own plus its squared error.
        """
        scaled = [x / (d + self.config.damping) for x, d in zip(rp, solver.diagonal, strict=True)]
        promised = float(dot(rp, scaled))
        found = float(dot(lr, scaled)) / promised if promised > 0 else 0.0
        share = max(self.config.trust_memory, 1.0 / (self.updates + 1))
        deviation = found - self.found
        self.updates += 1
        self.found += share * deviation
        self.variance = (1.0 - share) * (self.variance + share * deviation * deviation)
        error = self.variance * share / (2.0 - share)  # of an exponential mean, squared
        if self.found <= 0.0:
            return self.found, 0.0
        return self.found, self.found**2 / (self.found**2 + error)

    def step(
        self, rollout: Rollout, slopes: list[Tensor], solver: FisherSolver, progress: float
    ) -> tuple[Metrics, Tensor]:
        """Move the actor in the trust region, as far as the surrogate agrees.

        Returns:
            Numbers for the log, and the log-density per vehicle [T, B, C] of the policy that was reached at the actions
            that were taken.
        """
        config, actor = self.config, self.networks.actor
        remaining = 1.0 - progress if config.schedule == "linear" else 1.0
        if config.warmup:
            remaining *= min(1.0, max(progress, self.LEAST) / config.warmup)
        kl = config.kl * remaining * (actor.spec.action_size - len(actor.spec.frozen))
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
            with torch.no_grad():
                numbers, reached = self.ppo.judge(rollout, *actor.distribution(rollout.observation))
            if numbers["surrogate_improvement"] >= -numbers["surrogate_error"]:
                return numbers | {"kl_aimed": kl, "step": 0.5**halved}, reached
            with torch.no_grad():
                for p, before in zip(actor.parameters(), kept, strict=True):
                    p.copy_(before)
        return numbers | {"kl_aimed": kl, "step": 0.0}, rollout.log_prob

    def _chain(self, rollout: Rollout, cotangent: Cotangent) -> list[Tensor]:
        """Slopes by the actor's weights of an objective with these slopes, mean over all samples."""
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

    def state_dict(self) -> dict[str, Any]:
        """The optimisers of PPO, and how far the pathwise gradient was confirmed."""
        return {
            "ppo": self.ppo.state_dict(),
            "found": self.found,
            "variance": self.variance,
            "updates": self.updates,
            "rollouts": self.rollouts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.ppo.load_state_dict(state["ppo"])
        self.found, self.variance = float(state["found"]), float(state["variance"])
        self.updates, self.rollouts = int(state["updates"]), int(state["rollouts"])
