"""Gradient-informed PPO (Son et al., "Gradient Informed Proximal Policy Optimization", NeurIPS 2023, section 4.3).

One iteration: a rollout with dA/da; the alpha-policy by regression; alpha for the next time by three tests; then PPO,
whose importance ratio is taken against the mixture (pi_old + pi_alpha) / 2. With alpha -> 0 it is PPO.

Where it departs from the authors' released code, and why:

* resets are functional, so no gradient leaks from one episode into the one before (F1);
* advantages and ratios of the bias test are aligned, and the advantages centred, so a constant offset of the values
  cannot tip it (F2, F5);
* every agent bootstraps a time limit from the observation before the reset, and an ended task from nothing (F3, F5);
* the mixture's density is log-sum-exp of the two, exact for every sample of every minibatch (F6);
* the regression restores the optimiser with the parameters (unless ``alpha_restore_moments`` is false) and shrinks its
  rate geometrically; PPO has a KL stop, or ``retries`` whose rates shrink geometrically too (F8);
* the variance test looks at each action dimension, not at an n x n determinant (F9);
* dA/da needs no reweighting by powers of 1 / (gamma lambda) and no start flags; its samples are clipped one by one at a
  quantile, and what is not finite stops the run or is dropped (F10);
* no variances of different estimators are compared (F11).

The speed limiter of the original traffic environment, which did not limit (F7), works in ours.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.alpha_policy import AlphaRegression, BiasTest, clean_gradient, variance_test
from trafficgrad.agents.base import Agent, Metrics
from trafficgrad.agents.losses import mixture_log_prob
from trafficgrad.agents.ppo import PPO, PPOUpdate, UpdateConfig, adam
from trafficgrad.agents.rollout import Rollout


class GIPPOConfig(UpdateConfig):
    """``training.agent`` of kind ``gippo``: the keys of PPO and those of the alpha-policy."""

    kind: Literal["gippo"] = "gippo"
    use_gradient: bool = Field(default=True, description="false: dA/da is taken to be zero, which leaves PPO")
    alpha: float = Field(default=0.1, gt=0, description="step along dA/da at the start (units: see gradient_scale)")
    alpha_min: float = Field(default=1e-3, gt=0, description="alpha never falls below")
    rest: int = Field(
        default=1,
        ge=1,
        description="where alpha has fallen to alpha_min, dA/da is asked for only in every so many updates: in between "
        "PPO goes on alone, in less time",
    )
    alpha_max: float = Field(default=1.0, gt=0, description="alpha never rises above")
    alpha_factor: float = Field(default=1.1, gt=1, description="alpha is multiplied or divided by it after each update")
    alpha_learning_rate: float = Field(
        default=1.5e-3, gt=0, description="Adam's rate in the regression of the alpha-policy"
    )
    alpha_iterations: int = Field(default=6, ge=1, description="gradient steps of the regression")
    alpha_minibatch: int | None = Field(
        default=1024,
        ge=1,
        description="decisions of one world each, per step of the regression (about); null = all, as published",
    )
    alpha_restore_moments: bool = Field(
        default=True,
        description="an attempt of the regression that failed leaves no trace in Adam; false: as published",
    )
    alpha_moves_std: bool = Field(
        default=True,
        description="the regression fits the standard deviation too; where noise hurts at once but explores, it "
        "shrinks too early: then false",
    )
    max_sigma_change: float = Field(
        default=0.4, gt=0, description="variance test: largest relative change of a standard deviation"
    )
    bias_test: Literal["sampling", "running"] = Field(
        default="sampling",
        description="sampling: alpha grows where the estimated improvement exceeds its standard error, shrinks where "
        "it is negative; running: it shrinks where the improvement is negative and unusual (as published)",
    )
    max_oorr: float = Field(
        default=0.2, gt=0, le=1, description="largest share of importance ratios outside the clipping range"
    )
    gradient_lambda: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="decay of the advantage whose gradient is followed: 1 follows the simulator to the window's end "
        "and asks the critic there only; null = training.gae_lambda, as published",
    )
    gradient_clip_quantile: float = Field(
        default=0.95, gt=0, le=1, description="longer samples of dA/da are cut to this quantile"
    )
    gradient_scale: Literal["unit_rms", "raw"] = Field(
        default="unit_rms",
        description="unit_rms: alpha is a root mean square step in units of the action; raw: it multiplies dA/da",
    )
    nonfinite_gradient: Literal["stop", "drop"] = Field(
        default="stop", description="a NaN in dA/da ends the run, or is left out"
    )

    @model_validator(mode="after")
    def _ordered(self) -> GIPPOConfig:
        if not self.alpha_min <= self.alpha <= self.alpha_max:
            raise ValueError(
                f"expected alpha_min <= alpha <= alpha_max, got {self.alpha_min}, {self.alpha}, {self.alpha_max}"
            )
        return self


class GIPPO(Agent):
    """Gradient-informed PPO."""

    SCALE_MEMORY = 0.1  # weight of the newest batch in the running mean square of dA/da

    def __init__(self, config: GIPPOConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.drop_nonfinite_gradient = config.nonfinite_gradient == "drop"
        self.config = config
        self.networks = networks
        self.generator = generator
        self.alpha = config.alpha
        self.mean_square = 0.0
        self.updates = 0
        self.ppo = PPOUpdate(config, networks, generator)
        fitted = networks.actor if config.alpha_moves_std else networks.actor.network
        optimizer = adam(fitted.parameters(), config.alpha_learning_rate, betas=(0.7, 0.95))
        self.regression = AlphaRegression(
            networks.actor,
            optimizer,
            config.alpha_learning_rate,
            config.alpha_iterations,
            config.alpha_minibatch,
            config.alpha_moves_std,
            config.alpha_restore_moments,
        )
        self.bias = BiasTest()

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the next rollout must tell dA/da."""
        return self.alpha > self.config.alpha_min or self.updates % self.config.rest == 0

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """The alpha-policy, the next alpha, then the PPO update on the mixture; without dA/da the PPO update alone."""
        self.updates += 1
        if rollout.action_gradient is None:
            return {"alpha": 0.0, **self.ppo.run(rollout, rollout.log_prob, progress)}
        metrics, alpha_log_prob = self.alpha_step(rollout)
        return metrics | self.ppo.run(rollout, mixture_log_prob(rollout.log_prob, alpha_log_prob), progress)

    def alpha_step(self, rollout: Rollout) -> tuple[Metrics, Tensor]:
        """Move the actor to the alpha-policy and choose the next alpha.

        Returns:
            Metrics and the log-density per vehicle [T, B, C] of the alpha-policy at the actions that were taken.
        """
        config, actor = self.config, self.networks.actor
        direction, metrics = self.direction(rollout)
        target = rollout.action + self.alpha * direction
        observation, mean, noise, target = (
            x.flatten(0, 1) for x in (rollout.observation, rollout.mean, rollout.eps, target)
        )
        begin = mean, rollout.log_std.flatten(0, 1) if actor.tells_std else rollout.log_std
        present = None if rollout.present is None else rollout.present.flatten(0, 1)
        fit = self.regression.fit(observation, begin, noise, target, present, self.generator)

        with torch.no_grad():
            log_std = fit.log_std.view_as(rollout.log_std)
            judged, log_prob = self.ppo.judge(rollout, fit.mean.view_as(rollout.mean), log_std)
            steady, sigma = (float(x) for x in variance_test(log_std, rollout.log_std, config.max_sigma_change))
        improvement, error = judged["surrogate_improvement"], judged["surrogate_error"]
        unusual, z = self.bias.passes(improvement)
        if config.bias_test == "sampling":
            unbiased, helps = improvement >= 0, improvement > error
        else:
            unbiased, helps = unusual, True
        used = self.alpha
        if not steady or not unbiased or judged["oorr"] > config.max_oorr:
            self.alpha = max(used / config.alpha_factor, config.alpha_min)
        elif fit.converged and helps:
            self.alpha = min(used * config.alpha_factor, config.alpha_max)
        return {
            "alpha": used,
            **judged,
            "surrogate_z": z,
            "sigma_ratio": sigma,
            "regression_before": fit.before,
            "regression_after": fit.after,
            "regression_attempts": float(fit.attempts),
            **metrics,
        }, log_prob

    def direction(self, rollout: Rollout) -> tuple[Tensor, Metrics]:
        """dA/da [T, B, C, A], clipped per sample and, with ``unit_rms``, scaled.

        The scale is the larger of this batch's and the running root mean square: a burst cannot make a step longer than
        alpha, and where the gradients fade the steps fade with them.
        """
        clean = clean_gradient(rollout, self.config.gradient_clip_quantile, self.networks.actor)
        metrics = clean.metrics()
        square = float(clean.mean_square)
        share = self.SCALE_MEMORY if self.mean_square > 0 else 1.0
        self.mean_square += share * (square - self.mean_square)
        scale = max(self.mean_square, square) ** 0.5
        if self.config.gradient_scale == "raw" or scale == 0:
            return clean.gradient, metrics
        return clean.gradient / scale, metrics

    def state_dict(self) -> dict[str, Any]:
        """Optimisers, alpha and the statistics of its tests."""
        return {
            "ppo": self.ppo.state_dict(),
            "regression": self.regression.state_dict(),
            "bias": self.bias.state_dict(),
            "alpha": self.alpha,
            "mean_square": self.mean_square,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.ppo.load_state_dict(state["ppo"])
        self.regression.load_state_dict(state["regression"])
        self.bias.load_state_dict(state["bias"])
        self.alpha, self.mean_square = float(state["alpha"]), float(state["mean_square"])
        self.updates = int(state["updates"])


def gippo(config: GIPPOConfig, networks: ActorCritic, generator: torch.Generator) -> Agent:
    """GI-PPO; without gradients its alpha-policy is the policy itself, so what is left is PPO."""
    return GIPPO(config, networks, generator) if config.use_gradient else PPO(config, networks, generator)
