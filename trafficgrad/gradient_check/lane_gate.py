"""The lane gate: a lane chosen by the sign of a Gaussian action, where the true gradient is known.

A controlled car drives on the right of two lanes behind a slower truck. It draws u ~ N(mean, deviation), enters at
20 + u / 2 m/s and asks for the left, empty lane if u > 0: ``Action.lane`` = u + 1/3, whose threshold of 1/3 lies at
u = 0. R(u) is how far it comes. The derivative of E[R] by the mean has two parts,

    d/dmean E[R] = E[R'(u)] + (R(0+) - R(0-)) p(0),

p the density of u: a smooth part, which a pathwise gradient sees, and a jump, which it does not, so its bias is minus
the jump. R is smooth on either side of 0. Every expectation, that of a gradient mode's dR/du too, is therefore a sum
over some thousand points of a Gauss-Legendre rule, and free of noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.gradients import LaneGradient
from trafficgrad.network import straight
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

THRESHOLD = 1.0 / 3.0  # of Action.lane
_CAR_SPEED, _CAR_LENGTH, _TRUCK_LENGTH = 120 / 3.6, 5.0, 12.0  # m/s, m, m
_NODES, _FINEST, _WIDEST = 16, 1e-3, 0.25  # of a piece of the rule; width of the pieces at the switch, and of any
_TAILS = 7.0  # standard deviations from the mean that are integrated


class Setting(NamedTuple):
    """A distribution of u."""

    mean: float
    deviation: float


# Even choices, rare ones (with (1, 0.25) and (-1, 0.25) one sample in 30,000 is on the other side) and wide ones.
SETTINGS: tuple[Setting, ...] = tuple(
    Setting(*pair)
    for pair in (
        (0.0, 0.25), (0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (0.0, 1.0), (1.0, 1.0), (1.0, 0.25), (-1.0, 0.25),
        (-0.5, 0.5), (0.25, 0.25), (-1.0, 1.0), (0.0, 2.0),
    )
)  # fmt: skip


class Truth(NamedTuple):
    """d/dmean E[R] and its parts, m per unit of u."""

    total: float  # of the expectation as a whole, by the score: E[R(u) (u - mean)] / deviation^2
    pathwise: float  # E[R'(u)]
    jump: float  # (R(0+) - R(0-)) p(0)


class Estimate(NamedTuple):
    """A mean of samples, m per unit of u."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class LaneGate:
    """The gate. Car and truck drive by the IDM with its default parameters, the car wishing for 120 km/h; float64."""

    gap: float = 45.0  # m, from the car to the truck
    truck_speed: float = 14.0  # m/s
    seconds: float = 10.0
    dt: float = 0.1  # s
    device: torch.device | str = "cpu"

    def distance(self, u: Tensor, lane_gradient: LaneGradient | None = None) -> Tensor:
        """R(u), m, [S]; differentiable in u [S], through the request as ``lane_gradient`` says (default: blocked).

        The request is made in the first step only; there is always room for it.
        """
        u = u.to(self.device, torch.float64)
        position = torch.stack([torch.zeros_like(u), torch.full_like(u, self.gap + _TRUCK_LENGTH)], -1)
        speed = torch.stack([20.0 + 0.5 * u, torch.full_like(u, self.truck_speed)], -1)
        state = TrafficState(position, speed, torch.zeros_like(position, dtype=torch.int64))
        simulator = self._simulator(lane_gradient or LaneGradient("blocked"))
        push = u.new_full((len(u), 1), 100.0)  # above what the IDM does, so that the car drives by the IDM
        request = (u + THRESHOLD)[:, None]
        for _ in range(round(self.seconds / self.dt)):
            state = simulator.step(state, Action(push, request))
            request = torch.zeros_like(push)
        return state.position[:, 0]

    def slope(self, u: Tensor, lane_gradient: LaneGradient | None = None) -> tuple[Tensor, Tensor]:
        """R(u) and its derivative as ``lane_gradient`` has it, [S] each, without graph."""
        with torch.enable_grad():
            u = u.detach().to(self.device, torch.float64).requires_grad_()
            reached = self.distance(u, lane_gradient)
            (gradient,) = torch.autograd.grad(reached.sum(), u)
        return reached.detach(), gradient

    def _simulator(self, lane_gradient: LaneGradient) -> Simulator:
        def each(car: float, truck: float) -> Tensor:
            return torch.tensor([car, truck], dtype=torch.float64, device=self.device)

        fleet = Fleet(
            length=each(_CAR_LENGTH, _TRUCK_LENGTH),
            controlled=torch.zeros(1, dtype=torch.int64, device=self.device),
            control="lane",
            follow_limit=True,
        )
        following = IDM(desired_speed=each(_CAR_SPEED, self.truck_speed))
        return Simulator(straight(2000.0, 2), fleet, following, lane_gradient=lane_gradient, dt=self.dt)


class Quadrature:
    """Expectations over u at points that stay the same for every distribution and gradient: simulated once each."""

    def __init__(self, gate: LaneGate, settings: tuple[Setting, ...] = SETTINGS) -> None:
        """``settings``: the distributions that the points must suffice for."""
        reach = max(abs(s.mean) + _TAILS * s.deviation for s in settings)
        edges, width = [0.0], _FINEST
        while edges[-1] < reach:
            edges.append(edges[-1] + width)
            width = min(2 * width, _WIDEST)
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        low, high = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
        points, share = ((high - low) * nodes + high + low) / 2, (high - low) * weights / 2
        # No piece lies across the switch at 0.
        self.u = torch.from_numpy(np.concatenate([-points.ravel()[::-1], points.ravel()]))
        self._weight = torch.from_numpy(np.concatenate([share.ravel()[::-1], share.ravel()]))
        self.gate = gate
        self._distance, self._slope = (x.cpu() for x in gate.slope(self.u))
        tiny = torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
        below, above = gate.distance(tiny).tolist()
        self.jump = above - below  # R(0+) - R(0-), m

    def truth(self, setting: Setting) -> Truth:
        """The derivative of E[R] by the mean, as a whole and in parts."""
        score = (self.u - setting.mean) / setting.deviation**2
        return Truth(
            total=self._expectation(self._distance * score, setting),
            pathwise=self._expectation(self._slope, setting),
            jump=self.jump * density(0.0, setting),
        )

    def expected(self, lane_gradient: LaneGradient, settings: tuple[Setting, ...] = SETTINGS) -> list[float]:
        """E[dR/du] with the derivative that ``lane_gradient`` gives, for each of ``settings``."""
        _, slope = self.gate.slope(self.u, lane_gradient)
        return [self._expectation(slope.cpu(), setting) for setting in settings]

    def biases(self, lane_gradient: LaneGradient, settings: tuple[Setting, ...] = SETTINGS) -> list[float]:
        """(E[dR/du] - truth) / truth, for each of ``settings``."""
        truths = [self.truth(setting).total for setting in settings]
        found = self.expected(lane_gradient, settings)
        return [(value - true) / true for value, true in zip(found, truths, strict=True)]

    def _expectation(self, values: Tensor, setting: Setting) -> float:
        z = (self.u - setting.mean) / setting.deviation
        weight = self._weight * torch.exp(-0.5 * z**2) / (setting.deviation * math.sqrt(2 * math.pi))
        return float((values * weight).sum())


def density(u: float, setting: Setting) -> float:
    """p(u)."""
    return math.exp(-0.5 * ((u - setting.mean) / setting.deviation) ** 2) / (setting.deviation * math.sqrt(2 * math.pi))


def likelihood_ratio(gate: LaneGate, setting: Setting, samples: int, generator: torch.Generator) -> Estimate:
    """d/dmean E[R] from sampled distances and the score of u alone, unbiased.

    Half of the samples are drawn around the switch and everything is weighted by p over the density that it was drawn
    from, so that rare choices are met too: with (-1, 0.25) plain sampling would need millions of samples to see one.
    A baseline is taken off the distances, their mean under p as the other samples tell it; being independent of the
    sample it leaves the estimate unbiased.

    Parameters:
        samples: even. generator: a CPU generator.
    """
    own = setting.mean + setting.deviation * torch.randn(samples // 2, generator=generator, dtype=torch.float64)
    near = setting.deviation * torch.randn(samples // 2, generator=generator, dtype=torch.float64)
    u = torch.cat([own, near])
    with torch.no_grad():
        distance = gate.distance(u).cpu()

    def log_density(mean: float) -> Tensor:
        return -0.5 * ((u - mean) / setting.deviation) ** 2

    drawn = torch.logaddexp(log_density(setting.mean), log_density(0.0)) - math.log(2.0)
    weight = (log_density(setting.mean) - drawn).exp()
    weighted = weight * distance
    baseline = (weighted.sum() - weighted) / (weight.sum() - weight)
    score = (u - setting.mean) / setting.deviation**2
    return _estimate((distance - baseline) * score * weight)


def pathwise(gate: LaneGate, setting: Setting, samples: int, generator: torch.Generator) -> Estimate:
    """The mean of dR/du over sampled u with the choice blocked: what reparameterisation gives."""
    u = setting.mean + setting.deviation * torch.randn(samples, generator=generator, dtype=torch.float64)
    return _estimate(gate.slope(u)[1].cpu())


def _estimate(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))
