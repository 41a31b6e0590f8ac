"""Plots of what trainings log: columns of ``metrics.csv`` against their progress."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.files import check_ending
from trafficgrad.render.figures import FORMATS, GRID, INK, SERIES, head, legend_beside, new_figure, plain, save_figure
from trafficgrad.render.style import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Runs: TypeAlias = Mapping[str, Mapping[str, Array]]  # label -> column -> [rows]

# What a reader asks for first, in this order, as far as it is there.
_CURVES = ("score", "reward", "episode_return", "alpha")
_ONE_RUN = "#2f6db3"
_PROGRESS = ("decisions", "iteration", "seconds")
_DECADES = 100.0  # largest / smallest value, from which on the axis is logarithmic
# What tells how far a run followed the simulator's gradient, and why not further: column, label, axis. A share is shown
# from 0 to 1; "decades" is logarithmic where positive values span some.
_TRACES = (
    ("alpha", "step α along the gradient", "decades"),
    ("trust", "trust in the pathwise gradient", "share"),
    ("k_rp", "weight of the pathwise gradient", "share"),
    ("scale", "confirmed part of its length", "around 0"),
    ("step", "share of the step taken", "share"),
    ("kl_reached", "KL reached", "decades"),
    ("oorr", "out-of-range ratio", "from 0"),
    ("surrogate_improvement", "bias: surrogate improvement", "around 0"),
    ("sigma_ratio", "variance: ratio of σ to old σ", "decades"),
    ("gradient_variance", "variance of the gradient", "decades"),
)


def learning_curve(
    metrics: str | Path | Mapping[str, str | Path],
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    progress: str | None = None,
    title: str = "",
) -> Path:
    """Draw columns of a training's ``metrics.csv`` against its progress, one panel each; several runs share the panels.

    Args:
        metrics: the file, or label -> file for several runs.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        columns: what to draw; default: those of score, reward, episode_return, alpha that there are, three at most.
        progress: column to the right; default: decisions, else iteration, else seconds, else the number of the row.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, no such file or column, or a file without a number to draw.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    runs = _read_runs(metrics)
    known = list(dict.fromkeys(name for run in runs.values() for name in run))
    for name in (*(columns or ()), *([progress] if progress else ())):
        if name not in known:
            raise TrafficGradError(
                f"the metrics have no column {name!r}{nearest_name(name, known)}; they have {', '.join(known)}"
            )
    shown = list(columns) if columns else [name for name in _CURVES if name in known][:3]
    if not shown:
        raise TrafficGradError(
            f"none of the columns {', '.join(_CURVES)} is in the metrics; name some of {', '.join(known)}"
        )
    along = progress or _progress_of(known)
    figure = new_figure(7.5 if len(runs) < 2 else 9.0, 0.9 + 2.3 * len(shown))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        _draw_column(axes, runs, name, along)
        axes.set_ylabel(name.replace("_", " "))
    _name_progress(panels[-1], along)
    head(panels[0], title)
    if len(runs) > 1:
        legend_beside(panels[0])
    return save_figure(figure, path)


def training_traces(
    metrics: str | Path | Mapping[str, str | Path],
    path: str | Path,
    *,
    progress: str | None = None,
    title: str = "",
) -> Path:
    """Draw how far trainings followed the simulator's gradient, and what they measured of its bias and variance.

    One panel for each of these columns of ``metrics.csv`` that there is: of GI-PPO ``alpha``, ``oorr``,
    ``surrogate_improvement`` and ``sigma_ratio`` (its three tests), of TRIG ``trust``, ``k_rp``, ``scale``,
    ``kl_reached`` and ``step``, of both ``gradient_variance``. Axes of alpha, KL and variances are logarithmic where
    values span two decades. An alpha of 0 is an update that did not ask for the gradient, and is not drawn.

    Args:
        metrics: the file, or label -> file for several runs, which share the panels.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        progress: column to the right; default: decisions, else iteration, else seconds, else the number of the row.
        title: one line above the panels.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, no such file or column, or no run has any of these columns.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    runs = _read_runs(metrics)
    for run in runs.values():
        if "alpha" in run:
            run["alpha"] = np.where(run["alpha"] > 0.0, run["alpha"], np.nan)
    known = {name for run in runs.values() for name, values in run.items() if np.isfinite(values).any()}
    if progress is not None and progress not in known:
        raise TrafficGradError(f"the metrics have no column {progress!r}; they have {', '.join(sorted(known))}")
    traces = [trace for trace in _TRACES if trace[0] in known]
    if not traces:
        raise TrafficGradError(
            f"nothing is logged of steps along the simulator's gradient ({', '.join(name for name, *_ in _TRACES)}): "
            "agents that do not use it have no such traces"
        )
    along = progress or _progress_of(known)
    width = min(len(traces), 2)
    height = -(-len(traces) // width)
    figure = new_figure(4.9 * width + (1.4 if len(runs) > 1 else 0.3), 0.7 + 2.0 * height)
    grid = figure.subplots(height, width, sharex=True, squeeze=False)
    panels = list(grid.flat)
    for axes, (name, label, kind) in zip(panels, traces, strict=False):
        _draw_column(axes, runs, name, along)
        axes.set_title(label, loc="left", fontsize=10, color=INK)
        if kind == "decades" and _spans_decades(np.concatenate([run[name] for run in runs.values() if name in run])):
            axes.set_yscale("log", nonpositive="mask")
        elif kind == "share":
            axes.set_ylim(-0.03, 1.05)
        elif kind == "from 0":
            axes.set_ylim(0.0, None)
        elif kind == "around 0":
            axes.axhline(0.0, color=INK, linewidth=0.8, zorder=1)
    for axes in panels[len(traces) :]:
        axes.remove()
    for axes in panels[max(0, len(traces) - width) : len(traces)]:
        axes.tick_params(labelbottom=True)
        _name_progress(axes, along)
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    if len(runs) > 1:
        legend_beside(grid[0, -1])
    return save_figure(figure, path)


def _spans_decades(values: Array) -> bool:
    """Whether no value is negative and the positive ones span two powers of ten."""
    values = values[np.isfinite(values)]
    positive = values[values > 0.0]
    return bool(len(positive) and not (values < 0.0).any() and positive.max() >= _DECADES * positive.min())


def _progress_of(known: Iterable[str]) -> str | None:
    """The column that a training goes along, of those that are ``known``; None: only rows can be counted."""
    there = set(known)
    return next((name for name in _PROGRESS if name in there), None)


def _name_progress(axes: Axes, along: str | None) -> None:
    """Label and numbers of the axis to the right."""
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel((along or "row").replace("_", " "))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


def _draw_column(axes: Axes, runs: Runs, name: str, along: str | None) -> None:
    """One column of all runs that have it."""
    for i, (label, run) in enumerate(runs.items()):
        if name in run:
            right = run[along] if along is not None and along in run else np.arange(len(run[name]), dtype=np.float64)
            _draw_curve(axes, right, run[name], plain(label), _ONE_RUN if len(runs) == 1 else SERIES[i % len(SERIES)])
    axes.grid(color=GRID, linewidth=0.6)
    axes.margins(x=0.01)


def _draw_curve(axes: Axes, right: Array, values: Array, label: str, colour: str) -> None:
    """The numbers themselves; where there are many they are pale and their running mean lies on top."""
    there = np.isfinite(values) & np.isfinite(right)
    right, values = right[there], values[there]
    half = len(values) // 50
    if half < 2:
        few = len(values) < 40
        axes.plot(right, values, color=colour, linewidth=1.6, marker="o" if few else "", markersize=3, label=label)
        return
    axes.plot(right, values, color=colour, linewidth=0.7, alpha=0.3)
    total = np.concatenate([[0.0], np.cumsum(values)])
    row = np.arange(len(values))
    first, last = np.maximum(row - half, 0), np.minimum(row + half + 1, len(values))
    axes.plot(right, (total[last] - total[first]) / (last - first), color=colour, linewidth=1.8, label=label)


def _read_runs(metrics: str | Path | Mapping[str, str | Path]) -> dict[str, dict[str, Array]]:
    """Label -> column -> numbers of one file (label "") or of several.

    Raises:
        TrafficGradError: no file, or one without a number to draw.
    """
    files = metrics if isinstance(metrics, Mapping) else {"": metrics}
    if not files:
        raise TrafficGradError("there is no run to draw; expected a metrics.csv, or label -> metrics.csv")
    return {label: _read_csv(Path(file)) for label, file in files.items()}


def _read_csv(path: Path) -> dict[str, Array]:
    """Numeric columns of a CSV file; an empty cell is NaN."""
    if not path.is_file():
        raise TrafficGradError(f"no metrics file {str(path)!r}; expected the metrics.csv of a run folder")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = list(rows[0]) if rows else []
        table = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise TrafficGradError(
            f"{str(path)!r} is no table of numbers ({error}); expected the metrics.csv of a run folder"
        ) from error
    table = {name: values for name, values in table.items() if np.isfinite(values).any()}
    if not table:
        raise TrafficGradError(f"{str(path)!r} holds no numbers yet")
    return table
