"""Figures of recorded traffic for paper and run folder; matplotlib is imported only when one is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending
from trafficgrad.network import RoadNetwork
from trafficgrad.render.figures import (
    CONTROLLED,
    FORMATS,
    head,
    new_figure,
    save_figure,
    speed_map,
)
from trafficgrad.render.frames import Tracks, TrajectoryFrames
from trafficgrad.render.style import Array
from trafficgrad.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

_MOST_POINTS = 900  # of a vehicle's line; more are below a pixel


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
    frames = on_one_road(trajectory, network, "a time-space diagram", controlled, world)
    lanes = len(frames.layout.lanes_of[0])
    figure = new_figure(10.0, 1.2 + max(3.6, min(2.1, 10.5 / lanes) * lanes))
    panels = list(figure.subplots(lanes, 1, sharex=True, sharey=True, squeeze=False)[:, 0])
    mappable = draw_lanes(panels, frames, frames.max_speed if max_speed is None else max_speed)
    name_lanes(panels)
    panels[-1].set_xlabel("time in s")
    head(panels[0], title)
    if len(frames.controlled):
        key = key_of_controlled(lanes > 1)
        panels[0].legend(
            handles=key, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, borderaxespad=0.2
        )
    figure.colorbar(mappable, ax=panels, label="speed in m/s", pad=0.015, aspect=40 if lanes > 1 else 25)
    return save_figure(figure, path)


def on_one_road(
    trajectory: Trajectory, network: RoadNetwork, what: str, controlled: Sequence[int] | Tensor = (), world: int = 0
) -> TrajectoryFrames:
    """What is to be drawn of a world, for figures (``what``) of one road over time.

    Raises:
        TrafficGradError: no such world or slot, a trajectory without a step, or several roads.
    """
    frames = TrajectoryFrames(trajectory, network, 5.0, 2.0, controlled, world)
    if len(frames.layout.roads) > 1:
        raise TrafficGradError(f"{what} needs one road, this network has {len(frames.layout.roads)}")
    if trajectory.steps < 1:
        raise TrafficGradError(f"{what} needs a trajectory of at least one step")
    return frames


def draw_lanes(
    panels: Sequence[Axes], frames: TrajectoryFrames, max_speed: float, *, small: bool = False
) -> LineCollection:
    """Everybody's way, a panel a lane, the leftmost on top; returns what a colour bar needs.

    Args:
        panels: from the leftmost lane to the rightmost.
        frames: of one road.
        max_speed: m/s, upper end of the colours.
        small: with half as many points a line, and as pixels in vector formats, where tens of thousands of pieces
            would make files of tens of megabytes.
    """
    points = _MOST_POINTS // 2 if small else _MOST_POINTS
    tracks = frames.tracks(max(1, round((frames.end - frames.start) / frames.step) // points))
    for lane, axes in zip(reversed(range(len(panels))), panels, strict=True):
        mappable = _draw_lane(axes, tracks, lane, max_speed, frames.controlled)
        mappable.set_rasterized(small)
        axes.set_xlim(float(tracks.time[0]), float(tracks.time[-1]))
        axes.set_ylim(stretch([frames]))
    return mappable


def stretch(shown: Sequence[TrajectoryFrames]) -> tuple[float, float]:
    """The part of the one road that is worth showing, m: all of a closed one, of an open one where anybody drives."""
    road = shown[0].layout.roads[0]
    tracks = [frames.tracks() for frames in shown]
    there = [each.distance[:-1][each.continues] for each in tracks] + [
        each.distance[1:][each.continues] for each in tracks
    ]
    places = np.concatenate(there)
    if road.closed or not len(places):
        return 0.0, road.length
    margin = 0.03 * max(float(np.ptp(places)), 1.0)
    return max(0.0, float(places.min()) - margin), min(road.length, float(places.max()) + margin)


def name_lanes(panels: Sequence[Axes]) -> None:
    """What the panels of :func:`draw_lanes` show, on the left of each."""
    lanes = len(panels)
    for lane, axes in zip(reversed(range(lanes)), panels, strict=True):
        axes.set_ylabel(f"{lane_name(lane, lanes)}\nposition in m" if lanes > 1 else "position in m")


def lane_name(lane: int, lanes: int) -> str:
    """What a lane of a road of so many is called: ``lane 0 (right)``."""
    side = "" if lanes == 1 else " (right)" if lane == 0 else " (left)" if lane == lanes - 1 else ""
    return f"lane {lane}{side}"


def key_of_controlled(changes: bool) -> list[Line2D]:
    """Handles of a key: how controlled vehicles are drawn, and how their lane changes."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=CONTROLLED, linewidth=1.8, label="controlled vehicle")]
    for filling, label in ((CONTROLLED, "enters the lane"), ("white", "leaves the lane")) if changes else ():
        dot = Line2D([], [], color=CONTROLLED, marker="o", markersize=4.5, linestyle="", label=label)
        dot.set_markerfacecolor(filling)
        handles.append(dot)
    return handles


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
        axes.add_collection(LineCollection(list(own), colors=CONTROLLED, linewidths=1.8, capstyle="round", zorder=3))
        changes = tracks.continues & (tracks.lane[1:] != tracks.lane[:-1]) & is_controlled
        for mask, row, filling in (
            (changes & (tracks.lane[:-1] == lane), 0, "white"),
            (changes & (tracks.lane[1:] == lane), 1, CONTROLLED),
        ):
            k, n = np.nonzero(mask)
            dots = tracks.time[k + row], tracks.distance[k + row, n]
            axes.plot(*dots, "o", markersize=4.5, color=CONTROLLED, markerfacecolor=filling, zorder=4)
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
