"""Pictures of a comparison: what several agents reached, with which step along the gradient, over seeds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending
from trafficgrad.render.figures import FORMATS, GRID, INK, SERIES, new_figure, save_figure
from trafficgrad.render.style import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Run: TypeAlias = Mapping[str, Array]  # column -> [K]
Style: TypeAlias = tuple[str, Any]  # colour, dashes as matplotlib knows them

_DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (5, 1.4, 1.2, 1.4)))  # each for a round of colours
_POINTS = 200  # of a drawn line
_FLOOR = 1e-32  # of a drawn distance: the square of what double precision tells apart from 1
# column, along, label, logarithmic
_PANELS = (
    ("moving_mean", "decisions", "", False),
    ("moving_mean", "seconds", "", False),
    ("alpha", "decisions", "step α along the gradient", True),
    ("oorr", "decisions", "out-of-range ratio", False),
    ("gradient_variance", "decisions", "variance of the gradient", True),
    ("determinant", "decisions", "determinant estimate", False),
)
_ALONG = {"decisions": "decisions", "seconds": "training time in s"}


def comparison_figure(
    path: str | Path, rows: Mapping[str, Sequence[Run]], *, title: str = "", distance: bool = False
) -> Path:
    """Draw the learning curves of a comparison on one scenario: lines are medians over seeds, bands middle halves.

    Panels: return (moving mean) against decisions and against the time that the median seed had then taken; below,
    against decisions, the step size alpha, the out-of-range ratio, the variance of the gradient and the determinant
    estimate beside it. A panel without data is left out, and so is a row in a panel for which it has none.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        rows: label -> seeds, each with the columns ``decisions``, ``seconds``, ``moving_mean`` and any of ``alpha``,
            ``oorr``, ``gradient_variance``, ``determinant``, ``[K]``; NaN where there is none.
        distance: draw the distance of returns to 0 on a logarithmic axis, smaller upwards, down to 1e-32; for returns
            that are never above 0, such as those of functions to be optimised.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, or no return at all.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    panels = [panel for panel in _PANELS if any(_has(run, panel[0]) for runs in rows.values() for run in runs)]
    if not any(column == "moving_mean" for column, *_ in panels):
        raise TrafficGradError(f"{path.name}: no run has a return to draw; did any episode end during the trainings?")
    height = (len(panels) + 1) // 2
    figure = new_figure(11.0, 0.9 + 2.9 * height)
    grid = figure.add_gridspec(height, 2)
    labels = list(rows)
    for i, (column, along, label, logarithmic) in enumerate(panels):
        axes = figure.add_subplot(grid[i // 2, i % 2])
        returns = column == "moving_mean"
        for row, runs in rows.items():
            _draw_row(axes, runs, column, along, _style(labels.index(row)), returns and distance, logarithmic)
        axes.set_ylabel(("distance to 0, −return" if distance else "return, moving mean") if returns else label)
        _finish(axes, along, logarithmic or (returns and distance))
        if returns and distance:
            axes.invert_yaxis()
    _head(figure, labels, title)
    return save_figure(figure, path, palette=True)


def _head(figure: Figure, labels: Sequence[str], title: str) -> None:
    """Title, and the key outside the panels: curves may be anywhere in them."""
    from matplotlib.lines import Line2D

    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    handles = []
    for i, label in enumerate(labels):
        colour, dashes = _style(i)
        handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=1.8, label=label))
    longest = max(len(label) for label in labels)
    columns = max(1, min(len(labels), 120 // (longest + 8)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _style(index: int) -> Style:
    return SERIES[index % len(SERIES)], _DASHES[index // len(SERIES) % len(_DASHES)]


def _has(run: Run, column: str) -> bool:
    return column in run and bool(np.isfinite(run[column]).any())


def _draw_row(
    axes: Axes,
    runs: Sequence[Run],
    column: str,
    along: str,
    style: Style,
    distance: bool,
    logarithmic: bool,
) -> None:
    """Median and middle half over the seeds, at common numbers of decisions."""
    there = [run for run in runs if _has(run, column)]
    if not there:
        return
    at = common_grid(there)
    values = np.stack([resample(run, column, at) for run in there])
    if distance:
        values = np.maximum(-values, _FLOOR)
    elif logarithmic:
        values = np.where(values > 0.0, values, np.nan)
    right = at if along == "decisions" else np.median([resample(run, along, at) for run in there], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # before any seed's first episode there is nothing: NaN
        low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    colour, dashes = style
    axes.plot(right, middle, color=colour, linestyle=dashes, linewidth=1.8 if column == "moving_mean" else 1.1)
    if len(there) > 1:
        axes.fill_between(right, low, high, color=colour, alpha=0.16, linewidth=0)


def common_grid(runs: Sequence[Run]) -> Array:
    """Numbers of decisions that every run has passed, ``[<= 200]``."""
    first = max(float(run["decisions"][0]) for run in runs)
    last = min(float(run["decisions"][-1]) for run in runs)
    most = max(len(run["decisions"]) for run in runs)
    return np.linspace(first, max(first, last), min(_POINTS, 2 * most))


def resample(run: Run, column: str, at: Array) -> Array:
    """A column at other numbers of decisions, by straight lines; NaN outside of what was measured."""
    there = np.isfinite(run[column])
    values = np.interp(at, run["decisions"][there], run[column][there], left=np.nan, right=np.nan)
    return np.asarray(values)


def _finish(axes: Axes, along: str, logarithmic: bool) -> None:
    """Axes, ticks and grid."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    axes.set_xlabel(_ALONG[along])
    if along == "decisions":
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.get_lines()])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0.0)]
    if logarithmic and len(drawn):
        axes.set_yscale("log", nonpositive="mask")
        if drawn.max() < 30.0 * drawn.min():  # powers of ten alone would leave the axis bare
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=GRID, linewidth=0.6)
    axes.margins(x=0.01)
