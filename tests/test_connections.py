"""Connections of a road graph by geometry, their ranks, and the junction lanes that they become."""

from __future__ import annotations

import pytest
import torch
from small_graphs import FOUR_IN, FOUR_OUT, random_graph, star, way_ends

from trafficgrad.network import RoadNetwork
from trafficgrad.network.connections import Connection

STRAIGHT_ON = [("from_west", "east"), ("from_south", "north"), ("from_east", "west"), ("from_north", "south")]
TO_THE_RIGHT = [("from_west", "south"), ("from_south", "east"), ("from_east", "north"), ("from_north", "west")]
TO_THE_LEFT = [("from_west", "north"), ("from_south", "west"), ("from_east", "south"), ("from_north", "east")]

EXPECTED: dict[str, tuple[dict, dict, str, set[tuple[str, int, str, int]]]] = {
    "lanes go on": ({"in": (0, 2)}, {"out": (0, 2)}, "priority", {("in", 0, "out", 0), ("in", 1, "out", 1)}),
    "round a bend": ({"in": (0, 2)}, {"out": (80, 2)}, "priority", {("in", 0, "out", 0), ("in", 1, "out", 1)}),
    "the left lane ends": ({"in": (0, 3)}, {"out": (0, 2)}, "priority", {("in", 0, "out", 0), ("in", 1, "out", 1)}),
    "a lane is added": ({"in": (0, 1)}, {"out": (0, 3)}, "priority", {("in", 0, "out", 0)}),
    "the lane that ends joins in a zipper": (
        {"in": (0, 3)},
        {"out": (0, 2)},
        "zipper",
        {("in", 0, "out", 0), ("in", 1, "out", 1), ("in", 2, "out", 1)},
    ),
    "two lanes that end join in a zipper": (
        {"in": (0, 3)},
        {"out": (0, 1)},
        "zipper",
        {("in", 0, "out", 0), ("in", 1, "out", 0), ("in", 2, "out", 0)},
    ),
    "merge from the right": (
        {"road": (0, 2), "ramp": (30, 1)},
        {"out": (0, 2)},
        "priority",
        {("road", 0, "out", 0), ("road", 1, "out", 1), ("ramp", 0, "out", 0)},
    ),
    "merge from the left": (
        {"road": (0, 2), "ramp": (-30, 1)},
        {"out": (0, 2)},
        "priority",
        {("road", 0, "out", 0), ("road", 1, "out", 1), ("ramp", 0, "out", 1)},
    ),
    "merge with a lane of its own on the right": (
        {"road": (0, 2), "ramp": (30, 1)},
        {"out": (0, 3)},
        "priority",
        {("ramp", 0, "out", 0), ("road", 0, "out", 1), ("road", 1, "out", 2)},
    ),
    "merge with a lane of its own on the left": (
        {"road": (0, 2), "ramp": (-30, 1)},
        {"out": (0, 3)},
        "priority",
        {("road", 0, "out", 0), ("road", 1, "out", 1), ("ramp", 0, "out", 2)},
    ),
    "each lane has its own way at a fork": (
        {"in": (0, 3)},
        {"left": (20, 2), "right": (-20, 1)},
        "priority",
        {("in", 0, "right", 0), ("in", 1, "left", 0), ("in", 2, "left", 1)},
    ),
    "exit to the right": (
        {"in": (0, 2)},
        {"out": (0, 2), "exit": (-30, 1)},
        "priority",
        {("in", 0, "out", 0), ("in", 1, "out", 1), ("in", 0, "exit", 0)},
    ),
    "exit to the left": (
        {"in": (0, 2)},
        {"out": (0, 2), "exit": (30, 1)},
        "priority",
        {("in", 0, "out", 0), ("in", 1, "out", 1), ("in", 1, "exit", 0)},
    ),
    "crossroads": (
        FOUR_IN,
        FOUR_OUT,
        "priority",
        {(a, i, b, i) for a, b in STRAIGHT_ON for i in (0, 1)}
        | {(a, 0, b, 0) for a, b in TO_THE_RIGHT}
        | {(a, 1, b, 1) for a, b in TO_THE_LEFT},
    ),
    "T-junction, from its stem": (
        {"stem": (90, 2)},
        {"west": (180, 1), "east": (0, 2)},
        "priority",
        {("stem", 0, "east", 0), ("stem", 1, "west", 0)},
    ),
    "nobody turns back at a dead end": ({"in": (0, 1)}, {"back": (180, 1)}, "priority", set()),
    "nobody turns back sharply": (
        {"in": (0, 1)},
        {"out": (0, 1), "back": (160, 1)},
        "priority",
        {("in", 0, "out", 0)},
    ),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_connections_by_geometry(case: str) -> None:
    arriving, leaving, rule, expected = EXPECTED[case]
    ways = star(arriving, leaving, rule).connections
    found = [(way.from_edge[2], way.from_lane, way.to_edge[2], way.to_lane) for way in ways]
    assert set(found) == expected and len(found) == len(expected)


@pytest.mark.parametrize("rule", ["priority", "all_way_stop", "signals", "zipper"])
def test_ranks_follow_the_roads_then_the_turns(rule: str) -> None:
    """Straight on before right before left; a road of higher priority before all of it; equal where all stop."""
    graph = star(FOUR_IN, FOUR_OUT, rule).to_graph()
    for _, data in graph.nodes(data=True):
        data["connections"] = [Connection(*way_ends(way)) for way in data["connections"]]
    for _, _, key, data in graph.edges(keys=True, data=True):
        data["priority"] = int(key in ("from_west", "from_east"))
    ways = {(way.from_edge[2], way.to_edge[2]): way for way in RoadNetwork.from_graph(graph).connections}
    rank = {name: way.priority for name, way in ways.items()}
    assert {way.stop for way in ways.values()} == {rule == "all_way_stop"}
    if rule in ("all_way_stop", "zipper"):
        assert set(rank.values()) == {0}
        return
    for (a, s), (_, r), (_, left) in zip(STRAIGHT_ON, TO_THE_RIGHT, TO_THE_LEFT, strict=True):
        assert rank[a, s] > rank[a, r] > rank[a, left]
    lowest_major = min(rank["from_west", to] for to in ("east", "south", "north"))
    highest_minor = max(rank["from_south", to] for to in ("north", "east", "west"))
    assert lowest_major > highest_minor if rule == "priority" else lowest_major < highest_minor


@pytest.mark.parametrize("block", range(3))
def test_junction_lanes_begin_and_end_at_the_lanes_that_they_join(block: int) -> None:
    seen = 0
    for seed in range(10 * block, 10 * block + 10):
        network = RoadNetwork.from_graph(random_graph(seed))
        roads = {lane: i for i, lane in enumerate(network.lanes)}
        for lane in torch.nonzero(network.is_junction)[:, 0].tolist():
            way = network.connections[int(network.lane_connection[lane])]
            start = roads[(network.edge_index(way.from_edge), way.from_lane)]
            end = roads[(network.edge_index(way.to_edge), way.to_lane)]
            line = network.lane_geometry(lane)
            assert torch.equal(line[0], network.lane_geometry(start)[-1])
            # Lanes that touch have a way of a centimetre, so that it has a direction.
            assert float((line[-1] - network.lane_geometry(end)[0]).norm()) <= 0.01 + 1e-9
            assert lane in network.successors[start].tolist()
            assert [x for x in network.successors[lane].tolist() if x >= 0] == [end]
            drawn = float((line[1:] - line[:-1]).norm(dim=1).sum())
            assert float(network.lane_length[lane]) == pytest.approx(max(0.5, drawn), abs=1e-9)
            seen += 1
    assert seen > 200
