"""Vehicles follow their routes: lane changes in time, lane drops, weaving, and the book-keeping of who is where."""

from __future__ import annotations

import math
import random

import networkx as nx
import pytest
import torch
from oracles.road_worlds import (
    DOUBLE,
    Placed,
    add_road,
    add_town,
    closed_walks,
    road_lane,
    scatter,
    state_of,
)

import trafficgrad as tg
from trafficgrad import metrics
from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import RoadNetwork, highway, merge, roundabout
from trafficgrad.network.connections import Connection
from trafficgrad.route_following import STAGGER
from trafficgrad.state import TrafficState

DRIVERS = tg.IDM(desired_speed=25.0, time_headway=1.0, max_acceleration=1.0, comfortable_deceleration=1.5)
CHANGES = tg.MOBIL(sides="alternate")


def simulator(network: RoadNetwork, demand: Demand | None = None, model: tg.IDM = DRIVERS) -> tg.Simulator:
    return tg.Simulator(network, tg.Fleet(), model, CHANGES, demand=demand)


def empty(demand: Demand, worlds: int, slots: int) -> TrafficState:
    """A road without vehicles; world b has the seed b."""
    state = TrafficState(
        torch.zeros(worlds, slots),
        torch.zeros(worlds, slots),
        torch.zeros(worlds, slots, dtype=torch.int64),
        active=torch.zeros(worlds, slots, dtype=torch.bool),
        driver=torch.zeros(worlds, slots, dtype=torch.int64),
        seed=torch.arange(worlds),
    )
    return demand.start(state)


# ---------------------------------------------------------------------------------------------- mandatory changes


def road_with_exit() -> RoadNetwork:
    """Three lanes go on; from the right one a vehicle may leave at 15 m/s. Route 0 goes on, route 1 leaves."""
    graph = nx.MultiDiGraph()
    graph.add_node("fork", position=(0.0, 0.0))
    before = add_road(graph, "start", "fork", "before", [(-1000.0, 0.0), (0.0, 0.0)], lanes=3, speed_limit=25.0)
    after = add_road(graph, "fork", "end", "after", [(30.0, 0.0), (630.0, 0.0)], lanes=3, speed_limit=25.0)
    away = add_road(graph, "fork", "away", "exit", [(30.0, -8.0), (330.0, -60.0)], speed_limit=15.0)
    ways = [Connection(before, i, after, i) for i in range(3)]
    graph.nodes["fork"]["connections"] = [*ways, Connection(before, 0, away, 0)]
    return RoadNetwork.from_graph(graph).with_routes([["before", "after"], ["before", "exit"]])


@torch.no_grad()
def test_vehicles_in_the_wrong_lane_take_their_exit_in_time() -> None:
    """50 worlds of 24 vehicles; vehicle 0 is on the middle or left lane, 450 to 950 m before its exit."""
    network, rng, worlds = road_with_exit(), random.Random(3), []
    for _ in range(50):
        first = Placed(1, rng.uniform(50.0, 550.0), 18.0, rng.choice([1, 2]))
        world = [first]
        while len(world) < 24:
            other = Placed(int(rng.random() < 0.3), rng.uniform(10.0, 800.0), 18.0, rng.randrange(3))
            if all(one.number != other.number or abs(one.position - other.position) > 30.0 for one in world):
                world.append(other)
        worlds.append(world)
    sim, state = simulator(network), state_of(network, worlds)
    exit_lane = road_lane(network, "exit")
    took, slowest = torch.zeros_like(state.active), torch.full_like(state.speed, math.inf)
    hardest = torch.zeros_like(state.speed)
    for _ in range(540):
        after = sim.step(state)
        both = state.active & after.active
        slowest = torch.where(both, torch.minimum(slowest, after.speed), slowest)
        hardest = torch.where(both, torch.minimum(hardest, (after.speed - state.speed) / sim.dt), hardest)
        state = after
        took |= state.lane == exit_lane
    leaves = state.route == 1
    assert bool(took[leaves].all()), "everybody whose route leaves has left"
    assert not bool(took[~leaves].any())
    assert float(slowest.min()) > 8.0, "nobody has to wait for the change, nor anybody for whom it makes room"
    assert float(hardest.min()) > -4.0


@torch.no_grad()
@pytest.mark.parametrize("side", [1, -1], ids=["left", "right"])
def test_who_stands_at_the_end_of_the_farthest_lane_gets_across_all_others(side: int) -> None:
    """Four lanes, of which the last one on a side leads to the exit; somebody stands behind in each lane, and waits."""
    graph = nx.MultiDiGraph()
    graph.add_node("fork", position=(0.0, 0.0))
    before = add_road(graph, "start", "fork", "before", [(-200.0, 0.0), (0.0, 0.0)], lanes=4, speed_limit=15.0)
    after = add_road(graph, "fork", "end", "after", [(30.0, 0.0), (630.0, 0.0)], lanes=4, speed_limit=15.0)
    out = [(30.0, 10.0 * side), (230.0, 80.0 * side)]
    away = add_road(graph, "fork", "away", "exit", out, speed_limit=15.0)
    last, first = (3, 0) if side > 0 else (0, 3)
    ways = [Connection(before, i, after, i) for i in range(4)]
    graph.nodes["fork"]["connections"] = [*ways, Connection(before, last, away, 0)]
    network = RoadNetwork.from_graph(graph).with_routes([["before", "after"], ["before", "exit"]])
    place = 198.0 if side > 0 else 198.0 - STAGGER
    waiting = [Placed(0, place - 6.8, 0.0, number) for number in range(4)]
    sim, state = simulator(network), state_of(network, [[Placed(1, place, 0.0, first), *waiting]])
    for _ in range(round(60.0 / sim.dt)):
        state = sim.step(state)
    assert int(state.lane[0, 0]) == road_lane(network, "exit") or not bool(state.active[0, 0])


@torch.no_grad()
def test_nobody_stands_at_the_end_of_a_lane_at_moderate_demand() -> None:
    """A ramp with an acceleration lane of 200 m, and a road of which the left one of two lanes ends after 500 m.

    Both in one network; each carries about 900 vehicles/h, half of what a lane can. Four worlds, 85 s.
    """
    graph = merge(acceleration_lane=200.0, speed_limit=25.0).to_graph()
    add_road(graph, "a", "drop", "two", [(-500.0, 900.0), (0.0, 900.0)], lanes=2, speed_limit=25.0)
    add_road(graph, "drop", "b", "one", [(0.0, 898.25), (300.0, 898.25)], speed_limit=25.0)
    network = RoadNetwork.from_graph(graph)
    assert not network.is_junction.any(), "lanes only go on, or end"
    routes = [[start, "highway_merge", "highway_out"] for start in ("highway_in", "ramp")] + [["two", "one"]]
    network = network.with_routes(routes)
    flows = (450.0, 450.0, 900.0)
    demand = Demand([Inflow(int(network.routes[r, 0]), (r,), rate=flow / 3600) for r, flow in enumerate(flows)])
    sim, state = simulator(network, demand), empty(demand, worlds=4, slots=80)
    stands = torch.zeros_like(state.speed)
    for step in range(850):
        after = sim.step(state)
        same = state.active & after.active & (state.vehicle_id == after.vehicle_id)
        assert float(torch.where(same, after.speed - state.speed, 0.0).min()) / sim.dt > -4.0
        stands = torch.where(same & (after.speed < 0.3), stands + sim.dt, 0.0)
        assert float(stands.max()) < 5.0, float(state.time[0])
        state = after
        if step % 10 == 0:
            assert not bool(metrics.overlaps(sim.neighbors(state)).any())
    assert torch.equal(state.active.sum(1) + state.left, state.inserted.sum(1))
    assert int((state.arrivals - state.inserted).sum()) <= 4 and int(state.left.min()) > 12


@torch.no_grad()
def test_two_side_by_side_that_need_each_others_lane_resolve() -> None:
    """A weaving section of 300 m: one comes from the ramp and goes on, one comes along the road and leaves.

    They drive side by side, or stand so, down to where who goes to the right stops, 14 m before the section's end.
    """
    network = highway(1200.0, lanes=1, speed_limit=25.0, on_ramp_at=300.0, off_ramp_at=600.0)
    network = network.with_routes([["highway_0", "highway_1", "off_ramp"], ["on_ramp", "highway_1", "highway_2"]])
    worlds = []
    for place in (10.0, 100.0, 200.0, 250.0, 270.0, 280.0, 284.0):
        for speed in (0.0, 5.0, 20.0):
            if place + speed**2 / 6.0 <= 300.0 - STAGGER - 2.0:
                for ahead in (0.0, 1.5):
                    worlds.append([Placed(0, place, speed, 1, 1), Placed(1, place - ahead, speed, 0, 1)])
    sim, state = simulator(network), state_of(network, worlds)
    onto = torch.tensor([[road_lane(network, "off_ramp"), road_lane(network, "highway_2")]])
    arrived, hardest = torch.zeros_like(state.active), 0.0
    for step in range(450):
        after = sim.step(state)
        both = state.active & after.active
        hardest = min(hardest, float(torch.where(both, after.speed - state.speed, 0.0).min()) / sim.dt)
        state = after
        arrived |= state.lane == onto
        assert step % 3 or not bool(metrics.overlaps(sim.neighbors(state)).any())
    assert bool(arrived.all()), [worlds[b] for b in (~arrived).any(1).nonzero()[:, 0].tolist()]
    assert hardest > -6.0


# ---------------------------------------------------------------------------------------------- book-keeping


class Follower:
    """Where a vehicle is along its route, from nothing but the lanes that it is seen on."""

    def __init__(self, network: RoadNetwork, route: int, place: int, lane: int) -> None:
        self.network = network
        self.route = [edge for edge in network.routes[route].tolist() if edge >= 0]
        self.loops = bool(network.route_loops[route])
        self.place, self.lane, self.previous = place, lane, -1
        self.laps = 0
        self.check()

    def check(self) -> None:
        """It is on the edge that its route has here, or on a way from there to the next one."""
        edge = self.network.lanes[self.lane].edge
        if not bool(self.network.is_junction[self.lane]):
            assert edge == self.route[self.place]
            return
        way = self.network.connections[int(self.network.lane_connection[self.lane])]
        assert self.network.edge_index(way.from_edge) == self.route[self.place]
        assert self.network.edge_index(way.to_edge) == self.route[(self.place + 1) % len(self.route)]

    def beside(self, lane: int) -> set[int]:
        return {lane, int(self.network.left[lane]), int(self.network.right[lane])} - {-1}

    def paths(self, lane: int, most: int = 3) -> list[list[int]]:
        """Lanes in a row that one step may enter, along connections."""
        found: list[list[int]] = [[]]
        if most:
            for after in self.network.successors[lane].tolist():
                found += [[after, *rest] for rest in self.paths(after, most - 1)] if after >= 0 else []
        return found

    def see(self, lane: int) -> None:
        """It is on ``lane`` after a step: straight on along connections, and then perhaps one lane aside."""
        possible = []
        for path in self.paths(self.lane):
            end = path[-1] if path else self.lane
            if lane in self.beside(end):
                possible.append((len(path), end != lane, path))
        assert possible, f"from lane {self.lane} to lane {lane} in one step"
        path = min(possible)[2]
        for entered in path:
            self.previous, self.lane = self.lane, entered
            if not bool(self.network.is_junction[entered]):
                self.place += 1
                if self.place == len(self.route):
                    assert self.loops, "a route that ends was left"
                    self.place, self.laps = 0, self.laps + 1
            self.check()
        self.lane = lane
        self.check()


@torch.no_grad()
def test_lanes_visited_are_a_path_that_follows_the_route_and_loops_begin_again() -> None:
    graph = nx.MultiDiGraph()
    add_town(graph, "town", "priority", 2, rows=2, columns=2, spacing=90.0)
    network = RoadNetwork.from_graph(graph)
    network = network.with_routes(closed_walks(network, 6, seed=2), loops=True)
    placed = scatter(network, range(6), 14, random.Random(8), 5.0)
    sim, state = simulator(network, model=tg.IDM(desired_speed=13.9)), state_of(network, [placed])
    followers = [
        Follower(network, one.route, one.place, int(lane)) for one, lane in zip(placed, state.lane[0], strict=True)
    ]
    changes = 0
    for _ in range(480):
        state = sim.step(state)
        for i, follower in enumerate(followers):
            before = follower.lane
            follower.see(int(state.lane[0, i]))
            changes += before != follower.lane and before in follower.beside(follower.lane)
            assert int(state.route_index[0, i]) == follower.place
            assert int(state.previous[0, i]) == follower.previous
    assert sum(follower.laps for follower in followers) > 5 and changes > 5
    assert bool(state.active.all()) and int(state.left) == 0


@torch.no_grad()
def test_vehicles_leave_at_the_end_of_their_route_and_the_balance_holds() -> None:
    """A roundabout; vehicles come to each arm and go to all others. Slots are used again, identities are not."""
    network = roundabout(lanes=2, arm_length=60.0)
    graph = nx.DiGraph((network.edge_index(c.from_edge), network.edge_index(c.to_edge)) for c in network.connections)
    starts = [e for e in graph if graph.in_degree(e) == 0]
    ends = [e for e in graph if graph.out_degree(e) == 0]
    pairs = [(a, b) for a in starts for b in ends]
    network = network.with_routes([nx.shortest_path(graph, a, b) for a, b in pairs])
    demand = Demand(
        [Inflow(a, tuple(r for r, pair in enumerate(pairs) if pair[0] == a), rate=400 / 3600) for a in starts]
    )
    sim, state = simulator(network, demand, tg.IDM(desired_speed=13.9)), empty(demand, worlds=2, slots=30)
    followers: dict[tuple[int, int], Follower] = {}
    gone: list[set[int]] = [set(), set()]
    for _ in range(420):
        after = sim.step(state)
        assert torch.equal(after.active.sum(1) + after.left, after.inserted.sum(1))
        assert bool((after.inserted <= after.arrivals).all())
        for b in range(2):
            for i in range(30):
                name = int(after.vehicle_id[b, i])
                was = bool(state.active[b, i])
                if was and (not bool(after.active[b, i]) or name != int(state.vehicle_id[b, i])):
                    old = int(state.vehicle_id[b, i])
                    follower = followers.pop((b, old))
                    assert follower.lane == int(state.lane[b, i])
                    assert follower.place == len(follower.route) - 1, "it has left from the last edge of its route"
                    left_over = float(network.lane_length[follower.lane]) - float(state.position[b, i])
                    assert left_over < 13.9 * sim.dt + 1e-3, "at its end"
                    gone[b].add(old)
                if bool(after.active[b, i]):
                    assert name not in gone[b], "nobody comes back"
                    lane = int(after.lane[b, i])
                    if (b, name) not in followers:
                        followers[b, name] = Follower(network, int(after.route[b, i]), 0, lane)
                    followers[b, name].see(lane)
                    assert int(after.route_index[b, i]) == followers[b, name].place
                    assert int(after.previous[b, i]) == followers[b, name].previous
        state = after
        assert state.left.tolist() == [len(gone[0]), len(gone[1])]
    assert int(state.left.min()) >= 4 and len(gone[0] | gone[1]) > 8


@torch.no_grad()
def test_a_route_that_ends_inside_the_network_ends_the_trip() -> None:
    """The road goes on, the vehicle does not."""
    network = tg.straight(300.0, edges=3).with_routes([[0, 1], [0, 1, 2]])
    state = state_of(network, [[Placed(0, 95.0, 20.0), Placed(1, 80.0, 20.0)]])
    sim = tg.Simulator(network, tg.Fleet(), DRIVERS)
    seen: list[set[int]] = [set(), set()]
    for _ in range(300):
        state = sim.step(state)
        for i in range(2):
            if bool(state.active[0, i]):
                seen[i].add(int(state.lane[0, i]))
        assert int(state.left) == 2 - int(state.active.sum())
    assert seen == [{0, 1}, {0, 1, 2}] and int(state.left) == 2
    assert state.position.dtype == DOUBLE
