"""Uniform flow: 22 cars on rings of 220 to 270 m settle at the speed of the closed form."""

from __future__ import annotations

from functools import partial

import numpy as np

from trafficgrad.render import validation_plots
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet
from trafficgrad.validation.report import near
from trafficgrad.validation.runs import Results, Run, drive, idm, separate_rings, to_numpy, uniform_traffic
from trafficgrad.validation.theory import FLOW, ring_speed

CARS = 22
LENGTHS = (220.0, 230.0, 240.0, 250.0, 260.0, 270.0)
SECONDS = 120.0  # uniform speed relaxes within 2 s; nothing disturbs the symmetry that hides the instability


def equilibrium(run: Run) -> Results:
    """From standstill, equally spaced: the speed after two minutes."""
    simulator = Simulator(separate_rings(LENGTHS), Fleet(), idm(FLOW))
    record = drive(run, simulator, uniform_traffic(run, LENGTHS, CARS), SECONDS, what="settling")
    measured = to_numpy(record.speed[-1])
    for length, speeds in zip(LENGTHS, measured, strict=True):
        expected = ring_speed(FLOW, length, CARS)
        worst = speeds[np.argmax(np.abs(speeds - expected))]  # of all cars
        yield near(f"speed on {length:.0f} m", expected, worst, 1e-3, "m/s", 4, "closed form")
    curve = np.linspace(LENGTHS[0] - 10, LENGTHS[-1] + 10, 60)
    yield partial(
        validation_plots.draw_equilibrium,
        curve,
        np.array([ring_speed(FLOW, x, CARS) for x in curve]),
        np.array(LENGTHS),
        measured.mean(1),
    )
