"""Running mean and variance of observations, frozen while a rollout runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLIP = 10.0
EPSILON = 1e-4


class ObservationNormalizer(nn.Module):
    """Column-wise standardisation ``clip((x - mean) / sqrt(var + 1e-4), -10, 10)``, with one set of statistics for
    all vehicles and worlds.

    The statistics are buffers: they never carry a gradient, and they change only in :meth:`update`, which the training
    loop calls between rollouts. So the gradient of a rollout sees an affine map (and slope 0 where it is clipped).
    """

    mean: Tensor  # [O]
    variance: Tensor  # [O]
    count: Tensor  # [] number of samples seen

    def __init__(self, size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=dtype))
        self.register_buffer("variance", torch.ones(size, dtype=dtype))
        self.register_buffer("count", torch.zeros((), dtype=dtype))

    def forward(self, observation: Tensor) -> Tensor:
        """Standardised ``observation`` [..., O]."""
        return ((observation - self.mean) * (self.variance + EPSILON).rsqrt()).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, observation: Tensor) -> None:
        """Merge the samples [..., O] into the statistics (parallel variance formula of Chan et al. 1979)."""
        samples = observation.reshape(-1, observation.shape[-1])
        if not len(samples):
            return
        variance, mean = torch.var_mean(samples, dim=0, correction=0)
        total = self.count + samples.shape[0]
        share = samples.shape[0] / total
        delta = mean - self.mean
        self.variance.copy_((1 - share) * self.variance + share * variance + delta.square() * share * (1 - share))
        self.mean.add_(delta * share)
        self.count.copy_(total)
