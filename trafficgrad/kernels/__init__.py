"""The step as one compiled function with a hand-written adjoint: an optimisation of the reference, equal to it.

``library`` finds the compiled kernel, ``plan`` says what a simulator is to it and what it does not cover, ``layout`` is
the binary interface, ``fused`` runs steps and rollouts, ``decision`` an environment's decision with its outcome,
``sight`` finds neighbours. Without a kernel everything runs on the reference.
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
from trafficgrad.state import TrafficState

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


def choose(simulator: Simulator, dtype: torch.dtype, device: torch.device | str) -> BackendChoice:
    """What runs a simulator's steps on states of this dtype and device, and why.

    Raises:
        TrafficGradError: the fused step is demanded and cannot be had.
    """
    wish = wished(simulator.backend)
    if wish == "reference":
        return BackendChoice("reference", "it was asked for")
    found = _plan(simulator, dtype, str(device))
    if isinstance(found, Plan):
        return BackendChoice("fused", f"the kernel covers all of it (build {library().variant})")
    if wish == "fused":
        raise TrafficGradError(f"backend 'fused' was demanded, but {found}")
    return BackendChoice("reference", found)


def plan_for(simulator: Simulator, state: TrafficState) -> Plan | None:
    """What the kernel needs to run this call; None where the reference runs it.

    Calls that are wrong run on the reference, which says what is wrong with them.

    Raises:
        TrafficGradError: the fused step is demanded and cannot be had.
    """
    wish = wished(simulator.backend)
    if wish == "reference":
        return None
    position = state.position
    found = _plan(simulator, position.dtype, "cpu" if position.device.type == "cpu" else str(position.device))
    if isinstance(found, Plan):
        why = _misfit(found, state)
        if why is None:
            return found
        if wish == "fused":
            raise TrafficGradError(f"backend 'fused' was demanded, but this state is not one for it: {why}")
        return None
    if wish == "fused":
        raise TrafficGradError(f"backend 'fused' was demanded, but {found}")
    if library().missing is not None:
        say_once(f"{found}; until then simulations run on the PyTorch reference, many times slower")
    return None


def _plan(simulator: Simulator, dtype: torch.dtype, device: str) -> Plan | str:
    """The plan, or why there is none; kept with the simulator."""
    kept = simulator.__dict__.get("_plans")
    if kept is None:
        kept = simulator.__dict__["_plans"] = {}
    found = kept.get((dtype, device))
    if found is None or (isinstance(found, Plan) and not found.is_current()):
        found = kept[dtype, device] = _make_plan(simulator, dtype, device)
    return found


def _make_plan(simulator: Simulator, dtype: torch.dtype, device: str) -> Plan | str:
    missing = library().missing
    if missing is not None:
        return missing
    if device != "cpu":
        return f"the fused kernel runs on the CPU, the state is on {device}"
    why = not_covered(simulator, dtype)
    return Plan(simulator, dtype) if why is None else f"the fused kernel does not cover this simulator: {why}"


def _misfit(plan: Plan, state: TrafficState) -> str | None:
    """Why this state is not one that the kernel takes, None if it is."""
    worlds, vehicles = state.position.shape
    if not vehicles or not worlds:
        return "it is empty"
    if plan.highest_slot >= vehicles:
        return f"it has no slot {plan.highest_slot}, which is controlled"
    if plan.worlds and plan.worlds != {worlds}:
        return f"parameters are for {sorted(plan.worlds)} worlds, and it has {worlds}"
    real = plan.dtype
    same = state.speed.dtype == state.lateral.dtype == state.cooldown.dtype == state.time.dtype == real
    if not same or state.heading.dtype != real or state.passed.dtype != real or state.phase_time.dtype != real:
        return "its fields differ in dtype"
    for name in plan.whole:  # they are read as they are in memory
        if getattr(state, name).dtype != torch.int64:
            return f"its {name} is not int64"
    if state.active.dtype != torch.bool:
        return "its active is not bool"
    for name in plan.per_world:
        if getattr(state, name).shape != (worlds,):
            return f"its {name} has shape {list(getattr(state, name).shape)} for {worlds} worlds"
    if plan.demand is not None:
        expected = (worlds, plan.inflows)
        if not state.arrivals.shape == state.inserted.shape == state.next_arrival.shape == expected:
            count = state.arrivals.shape[1]
            return f"there are {plan.inflows} inflows, and it has {count}: begin with demand.start(state)"
        if state.next_arrival.dtype != real:
            return "its fields differ in dtype"
    if plan.signals and not state.phase.shape == state.phase_time.shape == (worlds, plan.signals):
        return f"there are {plan.signals} signals, and it has {state.phase.shape[1]}: begin with signals.start(state)"
    return None
