"""Record SUMO's IDM as golden trajectories: ``python tests/oracles/record_sumo.py`` (eclipse-sumo, libsumo 1.28).

Two cases, each with the ballistic update and with SUMO's default (semi-implicit) Euler update, dt = 0.1 s:
``platoon``: ten followers that all differ behind a leader with a prescribed speed profile, 300 s;
``ring``: 22 equal vehicles on 230 m from standstill, vehicle 0 displaced by 1 m, 300 s (a native ring of four edges).
Vehicle 0 leads; vehicle i follows i - 1. Files: ``tests/golden/sumo_<case>_<integrator>.npz``, float64, with
``position`` and ``speed`` [seconds + 1, vehicles] once a second, every parameter [vehicles], and for the platoon
``leader_speed`` at every step. Time 0 is the end of SUMO's insertion step, in which an inserted vehicle stands still.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import libsumo
import numpy as np

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
DT = 0.1
SECONDS = 300
FAST = 60.0  # m/s, a speed limit that binds nobody
PARAMETERS = ("desired_speed", "time_headway", "max_acceleration", "comfortable_deceleration", "min_gap", "length")
INTEGRATORS = {"ballistic": ["--step-method.ballistic", "true"], "semi_implicit_euler": []}


def platoon_drivers() -> dict[str, np.ndarray]:
    """Leader (row 0) and ten followers, no two alike in any parameter."""
    generator = np.random.default_rng(20)
    bounds = {
        "desired_speed": (24.0, 36.0),
        "time_headway": (0.8, 1.8),
        "max_acceleration": (0.7, 1.8),
        "comfortable_deceleration": (1.2, 2.6),
        "min_gap": (1.2, 3.5),
        "length": (3.5, 16.0),
    }
    return {name: np.round(generator.uniform(*bounds[name], 11), 3) for name in PARAMETERS}


def leader_profile(steps: int) -> np.ndarray:
    """Speed of the platoon's leader [steps + 1], m/s: cruising waves, one stop of 15 s, a fast stretch."""
    knots = [0, 20, 45, 60, 80, 100, 120, 135, 150, 175, 200, 220, 250, 270, 300]
    speeds = [15, 15, 22, 12, 18, 18, 0, 0, 8, 20, 27, 27, 10, 16, 14]
    t = np.arange(steps + 1) * DT
    wave = np.sin(2 * math.pi * t / 17) * np.clip(np.interp(t, knots, speeds) / 12, 0, 1)
    return np.maximum(0.0, np.interp(t, knots, speeds) + wave)


def ring_drivers() -> dict[str, np.ndarray]:
    """22 of Flow's drivers."""
    values = dict(zip(PARAMETERS, (30.0, 1.0, 1.0, 1.5, 2.0, 5.0), strict=True))
    return {name: np.full(22, value) for name, value in values.items()}


def network(
    folder: Path, nodes: dict[str, tuple[float, float]], edges: list[tuple[str, str, str, float]], lanes: int = 1
) -> Path:
    """Build a SUMO network without internal lanes from nodes and edges (id, from, to, length)."""
    rows = [f'<node id="{n}" x="{x}" y="{y}" type="priority"/>' for n, (x, y) in nodes.items()]
    (folder / "n.nod.xml").write_text(f"<nodes>{''.join(rows)}</nodes>")
    rows = [
        f'<edge id="{e}" from="{a}" to="{b}" numLanes="{lanes}" speed="{FAST}" length="{length}"/>'
        for e, a, b, length in edges
    ]
    (folder / "n.edg.xml").write_text(f"<edges>{''.join(rows)}</edges>")
    command = ["netconvert", "-n", "n.nod.xml", "-e", "n.edg.xml", "-o", "n.net.xml", "--no-internal-links", "true"]
    subprocess.run([*command, "--no-turnarounds", "true"], cwd=folder, check=True, capture_output=True)
    return folder / "n.net.xml"


def routes(folder: Path, drivers: dict[str, np.ndarray], starts: list[tuple[list[str], float, float]]) -> Path:
    """Vehicles v0, v1, ...: route, position and speed at insertion."""
    rows = []
    for i, (edges, position, speed) in enumerate(starts):
        v0, headway, a, b, gap, length = (drivers[name][i] for name in PARAMETERS)
        rows.append(
            f'<vType id="t{i}" carFollowModel="IDM" maxSpeed="{v0}" tau="{headway}" accel="{a}" decel="{b}" '
            f'emergencyDecel="9" minGap="{gap}" length="{length}" delta="4" sigma="0" speedDev="0" speedFactor="1"/>'
            f'<vehicle id="v{i}" type="t{i}" depart="0" departPos="{position!r}" departSpeed="{speed!r}" '
            f'departLane="0" insertionChecks="none"><route edges="{" ".join(edges)}"/></vehicle>'
        )
    (folder / "n.rou.xml").write_text(f"<routes>{''.join(rows)}</routes>")
    return folder / "n.rou.xml"


def start(net: Path, rou: Path, integrator: str) -> None:
    """Start libsumo and run the insertion step."""
    options = [
        "--collision.action",
        "warn",
        "--time-to-teleport",
        "-1",
        "--no-step-log",
        "true",
        "--step-length",
        str(DT),
    ]
    libsumo.start(["sumo", "-n", str(net), "-r", str(rou), *options, *INTEGRATORS[integrator]])
    libsumo.simulationStep()


def record_platoon(integrator: str) -> dict[str, np.ndarray]:
    """Run the platoon case."""
    drivers, steps = platoon_drivers(), round(SECONDS / DT)
    leader = leader_profile(steps)
    starts, at = [], 900.0
    for i in range(11):
        starts.append((["road"], float(at), float(leader[0] + (0.3 * i if i else 0.0))))
        at -= drivers["length"][i] + 12.0 + 3.0 * (i % 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = network(folder, {"a": (0, 0), "b": (9000, 0)}, [("road", "a", "b", 9000.0)])
        start(net, routes(folder, drivers, starts), integrator)
        libsumo.vehicle.setSpeedMode("v0", 0)

        def drive(step: int) -> None:
            libsumo.vehicle.setSpeed("v0", float(leader[step]))

        position, speed = watch(11, steps, lambda i: libsumo.vehicle.getLanePosition(f"v{i}"), drive)
    return {"position": position, "speed": speed, "leader_speed": leader, **drivers}


def record_ring(
    integrator: str, length: float = 230.0, seconds: int = SECONDS, interval: float = 1.0
) -> dict[str, np.ndarray]:
    """Run the ring case, read once in ``interval`` s; positions are on [0, ``length``)."""
    drivers, count = ring_drivers(), 22
    side = length / 4
    names = [f"e{i}" for i in range(4)]
    starts = []
    for i in range(count):
        at = (200.0 - i * length / count + (1.0 if i == 0 else 0.0)) % length
        edge = int(at // side)
        starts.append(([names[(edge + j) % 4] for j in range(48)], float(at - edge * side), 0.0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nodes = {"a": (0.0, 0.0), "b": (side, 0.0), "c": (side, side), "d": (0.0, side)}
        ends = ["ab", "bc", "cd", "da"]
        net = network(folder, nodes, [(names[i], ends[i][0], ends[i][1], side) for i in range(4)])
        start(net, routes(folder, drivers, starts), integrator)

        def where(i: int) -> float:
            return side * int(libsumo.vehicle.getRoadID(f"v{i}")[1:]) + libsumo.vehicle.getLanePosition(f"v{i}")

        position, speed = watch(count, round(seconds / DT), where, lambda step: None, interval)
    return {"position": position, "speed": speed, "circumference": np.array(length), **drivers}


def watch(
    count: int, steps: int, where: Callable[[int], float], drive: Callable[[int], None], interval: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Step SUMO and read every vehicle once in ``interval`` s: position and speed [records, count]."""
    every = round(interval / DT)
    position, speed = np.empty((steps // every + 1, count)), np.empty((steps // every + 1, count))
    for step in range(steps + 1):
        if step:
            drive(step)
            libsumo.simulationStep()
        if step % every == 0:
            position[step // every] = [where(i) for i in range(count)]
            speed[step // every] = [libsumo.vehicle.getSpeed(f"v{i}") for i in range(count)]
    libsumo.close()
    return position, speed


def main() -> None:
    """Write all recordings."""
    for case, record in (("platoon", record_platoon), ("ring", record_ring)):
        for integrator in INTEGRATORS:
            path = GOLDEN / f"sumo_{case}_{integrator}.npz"
            partial = path.with_suffix(".partial.npz")
            np.savez_compressed(partial, allow_pickle=False, **record(integrator))
            os.replace(partial, path)
            print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
