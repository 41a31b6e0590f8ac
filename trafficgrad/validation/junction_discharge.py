"""Queues that a signal releases: saturation headway, lost time, and how many pass in a cycle.

Saturated traffic on all four arms of a junction of two streets, everybody straight on, city drivers. The n-th vehicle
of a queue passes the stop line about ``lost time + n * headway`` after green, so that a green of G s and a yellow of
Y s let (G + Y - lost time) / headway vehicles through.

The first queues stand as close as their drivers wish. Those that form by themselves stand closer: IDM drivers overshoot
a little and stop 1.77 m behind each other, not 2 m. Each of them starts later, and the queue passes more slowly.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import RoadNetwork, intersection
from trafficgrad.render import validation_plots
from trafficgrad.signals import Signals
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.validation.report import Check, near, within
from trafficgrad.validation.runs import Results, Run, idm
from trafficgrad.validation.theory import CITY, Array, queue_discharge

DT = 0.1  # s
GREENS = (30.0, 45.0)  # s; in the second 15 vehicles pass
YELLOW, ALL_RED = 3.0, 2.0  # s
CYCLES = 4
VEHICLES = 24  # of a queue in the integrations
FIRST, LAST = 5, 15  # between these vehicles of a queue its headway is measured
HEADWAY, LOST_TIME = 2.16, 4.0  # s, of city drivers
ARM, QUEUE, SLOTS = 300.0, 38, 240  # m, vehicles of a queue at the start, of all arms at any time
QUICK_QUEUE, QUICK_SLOTS = 22, 60  # on two arms, in the first green
RATE = 0.5  # vehicles/s on every arm, more than passes
AXIS = (("west", "east"), ("east", "west"), ("north", "south"), ("south", "north"))  # where from, where to
SOURCE = "IDM, integrated"


def junction_discharge(run: Run) -> Results:
    """The first queues and the later ones of a few cycles, beside integrations of the IDM."""
    closest, formed = queue_discharge(CITY, VEHICLES), queue_discharge(CITY, VEHICLES, formed=True)
    passed = {green: _simulate(run, green) for green in (GREENS[1:] if run.quick else GREENS)}
    long = passed[GREENS[1]]
    first = [cycles[0] for cycles in long[:2]]  # those of the street that has green first: nobody brakes before
    yield from _judge_queues("first queues", first, closest)
    headway, lost = _mean_line(first)
    yield near("first queues: headway, city drivers", HEADWAY, headway, 0.1, "s", 3, "expected of the parameters")
    yield near("first queues: lost time, city drivers", LOST_TIME, lost, 0.6, "s", 3, "expected of the parameters")
    if not run.quick:
        later = [times for cycles in long for times in cycles[1:]]
        yield from _judge_queues("later queues", later, formed)
        found = _mean_line(later)[0]
        low, high = HEADWAY - 0.1, HEADWAY + 0.1
        yield Check(
            "later queues: headway, city drivers", HEADWAY, found, low, high, "s", 3, False, "they stand closer"
        )
        for green, arms in passed.items():
            counts = np.array([len(times) for cycles in arms for times in cycles[1:]])
            headway, lost = _line(formed)
            yield from _judge_counts(green, counts, (green + YELLOW - lost) / headway)
    theory = {"from the closest queue": closest, "from a queue that formed": formed}
    lines = {name: _line(times) for name, times in theory.items()}
    drawn = {green: [times for cycles in arms for times in cycles] for green, arms in passed.items()}
    yield partial(validation_plots.draw_junction_discharge, theory, lines, drawn, YELLOW, (FIRST, LAST))


def _judge_queues(name: str, queues: list[Array], expected: Array) -> list[Check]:
    """The queue that is furthest from the integration, in headway and in lost time."""
    headway, lost = _line(expected)
    found = np.array([_line(times) for times in queues])
    worst = found[np.argmax(np.abs(found - (headway, lost)), 0), [0, 1]]
    return [
        near(f"{name}: saturation headway", headway, worst[0], 0.2 * DT, "s", 3, SOURCE),
        near(f"{name}: lost time", lost, worst[1], 2 * DT, "s", 3, SOURCE),
    ]


def _judge_counts(green: float, counts: Array, expected: float) -> list[Check]:
    """Vehicles of a cycle: their mean, and the fewest and most of all cycles and arms."""
    source = f"{len(counts)} queues; (G + Y - lost time) / headway"
    low, high = expected - 1.5, expected + 1.5
    return [
        near(f"green of {green:.0f} s: vehicles in a cycle", expected, counts.mean(), 1.0, "", 2, source),
        within(f"green of {green:.0f} s: fewest in a cycle", low, high, counts.min(), "", 1, source),
        within(f"green of {green:.0f} s: most in a cycle", low, high, counts.max(), "", 1, source),
    ]


def _mean_line(queues: list[Array]) -> tuple[float, float]:
    headway, lost = np.array([_line(times) for times in queues]).mean(0)
    return float(headway), float(lost)


def _line(times: Array) -> tuple[float, float]:
    """Saturation headway and lost time (s) of a queue whose vehicles passed at ``times`` (s) after green."""
    if len(times) < LAST:
        return np.nan, np.nan
    headway = (times[LAST - 1] - times[FIRST - 1]) / (LAST - FIRST)
    return float(headway), float(times[LAST - 1] - LAST * headway)


@torch.no_grad()
def _simulate(run: Run, green: float) -> list[list[Array]]:
    """When vehicles passed the stop line, s after green, by arm (in the order of ``AXIS``) and cycle."""
    network, rate = _junction(green), 0.0 if run.quick else RATE
    simulator = Simulator(
        network, Fleet(), idm(CITY), dt=DT, signals=Signals.of(network, torch.float64, run.device),
        demand=Demand([Inflow(network.edge_index(f"{a}_in"), (r,), rate=rate) for r, (a, _) in enumerate(AXIS)]),
    )  # fmt: skip
    state = _queues(run, simulator)
    half = green + YELLOW + ALL_RED
    # The street that has green first comes first in AXIS; a cycle of the other begins half a cycle later.
    begins = (0.0, 0.0, half, half)
    cycles = 1 if run.quick else CYCLES
    seconds = half if run.quick else cycles * 2 * half
    approaches = [network.lanes.index((network.edge_index(f"{a}_in"), 0)) for a, _ in AXIS]
    lines = network.lane_length[approaches]
    passed: list[list[list[float]]] = [[[] for _ in range(cycles)] for _ in AXIS]
    for step in range(round(seconds / DT)):
        if step % 100 == 0:
            run.say(f"green of {green:.0f} s: {step * DT:.0f} of {seconds:.0f} s")
        after = simulator.step(state)
        moved = state.active[0] & (state.vehicle_id[0] == after.vehicle_id[0]) & (state.lane[0] != after.lane[0])
        for arm, approach in enumerate(approaches):
            for i in (moved & (state.lane[0] == approach)).nonzero()[:, 0].tolist():
                before, beyond = float(lines[arm] - state.position[0, i]), float(after.position[0, i])
                time = step * DT + DT * before / (before + beyond) - begins[arm]
                passed[arm][int(time // (2 * half))].append(time % (2 * half))
        state = after
    arms = passed[:2] if run.quick else passed
    return [[np.sort(np.array(times)) for times in cycles] for cycles in arms]


def _junction(green: float) -> RoadNetwork:
    """Two streets of one lane a direction, with a signal."""
    network = intersection(
        lanes=1, arm_length=ARM, speed_limit=CITY.desired_speed, left_lanes=0, protected_left=False, green=green,
        yellow=YELLOW, all_red=ALL_RED,
    )  # fmt: skip
    return network.with_routes([[f"{a}_in", f"{b}_out"] for a, b in AXIS])


def _queues(run: Run, simulator: Simulator) -> TrafficState:
    """A standing queue on every arm, and room for those who come."""
    network = simulator.network
    arms, vehicles, slots = (2, QUICK_QUEUE, QUICK_SLOTS) if run.quick else (len(AXIS), QUEUE, SLOTS)
    place = run.tensor(np.zeros(slots))
    lane, route = (torch.zeros(slots, dtype=torch.int64, device=run.device) for _ in range(2))
    spacing = CITY.length + CITY.min_gap
    for arm, (a, _) in enumerate(AXIS[:arms]):
        own = slice(arm * vehicles, (arm + 1) * vehicles)
        lane[own] = network.lanes.index((network.edge_index(f"{a}_in"), 0))
        line = float(network.lane_length[int(lane[own][0])])
        place[own] = line - CITY.min_gap - spacing * torch.arange(vehicles, device=run.device)
        route[own] = arm
    active = torch.arange(slots, device=run.device) < arms * vehicles
    state = TrafficState(
        place[None], torch.zeros_like(place)[None], lane[None], route=route[None], active=active[None],
        driver=torch.zeros_like(lane)[None],
    )  # fmt: skip
    assert simulator.demand is not None and simulator.signals is not None
    return simulator.signals.start(simulator.demand.start(state))
