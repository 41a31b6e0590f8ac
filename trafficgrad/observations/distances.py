"""How far vehicles are apart along and across the road, as controlled vehicles see it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.car_following.base import look_up
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.tables import LaneTables
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState

FAR = 1000.0  # m, shown for who is on another road


class Offsets(NamedTuple):
    """Of every vehicle's centre from each controlled one's, [B, C, N]."""

    ahead: Tensor  # m
    aside: Tensor  # m, + = to the left
    on_my_road: Tensor  # bool; otherwise ``ahead`` is FAR and ``aside`` means nothing


def offsets(state: TrafficState, simulator: Simulator) -> Offsets:
    """How far every vehicle's centre is ahead of, and to the left of, each controlled one's.

    On a closed road the short way round. Where roads meet and part only who is on the same edge or the same unbranched
    lane is on the own road.
    """
    slots = simulator.fleet.slots
    t = simulator.network.tables(state.position.dtype, state.position.device)
    lane = state.lane.clamp(min=0)
    centre = t.offset[lane] + state.position - 0.5 * look_up(simulator.fleet.length, state.driver)
    across = t.number[lane] * t.width[lane] + state.lateral
    ahead, on_my_road = ahead_of(centre[:, slots], lane[:, slots], centre, lane, simulator.network, t)
    return Offsets(ahead, across[:, None, :] - across[:, slots, None], on_my_road)


def ahead_of(
    own: Tensor, own_lane: Tensor, other: Tensor, other_lane: Tensor, network: RoadNetwork, t: LaneTables
) -> tuple[Tensor, Tensor]:
    """Metres from the own places [B, C] forwards to the others' [B, M], and who of them is on the own road; [B, C, M].

    Places are counted from the starts of the lanes' chains. Who is not on the own road is ``FAR`` ahead.
    """
    circumference = t.chain_length[own_lane][:, :, None]
    ahead = around(other[:, None, :] - own[:, :, None], circumference)
    if network.is_unbranched:
        return ahead, torch.ones_like(ahead, dtype=torch.bool)
    same_chain = t.chain[other_lane][:, None, :] == t.chain[own_lane][:, :, None]
    same_edge = t.edge[other_lane][:, None, :] == t.edge[own_lane][:, :, None]
    beside = (other - t.offset[other_lane])[:, None, :] - (own - t.offset[own_lane])[:, :, None]
    on_my_road = same_chain | same_edge
    return torch.where(same_chain, ahead, torch.where(on_my_road, beside, FAR)), on_my_road


def around(distance: Tensor, circumference: Tensor) -> Tensor:
    """Signed distance the short way round; an open road (infinite circumference) leaves it."""
    turns = torch.where(torch.isfinite(circumference), torch.round(distance.detach() / circumference), 0.0)
    return torch.where(turns == 0.0, distance, distance - turns * torch.where(turns == 0.0, 0.0, circumference))


def bounded(x: Tensor) -> Tensor:
    """At most 1, with slope 0 there."""
    return torch.where(x < 1.0, x, 1.0)
