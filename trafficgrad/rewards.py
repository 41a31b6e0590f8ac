"""Reward terms: pure functions of (state, action, next state, overlapping, simulator), weighted in YAML.

In ``overlapping`` [B] bool somebody is within the vehicle ahead in the next state. A term returns [B] per simulator
step; an environment step averages them over its simulator steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trafficgrad import metrics
from trafficgrad.car_following.base import look_up
from trafficgrad.scenario_sections.task import (
    AccelerationReward,
    CollisionReward,
    DelayReward,
    MeanSpeedReward,
    OutflowReward,
    PaceReward,
    RewardTerm,
    SpeedDeviationReward,
    WaitingReward,
)
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState

RewardFunction = Callable[[TrafficState, Action | None, TrafficState, Tensor, Simulator], Tensor]
WeightedReward = tuple[float, RewardFunction]


def reward_terms(terms: Sequence[RewardTerm], human: Tensor) -> dict[str, WeightedReward]:
    """Weight and function of each configured term. ``human`` [N] bool: slots of the ordinary vehicles."""
    return {term.kind: (term.weight, _function(term, human)) for term in terms}


def _function(term: RewardTerm, human: Tensor) -> RewardFunction:
    match term:
        case PaceReward():
            return lambda state, action, after, overlapping, simulator: _pace(after, human, term.target)
        case MeanSpeedReward():
            return lambda state, action, after, overlapping, simulator: metrics.mean_speed(after) / term.scale
        case SpeedDeviationReward():
            return lambda state, action, after, overlapping, simulator: -metrics.speed_deviation(after) / term.scale
        case AccelerationReward():
            return lambda state, action, after, overlapping, simulator: _effort(
                state, action, simulator.fleet.slots, term.scale
            )
        case CollisionReward():
            return lambda state, action, after, overlapping, simulator: -overlapping.to(after.speed.dtype)
        case DelayReward():
            return lambda state, action, after, overlapping, simulator: -_delay(after, simulator)
        case OutflowReward():
            return lambda state, action, after, overlapping, simulator: (
                _outflow(state, after, simulator.dt) / term.scale
            )
        case WaitingReward():
            return lambda state, action, after, overlapping, simulator: -_waiting(after) / term.scale


def _pace(after: TrafficState, human: Tensor, target: float) -> Tensor:
    missed = metrics.speed_error(after, target, human) / target
    return torch.where(missed < 1.0, 1.0 - missed, 0.0)


def _effort(state: TrafficState, action: Action | None, slots: Tensor, scale: float) -> Tensor:
    if action is None:
        return state.speed.new_zeros(state.worlds)
    there = state.active[:, slots].to(state.speed.dtype)
    return -((action.acceleration / scale) ** 2 * there).sum(-1) / there.sum(-1).clamp(min=1.0)


def _delay(after: TrafficState, simulator: Simulator) -> Tensor:
    """Mean over the vehicles of 1 - v / v_free, [B]."""
    free = look_up(simulator.car_following.desired_speed, after.driver)
    t = simulator.network.tables(after.speed.dtype, after.speed.device)
    limit = t.limit(after.lane.clamp(min=0)) * look_up(simulator.fleet.speed_factor, after.driver)
    free = torch.where(limit < free, limit, free)
    there = after.active.to(after.speed.dtype)
    return ((1.0 - after.speed / free) * there).sum(-1) / there.sum(-1).clamp(min=1.0)


def _outflow(state: TrafficState, after: TrafficState, dt: float) -> Tensor:
    """Vehicles that left in the step, per hour, [B]."""
    return (after.left - state.left).to(after.speed.dtype) * (3600.0 / dt)


def _waiting(after: TrafficState) -> Tensor:
    """Vehicles that stand on the road or wait outside, [B]."""
    standing = (after.active & (after.speed.detach() < metrics.STANDING)).sum(-1)
    return (standing + (after.arrivals - after.inserted).sum(-1)).to(after.speed.dtype)
