"""Merges: an on-ramp with an acceleration lane, one that yields and one that zips, beside the band of SUMO's runs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from trafficgrad.demand import Demand, Inflow
from trafficgrad.lane_change import MOBIL
from trafficgrad.network import RoadNetwork
from trafficgrad.render import validation_plots
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.validation.merge_reference import (
    EDGES,
    ELSEWHERE,
    MergeCase,
    Observer,
    build,
    load_merges,
    unit,
)
from trafficgrad.validation.report import Check
from trafficgrad.validation.runs import Results, Run, idm, to_numpy
from trafficgrad.validation.theory import FLOW

USUAL = MOBIL(threshold=0.1, safe_deceleration=4.0, sides="alternate")
SLOTS = 200  # more than stand on these roads
SOURCE = "SUMO 1.28"
QUICK_DT, QUICK_WARM_UP, QUICK_SECONDS = 0.5, 60.0, 240.0  # s
JUDGED = ("lane", "zipper")  # the cases whose bands are judged
SHOWN = (("zipper", "speed on the ramp"),)  # but for this: SUMO's vehicles enter this short ramp more slowly
DIGITS = {"": 3, "m/s": 2, "veh/h": 0, "m": 0}


def merges(run: Run) -> Results:
    """Means over the seeds, beside the lowest and highest of SUMO's runs."""
    drawn = []
    for name, case in load_merges().items():
        if run.quick and name != JUDGED[0]:
            break
        demands = range(1) if run.quick else range(len(case.demands))
        if run.quick:
            case = replace(case, dt=QUICK_DT, warm_up=QUICK_WARM_UP, seconds=QUICK_SECONDS)
        worlds = simulate_merge(run, case, demands, case.seeds)
        found: dict[str, list[validation_plots.MergeRow]] = {}
        for number in demands:
            title = f"{name}, {case.demands[number][0]:.0f} + {case.demands[number][1]:.0f}"
            for statistic in case.statistics():
                values = np.array([own[statistic] for own in worlds[number]])
                band = case.band(number, statistic)
                label = f"{statistic} in {unit(statistic)}" if unit(statistic) else statistic
                found.setdefault(label, []).append((case.runs[number, statistic], band, values))
                judged = name in JUDGED and (name, statistic) not in SHOWN
                yield Check(
                    f"{title}: {statistic}", case.reference(number, statistic), float(values.mean()), *band,
                    unit(statistic), DIGITS[unit(statistic)], judged, SOURCE,
                )  # fmt: skip
        drawn.append((case.title, [f"{a:.0f}\n+ {b:.0f}" for a, b in case.demands[: len(demands)]], found))
    yield partial(validation_plots.draw_merges, drawn)


@torch.no_grad()
def simulate_merge(
    run: Run, case: MergeCase, demands: range, seeds: tuple[int, ...], model: MOBIL = USUAL
) -> list[list[dict[str, float]]]:
    """Statistics of our traffic by demand and seed, one world each."""
    road = build(case.network)
    chosen = [(number, seed) for number in demands for seed in seeds]
    rates = run.tensor(np.array([case.demands[number] for number, _ in chosen])) / 3600.0
    inflows = [Inflow(road.edge_index(name), (q,), rate=rates[:, q]) for q, name in enumerate(EDGES[:2])]
    simulator = Simulator(road, Fleet(), idm(FLOW), model, dt=case.dt, max_braking=9.0, demand=Demand(inflows))
    empty = torch.zeros(len(chosen), SLOTS, dtype=torch.float64, device=run.device)
    none = torch.zeros_like(empty, dtype=torch.int64)
    state = TrafficState(
        empty, empty, none, driver=none, active=none > 0,
        seed=torch.tensor([seed for _, seed in chosen], device=run.device),
    )  # fmt: skip
    state = simulator.demand.start(state) if simulator.demand is not None else state
    where = _places(road)
    observers = [Observer(road) for _ in chosen]
    steps, each = round((case.warm_up + case.seconds) / case.dt), round(1.0 / case.dt)
    for step in range(1, steps + 1):
        if step % 200 == 0:
            run.say(f"{case.title}: {step * case.dt:.0f} of {steps * case.dt:.0f} s")
        before, state = state, simulator.step(state)
        if step * case.dt <= case.warm_up:
            continue
        same = state.active & (state.vehicle_id == before.vehicle_id)
        gone = before.active & ~same
        merged = same & (state.route == 1) & (where[before.lane] == where[state.lane]) & (before.lane != state.lane)
        left = torch.stack([(gone & (before.route == r)).sum(1) for r in range(2)], 1).tolist()
        for b, observer in enumerate(observers):
            observer.count(left[b], to_numpy(state.position[b, merged[b]]), case.dt)
            if step % each == 0:
                there = state.active[b]
                place, speed = to_numpy(state.position[b, there]), to_numpy(state.speed[b, there])
                observer.sample(where[state.lane[b, there]].cpu().numpy(), place, speed)
    found = [observer.statistics() for observer in observers]
    return [found[k * len(seeds) : (k + 1) * len(seeds)] for k in range(len(demands))]


def _places(road: RoadNetwork) -> torch.Tensor:
    """Of every lane, the row of ``EDGES`` that it belongs to, or ``ELSEWHERE``."""
    names = [str(key) for _, _, key in road.edges]
    rows = [EDGES.index(names[edge]) if edge < len(names) else ELSEWHERE for edge, _ in road.lanes]
    return torch.tensor(rows)
