"""Hand-written controllers, the measure of learnt ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState


@dataclass(frozen=True)
class KeepLane:
    """Cruise at ``target`` m/s and keep the lane: a = clip((target - v) / 1 s) to ``bounds``."""

    simulator: Simulator
    target: float
    bounds: tuple[float, float] = (-3.0, 2.0)

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        speed = state.speed[:, self.simulator.fleet.slots]
        return Action((self.target - speed).clamp(*self.bounds))


@dataclass(frozen=True)
class FanOutAndAlign:
    """Spread over the lanes of a closed road and drive side by side: a rolling roadblock.

    The vehicles, ordered by lane (ties: by their number), are given the lanes from right to left and ask for the next
    lane on their way. Their target speed is ``target`` plus ``gain`` times the distance to their circular mean place,
    at most ``correction``.
    """

    simulator: Simulator
    target: float
    gain: float = 0.05  # 1/s
    correction: float = 4.0  # m/s
    bounds: tuple[float, float] = (-3.0, 2.0)

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        slots, network = self.simulator.fleet.slots, self.simulator.network
        t = network.tables(state.position.dtype, state.position.device)
        lane = state.lane[:, slots].clamp(min=0)
        index, length = t.number[lane], t.chain_length[lane]
        number = index.argsort(dim=1, stable=True).argsort(dim=1)
        wanted = (number * network.max_lanes) // len(slots)
        angle = 2 * math.pi * (t.offset[lane] + state.position[:, slots]) / length
        centre = torch.atan2(angle.sin().sum(1, keepdim=True), angle.cos().sum(1, keepdim=True))
        behind = torch.remainder(centre - angle + math.pi, 2 * math.pi) - math.pi
        speed = self.target + (self.gain * behind * length / (2 * math.pi)).clamp(-self.correction, self.correction)
        acceleration = (speed - state.speed[:, slots]).clamp(*self.bounds)
        return Action(acceleration, (wanted - index).clamp(-1, 1).to(acceleration.dtype))
