"""Figures for paper and run folder, drawn with matplotlib, which is imported only when a figure is made."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network import RoadNetwork
from trafficgrad.render.frames import TrajectoryFrames
from trafficgrad.render.style import DARKEST, VIRIDIS, Array
from trafficgrad.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
_CONTROLLED = "#d7191c"
_INK, _GRID = "#30343b", "#d9dce1"
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
    path = _checked(path)
    frames = TrajectoryFrames(trajectory, network, 5.0, 2.0, controlled, world)
    if len(frames.layout.roads) > 1:
        raise TrafficGradError(f"a time-space diagram needs one road, this network has {len(frames.layout.roads)}")
    if trajectory.steps < 1:
        raise TrafficGradError("a time-space diagram needs a trajectory of at least one step")
    tracks = frames.tracks(max(1, trajectory.steps // _MOST_POINTS))
    lanes = int(tracks.lane.max()) + 1
    lanes = max(lanes, network.max_lanes)
    figure = _figure(10.0, 1.2 + (2.1 if lanes > 1 else 3.6) * lanes)
    panels = figure.subplots(lanes, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    limit = frames.max_speed if max_speed is None else max_speed
    mappable = None
    for lane, axes in zip(reversed(range(lanes)), panels, strict=True):
        mappable = _draw_lane(axes, tracks, lane, limit, frames.controlled)
        name = f"lane {lane}" + (" (right)" if lane == 0 else " (left)" if lane == lanes - 1 else "") if lanes > 1 else "position"
        axes.set_ylabel(f"{name}\nin m" if lanes > 1 else "position in m")
        axes.set_xlim(float(tracks.time[0]), float(tracks.time[-1]))
        axes.set_ylim(0.0, frames.layout.roads[0].length)
    panels[-1].set_xlabel("time in s")
    if title:
        panels[0].set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    if len(frames.controlled):
        from matplotlib.lines import Line2D

        key = [Line2D([], [], color=_CONTROLLED, linewidth=1.8, label="controlled vehicle")]
        if lanes > 1:
            key.append(Line2D([], [], color=_CONTROLLED, marker="o", markersize=4.5, linestyle="", label="enters the lane"))
            key.append(
                Line2D([], [], color=_CONTROLLED, marker="o", markersize=4.5, markerfacecolor="white", linestyle="", label="leaves it")
            )
        panels[0].legend(handles=key, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, borderaxespad=0.2)
    figure.colorbar(mappable, ax=list(panels), label="speed in m/s", pad=0.015, aspect=40 if lanes > 1 else 25)
    return _save(figure, path)
