"""Gradients of any differentiable environment beside central differences; part of ``trafficgrad.envs.check_env``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.envs.base import DifferentiableEnv
from trafficgrad.errors import TrafficGradError

# Step of the differences, in units of the action's scale, and the largest difference that counts as none, as a share of
# the largest slope.
_STEP = {torch.float64: 1e-6, torch.float32: 2e-3}
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-2}
_ROUNDING = 30.0  # units in the last place that a result may have lost
_POINTS = 2  # random actions for each column of the action
_QUANTITIES = ("reward", "final_observation", "next step's reward", "next step's final_observation")


def check_gradients(
    env: DifferentiableEnv, state: Any, action: Callable[[], Tensor], noise: Callable[[], Tensor | None]
) -> None:
    """Compare gradients by the actions of one step, one column of the action after the other, with differences.

    Looked at are the step's rewards and final observations (a random weighted sum of their columns) and those of the
    next step in worlds that go on. A sample counts where the differences settle as their step is halved: where they do
    not, a kink or a jump is near.

    Parameters:
        state: where the step begins. action, noise: draw those of a step.

    Raises:
        TrafficGradError: naming the quantity and the column of the action.
    """
    dtype = state.observation.dtype
    h, tolerance = _STEP.get(dtype, _STEP[torch.float32]), _TOLERANCE.get(dtype, _TOLERANCE[torch.float32])
    counted = torch.zeros(len(_QUANTITIES), dtype=torch.bool)
    for column, label in enumerate(env.action_labels):
        for _ in range(_POINTS):
            point = action()
            direction = torch.zeros_like(point)
            direction[..., column] = action()[..., column].sign()
            outcome = _outcome(env, state, action(), (noise(), noise()))
            slopes = _slopes(outcome, point, direction)
            with torch.no_grad():
                here = outcome(point)
                wide, half = ([outcome(point + s * d * direction) for s in (1.0, -1.0)] for d in (h, 0.5 * h))
            central = (wide[0] - wide[1]) / (2.0 * h)
            closer = (half[0] - half[1]) / h
            bend = (wide[0] - 2.0 * here + wide[1]).abs() / h
            closer_bend = (half[0] - 2.0 * here + half[1]).abs() / (0.5 * h)
            rounding = _ROUNDING * torch.finfo(dtype).eps * (1.0 + here.abs()) / h
            # A jump between the points makes a slope without end, which must not excuse other worlds.
            steady = (central - closer).abs() <= tolerance * closer.abs() + rounding
            largest = torch.where(steady, closer.abs(), 0.0).amax(1, keepdim=True)
            allowed = tolerance * largest + rounding
            settled = ((central - closer).abs() <= allowed) & (closer_bend <= 0.75 * bend + allowed)
            wrong = settled & ((slopes - closer).abs() > allowed) | ~slopes.isfinite()
            if bool(wrong.any()):
                q, world = wrong.nonzero()[0].tolist()
                raise TrafficGradError(
                    f"the gradient of {_QUANTITIES[q]} by the action {label!r} is {float(slopes[q, world]):.6g}, but "
                    f"central differences give {float(closer[q, world]):.6g} (world {world}): expected that they "
                    "agree, or `differentiable = False`"
                )
            counted |= settled.any(1).cpu()
    if not bool(counted.all()):
        name = _QUANTITIES[int((~counted).nonzero()[0])]
        raise TrafficGradError(
            f"differences of {name} settle nowhere as their step is halved, expected a function of the actions that is "
            "smooth almost everywhere, or `differentiable = False`"
        )


def _outcome(
    env: DifferentiableEnv, state: Any, following: Tensor, noises: tuple[Tensor | None, Tensor | None]
) -> Callable[[Tensor], Tensor]:
    """All quantities [Q, B] as a function of the action; ``following``: that of the next step."""
    shown = state.observation[0]
    weights = torch.randn(shown.shape, generator=torch.Generator().manual_seed(0), dtype=shown.dtype).to(shown.device)

    def quantities(action: Tensor) -> Tensor:
        after, first = env.step(state, action, noises[0])
        _, second = env.step(after, following, noises[1])
        told = [first.reward, (first.final_observation * weights).flatten(1).sum(1)]
        later = [second.reward, (second.final_observation * weights).flatten(1).sum(1)]
        return torch.stack([*told, *(torch.where(first.done, 0.0, x) for x in later)])

    return quantities


def _slopes(outcome: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> Tensor:
    """[Q, B], directional derivatives by autograd; a world's quantities do not depend on the others' actions."""
    action = point.clone().requires_grad_()
    rows = outcome(action)
    slopes = []
    for row in rows:
        gradient = torch.zeros_like(action)
        if row.requires_grad:
            told = torch.autograd.grad(row.sum(), action, retain_graph=True, allow_unused=True)[0]
            gradient = gradient if told is None else told
        slopes.append((gradient * direction).flatten(1).sum(1))
    return torch.stack(slopes)


def check_no_gradient_through_reset(env: DifferentiableEnv, state: Any, action: Tensor, noise: Tensor | None) -> None:
    """Refuse a fresh world that still depends on the actions of the one that ended.

    Parameters:
        state: from where a step ends an episode in some world.

    Raises:
        TrafficGradError: some number of a fresh world has a gradient by the actions, be it NaN.
    """
    action = action.clone().requires_grad_()
    after, transition = env.step(state, action, noise)
    worlds = len(transition.reward)
    fresh = [
        x[transition.done].sum()
        for x in tree.leaves((after, transition.observation))
        if x.requires_grad and len(x) == worlds
    ]
    if not fresh:
        return
    told = torch.autograd.grad(torch.stack(fresh).sum(), action, allow_unused=True)[0]
    if told is not None and not bool((told == 0).all()):
        raise TrafficGradError(
            "a gradient crosses a reset: a fresh world depends on the actions of the one that ended, expected "
            "trafficgrad.tree.where(done, fresh, next) or a detached fresh state"
        )
