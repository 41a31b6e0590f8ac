"""What ``trafficgrad calibrate`` runs: read, fit, say how well, and write drivers for scenarios."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import markup
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from trafficgrad import terminal
from trafficgrad.calibration.car_following_fit import FREE, Calibration, FitSettings, calibrate
from trafficgrad.calibration.following import following_records
from trafficgrad.calibration.lane_change_fit import LaneChangeFit, calibrate_lane_changes
from trafficgrad.calibration.trajectories import Reading, Trajectories, read_trajectories
from trafficgrad.car_following import CAR_FOLLOWING, CarFollowing
from trafficgrad.drivers_file import write_drivers
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.lane_change import LANE_CHANGE

_SHOWN = 20  # drivers in the table
_DIGITS = 6  # of numbers that are written
_UNITS = {"desired_speed": "m/s", "time_headway": "s", "max_acceleration": "m/s2", "comfortable_deceleration": "m/s2"}
_UNITS |= {"min_gap": "m", "exponent": "-", "politeness": "-", "threshold": "m/s2", "right_bias": "m/s2"}


@dataclass(frozen=True)
class Found:
    """What a calibration brought."""

    data: Trajectories
    drivers: Calibration
    lanes: LaneChangeFit | None


def run(
    path: str | Path,
    model: str = "idm",
    lane_change: str | None = None,
    reading: Reading | None = None,
    settings: FitSettings | None = None,
    fixed: Mapping[str, float] | None = None,
    output: Path | None = None,
    console: Console | None = None,
) -> Found:
    """Calibrate with a file of trajectories, print what was found and write it.

    Parameters:
        path: CSV, see :func:`~trafficgrad.calibration.read_trajectories`. model, lane_change: names of the models.
        reading: columns and units. settings: of the fit. fixed: values of parameters, which free ones start from.
        output: file of drivers; None: none is written.

    Raises:
        TrafficGradError: unknown models or parameters, a table that cannot be used.
    """
    console = console or terminal.console()
    settings, fixed = settings or FitSettings(), dict(fixed or {})
    following = _model(model, fixed)
    if lane_change is not None and lane_change not in LANE_CHANGE:
        raise TrafficGradError(
            f"unknown lane-change model {lane_change!r}{nearest_name(lane_change, LANE_CHANGE)}; there is "
            f"{', '.join(LANE_CHANGE)}"
        )
    if output is not None and "exponent" in settings.free and not settings.shared:
        raise TrafficGradError("scenarios have one exponent for all drivers: fit it with --shared, or not at all")
    data = read_trajectories(path, reading)
    records = following_records(data, settings.shortest)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("fitting drivers", total=None)
        drivers = calibrate(
            records, following, settings, lambda done, total: bar.update(task, completed=done, total=total)
        )
    _say(console, Path(path), drivers)
    lanes, failure = None, None
    if lane_change is not None:
        try:
            lanes = calibrate_lane_changes(data, _everybody(data, drivers), LANE_CHANGE[lane_change](), holdout=0.3)
            console.print(lanes_table(lanes))
        except TrafficGradError as error:  # what was found by then is kept
            failure = error
    if output is not None:
        write_drivers(output, sections(drivers, lanes), _comment(Path(path), drivers))
        console.print(f"{output}; now: trafficgrad simulate SCENARIO --set drivers={output}", highlight=False)
    if failure is not None:
        raise failure
    return Found(data, drivers, lanes)


def sections(drivers: Calibration, lanes: LaneChangeFit | None) -> dict[str, dict[str, Any]]:
    """Settings of a scenario by section, for :func:`~trafficgrad.drivers_file.write_drivers`."""
    human: dict[str, Any] = {}
    model: dict[str, Any] = {"kind": next(k for k, v in CAR_FOLLOWING.items() if isinstance(drivers.model, v))}
    for field in dataclasses.fields(drivers.model):  # type: ignore[arg-type]
        place = model if field.name in ("exponent", "desired_gap") else human
        if field.name in drivers.names:
            column = [_rounded(x) for x in drivers.values[:, drivers.names.index(field.name)]]
            place[field.name] = column[0] if len(column) == 1 else {"values": column}
        else:
            place[field.name] = getattr(drivers.model, field.name)
    found = {"vehicles.human": human, "car_following": model}
    if lanes is not None:
        own: dict[str, Any] = {"kind": next(k for k, v in LANE_CHANGE.items() if isinstance(lanes.model, v))}
        own |= {f.name: getattr(lanes.model, f.name) for f in dataclasses.fields(lanes.model)}  # type: ignore[arg-type]
        own |= {name: _rounded(x) for name, x in zip(lanes.names, lanes.values, strict=True)}
        found["lane_change"] = own
    return found


def _model(name: str, fixed: dict[str, float]) -> CarFollowing:
    if name not in CAR_FOLLOWING:
        raise TrafficGradError(
            f"unknown car-following model {name!r}{nearest_name(name, CAR_FOLLOWING)}; there is "
            f"{', '.join(CAR_FOLLOWING)}"
        )
    names = [field.name for field in dataclasses.fields(CAR_FOLLOWING[name])]  # type: ignore[arg-type]
    for given in fixed:
        if given not in names:
            raise TrafficGradError(
                f"unknown parameter {given!r}{nearest_name(given, names)} of {name}; there are {', '.join(names)}"
            )
    return CAR_FOLLOWING[name](**fixed)


def _everybody(data: Trajectories, drivers: Calibration) -> CarFollowing:
    """A row for each vehicle of the data; who was not fitted drives like the median of the others."""
    if drivers.settings.shared:
        all_alike = dict(zip(drivers.names, map(float, drivers.values[0]), strict=True))
        return dataclasses.replace(drivers.model, **all_alike)  # type: ignore[type-var]
    place = {name: row for row, name in enumerate(drivers.ids)}
    middle = np.median(drivers.values, axis=0)
    rows = np.array([drivers.values[place[name]] if name in place else middle for name in data.ids])
    columns = {name: torch.from_numpy(rows[:, p].copy()) for p, name in enumerate(drivers.names)}
    return dataclasses.replace(drivers.model, **columns)  # type: ignore[type-var]


# ---------------------------------------------------------------------- words


def _say(console: Console, path: Path, drivers: Calibration) -> None:
    settings, records = drivers.settings, drivers.records
    seconds = float(((records.samples - 1) * records.dt).sum())
    held = (
        f"the last {100 * settings.holdout:.0f} % of each record held out" if settings.holdout else "nothing held out"
    )
    told = (
        f"{path.name}: {len(records.ids)} drivers in {len(records.driver)} records of {seconds:.0f} s together, "
        f"step {records.dt:g} s; {held}"
    )
    console.print(drivers_table(drivers, told))
    console.print(_median_line(drivers), highlight=False)
    alone = int((drivers.agreeing < 1.5 / settings.starts).sum()) if settings.starts > 1 else 0
    if alone:
        console.print(
            f"of {alone} drivers only one of {settings.starts} starts came to the best fit: more --starts may find "
            "a better one",
            highlight=False,
        )
    for note in drivers.notes:
        console.print(markup.escape(note), highlight=False)


def drivers_table(drivers: Calibration, title: str = "") -> Table:
    """A row for each driver: parameters, errors of gap and speed, and what the data do not tell."""
    grid = Table(title=markup.escape(title), title_justify="left")
    grid.add_column("driver", no_wrap=True)
    for name in drivers.names:
        grid.add_column(f"{name.replace('_', ' ')} {_UNITS[name]}", justify="right")
    for name in ("fit m, m/s", "held out m, m/s", "before m"):
        grid.add_column(name, justify="right")
    grid.add_column("what the data do not tell")
    for row, name in enumerate(drivers.ids[:_SHOWN]):
        grid.add_row(
            markup.escape(name),
            *(f"{value:.3g}" for value in drivers.values[row]),
            f"{drivers.fit.gap[row]:.2f}, {drivers.fit.speed[row]:.2f}",
            f"{drivers.held_out.gap[row]:.2f}, {drivers.held_out.speed[row]:.2f}",
            f"{drivers.before.gap[row]:.2f}",
            "; ".join(drivers.doubts(row)),
        )
    if len(drivers.ids) > _SHOWN:
        grid.add_row(f"and {len(drivers.ids) - _SHOWN} more")
    return grid


def lanes_table(lanes: LaneChangeFit) -> Table:
    """Parameters of lane changes, and how well they tell changes from moments without one."""
    title = (
        f"lane changes: {lanes.changes} in {lanes.moments} moments in which one could choose; held out: "
        f"{100 * lanes.explained:.0f} % of the changes are as the model advises, without a change it clearly advises "
        f"one in {100 * lanes.false_alarms:.1f} % of the moments"
    )
    grid = Table(title=title, title_justify="left")
    for name in ("parameter", "value", "standard error", "unit"):
        grid.add_column(name, justify="left" if name in ("parameter", "unit") else "right")
    for name, value, error in zip(lanes.names, lanes.values, lanes.standard_error, strict=True):
        grid.add_row(name.replace("_", " "), f"{value:.3f}", f"{error:.3f}", _UNITS[name])
    grid.add_row("softness of the choice", f"{lanes.temperature:.3f}", "", "m/s2")
    caption = "; ".join(lanes.doubts())
    if lanes.left_out:
        caption += f"{'; ' if caption else ''}{lanes.left_out} changes that the model's safety rules forbid left out"
    grid.caption = caption or None
    return grid


def _median_line(drivers: Calibration) -> str:
    shown = ", ".join(
        f"{name.replace('_', ' ')} {np.median(drivers.values[:, p]):.3g}" for p, name in enumerate(drivers.names)
    )
    part = drivers.held_out if np.isfinite(drivers.held_out.gap).any() else drivers.fit
    where = "held out" if part is drivers.held_out else "fitted"
    return (
        f"medians: {shown}; gap error {where} {np.nanmedian(part.gap):.3g} m, with the parameters at the start "
        f"{np.nanmedian(drivers.before.gap):.3g} m"
    )


def _comment(path: Path, drivers: Calibration) -> str:
    lines = [f"Drivers of {path.name}, written by trafficgrad calibrate: a value for each driver, in this order:"]
    lines += [", ".join(drivers.ids[i : i + 12]) for i in range(0, len(drivers.ids), 12)]
    lines += ["In a scenario: `drivers: PATH` of this file, or on the command line --set drivers=PATH."]
    return "\n".join(lines)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def parse_pairs(pairs: Sequence[str], what: str) -> dict[str, str]:
    """Options of the form NAME=VALUE.

    Raises:
        TrafficGradError: another form.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise TrafficGradError(f"--{what} {pair!r}: expected NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def parse_numbers(pairs: Sequence[str], what: str) -> dict[str, float]:
    """Options of the form NAME=NUMBER.

    Raises:
        TrafficGradError: another form.
    """
    return {name: _number(value, f"--{what} {name}={value}") for name, value in parse_pairs(pairs, what).items()}


def parse_bounds(pairs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Options of the form NAME=LOWEST:HIGHEST.

    Raises:
        TrafficGradError: another form.
    """
    found = {}
    for name, value in parse_pairs(pairs, "bounds").items():
        low, colon, high = value.partition(":")
        if not colon:
            raise TrafficGradError(f"--bounds {name}={value}: expected NAME=LOWEST:HIGHEST")
        found[name] = (_number(low, f"--bounds {name}={value}"), _number(high, f"--bounds {name}={value}"))
    return found


def free_parameters(names: str | None, fixed: Mapping[str, float]) -> tuple[str, ...]:
    """Parameters to fit: those named, or else the usual ones that no value is given for."""
    if names is not None:
        return tuple(name.strip() for name in names.split(",") if name.strip())
    return tuple(name for name in FREE if name not in fixed)


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TrafficGradError(f"{option}: {text!r} is no number") from None
