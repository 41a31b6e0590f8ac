"""What a validation found: checks, their judgement and their table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table

Draw = Callable[[Path], Path]  # writes a group's figure to the path and returns it
Verdict = Literal["pass", "FAIL", "shown", "outside"]
COLUMNS = ("check", "theory or reference", "measured", "limit", "unit", "verdict", "source")


@dataclass(frozen=True)
class Check:
    """One number measured, and the bounds that it must lie in: a row of the table.

    ``reference`` is what theory or another simulator says, None where only bounds are known. A check that is not
    ``judged`` is printed for the reader and can neither pass nor fail.
    """

    name: str
    reference: float | None
    measured: float
    low: float
    high: float
    unit: str = ""
    digits: int = 3
    judged: bool = True
    source: str = ""
    group: str = ""

    @property
    def passed(self) -> bool:
        """Whether the measurement lies in the bounds, or is not judged. A measurement that is no number fails."""
        return not self.judged or self.low <= self.measured <= self.high

    @property
    def verdict(self) -> Verdict:
        """In a word; what is not judged is ``shown``, or ``outside`` where it does not lie in the bounds."""
        inside = self.low <= self.measured <= self.high
        if not self.judged:
            return "shown" if inside else "outside"
        return "pass" if inside else "FAIL"

    @property
    def limit(self) -> str:
        """The bounds as text."""
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        if math.isinf(self.low):
            return f"<= {self.high:.{self.digits}f}"
        if math.isinf(self.high):
            return f">= {self.low:.{self.digits}f}"
        if self.low == self.high:
            return f"= {self.low:.{self.digits}f}"
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        if self.reference is not None and math.isclose(middle, self.reference, rel_tol=1e-9, abs_tol=1e-12):
            return f"± {half:.2g}"
        return f"{self.low:.{self.digits}f} … {self.high:.{self.digits}f}"


def near(
    name: str, reference: float, measured: float, tolerance: float, unit: str = "", digits: int = 3, source: str = ""
) -> Check:
    """A measurement that must be within ``tolerance`` (in its unit) of the reference."""
    low, high = reference - tolerance, reference + tolerance
    return Check(name, reference, float(measured), low, high, unit, digits, source=source)


def within(
    name: str, low: float, high: float, measured: float, unit: str = "", digits: int = 3, source: str = ""
) -> Check:
    """A measurement that must lie between two bounds; either may be infinite."""
    return Check(name, None, float(measured), low, high, unit, digits, source=source)


def none_of(name: str, measured: float, unit: str = "", source: str = "") -> Check:
    """A count that must be 0."""
    return Check(name, 0.0, float(measured), 0.0, 0.0, unit, 0, source=source)


@dataclass
class Report:
    """Everything that a validation found."""

    quick: bool = False
    checks: list[Check] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    missing: tuple[str, ...] = ()  # groups that were not finished, or not at all begun
    seconds: float = 0.0  # by the clock on the wall
    cpu_seconds: dict[str, float] = field(default_factory=dict)  # group that was finished -> what it computed for

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        """Whether something was judged, nothing failed and nothing is missing."""
        return any(check.judged for check in self.checks) and not self.failed and not self.missing

    def groups(self) -> list[str]:
        """Names of the groups that have checks, in the order of their first."""
        return list(dict.fromkeys(check.group for check in self.checks))

    def summary(self) -> str:
        """One sentence."""
        judged = sum(check.judged for check in self.checks)
        shown = len(self.checks) - judged
        outcome = f"{len(self.failed)} of {judged} checks failed" if self.failed else f"all {judged} checks passed"
        outcome = outcome if judged else "nothing was judged"
        seen = f", {shown} more are shown and not judged" if shown else ""
        cut = f"; not finished: {', '.join(self.missing)}" if self.missing else ""
        took = f"{self.seconds:.0f} s, {sum(self.cpu_seconds.values()):.0f} s of CPU time"
        return f"{outcome}{seen}; {took}{cut}."

    def as_data(self) -> dict[str, object]:
        """The report as what JSON can hold: a row per check; no reference, or what is not finite, is null."""
        names = ("group", "name", "reference", "measured", "low", "high", "unit", "verdict", "source")

        def plain(value: object) -> object:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        rows = [{name: plain(getattr(check, name)) for name in names} for check in self.checks]
        return {
            "quick": self.quick,
            "passed": self.passed,
            "missing": list(self.missing),
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "seconds": round(self.seconds, 1),
            "cpu_seconds": {name: round(value, 1) for name, value in self.cpu_seconds.items()},
            "checks": rows,
        }


def table(report: Report, titles: Mapping[str, str]) -> Table:
    """A row per check, the groups apart; ``titles`` of the groups."""
    kind = "quick version: fewer and shorter runs" if report.quick else "full version"
    grid = Table(
        title=f"trafficgrad validate, {kind}; torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
        title_justify="left",
    )
    for name in COLUMNS:
        number = name in ("theory or reference", "measured", "limit")
        grid.add_column(name, justify="right" if number else "left", no_wrap=name not in ("check", "source"))
    for group in report.groups():
        grid.add_section()
        took = f"{report.cpu_seconds[group]:.0f} s of CPU" if group in report.cpu_seconds else "not finished"
        grid.add_row(f"[bold]{titles.get(group, group)}[/bold] ({took})")
        for check in report.checks:
            if check.group == group:
                name, *numbers, unit, verdict, source = cells(check)
                colour = {"pass": "green", "FAIL": "bold red", "shown": "dim", "outside": "yellow"}[check.verdict]
                grid.add_row(f"  {name}", *numbers, unit, f"[{colour}]{verdict}[/{colour}]", source)
    return grid


def cells(check: Check) -> tuple[str, ...]:
    """What a check has in the columns ``COLUMNS``."""
    digits = check.digits
    reference = "" if check.reference is None else f"{check.reference:.{digits}f}"
    measured = f"{check.measured:.{digits}f}"
    return check.name, reference, measured, check.limit, check.unit, check.verdict, check.source
