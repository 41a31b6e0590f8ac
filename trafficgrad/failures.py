"""What ends an episode early: tests on a state, as the ``failure`` section of a scenario names them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.bodies import touching
from trafficgrad.car_following.base import look_up
from trafficgrad.observations import offsets
from trafficgrad.scenario_sections.task import FailureConfig
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState


class Failures(NamedTuple):
    """Outcome of the tests, [B] bool."""

    failed: Tensor  # any of them
    collided: Tensor  # an overlap, bodies that touch, or centres too near


@torch.no_grad()
def failures(state: TrafficState, overlapping: Tensor, simulator: Simulator, config: FailureConfig) -> Failures:
    """Test every world of ``state``; in ``overlapping`` [B] bool somebody is within the vehicle ahead.

    Distances are those of the vehicles' centres along and across the road, sqrt(dx^2 + dy^2), with no regard to bodies
    or headings (Son et al. 2023); on a closed road dx is the short way round. They are those between vehicles of the
    same road (:func:`~trafficgrad.observations.offsets`).
    """
    worlds = state.worlds
    none = torch.zeros(worlds, dtype=torch.bool, device=state.lane.device)
    collided = overlapping if config.overlap else none
    if config.touching:
        collided = collided | _touched(state, simulator)
    failed = collided
    slots = simulator.fleet.slots
    if not len(slots):
        return Failures(failed, collided)
    if config.off_road:
        failed = failed | (state.lane[:, slots] < 0).any(-1)
    if config.centre_distance is None and config.farthest is None and not config.overtaken:
        return Failures(failed, collided)
    ahead, aside, on_my_road = offsets(state, simulator)
    itself = torch.arange(state.vehicles, device=slots.device) == slots[:, None]
    other = (~itself & state.active[:, None, :]) & state.active[:, slots, None] & on_my_road
    nearest = torch.hypot(ahead, aside).masked_fill(~other, torch.inf).amin(-1)
    if config.centre_distance is not None:
        collided = collided | (nearest < config.centre_distance).any(-1)
    if config.farthest is not None:
        failed = failed | (torch.isfinite(nearest) & (nearest > config.farthest)).any(-1)
    if config.overtaken:
        human = ~simulator.fleet.mask(state.vehicles)
        failed = failed | ((ahead > 0.0) & other & human).flatten(1).any(-1)
    return Failures(failed | collided, collided)


def _touched(state: TrafficState, simulator: Simulator) -> Tensor:
    """[B] bool: bodies overlap in the plane."""
    length, width = (look_up(x, state.driver) for x in (simulator.fleet.length, simulator.fleet.width))
    worlds = touching(state, simulator.network, length, width)[:, 0].to(state.lane.device)
    none = torch.zeros(state.worlds, dtype=torch.bool, device=state.lane.device)
    return none.index_fill(0, worlds, True)
