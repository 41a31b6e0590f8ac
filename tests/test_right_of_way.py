"""Who goes first at crossings, stop signs and forks, and who waits for a free exit."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from junction_runs import CITY, LENGTH, MIN_GAP, WIDTH, equilibrium_gap, fork, run, ways_of
from oracles.road_worlds import (
    DOUBLE,
    Placed,
    crossing,
    road_lane,
    state_of,
    way_lane,
)

import trafficgrad as tg
from trafficgrad.bodies import touching
from trafficgrad.demand import Demand, Inflow
from trafficgrad.lane_change import MOBIL
from trafficgrad.network import RoadNetwork, intersection
from trafficgrad.right_of_way import RightOfWay
from trafficgrad.state import TrafficState

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


# ---------------------------------------------------------------------------------------------- forks


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


# ---------------------------------------------------------------------------------------------- all-way stops

STRAIGHT = [("south_in", "north_out"), ("north_in", "south_out"), ("west_in", "east_out"), ("east_in", "west_out")]


def all_way_stop(lanes: int = 1) -> RoadNetwork:
    network = intersection(lanes=lanes, left_lanes=0, control="all_way_stop", arm_length=100.0)
    return network.with_routes([list(route) for route in STRAIGHT])


def test_at_an_all_way_stop_those_who_face_each_other_go_together() -> None:
    """All four stand at their lines, whatever their slots. The two streets go one after the other."""
    network = all_way_stop()
    line = float(network.lane_length[road_lane(network, "south_in")])
    orders = [[0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 3, 1], [3, 0, 1, 2]]
    state = state_of(network, [[Placed(r, line - MIN_GAP) for r in order] for order in orders])
    ways = [way_lane(network, *route) for route in STRAIGHT]
    found = run(tg.Simulator(network, tg.Fleet(), CITY), state, ways, 300)
    for order, entered in zip(orders, found.entered.tolist(), strict=True):
        by_route = [entered[order.index(r)] for r in range(4)]
        first, second = sorted((by_route[:2], by_route[2:]))
        assert max(first) - min(first) < 1.5 and max(second) - min(second) < 1.5, by_route
        assert min(second) > max(first) + 2.0, by_route


@pytest.mark.parametrize(("lanes", "least"), [(1, 1000.0), (2, 1800.0)])
@torch.no_grad()
def test_at_an_all_way_stop_everybody_gets_a_turn(lanes: int, least: float) -> None:
    """Queues without end on one street: the few on the other go through all the same; full queues share alike."""
    network = all_way_stop(lanes)
    rates = torch.tensor([[900.0, 900.0, 100.0, 100.0], [900.0] * 4]) / 3600.0
    inflows = [Inflow(network.edge_index(a), (r,), rate=rates[:, r]) for r, (a, _) in enumerate(STRAIGHT)]
    sim = tg.Simulator(network, tg.Fleet(), CITY, MOBIL(), dt=0.5, demand=Demand(inflows))
    none = torch.zeros(2, 110)
    empty = TrafficState(none, none, none.long(), driver=none.long(), active=none.bool(), seed=torch.tensor([3, 4]))
    assert sim.demand is not None
    state, passed = sim.demand.start(empty), torch.zeros(2, 4)
    for step in range(1500):
        after = sim.step(state)
        gone = state.active & (~after.active | (after.vehicle_id != state.vehicle_id))
        if step >= 400:  # the queues are there
            passed += torch.stack([(gone & (state.route == r)).sum(1) for r in range(4)], 1)
        state = after
    arrived = sim.demand.waiting(state) + state.inserted
    assert bool((passed[0, 2:] > 0.75 * arrived[0, 2:] * 1100 / 1500).all()), passed
    assert float(passed[0, 0]) > 2 * float(passed[0, 2])
    assert float(passed[1].max() / passed[1].min()) < 1.1, passed
    assert float(passed[1].sum()) * 3600 / 550 > least, "vehicles/h; one by one it would be 560 for each lane"
