"""Files of a comparison: ``results.csv`` (a line a run), ``curves.csv`` (its learning curve), ``table.md``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trafficgrad.agents.compare_jobs import Job
from trafficgrad.agents.compare_run import DRIVEN, EPISODES, TRACES
from trafficgrad.agents.statistics import (
    RESAMPLES,
    WINDOW,
    Array,
    Summary,
    bootstrap_interval,
    interquartile_mean,
    summarize,
)
from trafficgrad.agents.suites import Suite, sections
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file

RESULTS, CURVES, TABLE = "results.csv", "curves.csv", "table.md"
STATISTICS = {
    "paper": "highest moving mean",
    "final_stochastic": "last policy, with noise",
    "deterministic": "last policy",
    "best_deterministic": "best policy",
}
_LENGTHS = tuple(f"{name}_length" for name in STATISTICS if name != "paper")
_COSTS = ("seconds", "cpu_seconds", "cpu_per_update", "wall_per_update")
COLUMNS = (
    *("scenario", "row", "agent", "overrides", "configuration", "seed", "status", "message"),
    *("quick", "decisions", "updates"),
    *(*_COSTS, *STATISTICS, *_LENGTHS, "episodes", "machine"),
)
CURVE_COLUMNS = ("scenario", "row", "seed", "decisions", "seconds", "moving_mean", *TRACES)
Line = dict[str, str]


def result_line(job: Job, status: str, message: str, record: Mapping[str, Any]) -> Line:
    """A run as a line of ``results.csv``; ``record`` is that of its ``result.json``, empty where it failed."""
    line: dict[str, Any] = {
        "scenario": job.name,
        "row": job.row.label,
        "agent": job.row.agent,
        "overrides": " ".join(job.overrides),
        "configuration": job.configuration,
        "seed": job.seed,
        "status": status,
        "message": message,
        "quick": "yes" if job.quick else "no",
        **record,
    }
    return {name: _cell(line.get(name)) for name in COLUMNS}


def curve_lines(job: Job, curve: Mapping[str, Sequence[float | None]]) -> list[Line]:
    """A run's learning curve as lines of ``curves.csv``."""
    same = {"scenario": job.name, "row": job.row.label, "seed": str(job.seed)}
    names = [name for name in CURVE_COLUMNS if name in curve]
    return [
        {**same, **{name: _cell(value) for name, value in zip(names, values, strict=True)}}
        for values in zip(*(curve[name] for name in names), strict=True)
    ]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def read_lines(path: Path) -> list[Line]:
    """The lines of a CSV file; none where there is no file.

    Raises:
        TrafficGradError: not one of these files.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [{name: value or "" for name, value in line.items()} for line in csv.DictReader(file)]
    except (csv.Error, UnicodeDecodeError, AttributeError) as error:
        raise TrafficGradError(f"{path}: cannot be read as a table ({error})") from error
    if lines and not {"scenario", "row", "seed"} <= lines[0].keys():
        raise TrafficGradError(f"{path}: is no file of `trafficgrad compare`, it lacks the columns scenario, row, seed")
    return lines


def columns(lines: Sequence[Line]) -> dict[str, Array]:
    """The numbers in lines of ``curves.csv``: column -> ``[K]``, NaN where empty."""
    return {name: _values(lines, name) for name in CURVE_COLUMNS[3:]}


def key(line: Line) -> tuple[str, str, str]:
    """Which run a line belongs to."""
    return line["scenario"], line["row"], line["seed"]


def write_lines(path: Path, lines: Iterable[Line], columns: Sequence[str]) -> None:
    """Write a CSV file, whole or not at all."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    with complete_file(path) as partial:
        partial.write_text(buffer.getvalue(), encoding="utf-8", newline="")


def markdown(lines: Sequence[Line], suite: Suite | None = None, curves: Sequence[Line] = ()) -> str:
    """The text of ``table.md``: for every scenario what each row reached and cost, then all scenarios together.

    Args:
        lines: of ``results.csv``. suite: brings published numbers and milestones along.
        curves: lines of ``curves.csv``, which tell when a milestone was reached.
    """
    scenarios = list(dict.fromkeys(line["scenario"] for line in lines))
    parts = ["# Comparison", _explained()]
    if any(line.get("quick") == "yes" for line in lines):
        parts.append(
            "**Quick: fewer seeds and a smaller budget than the comparison is meant to have (`--quick`). "
            "The ranking may hold, the numbers do not.**"
        )
    for scenario in scenarios:
        own, way = ([line for line in x if line["scenario"] == scenario] for x in (lines, curves))
        parts += _scenario_part(scenario, own, suite, way)
    return "\n\n".join([*parts, *_together(scenarios, lines)]) + "\n"


def _explained() -> str:
    return (
        "Undiscounted returns. *Highest moving mean*: the paper's statistic, the maximum over the training of the mean "
        f"over {WINDOW} episodes of the stochastic policy. *Last policy, with noise*, *last policy* and *best policy* "
        f"(by validation), both without noise: {EPISODES} held-out episodes; {DRIVEN} of controllers, which are "
        "not trained. Cost: seconds of one thread per update, "
        "median over seeds, validation left out; CPU seconds are the mean of a run, wall-clock seconds its median. "
        "Wall s in all: the whole training with its validation, median over seeds."
    )


def _scenario_part(scenario: str, lines: Sequence[Line], suite: Suite | None, curves: Sequence[Line]) -> list[str]:
    rows = _by_row(lines)
    groups = {row: [line for line in group if line["status"] == "finished"] for row, group in rows.items()}
    shown = [name for name in STATISTICS if any(line.get(name) for line in lines)]
    budgets = sorted({int(line["decisions"]) for line in lines if line.get("decisions")})
    about = " or ".join(f"{budget:,}" for budget in budgets)
    parts = [f"## {scenario}", *([f"{about} decisions a training."] if about else [])]
    failed = [line for line in lines if line["status"] == "failed"]
    parts += [f"Failed: {line['row']}, seed {line['seed']}: {line['message']}" for line in failed]
    reference = suite.reference.get(scenario, {}) if suite is not None else {}
    usual = _median(groups.get("ppo", []), "cpu_per_update")
    found = sections(suite, scenario, groups)
    for i, (name, labels) in enumerate(found.items()):
        section = {label: groups[label] for label in labels}
        parts += [f"### {name}"] if name else []
        parts += ["Mean over seeds [lowest, highest]:", _first_grid(section, shown, reference if i == 0 else {})]
        if i == 0 and suite is not None and scenario in suite.notes:
            parts.append(f"{'The lines marked (paper)' if reference else 'Here'}: {suite.notes[scenario]}.")
        parts += ["Interquartile mean over seeds [95 % bootstrap interval], length of the episodes, cost:"]
        parts.append(_second_grid(section, shown, usual))
        if suite is not None and scenario in suite.milestones:
            parts += [
                f"First time that the moving mean is at least so high, by the points in {CURVES}: seeds that come "
                "there; decisions and wall-clock seconds, median over these seeds [lowest, highest]:",
                _milestone_grid(section, suite.milestones[scenario], curves),
            ]
    return parts


def _first_grid(groups: Mapping[str, Sequence[Line]], shown: Sequence[str], reference: Mapping[str, float]) -> str:
    means = [
        [row, str(len(group)), *(_mean_cell(summarize(_values(group, name))) for name in shown)]
        for row, group in groups.items()
    ]
    if "paper" in shown or not shown:
        empty = [""] * (len(shown) - 1)
        means += [[f"{name} (paper)", "", number(value), *empty] for name, value in reference.items()]
    return _grid(["row", "seeds", *(STATISTICS[name] for name in (shown or ["paper"]))], means)


def _second_grid(groups: Mapping[str, Sequence[Line]], shown: Sequence[str], usual: float) -> str:
    """``usual``: cost of the row that the others are compared with."""
    lengths = [name for name in _LENGTHS if name.removesuffix("_length") in shown]
    table = []
    for row, group in groups.items():
        cost = _median(group, "cpu_per_update")
        table.append(
            [
                row,
                *(_interval_cell(summarize(_values(group, name))) for name in shown),
                " / ".join(number(float(np.mean(_values(group, name)))) if group else "" for name in lengths),
                number(cost),
                number(_median(group, "wall_per_update")),
                number(_median(group, "seconds")),
                number(cost / usual, 3) if usual else "",
            ]
        )
    titles = [STATISTICS[name] for name in shown]
    short = " / ".join(STATISTICS[name.removesuffix("_length")] for name in lengths)
    cost_titles = ["CPU s per update", "wall s per update", "wall s in all", "cost / ppo"]
    return _grid(["row", *titles, f"length: {short}" if lengths else "length", *cost_titles], table)


def _milestone_grid(groups: Mapping[str, Sequence[Line]], returns: Sequence[float], curves: Sequence[Line]) -> str:
    ways: dict[tuple[str, str, str], list[Line]] = {}
    for line in curves:
        ways.setdefault(key(line), []).append(line)
    table = []
    for row, group in groups.items():
        cells = []
        for milestone in returns:
            there = [
                next((x for x in ways.get(key(run), []) if float(x["moving_mean"] or "nan") >= milestone), None)
                for run in group
            ]
            reached = [x for x in there if x is not None]
            spans = [_span_cell(_values(reached, name)) for name in ("decisions", "seconds")] if reached else []
            cells.append(", ".join([f"{len(reached)} of {len(group)}", *spans]) if group else "")
        table.append([row, *cells])
    return _grid(["row", *(number(milestone) for milestone in returns)], table)


def _span_cell(values: Array) -> str:
    spread = f" [{values.min():,.0f}, {values.max():,.0f}]" if len(values) > 1 else ""
    return f"{np.median(values):,.0f}{spread}"


def _together(scenarios: Sequence[str], lines: Sequence[Line]) -> list[str]:
    """All scenarios in one table, for rows that have runs in each of them."""
    rows = _by_row([line for line in lines if line["status"] == "finished"])
    rows = {row: group for row, group in rows.items() if {line["scenario"] for line in group} == set(scenarios)}
    if len(scenarios) < 2 or len(rows) < 2:
        return []
    names = [name for name in STATISTICS if name != "best_deterministic"]
    table: dict[str, list[str]] = {row: [row] for row in rows}
    for name in names:
        scaled = {scenario: _scale(_values(_of(lines, scenario), name)) for scenario in scenarios}
        for row, group in rows.items():
            strata = []
            for scenario in scenarios:
                values = _values(_of(group, scenario), name)
                strata.append(scaled[scenario](values[np.isfinite(values)]))
            low, high = bootstrap_interval(strata)
            together = np.concatenate(strata)
            middle = float(interquartile_mean(together)) if len(together) else math.nan
            table[row].append(f"{middle:.3f} [{low:.3f}, {high:.3f}]" if len(together) else "")
    told = (
        "Returns scaled per scenario: 0 is the worst and 1 the best run of any row; where no return is above 0, "
        "the logarithm of its distance to 0 is scaled. Interquartile mean over all runs [95 % interval, "
        f"{RESAMPLES:,} resamples stratified over scenarios]:"
    )
    return [
        "## All scenarios",
        told,
        _grid(["row", *(STATISTICS[name] for name in names)], list(table.values())),
    ]


def is_distance(values: Array) -> bool:
    """Whether returns are better seen as distances to 0, on a logarithmic scale: none is above it."""
    there = values[np.isfinite(values)]
    return bool(len(there) and (there <= 0.0).all() and (there < 0.0).any())


def _scale(values: Array) -> Callable[[Array], Array]:
    """A map of returns to [0, 1] by the lowest and the highest of ``values``."""
    there = values[np.isfinite(values)]
    logarithmic = is_distance(there)
    tiny = float(-there[there < 0.0].max()) if logarithmic else 0.0

    def to_axis(x: Array) -> Array:
        return np.asarray(-np.log10(np.maximum(-x, tiny)) if logarithmic else x)

    if not len(there):
        return to_axis
    axis = to_axis(there)
    low, span = float(axis.min()), float(axis.max() - axis.min())
    return lambda x: np.asarray((to_axis(x) - low) / span if span else np.zeros_like(x))


def _of(lines: Iterable[Line], scenario: str) -> list[Line]:
    return [line for line in lines if line["scenario"] == scenario and line["status"] == "finished"]


def _by_row(lines: Iterable[Line]) -> dict[str, list[Line]]:
    rows: dict[str, list[Line]] = {}
    for line in lines:
        rows.setdefault(line["row"], []).append(line)
    return rows


def _values(lines: Iterable[Line], name: str) -> Array:
    """A column, ``[R]``; NaN where empty."""
    return np.array([float(line.get(name) or "nan") for line in lines], dtype=np.float64)


def _median(lines: Iterable[Line], name: str) -> float:
    values = _values(lines, name)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _mean_cell(summary: Summary) -> str:
    if not summary.count:
        return ""
    spread = f" [{number(summary.lowest)}, {number(summary.highest)}]" if summary.count > 1 else ""
    return f"{number(summary.mean)}{spread}"


def _interval_cell(summary: Summary) -> str:
    if not summary.count:
        return ""
    spread = f" [{number(summary.low)}, {number(summary.high)}]" if summary.count > 1 else ""
    return f"{number(summary.interquartile_mean)}{spread}"


def number(value: float, digits: int = 4) -> str:
    """A number of a table in ``digits`` significant digits; nothing for NaN."""
    return "" if not math.isfinite(value) else f"{value:.{digits}g}"


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(titles), line(["---"] + ["---:"] * (len(titles) - 1)), *map(line, rows)])
