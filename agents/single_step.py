"""One Adam step of the policy a rollout, then the critic: what LR, RP, LR+RP and PE share.

They differ in how they estimate the policy gradient. What an estimate says about a sample is a *cotangent*: the slope
of the objective by the mean and by the log standard deviation of that sample's Gaussian. The rest is the chain rule
through the network, the same for all.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.base import Metrics, spread_of_policy
from trafficgrad.agents.ppo import adam
from trafficgrad.agents.rollout import Rollout
from trafficgrad.agents.value_fit import fit_critic
from trafficgrad.config import StrictModel


class SingleStepConfig(StrictModel):
    """Keys of the agents that take one step a rollout."""

    learning_rate: float = Field(default=1e-3, gt=0, description="Adam's rate for the policy")
    critic_learning_rate: float = Field(default=1e-3, gt=0, description="Adam's rate for the critic")
    schedule: Literal["constant", "linear"] = Field(
        default="linear", description="linear: both rates fall to 0 over the budget"
    )
    max_gradient_norm: float = Field(
        default=1.0, gt=0, description="the gradients of policy and critic are scaled down to it"
    )
    critic_epochs: int = Field(default=8, ge=0, description="passes of the critic over the rollout")
    critic_minibatch: int = Field(default=512, ge=1, description="decisions of one world each, per critic step (about)")


class Cotangent(NamedTuple):
    """Slopes of the objective for every sample, [T, B, C, A] each; 0 where nobody acted."""

    mean: Tensor  # by the Gaussian's mean
    log_std: Tensor  # by its log standard deviation


def score_cotangent(rollout: Rollout, advantage: Tensor) -> Cotangent:
    """Likelihood ratio (Williams 1992): ``A`` times the slope of the log-density at the action that was taken.

    ``d log pi / d mu = eps / sigma`` and ``d log pi / d log sigma = eps^2 - 1``. ``advantage`` [T, B] is the world's:
    every vehicle's score is multiplied by it.
    """
    weight = advantage[(...,) + (None,) * (rollout.eps.dim() - advantage.dim())]
    if rollout.present is not None:
        weight = weight * rollout.present.unsqueeze(-1)
    return Cotangent(weight * rollout.eps * torch.exp(-rollout.log_std), weight * (rollout.eps.square() - 1.0))


def pathwise_cotangent(rollout: Rollout, gradient: Tensor) -> Cotangent:
    """Reparameterisation: dA/da through ``a = mu + sigma eps`` at fixed ``eps``; ``gradient`` [T, B, C, A] is dA/da."""
    return Cotangent(gradient, gradient * rollout.eps * torch.exp(rollout.log_std))


def sample_variance(slopes: Tensor, present: Tensor | None) -> Tensor:
    """Variance of each component over samples [..., A], or those that are ``present`` [...]; 0 of fewer than two."""
    samples = slopes.flatten(0, -2) if present is None else slopes[present]
    return samples.var(0) if len(samples) > 1 else samples.new_zeros(samples.shape[-1])


class SingleStep:
    """The step and the critic's fit, with their optimisers."""

    def __init__(self, config: SingleStepConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.config, self.networks, self.generator = config, networks, generator
        betas = (0.7, 0.95)  # short memories: the gradient changes quickly (the paper's values, after SHAC)
        self.actor_optimizer = adam(networks.actor.parameters(), config.learning_rate, betas)
        self.critic_optimizer = adam(networks.critic.parameters(), config.critic_learning_rate, betas)

    def run(self, rollout: Rollout, cotangent: Cotangent, progress: float) -> Metrics:
        """Follow ``cotangent``, a mean over the samples, by one Adam step; then fit the critic."""
        config, actor = self.config, self.networks.actor
        remaining = 1.0 - progress if config.schedule == "linear" else 1.0
        self.actor_optimizer.param_groups[0]["lr"] = config.learning_rate * remaining
        self.critic_optimizer.param_groups[0]["lr"] = config.critic_learning_rate * remaining
        mean, log_std = actor.distribution(rollout.observation)
        free = actor.free
        objective = (cotangent.mean * mean * free).sum() + (cotangent.log_std * log_std * free).sum()
        parameters = list(actor.parameters())
        gradients = torch.autograd.grad(-objective / rollout.reward.numel(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
        self.actor_optimizer.step()
        actor.project()
        critic_loss = fit_critic(
            self.networks,
            self.critic_optimizer,
            rollout,
            config.critic_epochs,
            config.critic_minibatch,
            config.max_gradient_norm,
            self.generator,
        )
        self.networks.follow()
        explained = 1 - (rollout.return_ - rollout.value).var() / (rollout.return_.var() + 1e-8)
        numbers = torch.stack([norm, critic_loss, explained]).tolist()
        return {
            **dict(zip(("actor_gradient_norm", "critic_loss", "explained_variance"), numbers, strict=True)),
            **spread_of_policy(rollout),
            "learning_rate": config.learning_rate * remaining,
        }

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers."""
        return {"actor": self.actor_optimizer.state_dict(), "critic": self.critic_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.actor_optimizer.load_state_dict(state["actor"])
        self.critic_optimizer.load_state_dict(state["critic"])
