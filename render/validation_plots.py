"""Figures of ``trafficgrad validate``, one per group of checks: theory as lines, measurements as points.

Functions take plain arrays and a path (``.png``, ``.pdf`` or ``.svg``), write it completely or not at all and return
it. Data come before the path, so that a group can bind them and leave the path to whoever collects the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trafficgrad.files import check_ending
from trafficgrad.render.figures import FORMATS, GRID, INK, new_figure, save_figure, speed_map
from trafficgrad.render.style import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Title, values of the recorded runs by statistic, ours by model and statistic, band by statistic.
LaneCase: TypeAlias = tuple[
    str, Mapping[str, Array], Mapping[str, Mapping[str, float]], Mapping[str, tuple[float, float]]
]
# Values of the recorded runs, their band, and ours, at one demand.
MergeRow: TypeAlias = tuple[Array, tuple[float, float], Array]
_THEORY, _MEASURED, _SECOND, _BAND = "#8b929c", "#2f6db3", "#d7191c", "#dfe5ee"
_DPI = 110  # of a picture
_SERIES = ("#2f6db3", "#d7191c", "#3a923a", "#8b5fbf", "#c98500", "#1a9aa0")


def _panel(axes: Axes, title: str, right: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set_xlabel(right)
    axes.set_ylabel(up)
    axes.grid(color=GRID, linewidth=0.6)


def draw_equilibrium(curve_length: Array, curve_speed: Array, length: Array, speed: Array, path: Path) -> Path:
    """Speed (m/s) of uniform flow over the ring's length (m): closed form and simulation."""
    check_ending(path, FORMATS)
    figure = new_figure(6.0, 3.6)
    axes = figure.subplots()
    axes.plot(curve_length, curve_speed, color=_THEORY, linewidth=1.6, label="closed form")
    axes.plot(length, speed, "o", color=_MEASURED, markersize=5, label="simulation")
    _panel(axes, "Uniform flow of 22 cars", "length of the ring in m", "speed in m/s")
    axes.legend(frameon=False)
    return save_figure(figure, path, _DPI, palette=True)


def draw_ring_stability(
    lengths: Sequence[float],
    expected: Sequence[Array],
    jacobian: Sequence[Array],
    simulated: Sequence[Array],
    curve: tuple[Array, Array],
    path: Path,
) -> Path:
    """Growth rates (1/s) by dispersion relation, Jacobian and simulation.

    Left those of the waves k = 1, 2, ... of each ring (m), ``nan`` where there is none; right the largest over the
    length, with ``curve`` = lengths and largest rates of the theory.
    """
    check_ending(path, FORMATS)
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.axhline(0.0, color=INK, linewidth=0.8)
    right.plot(*curve, color=_THEORY, linewidth=1.6)
    for i, length in enumerate(lengths):
        k, colour = np.arange(1, len(expected[i]) + 1), _SERIES[i % len(_SERIES)]
        left.plot(k, expected[i], color=colour, linewidth=1.2, label=f"{length:.0f} m")
        fastest = int(np.argmax(expected[i]))
        for axes, places, chosen in ((left, k, slice(None)), (right, [length], slice(fastest, fastest + 1))):
            axes.plot(places, jacobian[i][chosen], "o", color=colour, markersize=6, markerfacecolor="white")
            axes.plot(places, simulated[i][chosen], "x", color=colour, markersize=6)
    _panel(left, "Waves on a ring of 22 cars", "waves round the ring", "growth rate in 1/s")
    left.legend(frameon=False)
    _panel(right, "The fastest wave", "length of the ring in m", "growth rate in 1/s")
    right.plot([], [], color=_THEORY, linewidth=1.6, label="dispersion relation")
    right.plot([], [], "o", color=INK, markersize=6, markerfacecolor="white", label="Jacobian by autograd")
    right.plot([], [], "x", color=INK, markersize=6, label="simulation")
    right.legend(frameon=False)
    return save_figure(figure, path, _DPI, palette=True)


def draw_platoon(
    frequency: Array,
    speeds: Sequence[float],
    expected: Sequence[Array],
    jacobian: Sequence[Array],
    swung: Sequence[float],
    amplitudes: Sequence[Array],
    peaks: Sequence[float],
    path: Path,
) -> Path:
    """Gain of one car over frequency (rad/s) at several speeds (m/s), and amplitudes along platoons that are swung.

    ``amplitudes`` [cars] of each of the speeds ``swung``, drawn relative to the leader's beside ``peaks`` ** car.
    """
    check_ending(path, FORMATS)
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    colours = dict(zip(speeds, _SERIES, strict=False))
    every = max(1, len(frequency) // 40)
    for v, theory, seen in zip(speeds, expected, jacobian, strict=True):
        left.plot(frequency, theory, color=colours[v], linewidth=1.2, label=f"{v:.0f} m/s")
        left.plot(frequency[::every], seen[::every], "o", color=colours[v], markersize=3, markerfacecolor="white")
    left.axhline(1.0, color=INK, linewidth=0.8)
    left.set_xlim(0.0, 0.8)
    left.set_ylim(0.9, None)
    _panel(left, "Gain of one car (dots: Jacobian)", "frequency in rad/s", "follower's / leader's amplitude")
    left.legend(frameon=False)
    for v, own, peak in zip(swung, amplitudes, peaks, strict=True):
        car, dots = np.arange(len(own)), {"markersize": 4, "markerfacecolor": "white"}
        right.plot(car, peak**car, color=colours[v], linewidth=1.2)
        right.plot(car, own / own[0], "o", color=colours[v], label=f"{v:.0f} m/s", **dots)
    _panel(right, "Behind a swinging leader (dots: simulation)", "car in the platoon", "amplitude / leader's")
    right.set_xticks(range(0, len(amplitudes[0]), 5))
    right.legend(frameon=False)
    return save_figure(figure, path, _DPI, palette=True)


def draw_fundamental_diagram(
    curves: Sequence[tuple[Array, Array]],
    capacities: Sequence[tuple[float, float]],
    density: Array,
    flow: Array,
    stable: int,
    path: Path,
) -> Path:
    """Flow over density: curves of uniform traffic (1/m, 1/s), capacities found, rings of which ``stable`` are."""
    check_ending(path, FORMATS)
    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    for (k, q), name, colour in zip(curves, ("Flow", "Treiber 2000"), (_THEORY, "#c3a06a"), strict=True):
        axes.plot(k * 1e3, q * 3600, color=colour, linewidth=1.6, label=f"uniform flow, {name} drivers")
    for place, largest in capacities:
        axes.plot(place * 1e3, largest * 3600, "D", color=_SECOND, markersize=5)
    axes.plot([], [], "D", color=_SECOND, markersize=5, label="capacity, simulated")
    axes.plot(density[:stable] * 1e3, flow[:stable] * 3600, "o", color=_MEASURED, markersize=5, label="stable rings")
    if len(density) > stable:
        axes.plot(
            density[stable:] * 1e3, flow[stable:] * 3600, "o", color=_MEASURED, markersize=5, markerfacecolor="white",
            label="unstable rings: jams carry less",
        )  # fmt: skip
    axes.set_xlim(0.0, None)
    axes.set_ylim(0.0, None)
    _panel(axes, "Fundamental diagram", "density in vehicles per km", "flow in vehicles per hour")
    axes.legend(frameon=False)
    return save_figure(figure, path, _DPI, palette=True)


def draw_jam(
    time: Array, position: Array, speed: Array, length: float, rate: float, wave_speed: float, path: Path
) -> Path:
    """The jam on a ring of ``length`` m: who was where when, and how the deviation of the speeds grew.

    ``position`` (m) and ``speed`` (m/s) are [times, cars]; ``rate`` (1/s) of the linear theory is drawn as a slope, the
    expected ``wave_speed`` (m/s) as a dashed line.
    """
    check_ending(path, FORMATS)
    from matplotlib.collections import LineCollection

    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1.0])
    ends = np.stack([np.broadcast_to(time[:, None], position.shape), position], -1)
    pieces = np.stack([ends[:-1], ends[1:]], -2)
    stays = np.abs(np.diff(position, axis=0)) < length / 2  # not over the ring's start
    paths = LineCollection(list(pieces[stays]), cmap=speed_map(), linewidths=0.7, rasterized=True)
    paths.set_array(((speed[1:] + speed[:-1]) / 2)[stays])
    left.add_collection(paths)
    start, span = 440.0, 0.9 * length / abs(wave_speed)
    left.plot([start, start + span], [0.95 * length, 0.95 * length + wave_speed * span], "--", color=_SECOND, lw=1.4)
    left.set_xlim(time[0], time[-1])
    left.set_ylim(0.0, length)
    title = f"22 cars on {length:.0f} m; dashed: {wave_speed * 3.6:.1f} km/h, SUMO's wave"
    _panel(left, title, "time in s", "position in m")
    figure.colorbar(paths, ax=left, label="speed in m/s", pad=0.02)
    deviation = speed.std(1)
    right.semilogy(time, np.maximum(deviation, 1e-6), color=_MEASURED, linewidth=1.4, label="simulation")
    at = (time > 60) & (time < 180)
    anchor = deviation[np.argmin(np.abs(time - 120.0))]
    right.semilogy(time[at], anchor * np.exp(rate * (time[at] - 120.0)), "--", color=_SECOND, label="linear theory")
    right.set_ylim(1e-2, 5.0)
    _panel(right, "The jam grows", "time in s", "deviation of speeds in m/s")
    right.legend(frameon=False)
    return save_figure(figure, path, _DPI, palette=True)


def draw_control(
    runs: Sequence[tuple[str, tuple[Array, Array, Array]]],
    lengths: Sequence[float],
    target: Array,
    grown: float,
    path: Path,
) -> Path:
    """Mean speed and deviation (m/s) over time (s), [times] and [times, worlds], of traffic with one controlled car.

    ``target`` [worlds] is the speed of uniform flow, ``grown`` (s) when a grown jam is taken on.
    """
    check_ending(path, FORMATS)
    figure = new_figure(10.0, 2.6 * len(runs) + 0.4)
    panels = figure.subplots(len(runs), 2, squeeze=False)
    rings = list(dict.fromkeys(lengths))
    for row, (name, (time, mean, deviation)) in zip(panels, runs, strict=True):
        for i, length in enumerate(rings):
            worlds = [b for b, own in enumerate(lengths) if own == length]
            for axes, values in ((row[0], mean), (row[1], deviation)):
                axes.plot(time, values[:, worlds], color=_SERIES[i], linewidth=0.7, alpha=0.8)
            row[0].axhline(target[worlds[0]], color=_SERIES[i], linewidth=1.2, linestyle="--")
            row[0].plot([], [], color=_SERIES[i], label=f"{length:.0f} m")
        if time[-1] > grown:
            for axes in row:
                axes.axvline(grown, color=INK, linewidth=0.8)
            height = row[1].get_xaxis_transform()
            row[1].text(grown + 0.1 * time[-1], 0.7, "from the line on\nit takes over", transform=height, fontsize=9)
        _panel(row[0], f"One controlled car, {name}", "time in s", "mean speed in m/s")
        _panel(row[1], "How much the cars' speeds differ", "time in s", "deviation of speeds in m/s")
        for axes in row:
            axes.set_xlim(time[0], time[-1])
            axes.set_ylim(0.0, None)
    panels[0][0].plot([], [], "--", color=INK, label="uniform flow")
    panels[0][0].legend(frameon=False, loc="lower right")
    return save_figure(figure, path, _DPI, palette=True)


def draw_lane_gate(
    temperatures: Sequence[float],
    biases: Array,
    blocked: Array,
    settings: Sequence[tuple[float, float]],
    chosen: float,
    path: Path,
) -> Path:
    """Bias of straight-through against its temperature, a line per distribution (mean, deviation) of the action.

    ``biases`` [temperatures, settings] and ``blocked`` [settings] are relative to the truth; ``chosen`` is the default.
    Left where the choice is often made, right where ``blocked`` is nearly right because it is rare.
    """
    check_ending(path, FORMATS)
    figure = new_figure(10.0, 4.3)
    often = np.abs(blocked) > 0.2
    panels = figure.subplots(1, 2 if not often.all() else 1, squeeze=False, width_ratios=(1.9, 1.0)[: 2 - often.all()])
    colours = speed_map()
    for axes, chosen_ones, title in zip(
        panels[0], (often, ~often), ("Bias of straight-through (bars: blocked)", "Rare choices"), strict=False
    ):
        places = np.flatnonzero(chosen_ones)
        for place, i in enumerate(places):
            colour = colours(place / max(1, len(places) - 1))
            mean, deviation = settings[int(i)]
            label = f"N({mean:g}, {deviation:g})"
            axes.plot(temperatures, 100 * biases[:, i], "-o", color=colour, markersize=4, linewidth=1.5, label=label)
            axes.plot(temperatures[-1] * 1.25, 100 * blocked[i], "_", color=colour, markersize=12, markeredgewidth=2)
        axes.axhline(0.0, color=INK, linewidth=0.8)
        axes.axvline(chosen, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        ticked = list(temperatures)[:: 1 if axes is panels[0][0] else 2]
        axes.set_xticks(ticked, [f"{t:g}" for t in ticked])
        axes.minorticks_off()
        axes.set_yscale("symlog", linthresh=100.0)
        ticks = [-100, -50, 0, 50, 100, 1000]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        _panel(axes, title, "choice_temperature (dotted: default)", "bias in % of the true gradient")
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    return save_figure(figure, path, _DPI, palette=True)


def draw_junction_discharge(
    theory: Mapping[str, Array],
    lines: Mapping[str, tuple[float, float]],
    queues: Mapping[float, Sequence[Array]],
    yellow: float,
    between: tuple[int, int],
    path: Path,
) -> Path:
    """When vehicles pass a stop line (s after green): their headways, and how many have passed.

    ``theory`` by what was integrated, with the headway and lost time of each in ``lines``, measured ``between`` two
    vehicles; ``queues`` by the green (s) of their signal.
    """
    check_ending(path, FORMATS)
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    left.axvspan(between[0], between[1], color=_BAND)
    most = max(len(times) for own in queues.values() for times in own) + 1
    number = np.arange(1, most + 1)
    for (name, times), colour in zip(theory.items(), (_THEORY, _SECOND), strict=True):
        headway, lost = lines[name]
        left.plot(number[1:], np.diff(times)[: most - 1], color=colour, linewidth=1.6, label=f"IDM {name}")
        label = f"{lost:.1f} s lost, then one in {headway:.2f} s"
        right.plot(lost + headway * number, number, color=colour, linewidth=1.6, label=label)
    for (green, own), colour in zip(queues.items(), (_SERIES[2], _MEASURED), strict=False):
        label = f"green of {green:.0f} s, {len(own)} queues"
        for times in own:
            left.plot(np.arange(2, len(times) + 1), np.diff(times), "o", color=colour, markersize=3)
            right.plot(times, np.arange(1, len(times) + 1), "o", color=colour, markersize=3)
        for axes in (left, right):
            axes.plot([], [], "o", color=colour, markersize=4, label=label)
        right.axvspan(green, green + yellow, color="#f6e7b8")
    left.set_xlim(1.0, most)
    left.set_xticks(range(5, most, 5))
    left.set_ylim(1.5, None)
    right.set_xlim(0.0, max(queues) + 2 * yellow)
    right.set_ylim(0.0, most)
    right.set_yticks(range(0, most, 5))
    _panel(left, "Headways at the stop line", "vehicle of the queue", "headway in s")
    _panel(right, "How many have passed (shaded: yellow)", "time after green in s", "vehicles")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    return save_figure(figure, path, _DPI, palette=True)


def draw_safety(
    names: Sequence[str], smallest_gap: Sequence[float], braking: Sequence[float], limit: Sequence[float], path: Path
) -> Path:
    """Smallest gap (m) and hardest braking asked of a new follower (m/s2) with its limit, a row per run.

    Where a value is not finite stands "none": no vehicle bound to a lane has a leader, or none changes lane.
    """
    check_ending(path, FORMATS)
    figure = new_figure(9.0, 1.4 + 0.24 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    row, limits = np.arange(len(names)), np.array(limit)
    for axes, values, title, unit, end in (
        (left, np.array(smallest_gap), "Smallest gap", "gap in m", 6.0),
        (right, np.array(braking), "Braking asked of a new follower", "deceleration in m/s2; red: limit", 5.0),
    ):
        there = np.isfinite(values)
        axes.barh(row[there], values[there], color=_MEASURED, height=0.55)
        for y in row[there & (values > end)]:
            axes.text(end, y, f"{values[y]:.0f} ", ha="right", va="center", color="white", fontsize=8)
        for y in row[~there]:
            axes.text(0.0, y, "  none", va="center", color=_THEORY, fontsize=8)
        _panel(axes, title, unit, "")
        axes.set_axisbelow(True)
        axes.set_xlim(0.0, end)
    there = np.isfinite(limits) & np.isfinite(np.array(braking))
    right.vlines(limits[there], row[there] - 0.4, row[there] + 0.4, color=_SECOND, linewidth=1.6)
    left.set_yticks(row, names, fontsize=8)
    left.invert_yaxis()
    return save_figure(figure, path, _DPI, palette=True)


def draw_lane_changes(
    cases: Sequence[LaneCase],
    path: Path,
) -> Path:
    """Statistics of lanes beside the band of recorded runs, a column per case.

    Speeds are in m/s; every statistic is drawn relative to the mean of the recorded runs.
    """
    check_ending(path, FORMATS)
    most, low_end, high_end = max(len(band) for *_, band in cases), 0.4, 2.0
    figure = new_figure(5.2 * len(cases), 1.2 + 0.38 * most)
    panels = figure.subplots(1, len(cases), squeeze=False)[0]
    for axes, (title, runs, ours, bands) in zip(panels, cases, strict=True):
        for row, (name, (low, high)) in enumerate(bands.items()):
            scale = float(runs[name].mean())
            axes.barh(row, (high - low) / scale, left=low / scale, height=0.6, color=_BAND)
            axes.plot(runs[name] / scale, np.full(len(runs[name]), row), "|", color=_THEORY, markersize=5)
            for (kind, values), marker, colour in zip(ours.items(), ("o", "s"), (_MEASURED, _SECOND), strict=False):
                share, label = values[name] / scale, f"MOBIL, {kind}" if row == 0 else None
                if share < high_end:
                    axes.plot(share, row, marker, color=colour, markersize=6, label=label)
                else:
                    y = row - 0.2 if marker == "o" else row + 0.2
                    axes.text(high_end, y, f"{share:.1f} →", ha="right", va="center", color=colour, fontsize=8)
        axes.axvline(1.0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(bands)), [f"{name} ({runs[name].mean():.3g})" for name in bands], fontsize=8)
        axes.set_xlim(low_end, high_end)
        _panel(axes, title, "relative to the mean of SUMO's runs (in brackets)", "")
        axes.invert_yaxis()
    panels[0].legend(frameon=False, fontsize=8)
    return save_figure(figure, path, _DPI, palette=True)


def draw_merges(cases: Sequence[tuple[str, Sequence[str], Mapping[str, Sequence[MergeRow]]]], path: Path) -> Path:
    """Statistics of merges beside the band of recorded runs: a row of panels per case, a panel per statistic.

    A case is its title, the names of its demands (veh/h, highway + ramp), and per statistic, with its unit, what was
    found at each demand.
    """
    check_ending(path, FORMATS)
    columns = max(len(found) for _, _, found in cases)
    figure = new_figure(2.6 * columns, 0.6 + 2.3 * len(cases))
    panels = figure.subplots(len(cases), columns, squeeze=False)
    for row, (title, demands, found) in zip(panels, cases, strict=True):
        for axes in row[len(found) :]:
            axes.axis("off")
        for k, (axes, (name, rows)) in enumerate(zip(row, found.items(), strict=False)):
            for x, (runs, (low, high), ours) in enumerate(rows):
                axes.bar(x, high - low, bottom=low, width=0.7, color=_BAND)
                axes.plot(np.full(len(runs), x), runs, "_", color=_THEORY, markersize=7)
                axes.plot(np.full(len(ours), x + 0.2), ours, "o", color=_MEASURED, markersize=3, alpha=0.6)
                axes.plot(x, ours.mean(), "D", color=_MEASURED, markersize=5)
            _panel(axes, title if k == 0 else "", "", name)
            axes.yaxis.label.set_fontsize(8)
            axes.set_xticks(range(len(demands)), demands, fontsize=7)
            axes.set_xlim(-0.6, len(demands) - 0.4)
            axes.set_ylim(0.0, None)
    first = panels[0][0]
    first.plot([], [], "_", color=_THEORY, markersize=7, label="SUMO's runs")
    first.plot([], [], "D", color=_MEASURED, markersize=5, label="ours, mean")
    first.legend(frameon=False, fontsize=7, loc="lower right")
    return save_figure(figure, path, _DPI, palette=True)


def draw_gridlock(time: Array, there: Array, waiting: Array, left: Array, demand: float, dt: float, path: Path) -> Path:
    """Traffic of a grid over ``time`` (s): vehicles ``there`` and ``waiting`` outside, and flow out beside the demand.

    ``there``, ``waiting`` and ``left`` (since the beginning) are [times, worlds]; ``demand`` is in vehicles/h.
    """
    check_ending(path, FORMATS)
    figure = new_figure(10.0, 3.4)
    first, second = figure.subplots(1, 2)
    minutes = time / 60.0
    for k in range(there.shape[1]):
        first.plot(minutes, there[:, k], color=_MEASURED, linewidth=0.8, alpha=0.8)
        first.plot(minutes, waiting[:, k], color=_SECOND, linewidth=0.8, alpha=0.8)
    first.plot([], [], color=_MEASURED, label="on the road or waiting outside")
    first.plot([], [], color=_SECOND, label="waiting outside")
    _panel(first, f"Vehicles, {there.shape[1]} worlds", "time in min", "vehicles")
    span = round(min(300.0, time[-1] / 3.0) / dt)  # some cycles of the signals
    flow = (left[span:] - left[:-span]) * 3600.0 / (span * dt)
    for k in range(flow.shape[1]):
        second.plot(minutes[span:], flow[:, k], color=_MEASURED, linewidth=0.6, alpha=0.5)
    second.plot(minutes[span:], flow.mean(1), color=_MEASURED, linewidth=1.4, label="flow out, mean of worlds")
    second.axhline(demand, color=_SECOND, linestyle="--", label="demand")
    _panel(second, f"Flow out in the last {span * dt / 60:.0f} minutes", "time in min", "vehicles per hour")
    for axes in (first, second):
        axes.set_xlim(0.0, minutes[-1])
        axes.set_ylim(0.0, None)
        axes.legend(frameon=False, fontsize=8)
    return save_figure(figure, path, _DPI, palette=True)
