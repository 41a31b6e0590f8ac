"""Pictures of a gradient check: agreement with the reference, growth with the horizon, who and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from trafficgrad.files import check_ending
from trafficgrad.render.figures import FORMATS, GRID, INK, new_figure, save_figure, speed_map
from trafficgrad.render.style import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_PALETTE = ("#2f6db3", "#e08a1e", "#3c9a5f", "#9a5fb0", "#c44e52", "#7f7f7f", "#8c6d31", "#17becf")
_EMPTY = "#f0f1f3"
_MOST_MAPS = 8  # side by side
Colours: TypeAlias = Mapping[str, str]


def gradient_check_figure(
    path: str | Path,
    *,
    cosines: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]],
    horizons: Sequence[int],
    norms: Mapping[str, Sequence[float]],
    by_vehicle: Mapping[str, Sequence[Sequence[float]]],
    rows: Sequence[int],
    row_label: str,
    title: str = "",
) -> Path:
    """Draw a gradient check: bars of the cosine with the reference, norm against horizon, norm by vehicle and time.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        cosines: (component, set of windows) -> gradient -> (cosine, standard error); NaN where it is not known.
        horizons: decisions of the returns that ``norms`` are about.
        norms: gradient -> a norm for each horizon; the first is the reference.
        by_vehicle: gradient -> norms [row][vehicle].
        rows: what each row of ``by_vehicle`` stands for. row_label: its name.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    names = list(by_vehicle)
    colours = {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(names)}
    tables = {name: np.array(table, dtype=np.float64).T for name, table in by_vehicle.items()}  # [vehicle, row]
    single = all(len(table) == 1 for table in tables.values())
    wide = 11.0 if single else max(11.0, 2.6 * min(len(names), _MOST_MAPS))
    figure = new_figure(wide, 7.6)
    halves = figure.subfigures(2, 1, height_ratios=[1.15, 1.0], squeeze=False)
    top, bottom = halves[:, 0]
    left, right = top.subplots(1, 2, width_ratios=[1.35, 1.0])
    _bars(left, cosines, colours)
    _growth(right, horizons, norms, colours)
    if single:
        _lines(bottom, tables, rows, row_label, colours)
    else:
        _maps(bottom, {name: tables[name] for name in names[:_MOST_MAPS]}, rows, row_label)
    if title:
        left.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    return save_figure(figure, path)


def _bars(axes: Axes, cosines: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]], colours: Colours) -> None:
    width = 0.8 / max(1, len(colours))
    for i, (name, colour) in enumerate(colours.items()):
        places = np.arange(len(cosines)) + (i - (len(colours) - 1) / 2) * width
        found = np.array([row[name] for row in cosines.values()], dtype=np.float64)
        axes.bar(places, np.nan_to_num(found[:, 0]), width * 0.92, color=colour, label=name)
        known = np.isfinite(found).all(1)
        axes.errorbar(places[known], found[known, 0], found[known, 1], fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        for place in places[~np.isfinite(found[:, 0])]:
            axes.text(place, 0.02, "n/a", ha="center", va="bottom", fontsize=7, color=colour, rotation=90)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    labels = [f"{fill(component.replace('_', ' '), 14)}\n{where}" for component, where in cosines]
    axes.set_xticks(np.arange(len(cosines)), labels)
    lowest = min((x[0] for row in cosines.values() for x in row.values() if math.isfinite(x[0])), default=0.0)
    axes.set_ylim(min(-0.05, lowest - 0.1), 1.12)
    axes.set_ylabel("cosine with the reference")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, -0.2), ncols=3)


def _growth(axes: Axes, horizons: Sequence[int], norms: Mapping[str, Sequence[float]], colours: Colours) -> None:
    for name, values in norms.items():
        found = np.array(values, dtype=np.float64)
        found[~(found > 0)] = np.nan
        look: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 2.0, "zorder": 5}
        if name in colours:
            look = {"color": colours[name], "marker": "o", "markersize": 3.5, "linewidth": 1.6}
        axes.plot(horizons, found, label=name, **look)
    axes.set_xscale("log", base=2)
    _log_scale(axes)
    axes.set_xticks(list(horizons), [str(h) for h in horizons])
    axes.minorticks_off()
    axes.set_xlabel("decisions whose rewards count")
    axes.set_ylabel("norm of the gradient")
    axes.grid(color=GRID, linewidth=0.6)
    reference = [line for line in axes.lines if line.get_label() not in colours]
    axes.legend(handles=reference, frameon=False, fontsize=8, loc="upper left")


def _log_scale(axes: Axes) -> None:
    """Logarithmic, unless all that is shown is 0: then there is nothing to scale."""
    if any(np.isfinite(np.asarray(line.get_ydata(), dtype=np.float64)).any() for line in axes.lines):
        axes.set_yscale("log")


def _lines(
    place: SubFigure, by_vehicle: Mapping[str, Array], rows: Sequence[int], label: str, colours: Colours
) -> None:
    """A single vehicle: one line for each gradient."""
    axes = place.subplots()
    for name, table in by_vehicle.items():
        axes.plot(rows, np.where(table[0] > 0, table[0], np.nan), color=colours[name], linewidth=1.6, label=name)
    _log_scale(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("norm of the gradient")
    axes.grid(color=GRID, linewidth=0.6)
    axes.margins(x=0.01)


def _maps(place: SubFigure, by_vehicle: Mapping[str, Array], rows: Sequence[int], label: str) -> None:
    """Several vehicles: a map for each gradient."""
    from matplotlib.colors import LogNorm

    largest = max(float(table.max()) for table in by_vehicle.values())
    norm = LogNorm(largest * 1e-3, largest) if largest > 0 else None
    panels = place.subplots(1, len(by_vehicle), sharey=True, squeeze=False)[0]
    colours = speed_map().with_extremes(bad=_EMPTY, under=_EMPTY)
    for axes, (name, table) in zip(panels, by_vehicle.items(), strict=True):
        shown = np.where(table > 0, table, np.nan)
        image = axes.imshow(shown, aspect="auto", origin="lower", cmap=colours, norm=norm, interpolation="nearest")
        axes.set_title(name.replace(", ", ",\n"), fontsize=9, color=INK)
        step = max(1, len(rows) // 6)
        axes.set_xticks(range(0, len(rows), step), [str(row) for row in rows[::step]])
        step = max(1, len(table) // 12)
        axes.set_yticks(range(0, len(table), step))
        axes.set_xlabel(label)
    panels[0].set_ylabel("vehicle")
    if norm is not None:
        place.colorbar(image, ax=list(panels), label="norm of the gradient", pad=0.015, aspect=20, extend="min")
