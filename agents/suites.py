"""Rows and suites of ``trafficgrad compare``: what is trained, and what was published about it. Data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SEED = "{seed}"  # in a row's overrides: the training seed


@dataclass(frozen=True)
class Row:
    """One line of a comparison: an agent, and how it is set up."""

    label: str
    agent: str  # kind, or a variant that the scenario names
    overrides: tuple[str, ...] = ()  # dotted key=value; `{seed}` stands for the training seed

    def overrides_of(self, seed: int) -> tuple[str, ...]:
        """The overrides of one training."""
        return tuple(text.replace(SEED, str(seed)) for text in self.overrides)


@dataclass(frozen=True)
class Suite:
    """A grid with a name.

    ``reference`` holds published values of the statistic ``paper``, means over seeds: scenario -> algorithm -> value.
    """

    scenarios: tuple[str, ...]
    rows: tuple[Row, ...]
    reference: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, str]  # scenario -> what to know about its reference
    quick: float  # factor on training.decisions with --quick
    seeds: int = 5


def _published(columns: tuple[str, ...], rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {scenario: dict(zip(columns, values, strict=True)) for scenario, values in rows.items()}


_ALGORITHMS = ("LR", "RP", "PPO", "LR+RP", "GI-PPO")
_ROWS = tuple(Row(name, name) for name in ("lr", "rp", "ppo", "lr_rp", "gippo"))

# Table 1, with the digits of the stored results.
_FUNCTIONS = _published(
    _ALGORITHMS,
    {
        "dejong_1": (-1.246e-6, -1.419e-8, -5.207e-5, -6.358e-8, -3.838e-10),
        "dejong_64": (-7.378e-4, -9.283e-7, -1.0768e-3, -3.053e-6, -1.0404e-6),
        "ackley_1": (-1.27721, -0.48215, -0.24889, -1.22554, -5.239e-4),
        "ackley_64": (-0.63782, -8.945e-3, -0.13761, -0.032602, -3.600e-3),
    },
)
# The paper shows curves; this is the same statistic of the stored results behind them.
_PACE_CAR = _published(
    _ALGORITHMS,
    {
        "pace_car_1lane": (945.31, 947.40, 946.34, 947.18, 943.47),
        "pace_car_2lane": (434.73, 545.19, 489.50, 679.54, 873.69),
        "pace_car_3lane": (116.37, 102.99, 181.28, 152.92, 157.45),
        "pace_car_4lane": (125.91, 131.17, 131.82, 127.78, 137.13),
        "pace_car_10lane": (22.29, 22.75, 32.54, 27.97, 44.38),
    },
)
_NOTES = {"pace_car_3lane": "not in the paper: its authors ran three lanes and left them out; numbers of their results"}

SUITES = {
    "functions": Suite(tuple(_FUNCTIONS), _ROWS, _FUNCTIONS, {}, quick=0.2),
    "pacecar": Suite(tuple(_PACE_CAR), _ROWS, _PACE_CAR, _NOTES, quick=0.1),
    "paper": Suite((*_FUNCTIONS, *_PACE_CAR), _ROWS, {**_FUNCTIONS, **_PACE_CAR}, _NOTES, quick=0.1),
}
