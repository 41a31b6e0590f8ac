"""Hand-written controllers, the measure of learnt ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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
class Ramp:
    """A target speed that changes evenly from ``start`` at time 0 to its final value after ``duration``.

    Time is that of the state, which is 0 when an episode begins.
    """

    start: float  # m/s
    duration: float  # s

    def __call__(self, target: float, time: Tensor) -> Tensor:
        """The speed at ``time`` (s, any shape) on the way to ``target`` (m/s)."""
        return self.start + (target - self.start) * (time / self.duration).clamp(min=0.0, max=1.0)


@dataclass(frozen=True)
class KeepLaneAndAlign:
    """Keep the lane of a closed road, and drive as nearly side by side as that allows.

    The target speed is ``target`` (with ``ramp``, on the way to it) plus ``gain`` times the distance to the circular
    mean place of the controlled vehicles, at most ``correction``; a = clip((target speed - v) / 1 s) to ``bounds``.
    """

    simulator: Simulator
    target: float  # m/s
    gain: float = 0.05  # 1/s
    correction: float = 4.0  # m/s
    bounds: tuple[float, float] = (-3.0, 2.0)  # m/s2
    ramp: Ramp | None = None

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        slots = self.simulator.fleet.slots
        t = self.simulator.network.tables(state.position.dtype, state.position.device)
        lane = state.lane[:, slots].clamp(min=0)
        length = t.chain_length[lane]
        angle = 2 * math.pi * (t.offset[lane] + state.position[:, slots]) / length
        centre = torch.atan2(angle.sin().sum(1, keepdim=True), angle.cos().sum(1, keepdim=True))
        behind = torch.remainder(centre - angle + math.pi, 2 * math.pi) - math.pi
        target = self.target if self.ramp is None else self.ramp(self.target, state.time)[:, None]
        speed = target + (self.gain * behind * length / (2 * math.pi)).clamp(-self.correction, self.correction)
        return Action((speed - state.speed[:, slots]).clamp(*self.bounds))


@dataclass(frozen=True)
class FanOutAndAlign:
    """Spread over the lanes of a closed road and drive side by side: a rolling roadblock.

    The vehicles, ordered by lane (ties: by their number), are given the lanes from right to left and ask for the next
    lane on their way: vehicle q of C gets lane floor(q * lanes / C). Three on four lanes thus leave the left one open.
    Speeds are those of :class:`KeepLaneAndAlign`.
    """

    simulator: Simulator
    target: float  # m/s
    gain: float = 0.05  # 1/s
    correction: float = 4.0  # m/s
    bounds: tuple[float, float] = (-3.0, 2.0)  # m/s2
    ramp: Ramp | None = None

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        slots, network = self.simulator.fleet.slots, self.simulator.network
        t = network.tables(state.position.dtype, state.position.device)
        index = t.number[state.lane[:, slots].clamp(min=0)]
        number = index.argsort(dim=1, stable=True).argsort(dim=1)
        wanted = (number * network.max_lanes) // len(slots)
        align = KeepLaneAndAlign(self.simulator, self.target, self.gain, self.correction, self.bounds, self.ramp)
        acceleration = align(state).acceleration
        return Action(acceleration, (wanted - index).clamp(-1, 1).to(acceleration.dtype))
