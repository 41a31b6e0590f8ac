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


def lane_leads(state: TrafficState, simulator: Simulator) -> Leads:
    """Who comes first on every lane behind each controlled vehicle, and where that lane is."""
    slots = simulator.fleet.slots
    t = simulator.network.tables(state.position.dtype, state.position.device)
    lane = state.lane.clamp(min=0)
    place = torch.arange(simulator.network.max_lanes, device=lane.device)
    human = torch.ones(lane.shape[1], dtype=torch.bool, device=lane.device)
    human[slots] = False
    on = (t.number[lane][..., None] == place) & (human & state.active)[..., None]
    front, which = torch.where(on, state.position[..., None], -torch.inf).max(1)  # [B, L]
    taken = front.isfinite()[:, None, :]
    ahead = torch.where(taken, state.position[:, slots, None] - front[:, None, :], FAR)
    speed = torch.where(taken, state.speed.gather(1, which)[:, None, :], 0.0)
    width = t.width[0]
    across = t.number[lane] * width + state.lateral
    return Leads(ahead, speed.expand_as(ahead), place * width - across[:, slots, None])


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
    speed, heading = state.speed[:, slots], state.heading[:, slots]
    along, across = speed * torch.cos(heading), speed * torch.sin(heading)
    width = simulator.network.tables(speed.dtype, speed.device).width[0]
    leads = lane_leads(state, simulator)
    own = torch.stack([along, across, leads.aside[..., -1] + 0.5 * width, 0.5 * width - leads.aside[..., 0]], -1)
    order = torch.argsort(leads.ahead, dim=-1, stable=True)
    lead, other, aside = (x.gather(-1, order) for x in leads)
    return torch.cat([own, lead, other - along[..., None], aside], -1)
