"""Record statistics of SUMO's LC2013 lane changes: ``python tests/oracles/record_lc2013.py`` (libsumo 1.28, ~5 min).

Writes ``trafficgrad/validation/lc2013.json``, with which ``trafficgrad validate`` compares our MOBIL. Two closed roads
without internal lanes, IDM for car following, ballistic update, dt 0.1 s, sigma 0, speedDev 0:
``truck``: two lanes of 1500 m, 35 cars that want 22-34 m/s and a truck of 14 m/s that starts on the right;
``ring``: the traffic of ring_4lane (four lanes of 600 m, 60 drivers that want 15-35 m/s) without its noise.
Ten sets of drivers each. Overtaking on the right is allowed (lcOvertakeRight 1): our drivers know no rule against it,
and SUMO's binds above 60 km/h. LC2013's own uncertainty is sampled by its factors, one at a time: speed gain and keep
right halved and doubled, cooperation off.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import libsumo
import numpy as np
from record_sumo import FAST, network

from trafficgrad.validation.lane_reference import PARAMETERS, lane_statistics, starting_places

FILE = Path(__file__).resolve().parents[2] / "trafficgrad" / "validation" / "lc2013.json"
DT, WARM_UP, SECONDS, START_SPEED = 0.1, 120.0, 480.0, 10.0
SEEDS = list(range(10))
EDGES = 4
FACTORS = {
    "usual": {},
    "speed gain 0.5": {"lcSpeedGain": 0.5},
    "speed gain 2": {"lcSpeedGain": 2.0},
    "keep right 0.5": {"lcKeepRight": 0.5},
    "keep right 2": {"lcKeepRight": 2.0},
    "cooperative 0": {"lcCooperative": 0.0},
}


def cases() -> dict[str, dict[str, Any]]:
    """Roads and drivers; a parameter is one number, or [seed][vehicle]."""

    def draw(low: float, high: float, vehicles: int, stream: int, truck: float | None = None) -> list[list[float]]:
        rows = []
        for seed in SEEDS:
            values = np.round(np.random.default_rng((seed, stream)).uniform(low, high, vehicles), 3)
            if truck is not None:
                values[0] = truck
            rows.append(values.tolist())
        return rows

    rest = {"comfortable_deceleration": 1.5, "min_gap": 2.0}
    truck = {
        "desired_speed": draw(22, 34, 36, 0, 14.0),
        "time_headway": draw(0.8, 1.4, 36, 1, 1.5),
        "max_acceleration": draw(0.8, 1.6, 36, 2, 0.8),
        "length": [16.0] + [5.0] * 35,
    }
    ring = {
        "desired_speed": draw(15, 35, 60, 0),
        "time_headway": draw(0.8, 1.4, 60, 1),
        "max_acceleration": draw(0.8, 1.6, 60, 2),
        "length": 5.0,
    }
    return {
        "truck": {
            "title": "two lanes, a slow truck", "length": 1500.0, "lanes": 2, "vehicles": 36, "first_car": 1,
            "drivers": rest | truck,
        },
        "ring": {
            "title": "four lanes, differing drivers", "length": 600.0, "lanes": 4, "vehicles": 60, "first_car": 0,
            "drivers": rest | ring,
        },
    }  # fmt: skip


def closed_road(folder: Path, length: float, lanes: int) -> Path:
    """A ring of ``EDGES`` edges."""
    side = length / EDGES
    corner = [
        (side * math.cos(2 * math.pi * i / EDGES), side * math.sin(2 * math.pi * i / EDGES)) for i in range(EDGES)
    ]
    nodes = {f"n{i}": xy for i, xy in enumerate(corner)}
    edges = [(f"e{i}", f"n{i}", f"n{(i + 1) % EDGES}", side) for i in range(EDGES)]
    return network(folder, nodes, edges, lanes)


def routes(folder: Path, case: dict[str, Any], seed: int, factors: dict[str, float]) -> Path:
    """Vehicles v0, v1, ... of one seed."""
    place, lane = starting_places(case["vehicles"], case["lanes"], case["length"])
    side, rows = case["length"] / EDGES, []
    model = " ".join(f'{name}="{value}"' for name, value in {"lcOvertakeRight": 1.0, **factors}.items())

    def of(name: str, i: int) -> float:
        value = np.asarray(case["drivers"][name])
        return float(np.broadcast_to(value, (len(SEEDS), case["vehicles"]))[seed, i])

    for i in range(case["vehicles"]):
        v0, headway, a, b, gap, length = (of(name, i) for name in PARAMETERS)
        edge = int(place[i] // side)
        route = " ".join(f"e{(edge + j) % EDGES}" for j in range(1000))
        rows.append(
            f'<vType id="t{i}" carFollowModel="IDM" maxSpeed="{v0}" tau="{headway}" accel="{a}" decel="{b}" '
            f'emergencyDecel="9" minGap="{gap}" length="{length}" delta="4" sigma="0" speedDev="0" speedFactor="1" '
            f'laneChangeModel="LC2013" {model}/>'
            f'<vehicle id="v{i}" type="t{i}" depart="0" departPos="{float(place[i] - edge * side)!r}" '
            f'departSpeed="{START_SPEED}" departLane="{lane[i]}" insertionChecks="none">'
            f'<route edges="{route}"/></vehicle>'
        )
    (folder / "n.rou.xml").write_text(f"<routes>{''.join(rows)}</routes>")
    return folder / "n.rou.xml"


def run(case: dict[str, Any], seed: int, factors: dict[str, float]) -> dict[str, float]:
    """Statistics of one simulation."""
    names = [f"v{i}" for i in range(case["vehicles"])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [str(closed_road(folder, case["length"], case["lanes"])), str(routes(folder, case, seed, factors))]
        libsumo.start(
            ["sumo", "-n", files[0], "-r", files[1], "--step-length", str(DT), "--step-method.ballistic", "true",
             "--collision.action", "warn", "--time-to-teleport", "-1", "--no-step-log", "true", "--no-warnings", "true",
             "--seed", str(seed)]
        )  # fmt: skip
        try:
            speeds, lanes, collisions = [], [], 0
            for step in range(1 + round((WARM_UP + SECONDS) / DT)):
                libsumo.simulationStep()
                collisions += libsumo.simulation.getCollidingVehiclesNumber()
                if step * DT >= WARM_UP:
                    speeds.append([libsumo.vehicle.getSpeed(v) for v in names])
                    lanes.append([libsumo.vehicle.getLaneIndex(v) for v in names])
        finally:
            libsumo.close()
    assert collisions == 0
    cars = slice(case["first_car"], None)
    found = lane_statistics(np.array(speeds)[:, cars], np.array(lanes)[:, cars], DT, case["lanes"])
    return {key: round(value, 4) for key, value in found.items()}


def main() -> None:
    """Write the recording."""
    _, version = libsumo.getVersion()
    record: dict[str, Any] = {
        "made_by": "tests/oracles/record_lc2013.py",
        "version": version,
        "model": "IDM, LC2013, ballistic, sigma 0, speedDev 0, lcOvertakeRight 1",
        "fastest": FAST,
        "dt": DT,
        "warm_up": WARM_UP,
        "seconds": SECONDS,
        "start_speed": START_SPEED,
        "seeds": SEEDS,
        "cases": cases(),
    }
    for case in record["cases"].values():
        case["runs"] = []
        for name, factors in FACTORS.items():
            for seed in SEEDS:
                case["runs"].append({"seed": seed, "factors": name, "statistics": run(case, seed, factors)})
            done = [r["statistics"] for r in case["runs"] if r["factors"] == name]
            print(case["title"], name, {key: round(float(np.mean([s[key] for s in done])), 3) for key in done[0]})
    partial = FILE.with_suffix(".partial")
    partial.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    os.replace(partial, FILE)
    print(FILE, FILE.stat().st_size)


if __name__ == "__main__":
    main()
