"""An hour of the shipped grid at its stated demand: what comes goes through, and nobody stands for ever.

The signals run by the clock, as the network's programmes say. Gridlock would show three times: flow falls below the
demand, vehicles stand longer than reds explain, and the number of those who are on the road or wait outside grows.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import numpy as np
import torch

from trafficgrad.render import validation_plots
from trafficgrad.scenario_config import TrafficScenario, load_traffic
from trafficgrad.signals import FIXED
from trafficgrad.simulator import Simulator
from trafficgrad.validation.network_watch import NetworkWatch
from trafficgrad.validation.report import near, none_of, within
from trafficgrad.validation.runs import Results, Run, to_numpy
from trafficgrad.validation.theory import Array

SCENARIO = "grid_3x3"
SECONDS, WINDOW = 3600.0, 600.0  # the hour, and what is judged at its end
QUICK_SECONDS, QUICK_WINDOW = 330.0, 148.0  # two cycles, after what it takes to fill the streets
WORLDS, QUICK_WORLDS = 5, 1
CYCLES = 2.0  # of a signal, that nobody stands longer
STANDING = 0.1  # m/s
SIGMAS = 3.0  # of Poisson numbers


def gridlock(run: Run) -> Results:
    """Flow, longest stand, and how many are there, of five worlds."""
    worlds = QUICK_WORLDS if run.quick else WORLDS
    scenario = load_traffic(SCENARIO, [f"pool_size={worlds}"])
    hour = _simulate(run, scenario, _by_the_clock(scenario, run), QUICK_SECONDS if run.quick else SECONDS)
    seconds = QUICK_WINDOW if run.quick else WINDOW
    window = round(seconds / hour.dt)
    demand = scenario.build().demand
    assert demand is not None
    expected = sum(float(inflow.rate) for inflow in demand.inflows) * seconds * worlds
    left = hour.left[-1] - hour.left[-1 - window]
    per_hour = 3600.0 / seconds / worlds
    noise = SIGMAS * math.sqrt(expected)
    source = f"Poisson demand, {worlds} worlds, last {seconds:.0f} s"
    yield near(
        "flow out", expected * per_hour, left.sum() * per_hour, noise * per_hour,
        "veh/h", 0, source,
    )  # fmt: skip
    limit = CYCLES * hour.cycle
    yield within("longest stand of anybody", -np.inf, limit, hour.longest_stand, "s", 0, "two cycles")
    if not run.quick:
        early, late = (x.mean() for x in (hour.there[window : 2 * window], hour.there[-window:]))
        yield within("vehicles there, late over early", 0.85, 1.15, late / early, "", 3, "windows of 10 min")
    most, waiting = float(len(demand.inflows)), hour.waiting[-1].max()
    yield within("waiting outside at the end, worst world", -np.inf, most, waiting, "", 0, "one at each entrance")
    violations = hour.violations
    named = f" ({', '.join(f'{n} {what}' for what, n in violations.items())})" if violations else ""
    yield none_of(f"violations{named}", sum(violations.values()), "", "as in safety")
    yield partial(
        validation_plots.draw_gridlock, hour.time, hour.there, hour.waiting, hour.left,
        expected / worlds / seconds * 3600.0, hour.dt,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Hour:
    """What was seen. Arrays are [steps, worlds], vehicles."""

    dt: float  # s
    cycle: float  # s, longest of the signals
    time: Array  # [steps] s
    there: Array  # on the road and waiting outside
    waiting: Array
    left: Array  # since the beginning
    longest_stand: float  # s
    violations: dict[str, int]


def _by_the_clock(scenario: TrafficScenario, run: Run) -> Simulator:
    """The scenario's simulator with signals that follow their programmes, whoever else may control them."""
    simulator = scenario.build(device=run.device)
    signals = simulator.signals
    assert signals is not None
    return dataclasses.replace(
        simulator, signals=dataclasses.replace(signals, kind=torch.full_like(signals.kind, FIXED))
    )


@torch.no_grad()
def _simulate(run: Run, scenario: TrafficScenario, simulator: Simulator, seconds: float) -> _Hour:
    assert simulator.demand is not None and simulator.signals is not None
    state = scenario.place(scenario.pool_size, torch.Generator().manual_seed(1), device=run.device)
    state = simulator.signals.start(simulator.demand.start(state))
    generator, watch = torch.Generator().manual_seed(2), NetworkWatch(simulator)
    stood, longest = torch.zeros_like(state.speed), 0.0
    rows = []
    steps = round(seconds / simulator.dt)
    for step in range(steps):
        if step % 100 == 0:
            run.say(f"{step * simulator.dt / 60:.0f} of {seconds / 60:.0f} min")
        after = simulator.step(state, None, simulator.sample_noise(state, generator))
        watch.add(state, after)
        stays = state.active & after.active & (state.vehicle_id == after.vehicle_id)
        stood = torch.where(stays & (after.speed < STANDING), stood + simulator.dt, 0.0)
        longest = max(longest, float(stood.max()))
        state = after
        waiting = simulator.demand.waiting(state).sum(1)
        rows.append(torch.stack([state.active.sum(1) + waiting, waiting, state.left]).cpu())
    seen = to_numpy(torch.stack(rows).double())
    return _Hour(
        simulator.dt, float(simulator.signals.durations.sum(-1).max()), np.arange(1.0, steps + 1.0) * simulator.dt,
        seen[:, 0], seen[:, 1], seen[:, 2], longest, watch.finish().violations,
    )  # fmt: skip
