"""Random numbers that are functions of their counters, so that a simulation step can draw them and stay pure.

A counter-based generator (J. Salmon et al.: Parallel random numbers: as easy as 1, 2, 3, SC 2011) keeps no state: the
number for (seed, counters) is the same on any device, in any batch and at any time it is asked for. The mixing is that
of splitmix64 (G. Steele, D. Lea, C. Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), once for the
seed and once for each counter; a counter's successive values are one splitmix64 stream. Not for cryptography.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INCREMENT = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio, as int64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_BITS = 52  # of a uniform number: the midpoints of 2^52 cells are all below 1 in float64, those of 2^53 are not


def mix(seed: Tensor, *counters: Tensor | int) -> Tensor:
    """64 random bits for each (seed, counters), as int64. Inputs are int64 and broadcast."""
    bits = _scramble(seed + _INCREMENT)
    for counter in counters:
        offset = (counter + 1) * _INCREMENT
        bits = _scramble(bits + (offset if isinstance(offset, Tensor) else _wrap(offset)))
    return bits


def uniform(seed: Tensor, *counters: Tensor | int) -> Tensor:
    """Uniform float64 numbers within (0, 1), both ends excluded, one for each (seed, counters).

    Parameters:
        seed, counters: int64 tensors (counters also ints) that broadcast, such as seed [B, 1], inflow [Q] and
            number of the vehicle [B, Q]. Numbers for different counters, in any place, are independent.
    """
    cell = _shift_right(mix(seed, *counters), 64 - _BITS)
    return (cell.to(torch.float64) + 0.5) * 2.0**-_BITS


def _scramble(bits: Tensor) -> Tensor:
    """The finaliser of splitmix64; int64 products and sums wrap around as unsigned ones do."""
    bits = (bits ^ _shift_right(bits, 30)) * _FACTORS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _FACTORS[1]
    return bits ^ _shift_right(bits, 31)


def _wrap(number: int) -> int:
    """An integer modulo 2^64, as int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical shift: that of torch repeats the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
