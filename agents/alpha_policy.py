"""The alpha-policy of GI-PPO and the three tests that steer alpha (Son et al., NeurIPS 2023, arXiv 2312.08710).

The policy's actions a = mu(o) + sigma eps are moved along the gradient of their advantages, g = dA/da, to
``g_alpha(o, eps) = a + alpha g`` (Definition 4.1: for small alpha these are the samples of the policy with density
``pi(a) / |det(I + alpha d2A/da2)|``, which improves PPO's surrogate to first order, Proposition 4.3). The alpha-policy
is the regression of ``mu(o) + sigma eps`` onto them with the noise eps that was stored (Proposition 4.5). Whether alpha
was small enough is judged after the fact (section 4.3.1):

* variance (Lemma 4.4): the map eps -> action may not stretch or shrink by more than ``max_sigma_change``;
* bias (surrogate of Equation 4): the estimated improvement may not be negative, and alpha grows only where it exceeds
  its standard error; as published, it may not be unusually negative;
* out-of-range ratio: not too many importance ratios outside PPO's clipping range, or PPO cannot correct.

Passing all, alpha grows by a constant factor; failing one, it shrinks by it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trafficgrad.agents.actor_critic import Actor
from trafficgrad.agents.base import Metrics
from trafficgrad.agents.losses import mean
from trafficgrad.agents.rollout import Rollout


@dataclass(frozen=True)
class CleanGradient:
    """Action gradients, ready to be followed."""

    gradient: Tensor  # [T, B, C, A], finite, with a bounded norm per sample
    median: Tensor  # [], norm per sample before clipping
    largest: Tensor  # []
    mean_square: Tensor  # [], per chosen action component after clipping
    dropped: Tensor  # [], share of samples that were not finite and are 0 now
    variance: Tensor  # [], sum over action components of the samples' variance before clipping

    def metrics(self) -> Metrics:
        """Numbers for the log."""
        values = [self.median, self.largest, self.mean_square.sqrt(), self.dropped, self.variance]
        names = ("gradient_norm", "gradient_norm_max", "gradient_rms", "gradient_dropped", "gradient_variance")
        return dict(zip(names, torch.stack(values).tolist(), strict=True))


def clean_gradient(rollout: Rollout, quantile: float, actor: Actor) -> CleanGradient:
    """Drop non-finite samples of dA/da and scale the others down to the ``quantile`` of the batch's norms.

    One cut-in can dominate a batch, so the bound is per sample (one action of one vehicle), not on the batch. Samples
    of vehicles that are not present have gradient 0 and count nowhere; the mean square is per action component that the
    policy chooses.
    """
    gradient, present = rollout.action_gradient, rollout.present
    assert gradient is not None, "this agent needs a rollout with gradient"
    chosen = actor.spec.action_size - len(actor.spec.frozen)
    finite = gradient.isfinite().all(-1, keepdim=True)
    gradient = torch.where(finite, gradient, torch.zeros_like(gradient))
    norm = gradient.norm(dim=-1, keepdim=True)
    seen = norm.flatten() if present is None else norm[present].flatten()
    samples = gradient.flatten(0, -2) if present is None else gradient[present]
    ordered = seen.sort().values if len(seen) else norm.new_zeros(1)
    last = ordered.numel() - 1
    bound = ordered[round(quantile * last)]
    clipped = gradient * (bound / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)
    return CleanGradient(
        gradient=clipped,
        median=ordered[last // 2],
        largest=ordered[last],
        mean_square=clipped.square().sum() / (chosen * ordered.numel()),
        dropped=1 - finite.to(norm.dtype).mean(),
        variance=samples.var(0, correction=0).sum() if len(samples) else norm.new_zeros(()),
    )


@dataclass(frozen=True)
class Regression:
    """How the fit of the alpha-policy went."""

    before: float  # mean squared distance to the moved actions, at the start
    after: float  # the same at the end
    attempts: int
    converged: bool  # after < before; otherwise the actor is what it was
    mean: Tensor  # [S, ..., A], the actor's mean actions now
    log_std: Tensor  # [A] or [S, ..., A], the actor's log standard deviations now


class AlphaRegression:
    """Minibatch Adam on the squared distance to the moved actions; it restores what a failed attempt changed.

    The published algorithm takes 16 steps on all samples; six on minibatches with three times the rate come as close
    (docs/performance.md).

    A failed attempt puts back the parameters and the optimiser's moments, and the next starts with the learning rate
    divided by ``SHRINK`` once more. If all attempts fail, the next call starts from the smaller rate.

    With ``restore_moments`` false the moments stay, as published. That is a flaw which helps where sigma is far below
    what a step of Adam moves: excursions that failed have told it how steep the way of the mean is beside that of log
    sigma.
    """

    ATTEMPTS = 8
    SHRINK = 1.5
    SMALLEST = 1e-5
    MAX_NORM = 1.0

    def __init__(
        self,
        actor: Actor,
        optimizer: torch.optim.Optimizer,
        learning_rate: float,
        iterations: int,
        minibatch: int | None = None,
        moves_std: bool = True,
        restore_moments: bool = True,
    ) -> None:
        """``minibatch``: samples of a step (about), None: all of them. ``moves_std``: the standard deviation is fitted
        too; otherwise it stays what it is. ``restore_moments``: after a failed attempt.
        """
        self.actor = actor
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.iterations = iterations
        self.minibatch = minibatch
        self.moves_std = moves_std
        self.restore_moments = restore_moments

    def _loss(
        self, distribution: tuple[Tensor, Tensor], noise: Tensor, target: Tensor, present: Tensor | None
    ) -> Tensor:
        mean_, log_std = distribution
        std = log_std.exp()
        reached = mean_ + (std if self.moves_std else std.detach()) * noise
        return mean((reached - target).square().sum(-1), present)

    def fit(
        self,
        observation: Tensor,
        begin: tuple[Tensor, Tensor],
        noise: Tensor,
        target: Tensor,
        present: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Regression:
        """Move the actor so that ``mean(observation) + std * noise`` approaches ``target``.

        Args:
            observation: Tensor, shape (S, ..., O), normalised.
            begin: mean actions (S, ..., A) and log standard deviations, (A,) or (S, ..., A), of the actor now.
            noise: Tensor, shape (S, ..., A), the eps of the actions that were taken.
            target: Tensor, shape (S, ..., A), the moved actions.
            present: bool Tensor, shape (S, ...), samples that count; None: all.
            generator: source of the shuffling.
        """
        actor, samples = self.actor, len(target)
        parameters = list(actor.parameters() if self.moves_std else actor.network.parameters())
        kept = {name: x.clone() for name, x in actor.state_dict().items()}
        moments = copy.deepcopy(self.optimizer.state_dict()) if self.restore_moments else None
        parts = 1 if self.minibatch is None else max(1, round(samples / self.minibatch))
        with torch.no_grad():
            before = float(self._loss(begin, noise, target, present))
        if before == 0:  # the actor is there already: no gradient anywhere, nothing to learn about the rate
            return Regression(before, before, 1, False, *begin)
        rate = self.learning_rate
        for attempt in range(1, self.ATTEMPTS + 1):
            self.optimizer.param_groups[0]["lr"] = rate
            batches: list[Any] = []
            for _ in range(self.iterations):
                if not batches:
                    batches = [slice(None)]
                    if parts > 1:
                        order = torch.randperm(samples, generator=generator, device=target.device)
                        batches = list(order.tensor_split(parts))
                rows = batches.pop()
                there = None if present is None else present[rows]
                loss = self._loss(actor.distribution(observation[rows]), noise[rows], target[rows], there)
                gradients = torch.autograd.grad(loss, parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                nn.utils.clip_grad_norm_(parameters, self.MAX_NORM)
                self.optimizer.step()
                actor.project()
            with torch.no_grad():
                end = actor.distribution(observation)
                after = float(self._loss(end, noise, target, present))
            if after < before:
                return Regression(before, after, attempt, True, *end)
            actor.load_state_dict(kept)
            if moments is not None:
                self.optimizer.load_state_dict(copy.deepcopy(moments))
            rate /= self.SHRINK
        self.learning_rate = max(self.learning_rate / self.SHRINK, min(self.SMALLEST, self.learning_rate))
        return Regression(before, before, self.ATTEMPTS, False, *begin)

    def state_dict(self) -> dict[str, Any]:
        """Learning rate and moments."""
        return {"learning_rate": self.learning_rate, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.learning_rate = float(state["learning_rate"])
        self.optimizer.load_state_dict(state["optimizer"])


def variance_test(log_std: Tensor, old_log_std: Tensor, max_change: float) -> tuple[Tensor, Tensor]:
    """Variance (Lemma 4.4, section 4.3.1), on each action dimension by itself.

    The Jacobian of eps -> action is diagonal, so its determinant's ratio is the product of the sigma ratios. A bound on
    that product would tighten with the number of dimensions; here every dimension keeps
    ``1 - max_change <= sigma / sigma_old <= 1 + max_change``, in every sample where the network tells sigma.

    Returns:
        bool Tensor [], and the sigma ratio that is furthest from 1, Tensor [].
    """
    ratio = (log_std - old_log_std).exp().flatten()
    worst = ratio[(ratio - 1).abs().argmax()]
    return (worst - 1).abs() <= max_change, worst


class BiasTest:
    """Bias as published (Equation 4, section 4.3.1): refuse a surrogate improvement that is negative and unusual.

    The improvement is ``mean(A rho) - mean(A)`` with centred, normalised advantages aligned with their ratios; unusual
    is more than one standard deviation below its running mean. Both statistics follow the last ten or so updates.
    """

    MEMORY = 0.1

    def __init__(self) -> None:
        self.mean = 0.0
        self.variance = 0.0
        self.count = 0

    def passes(self, improvement: float) -> tuple[bool, float]:
        """Judge ``improvement``, then take it into the statistics; returns the verdict and the z-score."""
        z = (improvement - self.mean) / (self.variance + 1e-10) ** 0.5 if self.count > 1 else 0.0
        share = max(self.MEMORY, 1.0 / (self.count + 1))
        delta = improvement - self.mean
        self.mean += share * delta
        self.variance = (1 - share) * (self.variance + share * delta * delta)
        self.count += 1
        return not (improvement < 0 and z < -1), z

    def state_dict(self) -> dict[str, Any]:
        """The running statistics."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.mean, self.variance, self.count = float(state["mean"]), float(state["variance"]), int(state["count"])
