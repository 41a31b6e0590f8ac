"""The fundamental diagram of recorded traffic: flow, density and speed of cells of space and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending
from trafficgrad.network import RoadNetwork
from trafficgrad.render.figures import (
    FORMATS,
    SERIES,
    head,
    legend_beside,
    name_axes,
    new_figure,
    plain,
    save_figure,
)
from trafficgrad.render.frames import Tracks, TrajectoryFrames
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.plots import lane_name
from trafficgrad.render.style import Array
from trafficgrad.render.traffic_plots import Trajectories, labelled
from trafficgrad.trajectory import Trajectory

_CELL_LENGTH, _CELL_DURATION = 100.0, 15.0  # m, s
_FEWEST = 3, 10  # cells along the road and over time, by default
_HOUR, _KILOMETRE = 3600.0, 1000.0


@dataclass(frozen=True)
class Cells:
    """What was measured in ``S x X`` cells of time and space, for each of ``G`` groups of lanes."""

    flow: Array  # [G, S, X] vehicles/s and lane; NaN where the group has no lane
    density: Array  # [G, S, X] vehicles/m and lane; NaN where the group has no lane
    speed: Array  # [G, S, X] m/s; NaN where nobody was
    time: Array  # [S+1] s, borders
    distance: Array  # [X+1] m along the road, borders


def measure_cells(
    trajectory: Trajectory,
    network: RoadNetwork,
    *,
    road: int | None = None,
    world: int = 0,
    cell_length: float | None = None,
    cell_duration: float | None = None,
    per_lane: bool = False,
) -> Cells:
    """Flow, density and speed of the traffic on a road, by Edie's definitions.

    In a cell of space and time whose lanes are ``l`` m long altogether and that lasts ``s`` seconds, vehicles drive
    ``d`` m and spend ``t`` s. Then density is t / (l s), flow is d / (l s), and speed is d / t = flow / density (L. C.
    Edie, Discussion of traffic stream measurements and definitions, 1963). Between two records everybody moves at
    constant speed, in the lane of the earlier one.

    Args:
        trajectory: fields ``[T+1, B, N]``.
        network: where it was driven.
        road: row of ``RoadLayout.of(network).roads``; may be left out where there is one.
        world: which of the ``B`` worlds.
        cell_length: m, about: the road is cut into equal parts; default: 100, or a third of a shorter road.
        cell_duration: s, about, in whole steps; default: 15, or a tenth of a shorter recording.
        per_lane: one group for each lane, the rightmost first; else all lanes are one group.

    Returns:
        The cells' measures.

    Raises:
        TrafficGradError: no such world or road, several roads and none chosen, a trajectory without a step, or a cell
            that is not positive.
    """
    frames = TrajectoryFrames(trajectory, network, 5.0, 2.0, (), world)
    if trajectory.steps < 1:
        raise TrafficGradError("a fundamental diagram needs a trajectory of at least one step")
    layout, steps, dt = frames.layout, trajectory.steps, frames.step
    row = _choose(layout, road)
    length = layout.roads[row].length
    parts = _parts("cell_length", length, cell_length, min(_CELL_LENGTH, length / _FEWEST[0]))
    spans = _parts("cell_duration", steps * dt, cell_duration, min(_CELL_DURATION, steps * dt / _FEWEST[1]))
    begins = np.round(np.linspace(0, steps, min(spans, steps) + 1)).astype(np.int64)  # whole steps
    borders = np.linspace(0.0, length, parts + 1)
    room = _lane_metres(layout, row, borders, per_lane)[:, None] * np.diff(begins * dt)[None, :, None]  # [G, S, X]
    driven, spent = np.zeros(room.shape), np.zeros(room.shape)
    for piece in _pieces(frames.tracks(), layout, row, dt):
        which, cell, share = _split(piece.low, piece.high, borders)
        group = np.minimum(piece.lane, len(room) - 1)[which]
        span = np.searchsorted(begins, piece.step[which], side="right") - 1
        np.add.at(driven, (group, span, cell), share * piece.distance[which])
        np.add.at(spent, (group, span, cell), share * piece.time[which])
    with np.errstate(divide="ignore", invalid="ignore"):
        there = np.where(room > 0.0, room, np.nan)
        return Cells(
            driven / there, spent / there, driven / np.where(spent > 0.0, spent, np.nan),
            frames.start + begins * dt, borders,
        )  # fmt: skip


def _choose(layout: RoadLayout, road: int | None) -> int:
    last = len(layout.roads) - 1
    if road is None and last:
        raise TrafficGradError(f"this network has {last + 1} roads; choose one: road=0 to {last}")
    if road is not None and not 0 <= road <= last:
        raise TrafficGradError(f"there is no road {road} in this network; expected 0 to {last}")
    return road or 0


def _parts(name: str, whole: float, wanted: float | None, usual: float) -> int:
    """Into how many equal parts of about the size ``wanted`` the ``whole`` is cut."""
    if wanted is not None and not 0.0 < wanted < float("inf"):
        raise TrafficGradError(f"{name} must be a number > 0, got {wanted}")
    return max(1, round(whole / (usual if wanted is None else wanted)))


def _lane_metres(layout: RoadLayout, road: int, borders: Array, per_lane: bool) -> Array:
    """How much of lanes lies between the borders, m ``[G, X]``: lane by lane, or of all lanes together."""
    edges = layout.roads[road].edges
    lanes = np.array([len(layout.lanes_of[edge]) for edge in edges])
    start = layout.roads[road].starts[:, None]
    end = start + layout.edge_length[list(edges)][:, None]
    within = np.clip(np.minimum(end, borders[1:]) - np.maximum(start, borders[:-1]), 0.0, None)  # [edges, X]
    if not per_lane:
        return (lanes @ within)[None]
    return (np.arange(lanes.max())[:, None] < lanes).astype(np.float64) @ within


@dataclass(frozen=True)
class _Pieces:
    """Pieces ``[P]`` of ways on one road, none of which passes its end."""

    step: Array  # int64
    lane: Array  # int64, 0 = right
    low: Array  # m, where on the road it begins and ends
    high: Array
    distance: Array  # m that is driven; < 0 backwards
    time: Array  # s that it takes


def _pieces(tracks: Tracks, layout: RoadLayout, road: int, dt: float) -> Iterator[_Pieces]:
    """What everybody drives on a road in every step: on until its end, and from there, or from another road, on."""
    k, n = np.nonzero(tracks.continues)
    advance = tracks.advance[k, n]
    before, after = tracks.distance[k, n], tracks.distance[k + 1, n]
    from_road, to_road = tracks.road[k, n], tracks.road[k + 1, n]
    whole = (from_road == to_road) & (np.abs(after - before - advance) <= 1e-6 * (1.0 + np.abs(after)))
    length = layout.roads[road].length
    for mask, lane, start, end in (
        (whole & (from_road == road), tracks.lane[k, n], before, before + advance),
        (~whole & (from_road == road), tracks.lane[k, n], before, np.clip(before + advance, 0.0, length)),
        (~whole & (to_road == road), tracks.lane[k + 1, n], np.clip(after - advance, 0.0, length), after),
    ):
        a, b, far = start[mask], end[mask], advance[mask]
        share = np.divide(b - a, far, out=np.ones_like(far), where=far != 0.0)
        yield _Pieces(k[mask], lane[mask], np.minimum(a, b), np.maximum(a, b), b - a, dt * share)


def _split(low: Array, high: Array, borders: Array) -> tuple[Array, Array, Array]:
    """Cut pieces at the borders: which piece, in which cell, and what share of it."""
    last = len(borders) - 2
    first, final = (np.clip(np.searchsorted(borders, x, side="right") - 1, 0, last) for x in (low, high))
    count = final - first + 1
    which = np.repeat(np.arange(len(low)), count)
    cell = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    inside = np.minimum(high[which], borders[cell + 1]) - np.maximum(low[which], borders[cell])
    size = (high - low)[which]
    return which, cell, np.divide(inside, size, out=np.ones_like(size), where=size > 0.0)


def fundamental_diagram(
    trajectories: Trajectories,
    network: RoadNetwork,
    path: str | Path,
    *,
    road: int | None = None,
    world: int = 0,
    cell_length: float | None = None,
    cell_duration: float | None = None,
    per_lane: bool = False,
    equilibrium: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    title: str = "",
) -> Path:
    """Draw flow and speed against density: a dot for each cell of space and time in which somebody was.

    :func:`measure_cells` says how they are measured. Small cells scatter, as they hold few vehicles; cells that are
    larger than a jam mix it with what is around it.

    Args:
        trajectories: fields ``[T+1, B, N]``; or label -> trajectory, each in its own colour.
        network: where all of them were driven.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        road, world, cell_length, cell_duration: see :func:`measure_cells`.
        per_lane: dots for each lane, in its own colour, instead of all lanes together; of one trajectory.
        equilibrium: a curve drawn beneath: densities ``[K]`` in vehicles/m and lane, and the speeds ``[K]`` in m/s of
            uniform traffic with them.
        title: one line above the panels.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, what :func:`measure_cells` refuses, several trajectories by lane, a road on
            which nobody drives, or a curve that is not two rows of equally many numbers.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    found = labelled(trajectories)
    if per_lane and len(found) > 1:
        raise TrafficGradError(f"per_lane shows one trajectory, got {len(found)}: {', '.join(found)}")
    curve = None if equilibrium is None else _curve(equilibrium)
    options = {"cell_length": cell_length, "cell_duration": cell_duration}
    rows: dict[str, tuple[Array, Array, Array]] = {}
    for label, trajectory in found.items():
        cells = measure_cells(trajectory, network, road=road, world=world, per_lane=per_lane, **options)
        for group, each in enumerate(zip(cells.density, cells.flow, cells.speed, strict=True)):
            there = np.isfinite(each[2]) & np.isfinite(each[1])
            density, flow, speed = (values[there] for values in each)
            rows[lane_name(group, len(cells.flow)) if per_lane else label] = (density, flow, speed)
    if not any(len(density) for density, *_ in rows.values()):
        raise TrafficGradError("nobody drives on this road: there is nothing to measure")
    keyed = len(rows) > 1 or curve is not None
    figure = new_figure(10.8 if keyed else 9.4, 4.0)
    left, right = figure.subplots(1, 2)
    if curve is not None:
        density, speed = curve
        for axes, up in ((left, density * speed * _HOUR), (right, speed)):
            axes.plot(density * _KILOMETRE, up, color="#8b929c", linewidth=1.6, label="equilibrium", zorder=1)
    most = max(len(density) for density, *_ in rows.values())
    for i, (label, (density, flow, speed)) in enumerate(rows.items()):
        for axes, up in ((left, flow * _HOUR), (right, speed)):
            axes.plot(
                density * _KILOMETRE, up, "o", color=SERIES[i % len(SERIES)], markersize=4 if most < 500 else 2.5,
                markeredgewidth=0, alpha=0.55, label=plain(label) or "measured",
            )  # fmt: skip
    density_label = "density in vehicles per km and lane"
    name_axes(left, density_label, "flow in vehicles per hour and lane")
    name_axes(right, density_label, "speed in m/s")
    for axes in (left, right):
        axes.set_xlim(0.0, None)
        axes.set_ylim(0.0, None)
    head(left, title)
    if keyed:
        legend_beside(right)
    return save_figure(figure, path)


def _curve(equilibrium: tuple[npt.ArrayLike, npt.ArrayLike]) -> tuple[Array, Array]:
    try:
        density, speed = equilibrium
        rows = [np.asarray(row, dtype=np.float64) for row in (density, speed)]
    except (TypeError, ValueError) as error:
        raise TrafficGradError(f"equilibrium must be densities and speeds, two arrays of numbers: {error}") from error
    if rows[0].ndim != 1 or rows[0].shape != rows[1].shape:
        shapes = " and ".join(str(list(row.shape)) for row in rows)
        raise TrafficGradError(f"equilibrium must be densities [K] and as many speeds [K], got shapes {shapes}")
    return rows[0], rows[1]
