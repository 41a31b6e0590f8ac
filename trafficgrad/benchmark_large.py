"""What large simulations need (``trafficgrad bench --large``): memory, how long a step of a million vehicles takes, and
how soon a new process has a result. Everything is measured in processes of its own.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from trafficgrad import terminal
from trafficgrad.benchmark import STEPS, Size, make_case
from trafficgrad.gradients import MODES, GradientMode, LaneGradient
from trafficgrad.state import Action

MANY = Size(4096, 100, 4)
MILLION = Size(1, 1_000_000, 4, 10_000)
SMALL = Size(8, 20, 1)  # of a first result
_FIRST = (
    "import time, torch; begun = time.perf_counter()\n"
    "from trafficgrad.benchmark_large import first_result; first_result(); print(time.perf_counter() - begun)"
)


@dataclass(frozen=True)
class LargeRow:
    """One measured line."""

    name: str
    value: float
    unit: str


def run(
    repetitions: int = 5,
    threads: int = 2,
    many: Size = MANY,
    million: Size = MILLION,
    modes: Sequence[GradientMode] = MODES,
    console: Console | None = None,
) -> list[LargeRow]:
    """Measure and print."""
    console = console or terminal.console()
    rows = []
    for mode in modes:
        name = f"forward and backward, {many} lanes, {STEPS} steps in one call, {mode}: peak of the process"
        with console.status(f"measuring {name} ..."):
            rows.append(LargeRow(name, _alone(peak_memory, many, mode, threads), "MiB"))
    name = f"a step, {million.vehicles:,} vehicles on {million.edges:,} edges, {threads} thread(s)"
    with console.status(f"measuring {name} ..."):
        rows.append(LargeRow(name, _alone(step_seconds, million, repetitions, threads), "s"))
    with console.status("starting processes ..."):
        starts = [
            float(subprocess.run([sys.executable, "-c", _FIRST], capture_output=True, text=True, check=True).stdout)
            for _ in range(repetitions)
        ]
    rows.append(LargeRow("first step of a new process, PyTorch imported before", statistics.median(starts), "s"))
    table = Table(title="large simulations", show_header=False)
    for row in rows:
        table.add_row(row.name, f"{row.value:.3g} {row.unit}")
    console.print(table)
    return rows


def _alone(function: Callable[..., float], *arguments: object) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def peak_memory(size: Size, mode: GradientMode, threads: int) -> float:
    """MiB that this process has held at most after a rollout forward and backward; PyTorch itself included."""
    torch.set_num_threads(threads)
    simulator, state = make_case(size)
    simulator = replace(simulator, lane_gradient=LaneGradient(mode))
    plan = state.speed.new_zeros(STEPS, size.worlds, len(simulator.fleet.slots), requires_grad=True)
    trajectory = simulator.simulate(state, STEPS, actions=Action(plan, torch.full_like(plan, 0.5).detach()))
    trajectory.speed[-1].mean().backward()
    return _peak()


def _peak() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@torch.no_grad()
def step_seconds(size: Size, repetitions: int, threads: int) -> float:
    """Median time of a step."""
    torch.set_num_threads(threads)
    simulator, state = make_case(size)
    state = simulator.step(state)
    times = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        state = simulator.step(state)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def first_result() -> None:
    """A step, from nothing."""
    simulator, state = make_case(SMALL)
    simulator.step(state)
