"""A gradient as a picture: which vehicle, when, and in which direction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending
from trafficgrad.render.figures import CONTROLLED, FORMATS, INK, new_figure, plain, save_figure
from trafficgrad.render.style import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = "RdBu_r"  # white at 0, and both sides apart for colour-blind eyes
_NOTHING = "#c9ccd1"  # not a finite number
_ROWS_WITH_NAMES = 30  # vehicles of a heat map, at most, that all get a number


def gradient_heat_map(
    gradient: npt.ArrayLike | Tensor,
    time: npt.ArrayLike | Tensor,
    path: str | Path,
    *,
    label: str,
    controlled: Sequence[int] | Tensor = (),
    lane_share: npt.ArrayLike | Tensor | None = None,
    limit: float | None = None,
    quantile: float = 0.99,
    title: str = "",
) -> Path:
    """Draw a gradient by vehicle and time: red where more raises the objective, blue where it lowers it, white at 0.

    Colours reach as far to both sides of 0 as a high quantile of the gradient's size, since a single cut-in may be a
    hundred times as large as all else; what is beyond has the darkest colour, and the colour bar then ends in arrows.
    Rows of controlled vehicles are marked by a red triangle and a bold number. Numbers that are not finite are grey.

    Args:
        gradient: ``[T, N]``, of some objective by some quantity of vehicle n at time t, in SI units.
        time: ``[T]`` s, increasing, when each column begins; the last is as wide as the one before.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        label: what is shown, with its unit, such as ``d(mean speed)/d(acceleration) in s``.
        controlled: rows of controlled vehicles.
        lane_share: ``[T, N]``, the part of the gradient that comes through lane changes, which is biased on purpose
            (see :mod:`trafficgrad.gradients`): a second panel with the same colours.
        limit: where the colours end on both sides of 0; default: that quantile.
        quantile: of the sizes that are not 0, over both panels.
        title: one line above the panels.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, shapes that do not fit, times that do not increase, no such vehicle, no finite
            number, or a limit or quantile out of range.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    maps = {"whole gradient" if lane_share is not None else "": _map_of("gradient", gradient)}
    if lane_share is not None:
        maps["share through lane changes (biased)"] = _map_of("lane_share", lane_share)
    first = next(iter(maps.values()))
    columns, vehicles = first.shape
    for values in maps.values():
        if values.shape != first.shape:
            raise TrafficGradError(
                f"lane_share has shape {list(values.shape)}; expected that of the gradient, {list(first.shape)}"
            )
    borders = _borders(time, columns)
    own = np.asarray(controlled, dtype=np.int64).reshape(-1)
    if len(own) and not (own.min() >= 0 and own.max() < vehicles):
        raise TrafficGradError(f"controlled vehicles must be rows from 0 to {vehicles - 1}, got {own.tolist()}")
    end = _limit(np.concatenate([values.compressed() for values in maps.values()]), limit, quantile)
    figure = new_figure(9.0, 0.9 + len(maps) * min(5.5 if len(maps) == 1 else 4.2, max(1.7, 0.22 * vehicles)))
    panels = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    colours, norm = colormaps[_COLOURS].with_extremes(bad=_NOTHING), Normalize(-end, end)
    beyond = False
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        beyond |= bool((np.abs(values.compressed()) > end).any())
        rows = np.arange(vehicles + 1) - 0.5
        image = axes.pcolormesh(borders, rows, values.T, cmap=colours, norm=norm, rasterized=True)
        _name_rows(axes, vehicles, own)
        if name:
            axes.set_title(name, loc="left", fontsize=10, color=INK)
    panels[-1].set_xlabel("time in s")
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.colorbar(
        image,
        ax=list(panels),
        label=plain(label),
        pad=0.015,
        aspect=20 * len(maps),
        extend="both" if beyond else "neither",
    )
    return save_figure(figure, path)


def _map_of(name: str, values: npt.ArrayLike | Tensor) -> np.ma.MaskedArray[Any, Any]:
    numbers = _numbers(name, values)
    if numbers.ndim != 2 or not numbers.size:
        raise TrafficGradError(f"{name} has shape {list(numbers.shape)}; expected [times, vehicles]")
    return np.ma.masked_invalid(numbers)


def _numbers(name: str, values: npt.ArrayLike | Tensor) -> Array:
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TrafficGradError(f"{name} is no array of numbers: {error}") from error


def _borders(time: npt.ArrayLike | Tensor, columns: int) -> Array:
    """Where columns begin, and where the last one ends."""
    begins = _numbers("time", time)
    if begins.shape != (columns,):
        raise TrafficGradError(
            f"time has shape {list(begins.shape)}; expected one for each row of the gradient ({columns})"
        )
    if not (np.isfinite(begins).all() and (np.diff(begins) > 0.0).all()):
        raise TrafficGradError("times must be finite and increase from row to row of the gradient")
    return np.append(begins, 2 * begins[-1] - begins[-2] if columns > 1 else begins[-1] + 1.0)


def _limit(values: Array, limit: float | None, quantile: float) -> float:
    """Where the colours end."""
    if limit is not None and not 0.0 < limit < float("inf"):
        raise TrafficGradError(f"limit must be a number > 0, got {limit}")
    if not 0.0 < quantile <= 1.0:
        raise TrafficGradError(f"quantile must be above 0 and at most 1, got {quantile}")
    sizes = np.abs(values)
    if not len(sizes):
        raise TrafficGradError("the gradient has no finite number to draw")
    if limit is not None:
        return limit
    sizes = sizes[sizes > 0.0]
    return float(np.quantile(sizes, quantile)) if len(sizes) else 1.0


def _name_rows(axes: Axes, vehicles: int, controlled: Array) -> None:
    """Numbers of vehicles; those of controlled ones in bold, with a red triangle."""
    step = 1 if vehicles <= _ROWS_WITH_NAMES else -(-vehicles // 12)
    shown = sorted({*range(0, vehicles, step), *controlled.tolist()})
    near = {n for n in shown for c in controlled.tolist() if 0 < abs(n - c) < step}
    shown = [n for n in shown if n not in near or n in controlled]
    axes.set_yticks(shown, [str(n) for n in shown])
    axes.set_ylabel("vehicle")
    for n, text in zip(shown, axes.get_yticklabels(), strict=True):
        if n in controlled:
            text.set_fontweight("bold")
    place = axes.get_yaxis_transform()  # x: share of the panel, y: vehicle
    axes.plot(
        np.full(len(controlled), 1.006), controlled, "<", color=CONTROLLED, markersize=4, transform=place, clip_on=False
    )
