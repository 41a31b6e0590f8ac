"""What a training iteration takes, and what of it: ``trafficgrad bench --training``.

PPO and GI-PPO train on the same scenario with the same networks, batch and minibatches, in turn, so that whatever else
the machine does hits both alike. An iteration is a rollout and an update; evaluation and files are not counted.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from trafficgrad import terminal
from trafficgrad.agents.experiment import Experiment, load_experiment
from trafficgrad.agents.rollout import begin, collect
from trafficgrad.envs import TrafficEnv
from trafficgrad.kernels.library import use_threads

SCENARIOS = ("ring_4lane", *(f"pace_car_{lanes}lane" for lanes in (1, 2, 3, 4, 10)))
AGENTS = ("ppo", "gippo")
WARM_UP = 2  # iterations


@dataclass(frozen=True)
class TrainingRow:
    """Milliseconds of one training iteration, medians over the repetitions."""

    scenario: str
    agent: str
    threads: int  # of the simulator
    decisions: int  # of an iteration, over all worlds
    rollout: float
    update: float
    simulator: float  # of the rollout, inside the fused kernel, both ways
    iteration: float
    ratio: float  # to PPO's iteration


class _Training:
    """A training that goes on one iteration at a time."""

    def __init__(self, experiment: Experiment) -> None:
        config = experiment.config
        self.experiment = experiment
        self.generator = torch.Generator().manual_seed(config.seed)
        self.networks = experiment.build_networks()
        self.agent = experiment.build_agent(self.networks, self.generator)
        state = experiment.env.reset(config.worlds, torch.Generator().manual_seed(config.seed))
        self.carry = begin(state, self.networks, config.rollout, self.generator)

    def iterate(self) -> tuple[float, float, float]:
        """Seconds of the rollout, of the update, and inside the kernel."""
        experiment, gradient = self.experiment, self.agent.needs_gradient
        begun = time.perf_counter()
        with _kernel_time(experiment.env) as spent:
            self.carry, rollout = collect(
                experiment.env, self.carry, self.networks, experiment.config.rollout, self.generator, gradient
            )
        rolled = time.perf_counter()
        self.agent.update(rollout, 0.0)
        self.networks.update_normalizer(rollout.of_present(rollout.raw_observation))
        return rolled - begun, time.perf_counter() - rolled, sum(spent)


@contextlib.contextmanager
def _kernel_time(env: Any) -> Iterator[list[float]]:
    """Seconds of every call of the kernel by this environment's simulator."""
    spent: list[float] = []
    plans = [plan for plan in vars(env.simulator).get("_plans", {}).values() if not isinstance(plan, str)]
    entries = [(plan, name, getattr(plan, name)) for plan in plans for name in ("forward", "backward", "look")]

    def timed(function: Any) -> Any:
        def call(*arguments: Any) -> None:
            begun = time.perf_counter()
            function(*arguments)
            spent.append(time.perf_counter() - begun)

        return call

    for plan, name, function in entries:
        setattr(plan, name, timed(function))
    try:
        yield spent
    finally:
        for plan, name, function in entries:
            setattr(plan, name, function)


def run(
    scenarios: Sequence[str] = SCENARIOS,
    repetitions: int = 10,
    threads: Sequence[int] = (1, 2),
    console: Console | None = None,
) -> list[TrainingRow]:
    """Measure and print; ``threads`` of the simulator, PyTorch has one."""
    console = console or terminal.console()
    before = torch.get_num_threads()
    rows: list[TrainingRow] = []
    torch.set_num_threads(1)
    try:
        for name in scenarios:
            with console.status(f"training on {name} ..."):
                rows += _measure(name, repetitions, threads)
    finally:
        torch.set_num_threads(before)
    console.print(_table(rows))
    return rows


def _measure(name: str, repetitions: int, threads: Sequence[int]) -> list[TrainingRow]:
    rows = []
    trainings = {agent: _Training(load_experiment(name, agent=agent, overrides=["pool_size=64"])) for agent in AGENTS}
    config = trainings[AGENTS[0]].experiment.config
    assert isinstance(trainings[AGENTS[0]].experiment.env, TrafficEnv)
    gc.collect()
    gc.freeze()  # as a training does
    try:
        for count in threads:
            times: dict[str, list[tuple[float, float, float]]] = {agent: [] for agent in AGENTS}
            with use_threads(count):
                for repetition in range(WARM_UP + repetitions):
                    for agent, training in trainings.items():
                        spent = training.iterate()
                        if repetition >= WARM_UP:
                            times[agent].append(spent)
            first = 0.0
            for agent, measured in times.items():
                rollout, update, kernel = (1e3 * statistics.median(x) for x in zip(*measured, strict=True))
                iteration = 1e3 * statistics.median(a + b for a, b, _ in measured)
                first = first or iteration
                decisions = config.worlds * config.window
                ratio = iteration / first
                rows.append(TrainingRow(name, agent, count, decisions, rollout, update, kernel, iteration, ratio))
    finally:
        gc.unfreeze()
    return rows


def _table(rows: Sequence[TrainingRow]) -> Table:
    table = Table(title="milliseconds of a training iteration; 1 PyTorch thread, medians")
    headings = (
        "scenario",
        "agent",
        "simulator threads",
        "rollout",
        "update",
        "iteration",
        "/ PPO",
        "inside the kernel",
    )
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right")
    for row in rows:
        table.add_row(
            *(row.scenario, row.agent, str(row.threads)),
            *(f"{row.rollout:.0f}", f"{row.update:.0f}", f"{row.iteration:.0f}"),
            *(f"{row.ratio:.2f}", f"{row.simulator:.0f} ({row.simulator / row.iteration:.0%})"),
        )
    return table
