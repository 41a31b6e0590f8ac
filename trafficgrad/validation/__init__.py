"""The simulator beside theory, SUMO and experiments, as one table with limits: ``trafficgrad validate``.

Every group of checks is a function that yields :class:`Check` after :class:`Check` and at last how to draw its figure;
:data:`GROUPS` names them. Closed forms are in :mod:`trafficgrad.validation.theory` and know nothing of the simulator.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from trafficgrad import terminal
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.validation.control import control
from trafficgrad.validation.equilibrium import equilibrium
from trafficgrad.validation.fundamental_diagram import fundamental_diagram
from trafficgrad.validation.gridlock import gridlock
from trafficgrad.validation.jam import jam
from trafficgrad.validation.junction_discharge import junction_discharge
from trafficgrad.validation.lane_changes import lane_changes
from trafficgrad.validation.lane_gate import lane_gate
from trafficgrad.validation.merges import merges
from trafficgrad.validation.outputs import Outputs
from trafficgrad.validation.platoon import platoon
from trafficgrad.validation.report import Check, Report, table
from trafficgrad.validation.ring_stability import ring_stability
from trafficgrad.validation.runs import Results, Run
from trafficgrad.validation.safety import safety

__all__ = ["GROUPS", "Check", "Group", "Outputs", "Report", "validate"]


class Group(NamedTuple):
    """A group of checks."""

    title: str
    run: Callable[[Run], Results]


GROUPS: dict[str, Group] = {
    "equilibrium": Group("Uniform flow: 22 cars on a ring", equilibrium),
    "ring_stability": Group("Linear stability of a ring", ring_stability),
    "platoon": Group("String stability of a platoon", platoon),
    "fundamental_diagram": Group("Fundamental diagram", fundamental_diagram),
    "jam": Group("Jam out of nothing", jam),
    "control": Group("One controlled vehicle against the jam", control),
    "junction_discharge": Group("Queues that a signal releases", junction_discharge),
    "gridlock": Group("An hour of a grid", gridlock),
    "safety": Group("Safety and identity of the shipped scenarios", safety),
    "lane_changes": Group("Lane changes beside SUMO's LC2013", lane_changes),
    "merges": Group("Merges beside SUMO", merges),
    "lane_gate": Group("Gradient through a lane choice", lane_gate),
}


def validate(
    only: Sequence[str] = (),
    quick: bool = False,
    outputs: Outputs | None = None,
    console: Console | None = None,
    device: torch.device | str = "cpu",
) -> Report:
    """Run the checks and print their table.

    When the run is cut short, what was computed is printed all the same, and written as JSON; a document keeps the
    table that it has.

    Parameters:
        only: groups to run, names of ``GROUPS``; default: all. quick: fewer and shorter runs, a minute or two.
        outputs: files to write; default: none. console: where to print; default: standard output.
        device: of the simulations. They are in float64, but for ``safety``, which runs the scenarios as they ship.

    Raises:
        TrafficGradError: no such group, a document without a place for the table, a file that cannot be written.
        OSError: a folder that cannot be made.
    """
    for name in only:
        if name not in GROUPS:
            raise TrafficGradError(
                f"unknown group of checks {name!r}{nearest_name(name, GROUPS)}; valid are {', '.join(GROUPS)}"
            )
    chosen = [name for name in GROUPS if not only or name in only]
    titles = {name: group.title for name, group in GROUPS.items()}
    outputs = outputs or Outputs()
    outputs.check()
    console = console or terminal.console()
    report, begun = Report(quick), time.perf_counter()
    try:
        with console.status("validating ...") as status:
            for place, name in enumerate(chosen):
                report.missing = tuple(chosen[place:])
                head = f"{place + 1} of {len(chosen)}, {GROUPS[name].title}"
                run = Run(quick, torch.device(device), lambda text, head=head: status.update(f"{head}: {text}"))  # type: ignore[misc]
                group_begun = time.process_time()
                _collect(report, name, run, outputs.plots)
                report.cpu_seconds[name] = time.process_time() - group_begun
            report.missing = ()
    finally:
        report.seconds = time.perf_counter() - begun
        console.print(table(report, titles))
        console.print(report.summary())
        for figure in report.figures:
            console.print(str(figure), soft_wrap=True)
        outputs.write_data(report)
    outputs.write_markdown(report, titles)
    return report


def _collect(report: Report, name: str, run: Run, folder: Path | None) -> None:
    """Run one group into the report."""
    for result in GROUPS[name].run(run):
        if isinstance(result, Check):
            report.checks.append(dataclasses.replace(result, group=name))
        elif folder is not None:
            report.figures.append(result(folder / f"{name}.png"))
