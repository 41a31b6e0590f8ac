"""Bodies in the plane and on lanes: pairs that touch, and who is next ahead on a lane, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

import trafficgrad as tg
from trafficgrad.bodies import _near, bodies_ahead, rectangles, touching
from trafficgrad.network import bottleneck, intersection
from trafficgrad.state import TrafficState

NETWORK = intersection()
LENGTH, WIDTH = 5.0, 1.8


def scattered(vehicles: int, worlds: int = 3) -> TrafficState:
    """Vehicles anywhere on the lanes, half of the rears still on the lane before; many overlap."""
    generator = torch.Generator().manual_seed(vehicles)
    lane = torch.randint(len(NETWORK.lanes), (worlds, vehicles), generator=generator)
    position = torch.rand(worlds, vehicles, generator=generator, dtype=torch.float64) * NETWORK.lane_length[lane]
    near = 4.0 * torch.rand(worlds, vehicles, generator=generator, dtype=torch.float64)
    position = torch.where(torch.rand(worlds, vehicles, generator=generator) < 0.5, near, position)
    active = torch.rand(worlds, vehicles, generator=generator) < 0.8
    return TrafficState(position, position * 0.0, lane, previous=NETWORK.predecessors[lane][..., 0], active=active)


def test_near_pairs_are_those_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = 300.0 * torch.rand(4, 60, 2, generator=generator, dtype=torch.float64)
    centre[0, :20, 0] = 7.0  # a street along which all stand
    present = torch.rand(4, 60, generator=generator) < 0.7
    apart = torch.cdist(centre, centre)
    expected = ((apart < 30.0) & present[:, :, None] & present[:, None, :]).triu(1).nonzero()
    assert len(expected) > 50
    assert torch.equal(torch.stack(_near(centre, present), 1), expected)
    assert _near(centre, present & False)[0].numel() == 0


def test_touching_finds_those_on_top_of_each_other_and_no_others() -> None:
    lane = NETWORK.lanes.index((NETWORK.edge_index("west_in"), 0))
    position = torch.tensor([[20.0, 24.0, 40.0, 45.1]], dtype=torch.float64)
    state = TrafficState(position, position * 0.0, torch.full((1, 4), lane))
    assert touching(state, NETWORK, LENGTH, WIDTH).tolist() == [[0, 0, 1]]


def test_the_next_body_ahead_on_a_lane() -> None:
    state, t = scattered(50), NETWORK.tables(torch.float64, "cpu")
    lanes = len(NETWORK.lanes)
    lane = torch.arange(lanes).repeat(3, 4)
    place = 8.0 * torch.rand(lane.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 2.0
    found = bodies_ahead(state, t, LENGTH, lanes, lane, place)
    seen = 0
    for world, column in torch.cartesian_prod(torch.arange(3), torch.arange(lane.shape[1])).tolist():
        here, beyond = int(lane[world, column]), float(place[world, column])
        fronts = []
        for slot in range(50):
            if not bool(state.active[world, slot]):
                continue
            front, before = float(state.position[world, slot]), int(state.previous[world, slot])
            if int(state.lane[world, slot]) == here:
                fronts.append((front, slot))
            if before == here and front < LENGTH:
                fronts.append((float(NETWORK.lane_length[here]) + front, slot))
        ahead = min(((front, slot) for front, slot in fronts if front > beyond), default=(math.inf, -1))
        assert int(found.slot[world, column]) == ahead[1]
        assert abs(float(found.rear[world, column]) - (ahead[0] - LENGTH)) < 1e-9 or ahead[1] == -1
        seen += ahead[1] >= 0
    assert seen > 50


def test_who_turns_off_waits_for_the_one_ahead_though_another_follows_on_its_way() -> None:
    """On the way to the left lane one stands, and a third has just entered that way behind the one who turns off."""
    network = intersection().with_routes([["west_in", "west_in_approach", "east_out"]])
    ways = {
        (c.from_edge[2], c.from_lane, c.to_edge[2], c.to_lane): a
        for a, row in enumerate(network.lane_connection.tolist())
        if row >= 0
        for c in (network.connections[row],)
    }
    straight, left = (ways["west_in", 1, "west_in_approach", k] for k in (1, 2))
    before = network.lanes.index((network.edge_index("west_in"), 1))
    position = torch.tensor([[20.0, 13.0, 4.0]], dtype=torch.float64)
    lane = torch.tensor([[straight, left, straight]])
    state = TrafficState(
        position, position * 0.0, lane, previous=torch.full((1, 3), before), route=torch.zeros(1, 3).long()
    )
    stands = tg.IDM(desired_speed=torch.tensor([1e-6, 15.0, 1e-6], dtype=torch.float64))
    simulator = tg.Simulator(network, tg.Fleet(), stands, dt=0.1)
    with torch.no_grad():
        for _ in range(100):
            state = simulator.step(state)
            assert len(touching(state, network, LENGTH, WIDTH)) == 0
    assert float(state.position[0, 1]) < 14.0


def test_who_changes_lane_while_crossing_an_edge_end_takes_its_rear_along() -> None:
    network = bottleneck()
    here, beyond = (
        [network.lanes.index((network.edge_index(name), k)) for k in range(4)] for name in ("section_1", "section_2")
    )
    assert network.lane_connection[beyond[0]] < 0  # the sections follow each other without a junction
    # Somebody stands in the lane; the second leaves it in the very step in which its front crosses the edge's end.
    position = torch.tensor([[9.0, 99.9]], dtype=torch.float64)
    speed = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    start = TrafficState(position, speed, torch.tensor([[beyond[1], here[1]]]))
    simulator = tg.Simulator(network, tg.Fleet(), tg.IDM(), lane_change=tg.MOBIL(sides="both"), dt=0.1)
    after = simulator.step(start)
    side = beyond.index(int(after.lane[0, 1]))
    assert side in (0, 2) and float(after.position[0, 1]) < 1.0
    assert int(after.previous[0, 1]) == here[side]
    corners = rectangles(after, network, LENGTH, WIDTH)[0, 1]
    assert float(corners[:, 1].max() - corners[:, 1].min()) == pytest.approx(WIDTH)
