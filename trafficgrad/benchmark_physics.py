"""How many decisions of MuJoCo's bodies a second takes, with gradients and without."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.table import Table
from torch import Tensor

from trafficgrad import terminal
from trafficgrad.envs.physics import BODIES, BodyEnv
from trafficgrad.kernels.library import use_threads
from trafficgrad.physics_scenario import Integrator

WORLDS, WINDOW = 64, 32  # of a training
INTEGRATORS: tuple[Integrator, ...] = ("euler", "rk4")


@dataclass(frozen=True)
class PhysicsRow:
    """One body with one integrator."""

    body: str
    integrator: str
    threads: int
    forward: float  # decisions a second, all worlds together, without gradient
    gradient: float  # with the gradient of the return by every action of the window
    ratio: float  # of the two


def run(repetitions: int = 5, threads: Sequence[int] = (1, 2)) -> list[PhysicsRow]:
    """Measure and print a table: windows of random actions from the same states, with and without gradient in turn.

    Parameters:
        repetitions: of which the median counts. threads: of MuJoCo; PyTorch has one.
    """
    rows = []
    table = Table(
        title=f"{WORLDS} worlds, windows of {WINDOW} decisions, median of {repetitions}", title_justify="left"
    )
    for name in ("body", "integrator", "threads", "decisions/s", "with gradient", "ratio"):
        table.add_column(name, justify="left" if name in ("body", "integrator") else "right")
    console = terminal.console()
    with console.status("") as status:
        for name in BODIES:
            for integrator in INTEGRATORS:
                for count in threads:
                    status.update(f"{name}, {integrator}, {count} threads")
                    row = _measure(name, integrator, count, repetitions)
                    rows.append(row)
                    table.add_row(
                        row.body,
                        row.integrator,
                        str(row.threads),
                        f"{row.forward:,.0f}",
                        f"{row.gradient:,.0f}",
                        f"{row.ratio:.1f}",
                    )
    console.print(table)
    return rows


def _measure(name: str, integrator: Integrator, threads: int, repetitions: int) -> PhysicsRow:
    env = BODIES[name](integrator, "shaped")  # type: ignore[index]
    generator = torch.Generator().manual_seed(0)
    state = env.reset(WORLDS, generator)
    shape = (WORLDS, len(env.action_labels))
    forward, gradient = [], []
    with use_threads(threads):
        for repetition in range(repetitions + 1):
            actions = [0.3 * torch.randn(shape, generator=generator) for _ in range(WINDOW)]
            seconds = [_window(env, state, actions, wanted) for wanted in (False, True)]
            if repetition:  # the first one starts threads
                forward.append(WORLDS * WINDOW / seconds[0])
                gradient.append(WORLDS * WINDOW / seconds[1])
    ratio = median(f / g for f, g in zip(forward, gradient, strict=True))
    return PhysicsRow(name, integrator, threads, median(forward), median(gradient), ratio)


def _window(env: BodyEnv, state: object, actions: list[Tensor], gradient: bool) -> float:
    """Seconds that a window takes."""
    actions = [action.clone().requires_grad_(gradient) for action in actions]
    begun, total = time.perf_counter(), torch.zeros(())
    for action in actions:
        state, transition = env.step(state, action)  # type: ignore[arg-type]
        total = total + transition.reward.sum()
    if gradient:
        torch.autograd.grad(total, actions)
    return time.perf_counter() - begun
