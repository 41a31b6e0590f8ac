"""Scenes whose pictures are kept as references: ``python tests/scenes.py`` draws them anew.

Look at what it wrote before it is committed: the tests only say that nothing has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pygame
import torch

import trafficgrad as tg
from trafficgrad.live import LiveTraffic
from trafficgrad.pictures import Drive, live
from trafficgrad.render import Stage, Style, TrajectoryFrames

FOLDER = Path(__file__).parent / "golden" / "pictures"
SIZE = (800, 450)
EVERYTHING = ("lane changes", "leaders", "trails", "time and space", "numbers")


def ring(lanes: int) -> TrajectoryFrames:
    """A ring of so many lanes with 8 s of traffic, drawn from a formula: no random numbers, no warm-up."""
    count = 6 * lanes
    slots = torch.arange(count)
    network = tg.ring(60.0 * 6, lanes)
    fleet = tg.Fleet(length=4.0 + (slots % 3), width=1.8, controlled=(0, 2 * lanes + 1))
    wishes = 9.0 + (slots * 7 % 11).double()
    simulator = tg.Simulator(network, fleet, tg.IDM(desired_speed=wishes), tg.MOBIL() if lanes > 1 else None)
    position = (slots // lanes * 60.0 + slots % lanes * 9.0).double()
    state = tg.TrafficState(position[None], torch.full((1, count), 8.0, dtype=torch.float64), (slots % lanes)[None])
    return TrajectoryFrames.of(simulator.simulate(state, 80), simulator, captions={"reward": torch.linspace(0, 1, 80)})


def crossing() -> TrajectoryFrames:
    """Streets that cross, with signals."""
    simulator = tg.load_scenario("intersection", ["simulation.warmup_steps=0"]).build()
    scenario = tg.load_scenario("intersection", ["simulation.warmup_steps=0"])
    state = scenario.initial_state(1, torch.Generator().manual_seed(0), simulator=simulator)
    return TrajectoryFrames.of(simulator.simulate(state, 200), simulator)


def sweep() -> LiveTraffic:
    """The pace car that ships, with the gradient."""
    source = live(Drive("pace_car_10lane", seconds=8.0))[2]
    source.gradients = True
    source.finish()
    return source


def stage(source: TrajectoryFrames | LiveTraffic, title: str, style: Style, zoom: float = 1.0) -> Stage:
    """A picture of a source as it shall be arranged."""
    made = Stage(source, SIZE, title=title, style=style)
    if zoom > 1.0:
        made.zoom(zoom, made.scene.area.center)
    return made


# Name -> stage, and the moment in s after the start.
SCENES: dict[str, Callable[[], tuple[Stage, float]]] = {
    "ring_1": lambda: (stage(ring(1), "one lane", Style("acceleration", ("leaders",))), 6.0),
    "ring_4": lambda: (stage(ring(4), "four lanes", Style(show=EVERYTHING)), 7.3),
    "ring_10": lambda: (stage(ring(10), "ten lanes", Style("time headway", follow=1)), 5.0),
    "crossing": lambda: (stage(crossing(), "a crossing", Style(show=("trails",)), zoom=1.6), 18.0),
    "pace_car": lambda: (stage(sweep(), "a pace car", Style(show=("trails", "gradient"), follow=1)), 6.4),
}


def main() -> None:
    """Draw all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in SCENES.items():
        made, moment = make()
        pygame.image.save(made.draw(made.source.start + moment), FOLDER / f"{name}.png")
        sys.stdout.write(f"{FOLDER / name}.png\n")


if __name__ == "__main__":
    main()
