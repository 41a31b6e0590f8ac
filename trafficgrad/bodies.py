"""Bodies of vehicles: what lane they stand on, where they are in the plane, and which of them touch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.tables import LaneTables
from trafficgrad.state import PerDriver, TrafficState

_LONGEST = 30.0  # m, no vehicle is longer
_SLANT = (0.8, 0.6)  # a direction of length 1
_SPAN = 1.0e6  # m, no lane is longer


class Bodies(NamedTuple):
    """Where vehicles are, per lane: [B, A]; rear coordinates count from the lane's origin and may be negative."""

    rear: Tensor  # m, of the lowest of the bodies that touch the lane; +inf = none
    slot: Tensor  # int64, whose it is, -1 = none


def last_bodies(state: TrafficState, t: LaneTables, length: PerDriver, lanes: int) -> Bodies:
    """The last body on every lane: of vehicles whose front is on it, or whose rear has not left it yet."""
    position = state.position.detach()
    size = length.detach() if isinstance(length, Tensor) else length
    present = state.active & (state.lane >= 0)
    here = torch.where(present, state.lane, lanes)
    left = torch.where(present & covers_previous(state, size), state.previous, lanes)
    rear_left = t.length[state.previous.clamp(min=0)] + position - size
    lane = torch.cat([here, left], 1)
    return lowest_rear(lane, torch.cat([position - size, rear_left], 1), lanes, position.shape[1])


def bodies_ahead(
    state: TrafficState, t: LaneTables, length: PerDriver, lanes: int, lane: Tensor, place: Tensor
) -> Bodies:
    """The nearest body on ``lane`` whose front is beyond ``place``, m; both [B, Q], and so are the results."""
    position = state.position.detach()
    size = length.detach() if isinstance(length, Tensor) else length
    present = state.active & (state.lane >= 0)
    here = torch.where(present, state.lane, lanes)
    left = torch.where(present & covers_previous(state, size), state.previous, lanes)
    where = torch.cat([here, left], 1)
    front = torch.cat([position, t.length[state.previous.clamp(min=0)] + position], 1).double()
    key, order = (where * _SPAN + front).sort(1)
    found = torch.searchsorted(key, lane * _SPAN + place.double(), right=True).clamp(max=key.shape[1] - 1)
    entry = order.gather(1, found)
    there = (where.gather(1, entry) == lane) & (front.gather(1, entry) > place)
    slot = entry % position.shape[1]
    own = size.gather(1, slot) if isinstance(size, Tensor) and size.dim() else size
    rear = (front.gather(1, entry) - own).to(position.dtype)
    return Bodies(torch.where(there, rear, math.inf), torch.where(there, slot, -1))


def covers_previous(state: TrafficState, length: PerDriver) -> Tensor:
    """Whether the rear is still on the lane that the front left, [B, N] bool."""
    return (state.previous >= 0) & (state.position.detach() < length)


def lowest_rear(lane: Tensor, rear: Tensor, lanes: int, n: int) -> Bodies:
    """Lowest ``rear`` by ``lane`` (``lanes`` = nobody's) and its slot; the columns are slots, repeated."""
    worlds = lane.shape[0]
    lowest = rear.new_full((worlds, lanes + 1), math.inf).scatter_reduce(1, lane, rear, "amin")
    slots = (torch.arange(lane.shape[1], device=lane.device) % n).expand(lane.shape)
    mine = torch.where((rear == lowest.gather(1, lane)) & (lane < lanes), slots, n)
    slot = torch.full((worlds, lanes + 1), n, device=lane.device).scatter_reduce(1, lane, mine, "amin")
    return Bodies(lowest[:, :-1], torch.where(slot < n, slot, -1)[:, :-1])


def rear_places(state: TrafficState, network: RoadNetwork, length: PerDriver) -> tuple[Tensor, Tensor]:
    """Lane [B, N] and place on it (m) of every rear bumper: on the present lane, or on the one that the front left."""
    t = network.tables(state.position.dtype, state.position.device)
    rear = state.position - length
    behind = (rear < 0.0) & (state.previous >= 0)
    lane = torch.where(behind, state.previous, state.lane)
    return lane, torch.where(behind, rear + t.length[lane.clamp(min=0)], rear)


def rectangles(state: TrafficState, network: RoadNetwork, length: PerDriver, width: PerDriver) -> Tensor:
    """Corners of all bodies, [B, N, 4, 2] m: both bumpers lie on the lanes' centre lines.

    ``length`` and ``width`` are floats or [B, N] per vehicle, m. Steered vehicles keep their lateral place, and their
    heading is that of the lane.
    """
    front, _ = network.locate(state.lane, state.position, state.lateral)
    lane, place = rear_places(state, network, length)
    rear, course = network.locate(lane, place, state.lateral)
    along = front - rear
    size = along.norm(dim=-1, keepdim=True)
    straight = torch.stack([course.cos(), course.sin()], -1)
    direction = torch.where(size > 0.1, along / size.clamp(min=0.1), straight)
    middle = (front + rear) / 2
    normal = torch.stack([-direction[..., 1], direction[..., 0]], -1)
    half_length, half_width = (
        (x.double().cpu()[..., None] if isinstance(x, Tensor) and x.dim() else torch.as_tensor(x).double()) / 2
        for x in (length, width)
    )
    ahead, aside = half_length * direction, half_width * normal
    return torch.stack(
        [middle + ahead + aside, middle + ahead - aside, middle - ahead - aside, middle - ahead + aside], -2
    )


@torch.no_grad()
def touching(state: TrafficState, network: RoadNetwork, length: PerDriver, width: PerDriver) -> Tensor:
    """Pairs of bodies that overlap in the plane, [K, 3] int64: world, slot, slot; the lower slot first.

    Rectangles overlap unless the direction of one of their sides separates them.
    """
    corners = rectangles(state, network, length, width)
    present = (state.active & (state.lane >= 0)).cpu()
    world, a, b = _near(corners.mean(-2), present)
    one, two = corners[world, a], corners[world, b]
    separated = torch.zeros(len(world), dtype=torch.bool)
    for box in (one, two):
        for side in (0, 1):
            axis = box[:, side] - box[:, side + 1]
            p, q = ((points * axis[:, None]).sum(-1) for points in (one, two))
            separated |= (p.amax(1) <= q.amin(1)) | (q.amax(1) <= p.amin(1))
    return torch.stack([world, a, b], -1)[~separated]


def _near(centre: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """World and slots a < b of all pairs whose ``centre`` [B, N, 2] are within ``_LONGEST``; in that order.

    Sorted along a slanting direction, on which the streets of a map do not fall together, only a few come after each
    that are near enough.
    """
    along = (centre * torch.tensor(_SLANT, dtype=centre.dtype)).sum(-1).masked_fill(~present, math.inf)
    along, order = along.sort(1)
    found = []
    for k in range(1, along.shape[1]):
        close = along[:, k:] - along[:, :-k] < _LONGEST
        if not bool(close.any()):
            break
        world, place = close.nonzero(as_tuple=True)
        a, b = order[world, place], order[world, place + k]
        near = (centre[world, a] - centre[world, b]).norm(dim=-1) < _LONGEST
        found.append(torch.stack([world, torch.minimum(a, b), torch.maximum(a, b)], -1)[near])
    pairs = torch.cat(found) if found else torch.empty(0, 3, dtype=torch.int64)
    n = along.shape[1]
    pairs = pairs[((pairs[:, 0] * n + pairs[:, 1]) * n + pairs[:, 2]).argsort()]
    return pairs[:, 0], pairs[:, 1], pairs[:, 2]
