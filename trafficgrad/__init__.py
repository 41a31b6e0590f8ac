"""Differentiable microscopic traffic simulation in PyTorch, and gradient-informed reinforcement learning on it.

The simulator and its types are imported here; environments and agents when they are first asked for, so that a
controller or a calibration needs torch, numpy and networkx only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trafficgrad.car_following import IDM, CarFollowing
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import LaneGradient
from trafficgrad.lane_change import MOBIL, LaneChange, LaneChoice
from trafficgrad.network import RoadNetwork, ring, straight
from trafficgrad.scenario_config import load_scenario
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, Neighbors, TrafficState
from trafficgrad.trajectory import Trajectory

if TYPE_CHECKING:
    from trafficgrad.agents.base import Agent
    from trafficgrad.agents.train import train
    from trafficgrad.envs.base import DifferentiableEnv, Transition
    from trafficgrad.envs.traffic import TrafficEnv

__version__ = "0.1.0"

__all__ = [
    "IDM",
    "MOBIL",
    "Action",
    "Agent",
    "CarFollowing",
    "DifferentiableEnv",
    "Fleet",
    "LaneChange",
    "LaneChoice",
    "LaneGradient",
    "Neighbors",
    "RoadNetwork",
    "Simulator",
    "TrafficEnv",
    "TrafficGradError",
    "TrafficState",
    "Trajectory",
    "Transition",
    "load_scenario",
    "ring",
    "straight",
    "train",
]

_LATER = {
    "Agent": "trafficgrad.agents.base",
    "DifferentiableEnv": "trafficgrad.envs.base",
    "TrafficEnv": "trafficgrad.envs.traffic",
    "Transition": "trafficgrad.envs.base",
    "train": "trafficgrad.agents.train",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'trafficgrad' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
