"""Speed limits as tensors: the same traffic as with limits of the graph, exact gradients, and limits by world."""

from __future__ import annotations

import dataclasses

import networkx as nx
import pytest
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.demand import Demand, Inflow
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork, intersection, merge, ring
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.warmup_cache import fingerprint

DOUBLE = torch.float64
HIGHWAY = torch.tensor([30.0, 30.0, 18.0], dtype=DOUBLE)  # m/s, of three edges of 200 m


def highway(limits: Tensor = HIGHWAY) -> RoadNetwork:
    graph = nx.MultiDiGraph()
    for k in range(4):
        graph.add_node(k, position=(200.0 * k, 0.0))
    for k, limit in enumerate(limits.tolist()):
        graph.add_edge(k, k + 1, speed_limit=limit)
    return RoadNetwork.from_graph(graph)


def platoon(worlds: int = 1, position: float = 60.0) -> TrafficState:
    place = torch.tensor([position, position - 30.0, position - 50.0], dtype=DOUBLE).expand(worlds, -1)
    return TrafficState(place, torch.full_like(place, 22.0), torch.zeros_like(place, dtype=torch.int64))


def driver(network: RoadNetwork, factor: float = 1.0) -> Simulator:
    following = IDM(desired_speed=35.0, comfortable_deceleration=1.5)
    return Simulator(network, Fleet(speed_factor=factor), following, dt=0.2)


def test_traffic_is_that_of_a_graph_with_these_limits() -> None:
    limits = torch.tensor([25.0, 15.0, 20.0], dtype=DOUBLE)
    written = driver(highway(limits)).simulate(platoon(), 130)
    given = driver(highway().with_speed_limits(limits)).simulate(platoon(), 130)
    for name in ("position", "speed", "lane"):
        assert torch.equal(getattr(written, name), getattr(given, name))
    assert float(given.speed[-1, 0, 0]) > 18.0  # and not what the network had before


@pytest.mark.parametrize("steps", [15, 120])
def test_gradients_are_exact(steps: int) -> None:
    """After 15 steps the platoon brakes for the limit 30 m ahead; after 120 it has gone on to the third edge."""
    limits = torch.tensor([25.0, 14.0, 20.0], dtype=DOUBLE)

    def reached(values: Tensor) -> Tensor:
        simulator = driver(highway().with_speed_limits(values), 0.95)
        end = simulator.simulate(platoon(len(values), position=120.0), steps).state(-1)
        return (end.position + 200.0 * end.lane).sum(1) + 3.0 * end.speed.sum(1)

    leaf = limits[None].clone().requires_grad_()
    reached(leaf).sum().backward()
    with torch.no_grad():
        steps_aside = 1e-5 * torch.eye(3, dtype=DOUBLE)
        values = reached(torch.cat([limits + steps_aside, limits - steps_aside]))
    expected = (values[:3] - values[3:]) / 2e-5
    assert torch.allclose(leaf.grad[0], expected, rtol=1e-6, atol=1e-7)
    assert float(expected[1]) > 0.1
    assert (float(expected[2]) > 0.1) == (steps > 100)


def test_worlds_have_limits_of_their_own() -> None:
    limits = torch.tensor([[25.0, 14.0, 20.0], [30.0, 30.0, 30.0]], dtype=DOUBLE)
    both = driver(highway().with_speed_limits(limits)).simulate(platoon(2), 50)
    for world in range(2):
        alone = driver(highway().with_speed_limits(limits[world])).simulate(platoon(), 50)
        assert torch.equal(both.position[:, world], alone.position[:, 0])
    with pytest.raises(TrafficGradError, match="speed limits are for 2 worlds, the state has 1"):
        driver(highway().with_speed_limits(limits)).step(platoon())


def test_a_ring_slows_down_where_its_limit_is_low() -> None:
    """A road that only goes on has nobody look for limits, until it gets some."""
    network = ring(400.0, edges=2)
    assert network.is_unbranched and network.base is network
    limits = torch.tensor([20.0, 8.0])
    state = TrafficState(torch.tensor([100.0]), torch.tensor([20.0]), torch.tensor([0]))
    driven = driver(network.with_speed_limits(limits)).simulate(state, 175)
    assert network.is_unbranched
    speed, lane = driven.speed[:, 0, 0], driven.lane[:, 0, 0]
    assert float(speed[lane == 1].max()) < 12.0 and float(speed[lane == 1].min()) < 8.1 < 15.0 < float(
        speed[lane == 0].max()
    )


def test_junction_lanes_go_by_their_curve_or_by_the_edge_they_come_from() -> None:
    network = intersection(lanes=1, left_lanes=0, protected_left=False)
    limits = torch.full((len(network.edges),), 6.0, dtype=DOUBLE)
    limits[network.edge_index("west_in")] = 30.0
    lane_limits = network.with_speed_limits(limits).tables(DOUBLE, "cpu").speed_limit
    west = network.lanes.index((network.edge_index("west_in"), 0))
    crossing = network.is_junction & (network.origin == west)
    assert torch.equal(lane_limits[crossing], network.speed_limit[crossing])
    others = network.is_junction & (network.origin != west)
    assert torch.equal(lane_limits[others], network.speed_limit[others].clamp(max=6.0))
    assert float(network.speed_limit[others].max()) > 6.0


def test_demand_and_rewards_of_worlds_with_limits_of_their_own_have_gradients() -> None:
    """Vehicles enter, look for the right of way and merge; what was compiled for the roads is kept."""
    network = merge(pre_merge_length=200.0, lanes=2)
    network = network.with_routes([["highway_in", "highway_out"], ["ramp", "highway_out"]])
    inflows = [Inflow(int(network.routes[r, 0]), (r,), rate=rate) for r, rate in enumerate((0.4, 0.1))]
    simulator = Simulator(network, Fleet(), IDM(desired_speed=30.0), dt=0.5, demand=Demand(inflows))
    none = torch.zeros(2, 30, dtype=DOUBLE)
    state = TrafficState(none, none, none.long(), driver=none.long(), active=none.bool(), seed=torch.arange(2))
    state = simulator.demand.start(state)
    limits = torch.full((2, len(network.edges)), 25.0, dtype=DOUBLE, requires_grad=True)
    for _ in range(2):
        chosen = dataclasses.replace(simulator, network=network.with_speed_limits(limits))
        end = chosen.simulate(state, 60).state(-1)
    assert len([key for key in simulator.demand._kept if key[0] is network]) == 1
    (slope,) = torch.autograd.grad(torch.where(end.active, end.speed, 0.0)[0].sum(), limits)
    assert bool((slope[0, network.edge_index("highway_in")] > 0).all()) and not bool(slope[1].any())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (torch.ones(2), r"of 3 edges or 3 lanes, .* got torch\.float32 \[2\]"),
        (torch.ones(3, dtype=torch.int64), "floating-point tensor"),
        (torch.tensor([20.0, 0.0, 20.0]), r"must be > 0 m/s, that of edge \(1, 2, 0\) is not"),
        (torch.tensor([20.0, 20.0, float("nan")]), r"that of edge \(2, 3, 0\) is not"),
    ],
)
def test_what_makes_no_sense_is_refused(limits: Tensor, message: str) -> None:
    with pytest.raises(TrafficGradError, match=message):
        highway().with_speed_limits(limits)


def test_a_warm_up_with_other_limits_is_another() -> None:
    found = {
        fingerprint(driver(network), platoon(), [torch.Generator().manual_seed(0)], 10)
        for network in (highway(), highway().with_speed_limits(HIGHWAY), highway().with_speed_limits(HIGHWAY - 5.0))
    }
    assert None not in found and len(found) == 3
