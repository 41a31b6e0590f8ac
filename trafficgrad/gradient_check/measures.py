"""How well a gradient agrees with a reference, both known with noise: cosine, size, bias, tail, and their errors.

Everything quadratic is estimated without bias: |r|^2 as the product of two independent halves of the estimate, so that
noise neither lengthens a gradient nor adds to a bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 1000
DISTINCT, FEWEST_DISTINCT = 0.8, 4  # share of |r|^2 that is not noise; windows
CLIP_QUANTILE = 0.95


@dataclass(frozen=True)
class Agreement:
    """A gradient beside the reference, over all numbers of a set of windows taken together. NaN: cannot be told."""

    windows: int
    cosine: float  # of the two noisy estimates
    cosine_error: float  # standard error, bootstrap over windows
    true_cosine: float  # with the noise of both taken out
    true_cosine_error: float  # its standard error, bootstrap over windows
    median_cosine: float  # over the windows whose reference stands out of its noise, if there are at least 4
    norm: float  # |g|, root mean square over windows, noise taken out
    norm_ratio: float  # |g| / |reference|, noise taken out
    norm_ratio_error: float  # standard error, bootstrap over windows
    relative_bias: float  # |g - reference| / |reference|, noise taken out
    seen: float  # g . reference / |reference|^2: the part of the reference that g holds
    reference_norm: float  # |reference|, root mean square over windows, noise taken out
    reference_reliability: float  # cosine of the reference's two halves; its own limit of accuracy


@dataclass(frozen=True)
class SampleStatistics:
    """What a single perturbed window's gradient is like."""

    signal_to_noise: float  # |E g| / sqrt(E |g - E g|^2), root mean square over windows each
    variance: float  # E |g - E g|^2, mean over windows
    tail: float  # largest / median norm of all samples
    nonfinite: float  # share of samples
    changed: float  # share of samples in which somebody changed lane
    differs: float  # share whose lanes, leaders or end differ from those of the unperturbed window
    failed: float  # share that ended with a failure


@dataclass(frozen=True)
class LocalAgreement:
    """Autograd beside central differences at theta = 0."""

    tried: int  # numbers of theta
    valid: int  # of them, without anything discrete or a kink between the two sides
    cosine: float
    largest_error: float  # |g - difference| / the window's largest |difference|, maximum
    switch_free_windows: int  # windows in which no sample of the reference met a switch
    switch_free_cosine: float
    switch_free_bias: float  # |g - difference| / |difference| over them


def agreement(gradient: Tensor, reference: Tensor, windows: Tensor, mask: Tensor) -> Agreement:
    """Compare two estimates.

    Parameters:
        gradient, reference: [2, W, D], estimates from independent halves of the samples.
        windows: [W] bool, which count. mask: [D] bool, which numbers count.
    """
    g, r = (x[:, windows][..., mask] for x in (gradient, reference))
    per_window = _products(g, r)  # [6, W']
    count = per_window.shape[1]
    if count == 0:
        return Agreement(0, *[math.nan] * 12)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, count, (RESAMPLES, count), generator=generator)
    sums = per_window.cpu()[:, drawn].sum(-1)  # [6, RESAMPLES]
    sums = sums if count > 1 else sums * math.nan  # one window says nothing about others
    gr, gg, rr, g_free, r_free, bias = (float(x) for x in per_window.sum(1))
    # A single window's noise can only be taken out where there is little of it.
    distinct = (per_window[4] > DISTINCT * per_window[2]) & (per_window[1] > 0)
    own = _cosine(per_window[0], per_window[3].maximum(0.5 * per_window[1]), per_window[4])[distinct].clamp(-1.0, 1.0)
    return Agreement(
        windows=count,
        cosine=_ratio(gr, math.sqrt(gg * rr)),
        cosine_error=_spread(_cosine(*sums[:3])),
        true_cosine=_within_one(_ratio(gr, _root(g_free) * _root(r_free))),
        true_cosine_error=_spread(_cosine(sums[0], sums[3], sums[4]).clamp(-1.0, 1.0)),
        median_cosine=float(own.median()) if len(own) >= FEWEST_DISTINCT else math.nan,
        norm=_root(g_free / count, zero=True),
        norm_ratio=_ratio(_root(g_free, zero=True), _root(r_free)),
        norm_ratio_error=_spread((sums[3] / sums[4]).sqrt()),
        relative_bias=_ratio(_root(bias, zero=True), _root(r_free)),
        seen=_ratio(gr, r_free if r_free > 0 else math.nan),
        reference_norm=_root(r_free / count, zero=True),
        reference_reliability=_ratio(float((r[0] * r[1]).sum()), float(r[0].norm() * r[1].norm())),
    )


def sample_statistics(
    gradients: Tensor, halves: Tensor, finite: Tensor, changed: Tensor, differs: Tensor, failed: Tensor
) -> SampleStatistics:
    """Statistics of gradients [W, K, D] whose half means are [2, W, D]; the rest [W, K] bool."""
    norms = gradients.norm(dim=-1).flatten()
    mean = gradients.mean(1, keepdim=True)
    copies = gradients.shape[1]
    variance = float((gradients - mean).square().sum(-1).sum(1).mean() / max(1, copies - 1))
    signal = float((halves[0] * halves[1]).sum(-1).mean())
    return SampleStatistics(
        signal_to_noise=_ratio(_root(signal, zero=True), _root(variance)),
        variance=variance if copies > 1 else math.nan,
        tail=_ratio(float(norms.max()), float(norms.median())),
        nonfinite=1.0 - float(finite.double().mean()),
        changed=float(changed.double().mean()),
        differs=float(differs.double().mean()),
        failed=float(failed.double().mean()),
    )


def clipped(gradients: Tensor) -> Tensor:
    """Gradients [W, K, D] with no sample longer than the 95 % quantile of all samples' norms, as agents clip them."""
    norms = gradients.norm(dim=-1, keepdim=True)
    limit = torch.quantile(norms.flatten(), CLIP_QUANTILE)
    return gradients * torch.where(norms > limit, limit / norms.clamp(min=1e-300), 1.0)


def local_agreement(
    gradient: Tensor, derivative: Tensor, valid: Tensor, tried: Tensor, switch_free: Tensor
) -> LocalAgreement:
    """Compare the gradient [W, D] at theta = 0 with central differences; ``switch_free`` [W] bool."""
    g, d = torch.where(valid, gradient, 0.0), derivative
    scale = d.abs().amax(1, keepdim=True)
    error = torch.where(scale > 0, (g - d).abs() / scale.clamp(min=1e-300), 0.0)
    free = [x[switch_free].flatten() for x in (g, d)]
    return LocalAgreement(
        tried=int(tried.sum()),
        valid=int(valid.sum()),
        cosine=_ratio(float((g * d).sum()), float(g.norm() * d.norm())),
        largest_error=float(error.max()) if bool(valid.any()) else math.nan,
        switch_free_windows=int(switch_free.sum()),
        switch_free_cosine=_ratio(float((free[0] * free[1]).sum()), float(free[0].norm() * free[1].norm())),
        switch_free_bias=_ratio(float((free[0] - free[1]).norm()), float(free[1].norm())),
    )


def _products(g: Tensor, r: Tensor) -> Tensor:
    """[6, W]: g.r, |g|^2, |r|^2 of the means; |g|^2, |r|^2, |g - r|^2 with the noise taken out."""
    mean_g, mean_r = g.mean(0), r.mean(0)
    bias = ((g[0] - r[0]) * (g[1] - r[1]) + (g[0] - r[1]) * (g[1] - r[0])) / 2
    rows = (mean_g * mean_r, mean_g**2, mean_r**2, g[0] * g[1], r[0] * r[1], bias)
    return torch.stack([row.sum(-1) for row in rows])


def _cosine(product: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return product / (first * second).sqrt()


def _spread(resampled: Tensor) -> float:
    """Standard deviation of resampled estimates, those that exist."""
    known = resampled[resampled.isfinite()]
    return float(known.std()) if len(known) > 1 else math.nan


def _root(square: float, zero: bool = False) -> float:
    """Square root; of an estimate that noise made negative 0 or NaN."""
    return math.sqrt(square) if square > 0 else 0.0 if zero else math.nan


def _within_one(cosine: float) -> float:
    """Noise taken out of a cosine may leave a little more than 1."""
    return cosine if math.isnan(cosine) else max(-1.0, min(1.0, cosine))


def _ratio(value: float, by: float) -> float:
    return value / by if by > 0 and math.isfinite(by) else math.nan
