"""De Jong's and Ackley's functions as their authors wrote them, one point at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence


def de_jong(x: Sequence[float]) -> float:
    """Minus the sum of squares."""
    total = 0.0
    for xi in x:
        total -= xi * xi
    return total


def ackley(x: Sequence[float]) -> float:
    """20 exp(-0.2 sqrt(mean x^2)) + exp(mean cos(2 pi x)) - 20 - e; what cancels is lost beyond 1e-15."""
    squares, cosines = 0.0, 0.0
    for xi in x:
        squares += xi**2
        cosines += math.cos(2.0 * math.pi * xi)
    return 20.0 * math.exp(-0.2 * math.sqrt(squares / len(x))) + math.exp(cosines / len(x)) - 20.0 - math.exp(1.0)


SCALAR = {"de_jong": de_jong, "ackley": ackley}
BOUNDS = {"de_jong": 5.12, "ackley": 32.768}
