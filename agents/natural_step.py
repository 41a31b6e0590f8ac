"""Natural gradients: the policy's step of steepest ascent where distance is KL (Amari 1998).

With the Fisher information F of the policy's Gaussians - 1 / sigma^2 for a mean, 2 for a log sigma, chained through the
network and averaged over samples - the direction is ``F^-1 g``, by conjugate gradients as in "Trust Region Policy
Optimization" (Schulman et al., ICML 2015). What counts is how much the distribution of actions changes, not how far
weights move. So a policy whose noise has shrunk a millionfold still takes steps of the right size, and a mean and its
standard deviation keep their proportion.

There the curvature by the mean is 1 / sigma^2 and that by log sigma 2: a million million apart. Without a
preconditioner conjugate gradients would see only the first; the diagonal of F, from a few random vectors, is enough of
one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.agents.actor_critic import Actor


class Shift(NamedTuple):
    """By how much a policy moves, or shall move, for every sample [S, ..., A]."""

    mean: Tensor
    log_std: Tensor


class FisherSolver:
    """The policy's linearisation at its present weights, on given samples."""

    PROBES = 4  # random vectors for the diagonal of F
    SMALLEST = 1e-10  # conjugate gradients end where the residual is so small a part of what it was

    def __init__(
        self,
        actor: Actor,
        observation: Tensor,
        weight: Tensor,
        generator: torch.Generator,
        iterations: int,
        damping: float,
    ) -> None:
        """Linearise.

        Args:
            actor: the policy.
            observation: Tensor, shape (S, ..., O), normalised.
            weight: Tensor, shape (S, ..., 1), of every sample in means: 1 / number of samples, 0 where nobody acts.
            generator: source of the signs that estimate the diagonal of F.
            iterations: of conjugate gradients, at most.
            damping: added to F, so that directions that hardly any sample tells anything about are not followed far.
        """
        self.parameters = list(actor.parameters())
        self.generator, self.iterations, self.damping = generator, iterations, damping
        self._mean, log_std = actor.distribution(observation)
        self._log_std = log_std.expand_as(self._mean)
        weight = (weight * actor.free).expand_as(self._mean)
        self._metric = Shift(weight * torch.exp(-2.0 * self._log_std.detach()), weight * 2.0)
        # The slope of this by `probe` is J^T probe, linear in it: its own slope along a vector v is J v.
        self._probe = [torch.zeros_like(self._mean, requires_grad=True) for _ in range(2)]
        product = (self._probe[0] * self._mean + self._probe[1] * self._log_std).sum()
        self._pulled = torch.autograd.grad(product, self.parameters, create_graph=True, materialize_grads=True)

    def push(self, vector: list[Tensor]) -> Shift:
        """J v: how the samples' Gaussians move where the weights move by ``vector``."""
        moved = torch.autograd.grad(
            self._pulled, self._probe, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return Shift(*moved)

    def pull(self, slopes: Shift) -> list[Tensor]:
        """J^T of slopes by mean and log standard deviation."""
        outputs = [x for x in (self._mean, self._log_std) if x.requires_grad]
        given = [y for x, y in zip((self._mean, self._log_std), slopes, strict=True) if x.requires_grad]
        return list(
            torch.autograd.grad(
                outputs, self.parameters, given, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    def solve(self, slopes: list[Tensor]) -> list[Tensor]:
        """The natural direction ``F^-1 slopes`` of an objective with these slopes by the weights."""

        def fisher(vector: list[Tensor]) -> list[Tensor]:
            return self.pull(self._measured(self.push(vector)))

        return conjugate_gradients(fisher, slopes, self.diagonal, self.iterations, self.damping, self.SMALLEST)

    def kl(self, shift: Shift) -> Tensor:
        """Mean KL of a small shift, []: half its squared length in the metric."""
        return 0.5 * torch.stack([(m * x.square()).sum() for m, x in zip(self._metric, shift, strict=True)]).sum()

    def _measured(self, shift: Shift) -> Shift:
        return Shift(self._metric.mean * shift.mean, self._metric.log_std * shift.log_std)

    @cached_property
    def diagonal(self) -> list[Tensor]:
        """The diagonal of F, nearly: mean square of vectors whose outer product is F in expectation."""
        total = [torch.zeros_like(p) for p in self.parameters]
        for _ in range(self.PROBES):
            signs = (
                torch.randint(0, 2, m.shape, generator=self.generator, device=m.device).to(m.dtype) * 2.0 - 1.0
                for m in self._metric
            )
            vector = self.pull(Shift(*(m.sqrt() * s for m, s in zip(self._metric, signs, strict=True))))
            total = [t + v.square() / self.PROBES for t, v in zip(total, vector, strict=True)]
        return total


def conjugate_gradients(
    product: Callable[[list[Tensor]], list[Tensor]],
    target: list[Tensor],
    diagonal: list[Tensor],
    iterations: int,
    damping: float,
    smallest: float = 1e-10,
) -> list[Tensor]:
    """The x with ``(F + damping) x = target``, nearly, scaled by the diagonal of F (Jacobi's preconditioner).

    Args:
        product: v -> F v of a symmetric F >= 0. target: the right side. diagonal: of F, may be a guess.
        iterations: at most. damping: added to F.
        smallest: ends where the residual has fallen to this part of its first length.
    """
    scale = [1.0 / (d + damping) for d in diagonal]
    x = [torch.zeros_like(part) for part in target]
    residual = list(target)
    search = scaled = [s * r for s, r in zip(scale, residual, strict=True)]
    size = first = dot(residual, scaled)
    for _ in range(iterations):
        if not float(size) > smallest**2 * float(first):
            break
        image = [p + damping * s for p, s in zip(product(search), search, strict=True)]
        step = size / dot(search, image)
        x = [a + step * b for a, b in zip(x, search, strict=True)]
        residual = [a - step * b for a, b in zip(residual, image, strict=True)]
        scaled = [s * r for s, r in zip(scale, residual, strict=True)]
        before, size = size, dot(residual, scaled)
        search = [a + (size / before) * b for a, b in zip(scaled, search, strict=True)]
    return x


def dot(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Inner product of two vectors in parameter space, []."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
