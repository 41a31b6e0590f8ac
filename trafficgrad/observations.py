"""What controlled vehicles see: rows of numbers about themselves and their surroundings, each with a label."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.car_following.base import look_up
from trafficgrad.scenario_sections.task import LocalObservation, ObservationConfig, WorldObservation
from trafficgrad.simulator import Simulator
from trafficgrad.state import Neighbors, TrafficState
from trafficgrad.traffic_scenario import TrafficScenario

_SIDES = ("right", "own", "left")


def observation_labels(scenario: TrafficScenario, simulator: Simulator) -> tuple[str, ...]:
    """Label of every column of :func:`observe`: of one row of a shared observation, or of all rows joined."""
    config = scenario.observation
    if isinstance(config, WorldObservation):
        return world_labels(scenario.total)
    labels = local_labels(config, simulator.network.max_lanes)
    every = range(len(simulator.fleet.slots))
    return labels if config.shared else tuple(f"{c}: {label}" for c in every for label in labels)


def observe(state: TrafficState, neighbors: Neighbors, simulator: Simulator, config: ObservationConfig) -> Tensor:
    """[B, C, O] for a shared observation, else [B, O], as the scenario's ``observation`` section says."""
    if isinstance(config, WorldObservation):
        return observe_world(state, simulator)
    rows = observe_local(state, neighbors, simulator, config)
    return rows if config.shared else rows.flatten(1)


def world_labels(vehicles: int) -> tuple[str, ...]:
    """Label of every column of :func:`observe_world`."""
    blocks = ("ahead [m]", "to the left [m]", "speed along [m/s]", "speed across [m/s]")
    return tuple(f"vehicle {n}: {block}" for block in blocks for n in range(vehicles))


def observe_world(state: TrafficState, simulator: Simulator) -> Tensor:
    """[B, 4 N]: every vehicle's centre relative to the first controlled one's, and its velocity (Son et al. 2023)."""
    ahead, aside = offsets(state, simulator)
    along, across = state.speed * torch.cos(state.heading), state.speed * torch.sin(state.heading)
    return torch.cat([ahead[:, 0], aside[:, 0], along, across], -1)


def offsets(state: TrafficState, simulator: Simulator) -> tuple[Tensor, Tensor]:
    """How far every vehicle's centre is ahead of, and to the left of, each controlled one's; two [B, C, N], m.

    On a closed road the short way round.
    """
    slots = simulator.fleet.slots
    t = simulator.network.tables(state.position.dtype, state.position.device)
    lane = state.lane.clamp(min=0)
    centre = t.offset[lane] + state.position - 0.5 * look_up(simulator.fleet.length, state.driver)
    across = t.number[lane] * t.width[lane] + state.lateral
    circumference = t.chain_length[lane[:, slots]][..., None]
    ahead = _around(centre[:, None, :] - centre[:, slots, None], circumference)
    return ahead, across[:, None, :] - across[:, slots, None]


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

    Differentiable in positions and speeds, and through ``lateral`` where the lane shows (lane + y / W).
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
    circumference = t.chain_length[lane]
    index = t.number[lane]
    across = index + state.lateral[:, slots] / t.width[lane]

    if lanes > 1:
        columns += [_soft_one_hot(index, state.lateral[:, slots] / t.width[lane], lanes)]
        columns += [(state.cooldown[:, slots] / 3.0)[..., None]]

    ahead = _around(
        along[:, None, :] - along[:, :, None], circumference[:, :, None]
    )  # [B, C, C] of vehicle j ahead of i
    sideways = across[:, None, :] - across[:, :, None]
    itself = torch.eye(count, dtype=torch.bool, device=lane.device)
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
        behind = _around(along[:, :, None] - along_all[:, None, :], circumference[:, :, None])
        near = (behind > 0.0) & (behind < config.distance_scale) & (human & state.active)[:, None, :]
        index_all = torch.where(state.lane >= 0, t.number[lane_all], -9)[:, None, :] - index[:, :, None]
        beside = (ahead.abs() < config.beside_distance) & ~itself
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
            _bounded(gap / config.gap_scale),
            _bounded(rear / config.gap_scale),
            -neighbors.closing_speed[:, slots, k] / config.speed_scale,
            neighbors.follower_closing_speed[:, slots, k] / config.speed_scale,
            (beside & (other_index == k - 1)).any(-1).to(speed.dtype),
            threat / config.speed_scale,
        ]
        columns.append(torch.stack(block, -1))
    return torch.cat(columns, -1)


def _bounded(x: Tensor) -> Tensor:
    return torch.where(x < 1.0, x, 1.0)


def _around(distance: Tensor, circumference: Tensor) -> Tensor:
    """Signed distance the short way round; an open road (infinite circumference) leaves it."""
    turns = torch.where(torch.isfinite(circumference), torch.round(distance.detach() / circumference), 0.0)
    return torch.where(turns == 0.0, distance, distance - turns * torch.where(turns == 0.0, 0.0, circumference))


def _soft_one_hot(index: Tensor, offset: Tensor, lanes: int) -> Tensor:
    """One-hot of the lane with the central slope of hat functions in ``offset`` (in lanes)."""
    k = torch.arange(lanes, device=index.device)
    hot = (index[..., None] == k).to(offset.dtype)
    slope = 0.5 * ((index[..., None] + 1 == k).to(offset.dtype) - (index[..., None] - 1 == k).to(offset.dtype))
    return hot + (offset - offset.detach())[..., None] * slope
