"""Controllers of single vehicles from the literature, which see the vehicle ahead and nothing else.

They command a speed or an acceleration; what is returned is an acceleration within ``bounds``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState

_FAR = 1000.0  # m, gap behind nobody


def _seen(simulator: Simulator, state: TrafficState) -> tuple[Tensor, Tensor, Tensor]:
    """Own speed, gap and leader's speed of the controlled vehicles, [B, C]; far ahead and as fast behind nobody."""
    slots = simulator.fleet.slots
    around = simulator.neighbors(state)
    speed, gap = state.speed[:, slots], around.gap[:, slots, 1]
    return speed, gap.clamp(max=_FAR), speed - around.closing_speed[:, slots, 1]


@dataclass(frozen=True)
class FollowerStopper:
    """Drive ``target``, and as much less as the vehicle ahead demands: the gap is kept above one of three parabolas.

    Reference: R. E. Stern et al., "Dissipation of stop-and-go waves via control of autonomous vehicles: field
    experiments", Transportation Research Part C 89 (2018) 205 (arXiv 1705.01693).
    """

    simulator: Simulator
    target: float  # m/s
    gaps: tuple[float, float, float] = (4.5, 5.25, 6.0)  # m, at equal speeds: stop, go along, go free
    decelerations: tuple[float, float, float] = (1.5, 1.0, 0.5)  # m/s2, that widen them when the leader is slower
    bounds: tuple[float, float] = (-3.0, 2.0)  # m/s2
    response: float = 1.0  # s, in which the commanded speed is approached

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        speed, gap, ahead = _seen(self.simulator, state)
        slower = (ahead - speed).clamp(max=0.0)
        first, second, third = (
            gap_0 + slower**2 / (2.0 * d) for gap_0, d in zip(self.gaps, self.decelerations, strict=True)
        )
        along = ahead.clamp(min=0.0, max=self.target)
        near = along * (gap - first) / (second - first)
        far = along + (self.target - along) * (gap - second) / (third - second)
        wanted = torch.where(
            gap <= first, 0.0, torch.where(gap <= second, near, torch.where(gap <= third, far, self.target))
        )
        return Action(((wanted - speed) / self.response).clamp(*self.bounds))


class PISaturation:
    """Drive the average of one's own speed over the last while, a little faster where the gap is wide.

    It learns the speed of uniform flow from the traffic itself, so it has a memory; a clock that is set back, a new
    episode, empties it. The distance that it calls safe grows with the closing speed.

    Reference: as :class:`FollowerStopper`.
    """

    def __init__(
        self,
        simulator: Simulator,
        bounds: tuple[float, float] = (-3.0, 2.0),
        averaged: float = 38.0,
        catch_up: float = 1.0,
        gaps: tuple[float, float] = (7.0, 30.0),
        response: float = 1.0,
    ) -> None:
        """``averaged``: s. ``catch_up``: m/s, added at the wider of the two ``gaps``, m. ``response``: s, in which the
        commanded speed is approached.
        """
        self.simulator, self.bounds, self.averaged = simulator, bounds, averaged
        self.catch_up, self.gaps, self.response = catch_up, gaps, response
        self._speeds: list[tuple[Tensor, Tensor]] = []  # time [B] and speed [B, C] of the past
        self._command: Tensor | None = None  # [B, C] m/s

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        speed, gap, ahead = _seen(self.simulator, state)
        if self._speeds and (
            self._speeds[-1][1].shape != speed.shape or not bool((state.time > self._speeds[-1][0]).all())
        ):
            self._speeds, self._command = [], None
        self._speeds = [(t, v) for t, v in self._speeds if bool((state.time - t < self.averaged).any())]
        self._speeds.append((state.time, speed))
        usual = torch.stack([v for _, v in self._speeds]).mean(0)
        low, high = self.gaps
        target = usual + self.catch_up * ((gap - low) / (high - low)).clamp(0.0, 1.0)
        safe = (2.0 * (speed - ahead)).clamp(min=4.0)
        trust = ((gap - safe) / 2.0).clamp(0.0, 1.0)
        renewed = 1.0 - 0.5 * trust
        before = speed if self._command is None else self._command
        self._command = renewed * (trust * target + (1.0 - trust) * ahead) + (1.0 - renewed) * before
        return Action(((self._command - speed) / self.response).clamp(*self.bounds))


@dataclass(frozen=True)
class AdaptiveCruise:
    """Adaptive cruise control: keep a time gap, or the desired speed where nobody is near.

    a = min(speed_gain (target - v), gap_gain (gap - standstill - headway v) + closing_gain (v_ahead - v))

    Reference: V. Milanés, S. E. Shladover, "Modeling cooperative and autonomous adaptive cruise control dynamic
    responses using experimental data", Transportation Research Part C 48 (2014) 285.
    """

    simulator: Simulator
    target: float  # m/s
    headway: float = 1.1  # s
    standstill: float = 2.0  # m
    gap_gain: float = 0.23  # 1/s2
    closing_gain: float = 0.07  # 1/s
    speed_gain: float = 0.4  # 1/s
    bounds: tuple[float, float] = (-3.0, 2.0)  # m/s2

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        speed, gap, ahead = _seen(self.simulator, state)
        error = gap - self.standstill - self.headway * speed
        following = self.gap_gain * error + self.closing_gain * (ahead - speed)
        return Action(torch.minimum(following, self.speed_gain * (self.target - speed)).clamp(*self.bounds))


@dataclass(frozen=True)
class CooperativeCruise:
    """Cooperative adaptive cruise control: a short time gap and high gains, since the vehicle ahead tells its speed.

    The commanded speed changes by gap_gain e + error_gain de/dt in every ``step``, e = gap - standstill - headway v.
    Here that is an acceleration, so that it does not depend on how often it is asked for.

    Reference: as :class:`AdaptiveCruise`.
    """

    simulator: Simulator
    target: float  # m/s
    headway: float = 0.6  # s
    standstill: float = 2.0  # m
    gap_gain: float = 0.45  # 1/s
    error_gain: float = 0.25  # -
    step: float = 0.1  # s, for which the gains hold
    speed_gain: float = 0.4  # 1/s
    bounds: tuple[float, float] = (-3.0, 2.0)  # m/s2

    def __call__(self, state: TrafficState) -> Action:
        """Action of the controlled vehicles."""
        speed, gap, ahead = _seen(self.simulator, state)
        error = gap - self.standstill - self.headway * speed
        # de/dt = (v_ahead - v) - headway a, in which a is what is asked for: solved for it.
        gain = self.error_gain / self.step
        following = (self.gap_gain / self.step * error + gain * (ahead - speed)) / (1.0 + gain * self.headway)
        return Action(torch.minimum(following, self.speed_gain * (self.target - speed)).clamp(*self.bounds))
