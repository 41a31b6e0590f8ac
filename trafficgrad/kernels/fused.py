"""Steps and rollouts by the compiled kernel: the same results as the reference's, forward and backward.

A step takes a few dozen microseconds, so this module counts them: only what requires a gradient passes through
autograd, and the call is packed in one go.
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

_REAL_FIELDS = (
    "position",
    "speed",
    "lateral",
    "cooldown",
    "heading",
)  # in the order in which the states after are made
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
        self.values: list[int] = []  # of the call, up to its cotangents
        self.lane = self.previous = self.time = self.fixed[0]
        self.active: Tensor | None = None
        self.left: Tensor | None = None
        self.saved: Tensor | None = None

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

    def room(self, like: Tensor) -> Tensor:
        """For a field of the states after, with the one before in front where all times are wanted."""
        if not self.whole:
            return torch.empty_like(like)
        made = torch.empty((self.steps + 1, *like.shape), dtype=like.dtype)
        made[0] = like.detach()
        return made

    def place(self, made: Tensor | None, size: int) -> int:
        """Where the first state after begins; ``size`` of the field at one time, bytes."""
        return 0 if made is None else made.data_ptr() + (size if self.whole else 0)

    def forward(self, keep: bool) -> list[Tensor]:
        """The floating fields of the states after."""
        plan = self.plan
        worlds, vehicles = self.position.shape
        lane, previous, driver, active, time, left = self.fixed
        made = [self.room(self.position), self.room(self.speed), self.room(self.lateral), self.room(self.cooldown)]
        if plan.steered:
            made.append(self.room(self.heading))
        self.lane, self.previous, self.time = self.room(lane), self.room(previous), self.room(time)
        if plan.open:
            self.active, self.left = self.room(active), self.room(left)
        if keep:
            size = plan.saved_bytes(worlds, vehicles, self.soft)
            self.saved = torch.empty(self.steps * size + 64, dtype=torch.uint8)
        cells, real = worlds * vehicles, plan.dtype.itemsize
        position, speed, lateral, cooldown, *heading = [self.place(x, cells * real) for x in made]
        given = (self.acceleration, self.request, self.steering, self.noise)
        order = plan.take_order(worlds, vehicles)
        failed = _Three()
        self.values = [
            *(worlds, vehicles, self.steps, torch.get_num_threads(), self.soft, order.data_ptr()),
            *(self.position.data_ptr(), self.speed.data_ptr(), self.lateral.data_ptr(), self.heading.data_ptr()),
            *(self.cooldown.data_ptr(), lane.data_ptr(), previous.data_ptr(), driver.data_ptr()),
            *(active.data_ptr(), time.data_ptr(), left.data_ptr()),
            *[0 if x is None else x.data_ptr() for x in given],
            *(position, speed, lateral, heading[0] if heading else 0, cooldown),
            *(self.place(self.lane, cells * 8), self.place(self.previous, cells * 8), self.place(self.active, cells)),
            *(self.place(self.time, worlds * real), self.place(self.left, worlds * 8)),
            0 if self.saved is None else -(-self.saved.data_ptr() // 64) * 64,
        ]
        plan.forward(plan.address, pack_call(*self.values, ctypes.addressof(failed), *_NO_BARS))
        plan.keep_order(order)
        if failed[0]:
            _refuse(*failed)
        return made

    def backward(self, bars: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Cotangents of the differentiable tensors."""
        plan, like = self.plan, self.position
        worlds, vehicles = like.shape
        held = [None if bar is None else bar.contiguous() for bar in bars]
        skip = worlds * vehicles * plan.dtype.itemsize if self.whole else 0
        position, speed, lateral, cooldown, *heading = [0 if bar is None else bar.data_ptr() + skip for bar in held]
        found: dict[str, Tensor] = {}
        for name in self.names:
            parameter = plan.tensors.get(name)
            if parameter is not None:
                rows = parameter.shape[-1] if parameter.dim() else 1
                found[name] = torch.zeros((worlds, rows), dtype=plan.dtype)
            else:
                found[name] = torch.empty_like(getattr(self, name))
        failed = _Three()
        values = pack_call(
            *self.values,
            ctypes.addressof(failed),
            *(position, speed, lateral, heading[0] if heading else 0, cooldown),
            *[found[name].data_ptr() if name in found else 0 for name in _BARS],
        )
        plan.backward(plan.address, values)
        if failed[0]:
            _refuse(*failed)
        result: list[Tensor | None] = []
        for name in self.names:
            bar, parameter = found[name], plan.tensors.get(name)
            if parameter is not None:
                bar = bar if parameter.dim() == 2 else bar.sum(0).reshape(parameter.shape)
            elif self.whole and name in _REAL_FIELDS:
                place = _REAL_FIELDS.index(name)
                asked = held[place] if place < len(held) else None
                bar = bar if asked is None else bar + asked[0]
            result.append(bar)
        return result


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, *tensors: Tensor) -> tuple[Tensor, ...]:
        made = run.forward(keep=True)
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*made, *tensors)
        fixed = []
        names = run.names
        if not run.soft and _ASIDE.issuperset(names):  # none of it moves anybody
            fixed += [made[0], made[1], *made[4:]]
        steers = run.plan.steered and run.acceleration is not None
        if not (run.soft or steers or "lateral" in names):
            fixed.append(made[2])
        if not ("cooldown" in names or "change_cooldown" in names):
            fixed.append(made[3])
        ctx.mark_non_differentiable(*fixed)
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # they have not been changed, and are still here
        return (None, *ctx.run.backward(bars))


def _changed(run: _Run) -> dict[str, Tensor]:
    """Fields of the states after that the kernel has made."""
    tensors = run.differentiable() if torch.is_grad_enabled() else []
    run.decide_softness(bool(tensors))
    made = _Fused.apply(run, *tensors) if tensors else run.forward(keep=False)
    fields = dict(zip(_REAL_FIELDS, made, strict=False))
    fields["lane"], fields["previous"], fields["time"] = run.lane, run.previous, run.time
    if run.active is not None and run.left is not None:
        fields["active"], fields["left"] = run.active, run.left
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
_NO_BARS = (0,) * (5 + 5 + len(_GIVEN) + len(PARAMETERS))
_BARS = ("position", "speed", "lateral", "heading", "cooldown", *_GIVEN, *PARAMETERS)
