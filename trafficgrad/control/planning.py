"""Plans: what controlled vehicles do over a horizon so that a cost gets small, found by gradients of the simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from trafficgrad import tree
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory

Cost = Callable[[Trajectory], Tensor]  # [B], of what came of a plan; differentiable
Method = Literal["adam", "lbfgs"]
METHODS: tuple[Method, ...] = ("adam", "lbfgs")


@dataclass(frozen=True)
class ActionLimits:
    """Which actions a plan holds, and within which bounds; each is planned as a number in [-1, 1]."""

    acceleration: tuple[float, float] = (-3.0, 2.0)  # m/s2
    lane: bool = False  # lane requests too, of vehicles that are controlled so
    steering: tuple[float, float] | None = None  # rad
    signal: bool = False  # requests to signals too

    def __post_init__(self) -> None:
        for name, bounds in (("acceleration", self.acceleration), ("steering", self.steering)):
            if bounds is not None and not (bounds[0] < bounds[1] and math.isfinite(bounds[1] - bounds[0])):
                raise TrafficGradError(f"ActionLimits.{name} must be [lowest, highest], got {list(bounds)}")

    def size(self, simulator: Simulator) -> int:
        """Numbers that a decision about one world holds."""
        signals = simulator.signals.count if self.signal and simulator.signals is not None else 0
        return len(simulator.fleet.slots) * self._each + signals

    @property
    def _each(self) -> int:
        return 1 + self.lane + (self.steering is not None)

    def idle(self, simulator: Simulator) -> Tensor:
        """[M], the decision to keep speed and lane, and to leave signals alone."""
        low, high = self.acceleration
        rows = torch.zeros(len(simulator.fleet.slots), self._each, dtype=torch.float64)
        rows[:, 0] = min(max(-(low + high) / (high - low), -1.0), 1.0)
        if self.steering is not None:
            low, high = self.steering
            rows[:, -1] = min(max(-(low + high) / (high - low), -1.0), 1.0)
        signals = torch.full((self.size(simulator) - rows.numel(),), -0.1, dtype=torch.float64)
        return torch.cat([rows.flatten(), signals])

    def action(self, decisions: Tensor, simulator: Simulator) -> Action:
        """The action of decisions [..., B, M] in [-1, 1]."""
        count = len(simulator.fleet.slots)
        driving = decisions[..., : count * self._each].unflatten(-1, (count, self._each))
        low, high = self.acceleration
        steering = None
        if self.steering is not None:
            left, right = self.steering
            steering = 0.5 * (left + right) + 0.5 * (right - left) * driving[..., -1]
        return Action(
            0.5 * (low + high) + 0.5 * (high - low) * driving[..., 0],
            driving[..., 1] if self.lane else None,
            steering,
            decisions[..., count * self._each :] if self.signal and simulator.signals is not None else None,
        )


@dataclass(frozen=True)
class Search:
    """How a plan is looked for.

    Gradients improve every candidate; candidates find what no gradient points to, such as a lane two lanes away.
    """

    method: Method = "adam"
    iterations: int = 50  # evaluations with gradient
    step: float = 0.15  # of Adam at first, where bounds are at -1 and 1
    candidates: int = 1  # plans that are improved side by side in every world; the first begins at the start itself
    spread: float = 1.0  # of the others about the start, where bounds are at -1 and 1
    persistence: float = 0.95  # correlation of their deviations from one decision to the next
    seed: int = 0  # of the deviations

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise TrafficGradError(
                f"unknown method {self.method!r}{nearest_name(self.method, METHODS)}; valid are {', '.join(METHODS)}"
            )
        if self.iterations < 0 or self.candidates < 1:
            raise TrafficGradError(
                f"expected at least 0 iterations and 1 candidate, got {self.iterations} and {self.candidates}"
            )
        if not self.step > 0 or not self.spread >= 0 or not 0 <= self.persistence <= 1:
            raise TrafficGradError(
                f"expected a step above 0, a spread of at least 0 and a persistence of 0 to 1, got {self.step}, "
                f"{self.spread} and {self.persistence}"
            )


@dataclass(frozen=True)
class Plan:
    """The best plan that was met for each of ``B`` worlds."""

    decisions: Tensor  # [K, B, M] in [-1, 1], each held for ``hold`` steps
    actions: Action  # fields [T, B, ...], for :meth:`Simulator.simulate`
    cost: Tensor  # [B]
    history: Tensor  # [I, B], lowest cost met so far, evaluation by evaluation


@dataclass(frozen=True)
class Planner:
    """Finds plans of ``decisions`` decisions that are held for ``hold`` simulator steps each.

    The simulation of a plan is one call, backward another (:meth:`Simulator.simulate` with ``actions``). It is the hard
    one: what is kept is judged by what it does, not by a softened cost. Noise is left out, unless it is given.
    """

    simulator: Simulator
    cost: Cost
    decisions: int
    hold: int = 1
    limits: ActionLimits = field(default_factory=ActionLimits)
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if self.decisions < 1 or self.hold < 1:
            raise TrafficGradError(
                f"a plan needs at least 1 decision and 1 step of each, got {self.decisions} and {self.hold}"
            )
        if not self.limits.size(self.simulator):
            raise TrafficGradError("there is nothing to plan: the fleet has no controlled vehicle")

    @property
    def steps(self) -> int:
        """Simulator steps of a plan."""
        return self.decisions * self.hold

    def actions(self, decisions: Tensor) -> Action:
        """Decisions [K, B, M] step by step."""
        return self.limits.action(decisions.repeat_interleave(self.hold, 0), self.simulator)

    def idle(self, state: TrafficState) -> Tensor:
        """[K, B, M]: to keep speed and lane all the time."""
        return self.limits.idle(self.simulator).to(state.position).expand(self.decisions, state.worlds, -1)

    def plan(self, state: TrafficState, start: Tensor | None = None, noise: Tensor | None = None) -> Plan:
        """The best plan from ``state`` on.

        Parameters:
            start: [K, B, M], decisions to begin with; None: idle. noise: [T, B, N] standard normal that comes.

        Raises:
            TrafficGradError: a start of another shape, a cost that is not one finite number for each world.
        """
        start = self.idle(state) if start is None else start.detach().clamp(-1.0, 1.0)
        expected = (self.decisions, state.worlds, self.limits.size(self.simulator))
        if tuple(start.shape) != expected:
            raise TrafficGradError(f"the start of a plan has shape {list(start.shape)}, expected {list(expected)}")
        with torch.enable_grad():
            state = tree.detach(state)
            attempt = _Attempt(self, state, self._candidates(start), noise)
            (_adam if self.search.method == "adam" else _lbfgs)(attempt, self.search)
        return attempt.best()

    def _candidates(self, start: Tensor) -> Tensor:
        """[K, B * S, M]: the start, and others that deviate from it for a while at a time."""
        search, count = self.search, self.search.candidates
        if count == 1:
            return start
        generator = torch.Generator().manual_seed(search.seed)
        shape = (*start.shape[:2], count, start.shape[2])
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        fresh, deviation = math.sqrt(1.0 - search.persistence**2), [drawn[0]]
        for each in drawn[1:]:
            deviation.append(search.persistence * deviation[-1] + fresh * each)
        spread = search.spread * torch.stack(deviation).to(start)
        spread[:, :, 0] = 0.0
        return (start[:, :, None] + spread).clamp(-1.0, 1.0).flatten(1, 2)


class _Attempt:
    """Evaluates candidates of all worlds together, and keeps the best of each."""

    def __init__(self, planner: Planner, state: TrafficState, start: Tensor, noise: Tensor | None) -> None:
        self.planner, self.worlds, self.count = planner, state.worlds, start.shape[1] // state.worlds
        rows = torch.arange(state.worlds, device=start.device).repeat_interleave(self.count)
        self.state = state if self.count == 1 else tree.index(state, rows)
        self.noise = noise if noise is None or self.count == 1 else noise[:, rows]
        self.point = start.clone().requires_grad_()
        self._best, self._lowest = start.clone(), start.new_full((start.shape[1],), math.inf)
        self._history: list[Tensor] = []

    def evaluate(self, gradient: bool = True) -> Tensor:
        """The cost [B * S] at the point, with its gradient there unless it is the last look."""
        planner, point = self.planner, self.point
        with torch.set_grad_enabled(gradient):
            record = planner.simulator.simulate(
                self.state, planner.steps, actions=planner.actions(point), noise=self.noise
            )
            cost = planner.cost(record)
        if cost.shape != (self.state.worlds,):
            raise TrafficGradError(
                f"a cost must be one number for each of {self.state.worlds} worlds, got shape {list(cost.shape)}"
            )
        found = cost.detach()
        if not bool(torch.isfinite(found).all()):
            world = int((~torch.isfinite(found)).nonzero()[0]) // self.count
            raise TrafficGradError(f"the cost of a plan is not finite in world {world}")
        better = found < self._lowest
        self._lowest = torch.where(better, found, self._lowest)
        self._best = torch.where(better[:, None], point.detach(), self._best)
        self._history.append(self._lowest.view(self.worlds, -1).amin(1))
        if gradient:
            (point.grad,) = torch.autograd.grad(cost.sum(), point, materialize_grads=True)
        return found

    def best(self) -> Plan:
        """Of each world."""
        first = self._lowest.view(self.worlds, -1).argmin(1)
        rows = torch.arange(self.worlds, device=first.device) * self.count + first
        decisions = self._best[:, rows]
        return Plan(decisions, self.planner.actions(decisions), self._lowest[rows], torch.stack(self._history))


def _adam(attempt: _Attempt, search: Search) -> None:
    """Adam within the bounds; steps are as long at the end as at the beginning, since few are made."""
    optimizer = torch.optim.Adam([attempt.point], lr=search.step, betas=(0.8, 0.95), eps=1e-15)
    for _ in range(search.iterations):
        attempt.evaluate()
        optimizer.step()
        with torch.no_grad():
            attempt.point.clamp_(-1.0, 1.0)
    attempt.evaluate(gradient=False)


def _lbfgs(attempt: _Attempt, search: Search) -> None:
    """SciPy's L-BFGS-B on the sum over all worlds and candidates."""
    shape = attempt.point.shape

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.no_grad():
            attempt.point.copy_(torch.from_numpy(x).view(shape))
        cost = attempt.evaluate()
        assert attempt.point.grad is not None
        return float(cost.double().sum()), attempt.point.grad.double().cpu().numpy().ravel()

    start = attempt.point.detach().double().cpu().numpy().ravel()
    if not search.iterations:
        attempt.evaluate(gradient=False)
        return
    options = {"maxfun": search.iterations, "maxiter": search.iterations, "maxcor": 20}
    minimize(function, start, jac=True, method="L-BFGS-B", bounds=[(-1.0, 1.0)] * len(start), options=options)
