"""Figures for paper and run folder, drawn with matplotlib, which is imported only when a figure is made."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.files import check_ending
from trafficgrad.network import RoadNetwork
from trafficgrad.render.figures import FORMATS, GRID, INK, new_figure, save_figure, speed_map
from trafficgrad.render.frames import Tracks, TrajectoryFrames
from trafficgrad.render.style import Array
from trafficgrad.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection

_CONTROLLED = "#d7191c"
_MOST_POINTS = 900  # of a vehicle's line; more are below a pixel
# Of a training's log: what a reader asks for first, in this order, as far as it is there.
_CURVES = ("score", "reward", "episode_return", "alpha")
_PROGRESS = ("decisions", "iteration", "seconds")


def time_space_diagram(
    trajectory: Trajectory,
    network: RoadNetwork,
    path: str | Path,
    *,
    controlled: Sequence[int] | Tensor = (),
    world: int = 0,
    max_speed: float | None = None,
    title: str = "",
) -> Path:
    """Draw who was where when, one panel per lane: time to the right, distance along the road upwards, colour = speed.

    Lines break where a vehicle changes lane (an open dot ends it, a full one begins it, for controlled vehicles) and
    where it passes a ring's start. Controlled vehicles are red.

    Args:
        trajectory: fields ``[T+1, B, N]``.
        network: of one road; its lanes are the panels, the leftmost on top.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        controlled: slots of the controlled vehicles.
        world: which of the ``B`` worlds.
        max_speed: m/s, upper end of the colours; default: what the fastest drive.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, no such world or slot, a trajectory without a step, or several roads.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    frames = TrajectoryFrames(trajectory, network, 5.0, 2.0, controlled, world)
    if len(frames.layout.roads) > 1:
        raise TrafficGradError(f"a time-space diagram needs one road, this network has {len(frames.layout.roads)}")
    if trajectory.steps < 1:
        raise TrafficGradError("a time-space diagram needs a trajectory of at least one step")
    tracks = frames.tracks(max(1, trajectory.steps // _MOST_POINTS))
    lanes = len(frames.layout.lanes_of[0])
    figure = new_figure(10.0, 1.2 + max(3.6, min(2.1, 10.5 / lanes) * lanes))
    panels = figure.subplots(lanes, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    limit = frames.max_speed if max_speed is None else max_speed
    for lane, axes in zip(reversed(range(lanes)), panels, strict=True):
        mappable = _draw_lane(axes, tracks, lane, limit, frames.controlled)
        side = " (right)" if lane == 0 else " (left)" if lane == lanes - 1 else ""
        axes.set_ylabel(f"lane {lane}{side}\nposition in m" if lanes > 1 else "position in m")
        axes.set_xlim(float(tracks.time[0]), float(tracks.time[-1]))
        axes.set_ylim(0.0, frames.layout.roads[0].length)
    panels[-1].set_xlabel("time in s")
    if title:
        panels[0].set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    if len(frames.controlled):
        _draw_key(panels[0], lanes > 1)
    figure.colorbar(mappable, ax=list(panels), label="speed in m/s", pad=0.015, aspect=40 if lanes > 1 else 25)
    return save_figure(figure, path)


def _draw_key(axes: Axes, changes: bool) -> None:
    """Above the panels: how controlled vehicles are drawn."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=_CONTROLLED, linewidth=1.8, label="controlled vehicle")]
    for filling, label in ((_CONTROLLED, "enters the lane"), ("white", "leaves the lane")) if changes else ():
        dot = Line2D([], [], color=_CONTROLLED, marker="o", markersize=4.5, linestyle="", label=label)
        dot.set_markerfacecolor(filling)
        handles.append(dot)
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, borderaxespad=0.2
    )


def _draw_lane(axes: Axes, tracks: Tracks, lane: int, max_speed: float, controlled: Array) -> LineCollection:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    stays = tracks.continues & (tracks.lane[1:] == lane) & (tracks.lane[:-1] == lane)
    is_controlled = np.zeros(tracks.speed.shape[1], dtype=bool)
    is_controlled[controlled] = True
    speed = (tracks.speed[1:] + tracks.speed[:-1]) / 2
    others = stays & ~is_controlled
    lines, wrapped = _segments(tracks, others)
    norm = Normalize(0.0, max_speed)
    collection = LineCollection(list(lines), cmap=speed_map(), norm=norm, linewidths=0.9, capstyle="round")
    collection.set_array(np.concatenate([speed[others], speed[others][wrapped]]))
    axes.add_collection(collection)
    if len(controlled):
        own, _ = _segments(tracks, stays & is_controlled)
        axes.add_collection(LineCollection(list(own), colors=_CONTROLLED, linewidths=1.8, capstyle="round", zorder=3))
        changes = tracks.continues & (tracks.lane[1:] != tracks.lane[:-1]) & is_controlled
        for mask, row, filling in (
            (changes & (tracks.lane[:-1] == lane), 0, "white"),
            (changes & (tracks.lane[1:] == lane), 1, _CONTROLLED),
        ):
            k, n = np.nonzero(mask)
            dots = tracks.time[k + row], tracks.distance[k + row, n]
            axes.plot(*dots, "o", markersize=4.5, color=_CONTROLLED, markerfacecolor=filling, zorder=4)
    return collection


def _segments(tracks: Tracks, mask: Array) -> tuple[Array, Array]:
    """Pieces of lines (time, distance) ``[S, 2, 2]`` where ``mask`` [K-1, N] holds.

    A piece that passes a ring's start is there twice, leaving at the top and coming in at the bottom: the extra ones
    stand at the end, and the second value says which pieces they repeat.
    """
    k, n = np.nonzero(mask)
    start, end, advance = tracks.distance[k, n], tracks.distance[k + 1, n], tracks.advance[k, n]
    times = np.stack([tracks.time[k], tracks.time[k + 1]], -1)
    wrapped = np.abs(end - start - advance) > 1e-6 * (1.0 + np.abs(end))
    out = np.stack([times, np.stack([start, start + advance], -1)], -1)
    back = np.stack([times, np.stack([end - advance, end], -1)], -1)[wrapped]
    return np.concatenate([out, back]), wrapped


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
    files = metrics if isinstance(metrics, Mapping) else {"": metrics}
    runs = {label: _read_csv(Path(file)) for label, file in files.items()}
    known = list(dict.fromkeys(name for run in runs.values() for name in run))
    for name in (*(columns or ()), *([progress] if progress else ())):
        if name not in known:
            raise TrafficGradError(
                f"the metrics have no column {name!r}{nearest_name(name, known)}; they have {', '.join(known)}"
            )
    from matplotlib.ticker import EngFormatter

    shown = list(columns) if columns else [name for name in _CURVES if name in known][:3]
    if not shown:
        raise TrafficGradError(
            f"none of the columns {', '.join(_CURVES)} is in the metrics; name some of {', '.join(known)}"
        )
    along = progress or next((name for name in _PROGRESS if name in known), None)
    figure = new_figure(7.5 if len(files) < 2 else 9.0, 0.9 + 2.3 * len(shown))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        for i, (label, run) in enumerate(runs.items()):
            if name in run:
                right = run[along] if along in run else np.arange(len(run[name]), dtype=np.float64)
                _draw_curve(axes, right, run[name], label, "#2f6db3" if len(runs) == 1 else f"C{i}")
        axes.set_ylabel(name.replace("_", " "))
        axes.grid(color=GRID, linewidth=0.6)
        axes.margins(x=0.01)
    panels[-1].set_xlabel((along or "row").replace("_", " "))
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    if title:
        panels[0].set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    if len(runs) > 1:
        # Beside the panel: curves may be anywhere in it.
        panels[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return save_figure(figure, path)


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
