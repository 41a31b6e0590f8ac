"""References for gradients: antithetic evolution strategies, and central differences where nothing discrete differs.

Evolution strategies estimate the gradient of the smoothed return E[J(theta + sd eps)], eps standard normal, which
exists and means something where J itself jumps. For offsets on a Gaussian policy's mean this is the likelihood-ratio
gradient: shifting the mean of N(mu, sd) and weighting J with the score eps / sd are the same estimator. A pathwise
gradient is an unbiased estimate of it exactly if its mean over the same eps is; so that mean, not the gradient at
eps = 0, is what :mod:`trafficgrad.gradient_check.estimators` compares.

Central differences are exact to rounding but local: a step of 1e-5 m crosses no switch, however near it is. They tell
whether autograd is the derivative of the simulation between switches, and are the reference only where no perturbed
sample met a switch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.gradient_check.objective import Evaluate, Outcome

STEPS = (2e-5, 1e-5)  # of the central differences, which must agree
AGREEMENT = 1e-4  # relative
Progress = Callable[[str], None]


@dataclass(frozen=True)
class SmoothedReference:
    """Gradient of the smoothed return in ``W`` windows, for ``H`` horizons, from ``P`` antithetic pairs each."""

    halves: Tensor  # [2, W, H, D], estimates from the two halves of the pairs; their mean is the estimate
    standard_error: Tensor  # [W, D], of the mean, at the last horizon
    single_variance: Tensor  # [W], summed variance of what a single pair contributes
    failed: Tensor  # [W], share of the 2 P samples that ended with a failure
    changed: Tensor  # [W], share in which somebody changed lane
    differs: Tensor  # [W], share whose lanes, leaders or end differ from those of the unperturbed window

    @property
    def estimate(self) -> Tensor:
        """[W, H, D]."""
        return self.halves.mean(0)


@dataclass(frozen=True)
class LocalReference:
    """Central differences at theta = 0, last horizon."""

    derivative: Tensor  # [W, D]; 0 where it is not valid
    valid: Tensor  # [W, D] bool: nothing discrete differs between the sides and both step sizes agree
    tried: Tensor  # [W, D] bool


@torch.no_grad()
def unperturbed(evaluate: Evaluate, free: Tensor, worlds: int, progress: Progress = lambda text: None) -> Outcome:
    """The windows as they are; arguments as of :func:`evolution_strategies`."""
    rows = torch.arange(len(free), device=free.device)
    theta = torch.zeros(free.shape, dtype=torch.float64, device=free.device)
    return _in_chunks(evaluate, theta, rows, worlds, progress, "unperturbed windows")


@torch.no_grad()
def evolution_strategies(
    evaluate: Evaluate,
    free: Tensor,
    pairs: int,
    sd: float,
    generator: torch.Generator,
    worlds: int = 4096,
    progress: Progress = lambda text: None,
) -> SmoothedReference:
    """Gradient of E[J(theta + sd eps)] at theta = 0 from pairs J(+sd eps), J(-sd eps) with the same other noise.

    The contribution of a pair is eps (J+ - J-) / (2 sd), less c . eps of its own mean, eps (c . eps), plus c. This is
    unbiased for any c that does not depend on the pair; c is the estimate of another quarter of the pairs, shrunk by
    its noise. What is linear in theta then adds no variance.

    Parameters:
        evaluate: outcome of windows ``rows`` [S] at theta [S, D].
        free: [W, D] bool, what is perturbed. pairs: P, a multiple of 4. sd: in theta's units.
        generator: a CPU generator. worlds: how many are evaluated at once.
    """
    count, size = free.shape
    eps = torch.randn(count, pairs, size, generator=generator, dtype=torch.float64).to(free.device)
    eps = eps * free[:, None]
    base = unperturbed(evaluate, free, worlds)
    rows = torch.arange(count, device=free.device).repeat_interleave(2 * pairs)
    theta = torch.stack([sd * eps, -sd * eps], 2).flatten(0, 2)
    outcome = _in_chunks(evaluate, theta, rows, worlds, progress, "reference, evolution strategies")
    returns = outcome.returns.to(torch.float64).view(count, pairs, 2, -1)
    slope = (returns[:, :, 0] - returns[:, :, 1]) / (2.0 * sd)  # [W, P, H]
    quarters = [_quarter(eps, slope, q) for q in range(4)]
    means, contributions = [], []
    for own, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        noise, part = quarters[own]
        control = _shrunk(*quarters[other])  # [W, H, D]
        means.append(
            control
            + torch.einsum("wpd,wph->whd", noise, part - torch.einsum("wpd,whd->wph", noise, control)) / noise.shape[1]
        )
        last = control[:, None, -1]
        contributions.append(last + noise * (part[..., -1:] - (noise * last).sum(-1, keepdim=True)))
    single = torch.cat(contributions, 1)
    variance = single.var(1) if pairs > 1 else torch.zeros_like(single[:, 0])
    history = outcome.history.view(count, -1)
    return SmoothedReference(
        halves=torch.stack([(means[0] + means[1]) / 2, (means[2] + means[3]) / 2]),
        standard_error=(variance / pairs).sqrt(),
        single_variance=variance.sum(-1),
        failed=outcome.failed.view(count, -1).double().mean(1),
        changed=outcome.changed.view(count, -1).double().mean(1),
        differs=(history != base.history[:, None]).double().mean(1),
    )


@torch.no_grad()
def central_differences(
    evaluate: Evaluate,
    free: Tensor,
    generator: torch.Generator,
    most: int = 1024,
    worlds: int = 4096,
    progress: Progress = lambda text: None,
) -> LocalReference:
    """dJ/dtheta at theta = 0 by central differences, where lanes, leaders and end are those of the unperturbed window
    on both sides and two step sizes agree to ``AGREEMENT`` (a kink or a jump of an observation spoils that).

    Parameters:
        most: numbers of theta that are tried, drawn from all windows with ``generator``. Others as of
            :func:`evolution_strategies`.
    """
    count, size = free.shape
    candidates = free.reshape(-1).nonzero()[:, 0]
    order = torch.randperm(len(candidates), generator=generator)[:most].sort()[0]
    chosen = candidates[order.to(candidates.device)]
    base = unperturbed(evaluate, free, worlds)
    rows = (chosen // size).repeat_interleave(4)
    theta = torch.zeros(len(chosen), 4, size, dtype=torch.float64, device=free.device)
    steps = torch.tensor([STEPS[0], -STEPS[0], STEPS[1], -STEPS[1]], dtype=torch.float64, device=free.device)
    theta.scatter_(2, (chosen % size)[:, None, None].expand(-1, 4, 1), steps.expand(len(chosen), 4)[..., None])
    outcome = _in_chunks(evaluate, theta.flatten(0, 1), rows, worlds, progress, "central differences")
    returns = outcome.returns[:, -1].to(torch.float64).view(-1, 2, 2)
    wide, narrow = ((returns[:, i, 0] - returns[:, i, 1]) / (2.0 * STEPS[i]) for i in range(2))
    same = (outcome.history.view(-1, 4) == base.history[chosen // size, None]).all(1)
    # What rounding of returns of order 1 to 100 leaves of a difference is about 1e-9.
    agrees = (wide - narrow).abs() <= AGREEMENT * narrow.abs() + 1e-8
    derivative, valid, tried = (
        torch.zeros(count * size, dtype=d, device=free.device) for d in (torch.float64, torch.bool, torch.bool)
    )
    derivative[chosen], valid[chosen], tried[chosen] = torch.where(same & agrees, narrow, 0.0), same & agrees, True
    return LocalReference(*(x.view(count, size) for x in (derivative, valid, tried)))


def nothing_tried(free: Tensor) -> LocalReference:
    """No central differences; ``free`` [W, D] as of :func:`evolution_strategies`."""
    none = torch.zeros_like(free)
    return LocalReference(none.to(torch.float64), none, none)


def _quarter(eps: Tensor, slope: Tensor, which: int) -> tuple[Tensor, Tensor]:
    size = eps.shape[1] // 4
    part = slice(which * size, (which + 1) * size)
    return eps[:, part], slope[:, part]


def _shrunk(eps: Tensor, slope: Tensor) -> Tensor:
    """Estimate [W, H, D] of one quarter of the pairs, times the share of its squared norm that is not noise."""
    pairs = eps.shape[1]
    mean = torch.einsum("wpd,wph->whd", eps, slope) / pairs
    second = torch.einsum("wpd,wph->wh", eps.square(), slope.square()) / pairs
    norm = mean.square().sum(-1)
    noise = (second - norm) / max(1, pairs - 1)
    share = (1.0 - noise / norm.clamp(min=1e-300)).clamp(0.0, 1.0)
    return mean * share[..., None]


def _in_chunks(evaluate: Evaluate, theta: Tensor, rows: Tensor, worlds: int, progress: Progress, what: str) -> Outcome:
    parts = []
    for first in range(0, len(rows), worlds):
        progress(f"{what}: {first} of {len(rows)} windows ...")
        parts.append(evaluate(theta[first : first + worlds], rows[first : first + worlds]))
    return tree.concatenate(parts)
