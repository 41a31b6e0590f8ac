"""Routes on a road network: the fastest one, those of an origin-destination table, and those of turn shares.

Edges may be named by their row, as (from, to, key), or by a key or name that only they have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import networkx as nx
import torch

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.connections import EdgeKey
from trafficgrad.network.road_network import RoadNetwork

Edge = int | EdgeKey | str
Route = tuple[int, ...]  # rows of network.edges
UNLIMITED = 130.0 / 3.6  # m/s, for travel times where there is no speed limit


class Origin(NamedTuple):
    """What starts on one edge: an inflow's edge, rate, routes and shares."""

    edge: int
    rate: float  # vehicles/s
    routes: tuple[int, ...]  # rows of the routes returned with it
    shares: tuple[float, ...]  # of the routes, sum 1


def edge_graph(network: RoadNetwork) -> nx.DiGraph:
    """Edges as nodes, joined where a connection leads from one to the other.

    Every node has ``time``, s to drive the edge freely. An arc's ``weight`` is the time across the node, by the fastest
    connection, and along the next edge, so that a path's length is its travel time without its first edge.
    """
    graph = nx.DiGraph()
    first = 0
    for e, lanes in enumerate(network.edge_lanes):
        limit = min(float(network.speed_limit[first]), UNLIMITED)
        graph.add_node(e, time=float(network.lane_length[first]) / limit)
        first += lanes
    rows = {key: e for e, key in enumerate(network.edges)}
    for way in network.connections:
        e, f = rows[way.from_edge], rows[way.to_edge]
        across = (way.length or 0.0) / min(UNLIMITED if way.speed_limit is None else way.speed_limit, UNLIMITED)
        weight = across + graph.nodes[f]["time"]
        graph.add_edge(e, f, weight=min(weight, graph.edges[e, f]["weight"] if graph.has_edge(e, f) else math.inf))
    return graph


def shortest_route(network: RoadNetwork, origin: Edge, destination: Edge) -> Route:
    """The route with the shortest free travel time.

    Raises:
        TrafficGradError: there is no such edge, or no way; the message names both ends.
    """
    start, end = network.edge_index(origin), network.edge_index(destination)
    return _fastest(network, edge_graph(network), start, [end])[end]


def routes_from_od(
    network: RoadNetwork, flows: Mapping[tuple[Edge, Edge], float]
) -> tuple[tuple[Route, ...], tuple[Origin, ...]]:
    """Fastest routes for an origin-destination table.

    Parameters:
        flows: from (origin edge, destination edge) to vehicles/h.

    Returns:
        The routes, for :meth:`RoadNetwork.with_routes`, and what starts on every origin edge, for inflows.

    Raises:
        TrafficGradError: an edge that is not there, a flow that is no number >= 0, no flow at all, or a pair of edges
            without a way.
    """
    table: dict[int, dict[int, float]] = {}
    for (origin, destination), flow in flows.items():
        if not (flow >= 0 and math.isfinite(flow)):
            raise TrafficGradError(
                f"the flow from edge {origin!r} to edge {destination!r} must be finite and >= 0 vehicles/h, got {flow}"
            )
        start, end = network.edge_index(origin), network.edge_index(destination)
        if flow > 0:
            row = table.setdefault(start, {})
            row[end] = row.get(end, 0.0) + float(flow)
    if not table:
        raise TrafficGradError("the origin-destination table has no flow > 0")
    graph = edge_graph(network)
    routes: list[Route] = []
    origins = []
    for start, row in table.items():
        fastest = _fastest(network, graph, start, list(row))
        total = sum(row.values())
        numbers = tuple(range(len(routes), len(routes) + len(row)))
        routes += [fastest[end] for end in row]
        origins.append(Origin(start, total / 3600.0, numbers, tuple(flow / total for flow in row.values())))
    return tuple(routes), tuple(origins)


def routes_from_turns(
    network: RoadNetwork,
    origin: Edge,
    turn_shares: Mapping[tuple[Edge, Edge], float] | None = None,
    count: int = 1000,
    generator: torch.Generator | None = None,
    *,
    longest: int = 100,
    u_turns: bool = False,
) -> tuple[tuple[Route, ...], tuple[float, ...]]:
    """Routes of drivers who choose their way anew at every node, and the probability of each, largest first.

    A route ends on an edge without a way on, or after ``longest`` edges. With at most ``count`` different routes all
    are found and the probabilities are exact. Otherwise ``count`` drivers are drawn, and the probabilities are theirs.

    Parameters:
        turn_shares: from (edge, next edge) to the share of those on the edge who go there; shares need not sum to 1. An
            edge of which no share is given divides equally; where some are, the others are 0.
        count: how many routes, or drivers. generator: draws the drivers.
        u_turns: go back where no share says so.

    Raises:
        TrafficGradError: an edge or turn that is not there, a share that is no number >= 0, an edge whose shares are
            all 0, an origin from where no way ends, or too many routes without a generator.
    """
    if count < 1 or longest < 1:
        raise TrafficGradError(f"count and longest must be at least 1, got {count} and {longest}")
    start = network.edge_index(origin)
    choices = _choices(network, turn_shares or {}, u_turns)
    reached = _reached(choices, start)
    if all(choices[e] for e in reached):
        raise TrafficGradError(
            f"no way out: every edge that is reached from {network.edges[start]} leads on to others; "
            "give a fixed route that loops instead"
        )
    found = _all_routes(choices, start, count, longest)
    if found is None:
        if generator is None:
            raise TrafficGradError(
                f"there are more than {count} routes from edge {network.edges[start]}: raise count, or pass a "
                f"generator to draw {count} drivers"
            )
        found = _drawn_routes(choices, start, count, longest, generator)
    routes = sorted(found, key=lambda route: (-found[route], route))
    return tuple(routes), tuple(found[route] for route in routes)


def _fastest(network: RoadNetwork, graph: nx.DiGraph, start: int, ends: list[int]) -> dict[int, Route]:
    """Fastest routes from one edge to others."""
    paths = nx.single_source_dijkstra_path(graph, start)
    for end in ends:
        if end not in paths:
            raise TrafficGradError(
                f"there is no way from edge {network.edges[start]} to edge {network.edges[end]}: "
                f"{len(paths)} of {len(graph)} edges can be reached"
            )
    return {end: tuple(paths[end]) for end in ends}


def _choices(
    network: RoadNetwork, turn_shares: Mapping[tuple[Edge, Edge], float], u_turns: bool
) -> list[dict[int, float]]:
    """For every edge the probability of each next one; empty = the way ends."""
    given: dict[int, dict[int, float]] = {}
    graph = edge_graph(network)
    for (edge, following), share in turn_shares.items():
        e, f = network.edge_index(edge), network.edge_index(following)
        if not graph.has_edge(e, f):
            raise TrafficGradError(
                f"turn shares: no connection leads from edge {network.edges[e]} to edge {network.edges[f]}"
            )
        if not (share >= 0 and math.isfinite(share)):
            raise TrafficGradError(
                f"the turn share from edge {network.edges[e]} to edge {network.edges[f]} must be finite and >= 0, "
                f"got {share}"
            )
        given.setdefault(e, {})[f] = float(share)
    choices = []
    for e, (u, v, _) in enumerate(network.edges):
        shares = given.get(e)
        if shares is None:
            shares = {f: 1.0 for f in graph.successors(e) if u_turns or network.edges[f][:2] != (v, u)}
        total = sum(shares.values())
        if shares and total == 0.0:
            raise TrafficGradError(f"no way out of edge {network.edges[e]}: all its turn shares are 0")
        choices.append({f: share / total for f, share in shares.items() if share > 0})
    return choices


def _reached(choices: list[dict[int, float]], start: int) -> set[int]:
    seen, todo = {start}, [start]
    while todo:
        new = [f for f in choices[todo.pop()] if f not in seen]
        seen.update(new)
        todo += new
    return seen


def _all_routes(choices: list[dict[int, float]], start: int, most: int, longest: int) -> dict[Route, float] | None:
    """Every route and its probability; None = there are more than ``most``."""
    routes: dict[Route, float] = {}
    todo: list[tuple[Route, float]] = [((start,), 1.0)]
    while todo:
        route, probability = todo.pop()
        ways = choices[route[-1]]
        if not ways or len(route) == longest:
            routes[route] = probability
            if len(routes) > most:
                return None
        todo += [((*route, f), probability * share) for f, share in ways.items()] if route not in routes else []
    return routes


def _drawn_routes(
    choices: list[dict[int, float]], start: int, count: int, longest: int, generator: torch.Generator
) -> dict[Route, float]:
    """Routes of ``count`` drivers and their shares; all drivers take a turn at the same time."""
    width = max(len(ways) for ways in choices)
    to = torch.tensor([[*ways, *[-1] * (width - len(ways))] for ways in choices])
    ends = torch.tensor([[*ways.values(), *[0.0] * (width - len(ways))] for ways in choices], dtype=torch.float64)
    ends = ends.cumsum(1)
    last = torch.tensor([max(len(ways) - 1, 0) for ways in choices])
    at = torch.full((count,), start)
    steps = [at]
    for _ in range(longest - 1):
        here = at.clamp(min=0)
        u = torch.rand(count, 1, dtype=torch.float64, generator=generator, device=generator.device).cpu()
        way = torch.minimum((u >= ends[here]).sum(1), last[here])  # rounding may leave the sum below 1
        at = torch.where(at >= 0, to[here, way], -1)
        steps.append(at)
        if bool((at < 0).all()):
            break
    rows, numbers = torch.unique(torch.stack(steps, 1), dim=0, return_counts=True)
    return {
        tuple(e for e in row if e >= 0): number / count
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)
    }
