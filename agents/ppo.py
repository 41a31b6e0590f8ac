"""Proximal policy optimisation (Schulman et al. 2017): the update that GI-PPO shares, and the agent made of it alone.

Several vehicles may share one policy. Their joint likelihood is the product over the vehicles, and the one advantage is
the team's. ``ratio: vehicle`` clips each vehicle's importance ratio by itself (a vehicle whose action became unlikely
does not silence the others); ``ratio: joint`` clips the product.

Where a step went too far the KL stop (``target_kl``) ends the update, or ``schedule: kl`` takes shorter ones from then
on. ``retries`` are the "stable PPO" of Son et al. (2023), for comparisons: what a failed attempt left in Adam's moments
stays, as published, and the rate shrinks from attempt to attempt, which it did not (F8). The next update begins one
rate above the one that helped: from the top every time, most attempts would fail as they did before.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.base import Agent, Metrics, spread_of_policy
from trafficgrad.agents.losses import (
    approximate_kl,
    clipped_surrogate_loss,
    gaussian_log_prob,
    joint,
    log_ratio,
    out_of_range_ratio,
    standardized,
)
from trafficgrad.agents.rollout import Rollout
from trafficgrad.agents.value_fit import fit_critic
from trafficgrad.config import StrictModel


class UpdateConfig(StrictModel):
    """Keys of the PPO update, common to ``ppo`` and ``gippo``."""

    learning_rate: float = Field(default=5e-4, gt=0, description="Adam's rate for the policy")
    critic_learning_rate: float = Field(default=5e-4, gt=0, description="Adam's rate for the critic")
    schedule: Literal["constant", "linear", "kl"] = Field(
        default="constant",
        description="linear: both rates fall to 0 over the budget; kl: the policy's grows and shrinks so that an "
        "update moves the policy by target_kl",
    )
    clip: float = Field(default=0.2, gt=0, lt=1, description="the importance ratio is clipped to 1 +- clip")
    ratio: Literal["vehicle", "joint"] = Field(
        default="vehicle", description="clip each vehicle's ratio, or their product"
    )
    epochs: int = Field(default=5, ge=0, description="passes over the rollout; 0: this update is left out")
    minibatch: int = Field(default=400, ge=1, description="decisions of one world each, per gradient step (about)")
    max_gradient_norm: float = Field(
        default=0.5, gt=0, description="the gradients of policy and critic are scaled down to it"
    )
    target_kl: float | None = Field(
        default=None,
        gt=0,
        description="end the update when the policy moved further (with schedule: kl twice as far); null = never",
    )
    retries: int = Field(
        default=0,
        ge=0,
        description="times that an update which made its own loss worse is taken back and tried again with a smaller "
        'rate ("stable PPO"); after that it is left out. The next begins one rate above the one that helped',
    )
    critic_epochs: int | None = Field(
        default=None,
        ge=0,
        description="passes of the critic over the rollout, on its own; null = in the policy's minibatches",
    )
    critic_minibatch: int = Field(
        default=512, ge=1, description="decisions of one world each, per step of a critic on its own (about)"
    )

    @model_validator(mode="after")
    def _rates_by_kl(self) -> UpdateConfig:
        if self.schedule == "kl" and self.target_kl is None:
            raise ValueError("schedule: kl needs target_kl, such as 0.01")
        if self.retries and self.critic_epochs is None:
            raise ValueError("retries need a critic on its own: set critic_epochs")
        return self


class PPOConfig(UpdateConfig):
    """``training.agent`` of kind ``ppo``."""

    kind: Literal["ppo"] = "ppo"


def adam(parameters: Any, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Adam:
    """Adam, fused where the device has it: the networks are small, so the launches would cost more than the sums."""
    parameters = list(parameters)
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(parameters, lr=learning_rate, betas=betas, eps=1e-8, fused=fused)


class _Batch(NamedTuple):
    """Samples of a rollout, or some of them, [S, ...] each."""

    observation: Tensor
    action: Tensor
    advantage: Tensor
    old: Tensor  # log-density below the importance ratio, as the ratio needs it
    target: Tensor  # of the critic
    present: Tensor | None
    counted: Tensor | None  # of the ratios

    def rows(self, rows: Tensor) -> _Batch:
        """Some of the samples."""
        return _Batch(*(None if x is None else x[rows] for x in self))  # type: ignore[arg-type]


class _Epochs(NamedTuple):
    """How the passes over a rollout went; [] each."""

    passes: int
    first: Tensor  # policy's loss, mean over the first epoch
    last: Tensor  # over the last
    loss: Tensor  # over all
    critic_loss: Tensor
    kl: Tensor  # of the last epoch, and so on
    clipped: Tensor
    norm: Tensor  # of the policy's gradients


class PPOUpdate:
    """Shuffled minibatch epochs on the clipped surrogate and the critic's squared error, from one rollout."""

    RATE_FACTOR = 1.5  # of the policy's rate, with schedule: kl
    RATE_BOUNDS = (1e-12, 1e-2)

    def __init__(self, config: UpdateConfig, networks: ActorCritic, generator: torch.Generator) -> None:
        self.config = config
        self.networks = networks
        self.generator = generator
        self.actor_optimizer = adam(networks.actor.parameters(), config.learning_rate)
        # A critic on its own takes many steps: it forgets quickly what it aimed at before (the paper's memories).
        betas = (0.9, 0.999) if config.critic_epochs is None else (0.7, 0.95)
        self.critic_optimizer = adam(networks.critic.parameters(), config.critic_learning_rate, betas)
        self.rate = config.learning_rate  # of the policy, before any linear schedule

    def ratio_shape(self, log_prob: Tensor) -> Tensor:
        """Log-likelihoods as the ratio needs them: per vehicle [T, B, C], or per world [T, B]."""
        return joint(log_prob, self.networks.vehicles) if self.config.ratio == "joint" else log_prob

    def spread(self, advantage: Tensor) -> Tensor:
        """The team's advantage [T, B] against :meth:`ratio_shape`: [T, B, 1] per vehicle."""
        return advantage.unsqueeze(-1) if self.networks.vehicles and self.config.ratio == "vehicle" else advantage

    @torch.no_grad()
    def judge(self, rollout: Rollout, mean: Tensor, log_std: Tensor) -> tuple[Metrics, Tensor]:
        """What the surrogate of a rollout says of a policy that was moved on before the update.

        Args:
            rollout: the window. mean: Tensor, shape (T, B, C, A), of the moved policy. log_std: (A,) or like ``mean``.

        Returns:
            Estimated improvement ``mean(A rho) - mean(A)`` with its standard error over worlds, out-of-range ratio, KL,
            determinant ratio furthest from 1, root mean square shift of the mean; and the moved policy's log-density
            per vehicle [T, B, C] at the actions that were taken.
        """
        actor, config = self.networks.actor, self.config
        log_prob = gaussian_log_prob(rollout.action, mean, log_std, actor.free_or_none)
        if rollout.present is not None:
            log_prob = log_prob.masked_fill(~rollout.present, 0.0)
        counted = rollout.present if config.ratio == "vehicle" else None
        exponent = log_ratio(self.ratio_shape(log_prob), self.ratio_shape(rollout.log_prob))
        # By world: decisions of one world are not independent, worlds are.
        advantage = self.spread(standardized(rollout.advantage))
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
        return dict(zip(names, torch.stack(values).tolist(), strict=True)), log_prob

    def run(self, rollout: Rollout, density: Tensor, progress: float) -> Metrics:
        """All epochs.

        Args:
            rollout: the window.
            density: Tensor, shape (T, B, C), log-density per vehicle that stands below the importance ratio: that of
                the policy that acted, or a mixture.
            progress: share of the budget spent, for the schedule.
        """
        config, networks = self.config, self.networks
        remaining = 1.0 - progress if config.schedule == "linear" else 1.0
        used = self.rate * remaining
        self.critic_optimizer.param_groups[0]["lr"] = config.critic_learning_rate * remaining
        present = None if rollout.present is None else rollout.present.flatten(0, 1)
        batch = _Batch(
            rollout.observation.flatten(0, 1),
            rollout.action.flatten(0, 1),
            self.spread(standardized(rollout.advantage)).flatten(0, 1),
            self.ratio_shape(density).flatten(0, 1),
            rollout.return_.flatten(0, 1),
            present,
            present if config.ratio == "vehicle" else None,  # absent vehicles leave the joint ratio by themselves
        )
        error = None
        if config.critic_epochs is None:
            networks.critic.update_scale(batch.target)
        else:
            error = fit_critic(
                networks,
                self.critic_optimizer,
                rollout,
                config.critic_epochs,
                config.critic_minibatch,
                config.max_gradient_norm,
                self.generator,
            )
        epochs = self._tried(batch, used) if config.retries else self._at_rate(batch, used)
        networks.follow()
        explained = 1 - (rollout.return_ - rollout.value).var() / (rollout.return_.var() + 1e-8)
        if error is None:
            error = epochs.critic_loss
        numbers = torch.stack([epochs.loss, error, epochs.kl, epochs.clipped, epochs.norm, explained]).tolist()
        names = ("actor_loss", "critic_loss", "kl", "clipped", "actor_gradient_norm", "explained_variance")
        if config.schedule == "kl":
            self._adapt(numbers[2])
        moved = set(names) if epochs.passes else {"critic_loss", "explained_variance"}
        return {
            **{name: number for name, number in zip(names, numbers, strict=True) if name in moved},
            "epochs": float(epochs.passes),
            **spread_of_policy(rollout),
            "learning_rate": used,
        }

    def _tried(self, batch: _Batch, rate: float) -> _Epochs:
        """The epochs, again at ever smaller rates while they make the loss larger; not at all if none helps.

        The next update begins one rate above the one that helped, so it need not fail all the way down again.
        """
        config, actor = self.config, self.networks.actor
        kept = {name: x.clone() for name, x in actor.state_dict().items()}
        for attempt in range(config.retries + 1):
            epochs = self._at_rate(batch, rate / self.RATE_FACTOR**attempt)
            if not epochs.last > epochs.first:
                break
            actor.load_state_dict(kept)
        self.rate = min(self.rate / self.RATE_FACTOR ** (attempt - 1), config.learning_rate)
        return epochs

    def _at_rate(self, batch: _Batch, rate: float) -> _Epochs:
        self.actor_optimizer.param_groups[0]["lr"] = rate
        return self._epochs(batch)

    def _epochs(self, batch: _Batch) -> _Epochs:
        """Pass over the samples, again and again, one step a minibatch."""
        config, networks = self.config, self.networks
        actor, critic = networks.actor, networks.critic
        together = config.critic_epochs is None
        actor_parameters = list(actor.parameters())
        critic_parameters = list(critic.parameters()) if together else []
        samples = len(batch.target)
        nothing = batch.target.new_full((), math.nan)
        losses: list[list[Tensor]] = []  # of each epoch
        errors, norms = ([], []) if config.epochs else ([nothing], [nothing])
        exponents: list[Tensor] = []
        kl, clipped = batch.target.new_zeros(()), batch.target.new_zeros(())
        farthest = math.inf if config.target_kl is None else config.target_kl * (2 if config.schedule == "kl" else 1)
        for _ in range(config.epochs):
            order = torch.randperm(samples, generator=self.generator, device=batch.target.device)
            exponents, epoch = [], []
            for rows in order.tensor_split(max(1, round(samples / config.minibatch))):
                part = batch.rows(rows)
                log_prob = actor.log_prob(part.observation, part.action)
                if part.present is not None:
                    log_prob = log_prob.masked_fill(~part.present, 0.0)
                exponent = log_ratio(self.ratio_shape(log_prob), part.old)
                loss = actor_loss = clipped_surrogate_loss(exponent, part.advantage, config.clip, part.counted)
                if together:
                    critic_loss = critic.loss(networks.flatten(part.observation), part.target)
                    loss = actor_loss + critic_loss
                    errors.append(critic_loss.detach())
                gradients = torch.autograd.grad(loss, actor_parameters + critic_parameters)
                for parameter, gradient in zip(actor_parameters + critic_parameters, gradients, strict=True):
                    parameter.grad = gradient
                norms.append(nn.utils.clip_grad_norm_(actor_parameters, config.max_gradient_norm))
                self.actor_optimizer.step()
                if together:
                    nn.utils.clip_grad_norm_(critic_parameters, config.max_gradient_norm)
                    self.critic_optimizer.step()
                actor.project()
                epoch.append(actor_loss.detach())
                exponents.append(exponent.detach())
            losses.append(epoch)
            counted = None if batch.counted is None else batch.counted[order]
            whole = torch.cat(exponents)
            kl, clipped = approximate_kl(whole, counted), out_of_range_ratio(whole, config.clip, counted)
            if math.isfinite(farthest) and float(kl) > farthest:
                break
        every = [loss for epoch in losses for loss in epoch] or [nothing]
        first, last = (torch.stack(losses[i]).mean() if losses else nothing for i in (0, -1))
        critic_loss = torch.stack(errors).mean() if errors else nothing
        return _Epochs(len(losses), first, last, torch.stack(every).mean(), critic_loss, kl, clipped,
                       torch.stack(norms).mean())  # fmt: skip

    def _adapt(self, kl: float) -> None:
        """The next update shall move the policy by ``target_kl``, about."""
        assert self.config.target_kl is not None
        if kl > 2 * self.config.target_kl:
            self.rate /= self.RATE_FACTOR
        elif kl < 0.5 * self.config.target_kl:
            self.rate *= self.RATE_FACTOR
        low, high = self.RATE_BOUNDS
        self.rate = min(max(self.rate, low), high)

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers and the policy's rate."""
        return {
            "actor": self.actor_optimizer.state_dict(),
            "critic": self.critic_optimizer.state_dict(),
            "rate": self.rate,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.actor_optimizer.load_state_dict(state["actor"])
        self.critic_optimizer.load_state_dict(state["critic"])
        self.rate = float(state["rate"])


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
