"""Observation ``lanes``: what a vehicle that holds several lanes by turns needs to know, lane by lane."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.observations.distances import FAR
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState


class Leads(NamedTuple):
    """Of every controlled vehicle over the first ordinary driver of every lane of a straight road, [B, C, L]."""

    ahead: Tensor  # m, how far it is ahead of that driver; ``FAR`` where nobody drives
    speed: Tensor  # m/s, of that driver; 0 where nobody drives
    aside: Tensor  # m, how far the lane's centre line is to the left of it


def lane_leads(state: TrafficState, simulator: Simulator, nearest_first: bool = False) -> Leads:
    """Who comes first on every lane behind each controlled vehicle, and where that lane is.

    The last dimension is in the order of the lanes, or, ``nearest_first``, of how near these drivers are.
    """
    slots = simulator.fleet.slots
    t = simulator.network.tables(state.position.dtype, state.position.device)
    lane, worlds, count = state.lane.clamp(min=0), len(state.lane), len(slots)
    with torch.no_grad():
        # Who is looked at: no slope. With it few operations on few numbers are left, which is what a step costs.
        place = torch.arange(simulator.network.max_lanes, device=lane.device)
        human = state.active.index_fill(1, slots, False)
        on = (t.number[lane][..., None] == place) & human[..., None]
        front, which = torch.where(on, state.position[..., None], -torch.inf).max(1)  # [B, L]
        front, which, place = (x.unsqueeze(-2).expand(worlds, count, -1) for x in (front, which, place))
        if nearest_first:
            order = torch.argsort(front, dim=-1, descending=True, stable=True)
            front, which, place = (x.gather(-1, order) for x in (front, which, place))
        taken, index = front.isfinite(), which.flatten(1)
        width = t.width[0]
        across = (place - t.number[lane[:, slots]][..., None]) * width
    position = state.position.gather(1, index).view(worlds, count, -1)
    speed = state.speed.gather(1, index).view(worlds, count, -1)
    ahead = torch.where(taken, state.position.index_select(1, slots)[..., None] - position, FAR)
    return Leads(ahead, torch.where(taken, speed, 0.0), across - state.lateral.index_select(1, slots)[..., None])


def lane_labels(lanes: int) -> tuple[str, ...]:
    """Label of every column of :func:`observe_lanes`."""
    own = ("speed along [m/s]", "speed across [m/s]", "to the left edge [m]", "to the right edge [m]")
    blocks = ("behind by [m]", "comes nearer by [m/s]", "its lane to the left [m]")
    return (*own, *(f"driver {k}: {block}" for block in blocks for k in range(lanes)))


def observe_lanes(state: TrafficState, simulator: Simulator) -> Tensor:
    """[B, C, 4 + 3 L]: own velocity and place across, then the first driver of every lane, the nearest of them first.

    In this order "steer for the lane whose driver is nearest" is a linear policy; in the order of the lanes it is a
    case for each of them.
    """
    slots = simulator.fleet.slots
    t = simulator.network.tables(state.position.dtype, state.position.device)
    width = t.width[0]
    speed, heading = state.speed.index_select(1, slots), state.heading.index_select(1, slots)
    along, across = speed * torch.cos(heading), speed * torch.sin(heading)
    place = t.number[state.lane[:, slots].clamp(min=0)] * width + state.lateral.index_select(1, slots)
    edges = ((simulator.network.max_lanes - 0.5) * width - place, 0.5 * width + place)
    lead, other, aside = lane_leads(state, simulator, nearest_first=True)
    own = torch.stack([along, across, *edges], -1)
    return torch.cat([own, lead, other - along[..., None], aside], -1)
