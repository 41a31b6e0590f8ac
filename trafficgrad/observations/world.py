"""Observation ``world``: where every vehicle is and how it moves, seen from the first controlled one."""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.observations.distances import offsets
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState


def world_labels(vehicles: int) -> tuple[str, ...]:
    """Label of every column of :func:`observe_world`."""
    blocks = ("ahead [m]", "to the left [m]", "speed along [m/s]", "speed across [m/s]")
    return tuple(f"vehicle {n}: {block}" for block in blocks for n in range(vehicles))


def observe_world(state: TrafficState, simulator: Simulator) -> Tensor:
    """[B, 4 N]: every vehicle's centre relative to the first controlled one's, and its velocity (Son et al. 2023)."""
    ahead, aside, _ = offsets(state, simulator)
    along, across = state.speed * torch.cos(state.heading), state.speed * torch.sin(state.heading)
    return torch.cat([ahead[:, 0], aside[:, 0], along, across], -1)
