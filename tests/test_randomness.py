"""Counter-based random numbers: against plain Python integers, and the statistics of the streams."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trafficgrad.randomness import mix, uniform

MASK = 2**64 - 1


def scalar_uniform(seed: int, *counters: int) -> float:
    """The same function in unsigned Python integers."""

    def scramble(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    bits = scramble((seed + 0x9E3779B97F4A7C15) & MASK)
    for counter in counters:
        bits = scramble((bits + (counter + 1) * 0x9E3779B97F4A7C15) & MASK)
    return ((bits >> 12) + 0.5) / 2**52


def integers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_published_values_of_splitmix64() -> None:
    # The stream of seed 1234567, as in Rosetta Code's "Pseudo-random numbers/Splitmix64".
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = 1234567 + torch.arange(4) * (0x9E3779B97F4A7C15 - 2**64)
    assert [bits & MASK for bits in mix(states).tolist()] == published


@pytest.mark.parametrize("seed", [0, 1, -1, 12345, -(2**63), 2**63 - 1])
def test_equals_python_integers(seed: int) -> None:
    counters = [0, 1, 2, 77, 10**12, 2**63 - 1]
    inflow, vehicle = integers(0, 1, 9)[:, None], integers(*counters)
    found = uniform(integers(seed), inflow, vehicle, 3)
    assert found.shape == (3, 6) and found.dtype == torch.float64
    expected = [[scalar_uniform(seed, q, k, 3) for k in counters] for q in (0, 1, 9)]
    assert found.tolist() == expected


def test_numbers_do_not_depend_on_the_batch() -> None:
    seed, inflow, vehicle = torch.arange(50)[:, None], torch.arange(4), torch.arange(200).reshape(50, 4)
    all_of_them = uniform(seed, inflow, vehicle)
    for b in (0, 17, 49):
        assert torch.equal(uniform(seed[b : b + 1], inflow, vehicle[b : b + 1]), all_of_them[b : b + 1])


def test_both_ends_are_excluded() -> None:
    cells = torch.tensor([0.0, 2.0**52 - 1.0], dtype=torch.float64)
    assert ((cells + 0.5) * 2.0**-52).tolist() == [2.0**-53, 1.0 - 2.0**-53]
    many = uniform(torch.arange(1000)[:, None], torch.arange(1000))
    assert 0.0 < float(many.min()) < float(many.max()) < 1.0


STREAMS = {  # each varies one argument and holds the others
    "seed": lambda n: uniform(torch.arange(n), 3, 5),
    "inflow": lambda n: uniform(integers(8), torch.arange(n), 5),
    "vehicle": lambda n: uniform(integers(8), 3, torch.arange(n)),
    "purpose": lambda n: uniform(integers(8), 3, 5, torch.arange(n)),
    "diagonal": lambda n: uniform(torch.arange(n), torch.arange(n), torch.arange(n)),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_uniform_in_every_argument(stream: str) -> None:
    u = STREAMS[stream](100_000)
    for cells in (u, (u * 1024.0) % 1.0):  # the leading and some later bits
        counts = torch.histc(cells, bins=256, min=0.0, max=1.0)
        statistic = float(((counts - 100_000 / 256) ** 2 / (100_000 / 256)).sum())
        assert abs(statistic - 255.0) < 4.0 * math.sqrt(2.0 * 255.0)
    assert abs(float(u.mean()) - 0.5) < 4.0 * math.sqrt(1.0 / 12.0 / 100_000)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("lag", [1, 2, 7])
def test_successive_numbers_are_uncorrelated(stream: str, lag: int) -> None:
    u = STREAMS[stream](100_000 + lag) - 0.5
    correlation = float((u[lag:] * u[:-lag]).mean()) * 12.0
    assert abs(correlation) < 4.0 / math.sqrt(100_000)


def test_pairs_of_streams_fill_the_square() -> None:
    """Two seeds, two inflows, two purposes, the same vehicles: 16 x 16 cells, chi-square."""
    k = torch.arange(100_000)
    base = uniform(integers(1), 2, k, 0)
    for other in (uniform(integers(2), 2, k, 0), uniform(integers(1), 3, k, 0), uniform(integers(1), 2, k, 1)):
        cells = torch.bincount((base * 16).long() * 16 + (other * 16).long(), minlength=256).double()
        statistic = float(((cells - 100_000 / 256) ** 2 / (100_000 / 256)).sum())
        assert abs(statistic - 255.0) < 4.0 * math.sqrt(2.0 * 255.0)


def test_swapped_counters_are_other_numbers() -> None:
    a, b = torch.arange(300)[:, None], torch.arange(300)
    u = uniform(integers(0), a, b)
    assert len(torch.unique(u)) == 300 * 300


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_numbers_on_a_gpu() -> None:
    seed, k = torch.arange(100)[:, None], torch.arange(1000)
    assert torch.equal(uniform(seed.cuda(), k.cuda(), 2).cpu(), uniform(seed, k, 2))
