"""How long calibration takes, and how well it fits, beside SciPy's least squares with finite differences.

Both fit the five parameters of IDM to the same noisy records, each driver from the same start with the same loss. The
other one simulates a driver in plain Python floats, which for one vehicle at a time is faster than tensors.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from scipy.optimize import least_squares

from trafficgrad import terminal
from trafficgrad.calibration import FitSettings, FollowingRecords, calibrate, follow
from trafficgrad.calibration.car_following_fit import BOUNDS, FREE
from trafficgrad.car_following import IDM

Reals = NDArray[np.float64]
DT, SECONDS = 0.1, 120.0
LOWEST, HIGHEST = (22.0, 0.8, 0.7, 1.0, 1.5), (36.0, 1.8, 2.0, 2.5, 3.5)  # of the drivers
PLACE_NOISE, PUSH = 0.2, 0.2  # m, of the measurement; m/s2, of the driver, which lasts about a second
_PROFILE = ((0, 15, 25, 35, 50, 60, 64, 75, 90, 120), (15, 15, 0, 0, 20, 20, 8, 8, 45, 45))  # s, m/s


@dataclass(frozen=True)
class CalibrationRow:
    """One solver on all drivers."""

    solver: str
    drivers: int
    seconds: float  # median over repetitions
    gap_error: float  # m, root mean square, mean over the drivers
    speed_up: float  # against the other one


def noisy_records(drivers: int, seed: int = 0) -> tuple[FollowingRecords, Reals]:
    """Records of drivers who follow a leader that stops, goes and vanishes ahead; and their true parameters [D, 5].

    A driver accelerates a little otherwise than its model says, for about a second at a time; places are measured with
    an error.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(LOWEST, dtype=torch.float64), torch.tensor(HIGHEST, dtype=torch.float64)
    truth = low + (high - low) * torch.rand(drivers, 5, generator=generator, dtype=torch.float64)
    t = np.arange(0.0, SECONDS + DT / 2, DT)
    pace = torch.from_numpy(np.interp(t, *_PROFILE))
    place = torch.cat([torch.zeros(1, dtype=torch.float64), (0.5 * DT * (pace[1:] + pace[:-1])).cumsum(0)]) + 40.0
    parameters: dict[str, Any] = dict(zip(FREE, truth.unbind(-1), strict=True))
    model = IDM(**parameters)
    x, v, push = torch.zeros(drivers).double(), torch.full((drivers,), 14.0).double(), torch.zeros(drivers).double()
    xs, vs = [x], [v]
    for k in range(len(t) - 1):
        drawn = torch.randn(drivers, generator=generator, dtype=torch.float64)
        push = (1.0 - DT) * push + PUSH * math.sqrt(2.0 * DT) * drawn
        after = (v + DT * (model.acceleration(v, place[k] - x, v - pace[k]) + push)).clamp(min=0.0)
        x, v = x + 0.5 * DT * (v + after), after
        xs.append(x)
        vs.append(v)
    seen = torch.stack(xs)
    seen = seen + PLACE_NOISE * torch.randn(seen.shape, generator=generator, dtype=torch.float64)
    records = FollowingRecords(
        ids=tuple(map(str, range(drivers))),
        driver=torch.arange(drivers),
        position=seen,
        speed=torch.stack(vs),
        leader_rear=place[:, None].expand_as(seen).contiguous(),
        leader_speed=pace[:, None].expand_as(seen).contiguous(),
        samples=torch.full((drivers,), len(t)),
        start=torch.zeros(drivers, dtype=torch.float64),
        dt=DT,
    )
    return records, truth.numpy()


def run(repetitions: int = 3, drivers: int = 10) -> list[CalibrationRow]:
    """Measure both, print a table and return its rows."""
    records, _ = noisy_records(drivers)
    ours, theirs = [], []
    for _ in range(repetitions):
        begun = time.perf_counter()
        found = calibrate(records, settings=FitSettings(starts=1, holdout=0.0)).values
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        other = np.array([finite_differences(records, row) for row in range(drivers)])
        theirs.append(time.perf_counter() - begun)
    times = {"exact derivatives": median(ours), "SciPy, finite differences": median(theirs)}
    errors = [_gap_error(records, values) for values in (found, other)]
    rows = [
        CalibrationRow(name, drivers, seconds, error, times["SciPy, finite differences"] / seconds)
        for (name, seconds), error in zip(times.items(), errors, strict=True)
    ]
    title = f"IDM, {drivers} drivers, {SECONDS:.0f} s each with a step of {DT} s, one start; median of {repetitions}"
    grid = Table(title=title, title_justify="left")
    for column in ("solver", "s", "gap error m", "times as fast"):
        grid.add_column(column, justify="left" if column == "solver" else "right")
    for row in rows:
        grid.add_row(row.solver, f"{row.seconds:.2f}", f"{row.gap_error:.4f}", f"{row.speed_up:.1f}")
    terminal.console().print(grid)
    return rows


def finite_differences(records: FollowingRecords, row: int) -> Reals:
    """IDM parameters [5] of one record by :func:`scipy.optimize.least_squares` with differences of its own."""
    seen = records.position[:, row].numpy()
    first_speed = float(records.speed[0, row])
    rear, pace = records.leader_rear[:, row].tolist(), records.leader_speed[:, row].tolist()

    def residual(logarithms: Reals) -> Reals:
        driven = np.array(drive(np.exp(logarithms).tolist(), float(seen[0]), first_speed, rear, pace))
        return np.nan_to_num(driven - seen[1:], posinf=1e6, neginf=-1e6)

    own = IDM()
    start = np.log([float(getattr(own, name)) for name in FREE])
    bounds = np.log(np.array([BOUNDS[name] for name in FREE])).T
    settings = FitSettings()
    found = least_squares(
        residual, start, bounds=bounds, loss=settings.loss, f_scale=settings.loss_scale, xtol=1e-8, ftol=1e-8, gtol=1e-8
    )
    return np.exp(found.x)


def drive(driver: list[float], x: float, v: float, rear: list[float], pace: list[float]) -> list[float]:
    """Positions after each step behind a recorded leader, in plain floats."""
    desired, headway, strongest, comfortable, standstill = driver
    root, positions = 2.0 * math.sqrt(strongest * comfortable), []
    for ahead, leader in zip(rear[:-1], pace[:-1], strict=True):
        wished = standstill + max(0.0, v * headway + v * (v - leader) / root)
        free, near = v / desired, wished / max(ahead - x, 0.001)
        after = max(0.0, v + DT * strongest * (1.0 - free * free * free * free - near * near))
        x += 0.5 * DT * (v + after)
        v = after
        positions.append(x)
    return positions


def _gap_error(records: FollowingRecords, values: Reals) -> float:
    rows = torch.arange(len(values))
    found = follow(IDM(), FREE, torch.from_numpy(values), records, rows, slopes=False)
    missed = (found.position - records.position)[1:]
    return float(missed.square().mean(0).sqrt().mean())
