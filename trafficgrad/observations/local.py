"""Observation ``local``: a controlled vehicle's lane, its neighbours and the other controlled vehicles."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.observations.distances import FAR, ahead_of, bounded
from trafficgrad.scenario_sections.task import LocalObservation
from trafficgrad.simulator import Simulator
from trafficgrad.state import Neighbors, TrafficState

_SIDES = ("right", "own", "left")


def local_labels(config: LocalObservation, lanes: int) -> tuple[str, ...]:
    """Label of every column of :func:`observe_local`, units in brackets."""
    relative = "speed - target" if config.target_speed is not None else "speed"
    labels = [f"{relative} [{config.speed_scale:g} m/s]"]
    if lanes > 1:
        labels += [f"in lane {k}" for k in range(lanes)] + ["cool-down left [3 s]"]
    for j in range(config.others):
        labels.append(f"controlled {j + 1}: distance ahead [{config.distance_scale:g} m]")
        if lanes > 1:
            labels.append(f"controlled {j + 1}: lanes to the left [{lanes - 1}]")
    for side in _SIDES if lanes > 1 else ("own",):
        labels += [f"{side}: lane exists"] if lanes > 1 else []
        labels += [
            f"{side}: gap ahead [{config.gap_scale:g} m]",
            f"{side}: gap behind [{config.gap_scale:g} m]",
            f"{side}: leader's speed - own [{config.speed_scale:g} m/s]",
            f"{side}: follower's speed - own [{config.speed_scale:g} m/s]",
            f"{side}: controlled vehicle beside",
            f"{side}: fastest approaching driver's speed - own [{config.speed_scale:g} m/s]",
        ]
    return tuple(labels)


def observe_local(state: TrafficState, neighbors: Neighbors, simulator: Simulator, config: LocalObservation) -> Tensor:
    """[B, C, O]: one row for each controlled vehicle, columns as :func:`local_labels`.

    Differentiable in positions and speeds, and through ``lateral`` where the lane shows (lane + y / W). Other
    controlled vehicles that are not there, or on another road, are shown ``FAR`` ahead; rows of slots that hold no
    vehicle are 0.
    """
    slots = simulator.fleet.slots
    network, count = simulator.network, len(slots)
    t = network.tables(state.position.dtype, state.position.device)
    lanes = network.max_lanes
    lane_all = state.lane.clamp(min=0)
    speed = state.speed[:, slots]
    columns = [((speed - (config.target_speed or 0.0)) / config.speed_scale)[..., None]]

    # Place along the road: closed chains of lanes are measured the short way round.
    along_all = t.offset[lane_all] + state.position
    along, lane = along_all[:, slots], lane_all[:, slots]
    index = t.number[lane]
    across = index + state.lateral[:, slots] / t.width[lane]

    if lanes > 1:
        columns += [_soft_one_hot(index, state.lateral[:, slots] / t.width[lane], lanes)]
        columns += [(state.cooldown[:, slots] / 3.0)[..., None]]

    ahead, on_my_road = ahead_of(along, lane, along, lane, network, t)  # [B, C, C] of vehicle j ahead of i
    itself = torch.eye(count, dtype=torch.bool, device=lane.device)
    active = state.active[:, slots]
    seen = on_my_road & active[:, None, :]
    ahead = torch.where(seen, ahead, FAR)
    sideways = torch.where(seen, across[:, None, :] - across[:, :, None], 0.0)
    nearest = ahead.detach().abs().masked_fill(itself, torch.inf).argsort(dim=2, stable=True)[..., : count - 1]
    shown = nearest[..., : config.others]
    pair = [ahead.gather(2, shown) / config.distance_scale]
    if lanes > 1:
        pair.append(sideways.gather(2, shown) / (lanes - 1))
    others = torch.stack(pair, -1).flatten(2)
    missing = (config.others - shown.shape[-1]) * len(pair)
    columns.append(torch.nn.functional.pad(others, (0, missing)) if missing else others)

    human = torch.ones(state.vehicles, dtype=torch.bool, device=lane.device).index_fill(0, slots.to(lane.device), False)
    with torch.no_grad():  # [B, C, N]: how far behind, and who may be meant at all
        before, comes = ahead_of(along, lane, along_all, lane_all, network, t)
        near = (before < 0.0) & (before > -config.distance_scale) & (human & state.active)[:, None, :] & comes
        index_all = torch.where(state.lane >= 0, t.number[lane_all], -9)[:, None, :] - index[:, :, None]
        beside = (ahead.abs() < config.beside_distance) & ~itself & seen
        other_index = index[:, None, :] - index[:, :, None]
    for k, side in enumerate(_SIDES) if lanes > 1 else ((1, "own"),):
        gap, rear = neighbors.gap[:, slots, k], neighbors.follower_gap[:, slots, k]
        exists = torch.ones_like(lane, dtype=torch.bool)
        if side != "own":
            exists = (t.right if side == "right" else t.left)[lane] >= 0
        with torch.no_grad():
            approaching = torch.where(near & (index_all == k - 1), state.speed[:, None, :], -torch.inf)
            fastest, who = approaching.max(2)
            has_threat = torch.isfinite(fastest)
        threat = torch.where(has_threat, state.speed.gather(1, who) - speed, 0.0)
        block = [exists.to(speed.dtype)] if lanes > 1 else []
        block += [
            bounded(gap / config.gap_scale),
            bounded(rear / config.gap_scale),
            -neighbors.closing_speed[:, slots, k] / config.speed_scale,
            neighbors.follower_closing_speed[:, slots, k] / config.speed_scale,
            (beside & (other_index == k - 1)).any(-1).to(speed.dtype),
            threat / config.speed_scale,
        ]
        columns.append(torch.stack(block, -1))
    return torch.where(active[..., None], torch.cat(columns, -1), 0.0)


def _soft_one_hot(index: Tensor, offset: Tensor, lanes: int) -> Tensor:
    """One-hot of the lane with the central slope of hat functions in ``offset`` (in lanes)."""
    k = torch.arange(lanes, device=index.device)
    hot = (index[..., None] == k).to(offset.dtype)
    slope = 0.5 * ((index[..., None] + 1 == k).to(offset.dtype) - (index[..., None] - 1 == k).to(offset.dtype))
    return hot + (offset - offset.detach())[..., None] * slope
