"""How temperature, memory and clamp of the lane gradient bias it, on exact lane gates: docs/results/lane_gate.csv.

    python examples/lane_gate_study.py          # about ten minutes on one core
    python examples/lane_gate_study.py --table  # print what has been computed

A gate is a truck some way ahead (``trafficgrad.gradient_check.lane_gate``), a row one choice of the three numbers. The
bias is (E[dR/du] - truth) / truth. Shown are its median and worst absolute value over the settings in which the choice
is not rare, and in how many of all settings it is at most half of the bias of ``blocked``.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from trafficgrad.files import complete_file
from trafficgrad.gradient_check.lane_gate import SETTINGS, LaneGate, Quadrature
from trafficgrad.gradients import LaneGradient

FILE = Path(__file__).resolve().parent.parent / "docs" / "results" / "lane_gate.csv"
GATES = ((25.0, 10.0), (45.0, 14.0), (70.0, 10.0))  # gap m, speed of the truck m/s
CLAMPS = ((-2.0, 1.0), (-4.0, 2.0), (-9.0, 2.0), None)  # m/s2
MEMORIES = (3.0, 5.0, 10.0, float("inf"))  # s
TEMPERATURES = (0.01, 0.03, 0.1)
RARE = 0.2  # share of the jump in the truth below which a choice is rare


def compute() -> None:
    """Every gate with every choice; a line is kept as soon as it is known."""
    lines = read()
    done = {(line["gap"], line["clamp"], line["memory"], line["temperature"]) for line in lines}
    for gap, speed in GATES:
        exact = Quadrature(LaneGate(gap, speed))
        truths = [exact.truth(setting) for setting in SETTINGS]
        often = [t.jump > RARE * t.total for t in truths]
        blocked = [abs(bias) for bias in exact.biases(LaneGradient("blocked"))]
        for clamp, memory, temperature in itertools.product(CLAMPS, MEMORIES, TEMPERATURES):
            shown = "none" if clamp is None else f"{clamp[0]:g} {clamp[1]:g}"
            if (f"{gap:g}", shown, f"{memory:g}", f"{temperature:g}") in done:
                continue
            gradient = LaneGradient(choice_temperature=temperature, memory=memory, contrast_limits=clamp)
            biases = [abs(bias) for bias in exact.biases(gradient)]
            usual = sorted(b for b, counts in zip(biases, often, strict=True) if counts)
            halved = sum(own <= 0.5 * other for own, other in zip(biases, blocked, strict=True))
            lines.append(
                {
                    "gap": f"{gap:g}", "truck_speed": f"{speed:g}", "jump": f"{exact.jump:.1f}", "clamp": shown,
                    "memory": f"{memory:g}", "temperature": f"{temperature:g}",
                    "median_bias": f"{usual[len(usual) // 2]:.3f}", "worst_bias": f"{usual[-1]:.3f}",
                    "halved": str(halved),
                }
            )  # fmt: skip
            with complete_file(FILE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(lines[0]))
                writer.writeheader()
                writer.writerows(lines)


def read() -> list[dict[str, str]]:
    """The lines so far."""
    if not FILE.is_file():
        return []
    with FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def print_table() -> None:
    """A row per choice, a column per gate: median bias (worst), settings in which it is halved."""
    grid = Table(title="|bias| of straight_through, median (worst); settings of 12 with half of blocked's bias")
    for name in ("clamp m/s2", "memory s", "temperature"):
        grid.add_column(name)
    for gap, speed in GATES:
        grid.add_column(f"truck {gap:g} m ahead, {speed:g} m/s", justify="right")
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for line in read():
        cell = f"{float(line['median_bias']):.2f} ({float(line['worst_bias']):.2f})  {line['halved']}"
        rows.setdefault((line["clamp"], line["memory"], line["temperature"]), {})[line["gap"]] = cell
    for key, cells in rows.items():
        grid.add_row(*key, *(cells.get(f"{gap:g}", "") for gap, _ in GATES))
    Console(width=150).print(grid)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the table")
    if not parser.parse_args().table:
        torch.set_num_threads(1)
        compute()
    print_table()


if __name__ == "__main__":
    main()
