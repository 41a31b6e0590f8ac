"""What a gradient check found, as records of numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trafficgrad.gradient_check.measures import Agreement, LocalAgreement, SampleStatistics
from trafficgrad.gradient_check.settings import CheckSettings, Gradient

ALL, FREE, FAILING = "all", "failure_free", "with_failures"  # sets of windows
EVERYTHING = "everything"  # stands for all components of theta together
FEWEST_WINDOWS = 4  # fewer failure-free windows cannot carry a verdict
Table = Mapping[str, Agreement]  # by component, and of everything


@dataclass(frozen=True)
class ReferenceReport:
    """The evolution strategies that all modes are compared with."""

    pairs: int  # for each window
    relative_error: float  # standard error of the whole gradient / its length
    signal_to_noise: float  # of a single pair: |E| / standard deviation
    windows: dict[str, int]  # how many in each set: all; failure-free (no sample failed); with failures
    failed: float  # share of samples that ended with a failure
    changed: float  # share in which somebody changed lane
    differs: float  # share whose lanes, leaders or end differ from the unperturbed window's


@dataclass(frozen=True)
class ModeReport:
    """One way for gradients to pass lane changes, or signals."""

    name: str
    gradient: Gradient
    agreement: dict[str, Table]  # by set of windows, then component
    clipped: dict[str, Table]  # the same with every sample's gradient clipped at the 95 % quantile of norms
    sample: SampleStatistics
    local: LocalAgreement
    horizon: list[Table]  # of the returns up to each horizon, on the windows that the verdict is about
    norms: list[list[float]]  # rows of vehicles' norms: by decision for actions, else by horizon; root mean square
    verdict: str = ""
    trust: int = 0  # 2: direction and size, 1: direction, 0: neither


@dataclass(frozen=True)
class CheckResult:
    """Everything; :meth:`to_dict` is what ``trafficgrad gradcheck --json`` prints."""

    scenario: str
    driver: str
    settings: CheckSettings
    components: tuple[str, ...]
    vehicles: tuple[str, ...]
    dimension: int  # numbers in theta for each window
    judged: str  # set of windows that verdicts and horizons are about
    reference: ReferenceReport
    modes: dict[str, ModeReport]
    verdict: str = ""

    @property
    def horizons(self) -> list[int]:
        """Decisions that the entries of ``ModeReport.horizon`` stand for."""
        return self.settings.horizons

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a number that cannot be told is None."""
        record = _plain(dataclasses.asdict(self))
        record["horizons"] = self.horizons
        return record


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
