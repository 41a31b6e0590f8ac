"""Fitting the critic to a rollout's returns, for agents whose policy update does not do it on the way."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trafficgrad.agents.actor_critic import ActorCritic
from trafficgrad.agents.rollout import Rollout


def fit_critic(
    networks: ActorCritic,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    epochs: int,
    minibatch: int,
    max_gradient_norm: float,
    generator: torch.Generator,
) -> Tensor:
    """Shuffled minibatch epochs on the squared error to ``rollout.return_``.

    Args:
        networks: whose critic changes. optimizer: of the critic.
        minibatch: decisions of one world each, per gradient step (about).
        generator: source of the shuffling.

    Returns:
        Mean loss, Tensor []; NaN without epochs.
    """
    critic = networks.critic
    parameters = list(critic.parameters())
    observation = networks.flatten(rollout.observation).flatten(0, 1)
    target = rollout.return_.flatten()
    critic.update_scale(target)
    losses = [] if epochs else [target.new_full((), math.nan)]
    for _ in range(epochs):
        order = torch.randperm(len(target), generator=generator, device=target.device)
        for rows in order.tensor_split(max(1, round(len(target) / minibatch))):
            loss = critic.loss(observation[rows], target[rows])
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses).mean()
