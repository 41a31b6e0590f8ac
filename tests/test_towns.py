"""Nothing collides and nobody waits for ever in towns of all kinds; gradients through junctions are exact."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import networkx as nx
import pytest
import torch
from junction_runs import CITY, LENGTH, WIDTH, fork, highway_and_ramp
from oracles.road_worlds import (
    DOUBLE,
    Placed,
    add_town,
    closed_walks,
    crossing,
    scatter,
    state_of,
)
from torch import Tensor

import trafficgrad as tg
from trafficgrad import metrics
from trafficgrad.bodies import touching
from trafficgrad.network import RoadNetwork
from trafficgrad.network.signal_defaults import default_programmes
from trafficgrad.signals import Signals
from trafficgrad.state import TrafficState

# ---------------------------------------------------------------------------------------------- towns

RULES = ("priority", "all_way_stop", "signals")
TOWNS = [(rule, lanes) for rule in RULES for lanes in (1, 2)]
PER_TOWN, WORLDS, STEPS = 35, 2, 1500
# s that a vehicle may stand: at signals somewhat more than their cycle of 70 s, elsewhere a queue before a busier road.
LONGEST_STOP = {"priority": 60.0, "all_way_stop": 40.0, "signals": 80.0}


class Traffic(NamedTuple):
    """A run of all towns, [2, 6 * 35]."""

    hardest: Tensor  # m/s2, after the first 5 s
    longest: Tensor  # s at a stretch below 0.3 m/s
    driven: Tensor  # m
    slowest: Tensor  # m/s
    overlaps: Tensor  # bool, has overlapped with its leader
    touching: list[tuple[int, int, int, int]]  # step, world, slots
    identities: bool  # slots, drivers, routes and activity have stayed
    end: TrafficState


@cache
def traffic() -> Traffic:
    """All towns at once, side by side in one network: 3 x 3 blocks of two-way streets, vehicles on closed walks."""
    graph = nx.MultiDiGraph()
    for rule, lanes in TOWNS:
        add_town(graph, f"{rule} {lanes}", rule, lanes, (1000.0 * lanes, 1000.0 * RULES.index(rule)))
    network = RoadNetwork.from_graph(default_programmes(graph))
    walks = [closed_walks(network, 20, seed, f"{rule} {lanes}") for seed, (rule, lanes) in enumerate(TOWNS)]
    network = network.with_routes([walk for town in walks for walk in town], loops=True)
    worlds = []
    for seed in range(WORLDS):
        rng, world = random.Random(seed), []
        for town in range(len(TOWNS)):
            world += scatter(network, range(20 * town, 20 * town + 20), PER_TOWN, rng, 3.0)
        worlds.append(world)
    sim = tg.Simulator(network, tg.Fleet(), CITY, tg.MOBIL(sides="alternate"), signals=Signals.of(network))
    assert sim.signals is not None
    state = sim.signals.start(state_of(network, worlds, torch.float32))
    start = state
    zero = torch.zeros_like(state.speed)
    hardest, stands, longest, driven, slowest = (zero.clone() for _ in range(5))
    overlaps, touched = torch.zeros_like(state.active), []
    with torch.no_grad():
        for step in range(STEPS):
            after = sim.step(state)
            if step >= 50:
                hardest = torch.minimum(hardest, (after.speed - state.speed) / sim.dt)
            driven += (after.speed + state.speed) / 2 * sim.dt
            state = after
            slowest = torch.minimum(slowest, state.speed)
            stands = torch.where(state.speed < 0.3, stands + sim.dt, 0.0)
            longest = torch.maximum(longest, stands)
            if step % 10 == 0:
                overlaps |= metrics.overlaps(sim.neighbors(state))
                touched += [(step, *pair) for pair in touching(state, network, LENGTH, WIDTH).tolist()]
    same = all(torch.equal(getattr(state, n), getattr(start, n)) for n in ("vehicle_id", "driver", "route", "active"))
    return Traffic(hardest, longest, driven, slowest, overlaps, touched, same, state)


@pytest.mark.parametrize("town", range(len(TOWNS)), ids=[f"{rule}, {lanes} lane(s)" for rule, lanes in TOWNS])
def test_towns_run_without_collisions_hard_braking_or_gridlock(town: int) -> None:
    found, slots = traffic(), slice(PER_TOWN * town, PER_TOWN * (town + 1))
    in_town = [pair for pair in found.touching if slots.start <= pair[2] < slots.stop]
    assert not in_town, "bodies touch"
    assert not bool(found.overlaps[:, slots].any()), "vehicles overlap in a lane"
    assert float(found.hardest[:, slots].min()) > -6.0
    assert float(found.slowest[:, slots].min()) >= 0.0
    assert float(found.longest[:, slots].max()) < LONGEST_STOP[TOWNS[town][0]]
    assert float(found.driven[:, slots].min()) > 200.0, "everybody gets on, at least 1.3 m/s on average"
    assert found.identities and bool(torch.isfinite(found.end.position).all())


# ---------------------------------------------------------------------------------------------- gradients


def driven(network: RoadNetwork, placed: list[Placed], inputs: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Metres that each vehicle has driven after ``steps`` [B, N], and all lanes and rights of way [2 steps, B, N].

    ``inputs`` [6, B, N]: initial speeds and the drivers' parameters.
    """
    speed, desired, headway, push, braking, gap = inputs
    sim = tg.Simulator(network, tg.Fleet(), tg.IDM(desired, headway, push, braking, gap))
    start = state = dataclasses.replace(state_of(network, [placed] * inputs.shape[1]), speed=speed)
    passed, choices = torch.zeros_like(state.position), []
    for _ in range(steps):
        before = state
        state = sim.step(state)
        passed = passed + torch.where(state.lane == before.lane, 0.0, network.lane_length[before.lane])
        choices += [state.lane, state.right_of_way]
    return passed + state.position - start.position, torch.stack(choices)


GRADIENT_CASES: dict[str, tuple[Callable[[], RoadNetwork], list[Placed], int, tuple[int, int]]] = {
    # network, vehicles, steps, and (who, by whose initial speed) there must be a derivative
    "crossing": (lambda: crossing(rank=(1, 0)), [Placed(0, 70.0), Placed(1, 80.0), Placed(1, 60.0)], 160, (2, 1)),
    "merge": (highway_and_ramp, [Placed(0, 500.0), Placed(1, 95.0), Placed(0, 450.0)], 110, (2, 1)),
    "fork": (fork, [Placed(1, 240.0), Placed(0, 215.0), Placed(0, 180.0)], 120, (1, 0)),
}


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients_through_a_junction_equal_central_differences(case: str) -> None:
    """In float64, away from switches: the lanes and rights of way of all steps are those of the shifted runs."""
    build, placed, steps, (who, whose) = GRADIENT_CASES[case]
    network = build()
    columns = [[11.0, 13.0, 1.1, 1.2, 1.6, 2.0], [10.0, 14.0, 1.0, 1.0, 1.5, 2.2], [9.5, 15.0, 0.9, 1.1, 1.4, 1.9]]
    base = torch.tensor(columns, dtype=DOUBLE).T[:, None].contiguous().requires_grad_()  # [6, 1, 3]
    end, choices = driven(network, placed, base, steps)
    assert len(torch.unique(choices[0::2])) >= 4, "they drive through the junction"
    jacobian = torch.stack([torch.autograd.grad(x, base, retain_graph=True)[0].view(-1) for x in end[0]])
    # All shifted runs in one batch: twice as many worlds as there are inputs.
    values = base.detach().view(-1)
    step = torch.diag(1e-6 * values)
    shifted = torch.cat([values + step, values - step]).T.reshape(6, 3, -1).movedim(1, 2)
    with torch.no_grad():
        ends, others = driven(network, placed, shifted, steps)
    assert torch.equal(others, choices.expand_as(others)), "a switch is too near"
    plus, minus = ends.chunk(2)
    differences = ((plus - minus) / (2.0 * step.diagonal()[:, None])).T
    # Rounding of 1e-14 m, divided by steps of 1e-6, is less than 1e-7 of the largest derivatives.
    scale = differences.abs().amax(1, keepdim=True)
    assert float(((jacobian - differences).abs() / scale).max()) < 1e-5
    assert abs(float(jacobian.view(3, 6, 3)[who, 0, whose])) > 1e-3
