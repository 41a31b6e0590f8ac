"""Gradients through very many steps: segment by segment, so that memory stays what one segment needs.

Forward, only the states between segments are kept; backward, each segment is simulated once more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trafficgrad import tree
from trafficgrad.errors import TrafficGradError
from trafficgrad.simulator import Controller, Simulator
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory

Measure = Callable[[Trajectory], Tensor]  # [B], of one segment; depends on the trajectory alone


def accumulate(
    simulator: Simulator,
    state: TrafficState,
    steps: int,
    measure: Measure,
    *,
    segment: int = 500,
    controller: Controller | None = None,
    actions: Action | None = None,
    generator: torch.Generator | None = None,
    parameters: Sequence[Tensor] = (),
) -> tuple[TrafficState, Tensor]:
    """Simulate ``steps`` steps and add up what ``measure`` says of each segment; differentiable as one simulation is.

    Gradients reach the initial state, the plan, every tensor of the simulator that requires one (drivers, lane changes,
    bodies, speed limits, signals, demand), and ``parameters``.

    Parameters:
        measure: of a segment's trajectory, [B], such as ``lambda part: part.speed[1:].mean(-1).sum(0)``. Its first
            state is the last one of the segment before.
        segment: steps of a segment; the last one may be shorter.
        controller, actions: as in :meth:`Simulator.simulate`, for all steps. generator: draws noise.
        parameters: of the controller or the measure, whose gradients are wanted too.

    Returns:
        The last state and the sum, [B].

    Raises:
        TrafficGradError: no step, or segments of none.
    """
    if steps < 1 or segment < 1:
        raise TrafficGradError(f"expected at least 1 step and segments of at least 1, got {steps} and {segment}")
    wanted = [*_tensors(simulator), *(x for x in parameters if x.requires_grad)]
    total = None
    for first in range(0, steps, segment):
        count = min(segment, steps - first)
        plan = None if actions is None else tree.index(actions, slice(first, first + count))
        noise = _Noise(generator)

        def drive(
            begin: TrafficState, plan: Action | None, noise: _Noise = noise, count: int = count
        ) -> tuple[TrafficState, Tensor]:
            record = simulator.simulate(begin, count, controller, actions=plan, generator=noise.again())
            return record.state(-1), measure(record)

        state, part = _segment(drive, state, plan, wanted)
        total = part if total is None else total + part
    assert total is not None
    return state, total


class _Noise:
    """The same random numbers, as often as they are asked for."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self._generator = generator
        self._begin = None if generator is None else generator.get_state()

    def again(self) -> torch.Generator | None:
        if self._generator is None or self._begin is None:
            return None
        if not torch.is_grad_enabled():  # forward: the caller's goes on
            return self._generator
        copy = torch.Generator(self._generator.device)
        copy.set_state(self._begin)
        return copy


Drive = Callable[[TrafficState, Action | None], tuple[TrafficState, Tensor]]


def _segment(
    drive: Drive, state: TrafficState, plan: Action | None, wanted: Sequence[Tensor]
) -> tuple[TrafficState, Tensor]:
    """The state after a segment and its measure."""
    inputs = [x for x in tree.leaves((state, plan)) if x.is_floating_point()]
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in (*inputs, *wanted)):
        return drive(state, plan)
    after: list[TrafficState] = []
    *moved, part = _Segment.apply(drive, (state.detach(), tree.detach(plan)), after, len(inputs), *inputs, *wanted)
    left = iter(moved)
    return tree.tree_map(lambda x: next(left) if x.is_floating_point() else x, after[0]), part


class _Segment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, drive: Drive, given: tuple, after: list, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            state, part = drive(*given)
        after.append(state)
        ctx.drive, ctx.given, ctx.count = drive, given, count
        ctx.save_for_backward(*tensors[count:])
        ctx.set_materialize_grads(False)
        return (*(x.clone() for x in tree.leaves(state) if x.is_floating_point()), part)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.saved_tensors
        inputs: list[Tensor] = []

        def begin(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            inputs.append(x.detach().requires_grad_())
            return inputs[-1]

        with torch.enable_grad():
            state, part = ctx.drive(*tree.tree_map(begin, ctx.given))
            made = [*(x for x in tree.leaves(state) if x.is_floating_point()), part]
            asked = [(x, bar) for x, bar in zip(made, bars, strict=True) if bar is not None and x.requires_grad]
            found: Sequence[Tensor | None] = [None] * (len(inputs) + len(wanted))
            if asked:
                outputs, given_bars = zip(*asked, strict=True)
                found = torch.autograd.grad(outputs, [*inputs, *wanted], given_bars, allow_unused=True)
        return (None, None, None, None, *found)


def _tensors(simulator: Simulator) -> list[Tensor]:
    """What of a simulator requires gradients."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def collect(thing: object) -> None:
        if isinstance(thing, Tensor):
            if thing.requires_grad and id(thing) not in seen:
                seen.add(id(thing))
                found.append(thing)
        elif isinstance(thing, list | tuple):
            for part in thing:
                collect(part)
        elif dataclasses.is_dataclass(thing):
            for field in dataclasses.fields(thing):
                collect(getattr(thing, field.name))

    for field in dataclasses.fields(simulator):
        collect(getattr(simulator, field.name))
    collect(simulator.network.limits)
    return found
