"""Proximal policy optimisation (Schulman et al. 2017): the update that GI-PPO shares, and the agent made of it alone.

Several vehicles may share one policy. Their joint likelihood is the product over the vehicles, and the one advantage is
the team's. ``ratio: vehicle`` clips each vehicle's importance ratio by itself (a vehicle whose action became unlikely
does not silence the others); ``ratio: joint`` clips the product.

Where a step went too far the KL stop (``target_kl``) ends the update; there are no retries with restored weights, which
would reuse moments of the failed attempt and could only ever lower the learning rate (defect F8 of the original code).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.base import Agent, Metrics
from trafficgrad.agents.losses import (
    approximate_kl,
    clipped_surrogate_loss,
    joint,
    log_ratio,
    out_of_range_ratio,
    value_loss,
)
from trafficgrad.agents.rollout import Rollout
from trafficgrad.config import StrictModel


class UpdateConfig(StrictModel):
    """Keys of the PPO update, common to ``ppo`` and ``gippo``."""

    learning_rate: float = Field(default=5e-4, gt=0, description="Adam's rate for the policy")
    critic_learning_rate: float = Field(default=5e-4, gt=0, description="Adam's rate for the critic")
    schedule: Literal["constant", "linear"] = Field(
        default="constant", description="linear: both rates fall to 0 over the budget"
    )
    clip: float = Field(default=0.2, gt=0, lt=1, description="the importance ratio is clipped to 1 +- clip")
    ratio: Literal["vehicle", "joint"] = Field(
        default="vehicle", description="clip each vehicle's ratio, or their product"
    )
    epochs: int = Field(default=5, ge=1, description="passes over the rollout")
    minibatch: int = Field(default=400, ge=1, description="decisions of one world each, per gradient step (about)")
    max_gradient_norm: float = Field(
        default=0.5, gt=0, description="the gradients of policy and critic are scaled down to it"
    )
    target_kl: float | None = Field(
        default=None, gt=0, description="end the update when the policy moved further; null = never"
    )


class PPOConfig(UpdateConfig):
    """``training.agent`` of kind ``ppo``."""

    kind: Literal["ppo"] = "ppo"


def adam(parameters: Any, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Adam:
    """Adam, fused where the device has it: the networks are small, so the launches would cost more than the sums."""
    parameters = list(parameters)
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(parameters, lr=learning_rate, betas=betas, eps=1e-8, fused=fused)


class PPOUpdate:
    """Shuffled minibatch epochs on the clipped surrogate and the critic's squared error, from one rollout."""

    def __init__(self, config: UpdateConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.config = config
        self.networks = networks
        self.generator = generator
        self.actor_optimizer = adam(networks.actor.parameters(), config.learning_rate)
        self.critic_optimizer = adam(networks.critic.parameters(), config.critic_learning_rate)

    def ratio_shape(self, log_prob: Tensor) -> Tensor:
        """Log-likelihoods as the ratio needs them: per vehicle [T, B, C], or per world [T, B]."""
        return joint(log_prob, self.networks.vehicles) if self.config.ratio == "joint" else log_prob

    def spread(self, advantage: Tensor) -> Tensor:
        """The team's advantage [T, B] against :meth:`ratio_shape`: [T, B, 1] per vehicle."""
        return advantage.unsqueeze(-1) if self.networks.vehicles and self.config.ratio == "vehicle" else advantage

    def run(self, rollout: Rollout, density: Tensor, progress: float) -> Metrics:
        """All epochs.

        Args:
            rollout: the window.
            density: Tensor, shape (T, B, C), log-density per vehicle that stands below the importance ratio: that of
                the policy that acted, or a mixture.
            progress: share of the budget spent, for the schedule.
        """
        config, networks = self.config, self.networks
        actor, critic = networks.actor, networks.critic
        actor_parameters, critic_parameters = list(actor.parameters()), list(critic.parameters())
        remaining = 1.0 - progress if config.schedule == "linear" else 1.0
        self.actor_optimizer.param_groups[0]["lr"] = config.learning_rate * remaining
        self.critic_optimizer.param_groups[0]["lr"] = config.critic_learning_rate * remaining

        normalized = (rollout.advantage - rollout.advantage.mean()) / (rollout.advantage.std() + 1e-8)
        advantage = self.spread(normalized).flatten(0, 1)
        observation, action = rollout.observation.flatten(0, 1), rollout.action.flatten(0, 1)
        old, target = self.ratio_shape(density).flatten(0, 1), rollout.return_.flatten(0, 1)
        present = None if rollout.present is None else rollout.present.flatten(0, 1)
        counted = present if config.ratio == "vehicle" else None  # of the ratios; absent vehicles leave the joint one
        samples = target.shape[0]
        batches = max(1, round(samples / config.minibatch))
        losses, errors, norms = [], [], []
        exponents: list[Tensor] = []
        shown: Tensor | None = None
        kl = torch.zeros((), device=target.device, dtype=target.dtype)
        epochs = 0
        for _ in range(config.epochs):
            order = torch.randperm(samples, generator=self.generator, device=target.device)
            exponents = []
            for rows in order.tensor_split(batches):
                batch = observation[rows]
                log_prob = actor.log_prob(batch, action[rows])
                if present is not None:
                    log_prob = log_prob.masked_fill(~present[rows], 0.0)
                exponent = log_ratio(self.ratio_shape(log_prob), old[rows])
                weights = None if counted is None else counted[rows]
                actor_loss = clipped_surrogate_loss(exponent, advantage[rows], config.clip, weights)
                critic_loss = value_loss(critic(networks.flatten(batch)), target[rows])
                gradients = torch.autograd.grad(actor_loss + critic_loss, actor_parameters + critic_parameters)
                for parameter, gradient in zip(actor_parameters + critic_parameters, gradients, strict=True):
                    parameter.grad = gradient
                norms.append(nn.utils.clip_grad_norm_(actor_parameters, config.max_gradient_norm))
                nn.utils.clip_grad_norm_(critic_parameters, config.max_gradient_norm)
                self.actor_optimizer.step()
                self.critic_optimizer.step()
                actor.project()
                losses.append(actor_loss.detach())
                errors.append(critic_loss.detach())
                exponents.append(exponent.detach())
            epochs += 1
            shown = None if counted is None else counted[order]
            kl = approximate_kl(torch.cat(exponents), shown)
            if config.target_kl is not None and float(kl) > config.target_kl:
                break
        explained = 1 - (rollout.return_ - rollout.value).var() / (rollout.return_.var() + 1e-8)
        numbers = torch.stack(
            [
                torch.stack(losses).mean(),
                torch.stack(errors).mean(),
                kl,
                out_of_range_ratio(torch.cat(exponents), config.clip, shown),
                torch.stack(norms).mean(),
                explained,
            ]
        ).tolist()
        names = ("actor_loss", "critic_loss", "kl", "clipped", "actor_gradient_norm", "explained_variance")
        log_std = actor.log_std.detach().tolist()
        return {
            **dict(zip(names, numbers, strict=True)),
            "epochs": float(epochs),
            **{f"log_std_{i}": x for i, x in enumerate(log_std)},
            "learning_rate": config.learning_rate * remaining,
        }

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers."""
        return {"actor": self.actor_optimizer.state_dict(), "critic": self.critic_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.actor_optimizer.load_state_dict(state["actor"])
        self.critic_optimizer.load_state_dict(state["critic"])


class PPO(Agent):
    """Plain PPO: likelihood ratios only, no gradient through the environment."""

    needs_gradient = False
    drop_nonfinite_gradient = False

    def __init__(self, config: UpdateConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.ppo = PPOUpdate(config, networks, generator)

    def update(self, rollout: Rollout, progress: float = 0.0) -> Metrics:
        """The PPO update."""
        return self.ppo.run(rollout, rollout.log_prob, progress)

    def state_dict(self) -> dict[str, Any]:
        """Optimisers."""
        return {"ppo": self.ppo.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.ppo.load_state_dict(state["ppo"])
