"""Zips, ramps and roundabouts: lanes that join, in turn or by rank."""

from __future__ import annotations

import dataclasses
import math
import random

import networkx as nx
import torch
from junction_runs import CITY, LENGTH, MIN_GAP, WIDTH, equilibrium_gap, highway_and_ramp, run
from oracles.road_worlds import (
    Placed,
    add_road,
    road_lane,
    state_of,
    way_lane,
)

import trafficgrad as tg
from trafficgrad.bodies import touching
from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import RoadNetwork, roundabout
from trafficgrad.network.routing import shortest_route
from trafficgrad.state import TrafficState


def zipper() -> RoadNetwork:
    graph = nx.MultiDiGraph()
    graph.add_node("zip", position=(0.0, 0.0), right_of_way="zipper")
    add_road(graph, "start", "zip", "two", [(-300.0, 0.0), (-20.0, 0.0)], lanes=2, speed_limit=13.9)
    add_road(graph, "zip", "end", "one", [(20.0, 0.0), (420.0, 0.0)], speed_limit=13.9)
    return RoadNetwork.from_graph(graph).with_routes([["two", "one"]])


def test_two_full_lanes_alternate_in_a_zipper() -> None:
    """Queues of six that stand, crawl or drive; in one batch."""
    network, speeds = zipper(), (0.0, 4.0, 8.0)
    worlds = []
    for speed in speeds:
        spacing, line = LENGTH + equilibrium_gap(speed, 13.9), 270.0 - (speed**2 / 3.0 + speed)
        worlds.append([Placed(0, line - spacing * (k + 0.4 * n), speed, n) for k in range(6) for n in (0, 1)])
    sim = tg.Simulator(network, tg.Fleet(), CITY)
    touched = []

    def watch(before: TrafficState, after: TrafficState) -> None:
        if round(float(after.time[0]) / sim.dt) % 5 == 0:
            touched.extend(touching(after, network, LENGTH, WIDTH).tolist())

    found = run(sim, state_of(network, worlds), [road_lane(network, "one")], 620, watch=watch)
    assert bool(torch.isfinite(found.entered).all()) and not touched
    for entered in found.entered:
        assert [i % 2 for i in entered.argsort().tolist()] == [0, 1] * 6
    assert float(found.hardest.min()) > -3.5


def test_two_queues_side_by_side_pass_a_zipper_like_one() -> None:
    """One lane's queue of these drivers passes a line every 2.2 s; vehicles that wait at two lines for each other took
    4.2 s.
    """
    network = zipper()
    line = float(network.lane_length[road_lane(network, "two")])
    queue = [Placed(0, line - MIN_GAP - (LENGTH + MIN_GAP) * k, 0.0, n) for k in range(8) for n in (0, 1)]
    sim = tg.Simulator(network, tg.Fleet(), CITY)
    touched = []

    def watch(_: TrafficState, after: TrafficState) -> None:
        touched.extend(touching(after, network, LENGTH, WIDTH).tolist())

    found = run(sim, state_of(network, [queue]), [road_lane(network, "one")], 500, watch=watch)
    headways = found.entered[0].sort().values.diff()
    assert 1.9 < float(headways.mean()) < 2.6 and float(headways.max()) < 3.2
    assert not touched


@torch.no_grad()
def test_lanes_that_join_at_speed_do_so_without_hard_braking() -> None:
    """Four dense lanes become one at 20 m/s. Who counts on room for which no time is left must brake at 20 m/s2."""
    scenario = tg.load_scenario("bottleneck", ["pool_size=3"])
    sim = scenario.build()
    generator = torch.Generator().manual_seed(2)
    state = scenario.place(3, torch.Generator().manual_seed(1))
    hardest = 0.0
    for _ in range(240):
        after = sim.step(state, None, sim.sample_noise(state, generator))
        stays = after.active & state.active & (after.vehicle_id == state.vehicle_id)
        if bool(stays.any()):
            hardest = min(hardest, float(((after.speed - state.speed) / sim.dt)[stays].min()))
        state = after
    assert int(state.left.sum()) > 120
    assert -6.0 < hardest < -1.0


@torch.no_grad()
def test_a_roundabout_with_too_much_traffic_goes_on_moving() -> None:
    """Half as much again as it carries: whoever enters must leave the ring free for those who are on it."""
    arms = ("west", "south", "east", "north")
    ring = roundabout()
    routes = [
        shortest_route(ring, ring.edge_index(f"{a}_in"), ring.edge_index(f"{b}_out"))
        for a in arms
        for b in arms
        if a != b
    ]
    network = ring.with_routes(routes)
    rates = (750.0, 450.0, 450.0, 300.0)  # vehicles/h
    inflows = [
        Inflow(network.edge_index(f"{a}_in"), tuple(range(3 * i, 3 * i + 3)), rate=rate / 3600.0)
        for i, (a, rate) in enumerate(zip(arms, rates, strict=True))
    ]
    sim = tg.Simulator(network, tg.Fleet(), CITY, dt=0.5, demand=Demand(inflows))
    none = torch.zeros(6, 120)
    state = TrafficState(
        none, none, none.long(), driver=none.long(), active=none.bool(), seed=torch.arange(6), route=none.long()
    )
    state = sim.demand.start(state)
    left = []
    for step in range(800):
        if step % 200 == 0:
            left.append(state.left)
        state = sim.step(state)
    left.append(state.left)
    assert int(torch.stack(left).diff(dim=0)[1:].min()) > 15, "in 100 s, in every world"


def merging_ways(network: RoadNetwork) -> list[int]:
    return [way_lane(network, start, "highway_out") for start in ("highway_in", "ramp")]


HIGHWAY = dataclasses.replace(CITY, desired_speed=20.0)


def test_the_ramp_yields_to_the_highway() -> None:
    """Whenever the vehicle on the highway is not clearly behind, it goes first and does not slow down at all."""
    network = highway_and_ramp()
    sim = tg.Simulator(network, tg.Fleet(), HIGHWAY)
    leads = [-90.0, -60.0, -30.0, -5.0, -2.0, 0.0, 5.0, 10.0, 20.0, 40.0, 60.0]
    state = state_of(network, [[Placed(0, 480.0 + lead, 18.0), Placed(1, 80.0, 18.0)] for lead in leads])
    found = run(sim, state, merging_ways(network), 200)
    for lead, (road, ramp), hardest in zip(leads, found.entered.tolist(), found.hardest.tolist(), strict=True):
        assert math.isfinite(road) and math.isfinite(ramp)
        if lead >= -5.0:
            assert road < ramp and hardest[0] == 0.0, lead
        # Whoever is let in costs the highway no more than what merging may ask for.
        assert hardest[0] >= -sim.right_of_way.safe_deceleration, lead
        assert hardest[1] > -3.0, lead


def test_merging_asks_nobody_for_hard_braking() -> None:
    """400 platoons in equilibrium on the highway, a vehicle on the ramp; all begin farther off than they ask from.

    The gap is judged on the snapshot in which it is granted. In the following steps the two still approach each other,
    for which another 0.5 m/s2 is allowed.
    """
    network = highway_and_ramp()
    sim = tg.Simulator(network, tg.Fleet(), HIGHWAY)
    rng, worlds = random.Random(0), []
    while len(worlds) < 400:
        speed, ramp = rng.uniform(3.0, 19.0), rng.uniform(3.0, 19.0)
        spacing = LENGTH + equilibrium_gap(speed, 20.0) * rng.uniform(1.0, 2.5)
        line = 598.0 - (speed**2 / 3.0 + speed + 5.0) - rng.uniform(0.0, spacing)
        back = max(12.0, ramp**2 / 3.0 + ramp + 5.0) * rng.uniform(1.0, 1.4)
        world = [*(Placed(0, line - spacing * k, speed) for k in range(6)), Placed(1, 198.0 - back, ramp)]
        if all(one.position > 6.0 for one in world):
            worlds.append(world)
    found = run(sim, state_of(network, worlds), merging_ways(network), 280)
    hardest = found.hardest.amin(1)
    safe = sim.right_of_way.safe_deceleration
    assert float(hardest.min()) >= -(safe + 0.5)
    assert float((hardest >= -safe - 0.05).double().mean()) > 0.99
    merged = (found.entered[:, :6] > found.entered[:, 6:]).any(1) & (found.entered[:, :6] < found.entered[:, 6:]).any(1)
    assert int(merged.sum()) > 40, "the ramp does go between them"


def test_no_right_of_way_is_given_right_in_front_of_who_has_it_already() -> None:
    """A fast vehicle on the ramp may enter; a slow one on the highway would cut it off, whoever follows that one."""
    network = highway_and_ramp()
    sim = tg.Simulator(network, tg.Fleet(), HIGHWAY)
    fast = Placed(1, 159.0, 14.7)
    slow, behind = Placed(0, 576.4, 7.9), Placed(0, 559.6, 9.2)
    alone = state_of(network, [[slow, fast]])
    followed = state_of(network, [[slow, fast, behind]])
    for state in (alone, followed):
        held = torch.full_like(state.lane, -1)
        held[0, 1] = merging_ways(network)[1]
        found = run(sim, dataclasses.replace(state, right_of_way=held), merging_ways(network), 100)
        assert float(found.hardest[0, 1]) >= -(sim.right_of_way.safe_deceleration + 0.5)
