"""From a scenario's ``demand``, ``origin_destination`` and route files of SUMO to inflows and vehicle slots."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trafficgrad.config import error_at
from trafficgrad.demand import Demand, Inflow
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.network.routing import Route
from trafficgrad.network.sumo_routes import Flow, SumoDemand, TripFlow, read_sumo_routes
from trafficgrad.scenario_drivers import DriverTable, driver_table
from trafficgrad.scenario_roads import build_network, edge_name, edge_row, opened
from trafficgrad.scenario_routes import RouteBook, Shares
from trafficgrad.scenario_sections.demand import InflowConfig, TripsConfig
from trafficgrad.scenario_sections.roads import Edge, NetworkConfig, SumoNetwork
from trafficgrad.scenario_sections.vehicles import SpreadInitial

if TYPE_CHECKING:
    from trafficgrad.traffic_scenario import TrafficScenario

PER_VEHICLE = 12.0  # m of a lane: no more vehicles than that are ever on a road that moves
DELAYED = 3.0  # times the free travel time, that vehicles may take: jams shall fit in
AT_SIGNAL = 30.0  # s
SPARE = 10  # slots, for the chance that makes many come at once
_COLUMNS = ["from", "to", "rate"]
_SUMO = "network.routes"


@dataclass(frozen=True)
class Traffic:
    """What a scenario's sections about roads, demand and vehicles come to."""

    network: RoadNetwork  # with all routes
    route_names: Mapping[str, int]  # of `routes`, their rows
    demand: Demand | None
    drivers: DriverTable
    most: int  # vehicles at a time, an estimate; without demand those that are there at the start


def plan_traffic(scenario: TrafficScenario) -> Traffic:
    """Build the network with its routes, the drivers' table and the demand.

    Raises:
        PydanticCustomError: what the sections say does not fit together, an error that names the key.
    """
    network = build_network(scenario.network, scenario.signals)
    sumo = _sumo_demand(scenario.network, network)
    drivers = driver_table(scenario.vehicles, scenario.driver_rows, {} if sumo is None else sumo.types)
    book = RouteBook(network, scenario.routes)
    has_controlled = scenario.vehicles.controlled.count > 0
    inflows = [_inflow(book, drivers, i, config, has_controlled) for i, config in enumerate(scenario.demand)]
    inflows += _inflows_of_trips(book, drivers, _cells(scenario.origin_destination))
    if sumo is not None:
        inflows += _inflows_of_sumo(book, drivers, sumo)
    if not book.rows and isinstance(scenario.initial, SpreadInitial):
        book.add_ways_through()
    demand = Demand(inflows) if inflows else None
    most = _most_vehicles(book, inflows, scenario.present, drivers.slow_speed)
    return Traffic(book.routed_network(), book.names, demand, drivers, most)


# ---------------------------------------------------------------------- inflows


def _inflow(book: RouteBook, drivers: DriverTable, number: int, config: InflowConfig, has_controlled: bool) -> Inflow:
    """The inflow that an entry of ``demand`` describes."""
    key, network = f"demand.{number}", book.network
    edge = edge_row(network, config.origin, f"{key}.from")
    shares = _destinations(book, config, edge, key)
    if config.controlled_share > 0 and not has_controlled:
        raise error_at(f"{key}.controlled_share", "needs slots for them: set vehicles.controlled.count")
    lanes = network.edge_lanes[edge]
    if config.lanes is not None and max(config.lanes) >= lanes:
        raise error_at(
            f"{key}.lanes",
            f"edge {edge_name(network, edge)} has the lanes 0 to {lanes - 1}, got {list(config.lanes)}",
        )
    rows = drivers.rows(config.vehicles, f"{key}.vehicles")
    try:
        return Inflow(
            edge,
            tuple(shares),
            tuple(shares.values()) if shares else None,
            config.kind,
            (config.rate or 0.0) / 3600.0,
            config.begin,
            math.inf if config.end is None else config.end,
            config.times,
            drivers=rows,
            controlled_share=config.controlled_share,
            speed=config.speed,
            lanes=config.lanes,
        )
    except TrafficGradError as error:
        raise error_at(key, str(error)) from None


def _destinations(book: RouteBook, config: InflowConfig, edge: int, key: str) -> Shares:
    if config.routes is not None:
        return book.named(config.routes, edge, f"{key}.routes")
    if config.turns is not None:
        return book.by_turns(config.turns, edge, f"{key}.turns")
    if config.to is None:
        return book.to_exits(edge, key)
    if isinstance(config.to, dict):
        to: dict[Edge, float] = {name: share for name, share in config.to.items()}
    else:
        to = dict.fromkeys(config.to if isinstance(config.to, tuple) else (config.to,), 1.0)
    return book.to_edges(edge, to, f"{key}.to")


class _Cell(NamedTuple):
    """Of an origin-destination table; keys name what is wrong with it."""

    origin: Edge
    destination: Edge
    rate: float  # vehicles/h
    origin_key: str
    destination_key: str


def _cells(table: str | Sequence[TripsConfig]) -> list[_Cell]:
    """The cells of an origin-destination table that is written out, or is in a CSV file."""
    key = "origin_destination"
    if isinstance(table, str):
        return _cells_of_file(opened(table, key), key)
    return [_Cell(cell.origin, cell.to, cell.rate, f"{key}.{i}.from", f"{key}.{i}.to") for i, cell in enumerate(table)]


def _cells_of_file(path: Path, key: str) -> list[_Cell]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise error_at(key, f"{path}: cannot be read as CSV ({error})") from None
    if not rows or rows[0][1] != _COLUMNS:
        came = ",".join(rows[0][1]) if rows else ""
        raise error_at(key, f"{path}:1: expected the columns {','.join(_COLUMNS)}, got {came!r}")
    cells = []
    for line, row in rows[1:]:
        try:
            origin, destination, rate = row[0], row[1], float(row[2])
        except (ValueError, IndexError):
            rate = math.nan
        if len(row) != len(_COLUMNS) or not 0 <= rate < math.inf:
            raise error_at(key, f"{path}:{line}: expected from,to,vehicles/h, got {','.join(row)!r}")
        cells.append(_Cell(origin, destination, rate, key, key))
    return cells


def _inflows_of_trips(book: RouteBook, drivers: DriverTable, cells: Sequence[_Cell]) -> list[Inflow]:
    """An inflow for every origin of a table."""
    table: dict[int, dict[int, float]] = {}
    for cell in cells:
        start = edge_row(book.network, cell.origin, cell.origin_key)
        end = edge_row(book.network, cell.destination, cell.destination_key)
        if cell.rate > 0:
            book.fastest(start, {end: 1.0}, cell.destination_key)
            row = table.setdefault(start, {})
            row[end] = row.get(end, 0.0) + cell.rate
    inflows = []
    for start, row in table.items():
        shares = book.fastest(start, row, "origin_destination")
        rate = sum(row.values()) / 3600.0
        inflows.append(Inflow(start, tuple(shares), tuple(shares.values()), rate=rate, drivers=drivers.everybody))
    return inflows


def _sumo_demand(config: NetworkConfig, network: RoadNetwork) -> SumoDemand | None:
    """What route files ask for; None = there are none."""
    if not isinstance(config, SumoNetwork) or config.routes is None:
        return None
    names = [config.routes] if isinstance(config.routes, str) else config.routes
    try:
        return read_sumo_routes([opened(name, _SUMO) for name in names], network.to_graph())
    except TrafficGradError as error:
        raise error_at(_SUMO, str(error)) from None


def _inflows_of_sumo(book: RouteBook, drivers: DriverTable, demand: SumoDemand) -> list[Inflow]:
    """For each edge and type of vehicle a schedule; flows as they are."""
    rows = {key: e for e, key in enumerate(book.network.edges)}
    fixed = [tuple(rows[edge] for edge in route) for route in demand.routes]
    listed: dict[tuple[int, str], list[tuple[float, int]]] = {}
    vehicles = [(one.time, fixed[one.route], one.type) for one in demand.departures]
    vehicles += [(one.time, book.over([rows[e] for e in one.edges], _SUMO), one.type) for one in demand.trips]
    for time, route, kind in vehicles:
        listed.setdefault((route[0], kind), []).append((time, book.row(route)))
    inflows = []
    for (edge, kind), group in listed.items():
        times, numbers = zip(*sorted(group), strict=True)
        used, own = tuple(dict.fromkeys(numbers)), drivers.rows(kind, _SUMO)
        inflows.append(Inflow(edge, used, kind="schedule", times=times, schedule_routes=numbers, drivers=own))
    for flow in demand.flows:
        inflows.append(_inflow_of_sumo(book, drivers.rows(flow.type, _SUMO), fixed[flow.route], flow))
    for trip in demand.trip_flows:
        route = book.over([rows[e] for e in trip.edges], _SUMO)
        inflows.append(_inflow_of_sumo(book, drivers.rows(trip.type, _SUMO), route, trip))
    return inflows


def _inflow_of_sumo(book: RouteBook, rows: tuple[int, int], route: Route, flow: Flow | TripFlow) -> Inflow:
    number = (book.row(route),)
    return Inflow(route[0], number, kind=flow.kind, rate=flow.rate, begin=flow.begin, end=flow.end, drivers=rows)


# ---------------------------------------------------------------------- slots


def _most_vehicles(book: RouteBook, inflows: Sequence[Inflow], present: int, speed: float) -> int:
    """Vehicles at a time: those at the start and what comes within ``DELAYED`` free travel times at ``speed`` m/s, as
    far as there is room.
    """
    if not inflows:
        return present
    network = book.network
    rows = {key: e for e, key in enumerate(network.edges)}
    signalled = {(rows[c.from_edge], rows[c.to_edge]) for c in network.connections if c.signal is not None}
    routes = list(book.rows)

    def stay(inflow: Inflow) -> float:
        """Mean time that its vehicles take, s; inf = they never leave."""
        whole = [routes[r] for r in inflow.routes] or [(r, False) for r in book.ways.to_all_exits(inflow.edge)]
        if any(loop for _, loop in whole):
            return math.inf
        shares = [1.0] * len(whole) if inflow.shares is None else [float(share) for share in inflow.shares]
        times = [book.ways.time(route, speed) for route, _ in whole]
        waits = [AT_SIGNAL * sum(turn in signalled for turn in pairwise(route)) for route, _ in whole]
        total = sum(share * (time + wait) for share, time, wait in zip(shares, times, waits, strict=True))
        return DELAYED * total / sum(shares)

    coming = sum(_at_a_time(inflow, stay(inflow)) for inflow in inflows)
    room = math.ceil(float(network.lane_length[~network.is_junction].sum()) / PER_VEHICLE)
    wanted = room if math.isinf(coming) else present + math.ceil(coming) + SPARE
    return max(present, min(room, wanted))


def _at_a_time(inflow: Inflow, stay: float) -> float:
    """Vehicles of an inflow that are on their way at a time, at most (by schedule) or in the mean."""
    if inflow.times is None:
        rate = float(inflow.rate)
        return rate * min(stay, inflow.end - inflow.begin) if rate > 0 else 0.0
    when, first, most = [float(time) for time in inflow.times], 0, 0
    for i, time in enumerate(when):
        while when[first] < time - stay:
            first += 1
        most = max(most, i - first + 1)
    return float(most)
