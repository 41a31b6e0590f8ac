"""How many checks notice a wrong simulator: ``python tests/oracles/wrong_simulators.py`` (~4 min).

Runs the quick version of every group whose drivers are all equal, with drivers who differ a little from those of the
theory and with another update rule. ``merges`` is left out: its bands are no measure of small errors. It prints a
Markdown table: checks that fail, of those judged.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from trafficgrad.car_following import IDM
from trafficgrad.simulator import Simulator
from trafficgrad.validation import GROUPS, Check
from trafficgrad.validation.runs import Run, idm
from trafficgrad.validation.theory import Drivers

WRONG: dict[str, dict[str, float]] = {
    "right": {},
    "time headway + 0.5 %": {"time_headway": 1.005},
    "smallest gap + 2 %": {"min_gap": 1.02},
    "acceleration + 2 %": {"max_acceleration": 1.02},
    "deceleration + 5 %": {"comfortable_deceleration": 1.05},
    "desired speed - 2 %": {"desired_speed": 0.98},
    "exponent 3.9": {"exponent": 3.9 / 4},
}
OTHER_RULE = {"ballistic": "semi_implicit_euler", "semi_implicit_euler": "explicit_euler"}


def modules() -> dict[str, Any]:
    """The groups that simulate drivers of the theory."""
    found = {name: importlib.import_module(f"trafficgrad.validation.{name}") for name in GROUPS if name != "merges"}
    return {name: module for name, module in found.items() if hasattr(module, "idm")}


@contextmanager
def replaced(module: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """For a while another function in a module."""
    right = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, right)


def failing(group: str) -> str:
    """Failed / judged."""
    checks = [result for result in GROUPS[group].run(Run(quick=True)) if isinstance(result, Check) and result.judged]
    return f"{sum(not check.passed for check in checks)} / {len(checks)}"


def main() -> None:
    """Print a row per error, a column per group."""
    torch.set_num_threads(1)
    groups = modules()
    print(f"| what is wrong | {' | '.join(f'`{name}`' for name in groups)} |")
    print(f"|---|{'--:|' * len(groups)}")

    def row(title: str, attribute: str, value: Callable[..., Any]) -> None:
        cells = []
        for name, module in groups.items():
            with replaced(module, attribute, value):
                cells.append(failing(name))
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    for title, factors in WRONG.items():

        def wrong(drivers: Drivers, factors: dict[str, float] = factors) -> IDM:
            return idm(replace(drivers, **{name: getattr(drivers, name) * by for name, by in factors.items()}))

        row(title, "idm", wrong)

    def other_rule(*arguments: Any, integrator: str = "ballistic", **settings: Any) -> Simulator:
        return Simulator(*arguments, integrator=OTHER_RULE[integrator], **settings)  # type: ignore[arg-type]

    row("another update rule", "Simulator", other_rule)


if __name__ == "__main__":
    main()
