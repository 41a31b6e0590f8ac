"""Where the vehicles of a scenario start, before any warm-up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trafficgrad.config import error_at
from trafficgrad.scenario_models import QueueInitial, RowsInitial, Uniform, highest

if TYPE_CHECKING:
    from trafficgrad.traffic_scenario import TrafficScenario


class Places(NamedTuple):
    """Starting places on the whole road, float64 on the CPU."""

    along: Tensor  # [B, N] m, front bumpers, from the road's start
    lane: Tensor  # [B, N] or [N] int64, 0 = right


def draw(value: float | Uniform, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` independent numbers, float64 on the CPU, so that every dtype and device sees the same drivers."""
    if not isinstance(value, Uniform):
        return torch.full((count,), float(value), dtype=torch.float64)
    low, high = value.uniform
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def controlled_slots(scenario: TrafficScenario) -> tuple[int, ...]:
    """Vehicle slots of the controlled vehicles: the first ones of a queue, otherwise those of their rows.

    Raises:
        PydanticCustomError: the placement does not fit, an error that names the key.
    """
    group, lanes = scenario.vehicles.controlled, scenario.network.lanes
    if isinstance(scenario.initial, QueueInitial):
        return tuple(range(group.count))
    lane, rows = group.placement.lane, group.placement.rows
    rows = tuple(range(group.count)) if rows is None else rows
    if len(rows) != group.count or len(set(rows)) != len(rows):
        raise error_at(
            "vehicles.controlled.placement.rows",
            f"expected {group.count} different rows, one for each controlled vehicle, got {list(rows)}",
        )
    slots = tuple(row * lanes + lane for row in rows)
    if group.count and (lane >= lanes or max(slots) >= scenario.total):
        raise error_at(
            "vehicles.controlled.placement",
            f"lane {lane}, rows {list(rows)} lie outside the {lanes} lane(s) with {scenario.total} places",
        )
    return slots


def check_places(scenario: TrafficScenario) -> None:
    """Every vehicle needs a place of its own at the start.

    Raises:
        PydanticCustomError: it has none, an error that names the key.
    """
    road, initial = scenario.network, scenario.initial
    cars = (scenario.vehicles.human, scenario.vehicles.controlled)
    longest = max(highest(group.length) for group in cars if group.count)
    if isinstance(initial, QueueInitial):
        deepest = math.ceil(cars[0].count / road.lanes)
        needed = (deepest + cars[1].count) * initial.spacing + initial.lead + longest
        if initial.spacing <= longest:
            raise error_at(
                "initial.spacing", f"expected more than the longest vehicle's {longest:g} m, got {initial.spacing:g}"
            )
        if needed > road.length:
            raise error_at("initial", f"the queues need {needed:g} m, but the road has {road.length:g} m")
        return
    spacing = road.length / scenario.rows
    if spacing <= longest + initial.jitter:
        raise error_at(
            "vehicles",
            f"{scenario.total} vehicles of up to {longest:g} m with a jitter of {initial.jitter:g} m do not fit "
            f"on {road.lanes} lane(s) of {road.length:g} m: a place is {spacing:.4g} m long",
        )
    if road.kind == "straight" and initial.jitter > spacing / road.lanes:
        raise error_at(
            "initial.jitter", f"reaches beyond the road's end, expected at most {spacing / road.lanes:.4g} m"
        )


def starting_places(scenario: TrafficScenario, batch: int, generator: torch.Generator | None) -> Places:
    """Places of all vehicles in ``batch`` worlds, as the scenario's ``initial`` section says."""
    if isinstance(scenario.initial, QueueInitial):
        return _queue(scenario, scenario.initial, batch, generator)
    return _rows(scenario, scenario.initial, batch, generator)


def _rows(scenario: TrafficScenario, initial: RowsInitial, batch: int, generator: torch.Generator | None) -> Places:
    lanes, length, slots = scenario.network.lanes, scenario.network.length, torch.arange(scenario.total)
    lane, row = slots % lanes, slots // lanes
    along = (row + lane / lanes) * length / scenario.rows
    along = along + initial.jitter * torch.rand(batch, scenario.total, generator=generator, dtype=torch.float64)
    return Places(along % length, lane)


def _queue(scenario: TrafficScenario, initial: QueueInitial, batch: int, generator: torch.Generator | None) -> Places:
    lanes, humans, controlled = (
        scenario.network.lanes,
        scenario.vehicles.human.count,
        scenario.vehicles.controlled.count,
    )
    each, more = divmod(humans, lanes)
    deep = [each + (k < more) for k in range(lanes)]  # vehicles of each lane
    lane = torch.tensor([k for k in range(lanes) for _ in range(deep[k])], dtype=torch.int64)
    row = torch.tensor([j for k in range(lanes) for j in range(deep[k])], dtype=torch.float64)
    body = highest(scenario.vehicles.human.length)  # the road begins behind the last vehicle
    back = row * initial.spacing + body
    chosen = torch.randint(lanes, (batch, controlled), generator=generator)
    front = torch.tensor([max(n - 1, 0) * initial.spacing for n in deep], dtype=torch.float64)[chosen] + body
    ahead = front + initial.lead + initial.spacing * torch.arange(controlled)
    return Places(torch.cat([ahead, back.expand(batch, -1)], 1), torch.cat([chosen, lane.expand(batch, -1)], 1))
