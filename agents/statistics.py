"""What several trainings say together: moving means of returns, interquartile means, bootstrap intervals.

Pure functions on numpy arrays; NaN stands for what was not measured.

References:
    R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville, M. G. Bellemare: Deep Reinforcement Learning at the Edge of
    the Statistical Precipice, NeurIPS 2021 (interquartile mean, stratified bootstrap).
    S. Son, L. Zheng, R. Sullivan, Y. Qiao, M. Lin: Gradient Informed Proximal Policy Optimization, NeurIPS 2023
    (maximum over a training of the moving mean, as rl_games logs it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

WINDOW = 100  # episodes of the moving mean
RESAMPLES = 10_000
CONFIDENCE = 0.95
_TRIMMED = 0.25  # at each end


@dataclass(frozen=True)
class Summary:
    """One measure over the seeds of a row; NaN throughout where no seed has it."""

    count: int  # seeds that have it
    mean: float
    interquartile_mean: float
    low: float  # of the bootstrap interval of the interquartile mean
    high: float
    lowest: float  # seed
    highest: float


def moving_mean(means: Array, episodes: Array, window: int = WINDOW) -> Array:
    """The moving mean of episode returns as rl_games' ``AverageMeter`` keeps it.

    After an update in which k episodes ended (at most ``window`` count) with the mean return r::

        old = min(window - k, size);  mean <- (mean old + r k) / (old + k);  size <- old + k

    With 64 episodes an update that is (36 mean + 64 r) / 100 from the second update on.

    Args:
        means: mean return of the episodes that ended in each update, ``[U]``; whatever stands where none ended counts
            for nothing.
        episodes: how many ended, ``[U]``.
        window: episodes that count.

    Returns:
        The moving mean after each update, ``[U]``; NaN before the first episode has ended.
    """
    result = np.full(len(means), np.nan)
    mean, size = np.nan, 0
    for i, (new, ended) in enumerate(zip(means.tolist(), episodes.tolist(), strict=True)):
        count = min(int(ended), window)
        if count > 0:
            old = min(window - count, size)
            mean = ((mean * old if old else 0.0) + new * count) / (old + count)
            size = old + count
        result[i] = mean
    return result


def highest_moving_mean(means: Array, episodes: Array, window: int = WINDOW) -> float:
    """The paper's "maximum reward" of a training: the maximum of :func:`moving_mean`; NaN where no episode ended."""
    curve = moving_mean(means, episodes, window)
    there = curve[np.isfinite(curve)]
    return float(there.max()) if len(there) else float("nan")


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half of the last axis, ``[..., R] -> [...]``.

    As rliable does, ``floor(R / 4)`` values are cut off at each end: nothing of three or fewer, one of five.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    cut = int(_TRIMMED * ordered.shape[-1])
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(-1))


def bootstrap_interval(
    strata: Sequence[Array], resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean of all runs together.

    Runs are drawn with replacement within each stratum, so that each keeps its number of runs.

    Args:
        strata: runs by scenario, each ``[R]``, without NaN; one array for a single scenario.
        resamples: how often the runs are drawn anew. confidence: of the interval. seed: of the drawing.

    Returns:
        Lower and upper end; NaN where there is no run.
    """
    filled = [np.asarray(values, dtype=np.float64) for values in strata if len(values)]
    if not filled:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    drawn = [values[generator.integers(len(values), size=(resamples, len(values)))] for values in filled]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(interquartile_mean(np.concatenate(drawn, axis=-1)), [tail, 1.0 - tail])
    return float(low), float(high)


def summarize(values: Sequence[float] | Array) -> Summary:
    """What the table says of one measure of a row, from its seeds ``[R]``; NaN is left out."""
    runs = np.asarray(values, dtype=np.float64)
    runs = runs[np.isfinite(runs)]
    if not len(runs):
        return Summary(0, *[float("nan")] * 6)
    low, high = bootstrap_interval([runs])
    return Summary(
        len(runs),
        float(runs.mean()),
        float(interquartile_mean(runs)),
        low,
        high,
        float(runs.min()),
        float(runs.max()),
    )


def thin(curve: Array, points: int) -> Array:
    """Rows of a curve to keep: at most ``points``, first and last among them, and the one with the maximum.

    Args:
        curve: values ``[U]``, NaN where there is none. points: at least 3.

    Returns:
        Indices in ascending order, ``[<= points]``.
    """
    if len(curve) <= points:
        return np.arange(len(curve))
    rows = np.unique(np.linspace(0, len(curve) - 1, points).round().astype(np.int64))
    if np.isfinite(curve).any():
        best = int(np.nanargmax(curve))
        if best not in rows:
            # It takes the place of its nearest neighbour, but never of the first or the last.
            rows[1 + int(np.abs(rows[1:-1] - best).argmin())] = best
    return np.sort(rows)
