"""Plots of what traffic did as a whole: its speeds, how much they differ, and a policy beside human drivers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from trafficgrad import metrics
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending
from trafficgrad.network import RoadNetwork
from trafficgrad.render.figures import (
    CONTROLLED,
    DPI,
    FORMATS,
    INK,
    SERIES,
    head,
    legend_beside,
    name_axes,
    new_figure,
    plain,
    save_figure,
)
from trafficgrad.render.plots import draw_lanes, key_of_controlled, name_lanes, on_one_road, stretch
from trafficgrad.render.style import Array, nice_step
from trafficgrad.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Trajectories: TypeAlias = Trajectory | Mapping[str, Trajectory]
Slots: TypeAlias = Sequence[int] | Tensor

_BINS = 40  # of a distribution, at most, where no width is asked for
_DASHES = (0, (4, 3))  # of means
_EVERYBODY, _OTHERS, _OWN = "all vehicles", "not controlled", "controlled"
_COLOURS = {_EVERYBODY: INK, _OTHERS: SERIES[0], _OWN: CONTROLLED}  # where there is one trajectory


def labelled(trajectories: Trajectories) -> dict[str, Trajectory]:
    """Label -> trajectory; the label of a single one is empty.

    Raises:
        TrafficGradError: there is none.
    """
    found = dict(trajectories) if isinstance(trajectories, Mapping) else {"": trajectories}
    if not found:
        raise TrafficGradError("there is no trajectory to draw; expected one, or label -> trajectory")
    return found


def speed_distribution(
    trajectories: Trajectories,
    path: str | Path,
    *,
    controlled: Slots = (),
    world: int | None = None,
    width: float | None = None,
    title: str = "",
) -> Path:
    """Draw how the speeds are distributed, over all vehicles and recorded moments; a dashed line stands at the mean.

    Where vehicles are controlled, also of these alone and of the others. One trajectory is one panel with a curve for
    each of these groups; of several each group has a panel, with a curve for each trajectory.

    Args:
        trajectories: fields ``[T+1, B, N]``; or label -> trajectory.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        controlled: slots of the controlled vehicles, the same in all trajectories.
        world: which of the ``B`` worlds; default: all of them together.
        width: m/s, of a bin; default: a round number that makes at most 40 bins.
        title: one line above the panels.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, no such world or slot, a width that is not positive, a speed that is not
            finite, or no vehicle at all.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    found = _groups(labelled(trajectories), controlled, world)
    labels = list(next(iter(found.values())))
    edges = _bin_edges([speeds for group in found.values() for speeds in group.values()], width)
    single = len(labels) == 1
    columns = 1 if single else len(found)
    figure = new_figure(7.5 if columns == 1 else 1.6 + 3.2 * columns, 3.4)
    panels = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
    for i, (name, group) in enumerate(found.items()):
        axes = panels[0 if single else i]
        for j, (label, speeds) in enumerate(group.items()):
            colour = _COLOURS[name] if single else SERIES[j % len(SERIES)]
            _draw_distribution(axes, speeds, edges, colour, name if single else plain(label))
        if not single and len(found) > 1:
            axes.set_title(name, loc="right" if title else "left", fontsize=10, color=INK)
    for axes in panels:
        name_axes(axes, "speed in m/s", _share_label(edges) if axes is panels[0] else "")
        axes.set_ylim(0.0, None)
    head(panels[0], title)
    _add_mean_to_key(panels[-1])
    legend_beside(panels[-1])
    return save_figure(figure, path)


def deviation_over_time(
    trajectories: Trajectories,
    path: str | Path,
    *,
    vehicles: Slots | None = None,
    world: int | None = None,
    title: str = "",
) -> Path:
    """Draw, against time, the mean speed of the vehicles on the road and the standard deviation of their speeds.

    The deviation is over the vehicles at one time (:func:`trafficgrad.metrics.speed_deviation`): it is 0 where all
    drive alike, and a wave makes it large. Of several worlds the line is their mean and a band reaches from the lowest
    to the highest.

    Args:
        trajectories: fields ``[T+1, B, N]``; or label -> trajectory, each a curve.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        vehicles: slots whose speeds count, the same in all trajectories; default: all.
        world: which of the ``B`` worlds; default: all.
        title: one line above the panels.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, no such world or slot, a speed that is not finite, or no vehicle at all.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    found = labelled(trajectories)
    figure = new_figure(7.5 if len(found) == 1 else 9.0, 4.6)
    panels = figure.subplots(2, 1, sharex=True)
    for i, (label, trajectory) in enumerate(found.items()):
        time, mean, deviation = _over_time(trajectory, label, vehicles, world)
        for axes, values in zip(panels, (mean, deviation), strict=True):
            _draw_worlds(axes, time, values, SERIES[i % len(SERIES)], plain(label))
    name_axes(panels[0], "", "mean speed\nin m/s")
    name_axes(panels[1], "time in s", "standard deviation\nof speed in m/s")
    for axes in panels:
        axes.set_ylim(0.0, None)
        axes.margins(x=0.0)
    head(panels[0], title)
    if len(found) > 1:
        legend_beside(panels[0])
    return save_figure(figure, path)


def before_after(
    before: Trajectory,
    after: Trajectory,
    network: RoadNetwork,
    path: str | Path,
    *,
    controlled: Slots = (),
    labels: tuple[str, str] = ("human drivers", "policy"),
    world: int = 0,
    max_speed: float | None = None,
    title: str = "",
) -> Path:
    """Draw two recordings of the same traffic, such as human drivers and a policy, in one figure.

    Above, the time-space diagrams side by side, with the same colours and limits (in vector formats the ways of
    vehicles are pixels); below, the standard deviation of speeds over time and the distribution of speeds, of the
    vehicles that are not controlled (of all where every one is, or none).

    Args:
        before, after: fields ``[T+1, B, N]``; they may differ in length.
        network: of one road, where both were driven.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        controlled: slots of the controlled vehicles.
        labels: what the two are called.
        world: which of the ``B`` worlds.
        max_speed: m/s, upper end of the colours; default: what the fastest drive.
        title: one line above all.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, no such world or slot, a trajectory without a step, a speed that is not
            finite, no vehicle at all, two equal labels, or several roads.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    if labels[0] == labels[1]:
        raise TrafficGradError(f"the two recordings need different labels, both are {labels[0]!r}")
    both = dict(zip(labels, (before, after), strict=True))
    frames = [on_one_road(one, network, "a before-after figure", controlled, world) for one in both.values()]
    groups = _groups(both, controlled, world)
    counted = next(name for name in (_OTHERS, _EVERYBODY) if name in groups)
    lanes = len(frames[0].layout.lanes_of[0])
    upper = max(3.2, min(1.5, 9.0 / lanes) * lanes)
    figure = new_figure(11.0, upper + 3.4)
    top, bottom = figure.subfigures(2, 1, height_ratios=[upper + 0.7, 2.7], squeeze=False)[:, 0]
    panels = top.subplots(lanes, 2, sharex=True, sharey=True, squeeze=False)
    limit = max(one.max_speed for one in frames) if max_speed is None else max_speed
    for i, (label, one) in enumerate(zip(labels, frames, strict=True)):
        mappable = draw_lanes(list(panels[:, i]), one, limit, small=True)
        panels[0, i].set_title(plain(label), loc="left", fontsize=11, color=INK)
        panels[-1, i].set_xlabel("time in s")
    panels[0, 0].set_ylim(stretch(frames))
    panels[0, 0].set_xlim(min(one.start for one in frames), max(one.end for one in frames))
    name_lanes(list(panels[:, 0]))
    top.colorbar(mappable, ax=list(panels.flat), label="speed in m/s", pad=0.015, aspect=40 if lanes > 1 else 25)
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    if len(frames[0].controlled):
        top.legend(handles=key_of_controlled(lanes > 1), loc="outside upper right", ncols=3, frameon=False)
    left, right = bottom.subplots(1, 2)
    edges = _bin_edges(list(groups[counted].values()), None)
    slots = np.flatnonzero(~_mask(controlled, before.speed.shape[-1])) if counted == _OTHERS else None
    for i, (label, trajectory) in enumerate(both.items()):
        time, _, deviation = _over_time(trajectory, label, None if slots is None else torch.from_numpy(slots), world)
        _draw_worlds(left, time, deviation, SERIES[i], plain(label))
        _draw_distribution(right, groups[counted][label], edges, SERIES[i], plain(label))
    whose = "vehicles not controlled" if counted == _OTHERS else counted
    name_axes(left, "time in s", "standard deviation\nof speed in m/s")
    name_axes(right, "speed in m/s", _share_label(edges))
    left.margins(x=0.0)
    for axes in (left, right):
        axes.set_title(whose, loc="left", fontsize=10, color=INK)
        axes.set_ylim(0.0, None)
    _add_mean_to_key(right)
    legend_beside(right)
    return save_figure(figure, path, DPI if path.suffix.lower() == ".png" else 2 * DPI)


def _mask(slots: Slots, size: int) -> Array:
    """Which of the slots ``[size]`` are named."""
    named = np.asarray(slots, dtype=np.int64).reshape(-1)
    if len(named) and not (named.min() >= 0 and named.max() < size):
        raise TrafficGradError(f"vehicles must be slots from 0 to {size - 1}, got {named.tolist()}")
    mask = np.zeros(size, dtype=bool)
    mask[named] = True
    return mask


def _worlds(trajectory: Trajectory, label: str, world: int | None) -> tuple[Tensor, Tensor]:
    """Speeds, 0 in empty slots, and who is there, ``[T+1, W, N]``, of one world or of all; checked."""
    worlds = trajectory.speed.shape[1]
    if world is not None and not 0 <= world < worlds:
        raise TrafficGradError(f"there is no world {world} in this trajectory; expected 0 to {worlds - 1}")
    rows = slice(None) if world is None else slice(world, world + 1)
    active = trajectory.active[:, rows].detach().cpu()
    speed = trajectory.speed[:, rows].detach().cpu().double()
    speed = torch.where(active, speed, 0.0)
    name = f" {label!r}" if label else ""
    if not bool(speed.isfinite().all()):
        raise TrafficGradError(f"the trajectory{name} cannot be drawn: it has speeds that are not finite")
    if not bool(active.any()):
        raise TrafficGradError(f"nobody drives in the trajectory{name}: there is no speed to draw")
    return speed, active


def _groups(found: Mapping[str, Trajectory], controlled: Slots, world: int | None) -> dict[str, dict[str, Array]]:
    """Group -> label -> all speeds ``[K]``; those controlled and the others only where there are both."""
    groups: dict[str, dict[str, Array]] = {_EVERYBODY: {}, _OTHERS: {}, _OWN: {}}
    for label, trajectory in found.items():
        speed, active = (x.numpy() for x in _worlds(trajectory, label, world))
        own = _mask(controlled, speed.shape[-1])
        for name, which in ((_EVERYBODY, active), (_OTHERS, active & ~own), (_OWN, active & own)):
            groups[name][label] = speed[which]
    if any(not sum(map(len, groups[name].values())) for name in (_OTHERS, _OWN)):
        del groups[_OTHERS], groups[_OWN]
    return groups


def _bin_edges(values: Sequence[Array], width: float | None) -> Array:
    """Multiples of the width around all values, m/s."""
    if width is not None and not 0.0 < width < float("inf"):
        raise TrafficGradError(f"width must be a number > 0, got {width}")
    everything = np.concatenate(list(values))
    low, high = float(everything.min()), float(everything.max())
    width = width or nice_step(max(high - low, 1.0), _BINS)
    first, last = np.floor(low / width), np.floor(high / width) + 1
    return width * np.arange(first, last + 1)


def _draw_distribution(axes: Axes, speeds: Array, edges: Array, colour: str, label: str) -> None:
    if not len(speeds):
        return
    share = 100.0 * np.histogram(speeds, edges)[0] / len(speeds)
    axes.stairs(share, edges, color=colour, fill=True, alpha=0.13, linewidth=0)
    axes.stairs(share, edges, color=colour, linewidth=1.6, label=label)
    axes.axvline(float(speeds.mean()), color=colour, linewidth=1.0, linestyle=_DASHES)


def _add_mean_to_key(axes: Axes) -> None:
    axes.plot([], [], color=INK, linewidth=1.0, linestyle=_DASHES, label="mean")


def _share_label(edges: Array) -> str:
    return f"share in % per {edges[1] - edges[0]:.3g} m/s"


def _over_time(
    trajectory: Trajectory, label: str, vehicles: Slots | None, world: int | None
) -> tuple[Array, Array, Array]:
    """Time [T+1] s, mean speed and deviation [T+1, W] m/s of the vehicles that count; NaN where there is none."""
    speed, active = _worlds(trajectory, label, world)
    if vehicles is not None:
        active = active & torch.from_numpy(_mask(vehicles, speed.shape[-1]))
        if not bool(active.any()):
            raise TrafficGradError("none of the vehicles that count is ever on the road: there is no speed to draw")
    record = dataclasses.replace(trajectory, speed=speed, active=active)
    there = active.any(-1)
    mean, deviation = (
        torch.where(there, measure(record), torch.nan).numpy()
        for measure in (metrics.mean_speed, metrics.speed_deviation)
    )
    start = float(trajectory.time[0, world or 0])
    return start + trajectory.dt * np.arange(len(speed)), mean, deviation


def _draw_worlds(axes: Axes, time: Array, values: Array, colour: str, label: str) -> None:
    """A line, of several worlds their mean within the band that they fill."""
    there = np.isfinite(values)
    count = there.sum(1)
    known = np.where(there, values, 0.0)
    mean = np.divide(known.sum(1), count, out=np.full(len(time), np.nan), where=count > 0)
    axes.plot(time, mean, color=colour, linewidth=1.6, label=label)
    if values.shape[1] > 1:
        low, high = np.where(there, values, np.inf).min(1), np.where(there, values, -np.inf).max(1)
        axes.fill_between(time, low, high, where=count > 0, color=colour, alpha=0.15, linewidth=0)
