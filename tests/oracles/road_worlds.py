"""Small road networks and traffic on them, for tests of junctions, signals and routes."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import networkx as nx
import torch
from torch import Tensor

from trafficgrad.network import RoadNetwork
from trafficgrad.network.connections import Connection, EdgeKey
from trafficgrad.state import TrafficState

DOUBLE = torch.float64


@dataclass(frozen=True)
class Placed:
    """Where a vehicle begins: lane ``number`` (0 = right) of the edge that is ``place`` edges along its route."""

    route: int
    position: float  # m
    speed: float = 0.0  # m/s
    number: int = 0
    place: int = 0


def road_lane(network: RoadNetwork, edge: int | str | EdgeKey, number: int = 0) -> int:
    """Row of ``network.lanes`` of a lane of an edge."""
    return network.lanes.index((network.edge_index(edge), number))


def way_lane(network: RoadNetwork, start: str, end: str, number: int = 0) -> int:
    """The junction lane from lane ``number`` of the edge called ``start`` to the edge called ``end``."""
    found = [
        lane
        for lane, c in enumerate(network.lane_connection.tolist())
        if c >= 0
        and network.connections[c].from_edge == network.edges[network.edge_index(start)]
        and network.connections[c].to_edge == network.edges[network.edge_index(end)]
        and network.connections[c].from_lane == number
    ]
    assert len(found) == 1, (start, end, number, found)
    return found[0]


def state_of(network: RoadNetwork, worlds: Sequence[Sequence[Placed]], dtype: torch.dtype = DOUBLE) -> TrafficState:
    """The state of ``worlds`` of equally many vehicles, each on its route."""

    def edge(one: Placed) -> int:
        return int(network.routes[one.route, one.place])

    def whole(values: list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    return TrafficState(
        torch.tensor([[one.position for one in world] for world in worlds], dtype=dtype),
        torch.tensor([[one.speed for one in world] for world in worlds], dtype=dtype),
        whole([[road_lane(network, edge(one), one.number) for one in world] for world in worlds]),
        route=whole([[one.route for one in world] for world in worlds]),
        route_index=whole([[one.place for one in world] for world in worlds]),
    )


def add_road(
    graph: nx.MultiDiGraph,
    start: Hashable,
    end: Hashable,
    key: str,
    line: Sequence[tuple[float, float]],
    **attributes: object,
) -> EdgeKey:
    """An edge along ``line`` (m); its nodes are placed at the ends of the line."""
    for node, point in ((start, line[0]), (end, line[-1])):
        if node not in graph:
            graph.add_node(node, position=point)
    graph.add_edge(start, end, key=key, geometry=list(line), **attributes)
    return (start, end, key)


def crossing(
    arm: float = 150.0,
    rank: tuple[int | None, int | None] = (None, None),
    stop: tuple[bool, bool] = (False, False),
    signal: dict | None = None,
    rule: str = "priority",
    speed_limit: float = 13.9,
    exit_length: float | None = None,
) -> RoadNetwork:
    """Two one-way streets that cross: route 0 goes east, route 1 goes north.

    Stop lines are 8 m before the middle. With ``exit_length`` the eastern exit is a road of so many m that a long one
    continues. With a signal, letter 0 is for the way east and letter 1 for the way north.
    """
    graph = nx.MultiDiGraph()
    graph.add_node("middle", position=(0.0, 0.0), right_of_way=rule)
    road = {"speed_limit": speed_limit}
    west = add_road(graph, "west", "middle", "from_west", [(-8.0 - arm, 0.0), (-8.0, 0.0)], **road)
    south = add_road(graph, "south", "middle", "from_south", [(0.0, -8.0 - arm), (0.0, -8.0)], **road)
    end = 8.0 + (300.0 if exit_length is None else exit_length)
    east = add_road(graph, "middle", "east", "to_east", [(8.0, 0.0), (end, 0.0)], **road)
    north = add_road(graph, "middle", "north", "to_north", [(0.0, 8.0), (0.0, 308.0)], **road)
    routes: list[list[str]] = [["from_west", "to_east"], ["from_south", "to_north"]]
    if exit_length is not None:
        add_road(graph, "east", "far_east", "onward", [(end, 0.0), (end + 300.0, 0.0)], **road)
        routes[0].append("onward")
    name = None if signal is None else "light"
    if signal is not None:
        graph.graph["signals"] = {"light": signal}
    graph.nodes["middle"]["connections"] = [
        Connection(a, 0, b, 0, priority=rank[i], stop=stop[i], signal=name, signal_index=-1 if name is None else i)
        for i, (a, b) in enumerate(((west, east), (south, north)))
    ]
    return RoadNetwork.from_graph(graph).with_routes(routes)


def add_town(
    graph: nx.MultiDiGraph,
    name: str,
    rule: str,
    lanes: int,
    origin: tuple[float, float] = (0.0, 0.0),
    rows: int = 3,
    columns: int = 3,
    spacing: float = 120.0,
) -> None:
    """Add a town of two-way streets; those along x have the higher priority. Its nodes are (name, row, column)."""
    for i in range(rows):
        for j in range(columns):
            place = (origin[0] + j * spacing, origin[1] + i * spacing)
            graph.add_node((name, i, j), position=place, right_of_way=rule)
    for i in range(rows):
        for j in range(columns):
            for a, b in ((i + 1, j), (i, j + 1)):
                if a < rows and b < columns:
                    for u, v in (((name, i, j), (name, a, b)), ((name, a, b), (name, i, j))):
                        graph.add_edge(u, v, lanes=lanes, speed_limit=13.9, priority=int(b != j))


def closed_walks(network: RoadNetwork, count: int, seed: int, town: str | None = None) -> list[list[int]]:
    """``count`` random walks over edges (of one town) that end where they begin; each is a route that loops."""
    rng = random.Random(seed)
    after: dict[EdgeKey, set[EdgeKey]] = {}
    for way in network.connections:
        after.setdefault(way.from_edge, set()).add(way.to_edge)
    edges = [edge for edge in network.edges if town is None or edge[0][0] == town]
    walks: list[list[int]] = []
    while len(walks) < count:
        walk = [rng.choice(edges)]
        for _ in range(40):
            walk.append(rng.choice(sorted(after[walk[-1]], key=str)))
            if len(walk) > 3 and walk[0] in after[walk[-1]]:
                walks.append([network.edge_index(edge) for edge in walk])
                break
    return walks


def scatter(
    network: RoadNetwork, routes: Sequence[int], count: int, rng: random.Random, speed: float, before_end: float = 10.0
) -> list[Placed]:
    """``count`` vehicles at random on some routes of a network, 9 m apart and not at the ends of their lanes."""
    taken: dict[int, list[float]] = {}
    placed: list[Placed] = []
    while len(placed) < count:
        route = rng.choice(list(routes))
        edges = [edge for edge in network.routes[route].tolist() if edge >= 0]
        place = rng.randrange(len(edges))
        number = rng.randrange(network.edge_lanes[edges[place]])
        lane = road_lane(network, edges[place], number)
        position = rng.uniform(5.0, float(network.lane_length[lane]) - before_end)
        if all(abs(position - other) > 9.0 for other in taken.get(lane, [])):
            taken.setdefault(lane, []).append(position)
            placed.append(Placed(route, position, speed, number, place))
    return placed
