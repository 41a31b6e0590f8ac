"""The paper's propositions (Son et al., NeurIPS 2023) on advantages that are known functions."""

import math

import pytest
import torch
from test_rp import UNDAMPED, build, roll, window_return

from trafficgrad.agents.actor_critic import Actor, PolicyConfig, PolicySpec
from trafficgrad.agents.alpha_policy import AlphaRegression
from trafficgrad.agents.exact_alpha import alpha_map, largest_alpha
from trafficgrad.agents.ppo import adam

DOUBLE = torch.float64


def wavy(action):
    """An advantage with hills and valleys; every action counts, together and alone."""
    return torch.sin(2.0 * action).sum(-1) - 0.3 * action.square().sum(-1) + 0.2 * action.prod(-1)


def gaussian_grid(dimension, count=81, reach=6.0):
    """Points of a grid and their weights under a standard normal, by quadrature."""
    line = torch.linspace(-reach, reach, count, dtype=DOUBLE)
    points = torch.cartesian_prod(*([line] * dimension)).reshape(-1, dimension)
    weight = torch.exp(-0.5 * points.square().sum(-1))
    return points, weight / weight.sum()


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("std", [0.05, 0.5])
def test_4_3_the_surrogate_rises_with_alpha_and_falls_against_it(dimension, std):
    """L(pi_alpha) - eta = E[A(f(a))] - E[A(a)] = alpha E|dA/da|^2 + O(alpha^2)."""
    points, weight = gaussian_grid(dimension)
    action = 0.4 + std * points
    slope = (weight * torch.func.vmap(torch.func.grad(wavy))(action).square().sum(-1)).sum()
    for alpha in (1e-3, -1e-3):
        moved = alpha_map(wavy, action, alpha).moved
        gain = (weight * (wavy(moved) - wavy(action))).sum()
        assert gain * alpha > 0
        assert gain.item() == pytest.approx(alpha * slope.item(), rel=2e-2)


def density_of_samples(alpha, edges):
    """Share of the alpha-policy's samples in each bin, from the cumulative distribution of a fine grid of noise."""
    share = (torch.arange(400_000, dtype=DOUBLE) + 0.5) / 400_000
    action = torch.special.ndtri(share)[:, None]
    moved = alpha_map(wavy, action, alpha).moved[:, 0]
    return torch.histogram(moved, edges)[0] / len(share)


def closed_form(alpha, edges):
    """The same from pi(a) / |det(I + alpha d2A/da2)| at one a with f(a) in the bin's middle, found by bisection."""
    middle = (edges[1:] + edges[:-1]) / 2
    low, high = torch.full_like(middle, -9.0), torch.full_like(middle, 9.0)
    for _ in range(80):
        center = (low + high) / 2
        above = alpha_map(wavy, center[:, None], alpha).moved[:, 0] > middle
        low, high = torch.where(above, low, center), torch.where(above, center, high)
    action = (low + high) / 2
    log_density = -0.5 * action.square() - 0.5 * math.log(2 * math.pi)
    volume = alpha_map(wavy, action[:, None], alpha).log_volume
    return torch.exp(log_density - volume) * (edges[1:] - edges[:-1])


def test_4_5_the_density_is_the_closed_form_below_the_largest_alpha_only():
    everywhere = torch.linspace(-6, 6, 2001, dtype=DOUBLE)[:, None]
    bound = largest_alpha(wavy, everywhere).item()
    assert bound == pytest.approx(1 / 4.6, rel=1e-3)  # A'' = -4 sin(2a) - 0.6
    edges = torch.linspace(-2.5, 2.5, 501, dtype=DOUBLE)

    def distance(alpha):
        return (density_of_samples(alpha, edges) - closed_form(alpha, edges)).abs().sum().item()

    for share in (-0.9, -0.3, 0.3, 0.9):
        assert distance(share * bound) < 0.01
    for share in (1.5, 3.0):
        assert distance(share * bound) > 0.2


def test_4_5_the_regression_finds_the_alpha_policy():
    """Of a quadratic advantage it is a Gaussian: the mean moves by alpha dA/da, sigma is multiplied by the stretch."""
    curvature, best = torch.tensor([3.0, 0.5], dtype=DOUBLE), torch.tensor([0.7, -0.4], dtype=DOUBLE)

    def advantage(action):
        return -0.5 * (curvature * (action - best).square()).sum(-1)

    config = PolicyConfig(hidden=[8], log_std=-0.7)
    actor = Actor(PolicySpec(1, 2, None, (), config), torch.Generator().manual_seed(0)).double()
    observation = torch.zeros(4096, 1, dtype=DOUBLE)
    noise = torch.randn(4096, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    noise = (noise - noise.mean(0)) / noise.std(0, correction=0)
    mean, log_std = (x.detach().clone() for x in actor.distribution(observation))
    action, alpha = mean + log_std.exp() * noise, 0.2
    assert alpha < largest_alpha(advantage, action)
    target = alpha_map(advantage, action, alpha).moved
    regression = AlphaRegression(actor, adam(actor.parameters(), 1.0, betas=(0.7, 0.95)), 1.0, 200)
    for rate in (1e-2, 1e-3, 1e-4):
        regression.learning_rate = rate
        begin = tuple(x.detach() for x in actor.distribution(observation))
        regression.fit(observation, begin, noise, target)
    reached, spread = actor.distribution(observation)
    torch.testing.assert_close(reached[0], mean[0] + alpha * curvature * (best - mean[0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(spread.exp(), log_std.exp() * (1 - alpha * curvature), rtol=1e-3, atol=0)


@pytest.mark.parametrize("vehicles", [2, None])
def test_4_6_the_regressions_gradient_is_the_reparameterised_one(vehicles, monkeypatch):
    """At the policy itself dL/dtheta = -2 alpha times the gradient of the window's return, per sample."""
    monkeypatch.setattr(AlphaRegression, "MAX_NORM", 1e9)
    env, networks, carry = build(vehicles=vehicles)
    rollout = roll(env, networks, carry)
    assert UNDAMPED.gamma == UNDAMPED.gae_lambda == 1.0
    parameters = list(networks.actor.parameters())
    expected = torch.autograd.grad(window_return(env, networks, carry, rollout), parameters)
    alpha, parts = 0.01, [x.flatten(0, 1) for x in (rollout.observation, rollout.mean, rollout.eps, rollout.action)]
    assert rollout.action_gradient is not None
    target = parts[3] + alpha * rollout.action_gradient.flatten(0, 1)
    regression = AlphaRegression(networks.actor, adam(parameters, 1e-6), 1e-6, 1)
    regression.fit(parts[0], (parts[1], rollout.log_std), parts[2], target)
    samples = rollout.eps[..., 0].numel()
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, -2 * alpha * gradient / samples, rtol=1e-8, atol=1e-12)
