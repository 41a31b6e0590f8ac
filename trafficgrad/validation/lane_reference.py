"""Lane changes of SUMO's LC2013, recorded: the cases, their drivers, and statistics of lanes that both sides share.

``lc2013.json`` is written by ``tests/oracles/record_lc2013.py``. Trajectories of two lane-change models cannot be
compared step by step, so statistics are, with LC2013's own uncertainty as a band.
"""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficgrad.validation.theory import Array

SPEED_MARGIN = 0.05  # a statement about a speed is worth 5 % of it: what car-following details alone can do
PARAMETERS = (
    "desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap", "length",
)  # fmt: skip


@dataclass(frozen=True)
class LaneCase:
    """A closed road with drivers of ``S`` seeds, ``N`` vehicles each, and what LC2013 makes of them.

    A run is one seed with one setting of LC2013's factors; ``runs`` maps a statistic to one value per run.
    """

    name: str
    title: str
    length: float  # m
    lanes: int
    dt: float  # s
    warm_up: float  # s, before anything is counted
    seconds: float  # s, counted
    start_speed: float  # m/s
    first_car: int  # vehicles before it are trucks and not counted
    drivers: dict[str, Array]  # PARAMETERS -> [S, N]
    runs: dict[str, Array]
    usual: npt.NDArray[np.bool_]  # of each run: LC2013's factors are the usual ones

    def reference(self, statistic: str) -> float:
        """Mean over the seeds with LC2013's usual factors."""
        return float(self.runs[statistic][self.usual].mean())

    def band(self, statistic: str) -> tuple[float, float]:
        """Lowest and highest of all runs; a speed's band is widened by ``SPEED_MARGIN`` of the reference."""
        margin = SPEED_MARGIN * self.reference(statistic) if is_speed(statistic) else 0.0
        return float(self.runs[statistic].min() - margin), float(self.runs[statistic].max() + margin)


def is_speed(statistic: str) -> bool:
    """Whether a statistic is a mean speed."""
    return statistic == "mean speed" or statistic.startswith("speed on lane")


def starting_places(vehicles: int, lanes: int, length: float) -> tuple[Array, npt.NDArray[np.int64]]:
    """Position (m) and lane of every vehicle at the start: dealt to the lanes in turn, equally spaced on each."""
    index = np.arange(vehicles)
    rows = -(-vehicles // lanes)
    return (index // lanes + index % lanes / lanes) * length / rows, index % lanes


def lane_statistics(speed: Array, lane: npt.NDArray[np.int64], dt: float, lanes: int) -> dict[str, float]:
    """What is compared, from speeds (m/s) and lanes (0 = right) [times, cars] at every step of ``dt`` s.

    Means over all cars and times; the deviation is that of the cars' speeds at one time, averaged over time.
    """
    minutes = (speed.shape[0] - 1) * dt / 60
    result = {"mean speed": float(speed.mean()), "speed deviation": float(speed.std(1).mean())}
    for k in range(lanes):
        on = lane == k
        result[f"share of lane {k}"] = float(on.mean())
        result[f"speed on lane {k}"] = float(speed[on].mean()) if on.any() else float("nan")
    result["lane changes"] = float((lane[1:] != lane[:-1]).sum() / minutes / speed.shape[1])  # per vehicle and minute
    return result


def load_cases() -> dict[str, LaneCase]:
    """The recorded cases by name."""
    text = importlib.resources.files("trafficgrad.validation").joinpath("lc2013.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return {name: _case(name, entry, data) for name, entry in data["cases"].items()}


def _case(name: str, entry: dict[str, Any], data: dict[str, Any]) -> LaneCase:
    runs = entry["runs"]
    statistics = list(runs[0]["statistics"])
    vehicles = entry["vehicles"]

    def table(value: Any) -> Array:
        """A number for all, one per vehicle, or one per seed and vehicle."""
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (len(data["seeds"]), vehicles)).copy()

    return LaneCase(
        name=name,
        title=entry["title"],
        length=entry["length"],
        lanes=entry["lanes"],
        dt=data["dt"],
        warm_up=data["warm_up"],
        seconds=data["seconds"],
        start_speed=data["start_speed"],
        first_car=entry["first_car"],
        drivers={key: table(entry["drivers"][key]) for key in PARAMETERS},
        runs={key: np.array([run["statistics"][key] for run in runs]) for key in statistics},
        usual=np.array([run["factors"] == "usual" for run in runs]),
    )
