"""On-ramps in SUMO, recorded: the roads, the demands, and statistics of merging that both sides share.

``merges.json`` is written by ``tests/oracles/record_merges.py``. As for lane changes (``lane_reference``), statistics
are compared, with the uncertainty of SUMO's own models as a band.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trafficgrad.network import RoadNetwork, merge
from trafficgrad.randomness import uniform
from trafficgrad.validation.lane_reference import SPEED_MARGIN
from trafficgrad.validation.theory import Array

EDGES = ("highway_in", "ramp", "highway_merge", "highway_out")
IN, RAMP, MERGE, OUT, ELSEWHERE = range(5)  # where a vehicle is; ELSEWHERE: on a junction
BEFORE = 300.0  # m of the highway before the merge on which its speed is measured
UNITS = {"flow out": "veh/h", "share of the ramp": "", "place of merging": "m"}  # others are speeds, m/s
PLACE_MARGIN = 10.0  # m, two lengths of a car


@dataclass(frozen=True)
class MergeCase:
    """A ramp that joins a highway; ``demands`` are vehicles/h on the highway and on the ramp.

    A run is one seed with one setting of SUMO's factors; ``runs`` maps a demand's number and a statistic to one value
    per run.
    """

    name: str
    title: str
    network: dict[str, Any]  # arguments of trafficgrad.network.merge
    demands: tuple[tuple[float, float], ...]
    dt: float  # s
    warm_up: float  # s, before anything is counted
    seconds: float  # s, counted
    seeds: tuple[int, ...]
    runs: Mapping[tuple[int, str], Array]
    usual: npt.NDArray[np.bool_]  # of each run: SUMO's factors are the usual ones

    def statistics(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(name for _, name in self.runs))

    def reference(self, demand: int, statistic: str) -> float:
        """Mean over the seeds with SUMO's usual factors."""
        return float(np.nanmean(self.runs[demand, statistic][self.usual]))

    def band(self, demand: int, statistic: str) -> tuple[float, float]:
        """Lowest and highest of all runs; wider by 5 % of a speed's reference, and by two cars for a place."""
        values = self.runs[demand, statistic]
        margin = PLACE_MARGIN if statistic == "place of merging" else 0.0
        if statistic not in UNITS:
            margin = SPEED_MARGIN * self.reference(demand, statistic)
        return float(np.nanmin(values) - margin), float(np.nanmax(values) + margin)


def build(network: Mapping[str, Any]) -> RoadNetwork:
    """The road of a case with its two routes: 0 along the highway, 1 from the ramp."""
    road = merge(**network)
    beyond = [name for name in EDGES[2:] if name in _names(road)]
    return road.with_routes([["highway_in", *beyond], ["ramp", *beyond]])


def _names(road: RoadNetwork) -> list[str]:
    return [str(key) for _, _, key in road.edges]


def arrivals(rates: Sequence[float], seed: int, end: float) -> list[Array]:
    """When vehicles come by :class:`~trafficgrad.demand.Inflow` of kind ``poisson``, s, one array per inflow.

    Parameters:
        rates: vehicles/s. seed: of the world. end: s, those who come later are left out.
    """
    times = []
    for inflow, rate in enumerate(rates):
        number = torch.arange(int(2 * rate * end) + 50)
        u = uniform(torch.tensor(seed), inflow, number, 0).numpy()
        time = np.cumsum(-np.log(u)) / rate
        times.append(time[time < end])
    return times


class Observer:
    """Collects the statistics of one world, step by step."""

    def __init__(self, road: RoadNetwork) -> None:
        self._line = float(road.lane_length[road.lanes.index((road.edge_index("highway_in"), 0))])
        self._speeds: dict[int, list[Array]] = {IN: [], RAMP: [], MERGE: []}
        self._places: list[Array] = []
        self._left = np.zeros(2, dtype=np.int64)
        self._seconds = 0.0

    def sample(self, where: npt.NDArray[np.int64], place: Array, speed: Array) -> None:
        """Once a second: edge (IN, RAMP, ...), place on it (m) and speed (m/s) of everybody who is there."""
        on_highway = (where == IN) & (place > self._line - BEFORE)
        for edge, chosen in ((IN, on_highway), (RAMP, where == RAMP), (MERGE, where == MERGE)):
            self._speeds[edge].append(speed[chosen])

    def count(self, left: Sequence[int], merged_at: Array, dt: float) -> None:
        """In every step: how many left from the highway and from the ramp, and where (m) who merged did so."""
        self._left += np.asarray(left, dtype=np.int64)
        self._places.append(np.asarray(merged_at, dtype=np.float64))
        self._seconds += dt

    def statistics(self) -> dict[str, float]:
        """What is compared. Speeds are means over vehicles and times; nan where nobody was."""
        result = {
            "flow out": float(self._left.sum() * 3600.0 / self._seconds),
            "share of the ramp": float(self._left[1] / self._left.sum()) if self._left.sum() else float("nan"),
            "speed before the merge": _mean(self._speeds[IN]),
            "speed on the ramp": _mean(self._speeds[RAMP]),
        }
        if any(len(one) for one in self._speeds[MERGE]):
            result |= {"speed beside the ramp's lane": _mean(self._speeds[MERGE])}
            result |= {"place of merging": _mean(self._places)}
        return result


def _mean(parts: list[Array]) -> float:
    values = np.concatenate(parts) if parts else np.zeros(0)
    return float(values.mean()) if len(values) else float("nan")


def unit(statistic: str) -> str:
    """The unit of a statistic."""
    return UNITS.get(statistic, "m/s")


def load_merges() -> dict[str, MergeCase]:
    """The recorded cases by name."""
    text = importlib.resources.files("trafficgrad.validation").joinpath("merges.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return {name: _case(name, entry, data) for name, entry in data["cases"].items()}


def _case(name: str, entry: dict[str, Any], data: dict[str, Any]) -> MergeCase:
    demands = tuple((float(a), float(b)) for a, b in entry["demands"])
    runs: dict[tuple[int, str], Array] = {}
    usual = [run["factors"] == "usual" for run in entry["runs"] if run["demand"] == 0]
    for number in range(len(demands)):
        own = [run["statistics"] for run in entry["runs"] if run["demand"] == number]
        for statistic in own[0]:
            values = [np.nan if one[statistic] is None else one[statistic] for one in own]
            runs[number, statistic] = np.array(values)
    return MergeCase(
        name, entry["title"], entry["network"], demands, data["dt"], data["warm_up"], data["seconds"],
        tuple(data["seeds"]), runs, np.array(usual),
    )  # fmt: skip
