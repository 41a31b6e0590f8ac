"""Pictures of a gradient check: agreement with the reference, growth with the horizon, who and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trafficgrad.files import check_ending
from trafficgrad.render.plots import _GRID, _INK, FORMATS, _colours, _figure, _save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_PALETTE = ("#2f6db3", "#e08a1e", "#3c9a5f", "#9a5fb0", "#c44e52", "#7f7f7f", "#8c6d31", "#17becf")
_MOST_MAPS = 8


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
    wide = max(11.0, 2.6 * min(len(names), _MOST_MAPS))
    figure = _figure(wide, 7.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15, 1.0])
    left, right = top.subplots(1, 2, width_ratios=[1.35, 1.0])
    _bars(left, cosines, colours)
    _growth(right, horizons, norms, colours)
    _maps(bottom, {name: by_vehicle[name] for name in names[:_MOST_MAPS]}, rows, row_label)
    if title:
        left.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    return _save(figure, path)


def _bars(
    axes: Axes, cosines: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]], colours: Mapping[str, str]
) -> None:
    width = 0.8 / max(1, len(colours))
    for i, (name, colour) in enumerate(colours.items()):
        places = np.arange(len(cosines)) + (i - (len(colours) - 1) / 2) * width
        found = np.array([row[name] for row in cosines.values()], dtype=np.float64)
        axes.bar(places, np.nan_to_num(found[:, 0]), width * 0.92, color=colour, label=name)
        known = np.isfinite(found).all(1)
        axes.errorbar(places[known], found[known, 0], found[known, 1], fmt="none", ecolor=_INK, elinewidth=1, capsize=2)
        for place in places[~np.isfinite(found[:, 0])]:
            axes.text(place, 0.02, "n/a", ha="center", va="bottom", fontsize=7, color=colour, rotation=90)
    axes.axhline(0.0, color=_INK, linewidth=0.8)
    axes.set_xticks(np.arange(len(cosines)), [f"{component}\n{where}" for component, where in cosines])
    axes.set_ylim(
        min(-0.05, *(x[0] - 0.1 for row in cosines.values() for x in row.values() if math.isfinite(x[0])), 0), 1.12
    )
    axes.set_ylabel("cosine with the reference")
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, -0.16), ncols=2)


def _growth(
    axes: Axes, horizons: Sequence[int], norms: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> None:
    for name, values in norms.items():
        found = np.array(values, dtype=np.float64)
        found[~(found > 0)] = np.nan
        colour = colours.get(name, _INK)
        style = "-" if name in colours else "--"
        axes.plot(horizons, found, style, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(horizons), [str(h) for h in horizons])
    axes.minorticks_off()
    axes.set_xlabel("decisions whose rewards count")
    axes.set_ylabel("norm of the gradient")
    axes.grid(color=_GRID, linewidth=0.6)
    reference = [line for line in axes.lines if line.get_label() not in colours]
    axes.legend(handles=reference, frameon=False, fontsize=8, loc="upper left")


def _maps(
    place: SubFigure, by_vehicle: Mapping[str, Sequence[Sequence[float]]], rows: Sequence[int], row_label: str
) -> None:
    from matplotlib.colors import LogNorm

    tables = {name: np.array(table, dtype=np.float64).T for name, table in by_vehicle.items()}  # [vehicle, row]
    largest = max((float(table.max()) for table in tables.values()), default=0.0)
    norm = LogNorm(largest * 1e-3, largest) if largest > 0 else None
    panels = place.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    colours = _colours().with_extremes(bad="#f0f1f3", under="#f0f1f3")
    image = None
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        image = axes.imshow(
            np.where(table > 0, table, np.nan),
            aspect="auto",
            origin="lower",
            cmap=colours,
            norm=norm,
            interpolation="nearest",
        )
        axes.set_title(name, fontsize=9, color=_INK)
        step = max(1, len(rows) // 6)
        axes.set_xticks(range(0, len(rows), step), [str(row) for row in rows[::step]])
        axes.set_xlabel(row_label)
        axes.yaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("vehicle")
    if image is not None and norm is not None:
        place.colorbar(image, ax=list(panels), label="norm of the gradient", pad=0.015, aspect=20, extend="min")
