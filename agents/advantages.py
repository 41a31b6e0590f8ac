"""Generalised advantage estimation: the one implementation that every agent uses."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantage(
    reward: Tensor, value: Tensor, next_value: Tensor, done: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Advantages of a window (Schulman et al. 2016).

    Backward recursion::

        delta_t = reward_t + gamma * next_value_t - value_t
        A_t     = delta_t + gamma * lambda * (1 - done_t) * A_{t+1}

    Args:
        reward: Tensor, shape (T, B).
        value: Tensor, shape (T, B), of the observation that was acted on.
        next_value: Tensor, shape (T, B), of the observation before any reset; 0 where the task ended, the value
            itself at a time limit. So ``delta`` needs no mask.
        done: bool Tensor, shape (T, B), the episode ended after the step, for either reason.
        gamma: discount per step.
        lambda_: decay of the exponential average over horizons (the paper's tau).

    Returns:
        Tensor, shape (T, B).
    """
    delta = reward + gamma * next_value - value
    carry = (gamma * lambda_) * (~done).to(reward.dtype)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(delta.shape[0] - 1, -1, -1):
        running = torch.addcmul(delta[t], carry[t], running)
        advantage[t] = running
    return advantage
