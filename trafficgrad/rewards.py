"""Reward terms: pure functions of (state, action, next state, neighbours of the next state), weighted in YAML.

A term returns [B] per simulator step; an environment step averages them over its simulator steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trafficgrad import metrics
from trafficgrad.scenario_sections.task import (
    AccelerationReward,
    CollisionReward,
    MeanSpeedReward,
    PaceReward,
    RewardTerm,
    SpeedDeviationReward,
)
from trafficgrad.state import Action, Neighbors, TrafficState

RewardFunction = Callable[[TrafficState, Action | None, TrafficState, Neighbors], Tensor]


def reward_terms(terms: Sequence[RewardTerm], human: Tensor) -> dict[str, tuple[float, RewardFunction]]:
    """Weight and function of each configured term. ``human`` [N] bool: slots of the ordinary vehicles."""
    return {term.kind: (term.weight, _function(term, human)) for term in terms}


def _function(term: RewardTerm, human: Tensor) -> RewardFunction:
    match term:
        case PaceReward():
            return lambda state, action, after, around: _pace(after, human, term.target)
        case MeanSpeedReward():
            return lambda state, action, after, around: metrics.mean_speed(after) / term.scale
        case SpeedDeviationReward():
            return lambda state, action, after, around: -metrics.speed_deviation(after) / term.scale
        case AccelerationReward():
            return lambda state, action, after, around: _effort(state, action, term.scale)
        case CollisionReward():
            return lambda state, action, after, around: -metrics.overlaps(around).any(-1).to(after.speed.dtype)


def _pace(after: TrafficState, human: Tensor, target: float) -> Tensor:
    missed = metrics.speed_error(after, target, human) / target
    return torch.where(missed < 1.0, 1.0 - missed, 0.0)


def _effort(state: TrafficState, action: Action | None, scale: float) -> Tensor:
    if action is None:
        return state.speed.new_zeros(state.worlds)
    return -((action.acceleration / scale) ** 2).mean(-1)
