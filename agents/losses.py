"""Likelihoods of the Gaussian policy and the losses built from them, shared by all agents.

Shapes: actions are [..., A]; a log-likelihood is per vehicle, [...] (so [T, B, C] for vehicles that share a policy).
The joint likelihood of a world's vehicles is the product over them: :func:`joint`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)
MAX_EXPONENT = 16.0


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor, free: Tensor | None = None) -> Tensor:
    """Log-density per vehicle of a diagonal Gaussian.

    Args:
        action: Tensor, shape (..., A).
        mean: Tensor, shape (..., A).
        log_std: Tensor, shape (A,) or (..., A).
        free: Tensor, shape (A,), 0 for action dimensions that the policy does not choose (they leave the likelihood),
            1 for the others; None: all are chosen.

    Returns:
        Tensor, shape (...).
    """
    square = ((action - mean) * torch.exp(-log_std)).square()
    constant = log_std + 0.5 * LOG_2PI
    if free is not None:
        square, constant = square * free, constant * free
    return -0.5 * square.sum(-1) - constant.sum(-1)


def mean(x: Tensor, present: Tensor | None) -> Tensor:
    """Mean over all samples, or over those where the bool ``present`` of the same shape holds (0 if there are none)."""
    if present is None:
        return x.mean()
    weight = present.to(x.dtype)
    return (x * weight).sum() / weight.sum().clamp(min=1.0)


def spread(advantage: Tensor) -> Tensor:
    """Standard deviation of ``advantage`` over all its samples, [], never quite 0."""
    # Double precision is there for tasks whose rewards end far below 1e-8.
    return advantage.std() + (1e-8 if advantage.dtype == torch.float32 else 1e-30)


def standardized(advantage: Tensor) -> Tensor:
    """``advantage`` with mean 0 and standard deviation 1; all 0 where it does not vary."""
    return (advantage - advantage.mean()) / spread(advantage)


def joint(log_prob: Tensor, vehicles: bool) -> Tensor:
    """Log-likelihood of a world's actions: the sum over its vehicles, where there is a vehicle dimension."""
    return log_prob.sum(-1) if vehicles else log_prob


def mixture_log_prob(first: Tensor, second: Tensor) -> Tensor:
    """Log-density of the equal mixture ``(p1 + p2) / 2`` from the two log-densities; exact for any difference."""
    return torch.logaddexp(first, second) - math.log(2.0)


def log_ratio(new: Tensor, old: Tensor) -> Tensor:
    """Exponent of the importance ratio, bounded to +-16 so that its exponential stays finite."""
    return (new - old).clamp(-MAX_EXPONENT, MAX_EXPONENT)


def clipped_surrogate_loss(exponent: Tensor, advantage: Tensor, clip: float, present: Tensor | None = None) -> Tensor:
    """PPO's loss (Schulman et al. 2017): ``-mean min(A rho, A clip(rho, 1 - clip, 1 + clip))``, rho = exp(exponent).

    ``advantage`` broadcasts against ``exponent``; only samples that are ``present`` count.
    """
    ratio = exponent.exp()
    return -mean(torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip)), present)


def value_loss(value: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the critic."""
    return functional.mse_loss(value, target)


def approximate_kl(exponent: Tensor, present: Tensor | None = None) -> Tensor:
    """Low-variance, non-negative estimate ``mean(rho - 1 - log rho)`` of KL(old || new) (Schulman 2020)."""
    return mean(exponent.exp() - 1 - exponent, present)


def out_of_range_ratio(exponent: Tensor, clip: float, present: Tensor | None = None) -> Tensor:
    """Share of samples whose importance ratio lies outside ``[1 - clip, 1 + clip]``."""
    return mean(((exponent < math.log1p(-clip)) | (exponent > math.log1p(clip))).to(exponent.dtype), present)
