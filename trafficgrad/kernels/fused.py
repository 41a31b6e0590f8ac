"""Steps and rollouts by the compiled kernel: the same results as the reference's, forward and backward.

A step takes a few dozen microseconds, so this module counts them: only what requires a gradient passes through
autograd, fields of one shape share a block of memory, and the call is packed in one go.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trafficgrad.errors import TrafficGradError
from trafficgrad.kernels.layout import PARAMETERS, pack_call
from trafficgrad.kernels.plan import Plan
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory

_REAL_FIELDS = ("position", "speed", "lateral", "cooldown", "heading")  # in the order of the block of states after
_GIVEN = ("acceleration", "request", "steering", "noise")
_FAILURES = ("", "", "lane", "driver", "acceleration", "lane", "steering")
_ASIDE = frozenset({"lateral", "cooldown", "change_cooldown", "request"})
_Three = ctypes.c_int64 * 3


class _Run:
    """One call of the kernel: what goes in, and what comes out beside the tensors that carry gradients."""

    def __init__(
        self, plan: Plan, state: TrafficState, action: Action | None, noise: Tensor | None, steps: int | None
    ) -> None:
        self.plan, self.state = plan, state
        self.steps = 1 if steps is None else steps
        self.whole = steps is not None  # states after have a time dimension that begins with the state before
        self.position, self.speed = state.position.contiguous(), state.speed.contiguous()
        self.lateral, self.heading = state.lateral.contiguous(), state.heading.contiguous()
        self.cooldown = state.cooldown.contiguous()
        self.fixed = [
            x.contiguous() for x in (state.lane, state.previous, state.driver, state.active, state.time, state.left)
        ]
        self.acceleration = self.request = self.steering = None
        if action is not None:
            self.acceleration = _plain(action.acceleration, plan)
            self.request = None if action.lane is None else _plain(action.lane, plan)
            self.steering = None if action.steering is None else _plain(action.steering, plan)
        self.noise = None if noise is None else _plain(noise, plan)
        self.names: list[str] = []  # of the tensors that require a gradient
        self.soft = False
        self.whole_numbers: Tensor | None = None
        self.time: Tensor | None = None
        self.active: Tensor | None = None
        self.left: Tensor | None = None

    def differentiable(self) -> list[Tensor]:
        """What requires a gradient, as ``names`` call it."""
        found = []
        for name in (*_REAL_FIELDS, *_GIVEN):
            x = getattr(self, name)
            if x is not None and x.requires_grad:
                self.names.append(name)
                found.append(x)
        for name, x in self.plan.tensors.items():
            if x.requires_grad:
                self.names.append(name)
                found.append(x)
        return found

    def decide_softness(self, with_graph: bool) -> None:
        """Whether lane choices carry gradients in this call."""
        plan = self.plan
        decides = plan.decides or (plan.may_ask and self.request is not None)
        self.soft = decides and (plan.mode == "sigmoid" or (plan.mode == "straight_through" and with_graph))

    def room(self, count: int, like: Tensor) -> Tensor:
        """A block for ``count`` fields of the states after."""
        times = (self.steps + 1,) if self.whole else ()
        return like.new_empty(count, *times, *like.shape)

    def addresses(self, block: Tensor | None, count: int) -> list[int]:
        """Where in a block each field's first state after begins; zeros without a block."""
        if block is None:
            return [0] * count
        size = block.stride(0) * block.element_size()
        begin = block.data_ptr() + (block.stride(1) * block.element_size() if self.whole else 0)
        return [begin + k * size for k in range(len(block))] + [0] * (count - len(block))

    def head(self, order: int) -> list[int]:
        """The members of the call up to what is done."""
        worlds, vehicles = self.position.shape
        lane, previous, driver, active, time, left = (x.data_ptr() for x in self.fixed)
        given = (self.acceleration, self.request, self.steering, self.noise)
        return [
            *(worlds, vehicles, self.steps, torch.get_num_threads(), self.soft, order),
            *(self.position.data_ptr(), self.speed.data_ptr(), self.lateral.data_ptr(), self.heading.data_ptr()),
            *(self.cooldown.data_ptr(), lane, previous, driver, active, time, left),
            *(0 if x is None else x.data_ptr() for x in given),
        ]

    def results(self, block: Tensor) -> list[int]:
        """The members of the call for the states after."""
        position, speed, lateral, cooldown, heading = self.addresses(block, 5)
        lane, previous = self.addresses(self.whole_numbers, 2)
        others = [self.addresses(x, 1)[0] for x in (self.active, self.time, self.left)]
        return [position, speed, lateral, heading, cooldown, lane, previous, *others]

    def forward(self, keep: bool) -> tuple[Tensor, Tensor | None]:
        """The block of states after, and what the way back needs to know of them."""
        plan, state = self.plan, self.state
        worlds, vehicles = self.position.shape
        fields = [self.position, self.speed, self.lateral, self.cooldown]
        if plan.steered:
            fields.append(self.heading)
        block = self.room(len(fields), self.position)
        self.whole_numbers, self.time = self.room(2, state.lane), self.room(1, state.time)
        if plan.open:
            self.active, self.left = self.room(1, state.active), self.room(1, state.left)
        if self.whole:
            for made, befores in (
                (block, fields),
                (self.whole_numbers, self.fixed[:2]),
                (self.time, [state.time]),
                (self.active, [state.active]),
                (self.left, [state.left]),
            ):
                if made is not None:
                    for field, before in zip(made, befores, strict=True):
                        field[0] = before.detach()
        saved = None
        if keep:
            size = plan.saved_bytes(worlds, vehicles, self.soft)
            saved = torch.empty(self.steps * size + 64, dtype=torch.uint8)
        order = plan.take_order(worlds, vehicles)
        failed = _Three()
        values = [
            *self.head(order.data_ptr()),
            *self.results(block),
            *(_aligned(saved), ctypes.addressof(failed)),
            *[0] * (14 + len(PARAMETERS)),
        ]
        plan.forward(plan.address, pack_call(*values))
        plan.keep_order(order)
        if failed[0]:
            _refuse(*failed)
        return block, saved

    def backward(self, block: Tensor, saved: Tensor, bars: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Cotangents of the differentiable tensors."""
        plan, like = self.plan, self.position
        worlds = like.shape[0]
        held = [None if bar is None else bar.contiguous() for bar in bars]
        skip = like.numel() * like.element_size() if self.whole else 0
        position, speed, lateral, cooldown, heading = [
            *(0 if bar is None else bar.data_ptr() + skip for bar in held),
            *[0] * (5 - len(held)),
        ]
        found: dict[str, Tensor] = {}
        for name in self.names:
            if name in plan.tensors:
                parameter = plan.tensors[name]
                found[name] = like.new_zeros(worlds, parameter.shape[-1] if parameter.dim() else 1)
            elif name in _REAL_FIELDS:
                found[name] = torch.empty_like(like)
            else:
                found[name] = torch.empty_like(getattr(self, name))
        failed = _Three()
        own = [found[name].data_ptr() if name in found else 0 for name in _BARS]
        values = [
            *self.head(0),
            *self.results(block),
            *(_aligned(saved), ctypes.addressof(failed)),
            *(position, speed, lateral, heading, cooldown),
            *own,
        ]
        plan.backward(plan.address, pack_call(*values))
        if failed[0]:
            _refuse(*failed)
        result: list[Tensor | None] = []
        for name in self.names:
            bar = found[name]
            if name in plan.tensors:
                shape = plan.tensors[name].shape
                bar = bar if len(shape) == 2 else bar.sum(0).reshape(shape)
            elif self.whole and name in _REAL_FIELDS:
                asked = held[_REAL_FIELDS.index(name)] if _REAL_FIELDS.index(name) < len(held) else None
                bar = bar if asked is None else bar + asked[0]
            result.append(bar)
        return result


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, *tensors: Tensor) -> tuple[Tensor, ...]:
        block, saved = run.forward(keep=True)
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(block, saved, *tensors)
        made = block.unbind(0)
        fixed = []
        if not run.soft and _ASIDE.issuperset(run.names):  # none of it moves anybody
            fixed += [made[0], made[1], *made[4:]]
        steers = run.plan.steered and run.acceleration is not None
        if not (run.soft or steers or "lateral" in run.names):
            fixed.append(made[2])
        if not ("cooldown" in run.names or "change_cooldown" in run.names):
            fixed.append(made[3])
        ctx.mark_non_differentiable(*fixed)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        block, saved, *_ = ctx.saved_tensors
        return (None, *ctx.run.backward(block, saved, bars))


def _run(run: _Run) -> tuple[Tensor, ...]:
    tensors = run.differentiable() if torch.is_grad_enabled() else []
    run.decide_softness(bool(tensors))
    if tensors:
        return _Fused.apply(run, *tensors)
    return run.forward(keep=False)[0].unbind(0)


def _changed(run: _Run) -> dict[str, Tensor]:
    """Fields of the states after that the kernel has made."""
    fields = dict(zip(_REAL_FIELDS, _run(run), strict=False))
    assert run.whole_numbers is not None and run.time is not None
    fields["lane"], fields["previous"] = run.whole_numbers.unbind(0)
    fields["time"] = run.time[0]
    if run.active is not None and run.left is not None:
        fields["active"], fields["left"] = run.active[0], run.left[0]
    return fields


def step(plan: Plan, state: TrafficState, action: Action | None, noise: Tensor | None) -> TrafficState:
    """One step of the vehicles on the road; demand and signals are not touched."""
    after = object.__new__(TrafficState)  # the constructor would check again what the kernel has made
    after.__dict__.update(state.__dict__)
    after.__dict__.update(_changed(_Run(plan, state, action, noise, None)))
    return after


def rollout(
    plan: Plan, state: TrafficState, steps: int, actions: Action | None, noise: Tensor | None, dt: float
) -> Trajectory:
    """``steps`` steps in one call. Fields that do not change are shown once for all times."""
    fields = {name: x.expand(steps + 1, *x.shape) for name, x in vars(state).items()}
    fields |= _changed(_Run(plan, state, actions, noise, steps))
    return Trajectory(**fields, actions=actions, dt=dt)


def _plain(x: Tensor, plan: Plan) -> Tensor:
    return (x if x.dtype == plan.dtype else x.to(plan.dtype)).contiguous()


def _aligned(block: Tensor | None) -> int:
    return 0 if block is None else -(-block.data_ptr() // 64) * 64


def _refuse(failure: int, world: int, place: int) -> None:
    if failure == 1:
        raise MemoryError("the fused kernel has no memory for its work: simulate fewer worlds at once")
    if failure == 2:
        raise TrafficGradError(f"TrafficState.lane of vehicle slot {place} in world {world} is no lane of the network")
    if failure == 3:
        raise TrafficGradError(
            f"TrafficState.driver of vehicle slot {place} in world {world} is no row of the drivers' parameters"
        )
    raise TrafficGradError(f"Action.{_FAILURES[failure]} is not finite for controlled vehicle {place} of world {world}")


# The members of a call from the cotangents that are written on, by the names of differentiable tensors.
_BARS = ("position", "speed", "lateral", "heading", "cooldown", *_GIVEN, *PARAMETERS)
