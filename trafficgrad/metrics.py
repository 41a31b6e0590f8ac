"""Traffic measures of states and trajectories; all differentiable where the quantity is.

Functions accept a :class:`TrafficState` (fields [B, N]) or a :class:`Trajectory` (fields [T+1, B, N]) and reduce over
vehicles, so the result is [B] or [T+1, B]. ``vehicles`` [N] bool restricts them to some slots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.errors import TrafficGradError
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.state import Neighbors, TrafficState
from trafficgrad.trajectory import Trajectory

Record = TrafficState | Trajectory
STANDING = 1.0  # m/s: who is slower counts as standing


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


def standing(record: Record, vehicles: Tensor | None = None, below: float = STANDING) -> Tensor:
    """Share of the vehicles that are slower than ``below`` m/s; a step function, so it carries no gradient."""
    return ((record.speed < below) * _weights(record, vehicles)).sum(-1)


def density(record: Record, network: RoadNetwork) -> Tensor:
    """Vehicles per metre and lane."""
    return record.active.sum(-1) / float(network.lane_length.sum())


def flow(record: Record, network: RoadNetwork) -> Tensor:
    """Vehicles per second and lane: density times space-mean speed."""
    return density(record, network) * mean_speed(record)


def changed_lanes(before: Record, after: Record, network: RoadNetwork) -> Tensor:
    """Which vehicles changed lane from one record to the next, bool like the records' fields.

    It is the same vehicle on the same edge with another lane number: going on to another edge is no change, nor is a
    slot that another vehicle took. On roads that only go on (``network.is_unbranched``) an edge's end may lie between.
    """
    t = network.tables(torch.float64, after.lane.device)
    old, new = before.lane.clamp(min=0), after.lane.clamp(min=0)
    changed = (t.number[new] != t.number[old]) & (after.vehicle_id == before.vehicle_id)
    return changed if network.is_unbranched else changed & (t.edge[new] == t.edge[old])


def lane_changes(trajectory: Trajectory, network: RoadNetwork, vehicles: Tensor | None = None) -> Tensor:
    """Number of lane changes over the trajectory, [B]; see :func:`changed_lanes`."""
    states = trajectory.states
    earlier, later = tree.index(states, slice(0, -1)), tree.index(states, slice(1, None))
    changed = changed_lanes(earlier, later, network) & later.active
    changed = changed if vehicles is None else changed & vehicles
    return changed.sum((0, 2))


def wave_speed(trajectory: Trajectory, network: RoadNetwork, vehicles: Tensor | None = None) -> Tensor:
    """Speed at which the slow region moves along a closed road, m/s, [B]; negative = against the traffic.

    It is followed by the phase of the first Fourier mode of the speeds over the road,
    z(t) = mean over vehicles of (v - mean v) exp(2 pi i x / L), whose turns are counted from record to record; the
    result is the slope of a line fitted to them. It means something where one slow region is on the road, and where it
    moves by less than half the road between two records.

    Parameters:
        trajectory: fields [T+1, B, N]. network: closed roads, all lanes of a world's road equally long.
        vehicles: [N] bool, whose speeds count; default: all.

    Raises:
        TrafficGradError: an open road, or fewer than two records.
    """
    if not network.is_closed:
        raise TrafficGradError("wave_speed needs a closed road, such as a ring: on an open one no wave comes round")
    if trajectory.steps < 1:
        raise TrafficGradError("wave_speed needs a trajectory of at least one step")
    t = network.tables(trajectory.speed.dtype, trajectory.speed.device)
    lane = trajectory.lane.clamp(min=0)
    length = t.chain_length[lane]
    angle = 2.0 * math.pi * (t.offset[lane] + trajectory.position) / length
    weights = _weights(trajectory, vehicles)
    slow = (trajectory.speed - mean_speed(trajectory, vehicles)[..., None]) * weights
    real, imaginary = (slow * angle.cos()).sum(-1), (slow * angle.sin()).sum(-1)
    across = real[:-1] * imaginary[1:] - imaginary[:-1] * real[1:]
    along = real[:-1] * real[1:] + imaginary[:-1] * imaginary[1:]
    turned = torch.cat([torch.zeros_like(across[:1]), torch.atan2(across, along).cumsum(0)])
    time = trajectory.dt * torch.arange(len(turned), dtype=turned.dtype, device=turned.device)[:, None]
    time = time - time.mean()
    rate = (time * turned).sum(0) / (time * time).sum()
    return rate * (length[0] * weights[0]).sum(-1) / (2.0 * math.pi)


def overlaps(neighbors: Neighbors) -> Tensor:
    """Vehicles whose front is inside the vehicle ahead in their own lane, [B, N] bool: a collision of the two."""
    return (neighbors.leader[..., 1] >= 0) & (neighbors.gap[..., 1] < 0.0)
