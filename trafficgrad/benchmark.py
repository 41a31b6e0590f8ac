"""How fast the simulator is, beside peers measured in the same run on the same machine: ``trafficgrad bench``.

A vehicle-step is one vehicle simulated for one time step; forward + backward counts it once. Absolute figures depend on
the machine and on what else it does: compare the ratios.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trafficgrad import terminal
from trafficgrad.car_following import IDM
from trafficgrad.gradients import GradientMode, LaneGradient
from trafficgrad.lane_change import MOBIL
from trafficgrad.network import ring
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

SPACING = 25.0  # m of lane per vehicle
STEPS = 32  # per rollout, forward and backward


@dataclass(frozen=True)
class Size:
    """Worlds x vehicles x lanes."""

    worlds: int
    vehicles: int
    lanes: int

    def __str__(self) -> str:
        return f"{self.worlds} x {self.vehicles} x {self.lanes}"


SIZES = (Size(64, 22, 1), Size(64, 60, 4), Size(1024, 22, 1), Size(1, 1000, 4))


@dataclass(frozen=True)
class Row:
    """One measured line; million vehicle-steps per second, medians over the repetitions."""

    size: Size
    name: str
    forward: float
    both: float | None  # forward + backward; None where the peer has no gradients


def run(
    sizes: Sequence[Size] = SIZES,
    repetitions: int = 5,
    threads: int = 1,
    dtype: torch.dtype = torch.float32,
    console: Console | None = None,
) -> list[Row]:
    """Measure and print; every repetition times all candidates of a size in turn, so that drift hits them alike."""
    console = console or terminal.console()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows = []
    try:
        with console.status("measuring ..."):
            for size in sizes:
                rows += _measure(size, repetitions, dtype)
    finally:
        torch.set_num_threads(before)
    console.print(_table(rows, threads, dtype))
    if importlib.util.find_spec("libsumo") is None:
        console.print('SUMO was not measured: it is not installed (pip install "trafficgrad[peers]").')
    return rows


def _measure(size: Size, repetitions: int, dtype: torch.dtype) -> list[Row]:
    simulator, state = make_case(size, dtype)
    candidates: dict[str, Callable[[bool], None]] = {}
    modes: tuple[GradientMode, ...] = ("straight_through", "blocked") if size.lanes > 1 else ("straight_through",)
    for mode in modes:
        name = f"trafficgrad, {mode}" if size.lanes > 1 else "trafficgrad"
        chosen = replace(simulator, lane_gradient=LaneGradient(mode))
        candidates[name] = partial(_rollout, chosen, state)
    candidates["plain torch IDM loop, one lane, no search"] = partial(_plain_loop, simulator, state)
    count = size.worlds * size.vehicles * STEPS
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in candidates}
    sumo: list[float] = []
    for repetition in range(repetitions + 1):
        for name, rollout in candidates.items():
            for backward, record in zip((False, True), times[name], strict=True):
                begun = time.perf_counter()
                rollout(backward)
                if repetition:  # the first warms up
                    record.append(time.perf_counter() - begun)
        if repetition and importlib.util.find_spec("libsumo") is not None:
            sumo.append(_sumo_rate(size))
    rows = [
        Row(size, name, count / statistics.median(f) / 1e6, count / statistics.median(b) / 1e6)
        for name, (f, b) in times.items()
    ]
    if sumo:
        rows.append(Row(size, "SUMO (libsumo), IDM, LC2013, one world", statistics.median(sumo) / 1e6, None))
    return rows


def make_case(size: Size, dtype: torch.dtype = torch.float32) -> tuple[Simulator, TrafficState]:
    """A ring with differing drivers and a few controlled vehicles, after some steps of simulation."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(size.vehicles, generator=generator, dtype=torch.float64)).to(dtype)

    rows = -(-size.vehicles // size.lanes)
    length = SPACING * rows
    slots = torch.arange(size.vehicles)
    simulator = Simulator(
        ring(length, size.lanes),
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
    state = TrafficState(
        ((along + jitter) % length).to(dtype),
        torch.full((size.worlds, size.vehicles), 8.0, dtype=dtype),
        (slots % size.lanes).expand(size.worlds, -1),
    )
    with torch.no_grad():
        for _ in range(50):
            state = simulator.step(state, None, simulator.sample_noise(state, generator))
    return simulator, state


def _rollout(simulator: Simulator, state: TrafficState, backward: bool) -> None:
    count = len(simulator.fleet.controlled)
    generator = torch.Generator().manual_seed(1)
    plan = state.speed.new_zeros(STEPS, state.worlds, count).requires_grad_(backward)
    wish = state.speed.new_full((STEPS, state.worlds, count), 0.5).requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        end = state
        for t in range(STEPS):
            end = simulator.step(end, Action(plan[t], wish[t]), simulator.sample_noise(end, generator))
        if backward:
            end.speed.mean().backward()


def _plain_loop(simulator: Simulator, state: TrafficState, backward: bool) -> None:
    """What a loop costs that only follows a fixed leader: a ceiling for PyTorch without a kernel, not a simulator."""
    model = simulator.car_following
    spacing = SPACING * state.vehicles
    push = state.speed.new_zeros(STEPS, state.worlds, 1).requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        position = (torch.arange(state.vehicles) * SPACING).to(state.speed.dtype).expand(state.worlds, -1)
        speed = state.speed
        wrap = torch.zeros_like(position)
        wrap[:, -1] = spacing
        for t in range(STEPS):
            gap = torch.roll(position, -1, 1) + wrap - position - 5.0
            acceleration = model.acceleration(speed, gap, speed - torch.roll(speed, -1, 1)) + push[t]
            reached = (speed + acceleration * simulator.dt).clamp(min=0.0)
            position = position + 0.5 * simulator.dt * (speed + reached)
            speed = reached
        if backward:
            speed.mean().backward()


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
    grid = Table(
        title=f"million vehicle-steps per second; {threads} thread(s), {str(dtype).removeprefix('torch.')}, "
        f"torch {torch.__version__}; "
        f"forward + backward over {STEPS} steps",
        title_justify="left",
    )
    for name in ("worlds x vehicles x lanes", "what"):
        grid.add_column(name, no_wrap=True)
    for name in ("forward", "forward + backward", "forward / plain loop"):
        grid.add_column(name, justify="right")
    for size in dict.fromkeys(row.size for row in rows):
        group = [row for row in rows if row.size == size]
        plain = next(row.forward for row in group if row.name.startswith("plain"))
        for i, row in enumerate(group):
            both = "no gradients" if row.both is None else f"{row.both:.2f}"
            grid.add_row(
                str(size) if i == 0 else "", row.name, f"{row.forward:.2f}", both, f"{row.forward / plain:.2f}"
            )
        grid.add_section()
    return grid
