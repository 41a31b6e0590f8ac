"""The Intelligent Driver Model.

M. Treiber, A. Hennecke, D. Helbing: Congested traffic states in empirical observations and microscopic simulations,
Phys. Rev. E 62 (2000) 1805.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trafficgrad.car_following.base import CarFollowing
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.state import PerDriver

SMALLEST_GAP = 0.001  # m, in the formula; SUMO's value
DESIRED_GAPS = ("sumo", "paper")


@dataclass(frozen=True)
class IDM(CarFollowing):
    """a [1 - (v / v0)^delta - (s* / s)^2] with s* = s0 + v T + v dv / (2 sqrt(a b)).

    ``desired_gap = "sumo"`` bounds the dynamic part below, s* = s0 + max(0, ...), as Treiber & Kesting's book and SUMO
    do; ``"paper"`` bounds the whole, s* = max(0, ...), as the original GI-PPO system does. The gap s is bounded below
    at 0.001 m. Gradients are exact, 0 on a bounded side.
    """

    desired_speed: PerDriver = 30.0  # v0, m/s
    time_headway: PerDriver = 1.0  # T, s
    max_acceleration: PerDriver = 1.0  # a, m/s2
    comfortable_deceleration: PerDriver = 1.5  # b, m/s2
    min_gap: PerDriver = 2.0  # s0, m
    exponent: PerDriver = 4.0  # delta, -
    desired_gap: Literal["sumo", "paper"] = "sumo"

    def __post_init__(self) -> None:
        if self.desired_gap not in DESIRED_GAPS:
            raise TrafficGradError(
                f"IDM.desired_gap: unknown {self.desired_gap!r}{nearest_name(str(self.desired_gap), DESIRED_GAPS)}; "
                "valid are sumo, paper"
            )
        for name in (
            "desired_speed",
            "time_headway",
            "max_acceleration",
            "comfortable_deceleration",
            "min_gap",
            "exponent",
        ):
            value = getattr(self, name)
            lowest = 0.0 if name in ("time_headway", "min_gap") else None
            if isinstance(value, (int, float)) and (value < 0.0 if lowest is not None else not value > 0.0):
                raise TrafficGradError(f"IDM.{name} must be {'>= 0' if lowest is not None else '> 0'}, got {value}")

    def acceleration(self, speed: Tensor, gap: Tensor, closing_speed: Tensor) -> Tensor:
        """See the class; shapes broadcast. Without a leader pass gap = +inf and closing_speed = 0."""
        a, b = self.max_acceleration, self.comfortable_deceleration
        dynamic = speed * self.time_headway + speed * closing_speed / (2.0 * (a * b) ** 0.5)
        if self.desired_gap == "sumo":
            desired = self.min_gap + torch.where(dynamic > 0.0, dynamic, 0.0)
        else:
            whole = self.min_gap + dynamic
            desired = torch.where(whole > 0.0, whole, 0.0)
        bounded = torch.where(gap > SMALLEST_GAP, gap, SMALLEST_GAP)
        relative_speed, relative_gap = speed / self.desired_speed, desired / bounded
        return a * (1.0 - _power(relative_speed, self.exponent) - relative_gap * relative_gap)


def _power(x: Tensor, exponent: PerDriver) -> Tensor:
    if isinstance(exponent, Tensor) or exponent != 4.0:
        return x**exponent
    square = x * x
    return square * square
