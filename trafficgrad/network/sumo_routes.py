"""Demand of SUMO: route files with vehicles, trips, flows, routes and vehicle types, read onto an imported network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import networkx as nx

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network.connections import EdgeKey
from trafficgrad.network.files import ImportSummary, Tally, check_xml, open_compressed

_EXPECTED = "a SUMO route file"
_KINDS = ("vehicles", "trips", "flows", "routes", "types")
_DEFAULT_TYPE = "DEFAULT_VEHTYPE"
_CARS = (
    "passenger", "private", "taxi", "hov", "evehicle", "vip", "authority", "army", "emergency", "custom1", "custom2",
    "delivery", "truck", "trailer",
)  # fmt: skip
_CAR = {"accel": 2.6, "decel": 4.5, "tau": 1.0, "minGap": 2.5, "length": 5.0, "width": 1.8, "maxSpeed": 200 / 3.6}
# Defaults of SUMO 1.28 where a class differs from a car (documentation of SUMO, "Vehicle Type Parameter Defaults").
_BY_CLASS: dict[str, dict[str, float]] = {
    "emergency": {"length": 6.5, "width": 2.16},
    "delivery": {"length": 6.5, "width": 2.16},
    "truck": {"accel": 1.3, "decel": 4.0, "length": 7.1, "width": 2.4, "maxSpeed": 130 / 3.6},
    "trailer": {"accel": 1.1, "decel": 4.0, "length": 16.5, "width": 2.55, "maxSpeed": 130 / 3.6},
}
_SPEED_DEVIATION = {"taxi": 0.05, "delivery": 0.05, "truck": 0.05, "trailer": 0.05, "authority": 0.0, "army": 0.0,
                    "emergency": 0.0}  # fmt: skip
_IGNORED = ("departLane", "departPos", "departSpeed", "arrivalLane", "arrivalPos", "arrivalSpeed")


@dataclass(frozen=True)
class VehicleType:
    """Drivers and vehicles of one kind, in the terms of the IDM."""

    name: str
    vehicle_class: str  # of SUMO, such as "passenger" or "truck"
    max_acceleration: float  # m/s2
    comfortable_deceleration: float  # m/s2
    time_headway: float  # s
    min_gap: float  # m
    length: float  # m
    width: float  # m
    max_speed: float  # m/s
    speed_factor: float  # desired speed / speed limit, its mean
    speed_deviation: float  # standard deviation of the speed factor
    sigma: float  # imperfection of SUMO's Krauss model; the IDM has none


class Departure(NamedTuple):
    """One vehicle that drives a fixed route."""

    time: float  # s
    route: int  # row of ``SumoDemand.routes``
    type: str


class Flow(NamedTuple):
    """Vehicles that drive a fixed route: one every 1 / rate seconds, or at random as a Poisson process."""

    begin: float  # s
    end: float  # s, may be inf
    rate: float  # vehicles per s
    kind: Literal["constant", "poisson"]
    route: int  # row of ``SumoDemand.routes``
    type: str


class Trip(NamedTuple):
    """One vehicle that has an origin and a destination, and no route yet."""

    time: float  # s
    edges: tuple[EdgeKey, ...]  # first, those to pass on the way, last
    type: str


class TripFlow(NamedTuple):
    """A flow that has an origin and a destination, and no route yet. Fields as :class:`Flow` and :class:`Trip`."""

    begin: float
    end: float
    rate: float
    kind: Literal["constant", "poisson"]
    edges: tuple[EdgeKey, ...]
    type: str


@dataclass(frozen=True)
class SumoDemand:
    """What route files ask for, as far as cars and trucks go; everything in the order of time."""

    routes: tuple[tuple[EdgeKey, ...], ...]  # fixed routes, each once
    departures: tuple[Departure, ...]
    flows: tuple[Flow, ...]
    trips: tuple[Trip, ...]
    trip_flows: tuple[TripFlow, ...]
    types: Mapping[str, VehicleType]  # by name, those that are used
    summary: ImportSummary


def read_sumo_routes(paths: Path | str | Sequence[Path | str], graph: nx.MultiDiGraph) -> SumoDemand:
    """Read SUMO's demand, ``.rou.xml`` and the like, also packed with gzip.

    Parameters:
        paths: one file or several that belong together, such as vehicle types and flows.
        graph: of :func:`~trafficgrad.network.sumo.read_sumo`; edges are found by their key.

    Cars and trucks are kept. Vehicles of other classes, vehicles that wait for a person, and those whose route uses an
    edge that ``graph`` does not have are left out, persons and containers too; the summary counts them. A distribution
    of routes or types is dealt out evenly: every vehicle gets the member that is furthest behind its share, and a flow
    becomes one flow for each member. A flow with a ``probability`` per second becomes a Poisson process of that rate.

    Raises:
        TrafficGradError: a file is missing, damaged or no route file, or a number, time or reference in it makes no
            sense.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, Path | str) else paths)]
    reader = _Reader(graph)
    elements = [(path, element) for path in files for element in _elements(path)]
    for path, element in elements:
        reader.define(path, element)
    for path, element in elements:
        reader.demand(path, element)
    return reader.result(", ".join(path.name for path in files))


def _elements(path: Path) -> Iterator[ElementTree.Element]:
    check_xml(path, ("routes", "additional", "trips", "flows"), _EXPECTED)
    with open_compressed(path) as file:
        yield from ElementTree.parse(file).getroot()


class _Shares:
    """Members that are dealt out by their weights, without chance."""

    def __init__(self, members: Iterable[tuple[str, float]]) -> None:
        members = list(members)
        whole = sum(weight for _, weight in members) or 1.0
        self.members = [(name, weight / whole) for name, weight in members if weight > 0]
        self.given = dict.fromkeys((name for name, _ in self.members), 0)

    def next(self) -> str:
        """The member that is furthest behind its share."""
        total = sum(self.given.values()) + 1
        name = max(self.members, key=lambda member: member[1] * total - self.given[member[0]])[0]
        self.given[name] += 1
        return name


class _Reader:
    """Definitions first, then whoever uses them."""

    def __init__(self, graph: nx.MultiDiGraph) -> None:
        self.edges: dict[str, EdgeKey] = {str(key): (u, v, key) for u, v, key in graph.edges(keys=True)}
        if len(self.edges) < graph.number_of_edges():
            raise TrafficGradError("SUMO's routes name edges by their keys, but this graph has keys that occur twice")
        self.types = {_DEFAULT_TYPE: _vehicle_type(Path(), ElementTree.Element("vType", id=_DEFAULT_TYPE))}
        self.type_shares: dict[str, _Shares] = {}
        self.routes: dict[str, tuple[EdgeKey, ...] | None] = {}  # None = not in this network
        self.route_shares: dict[str, _Shares] = {}
        self.rows: dict[tuple[EdgeKey, ...], int] = {}
        self.departures: list[Departure] = []
        self.flows: list[Flow] = []
        self.trips: list[Trip] = []
        self.trip_flows: list[TripFlow] = []
        self.tally = Tally(*_KINDS)

    # ------------------------------------------------------------------ definitions

    def define(self, path: Path, element: ElementTree.Element) -> None:
        """Take a type, a route or a distribution of them."""
        if element.tag == "vType":
            self._type(path, element)
        elif element.tag == "vTypeDistribution":
            for child in element.iter("vType"):
                self._type(path, child)
            self.type_shares[_text(path, element, "id")] = _shares(path, element, "vTypes", "vType")
        elif element.tag == "route":
            self._route(path, element, _text(path, element, "id"))
        elif element.tag == "routeDistribution":
            self._route_distribution(path, element, _text(path, element, "id"))

    def _type(self, path: Path, element: ElementTree.Element) -> None:
        new = _vehicle_type(path, element)
        self.types[new.name] = new
        if new.vehicle_class in _CARS:
            self.tally.keep("types")
        else:
            self.tally.drop("types", f"of class {new.vehicle_class}")
        if element.get("carFollowModel", "IDM") != "IDM":
            self.tally.note(f"types that drive by SUMO's model {element.get('carFollowModel')} (here by the IDM)")

    def _route(self, path: Path, element: ElementTree.Element, name: str) -> None:
        edges = _text(path, element, "edges").split()
        self.routes[name] = (
            tuple(self.edges[e] for e in edges) if edges and all(e in self.edges for e in edges) else None
        )
        if self.routes[name] is None:
            self.tally.drop("routes", "over edges that the network does not have")
        else:
            self.tally.keep("routes")

    def _route_distribution(self, path: Path, element: ElementTree.Element, name: str) -> None:
        for number, child in enumerate(element.iter("route")):
            if child.get("refId") is None:
                child.set("id", child.get("id", f"{name}#{number}"))
                self._route(path, child, child.attrib["id"])
        self.route_shares[name] = _shares(path, element, "routes", "route")

    # ------------------------------------------------------------------ who drives

    def demand(self, path: Path, element: ElementTree.Element) -> None:
        """Take a vehicle, a trip or a flow; count everything else."""
        kind = f"{element.tag}s"
        if element.tag in ("person", "personFlow", "container", "containerFlow"):
            self.tally.drop("persons and containers", f"{element.tag}s")
        elif kind not in ("vehicles", "trips", "flows"):
            if element.tag not in ("vType", "vTypeDistribution", "route", "routeDistribution"):
                self.tally.drop("other elements", f"<{element.tag}>")
        else:
            reason = self._take(path, element)
            if reason is None:
                self.tally.keep(kind)
            else:
                self.tally.drop(kind, reason)

    def _take(self, path: Path, element: ElementTree.Element) -> str | None:
        """Add who drives; the reason why not, if so."""
        where = f"{path}: <{element.tag}> {element.get('id', '')!r}"
        for child in element:
            if child.tag == "route":
                element.set("route", f"!{where}")
                self._route(path, child, f"!{where}")
            elif child.tag == "routeDistribution":
                element.set("route", f"!{where}")
                self._route_distribution(path, child, f"!{where}")
            elif child.tag == "stop":
                self.tally.note("stops on the way (not made)")
        edges: tuple[EdgeKey, ...] | None = None
        if element.get("route") is None:
            if element.get("from") is None or element.get("to") is None:
                return "between junctions or zones"
            names = [element.attrib["from"], *element.get("via", "").split(), element.attrib["to"]]
            if any(name not in self.edges for name in names):
                return "from or to edges that the network does not have"
            edges = tuple(self.edges[name] for name in names)
        depart = element.get("depart", "")
        if element.tag != "flow" and depart and not (depart[0].isdigit() or depart[0] in "-+.") and depart != "begin":
            return f"that depart when {depart!r}"
        for attribute in _IGNORED:
            if attribute in element.attrib:
                self.tally.drop("attributes", attribute)
        if element.tag == "flow":
            return self._take_flow(path, element, where, edges)
        time = 0.0 if depart == "begin" else _time(path, element, "depart")
        kind = self._deal(self.type_shares, element.get("type", _DEFAULT_TYPE))
        reason = self._refused_type(where, kind)
        if reason or edges is not None:
            if reason is None and edges is not None:
                self.trips.append(Trip(time, edges, kind))
            return reason
        route = self._row(where, self._deal(self.route_shares, element.attrib["route"]))
        if route is None:
            return "over edges that the network does not have"
        self.departures.append(Departure(time, route, kind))
        return None

    def _take_flow(
        self, path: Path, element: ElementTree.Element, where: str, edges: tuple[EdgeKey, ...] | None
    ) -> str | None:
        found = _flow_rate(path, element)
        if found is None:
            return "without a rate"
        begin, end, rate, kind = found
        reason: str | None = None
        taken = False
        for name, share in self._members(self.type_shares, element.get("type", _DEFAULT_TYPE)):
            refused = self._refused_type(where, name)
            if refused:
                reason = refused
            elif edges is not None:
                self.trip_flows.append(TripFlow(begin, end, rate * share, kind, edges, name))
                taken = True
            else:
                for route, part in self._members(self.route_shares, element.attrib["route"]):
                    row = self._row(where, route)
                    if row is None:
                        reason = "over edges that the network does not have"
                    else:
                        self.flows.append(Flow(begin, end, rate * share * part, kind, row, name))
                        taken = True
        if taken and reason:
            self.tally.note(f"flows with parts that are left out, {reason}")
        return None if taken else reason

    def _deal(self, shares: Mapping[str, _Shares], name: str) -> str:
        return shares[name].next() if name in shares else name

    def _members(self, shares: Mapping[str, _Shares], name: str) -> list[tuple[str, float]]:
        return shares[name].members if name in shares else [(name, 1.0)]

    def _refused_type(self, where: str, name: str) -> str | None:
        if name not in self.types:
            known = [*self.types, *self.type_shares]
            raise TrafficGradError(
                f"{where} has the type {name!r}, which none of the files defines{nearest_name(name, known)}"
            )
        kind = self.types[name].vehicle_class
        return None if kind in _CARS else f"of class {kind}"

    def _row(self, where: str, name: str) -> int | None:
        if name not in self.routes:
            known = [*self.routes, *self.route_shares]
            raise TrafficGradError(
                f"{where} drives the route {name!r}, which none of the files defines{nearest_name(name, known)}"
            )
        edges = self.routes[name]
        return None if edges is None else self.rows.setdefault(edges, len(self.rows))

    def result(self, source: str) -> SumoDemand:
        """Everything, in the order of time."""
        users = (self.departures, self.flows, self.trips, self.trip_flows)
        used = {one.type for group in users for one in group}
        return SumoDemand(
            tuple(self.rows),
            tuple(sorted(self.departures, key=lambda one: one.time)),
            tuple(sorted(self.flows, key=lambda one: one.begin)),
            tuple(sorted(self.trips, key=lambda one: one.time)),
            tuple(sorted(self.trip_flows, key=lambda one: one.begin)),
            {name: kind for name, kind in self.types.items() if name in used},
            self.tally.summary(source),
        )


def _vehicle_type(path: Path, element: ElementTree.Element) -> VehicleType:
    kind = element.get("vClass", "passenger")
    defaults = {**_CAR, **_BY_CLASS.get(kind, {})}
    values = {name: _number(path, element, name, default) for name, default in defaults.items()}
    factor, deviation = _speed_factor(path, element, _SPEED_DEVIATION.get(kind, 0.1))
    return VehicleType(
        _text(path, element, "id"),
        kind,
        max_acceleration=values["accel"],
        comfortable_deceleration=values["decel"],
        time_headway=values["tau"],
        min_gap=values["minGap"],
        length=values["length"],
        width=values["width"],
        max_speed=values["maxSpeed"],
        speed_factor=factor,
        speed_deviation=deviation,
        sigma=_number(path, element, "sigma", 0.5),
    )


def _speed_factor(path: Path, element: ElementTree.Element, deviation: float) -> tuple[float, float]:
    """Mean and standard deviation, of a number or of ``normc(mean, deviation, low, high)``."""
    text = element.get("speedFactor", "1")
    if text.startswith("norm") and text.endswith(")"):
        try:
            mean, spread = (float(part) for part in text[text.index("(") + 1 : -1].split(",")[:2])
        except ValueError:
            raise _wrong(path, element, "speedFactor", "a number or normc(mean, deviation, low, high)") from None
        return mean, spread
    return _number(path, element, "speedFactor", 1.0), _number(path, element, "speedDev", deviation)


def _flow_rate(
    path: Path, element: ElementTree.Element
) -> tuple[float, float, float, Literal["constant", "poisson"]] | None:
    """Begin (s), end (s), rate (1/s) and kind of a flow; None if it has no rate."""
    begin = _time(path, element, "begin") if element.get("begin", "begin") != "begin" else 0.0
    end = _time(path, element, "end") if "end" in element.attrib else math.inf
    period = element.get("period", "")
    kind: Literal["constant", "poisson"] = "constant"
    number = _number(path, element, "number", math.inf)
    if period.startswith("exp(") and period.endswith(")"):
        kind, element = "poisson", ElementTree.Element(element.tag, {**element.attrib, "rate": period[4:-1]})
        rate = _number(path, element, "rate", 0.0)
    elif period:
        rate = 1.0 / _number(path, element, "period", 0.0, above=0.0)
    elif "probability" in element.attrib:
        kind, rate = "poisson", _number(path, element, "probability", 0.0)
    elif "vehsPerHour" in element.attrib or "perHour" in element.attrib:
        rate = _number(path, element, "perHour" if "perHour" in element.attrib else "vehsPerHour", 0.0) / 3600.0
    elif math.isfinite(number) and begin < end < math.inf:
        rate = number / (end - begin)
    else:
        return None
    if rate == 0.0:
        return None
    return begin, min(end, begin + number / rate), rate, kind


def _shares(path: Path, element: ElementTree.Element, attribute: str, tag: str) -> _Shares:
    """Members of a distribution, named in an attribute or written inside."""
    names = element.get(attribute, "").split()
    weights = element.get("probabilities", "").split() or ["1"] * len(names)
    if len(weights) != len(names):
        raise _wrong(path, element, "probabilities", f"{len(names)} numbers")
    try:
        members = [(name, float(weight)) for name, weight in zip(names, weights, strict=True)]
    except ValueError:
        raise _wrong(path, element, "probabilities", "numbers") from None
    for child in element.iter(tag):
        name = child.get("refId") or _text(path, child, "id")
        members.append((name, _number(path, child, "probability", 1.0)))
    if not any(weight > 0 for _, weight in members):
        raise TrafficGradError(f"{path}: <{element.tag}> {element.get('id', '')!r} has no members")
    return _Shares(members)


def _text(path: Path, element: ElementTree.Element, name: str) -> str:
    if name not in element.attrib:
        raise TrafficGradError(f"{path}: a <{element.tag}> lacks the attribute {name!r}")
    return element.attrib[name]


def _number(path: Path, element: ElementTree.Element, name: str, default: float, above: float = -math.inf) -> float:
    """A number >= 0; above: and greater than this."""
    try:
        value = float(element.get(name, default))
    except ValueError:
        value = math.nan
    if not value >= 0.0 or not value > above:
        raise _wrong(path, element, name, "a number >= 0" if above < 0 else f"a number > {above:g}")
    return value


def _time(path: Path, element: ElementTree.Element, name: str) -> float:
    """Seconds, or days:hours:minutes:seconds of which the first may be missing."""
    text = _text(path, element, name)
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 3, 4) or not all(math.isfinite(part) for part in parts):
        raise _wrong(path, element, name, "seconds or hours:minutes:seconds")
    return sum(part * size for part, size in zip(reversed(parts), (1, 60, 3600, 86400), strict=False))


def _wrong(path: Path, element: ElementTree.Element, name: str, expected: str) -> TrafficGradError:
    where = f"{path}: <{element.tag}> {element.get('id', '')!r}"
    return TrafficGradError(f"{where}: expected {expected} for {name}, got {element.get(name)!r}")
