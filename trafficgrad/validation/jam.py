"""The jam out of nothing: 22 cars on a ring, as in the experiment of Sugiyama et al. (New J. Phys. 10 (2008) 033001).

The figures of the deterministic runs are SUMO 1.28's, printed by ``tests/oracles/record_jam.py``: 600 s from
standstill, equally spaced, car 0 displaced by 1 m, dt 0.1 s; late means 400-600 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from trafficgrad import metrics
from trafficgrad.dynamics import Integrator
from trafficgrad.network import RoadNetwork
from trafficgrad.render import validation_plots
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.trajectory import Trajectory
from trafficgrad.validation.report import Check, near, within
from trafficgrad.validation.runs import Results, Run, drive, idm, separate_rings, to_numpy, uniform_traffic
from trafficgrad.validation.theory import FLOW, STABLE, Array, ring_speed, wave_growth

CARS = 22
PUSH = 1.0  # m, of car 0
SECONDS, LATE = 600.0, 400.0  # s, length of a run and where its late part begins
SUMO = "SUMO 1.28, same set-up"
NOISE, NOISE_SEEDS = 0.2, 5  # m/s2/sqrt(s) as Flow; worlds


@dataclass(frozen=True)
class Recorded:
    """What SUMO does on one ring with one update rule."""

    length: float  # m
    integrator: Integrator
    mean_speed: float  # late, m/s
    highest_speed: float  # late, m/s
    onset: float  # s, standard deviation of the speeds above 1 m/s
    growth: float  # of that deviation from 80 to 150 s, 1/s
    wave_speed: float  # late, m/s


RECORDED = (
    Recorded(230.0, "ballistic", 2.311, 8.68, 199.5, 0.0215, -4.25),
    Recorded(260.0, "ballistic", 3.166, 10.44, 229.5, 0.0205, -4.25),
    Recorded(230.0, "semi_implicit_euler", 2.397, 8.47, 219.0, 0.0201, -4.47),
    Recorded(260.0, "semi_implicit_euler", 3.293, 10.21, 248.5, 0.0191, -4.47),
)
RULES: dict[Integrator, str] = {"ballistic": "ballistic", "semi_implicit_euler": "Euler"}


def jam(run: Run) -> Results:
    """Jams of two rings and two update rules, drivers who cause none, and traffic with noise."""
    shown = None
    for integrator, rule in RULES.items():
        if run.quick and shown is not None:
            break
        cases = [case for case in RECORDED if case.integrator == integrator]
        record, network = _displaced(run, [case.length for case in cases], integrator, rule)
        waves = metrics.wave_speed(_late(record), network)
        for b, case in enumerate(cases):
            yield from _compare(f"{case.length:.0f} m {rule}", case, _world(record, b), float(waves[b]))
        shown = shown or record
    yield from _stable_drivers(run)
    if not run.quick:  # group control shows the same in its quick version
        yield from _noisy(run)
    assert shown is not None
    time, speed = np.arange(shown.steps + 1) * shown.dt, to_numpy(shown.speed[:, 0])
    rate = wave_growth(FLOW, 230.0, CARS).max()
    yield partial(validation_plots.draw_jam, time, to_numpy(shown.position[:, 0]), speed, 230.0, rate, -4.25)


def _displaced(run: Run, lengths: list[float], integrator: Integrator, rule: str) -> tuple[Trajectory, RoadNetwork]:
    network = separate_rings(lengths)
    simulator = Simulator(network, Fleet(), idm(FLOW), integrator=integrator)
    return drive(run, simulator, _standing(run, lengths), SECONDS, what=f"jams, {rule}"), network


def _standing(run: Run, lengths: list[float]) -> TrafficState:
    state = uniform_traffic(run, lengths, CARS)
    push = torch.zeros_like(state.position)
    push[:, 0] = PUSH
    return TrafficState(state.position + push, state.speed, state.lane)


def _compare(name: str, case: Recorded, speed: Array, wave: float) -> list[Check]:
    """``speed`` [times, cars], every 0.5 s."""
    late, deviation = speed[round(LATE * 2) :], speed.std(1)
    onset = float(np.argmax(deviation > 1.0)) / 2 if deviation.max() > 1.0 else np.inf
    field = "Sugiyama 2008, about -20 km/h"
    return [
        near(f"{name}: late mean speed", case.mean_speed, late.mean(), 0.01, "m/s", 3, SUMO),
        near(f"{name}: late lowest speed", 0.0, late.min(), 1e-6, "m/s", 3, SUMO),
        near(f"{name}: late highest speed", case.highest_speed, late.max(), 0.01, "m/s", 2, SUMO),
        near(f"{name}: onset, deviation above 1 m/s", case.onset, onset, 2.0, "s", 1, SUMO),
        near(f"{name}: growth, 80-150 s", case.growth, _growth(deviation), 2e-4, "1/s", 4, SUMO),
        near(f"{name}: wave speed", case.wave_speed, wave, 0.02 * abs(case.wave_speed), "m/s", 2, SUMO),
        within(f"{name}: wave speed, field", -22.0, -13.0, wave * 3.6, "km/h", 1, field),
    ]


def _growth(deviation: Array) -> float:
    """Slope of the logarithm of the deviation (every 0.5 s) from 80 to 150 s."""
    part = slice(160, 301)
    return float(np.polyfit(np.arange(160, 301) / 2, np.log(np.maximum(deviation[part], 1e-300)), 1)[0])


def _stable_drivers(run: Run) -> list[Check]:
    """Drivers with a longer headway who answer more quickly: the disturbance dies away."""
    simulator = Simulator(separate_rings([230.0]), Fleet(), idm(STABLE))
    record = drive(run, simulator, _standing(run, [230.0]), 200.0 if run.quick else 400.0, what="stable drivers")
    speed, expected = _world(record, 0), ring_speed(STABLE, 230.0, CARS)
    rate = wave_growth(STABLE, 230.0, CARS).max()
    end = speed[-1]
    worst = end[np.argmax(np.abs(end - expected))]
    return [
        near("230 m stable drivers: speed of every car", expected, worst, 1e-3, "m/s", 4, "closed form"),
        near("230 m stable drivers: growth, 80-150 s", rate, _growth(speed.std(1)), 1e-3, "1/s", 4, "dispersion"),
        within("230 m stable drivers: deviation at the end", 0.0, 0.02, speed[-1].std(), "m/s", 4, "no jam"),
    ]


def _noisy(run: Run) -> list[Check]:
    """With noise in every car's acceleration, from standstill: the jam forms by itself and keeps its mean speed."""
    network = separate_rings([230.0] * NOISE_SEEDS)
    simulator = Simulator(network, Fleet(acceleration_noise=NOISE), idm(FLOW), integrator="semi_implicit_euler")
    state = uniform_traffic(run, [230.0] * NOISE_SEEDS, CARS)
    generator = torch.Generator().manual_seed(0)
    late = _late(drive(run, simulator, state, SECONDS, what="traffic with noise", generator=generator))
    speed, wave = to_numpy(late.speed), float(metrics.wave_speed(late, network).mean())
    source = "independent integrator"  # tests/oracles/noisy_ring.py; the tolerances are half the range of its 20 seeds
    return [
        near("230 m noise 0.2: late mean speed", 2.403, speed.mean(), 0.015, "m/s", 3, source),
        near("230 m noise 0.2: late deviation", 2.92, speed.std(-1).mean(), 0.015, "m/s", 3, source),
        within("230 m noise 0.2: late lowest speed", 0.0, 0.001, speed.min(), "m/s", 3, source),
        near("230 m noise 0.2: wave speed", -16.13, wave * 3.6, 0.06, "km/h", 2, source),
    ]


def _late(record: Trajectory) -> Trajectory:
    first = round(LATE / record.dt)
    return Trajectory.of([record.state(t) for t in range(first, record.steps + 1)], None, record.dt)


def _world(record: Trajectory, world: int) -> Array:
    """Speeds of one world, [times, cars]."""
    return to_numpy(record.speed[:, world])
