"""Who goes first at crossings, stop signs, merges and forks; and that nothing collides in towns of all kinds."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import networkx as nx
import pytest
import torch
from oracles.road_worlds import (
    DOUBLE,
    Placed,
    add_road,
    add_town,
    closed_walks,
    crossing,
    road_lane,
    scatter,
    state_of,
    way_lane,
)
from torch import Tensor

import trafficgrad as tg
from trafficgrad import metrics
from trafficgrad.bodies import touching
from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import RoadNetwork, merge, roundabout
from trafficgrad.network.connections import Connection
from trafficgrad.network.routing import shortest_route
from trafficgrad.network.signal_defaults import default_programmes
from trafficgrad.right_of_way import RightOfWay
from trafficgrad.signals import Signals
from trafficgrad.state import TrafficState

CITY = tg.IDM(desired_speed=13.9, time_headway=1.0, max_acceleration=1.0, comfortable_deceleration=1.5)
WIDTH = 1.8  # m, of a car
LENGTH, MIN_GAP = 5.0, 2.0  # m


class Run(NamedTuple):
    """What happened to each vehicle, [B, N]."""

    entered: Tensor  # s, when it first was on one of the watched lanes; inf = never
    hardest: Tensor  # m/s2, lowest acceleration
    slowest: Tensor  # m/s, lowest speed before it entered
    end: TrafficState


@torch.no_grad()
def run(
    sim: tg.Simulator,
    state: TrafficState,
    watched: list[int],
    steps: int,
    action: Callable[[TrafficState], tg.Action] | None = None,
    watch: Callable[[TrafficState, TrafficState], None] | None = None,
) -> Run:
    """Simulate and record; ``watch`` sees the states before and after every step."""
    lanes = torch.tensor(watched)
    entered = torch.full_like(state.position, math.inf)
    hardest, slowest = torch.zeros_like(state.speed), torch.full_like(state.speed, math.inf)
    for _ in range(steps):
        after = sim.step(state, None if action is None else action(state))
        both = state.active & after.active
        hardest = torch.where(both, torch.minimum(hardest, (after.speed - state.speed) / sim.dt), hardest)
        on = (after.lane[..., None] == lanes).any(-1) & after.active
        entered = torch.where(on & torch.isinf(entered), after.time[:, None], entered)
        slowest = torch.where(torch.isinf(entered), torch.minimum(slowest, after.speed), slowest)
        if watch is not None:
            watch(state, after)
        state = after
    return Run(entered, hardest, slowest, state)


def ways_of(network: RoadNetwork) -> list[int]:
    """The junction lanes east and north of a crossing."""
    return [way_lane(network, "from_west", "to_east"), way_lane(network, "from_south", "to_north")]


def equilibrium_gap(speed: float, desired: float) -> float:
    """Gap at which the IDM keeps ``speed`` behind a leader as fast, with s0 = 2 m and T = 1 s."""
    return (MIN_GAP + speed) / math.sqrt(1.0 - (speed / desired) ** 4)


# ---------------------------------------------------------------------------------------------- two at a crossing


@pytest.mark.parametrize("rank", [(1, 0), (0, 1)])
def test_the_higher_rank_goes_first_whatever_the_order_of_slots(rank: tuple[int, int]) -> None:
    network = crossing(rank=rank)
    sim = tg.Simulator(network, tg.Fleet(), CITY)
    east, north = Placed(0, 50.0, 10.0), Placed(1, 50.0, 10.0)
    found = run(sim, state_of(network, [[east, north], [north, east]]), ways_of(network), 160)
    first = 0 if rank[0] > rank[1] else 1
    for world, order in ((0, [0, 1]), (1, [1, 0])):
        times, braking = found.entered[world][order], found.hardest[world][order]
        assert float(times[first]) < float(times[1 - first]) < 20.0
        assert float(braking[first]) == 0.0, "who goes first is not held up"
    assert torch.equal(found.entered[0], found.entered[1].flip(0))


def test_among_equals_goes_first_who_arrives_first_and_ties_go_to_the_lower_slot() -> None:
    network = crossing()
    sim = tg.Simulator(network, tg.Fleet(), CITY)
    worlds, expected = [], []
    for lead in (0.1, 1.0, 5.0, 20.0):
        for a, b in ((0, 1), (1, 0)):
            worlds += [[Placed(a, 50.0 + lead, 10.0), Placed(b, 50.0, 10.0)]]
            worlds += [[Placed(a, 50.0, 10.0), Placed(b, 50.0 + lead, 10.0)]]
            expected += [0, 1]
    for a, b in ((0, 1), (1, 0)):
        worlds += [[Placed(a, 50.0, 10.0), Placed(b, 50.0, 10.0)]]
        expected += [0]
    entered = run(sim, state_of(network, worlds), ways_of(network), 160).entered
    assert bool(torch.isfinite(entered).all())
    assert entered.argmin(1).tolist() == expected


def test_the_minor_road_waits_for_a_gap_that_is_long_enough() -> None:
    """Two major vehicles pass one after the other; a minor one stands at its line.

    It may go between them when it has cleared the crossing, and the time gap has passed, before the second one gets
    there. Oracle: both major vehicles drive at a constant speed, the minor one sets off at 1 m/s2 when the first one's
    rear is clear. The decision falls in steps and knows no exact speeds: 0.4 s either way.
    """
    network = crossing(arm=500.0, rank=(1, 0))
    rules = RightOfWay()
    sim = tg.Simulator(network, tg.Fleet(), CITY, right_of_way=rules)
    speed = 13.5
    gaps = [2.0, 4.0, 6.0, *(6.6 + 0.1 * k for k in range(20)), 9.0, 11.0, 13.0]
    state = state_of(
        network,
        [[Placed(0, 430.0, speed), Placed(0, 430.0 - speed * gap, speed), Placed(1, 498.0)] for gap in gaps],
    )
    ways = ways_of(network)
    junctions = network.tables(DOUBLE, "cpu").junctions
    foe = junctions.foe[ways[1]].tolist().index(ways[0])
    entry, end = float(junctions.foe_entry[ways[1], foe]), float(junctions.foe_exit[ways[1], foe])
    found = run(sim, state, ways, 320)
    for gap, (first, second, minor), hardest in zip(gaps, found.entered.tolist(), found.hardest.tolist(), strict=True):
        assert first < minor and first < second, "never in front of the first one"
        clear = first + (end + LENGTH) / 13.8
        own = MIN_GAP + float(junctions.own_exit[ways[1], foe]) + LENGTH
        finished = clear + math.sqrt(2.0 * own / 1.0)
        spare = first + gap + entry / 13.8 - (finished + rules.time_gap)
        if abs(spare) > 0.4:
            assert (minor < second) == (spare > 0.0), (gap, spare)
        # Who has precedence may slow down as for any obstacle that is about to go away, but never brakes hard.
        assert hardest[1] >= -CITY.comfortable_deceleration
    between = [minor < second for _, second, minor in found.entered.tolist()]
    assert between == sorted(between) and any(between) and not all(between)


def test_a_platoon_with_precedence_is_let_through_before_the_minor_road_goes() -> None:
    network = crossing(arm=400.0, rank=(1, 0))
    sim = tg.Simulator(network, tg.Fleet(), CITY)
    platoon = [Placed(0, 330.0 - 35.0 * k, 12.0) for k in range(6)]
    found = run(sim, state_of(network, [[*platoon, Placed(1, 350.0, 10.0)]]), ways_of(network), 320)
    entered = found.entered[0]
    assert bool((entered[:6] < entered[6]).all()) and float(entered[6]) < math.inf
    assert float(found.hardest[0, :6].min()) > -0.5, "nobody of the platoon is held up"


def test_a_stop_sign_makes_everybody_stop_at_the_line_even_when_alone() -> None:
    stops = (False, True)
    network = crossing(stop=stops)
    sim = tg.Simulator(network, tg.Fleet(), CITY)
    worlds = [[Placed(route, 60.0 + 40.0 * k, 10.0) for k in range(2)] for route in (0, 1)]
    found = run(sim, state_of(network, worlds), ways_of(network), 330)
    for route in (0, 1):
        if stops[route]:
            assert bool((found.slowest[route] < 0.3).all())
        else:
            assert float(found.hardest[route].min()) > -0.5 and float(found.slowest[route].min()) > 9.0
    assert bool(torch.isfinite(found.entered).all()), "and then they go"


def test_at_an_all_way_stop_everybody_stops_first_and_they_take_turns() -> None:
    network = crossing(rule="all_way_stop")
    sim = tg.Simulator(network, tg.Fleet(), CITY)
    vehicles = [Placed(route, 130.0 - 15.0 * k, 5.0) for k in range(4) for route in (0, 1)]
    lines = {
        lane: float(network.lane_length[lane]) for lane in (road_lane(network, r) for r in ("from_west", "from_south"))
    }
    stood: set[int] = set()

    def watch(before: TrafficState, after: TrafficState) -> None:
        for i in range(len(vehicles)):
            lane = int(after.lane[0, i])
            if lane in lines and float(after.speed[0, i]) < 0.3 and lines[lane] - float(after.position[0, i]) < 5.0:
                stood.add(i)
            if lane in ways_of(network):
                assert i in stood, f"vehicle {i} has not stopped at the line"

    found = run(sim, state_of(network, [vehicles]), ways_of(network), 520, watch=watch)
    assert bool(torch.isfinite(found.entered).all())
    order = [i % 2 for i in found.entered[0].argsort().tolist()]
    assert order == [0, 1] * 4, "who waits longest goes, and that is by turns"


def test_nobody_enters_while_a_rear_is_still_in_the_way() -> None:
    """A slow truck of 12 m crosses; who waits gets the right of way once its rear has passed the place of crossing."""
    network = crossing(rank=(1, 0))
    model = dataclasses.replace(CITY, desired_speed=torch.tensor([3.0, 13.9], dtype=DOUBLE))
    sim = tg.Simulator(network, tg.Fleet(length=torch.tensor([12.0, 5.0], dtype=DOUBLE)), model)
    east, north = ways_of(network)
    junctions = network.tables(DOUBLE, "cpu").junctions
    clear = float(junctions.foe_exit[north, junctions.foe[north].tolist().index(east)])
    on_way = float(network.lane_length[east])
    granted = []

    def watch(before: TrafficState, after: TrafficState) -> None:
        lane, front = int(before.lane[0, 0]), float(before.position[0, 0])
        if lane == road_lane(network, "from_west"):
            rear = -math.inf
        else:
            rear = front - 12.0 + (on_way if lane == road_lane(network, "to_east") else 0.0)
        if int(after.right_of_way[0, 1]) == north:
            granted.append(rear)

    state = state_of(network, [[Placed(0, 140.0, 3.0), Placed(1, 100.0, 8.0)]])
    found = run(sim, state, [east, north], 250, watch=watch)
    assert bool(torch.isfinite(found.entered).all()) and granted
    # Within a step the truck drives 0.3 m.
    assert clear <= granted[0] < clear + 0.3 + 1e-9


# ---------------------------------------------------------------------------------------------- blocked exits


def test_nobody_enters_a_crossing_whose_exit_is_full() -> None:
    """A vehicle stands at the end of an exit of 20 m: one more fits behind it; the crossing stays clear for others."""
    network = crossing(exit_length=20.0)
    sim = tg.Simulator(network, tg.Fleet(controlled=[0]), CITY)
    east, north = ways_of(network)
    state = state_of(
        network,
        [
            [Placed(0, 19.9, place=1)]
            + [Placed(0, 120.0 - 15.0 * k, 5.0) for k in range(3)]
            + [Placed(1, 120.0 - 40.0 * k, 10.0) for k in range(3)]
        ],
    )

    def standing(_: TrafficState) -> tg.Action:
        return tg.Action(torch.zeros(1, 1, dtype=DOUBLE))

    blocked = run(sim, state, [east, north], 300, standing)
    assert torch.isfinite(blocked.entered[0]).tolist() == [False, True, False, False, True, True, True]
    assert int((blocked.end.lane[0] == east).sum()) == 0, "nobody stands in the crossing"
    assert float(blocked.end.speed[0, :4].max()) < 0.01 and int(blocked.end.lane[0, 1]) == road_lane(network, "to_east")
    assert float(blocked.hardest.min()) > -4.0

    def going(_: TrafficState) -> tg.Action:
        return tg.Action(torch.ones(1, 1, dtype=DOUBLE))

    freed = run(sim, blocked.end, [east], 160, going)
    waiting = freed.entered[0, 2:4]
    assert bool(torch.isfinite(waiting).all()) and float(waiting.max()) < 30.0 + 15.0, "and they go when it empties"


# ---------------------------------------------------------------------------------------------- merging


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


ROUTES = [["highway_in", "highway_out"], ["ramp", "highway_out"]]


@cache
def highway_and_ramp() -> RoadNetwork:
    return merge(speed_limit=20.0).with_routes(ROUTES)


def merging_ways(network: RoadNetwork) -> list[int]:
    return [way_lane(network, start, "highway_out") for start, _ in ROUTES]


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


# ---------------------------------------------------------------------------------------------- forks


def fork() -> RoadNetwork:
    """Route 0 goes straight on, route 1 turns right; nothing crosses."""
    graph = nx.MultiDiGraph()
    graph.add_node("middle", position=(0.0, 0.0))
    road = {"speed_limit": 13.9}
    west = add_road(graph, "west", "middle", "from_west", [(-308.0, 0.0), (-8.0, 0.0)], **road)
    east = add_road(graph, "middle", "east", "to_east", [(8.0, 0.0), (308.0, 0.0)], **road)
    south = add_road(graph, "middle", "south", "to_south", [(0.0, -8.0), (0.0, -308.0)], **road)
    graph.nodes["middle"]["connections"] = [Connection(west, 0, east, 0), Connection(west, 0, south, 0)]
    return RoadNetwork.from_graph(graph).with_routes([["from_west", "to_east"], ["from_west", "to_south"]])


def test_followers_do_not_run_into_a_leader_that_turns_off() -> None:
    """It slows down for the turn, or even stops in it, somewhere; who goes straight on passes when it is clear."""
    network = fork()
    speed = 12.0
    gap = equilibrium_gap(speed, 13.9)
    places = [200.0 + 3.0 * k for k in range(20)]
    worlds = [[Placed(1, x, speed), *(Placed(0, x - (LENGTH + gap) * k, speed) for k in (1, 2, 3))] for x in places]
    for controlled in ((), (0,)):
        sim = tg.Simulator(network, tg.Fleet(controlled=controlled), CITY)
        touched, inside = [], torch.zeros(len(worlds), dtype=torch.bool)

        def watch(before: TrafficState, after: TrafficState, touched=touched, inside=inside) -> None:
            if round(float(after.time[0]) / 0.1) % 4 == 0:
                touched.extend(touching(after, network, LENGTH, WIDTH).tolist())
            inside |= network.is_junction[after.lane[:, 0]] & (after.speed[:, 0] < 0.1)

        def stopping(state: TrafficState) -> tg.Action:
            # The turn is driven at up to 5 m/s, and then it stops within 2 to 9 m of it.
            turning = network.is_junction[state.lane[:, 0]]
            far = 300.0 - state.position[:, 0]
            slow = torch.where(far < state.speed[:, 0] ** 2 / 4.0 + 5.0, -2.0, 0.0)
            slow = torch.where(state.speed[:, 0] < 5.0, 0.0, slow)
            return tg.Action(torch.where(turning, -1.5 - 0.2 * torch.arange(len(worlds)), slow)[:, None].to(DOUBLE))

        found = run(sim, state_of(network, worlds), [], 260, stopping if controlled else None, watch)
        assert not touched
        assert float(found.hardest[:, 1:].min()) > -4.0
        before = found.end.active & (found.end.lane == road_lane(network, "from_west"))
        if controlled:
            assert int(inside.sum()) > 10, "it stands in the turn"
            assert bool(before.any()) and not bool(before.all()), "some have to wait, some pass behind its rear"
        else:
            assert not bool(before.any()), "everybody has gone on"


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
