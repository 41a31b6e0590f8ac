"""Record statistics of merging in SUMO: ``python tests/oracles/record_merges.py`` (libsumo 1.28, ~10 min).

Writes ``trafficgrad/validation/merges.json``, with which ``trafficgrad validate`` compares our merges. The roads are
those of ``trafficgrad.network.merge``, exported; the vehicles come at the times at which ours come. Flow's drivers
(v0 30 m/s, T 1 s, a 1 m/s2, b 1.5 m/s2, s0 2 m), IDM, ballistic update, dt 0.1 s, sigma 0, speedDev 0, no teleports.
They are inserted with departSpeed "avg". With "max" SUMO lets at most 860 vehicles an hour onto a free lane, and with
"desired" none onto a queue: then the entrance is measured and not the merge.

SUMO's own uncertainty is sampled by its factors, one at a time. Lane changes from an acceleration lane: strategic
urgency, cooperation, and accepted gaps (lcAssertive divides the required gap). Without cooperation (lcCooperative 0)
nobody leaves the acceleration lane in dense traffic; that is left out, for its band would hold everything. Where a
ramp yields or zips: the gap to who has precedence, and impatience.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import libsumo
import numpy as np

from trafficgrad.network.sumo_export import write_sumo
from trafficgrad.validation.merge_reference import EDGES, ELSEWHERE, MERGE, Observer, arrivals, build

FILE = Path(__file__).resolve().parents[2] / "trafficgrad" / "validation" / "merges.json"
DT, WARM_UP, SECONDS = 0.1, 150.0, 600.0
SEEDS = list(range(5))
DRIVER = (
    'carFollowModel="IDM" maxSpeed="30" tau="1" accel="1" decel="1.5" emergencyDecel="9" minGap="2" length="5" '
    'delta="4" sigma="0" speedDev="0" speedFactor="1"'
)
CHANGES = {
    "usual": {},
    "strategic 5": {"lcStrategic": 5.0},
    "cooperative 0.5": {"lcCooperative": 0.5},
    "assertive 2": {"lcAssertive": 2.0},
    "assertive 5": {"lcAssertive": 5.0},
}
JUNCTIONS = {
    "usual": {},
    "minor gap 0.5": {"jmTimegapMinor": 0.5},
    "minor gap 2": {"jmTimegapMinor": 2.0},
    "impatience 0.5": {"impatience": 0.5},
    "impatience 1": {"impatience": 1.0},
}
MERGE_ROAD = EDGES[MERGE]
LENGTHS = {"pre_merge_length": 600.0, "post_merge_length": 400.0, "ramp_length": 200.0}
CASES: dict[str, dict[str, Any]] = {
    "lane": {
        "title": "acceleration lane of 200 m", "network": LENGTHS | {"acceleration_lane": 200.0},
        "demands": [[800, 200], [1000, 300], [1200, 400], [1800, 600]], "factors": CHANGES,
    },
    "priority": {
        "title": "ramp that yields", "network": LENGTHS, "demands": [[800, 200], [1200, 400]], "factors": JUNCTIONS,
    },
    "zipper": {
        "title": "ramp and highway in turn", "network": LENGTHS | {"right_of_way": "zipper"},
        "demands": [[800, 200], [1200, 400]], "factors": JUNCTIONS,
    },
}  # fmt: skip


def routes(folder: Path, edges: list[str], demand: list[float], seed: int, factors: dict[str, float]) -> Path:
    """Vehicles highway0, ... and ramp0, ... of one seed."""
    model = " ".join(f'{name}="{value}"' for name, value in factors.items())
    beyond = " ".join(name for name in EDGES[2:] if name in edges)
    rows = [f'<vType id="t" {DRIVER} {model}/>']
    rows += [f'<route id="{start}" edges="{start} {beyond}"/>' for start in EDGES[:2]]
    times = arrivals([q / 3600 for q in demand], seed, WARM_UP + SECONDS)
    come = sorted((time, start, k) for start, own in zip(EDGES[:2], times, strict=True) for k, time in enumerate(own))
    rows += [
        f'<vehicle id="{start}{k}" type="t" route="{start}" depart="{math.ceil(time / DT) * DT:.1f}" '
        'departSpeed="avg" departPos="base" departLane="best"/>'
        for time, start, k in come
    ]
    (folder / "n.rou.xml").write_text(f"<routes>{''.join(rows)}</routes>")
    return folder / "n.rou.xml"


def run(case: dict[str, Any], demand: list[float], seed: int, factors: dict[str, float]) -> dict[str, float | None]:
    """Statistics of one simulation."""
    road = build(case["network"])
    names = [str(key) for _, _, key in road.edges]
    observer, collisions = Observer(road), 0
    beside: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [str(write_sumo(road, folder, "n")[-1]), str(routes(folder, names, demand, seed, factors))]
        libsumo.start(
            ["sumo", "-n", files[0], "-r", files[1], "--step-length", str(DT), "--step-method.ballistic", "true",
             "--collision.action", "warn", "--time-to-teleport", "-1", "--no-step-log", "true", "--no-warnings", "true",
             "--seed", str(seed)]
        )  # fmt: skip
        try:
            for step in range(1, 1 + round((WARM_UP + SECONDS) / DT)):
                libsumo.simulationStep()
                collisions += libsumo.simulation.getCollidingVehiclesNumber()
                present = libsumo.vehicle.getIDList()
                merged = []
                beside_highway = [v for v in present if v[0] == "r" and libsumo.vehicle.getRoadID(v) == MERGE_ROAD]
                lanes = {v: libsumo.vehicle.getLaneIndex(v) for v in beside_highway}
                for v, lane in lanes.items():
                    if beside.get(v) == 0 and lane == 1:
                        merged.append(libsumo.vehicle.getLanePosition(v))
                beside = lanes
                if step * DT <= WARM_UP:
                    continue
                gone = libsumo.simulation.getArrivedIDList()
                observer.count([sum(v[0] == "h" for v in gone), sum(v[0] == "r" for v in gone)], np.array(merged), DT)
                if step % round(1.0 / DT) == 0:
                    roads = [libsumo.vehicle.getRoadID(v) for v in present]
                    where = np.array([EDGES.index(r) if r in EDGES else ELSEWHERE for r in roads], dtype=np.int64)
                    places = np.array([libsumo.vehicle.getLanePosition(v) for v in present], dtype=np.float64)
                    speeds = np.array([libsumo.vehicle.getSpeed(v) for v in present], dtype=np.float64)
                    observer.sample(where, places, speeds)
        finally:
            libsumo.close()
    assert collisions == 0
    found = observer.statistics()
    return {key: None if math.isnan(value) else round(value, 4) for key, value in found.items()}


def main() -> None:
    """Write the recording."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for netconvert
    _, version = libsumo.getVersion()
    record: dict[str, Any] = {
        "made_by": "tests/oracles/record_merges.py",
        "version": version,
        "model": "IDM, LC2013, ballistic, sigma 0, speedDev 0, departSpeed avg",
        "dt": DT,
        "warm_up": WARM_UP,
        "seconds": SECONDS,
        "seeds": SEEDS,
        "cases": {},
    }
    for name, case in CASES.items():
        factors = case["factors"]
        runs = []
        for number, demand in enumerate(case["demands"]):
            for kind, values in factors.items():
                own = [run(case, demand, seed, values) for seed in SEEDS]
                runs += [{"demand": number, "seed": s, "factors": kind, "statistics": x} for s, x in enumerate(own)]
                means = {
                    key: round(float(np.mean([x[key] if x[key] is not None else np.nan for x in own])), 2)
                    for key in own[0]
                }
                print(case["title"], demand, kind, means, flush=True)
        record["cases"][name] = {key: value for key, value in case.items() if key != "factors"} | {"runs": runs}
    partial = FILE.with_suffix(".partial")
    partial.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    os.replace(partial, FILE)
    print(FILE, FILE.stat().st_size)


if __name__ == "__main__":
    main()
