"""Neighbours, gates and lane ends along every vehicle's own way, against an independent scalar search."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable
from functools import cache

import networkx as nx
import pytest
import torch
from oracles.road_worlds import DOUBLE, Placed, road_lane, state_of
from oracles.scalar_paths import Driver, Roads, surroundings
from torch import Tensor

import trafficgrad as tg
from trafficgrad.network import RoadNetwork, bottleneck, grid, highway, intersection, roundabout
from trafficgrad.state import Neighbors, TrafficState

WORLDS, VEHICLES = 25, 24

pytestmark = pytest.mark.usefixtures("each_backend")

NETWORKS: dict[str, Callable[[], RoadNetwork]] = {
    "intersection": lambda: intersection(lanes=2, arm_length=120.0),
    "roundabout": lambda: roundabout(lanes=2, arm_length=60.0),
    "bottleneck": bottleneck,
    "grid": lambda: grid(2, 2, inner_length=150.0, end_length=80.0),
    "highway": lambda: highway(1200.0, on_ramp_at=300.0, off_ramp_at=800.0, ramp_length=120.0),
}
every_network = pytest.mark.parametrize("case", NETWORKS)


@cache
def routed(case: str) -> RoadNetwork:
    """The network with all shortest routes from where one can enter to where one can leave."""
    network = NETWORKS[case]()
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(network.edges)))
    graph.add_edges_from(
        (network.edge_index(way.from_edge), network.edge_index(way.to_edge)) for way in network.connections
    )
    starts = [e for e in graph if graph.in_degree(e) == 0]
    ends = [e for e in graph if graph.out_degree(e) == 0]
    pairs = [(a, b) for a in starts for b in ends if nx.has_path(graph, a, b)]
    return network.with_routes([nx.shortest_path(graph, a, b) for a, b in pairs])


def before(network: RoadNetwork, lane: int) -> list[int]:
    return [x for x in network.predecessors[lane].tolist() if x >= 0]


def random_driver(network: RoadNetwork, rng: random.Random) -> Driver:
    """Anywhere on a route or without one, on a road or a junction lane, perhaps with its rear on the lane before."""
    routes = [[e for e in row if e >= 0] for row in network.routes.tolist()]
    route, length = rng.randrange(len(routes)), rng.uniform(3.0, 12.0)
    place = rng.randrange(len(routes[route]))
    edge = routes[route][place]
    lane = road_lane(network, edge, rng.randrange(network.edge_lanes[edge]))
    previous = -1
    ways = [
        w
        for w in network.successors[lane].tolist()
        if w >= 0
        and bool(network.is_junction[w])
        and place + 1 < len(routes[route])
        and int(network.edge[int(network.successors[w, 0])]) == routes[route][place + 1]
    ]
    if ways and rng.random() < 0.25:
        previous, lane = lane, rng.choice(ways)
    elif place > 0 and rng.random() < 0.5:
        come_from = [
            w
            for w in before(network, lane)
            if int(network.edge[(before(network, w) or [w])[0]]) == routes[route][place - 1]
        ]
        previous = rng.choice(come_from) if come_from else -1
    most = float(network.lane_length[lane])
    near = rng.random()
    position = rng.uniform(0.0, min(8.0, most)) if near < 0.3 else rng.uniform(max(0.0, most - 60.0 * near), most)
    if rng.random() < 0.1:
        position = min(float(round(position)), most / 2)  # places where several stand at once
    speed = rng.choice([0.0, rng.uniform(0.0, 20.0)])
    if rng.random() < 0.1 and not bool(network.is_junction[lane]):
        route = -1
    return Driver(lane, position, speed, length, rng.uniform(1.0, 3.0), route, place, previous)


def random_worlds(network: RoadNetwork, worlds: int, vehicles: int, seed: int) -> list[list[Driver]]:
    rng = random.Random(seed)
    return [[random_driver(network, rng) for _ in range(vehicles)] for _ in range(worlds)]


def simulation(network: RoadNetwork, worlds: list[list[Driver]]) -> tuple[tg.Simulator, TrafficState]:
    def real(name: str) -> Tensor:
        return torch.tensor([[getattr(d, name) for d in world] for world in worlds], dtype=DOUBLE)

    def whole(name: str) -> Tensor:
        return torch.tensor([[getattr(d, name) for d in world] for world in worlds])

    model = tg.IDM(comfortable_deceleration=real("braking"))
    simulator = tg.Simulator(network, tg.Fleet(length=real("length")), model)
    state = TrafficState(
        real("position"),
        real("speed"),
        whole("lane"),
        route=whole("route"),
        route_index=whole("place"),
        previous=whole("previous"),
    )
    return simulator, state


@every_network
def test_neighbours_gates_and_ends_equal_the_scalar_search(case: str) -> None:
    network = routed(case)
    roads, worlds = Roads(network), random_worlds(network, WORLDS, VEHICLES, seed=7)
    simulator, state = simulation(network, worlds)
    found = simulator.neighbors(state)
    ahead = found.ahead
    assert ahead is not None
    count = Counter[str]()
    for b, world in enumerate(worlds):
        for i, expected in enumerate(surroundings(roads, world)):
            told = f"world {b}, vehicle {i}: {world[i]}"
            assert found.leader[b, i].tolist() == expected.leader, told
            assert found.follower[b, i].tolist() == expected.follower, told
            assert found.gap[b, i].tolist() == pytest.approx(expected.gap, abs=1e-9), told
            assert found.follower_gap[b, i].tolist() == pytest.approx(expected.follower_gap, abs=1e-9), told
            closing = [0.0 if j < 0 else world[i].speed - world[j].speed for j in expected.leader]
            assert found.closing_speed[b, i].tolist() == pytest.approx(closing, abs=1e-12), told
            closing = [0.0 if j < 0 else world[j].speed - world[i].speed for j in expected.follower]
            assert found.follower_closing_speed[b, i].tolist() == pytest.approx(closing, abs=1e-12), told
            missing = 3 - len(expected.gates)
            assert ahead.gate[b, i].tolist() == expected.gates + [-1] * missing, told
            distances = expected.gate_distances + [math.inf] * missing
            assert ahead.gate_distance[b, i].tolist() == pytest.approx(distances, abs=1e-9), told
            assert float(ahead.end_distance[b, i]) == pytest.approx(expected.end_distance, abs=1e-9), told
            if network.has_speed_limits:
                assert int(ahead.slow[b, i]) == expected.slow, told
                assert float(ahead.slow_distance[b, i]) == pytest.approx(expected.slow_distance, abs=1e-9), told
            for k in range(3):
                for kind, other in (("leader", expected.leader[k]), ("follower", expected.follower[k])):
                    near = other >= 0 and network.lanes[world[other].lane].edge == network.lanes[world[i].lane].edge
                    count[f"{kind} on the own edge"] += near
                    count[f"{kind} beyond it"] += other >= 0 and not near
                    count[f"no {kind}"] += other < 0
            count["gates"] += len(expected.gates)
            count["lane ends"] += expected.end_distance < math.inf
    # The sample is not vacuous.
    assert all(
        count[f"{kind} {where}"] > 50 for kind in ("leader", "follower") for where in ("on the own edge", "beyond it")
    )
    assert count["gates"] > 200 or case == "highway"
    assert count["lane ends"] > 10 or case in ("roundabout", "grid", "bottleneck")


def test_states_on_the_way_equal_the_scalar_search() -> None:
    """States that traffic itself has come to, with rears on the lanes that their fronts have left."""
    network = routed("roundabout")
    roads, rng = Roads(network), random.Random(3)
    entries = sorted({int(row[0]) for row in network.routes})
    placed = []
    for entry in entries:
        routes = [r for r, row in enumerate(network.routes.tolist()) if row[0] == entry]
        for number in (0, 1):
            placed += [Placed(rng.choice(routes), 8.0 + 12.0 * k, 3.0, number) for k in range(4)]
    state = state_of(network, [placed])
    simulator = tg.Simulator(network, tg.Fleet(), tg.IDM(desired_speed=12.0), tg.MOBIL())
    across = 0
    with torch.no_grad():
        for step in range(200):
            state = simulator.step(state)
            if step % 8:
                continue
            onto = state.active[0].tolist()
            slots = [i for i, there in enumerate(onto) if there]
            world = [
                Driver(
                    int(state.lane[0, i]),
                    float(state.position[0, i]),
                    float(state.speed[0, i]),
                    5.0,
                    1.5,
                    int(state.route[0, i]),
                    int(state.route_index[0, i]),
                    int(state.previous[0, i]),
                )
                for i in slots
            ]
            found = simulator.neighbors(state)
            for i, expected in zip(slots, surroundings(roads, world), strict=True):
                leader = [slots[j] if j >= 0 else -1 for j in expected.leader]
                follower = [slots[j] if j >= 0 else -1 for j in expected.follower]
                assert found.leader[0, i].tolist() == leader
                assert found.follower[0, i].tolist() == follower
                assert found.gap[0, i].tolist() == pytest.approx(expected.gap, abs=1e-9)
                across += int(state.previous[0, i]) >= 0 and float(state.position[0, i]) < 5.0
    assert across > 20 and int(state.active.sum()) < state.vehicles


@every_network
def test_follower_and_leader_are_inverse_on_a_lane(case: str) -> None:
    """On one lane, whoever leads is followed; beyond a junction several may have one leader, and it one follower."""
    network = routed(case)
    simulator, state = simulation(network, random_worlds(network, WORLDS, VEHICLES, seed=11))
    found = simulator.neighbors(state)
    leader, follower = found.leader[..., 1], found.follower[..., 1]
    slot = torch.arange(VEHICLES).expand_as(leader)
    same = (leader >= 0) & (state.lane.gather(1, leader.clamp(min=0)) == state.lane)
    assert bool(same.sum() > 100)
    assert torch.equal(follower.gather(1, leader.clamp(min=0))[same], slot[same])
    gap_behind = found.follower_gap[..., 1].gather(1, leader.clamp(min=0))
    assert torch.allclose(gap_behind[same], found.gap[..., 1][same], atol=1e-9)
    behind = (follower >= 0) & (state.lane.gather(1, follower.clamp(min=0)) == state.lane)
    assert torch.equal(leader.gather(1, follower.clamp(min=0))[behind], slot[behind])


# ---------------------------------------------------------------------------------------------- unbranched roads


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("lanes", [1, 3])
def test_walking_a_route_agrees_with_the_search_of_unbranched_roads(closed: bool, lanes: int) -> None:
    """Up to the look-ahead; a road of 280 m lies within it."""
    road = tg.ring(280.0, lanes, edges=4) if closed else tg.straight(280.0, lanes, edges=4)
    walked = road.with_routes([[0, 1, 2, 3]], loops=closed)
    assert road.is_unbranched and not walked.is_unbranched
    generator = torch.Generator().manual_seed(lanes)
    edge = torch.randint(4, (40, 18), generator=generator)
    state = TrafficState(
        70.0 * torch.rand(40, 18, generator=generator, dtype=DOUBLE),
        15.0 * torch.rand(40, 18, generator=generator, dtype=DOUBLE),
        edge * lanes + torch.randint(lanes, (40, 18), generator=generator),
        active=torch.rand(40, 18, generator=generator) < 0.5,
    )
    on_route = dataclasses.replace(state, route=torch.zeros_like(edge), route_index=edge)
    one = tg.Simulator(road, tg.Fleet(), tg.IDM())
    two = dataclasses.replace(one, network=walked)
    expected, found = one.neighbors(state), two.neighbors(on_route)
    for name in ("leader", "follower"):
        there = state.active[..., None].expand(-1, -1, 3)
        assert torch.equal(getattr(found, name)[there], getattr(expected, name)[there]), name
    for name in ("gap", "follower_gap", "closing_speed", "follower_closing_speed"):
        assert torch.allclose(getattr(found, name)[there], getattr(expected, name)[there], atol=1e-9), name
    for _ in range(60):
        state, on_route = one.step(state), two.step(on_route)
        assert torch.equal(state.lane, on_route.lane) and torch.equal(state.active, on_route.active)
        assert torch.allclose(state.position, on_route.position, atol=1e-8)


def test_drivers_look_300_m_ahead_and_no_farther() -> None:
    """Nearer than that is where the lane begins, not who is on it: 60 m beyond a lane's beginning are seen too."""
    network = tg.straight(900.0, edges=15).with_routes([list(range(15))])
    simulator = tg.Simulator(network, tg.Fleet(), tg.IDM())
    for start, expected in ((1.0, 1), (0.0, -1)):
        # The fifth edge after the own one begins 300 m after the own one's beginning.
        state = state_of(network, [[Placed(0, start), Placed(0, 59.0, place=5)]])
        assert int(simulator.neighbors(state).leader[0, 0, 1]) == expected
    assert float(simulator.neighbors(state).gap[0, 0, 1]) == math.inf


# ---------------------------------------------------------------------------------------------- invariants


def fields(found: Neighbors) -> dict[str, Tensor]:
    assert found.ahead is not None
    own = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name != "ahead"}
    return own | {f.name: getattr(found.ahead, f.name) for f in dataclasses.fields(found.ahead)}


@every_network
def test_worlds_do_not_know_of_each_other(case: str) -> None:
    network = routed(case)
    simulator, state = simulation(network, random_worlds(network, 6, VEHICLES, seed=5))
    found, after = fields(simulator.neighbors(state)), simulator.step(state)
    for b in range(6):
        alone = dataclasses.replace(
            simulator,
            fleet=tg.Fleet(length=simulator.fleet.length[b : b + 1]),
            car_following=tg.IDM(comfortable_deceleration=simulator.car_following.comfortable_deceleration[b : b + 1]),
        )
        own = state.index([b])
        for name, value in fields(alone.neighbors(own)).items():
            assert torch.equal(value[0], found[name][b]), name
        stepped = alone.step(own)
        for name in ("position", "speed", "lane", "route_index", "previous", "right_of_way", "active"):
            assert torch.equal(getattr(stepped, name)[0], getattr(after, name)[b]), name


@every_network
def test_permuting_the_slots_permutes_the_neighbours(case: str) -> None:
    network = routed(case)
    rng, worlds = random.Random(9), random_worlds(network, 8, VEHICLES, seed=13)
    # Ties are ordered by slot, so there must be none.
    worlds = [[dataclasses.replace(d, position=d.position + rng.uniform(0, 1e-3)) for d in world] for world in worlds]
    order = rng.sample(range(VEHICLES), VEHICLES)
    simulator, state = simulation(network, worlds)
    shuffled_simulator, shuffled = simulation(network, [[world[i] for i in order] for world in worlds])
    found, other = simulator.neighbors(state), shuffled_simulator.neighbors(shuffled)
    place = torch.tensor([order.index(i) for i in range(VEHICLES)])
    for name in ("leader", "follower"):
        slots = getattr(found, name)[:, order]
        assert torch.equal(torch.where(slots >= 0, place[slots.clamp(min=0)], -1), getattr(other, name)), name
    for name in ("gap", "follower_gap", "closing_speed", "follower_closing_speed"):
        assert torch.equal(getattr(found, name)[:, order], getattr(other, name)), name
    assert found.ahead is not None and other.ahead is not None
    for name in ("gate", "gate_distance", "end_distance", "slow", "slow_distance"):
        assert torch.equal(getattr(found.ahead, name)[:, order], getattr(other.ahead, name)), name
    assert torch.equal(found.ahead.coming_distance, other.ahead.coming_distance)


@every_network
def test_dtypes_are_kept_and_inputs_left_alone(case: str) -> None:
    network = routed(case)
    simulator, state = simulation(network, random_worlds(network, 3, VEHICLES, seed=17))
    for dtype in (torch.float32, DOUBLE):
        own = state.to(dtype=dtype)
        sim = dataclasses.replace(simulator, fleet=tg.Fleet(), car_following=tg.IDM(), lane_change=tg.MOBIL())
        tensors = {f.name: getattr(own, f.name) for f in dataclasses.fields(own)}
        versions = {name: value._version for name, value in tensors.items()}
        copies = {name: value.clone() for name, value in tensors.items()}
        seed = torch.random.get_rng_state()
        found, after = fields(sim.neighbors(own)), sim.step(own)
        for name, value in [*found.items(), *((f.name, getattr(after, f.name)) for f in dataclasses.fields(after))]:
            assert value.dtype == dtype or not value.is_floating_point(), name
        for name, value in tensors.items():
            assert value._version == versions[name] and torch.equal(value, copies[name]), name
        assert torch.equal(seed, torch.random.get_rng_state())
