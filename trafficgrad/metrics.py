"""Traffic measures of states and trajectories; all differentiable where the quantity is.

Functions accept a :class:`TrafficState` (fields [B, N]) or a :class:`Trajectory` (fields [T+1, B, N]) and reduce over
vehicles, so the result is [B] or [T+1, B]. ``vehicles`` [N] bool restricts them to some slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.state import Neighbors, TrafficState
from trafficgrad.trajectory import Trajectory

Record = TrafficState | Trajectory


def _weights(record: Record, vehicles: Tensor | None) -> Tensor:
    counted = record.active if vehicles is None else record.active & vehicles
    weights = counted.to(record.speed.dtype)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1.0)


def mean_speed(record: Record, vehicles: Tensor | None = None) -> Tensor:
    """Mean speed over vehicles, m/s."""
    return (record.speed * _weights(record, vehicles)).sum(-1)


def speed_deviation(record: Record, vehicles: Tensor | None = None) -> Tensor:
    """Standard deviation of the vehicles' speeds at one time, m/s (gradient 0 where all are equal)."""
    weights = _weights(record, vehicles)
    mean = (record.speed * weights).sum(-1, keepdim=True)
    variance = ((record.speed - mean) ** 2 * weights).sum(-1)
    spread = variance > 0.0
    return torch.where(spread, torch.where(spread, variance, 1.0).sqrt(), 0.0)


def speed_error(record: Record, target: float, vehicles: Tensor | None = None) -> Tensor:
    """Mean over vehicles of |v - target|, m/s."""
    return ((record.speed - target).abs() * _weights(record, vehicles)).sum(-1)


def density(record: Record, network: RoadNetwork) -> Tensor:
    """Vehicles per metre and lane."""
    return record.active.sum(-1) / float(network.lane_length.sum())


def flow(record: Record, network: RoadNetwork) -> Tensor:
    """Vehicles per second and lane: density times space-mean speed."""
    return density(record, network) * mean_speed(record)


def lane_changes(trajectory: Trajectory, network: RoadNetwork, vehicles: Tensor | None = None) -> Tensor:
    """Number of lane changes over the trajectory, [B]; going on to the next edge is none."""
    index = network.tables(torch.float64, trajectory.lane.device).number[trajectory.lane.clamp(min=0)]
    changed = (index[1:] != index[:-1]) & trajectory.active[1:]
    changed = changed if vehicles is None else changed & vehicles
    return changed.sum((0, 2))


def overlaps(neighbors: Neighbors) -> Tensor:
    """Vehicles whose front is inside the vehicle ahead in their own lane, [B, N] bool: a collision of the two."""
    return (neighbors.leader[..., 1] >= 0) & (neighbors.gap[..., 1] < 0.0)
