"""The routes of a scenario, each once: those that have a name, and those that demand asks for."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from trafficgrad.config import error_at
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network import RoadNetwork
from trafficgrad.network.routing import Edge as RoutingEdge
from trafficgrad.network.routing import Route, routes_from_turns
from trafficgrad.scenario_roads import Ways, edge_name, edge_row
from trafficgrad.scenario_sections.roads import Edge, RouteConfig

_DRIVERS_OF_TURNS = 1000  # that are drawn, where turn shares make more routes than that

Shares = dict[int, float]  # rows of routes and their shares; empty = no route is needed


class RouteBook:
    """Collects routes. The key of a method is what an error names."""

    def __init__(self, network: RoadNetwork, routes: Sequence[RouteConfig]) -> None:
        self.network = network
        self.rows: dict[tuple[Route, bool], int] = {}  # route and whether it loops -> row
        self.names: dict[str, int] = {}
        for i, config in enumerate(routes):
            key = f"routes.{i}"
            if config.name in self.names:
                raise error_at(f"{key}.name", f"the route {config.name!r} is given twice")
            route = tuple(edge_row(network, edge, f"{key}.edges") for edge in config.edges)
            try:
                network.with_routes([route], config.loop)
            except TrafficGradError as error:
                raise error_at(f"{key}.edges", str(error)) from None
            self.names[config.name] = self.row(route, config.loop)

    @functools.cached_property
    def ways(self) -> Ways:
        """Made when it is first asked for."""
        return Ways(self.network)

    def row(self, route: Route, loop: bool = False) -> int:
        """Row that a route has among all."""
        return self.rows.setdefault((route, loop), len(self.rows))

    def routed_network(self) -> RoadNetwork:
        """The network with all routes."""
        if not self.rows:
            return self.network
        return self.network.with_routes([route for route, _ in self.rows], [loop for _, loop in self.rows])

    def add_ways_through(self) -> None:
        """Routes for vehicles that are there at the start, where nothing else says any."""
        if self.network.is_unbranched:
            return
        loop = self.ways.loop()
        if loop is not None:
            self.row(loop, True)
        for entry in self.ways.entries:
            for route in self.ways.to_all_exits(entry):
                self.row(route)
        if not self.rows:
            raise error_at(
                "initial.kind", "spread needs routes on a network without entries and exits: give `routes` with loop"
            )

    def to_exits(self, edge: int, key: str) -> Shares:
        """Evenly to all exits."""
        routes = self.ways.to_all_exits(edge)
        if not routes:
            raise error_at(
                key,
                f"from edge {edge_name(self.network, edge)} no exit is reached: say where to go, with to, routes or "
                "turns",
            )
        return {} if self.network.is_unbranched else {self.row(route): 1.0 for route in routes}

    def to_edges(self, edge: int, to: Mapping[Edge, float], key: str) -> Shares:
        """By the fastest ways to edges with shares."""
        return self.fastest(edge, {edge_row(self.network, name, key): share for name, share in to.items()}, key)

    def named(self, shares: Mapping[str, float], edge: int, key: str) -> Shares:
        """By name."""
        found: Shares = {}
        routes = list(self.rows)
        for name, share in shares.items():
            if name not in self.names:
                there = ", ".join(self.names) or "none"
                raise error_at(key, f"there is no route {name!r}{nearest_name(name, self.names)}; `routes` has {there}")
            first = routes[self.names[name]][0][0]
            if first != edge:
                raise error_at(
                    key,
                    f"route {name!r} begins with edge {edge_name(self.network, first)}, but these vehicles come to "
                    f"edge {edge_name(self.network, edge)}",
                )
            found[self.names[name]] = share
        return found

    def by_turns(self, turns: Mapping[str, Mapping[str, float]], edge: int, key: str) -> Shares:
        """As drivers choose who take every turn by its share."""
        shares: dict[tuple[RoutingEdge, RoutingEdge], float] = {}
        for name, row in turns.items():
            here = edge_row(self.network, name, key)
            for following, share in row.items():
                shares[here, edge_row(self.network, following, f"{key}.{name}")] = share
        try:
            generator = torch.Generator().manual_seed(0)
            routes, parts = routes_from_turns(self.network, edge, shares, _DRIVERS_OF_TURNS, generator)
        except TrafficGradError as error:
            raise error_at(key, str(error)) from None
        return {self.row(route): part for route, part in zip(routes, parts, strict=True)}

    def fastest(self, edge: int, ends: Mapping[int, float], key: str) -> Shares:
        """By the fastest ways to rows of edges with shares."""
        routes = self.ways.fastest(edge, ends)
        for end in ends:
            if end not in routes:
                raise error_at(
                    key,
                    f"there is no way from edge {edge_name(self.network, edge)} to edge {edge_name(self.network, end)}",
                )
        return {self.row(routes[end]): share for end, share in ends.items()}

    def over(self, edges: Sequence[int], key: str) -> Route:
        """The fastest way over given edges."""
        route = tuple(edges[:1])
        for a, b in pairwise(edges):
            found = self.ways.fastest(a, [b])
            if b not in found:
                raise error_at(
                    key, f"there is no way from edge {edge_name(self.network, a)} to edge {edge_name(self.network, b)}"
                )
            route += found[b][1:]
        return route
