"""Demand: arrivals, queues and entries, against a scalar oracle, by statistics, by balance and by differences."""

from __future__ import annotations

import dataclasses
import math
import random

import networkx as nx
import pytest
import torch
from torch import Tensor

import trafficgrad as tg
from tests.oracles.scalar_demand import Driver, Flow, Roads, Vehicle, World, advance, interval_end
from trafficgrad import TrafficGradError, TrafficState
from trafficgrad.demand import Demand, Inflow
from trafficgrad.entrances import Entrance, EntryDrivers, entry_speed, last_vehicles
from trafficgrad.network.road_network import RoadNetwork

DOUBLE = torch.float64


def empty(worlds: int, slots: int, dtype: torch.dtype = DOUBLE, seeds: int = 0) -> TrafficState:
    zero = torch.zeros(worlds, slots, dtype=dtype)
    return dataclasses.replace(
        TrafficState(zero, zero.clone(), torch.zeros(worlds, slots, dtype=torch.int64)),
        active=torch.zeros(worlds, slots, dtype=torch.bool),
        driver=torch.zeros(worlds, slots, dtype=torch.int64),
        seed=torch.arange(seeds, seeds + worlds),
        next_id=torch.zeros(worlds, dtype=torch.int64),
    )


IDM = tg.IDM()
DRIVERS = EntryDrivers.of(IDM, tg.Fleet())


def entrance_of(
    state: TrafficState, network: RoadNetwork, drivers: EntryDrivers = DRIVERS, controlled: tuple[int, ...] = ()
) -> Entrance:
    t = network.tables(state.position.dtype, "cpu")
    length = EntryDrivers.look_up(drivers, state.driver).length
    return Entrance(
        network, drivers, torch.tensor(controlled, dtype=torch.int64), 0.1, *last_vehicles(state, t, length)
    )


def move(state: TrafficState, network: RoadNetwork, acceleration: float = 0.0) -> TrafficState:
    """A step in which everybody accelerates alike and leaves at the end of the lane."""
    speed = torch.where(state.active, state.speed + 0.1 * acceleration, state.speed)
    position = state.position + 0.1 * (state.speed + speed) / 2 * state.active
    gone = state.active & (position > network.lane_length.to(position)[state.lane])
    return dataclasses.replace(
        state,
        position=position,
        speed=speed,
        active=state.active & ~gone,
        left=state.left + gone.sum(1),
        time=state.time + 0.1,
    )


def run(
    demand: Demand,
    state: TrafficState,
    network: RoadNetwork,
    steps: int,
    acceleration: float = 0.0,
    drivers: EntryDrivers = DRIVERS,
    controlled: tuple[int, ...] = (),
) -> TrafficState:
    for _ in range(steps):
        state = move(state, network, acceleration)
        state = demand.advance(state, entrance_of(state, network, drivers, controlled))
    return state


# ---------------------------------------------------------------------------------------------- against the oracle


def fork() -> RoadNetwork:
    """Three lanes that part into one and two, and a lane of 3 m that leads on to 300 m."""
    graph = nx.MultiDiGraph()
    places = {"a": (0, 0), "b": (60, 0), "c": (120, -9), "d": (120, 9), "e": (0, 99), "f": (3, 99), "g": (303, 99)}
    for name, place in places.items():
        graph.add_node(name, position=place)
    graph.add_edge("a", "b", key=0, lanes=3, speed_limit=20.0)
    graph.add_edge("b", "c", key=0, lanes=1)
    graph.add_edge("b", "d", key=0, lanes=2)
    graph.add_edge("e", "f", key=0)
    graph.add_edge("f", "g", key=0)
    ways = [(0, "c", 0), (1, "d", 0), (2, "d", 1)]
    graph.nodes["b"]["connections"] = [
        {"from_edge": ("a", "b", 0), "from_lane": i, "to_edge": ("b", to, 0), "to_lane": j} for i, to, j in ways
    ]
    network = RoadNetwork.from_graph(graph)
    return network.with_routes([[0, 1], [0, 2], [3, 4]])


def roads_of(network: RoadNetwork) -> Roads:
    """Lanes 0-2 lead to 3 and 4-5, lane 6 to 7; junction lanes follow, if the compiler made some."""
    final = {0: 3, 1: 4, 2: 5, 6: 7}
    leads = {}
    for lane, target in final.items():
        between = [
            a
            for a in range(8, len(network.lanes))
            if network.connections[int(network.lane_connection[a])].from_lane == lane and lane < 3
        ]
        for start, end in zip([lane, *between], [*between, target], strict=True):
            leads[start] = end
    served = {0: {0}, 1: {1, 2}, 2: {6}, -1: {0, 1, 2, 6}}

    def after(route: int, lane: int) -> int:
        on_first = lane in final
        return -1 if on_first and lane not in served[route] else leads.get(lane, -1)

    return Roads(
        network.lane_length.tolist(),
        network.speed_limit.tolist(),
        after,
        lambda route, lane: lane in served[route],
    )


FLOWS = [
    Flow([0, 1, 2], "poisson", 0.8, routes=[0, 1], shares=[0.3, 0.7], drivers=(2, 8), controlled_share=0.4),
    Flow([0, 1], "constant", 0.9, begin=0.31, end=9.0, routes=[1, 0], shares=[1.0, 1.0], drivers=(3, 5)),
    Flow([0, 1, 2], "poisson", 0.7, begin=1.0, drivers=(2, 6), speed=4.0),
    Flow([6], "schedule", times=[0.05, 0.05, 0.4, 0.9, 0.95, 1.0, 1.0, 1.02, 1.03, 1.04, 1.05, 5.0],
         listed=[2, -1] * 6, drivers=(2, 8), controlled_share=1.0),
    Flow([6], "constant", 0.5, routes=[2], shares=[2.0], drivers=(6, 7)),
]  # fmt: skip
INFLOWS = [
    Inflow(0, (0, 1), (0.3, 0.7), "poisson", 0.8, drivers=(2, 8), controlled_share=0.4),
    Inflow(0, (1, 0), None, "constant", 0.9, begin=0.31, end=9.0, drivers=(3, 5), lanes=(0, 1)),
    Inflow(0, kind="poisson", rate=torch.tensor(0.7, dtype=DOUBLE), begin=1.0, drivers=(2, 6), speed=4.0),
    Inflow(3, kind="schedule", times=torch.tensor(FLOWS[3].times, dtype=DOUBLE), schedule_routes=[2, -1] * 6,
           drivers=(2, 8), controlled_share=1.0),
    Inflow(3, (2,), (2.0,), "constant", 0.5, drivers=(6, 7)),
]  # fmt: skip


def worlds_of(state: TrafficState) -> list[World]:
    rows = {f.name: getattr(state, f.name).tolist() for f in dataclasses.fields(state)}
    names = ("active", "position", "speed", "lane", "previous", "route", "driver", "vehicle_id")
    return [
        World(
            [Vehicle(*values) for values in zip(*(rows[name][b] for name in names), strict=True)],
            rows["time"][b],
            rows["seed"][b],
            rows["arrivals"][b],
            rows["next_arrival"][b],
            rows["inserted"][b],
            rows["next_id"][b],
        )
        for b in range(state.worlds)
    ]


def assert_equal(found: World, expected: World) -> None:
    assert found.arrivals == expected.arrivals and found.inserted == expected.inserted
    assert found.next_id == expected.next_id
    assert found.next_arrival == pytest.approx(expected.next_arrival, abs=1e-9)
    for one, other in zip(found.vehicles, expected.vehicles, strict=True):
        assert dataclasses.replace(one, position=0.0, speed=0.0) == dataclasses.replace(other, position=0.0, speed=0.0)
        assert (one.position, one.speed) == pytest.approx((other.position, other.speed), abs=1e-7)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("watch_behind", [False, True])
def test_equals_the_scalar_oracle(seed: int, watch_behind: bool) -> None:
    network, draw = fork(), random.Random(seed)
    roads, controlled, slots = roads_of(network), [5, 2], draw.choice([8, 14, 40])
    table = [
        Driver(draw.uniform(3, 12), draw.uniform(5, 30), draw.uniform(0.3, 2), draw.uniform(1, 3), draw.uniform(0, 3),
               draw.uniform(0.8, 1.2)) for _ in range(8)
    ]  # fmt: skip
    length, desired, headway, braking, gap, factor = (
        torch.tensor([getattr(d, name) for d in table], dtype=DOUBLE)
        for name in ("length", "desired_speed", "time_headway", "deceleration", "min_gap", "speed_factor")
    )
    drivers = EntryDrivers(length, desired, headway, braking, gap, 4.0, factor)
    demand = Demand(INFLOWS)
    demand.check(network, drivers)
    state = empty(5, slots, seeds=100 * seed)
    present = torch.tensor([[draw.random() < 0.3 for _ in range(slots)] for _ in range(5)])
    lane = torch.tensor([[draw.randrange(8) for _ in range(slots)] for _ in range(5)])
    room = network.lane_length[lane]
    state = demand.start(
        dataclasses.replace(
            state,
            active=present,
            lane=lane,
            position=room * torch.tensor([[draw.random() for _ in range(slots)] for _ in range(5)]),
            speed=torch.tensor([[draw.uniform(0, 9) for _ in range(slots)] for _ in range(5)], dtype=DOUBLE),
            previous=torch.where(lane == 7, 6, -1),
            next_id=torch.full((5,), 1000),
        )
    )
    for world in worlds_of(state):
        first = [interval_end(world.seed, q, flow, flow.begin, 0) for q, flow in enumerate(FLOWS)]
        assert world.next_arrival == pytest.approx(first)
    entered = 0
    for _ in range(120):
        state = move(state, network)
        entrance = entrance_of(state, network, drivers, (5, 2))
        coming = None
        if watch_behind:
            coming = ([draw.uniform(0, 300) for _ in network.lanes], [draw.uniform(0, 30) for _ in network.lanes])
            distance, speed = (torch.tensor([x] * 5, dtype=DOUBLE) for x in coming)
            entrance = entrance._replace(coming_distance=distance, coming_speed=speed)
        before = worlds_of(state)
        state = demand.advance(state, entrance)
        for world, found in zip(before, worlds_of(state), strict=True):
            expected = advance(world, FLOWS, roads, table, controlled, 0.1, coming)
            assert_equal(found, expected)
            entered += sum(expected.inserted) - sum(world.inserted)
    assert entered > 50


def test_entry_speed_is_the_drivers_own_equilibrium() -> None:
    """Behind a leader at this very speed, IDM neither brakes nor accelerates; a gap of s0 allows no speed."""
    gap = torch.tensor([2.0, 5.0, 20.0, 60.0, 400.0, math.inf], dtype=DOUBLE)
    desired = torch.full_like(gap, 30.0)
    speed = entry_speed(DRIVERS, desired, gap, torch.full_like(gap, 100.0), torch.zeros_like(gap))
    assert float(speed[0]) == 0.0 and float(speed[-1]) == 30.0
    rest = IDM.acceleration(speed, gap, torch.zeros_like(gap))
    assert rest[1:].abs().max() < 1e-9
    standing = entry_speed(DRIVERS, desired, gap, torch.zeros_like(gap), torch.zeros_like(gap))
    assert (standing <= speed).all()
    assert (standing[:-1] + standing[:-1] ** 2 / 3.0 <= gap[:-1] - 2.0 + 1e-9).all()  # T = 1 s, b = 1.5 m/s2


def test_entry_speed_has_exact_gradients() -> None:
    def speeds(
        gap: Tensor, leader: Tensor, offset: Tensor, desired: Tensor, headway: Tensor, exponent: Tensor
    ) -> Tensor:
        own = EntryDrivers(5.0, desired, headway, 1.5, 2.0, exponent)
        return entry_speed(own, desired, gap, leader, offset)

    inputs = [
        torch.tensor(values, dtype=DOUBLE, requires_grad=True)
        for values in ([9.0, 30.0, 80.0], [3.0, 25.0, 10.0], [0.02, 0.0, 0.09], [30.0] * 3, [1.2] * 3, [4.0] * 3)
    ]
    assert torch.autograd.gradcheck(speeds, inputs)


# ---------------------------------------------------------------------------------------------- arrivals


def counted(demand: Demand, worlds: int, seconds: float, dtype: torch.dtype = DOUBLE) -> TrafficState:
    """Arrivals only: the road is full."""
    network = tg.straight(1000.0)
    state = demand.start(dataclasses.replace(empty(worlds, 1, dtype), active=torch.ones(worlds, 1, dtype=torch.bool)))
    for _ in range(round(seconds / 0.1)):
        state = dataclasses.replace(state, time=state.time + 0.1)
        state = demand.advance(state, entrance_of(state, network))
    return state


def test_poisson_mean_variance_and_independence() -> None:
    worlds, seconds = 2000, 20.0
    demand = Demand([Inflow(0, rate=0.5), Inflow(0, rate=0.5), Inflow(0, rate=torch.tensor(1.5))])
    state = counted(demand, worlds, seconds)
    assert (state.inserted == 0).all()
    counts = state.arrivals.double()
    for q, mean in enumerate((10.0, 10.0, 30.0)):
        assert abs(float(counts[:, q].mean()) - mean) < 4 * math.sqrt(mean / worlds)
        # The variance of a Poisson count's sample variance is (mean + 2 mean^2) / n, nearly.
        assert abs(float(counts[:, q].var()) - mean) < 4 * math.sqrt((mean + 2 * mean**2) / worlds)
    correlation = torch.corrcoef(counts.T)
    assert (correlation - torch.eye(3)).abs().max() < 4 / math.sqrt(worlds)


def test_a_rate_for_each_world() -> None:
    rate = torch.linspace(0.0, 2.0, 2000, dtype=DOUBLE)
    counts = counted(Demand([Inflow(0, rate=rate)]), 2000, 10.0).arrivals[:, 0].double()
    residual = counts - 10.0 * rate
    assert abs(float(residual.mean())) < 4 * math.sqrt(10.0 / 2000)
    assert float(counts[0]) == 0
    with pytest.raises(TrafficGradError, match=r"rate has shape \[2000\] for 3 worlds"):
        Demand([Inflow(0, rate=rate)]).start(empty(3, 1))


def test_constant_arrivals_within_their_window() -> None:
    demand = Demand([Inflow(0, kind="constant", rate=0.5, begin=3.05, end=9.2), Inflow(0, kind="constant")])
    expected = {5.0: 0, 5.1: 1, 7.0: 1, 7.1: 2, 9.1: 3, 20.0: 3}  # at 5.05, 7.05, 9.05 s
    for seconds, count in expected.items():
        assert counted(demand, 1, seconds).arrivals.tolist() == [[count, 0]]


def test_many_arrivals_in_one_step_are_counted_in_the_next_ones() -> None:
    demand = Demand([Inflow(0, kind="schedule", times=[0.05] * 9 + [2.0])])
    for seconds, count in {0.1: 4, 0.2: 8, 0.3: 9, 1.9: 9, 2.2: 10}.items():
        assert counted(demand, 1, seconds).arrivals.tolist() == [[count]]


def test_time_of_a_schedule_before_the_state_begins() -> None:
    """Whoever should have come before the state's time comes at once."""
    demand = Demand([Inflow(0, kind="schedule", times=[1.0, 2.0, 30.0]), Inflow(0, kind="constant", rate=1.0)])
    state = demand.start(dataclasses.replace(empty(1, 1), time=torch.tensor([10.0], dtype=DOUBLE)))
    assert state.next_arrival.tolist() == [[1.0, 11.0]]
    state = run(demand, state, tg.straight(1000.0), 1)
    assert (state.arrivals.tolist(), state.next_arrival[0, 0].item()) == ([[2, 0]], 30.0)


def test_shares_drivers_and_controlled_vehicles_are_drawn_as_asked() -> None:
    network = fork()
    inflow = Inflow(0, (0, 1), (1.0, 3.0), rate=1.0, drivers=(2, 7), controlled_share=0.25)
    demand = Demand([inflow])
    state = demand.start(empty(1500, 8))
    routes, drivers, count = [], [], 0
    controlled = 0
    for _ in range(40):
        state = move(state, network)
        state = demand.advance(state, entrance_of(state, network, controlled=(3, 6)))
    new = state.active
    driven = new[:, [3, 6]]
    controlled, count = int(driven.sum()), int(new.sum())
    assert (state.driver[:, [3, 6]][driven] == torch.tensor([0, 1]).expand(1500, 2)[driven]).all()
    ordinary = new.clone()
    ordinary[:, [3, 6]] = False
    routes, drivers = state.route[new], state.driver[ordinary]
    assert (state.lane[new] == torch.where(routes == 0, 0, state.lane[new].clamp(min=1))).all()
    assert abs(float((routes == 1).double().mean()) - 0.75) < 4 * math.sqrt(0.75 * 0.25 / count)
    assert abs(controlled / count - 0.25) < 4 * math.sqrt(0.25 * 0.75 / count)
    shares = torch.bincount(drivers, minlength=8).double() / len(drivers)
    assert (shares[[0, 1, 7]] == 0).all()
    assert (shares[2:7] - 0.2).abs().max() < 4 * math.sqrt(0.2 * 0.8 / len(drivers))


# ---------------------------------------------------------------------------------------------- queues and slots


def test_balance_and_identities_hold_at_every_step() -> None:
    network = tg.straight(150.0, lanes=2)
    demand = Demand([Inflow(0, rate=0.8), Inflow(0, kind="constant", rate=0.7, controlled_share=0.5)])
    state = empty(20, 12)
    state = dataclasses.replace(state, active=torch.arange(12).expand(20, 12) < 3, next_id=torch.full((20,), 12))
    state = dataclasses.replace(
        state, position=30.0 * torch.arange(1, 13).double().expand(20, 12), speed=state.speed + 9
    )
    state = demand.start(state)
    seen: list[dict[int, int]] = [{} for _ in range(20)]
    for step in range(400):
        state = move(state, network, 1.0)
        state = demand.advance(state, entrance_of(state, network, controlled=(0, 7)))
        assert torch.equal(state.arrivals, state.inserted + demand.waiting(state))
        assert torch.equal(3 + state.inserted.sum(1), state.active.sum(1) + state.left)
        assert torch.equal(state.next_id, 12 + state.inserted.sum(1))
        assert (state.arrivals >= state.inserted).all()
        for b in range(20):
            for n in range(12):
                if state.active[b, n]:
                    identity = int(state.vehicle_id[b, n])
                    assert seen[b].setdefault(identity, n) == n, step  # a number is used once, and stays in its slot
    assert all(len(numbers) > 15 for numbers in seen)


def test_a_blocked_entrance_loses_nobody() -> None:
    network = tg.straight(500.0)
    demand = Demand([Inflow(0, rate=1.0, drivers=(0, 1))])
    state = empty(4, 30)
    stone = torch.arange(30).expand(4, 30) == 0
    state = demand.start(dataclasses.replace(state, active=stone, position=torch.where(stone, 8.0, 0.0).double()))
    blocked = run(demand, state, network, 300)
    assert (blocked.inserted == 0).all() and (blocked.arrivals > 10).all() and torch.equal(blocked.active, stone)
    freed = dataclasses.replace(blocked, active=torch.zeros_like(stone))
    later = run(demand, freed, network, 300)
    assert (later.inserted > 0).all()
    assert torch.equal(later.arrivals, later.inserted + demand.waiting(later))


def test_without_a_free_slot_they_wait() -> None:
    network = tg.straight(5000.0)
    demand = Demand([Inflow(0, rate=1.0), Inflow(0, rate=1.0)])
    state = run(demand, demand.start(empty(3, 4)), network, 400)
    assert (state.active.sum(1) == 4).all() and (state.inserted.sum(1) == 4).all()
    assert (demand.waiting(state) > 5).all()


def test_controlled_slots_are_kept_for_controlled_vehicles() -> None:
    network = tg.straight(5000.0)
    ordinary = run(d := Demand([Inflow(0, rate=1.0)]), d.start(empty(3, 4)), network, 400, controlled=(1, 2))
    assert ordinary.active.tolist() == [[True, False, False, True]] * 3
    demand = Demand([Inflow(0, rate=1.0, controlled_share=1.0, drivers=(5, 6))])
    state = run(demand, demand.start(empty(3, 4)), network, 600, controlled=(1, 2))
    assert state.active.all()
    assert state.driver.tolist() == [[5, 0, 1, 5]] * 3  # with no such slot left they are ordinary vehicles
    assert state.vehicle_id.tolist() == [[2, 0, 1, 3]] * 3


def test_first_come_first_served_and_one_a_lane() -> None:
    """Two inflows to one lane: the one whose queue is longer, in time, goes first."""
    network = tg.straight(3000.0)
    schedule = Inflow(0, kind="schedule", times=[0.02, 0.03, 0.04], drivers=(1, 2))
    demand = Demand([Inflow(0, kind="schedule", times=[0.05], drivers=(0, 1)), schedule])
    state = demand.start(empty(1, 6))
    order = []
    for _ in range(200):
        before = state.inserted
        state = run(demand, state, network, 1, 2.0)
        assert int((state.inserted - before).sum()) <= 1
        order += (state.inserted - before).nonzero()[:, 1].tolist()
    assert order == [1, 1, 1, 0]


def test_lanes_with_most_room_are_taken_first() -> None:
    network = tg.straight(500.0, lanes=3)
    demand = Demand([Inflow(0, kind="schedule", times=[0.0, 0.1, 0.2, 0.3])])
    state = run(demand, demand.start(empty(1, 5)), network, 3)
    assert state.lane[0, :3].tolist() == [0, 1, 2]
    only = Demand([Inflow(0, kind="schedule", times=[0.0, 0.1], lanes=(1, 2))])
    assert run(only, only.start(empty(1, 5)), network, 2).lane[0, :2].tolist() == [1, 2]


def test_a_vehicle_longer_than_its_lane_enters_at_the_lanes_end() -> None:
    network = fork()
    demand = Demand([Inflow(3, kind="schedule", times=[0.0])])
    state = run(demand, demand.start(empty(1, 2)), network, 1)
    assert (state.position[0, 0].item(), state.lane[0, 0].item()) == (3.0, 6)


# ---------------------------------------------------------------------------------------------- purity


def mixed(dtype: torch.dtype = DOUBLE, worlds: int = 7) -> tuple[Demand, TrafficState, RoadNetwork]:
    network = fork()
    demand = Demand(
        [Inflow(0, (0, 1), rate=torch.tensor(0.9, dtype=dtype), controlled_share=0.3, drivers=(2, 4)), INFLOWS[3]]
    )
    return demand, demand.start(empty(worlds, 10, dtype)), network


def test_a_world_does_not_depend_on_its_batch() -> None:
    demand, state, network = mixed()
    together = run(demand, state, network, 150, 0.5, controlled=(4,))
    for b in range(7):
        alone = run(demand, state.index([b]), network, 150, 0.5, controlled=(4,))
        for f in dataclasses.fields(alone):
            assert torch.equal(getattr(alone, f.name), getattr(together.index([b]), f.name)), f.name


def test_inputs_stay_as_they_are_and_nothing_else_is_drawn() -> None:
    demand, state, network = mixed()
    generator = torch.get_rng_state()
    for _ in range(60):
        state = move(state, network)
        entrance = entrance_of(state, network)
        tensors = [getattr(state, f.name) for f in dataclasses.fields(state)] + [entrance.rear, entrance.speed]
        copies, versions = [t.clone() for t in tensors], [t._version for t in tensors]
        once, again = demand.advance(state, entrance), demand.advance(state, entrance)
        assert versions == [t._version for t in tensors]
        assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))
        assert all(torch.equal(getattr(once, f.name), getattr(again, f.name)) for f in dataclasses.fields(state))
        state = once
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    demand, state, network = mixed(dtype)
    after = run(demand, state, network, 80)
    assert int(after.inserted.sum()) > 10
    for f in dataclasses.fields(state):
        assert getattr(after, f.name).dtype == getattr(state, f.name).dtype, f.name
        assert getattr(after, f.name).shape == getattr(state, f.name).shape, f.name


# ---------------------------------------------------------------------------------------------- gradients


def difference(function: object, at: float, step: float = 1e-6) -> float:
    return float((function(at + step) - function(at - step)) / (2 * step))  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["poisson", "constant"])
def test_gradient_of_the_rate_through_traffic(kind: str) -> None:
    """Through arrival times, entry places and speeds, and the IDM that follows; no event switches at this rate."""
    network = tg.straight(400.0)

    def outcome(rate: Tensor) -> Tensor:
        demand = Demand([Inflow(0, kind=kind, rate=rate)])  # type: ignore[arg-type]
        simulator = tg.Simulator(network, tg.Fleet(), IDM, dt=0.1, demand=demand)
        state = demand.start(empty(2, 12, seeds=3))
        for _ in range(150):
            state = simulator.step(state)
        assert (state.inserted >= 3).all() and (demand.waiting(state) == 0).all()
        return torch.where(state.active, state.position + 3.0 * state.speed, 0.0).sum()

    rate = torch.tensor(0.4337, dtype=DOUBLE, requires_grad=True)
    outcome(rate).backward()
    assert rate.grad is not None
    expected = difference(lambda x: outcome(torch.tensor(x, dtype=DOUBLE)), 0.4337)
    assert abs(expected) > 100.0
    assert float(rate.grad) == pytest.approx(expected, rel=1e-6)


def test_gradient_of_a_rate_per_world_and_of_scheduled_times() -> None:
    network = tg.straight(400.0)

    def places(rate: Tensor, times: Tensor) -> Tensor:
        demand = Demand([Inflow(0, kind="constant", rate=rate), Inflow(0, kind="schedule", times=times)])
        state = run(demand, demand.start(empty(2, 12)), network, 60)
        assert (state.inserted == torch.tensor([[2, 1], [2, 1]])).all()
        return state.position.sum(1)

    rate = torch.tensor([0.34, 0.37], dtype=DOUBLE, requires_grad=True)
    times = torch.tensor([0.83], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(places, (rate, times))


def test_a_vehicle_that_waited_has_no_gradient_of_its_arrival_but_of_its_leader() -> None:
    network = tg.straight(400.0)
    demand = Demand([Inflow(0, kind="constant", rate=(rate := torch.tensor(1.25, dtype=DOUBLE, requires_grad=True)))])
    state = demand.start(empty(1, 3))
    place = torch.tensor(11.0, dtype=DOUBLE, requires_grad=True)
    blocker = torch.tensor([[True, False, False]])
    state = dataclasses.replace(state, active=blocker, position=torch.where(blocker, place, 0.0))
    state = run(demand, state, network, 9)
    assert state.inserted.tolist() == [[0]]
    moved = dataclasses.replace(state, position=torch.where(blocker, place + 6.0, 0.0))
    state = run(demand, moved, network, 1)
    assert state.inserted.tolist() == [[1]]
    by_rate, by_place = torch.autograd.grad(state.speed[0, 1], (rate, place), allow_unused=True)
    assert by_rate is None or float(by_rate) == 0.0
    assert float(by_place) > 0.1


# ---------------------------------------------------------------------------------------------- capacity


def capacity() -> float:
    v = torch.linspace(0.01, 29.99, 20_000, dtype=DOUBLE)
    gap = (2.0 + v) / (1 - (v / 30.0) ** 4).sqrt()
    return float((v / (gap + 5.0)).max())


@pytest.mark.parametrize(("share", "dt"), [(0.9, 0.2), (2.0, 0.2), (0.9, 0.5)])
def test_an_inflow_near_capacity_enters(share: float, dt: float) -> None:
    """The queue stays short below capacity; above it, traffic enters at nearly the capacity and does not jam."""
    network, limit = tg.straight(2000.0), capacity()
    demand = Demand([Inflow(0, kind="constant", rate=share * limit)])
    simulator = tg.Simulator(network, tg.Fleet(), IDM, dt=dt, demand=demand)
    state = demand.start(empty(1, 120, torch.float32))
    longest, slowest = 0, math.inf
    for _ in range(round(250 / dt)):
        state = simulator.step(state)
        longest = max(longest, int(demand.waiting(state).max()))
        slowest = min(slowest, float(state.speed[state.active].min()) if bool(state.active.any()) else math.inf)
    entered = int(state.inserted) / 250.0 / limit
    if share < 1.0:
        assert longest <= 2 and entered > 0.98 * share
    else:
        assert 0.94 < entered < 1.03
    assert slowest > 10.0


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "poison"}, "did you mean 'poisson'"),
        ({"rate": -1.0}, "rate must be finite and >= 0"),
        ({"rate": torch.zeros(2, 2)}, "rate must be"),
        ({"begin": 5.0, "end": 4.0}, "begin and end"),
        ({"times": [1.0]}, "times belong to kind 'schedule'"),
        ({"kind": "schedule"}, "times belong"),
        ({"kind": "schedule", "times": [2.0, 1.0]}, "ascending"),
        ({"kind": "schedule", "times": [2.0], "schedule_routes": [1, 2]}, "2 entries for 1 times"),
        ({"routes": (0, 1), "shares": (1.0,)}, "1 entries for 2 routes"),
        ({"routes": (0, 1), "shares": (1.0, -1.0)}, ">= 0 and not all 0"),
        ({"routes": (0, 1), "shares": (0.0, 0.0)}, ">= 0 and not all 0"),
        ({"drivers": (3, 3)}, "drivers must be"),
        ({"controlled_share": 1.5}, "between 0 and 1"),
        ({"speed": -1.0}, "speed must be"),
        ({"lanes": ()}, "lanes must be"),
    ],
)
def test_bad_inflows_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(TrafficGradError, match=message):
        Inflow(0, **fields)


@pytest.mark.parametrize(
    ("inflow", "message"),
    [
        (Inflow(9), "there is no edge 9; valid are 0 to 4"),
        (Inflow(0, (7,)), "there is no route 7; the network has 3"),
        (Inflow(0, (2,)), "begins with edge"),
        (Inflow(3, lanes=(1,)), "has the lanes 0 to 0, not 1"),
        (Inflow(0, drivers=(0, 9)), "rows up to 8, but desired_speed has 4"),
    ],
)
def test_inflows_that_do_not_fit_the_network_are_refused(inflow: Inflow, message: str) -> None:
    with pytest.raises(TrafficGradError, match=message):
        Demand([inflow]).check(fork(), DRIVERS._replace(desired_speed=torch.ones(4)))


def test_a_state_that_was_not_started_is_refused() -> None:
    network = tg.straight(100.0)
    with pytest.raises(TrafficGradError, match=r"demand\.start"):
        Demand([Inflow(0)]).advance(empty(1, 1), entrance_of(empty(1, 1), network))
    with pytest.raises(TrafficGradError, match="at least one inflow"):
        Demand([])
