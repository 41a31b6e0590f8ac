"""The step as one compiled function with a hand-written adjoint: an optimisation of the reference, equal to it.

``library`` finds the compiled kernel, ``plan`` says what a simulator is to it and what it does not cover, ``layout`` is
the binary interface, ``fused`` runs steps and rollouts. Without a kernel everything runs on the reference.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.kernels.library import library
from trafficgrad.kernels.plan import Plan, not_covered
from trafficgrad.state import Action, TrafficState

if TYPE_CHECKING:
    from trafficgrad.simulator import Simulator

Backend = Literal["auto", "fused", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "fused", "reference")
VARIABLE = "TRAFFICGRAD_BACKEND"  # of the environment; it overrules the simulator's own choice


class BackendChoice(NamedTuple):
    """Which implementation of the step runs, and why."""

    name: Literal["fused", "reference"]
    reason: str  # one sentence


def wished(own: Backend) -> Backend:
    """The simulator's own choice, or that of the environment variable.

    Raises:
        TrafficGradError: the variable holds something else.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return own
    if value not in BACKENDS:
        raise TrafficGradError(
            f"the environment variable {VARIABLE} is {value!r}{nearest_name(value, BACKENDS)}; "
            f"valid are {', '.join(BACKENDS)}"
        )
    return value


@functools.cache
def say_once(notice: str) -> None:
    """Warn of it once in this process."""
    warnings.warn(notice, RuntimeWarning, stacklevel=5)


def choose(simulator: Simulator, dtype: torch.dtype, device: torch.device | str) -> tuple[BackendChoice, Plan | None]:
    """What runs a simulator's steps on states of this dtype and device.

    Raises:
        TrafficGradError: the fused step is demanded and cannot be had.
    """
    wish = wished(simulator.backend)
    if wish == "reference":
        return BackendChoice("reference", "it was asked for"), None
    plan, why = None, library().missing
    if why is None and torch.device(device).type != "cpu":
        why = f"the fused kernel runs on the CPU, the state is on {torch.device(device)}"
    if why is None:
        known = simulator.__dict__.setdefault("_plans", {})
        plan = known.get(dtype)
        if plan is None or (isinstance(plan, Plan) and not plan.is_current()):
            why_not = not_covered(simulator)
            plan = known[dtype] = Plan(simulator, dtype) if why_not is None else why_not
        if isinstance(plan, Plan):
            why, plan = plan.obstacle, plan if plan.obstacle is None else None
        else:
            why, plan = plan, None
        why = None if why is None else f"the fused kernel does not cover this simulator: {why}"
    if plan is not None:
        return BackendChoice("fused", f"the kernel covers all of it (build {library().variant})"), plan
    assert why is not None
    if library().missing is not None and wish == "auto":
        say_once(f"{why}; until then simulations run on the PyTorch reference, many times slower")
    if wish == "fused":
        raise TrafficGradError(f"backend 'fused' was demanded, but {why}")
    return BackendChoice("reference", why), None


def fits(plan: Plan, state: TrafficState, action: Action | None) -> bool:
    """Whether this call is one that the kernel takes; the reference then says what is wrong with the others."""
    worlds, vehicles = state.position.shape
    if not vehicles or not worlds or plan.highest_slot >= vehicles:
        return False
    if plan.worlds and plan.worlds != {worlds}:
        return False
    for name in ("speed", "lateral", "heading", "cooldown", "time"):
        if getattr(state, name).dtype != plan.dtype:
            return False
    return action is None or action.signal is None
