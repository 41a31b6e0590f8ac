"""How fast the simulator is, beside peers measured in the same run on the same machine: ``trafficgrad bench``.

A vehicle-step is one vehicle simulated for one time step; forward + backward counts it once. Absolute figures depend on
the machine and on what else it does: compare the ratios.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import trafficgrad
from trafficgrad import terminal
from trafficgrad.car_following import IDM
from trafficgrad.gradients import GradientMode, LaneGradient
from trafficgrad.kernels import Backend
from trafficgrad.kernels.library import library
from trafficgrad.lane_change import MOBIL
from trafficgrad.network import ring
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

SPACING = 25.0  # m of lane per vehicle
STEPS = 32  # per rollout, forward and backward
LARGE = 20_000  # from so many vehicles in a world on a rollout has fewer steps
LARGE_STEPS = 4
ROAD_PEERS = 200  # vehicles; highway-env is not measured with more


@dataclass(frozen=True)
class Size:
    """Worlds x vehicles x lanes, on a ring of so many edges."""

    worlds: int
    vehicles: int
    lanes: int
    edges: int = 1

    def __str__(self) -> str:
        more = f", {self.edges} edges" if self.edges > 1 else ""
        return f"{self.worlds} x {self.vehicles} x {self.lanes}{more}"

    @property
    def steps(self) -> int:
        """Of a rollout."""
        return LARGE_STEPS if self.vehicles >= LARGE else STEPS


SIZES = (Size(64, 22, 1), Size(64, 60, 4), Size(1024, 22, 1), Size(1, 1000, 4), Size(1, 100_000, 4, 1000))


@dataclass(frozen=True)
class Row:
    """One measured line; million vehicle-steps per second, medians over the repetitions."""

    size: Size
    threads: int
    name: str
    forward: float
    both: float | None  # forward + backward; None where the peer has no gradients


def run(
    sizes: Sequence[Size] = SIZES,
    repetitions: int = 5,
    threads: Sequence[int] = (1, 2),
    dtype: torch.dtype = torch.float32,
    console: Console | None = None,
) -> list[Row]:
    """Measure and print; every repetition times all candidates of a size in turn, so that drift hits them alike."""
    console = console or terminal.console()
    before = torch.get_num_threads()
    rows: list[Row] = []
    try:
        for count in threads:
            torch.set_num_threads(count)
            for size in sizes:
                with console.status(f"measuring {size} with {count} thread(s) ..."):
                    rows += _measure(size, count, repetitions, dtype)
            console.print(_table([row for row in rows if row.threads == count], count, dtype))
    finally:
        torch.set_num_threads(before)
    for package, extra in (("libsumo", "peers"), ("highway_env", "peers")):
        if importlib.util.find_spec(package) is None:
            console.print(f'{package} was not measured: it is not installed (pip install "trafficgrad[{extra}]").')
    if importlib.util.find_spec("libsumo") is not None and not shutil.which("netconvert"):
        console.print("SUMO was not measured: its netconvert is not on the PATH.")
    if library().missing is not None:
        console.print(f"The fused kernel was not measured: {library().missing}.")
    return rows


def as_json(rows: Sequence[Any]) -> str:
    """Rows and the versions that were measured, as a JSON document."""
    return json.dumps({"versions": versions(), "rows": [dataclasses.asdict(row) for row in rows]}, indent=1)


def versions() -> dict[str, str]:
    """What was measured, on what."""
    found = {"trafficgrad": trafficgrad.__version__, "kernel": library().variant or "none", "torch": torch.__version__}
    found |= {"python": platform.python_version(), "machine": _processor()}
    for package in ("eclipse-sumo", "highway-env"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _measure(size: Size, threads: int, repetitions: int, dtype: torch.dtype) -> list[Row]:
    simulator, state = make_case(size, dtype)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(size.steps, *state.position.shape, generator=generator, dtype=dtype)
    candidates: dict[str, Callable[[bool], None]] = {}
    modes: tuple[GradientMode, ...] = ("blocked", "straight_through") if size.lanes > 1 else ("blocked",)
    for mode in modes:
        backends: tuple[Backend, ...] = ("reference",) if library().missing else ("reference", "fused")
        for backend in backends:
            chosen = replace(simulator, lane_gradient=LaneGradient(mode), backend=backend)
            label = f"{backend}, {mode}" if size.lanes > 1 else backend
            candidates[f"{label}: step by step"] = partial(_step_by_step, chosen, state, noise)
            if backend == "fused":
                candidates[f"{label}: rollout"] = partial(_at_once, chosen, state, noise)
    count = size.worlds * size.vehicles * size.steps
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in candidates}
    peers: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        for name, rollout in candidates.items():
            for backward, record in zip((False, True), times[name], strict=True):
                begun = time.perf_counter()
                rollout(backward)
                if repetition:  # the first warms up
                    record.append(time.perf_counter() - begun)
        if repetition:
            for name, rate in _peer_rates(size).items():
                peers.setdefault(name, []).append(rate)
    rows = [
        Row(size, threads, name, count / statistics.median(f) / 1e6, count / statistics.median(b) / 1e6)
        for name, (f, b) in times.items()
    ]
    return rows + [Row(size, threads, name, statistics.median(rates) / 1e6, None) for name, rates in peers.items()]


def _peer_rates(size: Size) -> dict[str, float]:
    """Vehicle-steps per second of those that are installed, one world each."""
    rates = {}
    if importlib.util.find_spec("libsumo") is not None and shutil.which("netconvert") and size.vehicles < LARGE:
        rates["SUMO (libsumo), IDM, LC2013"] = _sumo_rate(size)
    if importlib.util.find_spec("highway_env") is not None and size.vehicles < ROAD_PEERS:
        rates["highway-env, road.act and road.step"] = _highway_rate(size)
    return rates


def make_case(size: Size, dtype: torch.dtype = torch.float32) -> tuple[Simulator, TrafficState]:
    """A ring with differing drivers and a few controlled vehicles, after some steps of simulation."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(size.vehicles, generator=generator, dtype=torch.float64)).to(dtype)

    rows = -(-size.vehicles // size.lanes)
    length = SPACING * rows
    slots = torch.arange(size.vehicles)
    simulator = Simulator(
        ring(length, size.lanes, edges=size.edges),
        Fleet(
            acceleration_noise=0.2,
            controlled=[0] if size.lanes == 1 else [size.lanes * i for i in range(4)],
            control="acceleration" if size.lanes == 1 else "lane",
            follow_limit=True,
        ),
        IDM(uniform(15, 35), uniform(0.8, 1.4), uniform(0.8, 1.6), 1.5, 2.0),
        None if size.lanes == 1 else MOBIL(sides="alternate"),
        max_braking=9.0,
    )
    along = (slots // size.lanes + (slots % size.lanes) / size.lanes) * SPACING
    jitter = torch.rand(size.worlds, size.vehicles, generator=generator, dtype=torch.float64)
    place = (along + jitter) % length
    edge = (place // (length / size.edges)).long().clamp(max=size.edges - 1)
    state = TrafficState(
        (place - edge * (length / size.edges)).to(dtype),
        torch.full((size.worlds, size.vehicles), 8.0, dtype=dtype),
        edge * size.lanes + slots % size.lanes,
    )
    with torch.no_grad():
        for _ in range(50):
            state = simulator.step(state, None, simulator.sample_noise(state, generator))
    return simulator, state


def _plan(simulator: Simulator, state: TrafficState, steps: int, backward: bool) -> tuple[Tensor, Tensor]:
    """Accelerations and lane requests of the controlled vehicles."""
    shape = (steps, state.worlds, len(simulator.fleet.slots))
    push = state.speed.new_zeros(shape).requires_grad_(backward)
    return push, state.speed.new_full(shape, 0.5).requires_grad_(backward)


def _step_by_step(simulator: Simulator, state: TrafficState, noise: Tensor, backward: bool) -> None:
    """A call a step, as where a policy acts in between."""
    push, wish = _plan(simulator, state, len(noise), backward)
    with torch.set_grad_enabled(backward):
        end = state
        for accelerate, ask, kick in zip(push.unbind(), wish.unbind(), noise.unbind(), strict=True):
            end = simulator.step(end, Action(accelerate, ask), kick)
        if backward:
            end.speed.mean().backward()


def _at_once(simulator: Simulator, state: TrafficState, noise: Tensor, backward: bool) -> None:
    """All steps in one call, as where a plan or driver parameters are sought."""
    push, wish = _plan(simulator, state, len(noise), backward)
    with torch.set_grad_enabled(backward):
        record = simulator.simulate(state, len(noise), actions=Action(push, wish), noise=noise)
        if backward:
            record.speed[-1].mean().backward()


def _highway_rate(size: Size) -> float:
    """Vehicle-steps per second of highway-env's traffic (IDM, MOBIL) at 10 Hz, without observation and rewards."""
    from highway_env.envs.highway_env import HighwayEnv

    configuration = {"lanes_count": size.lanes, "vehicles_count": size.vehicles - 1, "simulation_frequency": 10}
    environment = HighwayEnv(configuration)
    environment.reset(seed=0)
    road = environment.road
    steps, begun = 20, time.perf_counter()
    for _ in range(steps):
        road.act()
        road.step(0.1)
    return size.vehicles * steps / (time.perf_counter() - begun)


def _sumo_rate(size: Size) -> float:
    """Vehicle-steps per second of SUMO on a closed road of four edges with the same number of vehicles and lanes."""
    import libsumo

    with tempfile.TemporaryDirectory() as folder:
        files = _sumo_ring(Path(folder), size)
        libsumo.start(
            ["sumo", "-n", files[0], "-r", files[1], "--step-length", "0.1", "--step-method.ballistic", "--no-step-log",
             "--no-warnings", "--collision.action", "warn", "--time-to-teleport", "-1"]
        )  # fmt: skip
        try:
            for _ in range(100):
                libsumo.simulationStep()
            driven, begun = 0, time.perf_counter()
            for _ in range(200):
                libsumo.simulationStep()
                driven += libsumo.vehicle.getIDCount()
            return driven / (time.perf_counter() - begun)
        finally:
            libsumo.close()


def _sumo_ring(folder: Path, size: Size) -> tuple[str, str]:
    """Network and route files, made by SUMO's own netconvert."""
    side = SPACING * -(-size.vehicles // size.lanes) / 4
    corners = [(0, 0), (side, 0), (side, side), (0, side)]
    nodes = "".join(f'<node id="{i}" x="{x}" y="{y}"/>' for i, (x, y) in enumerate(corners))
    edges = "".join(
        f'<edge id="e{i}" from="{i}" to="{(i + 1) % 4}" numLanes="{size.lanes}" speed="50"/>' for i in range(4)
    )
    (folder / "ring.nod.xml").write_text(f"<nodes>{nodes}</nodes>")
    (folder / "ring.edg.xml").write_text(f"<edges>{edges}</edges>")
    network = str(folder / "ring.net.xml")
    command = ["netconvert", "-n", str(folder / "ring.nod.xml"), "-e", str(folder / "ring.edg.xml")]
    subprocess.run([*command, "-o", network, "--no-internal-links"], check=True, capture_output=True)
    vehicles = []
    for i in range(size.vehicles):
        place = (i // size.lanes) * SPACING
        edge = int(place // side)
        route = " ".join(f"e{(edge + k) % 4}" for k in range(400))
        vehicles.append(
            f'<vehicle id="{i}" type="car" depart="0" departLane="{i % size.lanes}" '
            f'departPos="{place - edge * side:.2f}" departSpeed="8"><route edges="{route}"/></vehicle>'
        )
    kind = '<vType id="car" carFollowModel="IDM" accel="1.2" decel="1.5" tau="1.1" minGap="2" maxSpeed="25" sigma="0"/>'
    (folder / "ring.rou.xml").write_text(f"<routes>{kind}{''.join(vehicles)}</routes>")
    return network, str(folder / "ring.rou.xml")


def _table(rows: list[Row], threads: int, dtype: torch.dtype) -> Table:
    known = versions()
    grid = Table(
        title=f"million vehicle-steps per second; {threads} thread(s), {str(dtype).removeprefix('torch.')}, "
        + ", ".join(f"{name} {version}" for name, version in known.items()),
        title_justify="left",
    )
    for name in ("worlds x vehicles x lanes", "what"):
        grid.add_column(name, no_wrap=True)
    for name in ("forward", "forward + backward", "both / reference", "forward / SUMO"):
        grid.add_column(name, justify="right")
    for size in dict.fromkeys(row.size for row in rows):
        group = [row for row in rows if row.size == size]
        sumo = next((row.forward for row in group if row.name.startswith("SUMO")), None)
        for i, row in enumerate(group):
            both = "no gradients" if row.both is None else f"{row.both:.2f}"
            mode = "straight_through" if "straight_through" in row.name else "blocked"
            own = [r.both for r in group if r.name.startswith("reference") and (size.lanes == 1 or mode in r.name)]
            ratio = f"{row.both / own[0]:.1f}" if row.both is not None and own and own[0] else ""
            beside = f"{row.forward / sumo:.1f}" if sumo is not None else ""
            grid.add_row(str(size) if i == 0 else "", row.name, f"{row.forward:.3g}", both, ratio, beside)
        grid.add_section()
    return grid
