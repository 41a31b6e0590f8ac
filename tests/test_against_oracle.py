"""The torch simulator equals the independent scalar oracle on random worlds: values 1e-9, lanes exactly."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from oracles.scalar_traffic import Road, Rules, Vehicle, decide, step
from oracles.worlds import World, action_of, random_actions, random_world, road_of, simulator_of, state_of

from trafficgrad.network import ring, straight
from trafficgrad.state import Action

pytestmark = pytest.mark.usefixtures("each_backend")

TOLERANCE = 1e-9


def compare(world: World, steps: int, seed: int = 0) -> Counter[str]:
    """Step both implementations side by side from ``world``; count what happened."""
    rng, seen = random.Random(seed), Counter[str]()
    simulator, state, cars, time = simulator_of(world), state_of(world), world.cars, world.time
    acting = seed % 4 != 0  # some worlds leave controlled vehicles to car following
    for n in range(steps):
        if acting:
            cars = random_actions(cars, rng)
        noise = [rng.gauss(0, 1) for _ in cars]
        wanted = [decide(world.rules, world.road, cars, i, time)[0] for i in range(len(cars))]
        after, time = step(world.rules, world.road, cars, time, noise)
        with torch.no_grad():
            state = simulator.step(state, action_of(cars), torch.tensor([noise], dtype=torch.float64))
        for i, car in enumerate(after):
            told = f"step {n}, vehicle {i}: oracle {car}"
            assert int(state.lane[0, i]) == car.lane, f"{told}, lane {int(state.lane[0, i])}"
            assert float(state.cooldown[0, i]) == car.cooldown, f"{told}, cooldown {float(state.cooldown[0, i])}"
            assert abs(float(state.position[0, i]) - car.position) <= TOLERANCE, (
                f"{told}, {float(state.position[0, i])}"
            )
            assert abs(float(state.speed[0, i]) - car.speed) <= TOLERANCE, f"{told}, {float(state.speed[0, i])}"
            changed = car.lane not in world.road.chain(cars[i].lane)
            kind = "controlled" if car.control else "driver"
            seen[f"{kind} changed"] += changed
            seen[f"{kind} refused"] += wanted[i] != 0 and not changed
            seen["stopped"] += car.speed == 0 and cars[i].speed > 0
            seen["crossed an edge end"] += car.position < cars[i].position
        assert abs(float(state.time[0]) - time) <= TOLERANCE
        cars = after
    return seen


def test_one_step_of_random_worlds() -> None:
    seen = Counter[str]()
    for seed in range(800):
        try:
            seen += compare(random_world(seed), 1, seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    # the sample is not vacuous: every branch of the step was taken
    for event in (
        "driver changed",
        "driver refused",
        "controlled changed",
        "controlled refused",
        "stopped",
        "crossed an edge end",
    ):
        assert seen[event] >= 4, (event, seen)


@pytest.mark.parametrize("block", range(4))
def test_fifty_steps_of_random_worlds(block: int) -> None:
    for seed in range(1000 + 10 * block, 1010 + 10 * block):
        try:
            compare(random_world(seed, most_per_lane=5), 50, seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def world_of(
    network_lanes: int, cars: list[Vehicle], rules: Rules | None = None, length: float = 200.0, edges: int = 1
) -> World:
    network = ring(length, lanes=network_lanes, edges=edges)
    return World(network, road_of(network), rules or Rules(), cars, 0.0, list(range(len(cars))))


def stepped(world: World) -> list[int]:
    """Check one step against the oracle and return the lanes after it."""
    compare(world, 1)
    return [c.lane for c in step(world.rules, world.road, world.cars, world.time)[0]]


def test_alone_on_a_ring_nobody_leads() -> None:
    world = world_of(1, [Vehicle(3.0, 10.0, 0)], length=20.0)
    compare(world, 50)
    free = 1 - (10 / 30) ** 4
    assert step(world.rules, world.road, world.cars, 0.0)[0][0].speed == pytest.approx(10 + 0.1 * free, abs=1e-12)


def test_two_on_a_ring_lead_each_other() -> None:
    compare(world_of(1, [Vehicle(0.0, 10.0, 0), Vehicle(30.0, 5.0, 0, length=8.0)], length=60.0), 50)


def test_equal_incentives_go_left() -> None:
    blocked = [Vehicle(50.0, 15.0, 1), Vehicle(70.0, 5.0, 1)]
    assert stepped(world_of(3, blocked))[0] == 2


def test_equal_incentive_and_gain_zero_stays() -> None:
    assert stepped(world_of(3, [Vehicle(50.0, 15.0, 1, threshold=0.0)]))[0] == 1


def test_one_gap_takes_the_lower_index_of_equals() -> None:
    mirrored = [
        Vehicle(50.0, 15.0, 2),
        Vehicle(50.0, 15.0, 0),
        Vehicle(70.0, 5.0, 0),
        Vehicle(70.0, 5.0, 2),
        Vehicle(150.0, 15.0, 1),
    ]
    assert stepped(world_of(3, mirrored))[:2] == [1, 0]
    assert stepped(world_of(3, [mirrored[1], mirrored[0], *mirrored[2:]]))[:2] == [1, 2]


def test_one_gap_takes_the_controlled_vehicle_first() -> None:
    cars = [
        Vehicle(50.0, 15.0, 2),
        Vehicle(50.0, 15.0, 0, control="lane", acceleration=0.0, request=1.0),
        Vehicle(70.0, 5.0, 0),
        Vehicle(70.0, 5.0, 2),
        Vehicle(150.0, 15.0, 1),
    ]
    world = world_of(3, cars)
    simulator = simulator_of(world)
    after = simulator.step(state_of(world), action_of(cars))
    assert after.lane[0, :2].tolist() == [2, 1] == [c.lane for c in step(world.rules, world.road, cars, 0.0)[0]][:2]


def test_one_gap_that_spans_an_edge_end_takes_one_vehicle() -> None:
    """Two vehicles, one before and one behind the joint of two edges, want the same gap of the left lane."""
    network = ring(200.0, lanes=2, edges=2)
    lane = [network.lanes.index((edge, index)) for edge, index in ((0, 0), (0, 1), (1, 0), (1, 1))]
    cars = [
        Vehicle(97.0, 12.0, lane[0]),
        Vehicle(4.0, 12.0, lane[2]),
        Vehicle(20.0, 2.0, lane[2]),
        Vehicle(80.0, 12.0, lane[3]),
        Vehicle(10.0, 12.0, lane[1]),
    ]
    cars[0] = replace(cars[0], min_gap=20.0)
    world = World(network, road_of(network), Rules(), cars, 0.0, list(range(5)))
    assert {decide(world.rules, world.road, cars, i, 0.0)[0] for i in (0, 1)} == {1}
    after = stepped(world)
    assert after[:2] == [lane[1], lane[2]]  # vehicle 0 gains more


@pytest.mark.parametrize("control", [None, "lane"])
@pytest.mark.parametrize("gap, granted", [(1.2, False), (1.7, True)])
@pytest.mark.parametrize("where", ["front", "rear"])
def test_a_gap_that_closes_within_the_step_is_refused(
    where: str, gap: float, granted: bool, control: str | None
) -> None:
    """The snapshot allows it (gap >= 0.5 m), the new positions or not: a leader that stops at once, a fast follower."""
    rules = Rules(choice_safe_deceleration=1e9, choice_own_deceleration=1e9)
    me = Vehicle(100.0, 15.0, 0, safe_deceleration=1e9, politeness=0.0, time_headway=0.0, min_gap=0.5, control=control)
    if control == "lane":
        me = replace(me, acceleration=0.0, request=1.0)
    ahead = Vehicle(105.6, 15.0, 0, length=5.0)  # gap 0.6 m: any left lane is better
    if where == "front":
        beside = [Vehicle(105.0 + gap, 15.0, 1, length=5.0), Vehicle(106.0 + gap, 15.0, 1, length=5.0)]
    else:
        beside = [Vehicle(95.0 - gap, 25.0, 1, control="acceleration", acceleration=0.0)]
    world = world_of(2, [me, ahead, *beside], rules)
    assert decide(world.rules, world.road, world.cars, 0, 0.0)[0] == 1
    after = step(world.rules, world.road, world.cars, 0.0)[0]
    ours = simulator_of(world).step(state_of(world), every_action(world.cars))
    assert ours.lane[0].tolist() == [c.lane for c in after]
    assert after[0].lane == int(granted)


def every_action(cars: list[Vehicle]) -> Action | None:
    """The action of mixed roles, with the request of lane-choosing vehicles and 0 for the others."""
    return action_of([replace(c, request=c.request or 0.0) if c.control else c for c in cars])


@pytest.mark.parametrize("gap", [0.0015, 0.001, 0.0004, -3.0])
def test_gap_is_bounded_inside_the_formula(gap: float) -> None:
    """A standing vehicle with s0 = 0.5 mm feels the floor of 1 mm: a (1 - 0.5^2)."""
    cars = [Vehicle(50.0, 0.0, 0, min_gap=0.0005), Vehicle(55.0 + gap, 0.0, 0)]
    world = world_of(1, cars)
    compare(world, 1)
    speed = step(world.rules, world.road, cars, 0.0)[0][0].speed
    assert speed == pytest.approx(0.1 * (1 - (0.0005 / max(gap, 0.001)) ** 2), abs=1e-9)


@pytest.mark.parametrize("edges", [1, 3])
def test_open_road_has_no_leader_beyond_its_end(edges: int) -> None:
    network = straight(900.0, lanes=2, edges=edges)
    road: Road = road_of(network)
    first = next(i for i in range(len(road.length)) if i not in road.successor and road.right[i] == -1)
    cars = [Vehicle(5.0, 20.0, first), Vehicle(100.0, 3.0, first), Vehicle(60.0, 20.0, road.left[first])]
    compare(World(network, road, Rules(), cars, 0.0, [2, 0, 1]), 50)


@pytest.mark.parametrize("time, side", [(0.0, 2), (0.1, 0), (0.2, 2), (0.3, 0), (1.7, 0)])
def test_alternating_sides_follow_the_clock(time: float, side: int) -> None:
    blocked = [Vehicle(50.0, 15.0, 1), Vehicle(70.0, 5.0, 1)]
    world = replace(world_of(3, blocked, Rules(sides="alternate")), time=time)
    assert stepped(world)[0] == side
