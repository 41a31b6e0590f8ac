"""A controlled vehicle's lane request: granted where the gap is there and nobody must brake hard."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError
from trafficgrad.lane_change.base import LaneEvaluation

REQUEST_THRESHOLD = 1.0 / 3.0


@dataclass(frozen=True)
class LaneChoice:
    """Conditions under which a request is granted; the same for all controlled vehicles.

    Both gaps at least ``min_gap``, the new follower's car-following acceleration at least -``safe_deceleration``, the
    vehicle's own at least -``own_deceleration``, and ``cooldown`` over since its last change.
    """

    min_gap: float = 0.5  # m
    safe_deceleration: float = 4.0  # m/s2
    own_deceleration: float = 4.0  # m/s2
    cooldown: float = 3.0  # s

    def __post_init__(self) -> None:
        for name in ("min_gap", "safe_deceleration", "own_deceleration", "cooldown"):
            if getattr(self, name) < 0:
                raise TrafficGradError(f"LaneChoice.{name} must be >= 0, got {getattr(self, name)}")

    def feasible(self, evaluation: LaneEvaluation) -> Tensor:
        """[B, C, S] bool: a request to that side would be granted on the snapshot."""
        e = evaluation
        roomy = (e.gap >= self.min_gap) & (e.follower_gap >= self.min_gap)
        safe = (e.follower_with >= -self.safe_deceleration) & (e.own_there >= -self.own_deceleration)
        return e.exists & roomy & safe


def requested_direction(request: Tensor) -> Tensor:
    """-1, 0 or +1 (int64) for requests below -1/3, between, above 1/3."""
    return (request > REQUEST_THRESHOLD).long() - (request < -REQUEST_THRESHOLD).long()


def choice_logits(request: Tensor, temperature: float) -> Tensor:
    """-(u - c_k)^2 / (2 tau_u) with c_k = 2k/3 for k = right, own, left; shape [..., 3]."""
    centres = torch.tensor([-2.0 / 3.0, 0.0, 2.0 / 3.0], dtype=request.dtype, device=request.device)
    return -((request[..., None] - centres) ** 2) / (2.0 * temperature)
