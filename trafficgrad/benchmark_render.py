"""How fast traffic is drawn (``trafficgrad bench --render``): pictures of the viewer a second, without a screen, and a
film of a scenario.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from trafficgrad import pictures, terminal
from trafficgrad.benchmark import Size, make_case
from trafficgrad.render import FrameSource, Style, TrajectoryFrames, Viewer
from trafficgrad.render.charts import CHARTS
from trafficgrad.render.frames import Details
from trafficgrad.render.overlays import LaneChanges, LeaderLinks, Trails

WINDOW = (1280, 720)
SIZES = (Size(1, 60, 4), Size(1, 1000, 4), Size(1, 20_000, 10, 20))
EVERYTHING = (LaneChanges.name, LeaderLinks.name, Trails.name, *CHARTS)  # but the gradient
FILM = ("ring_4lane", 60.0)  # scenario, s of film
_SECONDS = 12.0  # of traffic that are driven for the pictures
_RATE = 60.0  # pictures a second of real time that is asked for


@dataclass(frozen=True)
class RenderRow:
    """One measured line."""

    name: str
    value: float
    unit: str


def run(
    repetitions: int = 5,
    sizes: Sequence[Size] = SIZES,
    film: tuple[str, float] = FILM,
    pictures_each: int = 60,
    console: Console | None = None,
) -> list[RenderRow]:
    """Measure and print. The window is SDL's dummy: the same software drawing, for nobody."""
    console = console or terminal.console()
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    rows = []
    for size in sizes:
        source = traffic(size)
        for label, show in (("no overlay", ()), ("all overlays but the gradient", EVERYTHING)):
            name = f"{size.vehicles:,} vehicles, {WINDOW[0]} x {WINDOW[1]}, {label}"
            with console.status(f"measuring {name} ..."):
                rows.append(
                    RenderRow(name, pictures_per_second(source, show, pictures_each, repetitions), "pictures/s")
                )
    scenario, seconds = film
    name = f"film of {scenario}, {seconds:g} s at 25 pictures a second, simulation included"
    with console.status(f"measuring {name} ..."):
        rows.append(RenderRow(name, film_seconds(scenario, seconds), "s"))
    table = Table(title="drawing, one thread", show_header=False)
    for row in rows:
        table.add_row(row.name, f"{row.value:.3g} {row.unit}")
    console.print(table)
    return rows


def traffic(size: Size) -> FrameSource:
    """Some seconds of traffic of a size."""
    simulator, state = make_case(size, torch.float32)
    with torch.no_grad():
        trajectory = simulator.simulate(state, round(_SECONDS / simulator.dt))
    details = Details(desired_speed=simulator.car_following.desired_speed)
    return TrajectoryFrames.of(
        trajectory, simulator, captions={"reward": torch.zeros(trajectory.steps)}, details=details
    )


def pictures_per_second(source: FrameSource, show: Sequence[str], count: int, repetitions: int) -> float:
    """Median over the repetitions, of the viewer playing in real time; what is kept is warm."""
    viewer = Viewer(source, WINDOW, style=Style(show=tuple(show)))
    surface = viewer.draw()
    viewer.player.go_to(source.start + 0.6 * (source.end - source.start))
    for _ in range(count):
        viewer.draw(surface)
        viewer.advance(1.0 / _RATE)
    rates = []
    for _ in range(repetitions):
        viewer.player.go_to(source.start + 0.6 * (source.end - source.start))
        begun = time.perf_counter()
        for _ in range(count):
            viewer.draw(surface)
            viewer.advance(1.0 / _RATE)
        rates.append(count / (time.perf_counter() - begun))
    return statistics.median(rates)


def film_seconds(scenario: str, seconds: float) -> float:
    """S that writing a film in real time takes, with the simulation."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        show = pictures.perform(pictures.Drive(scenario, seconds=seconds))
        pictures.film(show, Path(folder) / "film.mp4", speed=1.0)
        return time.perf_counter() - begun
