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
from torch import nn

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.alpha_policy import clean_gradient
from trafficgrad.agents.base import Agent, Metrics
from trafficgrad.agents.ppo import adam
from trafficgrad.agents.rollout import Rollout
from trafficgrad.agents.value_fit import fit_critic
from trafficgrad.config import StrictModel


class RPConfig(StrictModel):
    """``training.agent`` of kind ``rp``."""

    kind: Literal["rp"] = "rp"
    learning_rate: float = Field(default=1e-3, gt=0, description="Adam's rate for the policy")
    critic_learning_rate: float = Field(default=1e-3, gt=0, description="Adam's rate for the critic")
    schedule: Literal["constant", "linear"] = Field(
        default="linear", description="linear: both rates fall to 0 over the budget"
    )
    max_gradient_norm: float = Field(
        default=1.0, gt=0, description="the gradients of policy and critic are scaled down to it"
    )
    gae_lambda: float | None = Field(
        default=1.0,
        ge=0,
        le=1,
        description="takes the place of training.gae_lambda: 1 follows the simulator to the window's end and asks the "
        "critic there only; with less its gradient counts at every decision on the way; null = training.gae_lambda",
    )
    gradient_clip_quantile: float = Field(
        default=0.95, gt=0, le=1, description="longer samples of dA/da are cut to this quantile; 1 = none"
    )
    critic_epochs: int = Field(default=8, ge=1, description="passes of the critic over the rollout")
    critic_minibatch: int = Field(default=512, ge=1, description="decisions of one world each, per critic step (about)")
    nonfinite_gradient: Literal["stop", "drop"] = Field(
        default="stop", description="a NaN in dA/da ends the run, or is left out"
    )


class RP(Agent):
    """Reparameterised policy gradient through the window."""

    needs_gradient = True

    def __init__(self, config: RPConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.drop_nonfinite_gradient = config.nonfinite_gradient == "drop"
        self.config, self.networks, self.generator = config, networks, generator
        betas = (0.7, 0.95)  # short memories: the gradient changes quickly (SHAC's values)
        self.actor_optimizer = adam(networks.actor.parameters(), config.learning_rate, betas)
        self.critic_optimizer = adam(networks.critic.parameters(), config.critic_learning_rate, betas)

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """One step of the policy along its window gradient, then the critic."""
        assert rollout.action_gradient is not None, "RP needs a rollout with gradient"
        config, actor = self.config, self.networks.actor
        remaining = 1.0 - progress if config.schedule == "linear" else 1.0
        self.actor_optimizer.param_groups[0]["lr"] = config.learning_rate * remaining
        self.critic_optimizer.param_groups[0]["lr"] = config.critic_learning_rate * remaining
        chosen = actor.spec.action_size - len(actor.spec.frozen)
        clean = clean_gradient(rollout.action_gradient, config.gradient_clip_quantile, chosen, rollout.present)
        action = actor(rollout.observation) + actor.log_std.exp() * rollout.eps
        samples = rollout.reward.numel()
        loss = -(clean.gradient * action).sum() / samples
        parameters = list(actor.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
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
        explained = 1 - (rollout.return_ - rollout.value).var() / (rollout.return_.var() + 1e-8)
        values = [norm, critic_loss, explained, clean.median, clean.largest, clean.mean_square.sqrt(), clean.dropped]
        names = ("actor_gradient_norm", "critic_loss", "explained_variance", "gradient_norm", "gradient_norm_max",
                 "gradient_rms", "gradient_dropped")  # fmt: skip
        return {
            **dict(zip(names, torch.stack(values).tolist(), strict=True)),
            **{f"log_std_{i}": x for i, x in enumerate(actor.log_std.detach().tolist())},
            "learning_rate": config.learning_rate * remaining,
        }

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers."""
        return {"actor": self.actor_optimizer.state_dict(), "critic": self.critic_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.actor_optimizer.load_state_dict(state["actor"])
        self.critic_optimizer.load_state_dict(state["critic"])
