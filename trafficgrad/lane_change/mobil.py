"""MOBIL: minimising overall braking induced by lane changes.

A. Kesting, M. Treiber, D. Helbing: General lane-changing model MOBIL for car-following models,
Transportation Research Record 1999 (2007) 86.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.lane_change.base import LEFT, RIGHT, LaneChange, LaneEvaluation
from trafficgrad.state import PerDriver

SIDES = ("both", "alternate")


@dataclass(frozen=True)
class MOBIL(LaneChange):
    """Change to lane k when it is safe and U_k = A_k - A_0 + p [(N'_k - N_k) + (O' - O)] - threshold - k bias > 0.

    Safe: both gaps at least ``min_gap`` and the new follower's acceleration N'_k >= -``safe_deceleration``.
    ``right_bias`` makes the right lane (k = -1) more attractive and the left one less. ``sides = "alternate"``
    considers one side a step, by the parity of round(time / dt), left at even ones: it stops the ping-pong of vehicles
    that look both ways in every step.
    """

    politeness: PerDriver = 0.0  # p, -
    threshold: PerDriver = 0.1  # m/s2
    safe_deceleration: PerDriver = 3.0  # m/s2
    right_bias: PerDriver = 0.0  # m/s2
    cooldown: PerDriver = 3.0  # s
    min_gap: PerDriver = 0.5  # m
    sides: Literal["both", "alternate"] = "both"

    def __post_init__(self) -> None:
        if self.sides not in SIDES:
            raise TrafficGradError(
                f"MOBIL.sides: unknown {self.sides!r}{nearest_name(str(self.sides), SIDES)}; valid are both, alternate"
            )
        for name in ("safe_deceleration", "cooldown", "min_gap"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and value < 0:
                raise TrafficGradError(f"MOBIL.{name} must be >= 0, got {value}")

    def sides_at(self, time: Tensor, dt: float) -> Tensor:
        """Both sides (right, left), or by parity of the step's number left (even) or right (odd)."""
        if self.sides == "both":
            return torch.tensor([RIGHT, LEFT], device=time.device).expand(time.shape[0], 2)
        odd = torch.round(time.detach() / dt).long() % 2
        return (LEFT - (LEFT - RIGHT) * odd)[:, None]

    def feasible(self, evaluation: LaneEvaluation) -> Tensor:
        """Judged on the snapshot; see the class."""
        e, m = evaluation, self.beside()
        roomy = (e.gap >= m.min_gap) & (e.follower_gap >= m.min_gap)
        return e.exists & roomy & (e.follower_with >= -m.safe_deceleration)

    def incentive(self, evaluation: LaneEvaluation) -> Tensor:
        """U_k; see the class."""
        e, m = evaluation, self.beside()
        incentive = e.own_there - e.own[..., None] - m.threshold
        if isinstance(self.politeness, Tensor) or self.politeness != 0.0:
            old = (e.old_follower_without - e.old_follower_with)[..., None]
            incentive = incentive + m.politeness * (e.follower_with - e.follower_without + old)
        if isinstance(self.right_bias, Tensor) or self.right_bias != 0.0:
            incentive = incentive - (e.sides[:, None, :] - 1).to(incentive.dtype) * m.right_bias
        return incentive
