"""Where the vehicles of a scenario start, before any warm-up."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trafficgrad.config import error_at
from trafficgrad.network import RoadNetwork
from trafficgrad.scenario_demand import Traffic
from trafficgrad.scenario_roads import edge_row
from trafficgrad.scenario_sections.numbers import highest
from trafficgrad.scenario_sections.roads import PlainNetwork, RingNetwork, StraightNetwork
from trafficgrad.scenario_sections.vehicles import (
    EmptyInitial,
    Placement,
    QueueInitial,
    RowsInitial,
    SpreadInitial,
)

if TYPE_CHECKING:
    from trafficgrad.traffic_scenario import TrafficScenario

_MARGIN = 1.0  # m beyond the standstill gap between a starting place and its lane's end
_BRAKING = 1.5  # m/s2, with which one must be able to stop before a junction


class Places(NamedTuple):
    """Starting places, on the CPU; slot by slot."""

    position: Tensor  # [B, M] float64 m, front bumpers, along the lane
    lane: Tensor  # [B, M] int64, index into the network's lanes
    route: Tensor  # [B, M] int64, -1 = none
    route_index: Tensor  # [B, M] int64


def highest_speed(places: Places, network: RoadNetwork) -> Tensor:
    """How fast vehicles may drive at first, [B, M] m/s: the limit, and so that they can stop where a right of way is
    needed. Who was too fast there would shoot into the junction.
    """
    t = network.tables(torch.float64, "cpu")
    after = network.successors.clamp(min=0)
    gated = (t.junctions.gated[after] & (network.successors >= 0)).any(1)
    left = (network.lane_length[places.lane] - places.position - _MARGIN).clamp(min=0.0)
    stopping = torch.where(gated[places.lane], (2.0 * _BRAKING * left).sqrt(), math.inf)
    return torch.minimum(network.speed_limit[places.lane], stopping)


def controlled_slots(scenario: TrafficScenario) -> tuple[int, ...]:
    """Vehicle slots of the controlled vehicles: the first ones of a queue, otherwise those of their rows.

    Raises:
        PydanticCustomError: the placement does not fit, an error that names the key.
    """
    group, road = scenario.vehicles.controlled, scenario.network
    if not isinstance(scenario.initial, RowsInitial) or not isinstance(road, RingNetwork | StraightNetwork):
        return tuple(range(group.count))
    lanes = road.lanes
    lane, rows = group.placement.lane, group.placement.rows
    rows = tuple(range(group.count)) if rows is None else rows
    if len(rows) != group.count or len(set(rows)) != len(rows):
        raise error_at(
            "vehicles.controlled.placement.rows",
            f"expected {group.count} different rows, one for each controlled vehicle, got {list(rows)}",
        )
    slots = tuple(row * lanes + lane for row in rows)
    if group.count and (lane >= lanes or max(slots) >= scenario.present):
        raise error_at(
            "vehicles.controlled.placement",
            f"lane {lane}, rows {list(rows)} lie outside the {lanes} lane(s) with {scenario.present} places",
        )
    return slots


def check_kind(scenario: TrafficScenario) -> None:
    """Rows and queues belong to a ring or a straight road, `spread` to other networks.

    Raises:
        PydanticCustomError: it is the other way round, an error that names the key.
    """
    road, initial = scenario.network, scenario.initial
    plain = isinstance(road, RingNetwork | StraightNetwork)
    if plain and isinstance(initial, SpreadInitial):
        raise error_at("initial.kind", f"spread is for other networks; on a {road.kind} road rows, queue or empty")
    if not plain and isinstance(initial, RowsInitial | QueueInitial):
        raise error_at(
            "initial.kind",
            f"{initial.kind} needs the lanes and the length of a ring or a straight road; on a network of kind "
            f"{road.kind!r} spread or empty",
        )
    if not plain and scenario.vehicles.controlled.placement != Placement():
        raise error_at(
            "vehicles.controlled.placement",
            f"has lanes and rows of a ring or a straight road; on a network of kind {road.kind!r} "
            "initial.controlled_edges says where they start",
        )
    if isinstance(initial, EmptyInitial) and scenario.vehicles.human.count:
        raise error_at(
            "initial.kind", f"empty, but vehicles.human.count puts {scenario.vehicles.human.count} vehicles on the road"
        )


def check_places(scenario: TrafficScenario) -> None:
    """Every vehicle needs a place of its own at the start, on a ring or a straight road.

    Raises:
        PydanticCustomError: it has none, an error that names the key.
    """
    road, initial = scenario.network, scenario.initial
    if not isinstance(road, RingNetwork | StraightNetwork) or not scenario.present:
        return
    if isinstance(initial, EmptyInitial | SpreadInitial):
        return
    human, controlled = scenario.vehicles.human, scenario.vehicles.controlled
    others = [group for group in scenario.vehicles.classes.values() if group.share > 0]
    longest = max(
        highest(group.length)
        for group, count in ((human, human.count), (controlled, controlled.count), *((g, human.count) for g in others))
        if count
    )
    if isinstance(initial, QueueInitial):
        deepest = math.ceil(human.count / road.lanes)
        needed = (deepest + controlled.count) * initial.spacing + initial.lead + longest
        if initial.spacing <= longest:
            raise error_at(
                "initial.spacing", f"expected more than the longest vehicle's {longest:g} m, got {initial.spacing:g}"
            )
        if needed > road.length:
            raise error_at("initial", f"the queues need {needed:g} m, but the road has {road.length:g} m")
        return
    spacing = road.length / _row_count(scenario, road)
    if spacing <= longest + initial.jitter:
        raise error_at(
            "vehicles",
            f"{scenario.present} vehicles of up to {longest:g} m with a jitter of {initial.jitter:g} m do not fit "
            f"on {road.lanes} lane(s) of {road.length:g} m: a place is {spacing:.4g} m long",
        )
    if road.kind == "straight" and initial.jitter > spacing / road.lanes:
        raise error_at(
            "initial.jitter", f"reaches beyond the road's end, expected at most {spacing / road.lanes:.4g} m"
        )


def starting_places(
    scenario: TrafficScenario, traffic: Traffic, batch: int, generator: torch.Generator | None
) -> Places:
    """Places of the ``scenario.present`` first slots in ``batch`` worlds, as the ``initial`` section says."""
    initial, road = scenario.initial, scenario.network
    if isinstance(initial, SpreadInitial):
        return _spread(scenario, initial, traffic, batch, generator)
    if isinstance(initial, EmptyInitial) or not isinstance(road, RingNetwork | StraightNetwork):
        nowhere = torch.zeros(batch, scenario.present, dtype=torch.int64)
        return Places(nowhere.double(), nowhere, nowhere - 1, nowhere)
    if isinstance(initial, QueueInitial):
        along, lane = _queue(scenario, initial, road.lanes, batch, generator)
    else:
        along, lane = _rows(scenario, initial, road, batch, generator)
    piece = road.length / road.edges
    edge = (along / piece).long().clamp(max=road.edges - 1)
    position = (along - edge * piece).clamp(min=0)
    return Places(position, edge * road.lanes + lane, torch.full_like(edge, -1), torch.zeros_like(edge))


def _row_count(scenario: TrafficScenario, road: PlainNetwork) -> int:
    """Rows of starting places along a road."""
    return math.ceil(scenario.present / road.lanes)


def _rows(
    scenario: TrafficScenario, initial: RowsInitial, road: PlainNetwork, batch: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Places along the whole road, m, and numbers of lanes."""
    lanes, length, slots = road.lanes, road.length, torch.arange(scenario.present)
    lane, row = slots % lanes, slots // lanes
    along = (row + lane / lanes) * length / _row_count(scenario, road)
    along = along + initial.jitter * torch.rand(batch, scenario.present, generator=generator, dtype=torch.float64)
    return along % length, lane


def _queue(
    scenario: TrafficScenario, initial: QueueInitial, lanes: int, batch: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Places along the whole road, m, and numbers of lanes."""
    humans, controlled = scenario.vehicles.human.count, scenario.vehicles.controlled.count
    each, more = divmod(humans, lanes)
    deep = [each + (k < more) for k in range(lanes)]  # vehicles of each lane
    lane = torch.tensor([k for k in range(lanes) for _ in range(deep[k])], dtype=torch.int64)
    row = torch.tensor([j for k in range(lanes) for j in range(deep[k])], dtype=torch.float64)
    groups = [scenario.vehicles.human, *(g for g in scenario.vehicles.classes.values() if g.share > 0)]
    body = max(highest(group.length) for group in groups)  # the road begins behind the last vehicle
    back = row * initial.spacing + body
    chosen = torch.randint(lanes, (batch, controlled), generator=generator)
    front = torch.tensor([max(n - 1, 0) * initial.spacing for n in deep], dtype=torch.float64)[chosen] + body
    ahead = front + initial.lead + initial.spacing * torch.arange(controlled)
    return torch.cat([ahead, back.expand(batch, -1)], 1), torch.cat([chosen, lane.expand(batch, -1)], 1)


# ---------------------------------------------------------------------- networks


class _Axis(NamedTuple):
    """The parts of some lanes where vehicles may start, one behind the other."""

    lanes: Tensor  # [L] int64
    first: float  # m, of every lane
    starts: Tensor  # [L + 1] float64 m on the axis
    candidates: Tensor  # [L, K] int64 rows of routes that lead on from the lane without a change
    places: Tensor  # [L, K] int64 where on them the lane lies
    choices: Tensor  # [L] int64, how many


def check_spread(scenario: TrafficScenario, traffic: Traffic) -> None:
    """There is room for all vehicles that are spread over a network.

    Raises:
        PydanticCustomError: there is not, an error that names the key.
    """
    initial = scenario.initial
    if isinstance(initial, SpreadInitial):
        for axis, count, key in _axes(scenario, initial, traffic):
            total, body = float(axis.starts[-1]), traffic.drivers.longest
            if count and total / count <= body + initial.jitter:
                raise error_at(
                    key,
                    f"{count} vehicles of up to {body:g} m with a jitter of {initial.jitter:g} m do not fit on the "
                    f"{total:.4g} m of {len(axis.lanes)} lanes where they may start",
                )


def _axes(scenario: TrafficScenario, initial: SpreadInitial, traffic: Traffic) -> list[tuple[_Axis, int, str]]:
    """Where vehicles start, how many, and the key to blame: first the controlled ones', if they have edges of their
    own, then all others'.
    """
    network, drivers = traffic.network, traffic.drivers
    human, group = scenario.vehicles.human.count, scenario.vehicles.controlled
    controlled = group.count if group.present else 0
    first, last = drivers.longest, drivers.widest_gap + _MARGIN
    if initial.controlled_edges is None:
        return [(_axis(network, None, False, first, last), human + controlled, "vehicles")]
    own = [edge_row(network, edge, "initial.controlled_edges") for edge in initial.controlled_edges]
    key = "initial.controlled_edges"
    return [
        (_axis(network, own, True, first, last), controlled, key),
        (_axis(network, own, False, first, last), human, key),
    ]


def _axis(network: RoadNetwork, edges: list[int] | None, inside: bool, first: float, last: float) -> _Axis:
    """Lanes on the given edges, or on all others, with room for the vehicles; without edges all lanes."""
    plan = network.tables(torch.float64, "cpu").plan
    found: dict[int, list[tuple[int, int]]] = {}
    lane_of = [0, *itertools.accumulate(network.edge_lanes)]
    rows = list(zip(plan.edge.tolist(), plan.change.tolist(), strict=True))
    for route, (start, end) in enumerate(itertools.pairwise(plan.route_start.tolist())):
        for place, (edge, change) in enumerate(rows[start:end]):
            for number in range(network.edge_lanes[edge]):
                if change[number] == 0:
                    found.setdefault(lane_of[edge] + number, []).append((route, place))
    if not len(network.routes):
        found = {lane: [(-1, 0)] for lane in range(lane_of[-1])}
    if edges is not None:
        found = {lane: ways for lane, ways in found.items() if (int(network.edge[lane]) in edges) == inside}
    room = {lane: float(network.lane_length[lane]) - first - last for lane in sorted(found)}
    room = {lane: size for lane, size in room.items() if size > 0}
    lanes = torch.tensor(list(room), dtype=torch.int64)
    sizes = torch.tensor(list(room.values()), dtype=torch.float64)
    width = max((len(found[lane]) for lane in room), default=1)
    filler = [(-1, 0)] * width
    table = torch.tensor([[*found[lane], *filler][:width] for lane in room], dtype=torch.int64).reshape(-1, width, 2)
    count = torch.tensor([len(found[lane]) for lane in room], dtype=torch.int64)
    axis = torch.cat([torch.zeros(1, dtype=torch.float64), sizes.cumsum(0)])
    return _Axis(lanes, first, axis, table[..., 0], table[..., 1], count)


def _spread(
    scenario: TrafficScenario,
    initial: SpreadInitial,
    traffic: Traffic,
    batch: int,
    generator: torch.Generator | None,
) -> Places:
    group, slots = scenario.vehicles.controlled, scenario.present
    drawn = [_along(axis, count, initial, batch, generator) for axis, count, _ in _axes(scenario, initial, traffic)]
    there = Places(*(torch.cat(parts, 1) for parts in zip(*drawn, strict=True)))
    count = there.position.shape[1]
    controlled = group.count if group.present else 0
    if initial.controlled_edges is None:  # evenly among the others
        own = [(2 * c + 1) * count // (2 * controlled) for c in range(controlled)]
        order = [*own, *(k for k in range(count) if k not in set(own))]
        there = Places(*(part[:, order] for part in there))
    absent = slots - count  # the slots of controlled vehicles come first
    filled = (torch.nn.functional.pad(part, (absent, 0)) for part in there)
    return Places(*filled)


def _along(axis: _Axis, count: int, initial: SpreadInitial, batch: int, generator: torch.Generator | None) -> Places:
    """Places at equal distances along an axis, the first at random."""
    if not count:
        none = torch.zeros(batch, 0, dtype=torch.int64)
        return Places(none.double(), none, none, none)
    total = axis.starts[-1]
    phase, nudge, choice = (
        torch.rand(batch, size, generator=generator, dtype=torch.float64) for size in (1, count, count)
    )
    along = ((torch.arange(count) + phase) * (total / count) + initial.jitter * nudge) % total
    at = (torch.searchsorted(axis.starts, along, right=True) - 1).clamp(0, len(axis.lanes) - 1)
    position = (along - axis.starts[at]).clamp(min=0.0) + axis.first
    which = torch.minimum((choice * axis.choices[at]).long(), axis.choices[at] - 1)
    route = axis.candidates[at].gather(2, which[..., None])[..., 0]
    place = axis.places[at].gather(2, which[..., None])[..., 0]
    return Places(position, axis.lanes[at], route, place)
