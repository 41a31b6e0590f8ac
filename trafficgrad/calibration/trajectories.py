"""Recorded trajectories from a table: columns and units by option, on one time grid, with gaps and errors told."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trafficgrad.errors import TrafficGradError, nearest_name

Reals = NDArray[np.float64]
Wholes = NDArray[np.int64]

NUMBERS = ("time", "position", "gap", "speed", "leader_speed", "length")
COLUMNS = ("id", "leader", "lane", *NUMBERS)
_LENGTHS = {"m": 1.0, "km": 1000.0, "ft": 0.3048}
_SPEEDS = {"m/s": 1.0, "km/h": 1 / 3.6, "mph": 0.44704, "ft/s": 0.3048}
UNITS: dict[str, dict[str, float]] = {
    "time": {"s": 1.0, "ms": 1e-3, "min": 60.0},
    "position": _LENGTHS,
    "gap": _LENGTHS,
    "length": _LENGTHS,
    "speed": _SPEEDS,
    "leader_speed": _SPEEDS,
}
NOBODY, UNKNOWN = -1, -2  # as leader: the road ahead is free; who it is, or where, is not recorded
_NOBODY = ("", "0", "-1", "none", "nan")  # what tables write for it
_MISSING = ("", "nan", "na", "null", "none")


@dataclass(frozen=True)
class Trajectories:
    """``N`` vehicles on a grid of ``T`` times; NaN where a vehicle is not recorded."""

    ids: tuple[str, ...]  # N names
    time: Reals  # [T] s
    position: Reals  # [T, N] m, front bumper along the road; of closed roads, without jumps
    speed: Reals  # [T, N] m/s
    lane: Wholes  # [T, N], 0 = rightmost; -1 where it is not recorded
    leader: Wholes  # [T, N], whom one follows: a column, NOBODY or UNKNOWN
    gap: Reals  # [T, N] m, to the leader's rear bumper; inf behind nobody, NaN where it is not known
    leader_speed: Reals  # [T, N] m/s; 0 behind nobody
    length: Reals  # [N] m
    circumference: float | None = None  # m, of a closed road
    notes: tuple[str, ...] = ()  # what was left out or filled, a sentence each

    @property
    def dt(self) -> float:
        """Distance of the grid's times, s."""
        return float(self.time[1] - self.time[0])

    @property
    def recorded(self) -> NDArray[np.bool_]:
        """[T, N], where a vehicle is there."""
        return np.isfinite(self.speed) & np.isfinite(self.position)


@dataclass(frozen=True)
class Reading:
    """How a table is to be read."""

    columns: Mapping[str, str] | None = None  # meaning -> name in the file, where it differs
    units: Mapping[str, str] | None = None  # meaning -> unit, where it is not SI
    dt: float | None = None  # s, of the grid; None: the median distance of samples
    longest_hole: float = 1.0  # s without samples that are filled by interpolation; longer ones end a record
    length: float = 5.0  # m, of vehicles whose length is not in the table
    circumference: float | None = None  # m, of a closed road; positions are then taken modulo it
    lanes_from: str = "right"  # where lane numbers begin

    def __post_init__(self) -> None:
        for meaning in self.columns or {}:
            if meaning not in COLUMNS:
                raise TrafficGradError(
                    f"unknown column meaning {meaning!r}{nearest_name(meaning, COLUMNS)}; there are "
                    f"{', '.join(COLUMNS)}"
                )
        for meaning, unit in (self.units or {}).items():
            if meaning not in UNITS:
                raise TrafficGradError(
                    f"unknown quantity {meaning!r}{nearest_name(meaning, UNITS)} for a unit; there are "
                    f"{', '.join(UNITS)}"
                )
            if unit not in UNITS[meaning]:
                raise TrafficGradError(
                    f"unknown unit {unit!r} of {meaning}{nearest_name(unit, UNITS[meaning])}; valid are "
                    f"{', '.join(UNITS[meaning])}"
                )
        for name, value in (("dt", self.dt), ("length", self.length), ("circumference", self.circumference)):
            if value is not None and not (0 < value < float("inf")):
                raise TrafficGradError(f"{name} must be a finite number above 0, got {value}")
        if self.lanes_from not in ("right", "left"):
            raise TrafficGradError(f"lanes_from must be right or left, got {self.lanes_from!r}")


def read_trajectories(path: str | Path, reading: Reading | None = None) -> Trajectories:
    """Read a CSV table of trajectories, a row per vehicle and time.

    Columns: ``id``, ``time``; ``position`` (front bumper along the road) or ``gap`` (to the leader's rear bumper);
    ``speed`` (else the slope of the position); ``lane``, ``leader`` (id; empty, 0 or -1: nobody), ``leader_speed``,
    ``length``. Without a ``leader`` column it is who is next ahead in the same lane. Rows with a missing number count
    as not recorded; holes are filled up to ``longest_hole`` and end a record beyond.

    Raises:
        TrafficGradError: no such file, missing columns, a cell that is no number (with its line), two samples of a
            vehicle at one time, too few samples.
    """
    reading = reading or Reading()
    path = Path(path)
    table, leader_names = _read(path, reading)
    return _on_grid(table, leader_names, reading, path)


@dataclass(frozen=True)
class _Table:
    """Rows as they are in the file, in SI units."""

    ids: tuple[str, ...]
    vehicle: Wholes  # [M]
    numbers: dict[str, Reals]  # [M] each; NaN = missing
    lane: Wholes | None


def _read(path: Path, reading: Reading) -> tuple[_Table, list[str] | None]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            places = _places(path, header, reading)
            cells = [row for row in rows if row]
    except OSError as error:
        raise TrafficGradError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except (UnicodeDecodeError, csv.Error):
        raise TrafficGradError(f"{path}: expected a table of text, CSV in UTF-8") from None
    if not cells:
        raise TrafficGradError(f"{path}: there is no row below the header")
    short = next((i for i, row in enumerate(cells) if len(row) < len(header)), None)
    if short is not None:
        raise TrafficGradError(
            f"{path}:{short + 2}: {len(cells[short])} cells, but the header has {len(header)} columns"
        )
    names = [row[places["id"]].strip() for row in cells]
    ids = tuple(dict.fromkeys(names))
    index = {name: i for i, name in enumerate(ids)}
    vehicle = np.array([index[name] for name in names], dtype=np.int64)
    numbers = {}
    for meaning in NUMBERS:
        if meaning in places:
            unit = UNITS[meaning][(reading.units or {}).get(meaning, next(iter(UNITS[meaning])))]
            numbers[meaning] = unit * _column(path, header, cells, places[meaning])
    lane = None
    if "lane" in places:
        given = _column(path, header, cells, places["lane"])
        lane = np.where(np.isfinite(given), given, -1).astype(np.int64)
        known = lane >= 0
        if known.any():
            lowest, highest = lane[known].min(), lane[known].max()
            lane[known] = lane[known] - lowest if reading.lanes_from == "right" else highest - lane[known]
    leaders = [row[places["leader"]].strip() for row in cells] if "leader" in places else None
    return _Table(ids, vehicle, numbers, lane), leaders


def _places(path: Path, header: Sequence[str], reading: Reading) -> dict[str, int]:
    """Where each meaning stands; what is needed is there."""
    renamed = reading.columns or {}
    there = f"the columns of {path.name} are {', '.join(header) or 'missing'}"
    places = {}
    for meaning in COLUMNS:
        name = renamed.get(meaning, meaning)
        if name in header:
            places[meaning] = header.index(name)
        elif meaning in renamed:
            raise TrafficGradError(f"{path}: no column {name!r}{nearest_name(name, header)}; {there}")
    missing = [name for name in ("id", "time") if name not in places]
    if missing:
        raise TrafficGradError(f"{path}: no column {missing[0]!r}; {there}; name it with --column {missing[0]}=NAME")
    if "position" not in places and not {"gap", "speed"} <= places.keys():
        raise TrafficGradError(f"{path}: expected the column position, or gap and speed; {there}")
    if "position" not in places and "leader_speed" not in places:
        raise TrafficGradError(f"{path}: gaps without positions need the column leader_speed; {there}")
    return places


def _column(path: Path, header: Sequence[str], cells: Sequence[Sequence[str]], place: int) -> Reals:
    texts = [row[place].strip() for row in cells]
    try:
        return np.array([float(text) if text.lower() not in _MISSING else np.nan for text in texts])
    except ValueError:
        for line, text in enumerate(texts):
            try:
                float(text if text.lower() not in _MISSING else "nan")
            except ValueError:
                raise TrafficGradError(
                    f"{path}:{line + 2}: {header[place]} is {text!r}, expected a number (or an empty cell)"
                ) from None
        raise


# ---------------------------------------------------------------------- the grid


def _on_grid(table: _Table, leader_names: list[str] | None, reading: Reading, path: Path) -> Trajectories:
    tracks = _tracks(table, path)
    steps = np.concatenate([np.diff(table.numbers["time"][rows]) for rows in tracks] or [np.zeros(0)])
    if not len(steps):
        raise TrafficGradError(f"{path}: no vehicle has two complete samples")
    dt = float(np.median(steps)) if reading.dt is None else reading.dt
    first = min(float(table.numbers["time"][rows[0]]) for rows in tracks if len(rows))
    last = max(float(table.numbers["time"][rows[-1]]) for rows in tracks if len(rows))
    count = int(np.floor((last - first) / dt + 1e-6)) + 1
    if count < 2:
        raise TrafficGradError(f"{path}: its samples cover {last - first:g} s, less than a step of {dt:g} s")
    if count * len(tracks) > 200_000_000:
        raise TrafficGradError(
            f"{path}: {count} times of {len(tracks)} vehicles are too many; choose a larger step, or check the unit "
            "of time"
        )
    time: Reals = first + dt * np.arange(count, dtype=np.float64)
    shape = (count, len(tracks))
    position, speed, gap, leader_speed = np.full((4, *shape), np.nan)
    lane, source = np.full(shape, -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    holes = 0
    for vehicle, rows in enumerate(tracks):
        holes += _fill(vehicle, rows, table, reading, time, (position, speed, gap, leader_speed, lane, source))
    length: Reals = np.full(len(tracks), reading.length, dtype=np.float64)
    if "length" in table.numbers:
        given = table.numbers["length"]
        for vehicle, rows in enumerate(tracks):
            known = given[rows][np.isfinite(given[rows])]
            length[vehicle] = known[0] if len(known) else reading.length
    leader = _leaders(table, leader_names, position, lane, length, source, reading)
    gap, leader_speed = _ahead(position, speed, length, leader, gap, leader_speed, reading.circumference)
    dropped = len(table.vehicle) - sum(map(len, tracks))
    notes = [f"{dropped} rows with a missing number count as not recorded"] if dropped else []
    notes += [f"{holes} holes in tracks were filled, of at most {reading.longest_hole:g} s"] if holes else []
    return Trajectories(
        table.ids, time, position, speed, lane, leader, gap, leader_speed, length, reading.circumference, tuple(notes)
    )


def _tracks(table: _Table, path: Path) -> list[Wholes]:
    """Complete rows of each vehicle, in the order of time."""
    needed = [table.numbers[name] for name in ("time", "position", "speed") if name in table.numbers]
    whole = np.all([np.isfinite(x) for x in needed], axis=0)
    order = np.lexsort((table.numbers["time"], table.vehicle))
    order = order[whole[order]]
    ends = np.searchsorted(table.vehicle[order], np.arange(1, len(table.ids)))
    tracks = np.split(order, ends)
    for vehicle, rows in enumerate(tracks):
        same = np.diff(table.numbers["time"][rows]) <= 0
        if same.any():
            at = table.numbers["time"][rows][int(same.argmax())]
            raise TrafficGradError(
                f"{path}: vehicle {table.ids[vehicle]!r} has two samples at {at:g} s, expected one at a time"
            )
    return tracks


def _fill(vehicle: int, rows: Wholes, table: _Table, reading: Reading, time: Reals, fields: tuple[NDArray, ...]) -> int:
    """Put one vehicle's track on the grid, run by run; returns how many holes were filled."""
    position, speed, gap, leader_speed, lane, source = fields
    if len(rows) < 2:
        return 0
    t, numbers = table.numbers["time"][rows], table.numbers
    usual = float(np.median(np.diff(t)))
    allowed = max(reading.longest_hole, 1.5 * usual)
    ends = np.flatnonzero(np.diff(t) > allowed) + 1
    filled = 0
    travelled = None
    if "position" in numbers:
        travelled = numbers["position"][rows]
        if reading.circumference is not None:
            travelled = np.unwrap(travelled, period=reading.circumference)
    for run in np.split(np.arange(len(rows)), ends):
        if len(run) < 2:
            continue
        here, r = t[run], rows[run]
        filled += int((np.diff(here) > 1.5 * usual).sum())
        inside = np.flatnonzero((time >= here[0] - 1e-9) & (time <= here[-1] + 1e-9))
        at = np.clip(time[inside], here[0], here[-1])
        pace = numbers["speed"][r] if "speed" in numbers else None
        if travelled is None:
            assert pace is not None
            x = np.concatenate([[0.0], np.cumsum(0.5 * (pace[1:] + pace[:-1]) * np.diff(here))])
        else:
            x = travelled[run]
            if pace is None:
                pace = np.gradient(x, here)
        position[inside, vehicle] = _hermite(here, x, pace, at)
        speed[inside, vehicle] = np.maximum(np.interp(at, here, pace), 0.0)
        nearest = np.clip(np.searchsorted(here, at + 1e-9, side="right") - 1, 0, len(here) - 1)
        source[inside, vehicle] = r[nearest]
        if table.lane is not None:
            lane[inside, vehicle] = table.lane[r[nearest]]
        else:
            lane[inside, vehicle] = 0
        for name, field in (("gap", gap), ("leader_speed", leader_speed)):
            if name in numbers:
                field[inside, vehicle] = _between(here, numbers[name][r], at, nearest)
    return filled


def _between(t: Reals, values: Reals, at: Reals, nearest: Wholes) -> Reals:
    """Linear between neighbouring samples that are both there; else the sample before, which may be missing."""
    following = np.minimum(nearest + 1, len(t) - 1)
    span = np.where(following > nearest, t[following] - t[nearest], 1.0)
    share = np.clip((at - t[nearest]) / span, 0.0, 1.0)
    with np.errstate(invalid="ignore"):
        mixed = values[nearest] + share * (values[following] - values[nearest])
    return np.where(np.isfinite(mixed), mixed, values[nearest])


def _hermite(t: Reals, x: Reals, slope: Reals, at: Reals) -> Reals:
    """Cubic through the samples with their slopes."""
    i = np.clip(np.searchsorted(t, at, side="right") - 1, 0, len(t) - 2)
    h = t[i + 1] - t[i]
    s = (at - t[i]) / h
    return (
        (1 + 2 * s) * (1 - s) ** 2 * x[i]
        + s**2 * (3 - 2 * s) * x[i + 1]
        + h * (s * (1 - s) ** 2 * slope[i] - s**2 * (1 - s) * slope[i + 1])
    )


# ---------------------------------------------------------------------- leaders


def _leaders(
    table: _Table,
    names: list[str] | None,
    position: Reals,
    lane: Wholes,
    length: Reals,
    source: Wholes,
    reading: Reading,
) -> Wholes:
    if names is not None:
        index = {name: i for i, name in enumerate(table.ids)}
        known = np.array([index.get(name, NOBODY if name.lower() in _NOBODY else UNKNOWN) for name in names])
        return np.where(source >= 0, known[np.maximum(source, 0)], UNKNOWN)
    if "gap" in table.numbers:
        gap = table.numbers["gap"]
        free = ~np.isfinite(gap)
        return np.where((source >= 0) & free[np.maximum(source, 0)], NOBODY, UNKNOWN)
    leader = np.full(position.shape, UNKNOWN, dtype=np.int64)
    for t in range(len(position)):
        there = np.flatnonzero(np.isfinite(position[t]) & (lane[t] >= 0))
        place = position[t, there]
        if reading.circumference is not None:
            place = np.mod(place, reading.circumference)
        order = np.lexsort((place, lane[t, there]))
        row = there[order]
        following = np.roll(row, -1)
        last = lane[t, row] != lane[t, following]
        last[-1:] = True
        ahead = np.where(last, NOBODY, following)
        if reading.circumference is not None and len(row):
            # The last of a lane follows its first, unless it is alone.
            starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
            for start, stop in zip(starts, np.flatnonzero(last), strict=True):
                ahead[stop] = row[start] if stop > start else NOBODY
        leader[t, row] = ahead
    return leader


def _ahead(
    position: Reals,
    speed: Reals,
    length: Reals,
    leader: Wholes,
    gap: Reals,
    leader_speed: Reals,
    circumference: float | None,
) -> tuple[Reals, Reals]:
    """Gaps and leaders' speeds: as recorded, else from the leader's own track."""
    who = np.maximum(leader, 0)
    rows = np.arange(len(position))[:, None]
    from_track = position[rows, who] - length[who] - position
    if circumference is not None:
        from_track = np.mod(from_track + length[who], circumference) - length[who]
    followed = leader >= 0
    gap = np.where(np.isfinite(gap), gap, np.where(followed, from_track, np.nan))
    leader_speed = np.where(np.isfinite(leader_speed), leader_speed, np.where(followed, speed[rows, who], np.nan))
    free = leader == NOBODY
    return np.where(free, np.inf, gap), np.where(free, 0.0, leader_speed)
