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
from trafficgrad.kernels.layout import CALL, PARAMETERS, pack_call
from trafficgrad.kernels.library import threads
from trafficgrad.kernels.plan import Plan
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory

SIDES_KEPT = 2_000_000  # vehicle-steps; of more of them, who is in the lanes beside is searched again on the way back
# What a step hands on with a gradient.
_CARRIED = ("position", "speed", "lateral", "heading", "cooldown", "passed", "next_arrival")
_GIVEN = ("acceleration", "request", "steering", "noise", "rate")
_TABLES = ("speed_limit", "durations", "offset")
_ASIDE = frozenset({"lateral", "cooldown", "change_cooldown", "request"})
_FAILURES = {
    2: "TrafficState.lane of vehicle slot {place} in world {world} is no lane of the network",
    3: "TrafficState.driver of vehicle slot {place} in world {world} is no row of the drivers' parameters",
    4: "Action.acceleration is not finite for controlled vehicle {place} of world {world}",
    5: "Action.lane is not finite for controlled vehicle {place} of world {world}",
    6: "Action.steering is not finite for controlled vehicle {place} of world {world}",
    7: "TrafficState.previous of vehicle slot {place} in world {world} is no lane of the network",
    8: "TrafficState.right_of_way of vehicle slot {place} in world {world} is no lane of the network",
    9: "TrafficState.route of vehicle slot {place} in world {world} is no route of the network",
    10: "TrafficState.route_index of vehicle slot {place} in world {world} is no place on its route",
    11: "TrafficState.phase of signal {place} in world {world} is no phase of its programme",
    12: "Action.signal is not finite for signal {place} of world {world}",
}
_ORDER = CALL.index("order")
_Three = ctypes.c_int64 * 3


class Run:
    """One call of the kernel: what goes in, and what comes out beside the tensors that carry gradients."""

    judged = False  # the call also tells an outcome: then cotangents are those of the last state alone

    def __init__(
        self,
        plan: Plan,
        state: TrafficState,
        action: Action | None,
        noise: Tensor | None,
        steps: int | None,
        held: bool = False,
    ) -> None:
        self.plan = plan
        self.steps = 1 if steps is None else steps
        self.whole = steps is not None  # states after have a time dimension that begins with the state before
        self.position, self.speed = state.position.contiguous(), state.speed.contiguous()
        self.lateral, self.heading = state.lateral.contiguous(), state.heading.contiguous()
        self.cooldown = state.cooldown.contiguous()
        self.passed = state.passed.contiguous() if plan.signals or plan.inflows else None
        fixed = [state.lane, state.previous, state.driver, state.active, state.time, state.left]
        if plan.routes:
            fixed += [state.route, state.route_index, state.right_of_way, state.passed, state.phase, state.phase_time]
        self.fixed = [x.contiguous() for x in fixed]
        self.next_arrival = self.rate = None
        self.queues: list[Tensor] = []
        if plan.demand is not None:
            self.next_arrival, self.rate = state.next_arrival.contiguous(), plan.demand.rates(state).contiguous()
            queues = [state.arrivals, state.inserted, state.next_id, state.vehicle_id, state.seed]
            self.queues = [x.contiguous() for x in queues]
        self.acceleration = self.request = self.steering = self.signal_request = None
        if action is not None:
            self.acceleration = _plain(action.acceleration, plan)
            self.request = None if action.lane is None else _plain(action.lane, plan)
            self.steering = None if action.steering is None else _plain(action.steering, plan)
            if action.signal is not None and plan.signals:
                self.signal_request = _plain(action.signal.detach(), plan)
        self.noise = None
        if noise is not None:
            shape = self.position.shape if steps is None else (steps, *self.position.shape)
            self.noise = _plain(noise if noise.shape == shape else _spread(noise, shape), plan)
        self.names: list[str] = []  # of the tensors that require a gradient
        self.made: list[str] = []  # of the fields after that may carry one
        self.soft = False
        self.values: list[int] = []  # of the call, up to its cotangents
        self.saved: Tensor | None = None
        self.plain: dict[str, Tensor] = {}  # fields after that carry no gradient
        self.held = held
        self.granted = self.overlaps = None
        if held and action is not None:
            self.granted = torch.empty(self.acceleration.shape, dtype=torch.int64)  # type: ignore[union-attr]
        if held and not self.judged:
            self.overlaps = torch.empty((self.steps, len(self.position)), dtype=torch.bool)

    def differentiable(self) -> list[Tensor]:
        """What requires a gradient, as ``names`` call it."""
        found = []
        for name in (*_CARRIED, *_GIVEN):
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
        """The fields of the states after that may carry gradients, as ``made`` names them."""
        plan = self.plan
        worlds, vehicles = self.position.shape
        lane, previous, driver, active, time, left = self.fixed[:6]
        self.made = ["position", "speed", "lateral", "cooldown"]
        if plan.steered:
            self.made.append("heading")
        if self.passed is not None:
            self.made.append("passed")
        if self.next_arrival is not None:
            self.made.append("next_arrival")
        made = [self.room(getattr(self, name)) for name in self.made]
        plain = self.plain = {"lane": self.room(lane), "previous": self.room(previous), "time": self.room(time)}
        if plan.open:
            plain |= {"active": self.room(active), "left": self.room(left)}
        roads: tuple[int, ...] = (0,) * 6
        if plan.routes:
            _, index, right, _, phase, phase_time = self.fixed[6:]
            roads = tuple(x.data_ptr() for x in self.fixed[6:])
            plain |= {"route_index": self.room(index), "right_of_way": self.room(right)}
            if plan.signals:
                plain |= {"phase": self.room(phase), "phase_time": self.room(phase_time)}
        come: tuple[int, ...] = (0,) * 8
        if self.queues:
            arrivals, inserted, next_id, vehicle_id, seed = self.queues
            come = (arrivals.data_ptr(), inserted.data_ptr(), self.next_arrival.data_ptr(), next_id.data_ptr())  # type: ignore[union-attr]
            come += (vehicle_id.data_ptr(), seed.data_ptr(), self.rate.data_ptr())  # type: ignore[union-attr]
            come += (plan.inflows if self.rate.dim() == 2 else 0,)  # type: ignore[union-attr]
            fields = {"driver": driver, "vehicle_id": vehicle_id, "route": self.fixed[6]}
            fields |= {"arrivals": arrivals, "inserted": inserted, "next_id": next_id}
            plain |= {name: self.room(x) for name, x in fields.items()}
        keeps_sides = self.soft and (plan.branched or self.steps * worlds * vehicles < SIDES_KEPT)
        if keep:
            size = plan.saved_bytes(worlds, vehicles, keeps_sides)
            self.saved = torch.empty(self.steps * size + 64, dtype=torch.uint8)
        cells, real, each = worlds * vehicles, plan.dtype.itemsize, worlds * plan.signals
        queues = worlds * plan.inflows
        carried = {
            name: self.place(x, (queues if name == "next_arrival" else cells) * real)
            for name, x in zip(self.made, made, strict=True)
        }
        given = (self.acceleration, self.request, self.steering, self.noise, self.signal_request)
        order = plan.take_order(worlds, vehicles)
        failed = _Three()
        self.values = [
            *(worlds, vehicles, self.steps, threads(), self.soft, keeps_sides, order.data_ptr()),
            *(self.position.data_ptr(), self.speed.data_ptr(), self.lateral.data_ptr(), self.heading.data_ptr()),
            *(self.cooldown.data_ptr(), lane.data_ptr(), previous.data_ptr(), driver.data_ptr()),
            *(active.data_ptr(), time.data_ptr(), left.data_ptr()),
            *roads,
            *come,
            *[0 if x is None else x.data_ptr() for x in given],
            *(carried["position"], carried["speed"], carried["lateral"], carried.get("heading", 0)),
            *(carried["cooldown"], self.place(plain["lane"], cells * 8), self.place(plain["previous"], cells * 8)),
            *(self.place(plain.get("active"), cells), self.place(plain["time"], worlds * real)),
            *(self.place(plain.get("left"), worlds * 8), self.place(plain.get("route_index"), cells * 8)),
            *(self.place(plain.get("right_of_way"), cells * 8), carried.get("passed", 0)),
            *(self.place(plain.get("phase"), each * 8), self.place(plain.get("phase_time"), each * real)),
            *(self.place(plain.get("driver"), cells * 8), self.place(plain.get("vehicle_id"), cells * 8)),
            *(self.place(plain.get("route"), cells * 8), self.place(plain.get("arrivals"), queues * 8)),
            *(self.place(plain.get("inserted"), queues * 8), carried.get("next_arrival", 0)),
            self.place(plain.get("next_id"), worlds * 8),
            *(self.granted is not None, 0 if self.granted is None else self.granted.data_ptr()),
            0 if self.overlaps is None else self.overlaps.data_ptr(),
            *(0, 0),
            0 if self.saved is None else -(-self.saved.data_ptr() // 64) * 64,
        ]
        plan.forward(plan.address, pack_call(*self.values, ctypes.addressof(failed), *_NO_BARS), self.outcome())
        plan.keep_order(order)
        if failed[0]:
            refuse(*failed)
        return made

    def outcome(self) -> bytes | None:
        """What else the kernel shall tell."""
        return None

    def without_gradient(self) -> set[str]:
        """Names of the fields after that cannot carry one, whoever asks."""
        names, plan = self.names, self.plan
        fixed = {"cooldown"} if not ("cooldown" in names or "change_cooldown" in names) else set()
        if not self.soft and _ASIDE.issuperset(names):  # none of it moves anybody
            fixed |= {"position", "speed", "heading", "passed"}
        if not (self.soft or (plan.steered and self.acceleration is not None) or "lateral" in names):
            fixed.add("lateral")
        if not (plan.carries or "passed" in names):
            fixed.add("passed")
        if not ("next_arrival" in names or "rate" in names):
            fixed.add("next_arrival")
        return fixed

    def backward(self, bars: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Cotangents of the differentiable tensors."""
        plan, like = self.plan, self.position
        worlds, vehicles = like.shape
        held = {name: bar.contiguous() for name, bar in zip(self.made, bars, strict=True) if bar is not None}
        all_times = self.whole and not self.judged
        real = plan.dtype.itemsize if all_times else 0
        skips = {name: real * worlds * (plan.inflows if name == "next_arrival" else vehicles) for name in held}
        found: dict[str, Tensor] = {}
        for name in self.names:
            parameter = plan.tensors.get(name)
            if name == "rate":
                found[name] = torch.zeros((worlds, plan.inflows), dtype=plan.dtype)
            elif parameter is None:
                found[name] = torch.empty_like(getattr(self, name))
            else:
                rank = plan.tables.get(name, 1)
                shape = parameter.shape[parameter.dim() - rank :] if parameter.dim() else (1,)
                found[name] = torch.zeros((worlds, *shape), dtype=plan.dtype)
        order = plan.take_order(worlds, vehicles)
        self.values[_ORDER] = order.data_ptr()
        failed = _Three()
        values = pack_call(
            *self.values,
            ctypes.addressof(failed),
            *[held[name].data_ptr() + skips[name] if name in held else 0 for name in _CARRIED],
            *[found[name].data_ptr() if name in found else 0 for name in _BARS],
        )
        plan.backward(plan.address, values, self.outcome())
        plan.keep_order(order)
        if failed[0]:
            refuse(*failed)
        result: list[Tensor | None] = []
        for name in self.names:
            bar, parameter = found[name], plan.tensors.get(name)
            if name == "rate":
                bar = bar if self.rate.dim() == 2 else bar.sum(0)  # type: ignore[union-attr]
            elif parameter is not None:
                if bar.shape != parameter.shape or parameter.dim() == plan.tables.get(name, 1):
                    bar = bar.sum(0).reshape(parameter.shape)
            elif all_times and name in held:
                bar = bar + held[name][0]  # what was asked about the state before
            result.append(bar)
        return result


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, *tensors: Tensor) -> tuple[Tensor, ...]:
        made = run.forward(True)
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*made, *tensors)
        fixed = run.without_gradient()
        ctx.mark_non_differentiable(*(x for name, x in zip(run.made, made, strict=True) if name in fixed))
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # they have not been changed, and are still here
        return (None, *ctx.run.backward(bars))


def _changed(run: Run) -> dict[str, Tensor]:
    """Fields of the states after that the kernel has made."""
    tensors = run.differentiable() if torch.is_grad_enabled() else []
    run.decide_softness(bool(tensors))
    made = _Fused.apply(run, *tensors) if tensors else run.forward(False)
    return {**dict(zip(run.made, made, strict=True)), **run.plain}


def step(plan: Plan, state: TrafficState, action: Action | None, noise: Tensor | None) -> TrafficState:
    """One step."""
    after = object.__new__(TrafficState)  # the constructor would check again what the kernel has made
    after.__dict__.update(state.__dict__)
    after.__dict__.update(_changed(Run(plan, state, action, noise, None)))
    return after


def rollout(
    plan: Plan, state: TrafficState, steps: int, actions: Action | None, noise: Tensor | None, dt: float
) -> Trajectory:
    """``steps`` steps in one call. Fields that do not change are shown once for all times."""
    fields = {name: x.expand(steps + 1, *x.shape) for name, x in vars(state).items()}
    fields |= _changed(Run(plan, state, actions, noise, steps))
    return Trajectory(**fields, actions=actions, dt=dt)


def hold(
    plan: Plan, state: TrafficState, steps: int, action: Action | None, noise: Tensor | None, dt: float
) -> tuple[Trajectory, Tensor]:
    """Like :func:`rollout`, with one action [B, C] for all steps.

    A lane request is dropped once it is granted; its gradient is that of the granting step, or the mean over the steps
    where none granted it. Also returns whether somebody was within the vehicle ahead before each step, [T, B] bool.
    """
    run = Run(plan, state, action, noise, steps, True)
    fields = {name: x.expand(steps + 1, *x.shape) for name, x in vars(state).items()}
    fields |= _changed(run)
    assert run.overlaps is not None
    return Trajectory(**fields, actions=None, dt=dt), run.overlaps


def _plain(x: Tensor, plan: Plan) -> Tensor:
    return (x if x.dtype == plan.dtype else x.to(plan.dtype)).contiguous()


def _spread(noise: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return noise.expand(shape)
    except RuntimeError:
        raise TrafficGradError(f"noise must have shape {list(shape)}, got {list(noise.shape)}") from None


def refuse(failure: int, world: int, place: int) -> None:
    """Say what the kernel has refused."""
    if failure == 1:
        raise MemoryError("the fused kernel has no memory for its work: simulate fewer worlds at once")
    raise TrafficGradError(_FAILURES[failure].format(world=world, place=place))


# The members of a call from the cotangents that are written on, by the names of differentiable tensors.
_BARS = (*_CARRIED, *_GIVEN[:4], *_TABLES, "rate", *PARAMETERS)
_NO_BARS = (0,) * (len(_CARRIED) + len(_BARS))
