"""GAE against its definition as an explicit double sum."""

import pytest
import torch

from trafficgrad.agents.advantages import generalized_advantage


def double_loop(reward, value, next_value, done, gamma, lambda_):
    steps, worlds = reward.shape
    advantage = torch.zeros_like(reward)
    for b in range(worlds):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                delta = reward[k, b] + gamma * next_value[k, b] - value[k, b]
                advantage[t, b] += weight * delta
                if done[k, b]:
                    break
                weight *= gamma * lambda_
    return advantage


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_equals_the_double_sum(gamma, lambda_):
    generator = torch.Generator().manual_seed(0)
    reward, value, next_value = (torch.randn(12, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    done = torch.rand(12, 5, generator=generator) < 0.25
    assert done.any() and not done.all()
    actual = generalized_advantage(reward, value, next_value, done, gamma, lambda_)
    torch.testing.assert_close(
        actual, double_loop(reward, value, next_value, done, gamma, lambda_), rtol=1e-12, atol=1e-12
    )


def test_a_constant_reward_without_end_has_no_advantage_at_its_value():
    gamma = 0.9
    value = torch.full((20, 3), 1 / (1 - gamma), dtype=torch.float64)
    advantage = generalized_advantage(
        torch.ones_like(value), value, value, torch.zeros(20, 3, dtype=torch.bool), gamma, 0.95
    )
    assert advantage.abs().max() < 1e-12
