"""Who surrounds whom, by the compiled kernel: what :meth:`trafficgrad.simulator.Simulator.neighbors` returns."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trafficgrad.car_following.base import look_up
from trafficgrad.kernels.fused import refuse
from trafficgrad.kernels.layout import CALL, SIGHT, pack_call, pack_sight
from trafficgrad.kernels.library import threads
from trafficgrad.kernels.plan import Plan
from trafficgrad.paths import GATES
from trafficgrad.state import Ahead, Neighbors, TrafficState

_PLACE = {name: place for place, name in enumerate(CALL)}
_BARS = SIGHT.index("bar_gap")  # of a sight: here its cotangents begin
_BAR_POSITION, _BAR_SPEED, _FAILED = _PLACE["bar_position"], _PLACE["bar_speed"], _PLACE["failed"]
_HEAD = _PLACE["acceleration"]
_REALS = ("gap", "follower_gap", "closing", "follower_closing", "gate_distance", "end_distance", "slow_distance")
_FIELDS = (
    "position",
    "speed",
    "lateral",
    "heading",
    "cooldown",
    "lane",
    "previous",
    "driver",
    "active",
    "time",
    "left",
)
_ROAD_FIELDS = ("route", "route_index", "right_of_way", "passed", "phase", "phase_time")


class _Look:
    """One call of the kernel."""

    def __init__(self, plan: Plan, state: TrafficState) -> None:
        self.plan, self.state = plan, state
        names = (*_FIELDS, *_ROAD_FIELDS) if plan.branched else _FIELDS
        self.given = [getattr(state, name).contiguous() for name in names]
        self.indices: dict[str, Tensor] = {}
        self.coming = self.coming_distance = state.lane

    def head(self, order: int) -> list[int]:
        """A call up to what is done, and zeros behind."""
        worlds, vehicles = self.state.position.shape
        values = [worlds, vehicles, 1, threads(), 0, 0, order, *(x.data_ptr() for x in self.given)]
        return values + [0] * (len(CALL) - len(values))

    def forward(self) -> tuple[Tensor, ...]:
        """Gaps and closing speeds; where roads meet and part also the distances to what lies ahead."""
        plan, state = self.plan, self.state
        worlds, vehicles = state.position.shape
        shape, dtype = (worlds, vehicles, 3), plan.dtype
        made = {name: torch.empty(shape, dtype=dtype) for name in _REALS[:4]}
        self.indices = {name: torch.empty(shape, dtype=torch.int64) for name in ("leader", "follower")}
        if plan.branched:
            made["gate_distance"] = torch.empty((worlds, vehicles, GATES), dtype=dtype)
            made["end_distance"], made["slow_distance"] = (torch.empty(shape[:2], dtype=dtype) for _ in range(2))
            self.indices["gate"] = torch.empty((worlds, vehicles, GATES), dtype=torch.int64)
            self.indices["slow"] = torch.empty(shape[:2], dtype=torch.int64)
            lanes = plan.setup.lanes
            self.coming = torch.empty((worlds, lanes), dtype=torch.int64)
            self.coming_distance = torch.empty((worlds, lanes), dtype=dtype)
        order = plan.take_order(worlds, vehicles)
        values = self.head(order.data_ptr())
        if plan.branched:
            values[_PLACE["coming"]], values[_PLACE["coming_distance"]] = (
                self.coming.data_ptr(),
                self.coming_distance.data_ptr(),
            )
        failed = (ctypes.c_int64 * 3)()
        values[_FAILED] = ctypes.addressof(failed)
        all_of_them = {**made, **self.indices}
        sight = [all_of_them[name].data_ptr() if name in all_of_them else 0 for name in SIGHT]
        plan.look(plan.address, pack_call(*values), pack_sight(*sight))
        plan.keep_order(order)
        if failed[0]:
            refuse(*failed)
        return tuple(made.values())

    def backward(self, bars: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Cotangents of positions, speeds and lengths, [B, N]."""
        plan, like = self.plan, self.given[0]
        position, speed, length = torch.zeros_like(like), torch.zeros_like(like), torch.zeros_like(like)
        held = [None if bar is None else bar.contiguous() for bar in bars]
        failed = (ctypes.c_int64 * 3)()
        values = self.head(0)
        values[_FAILED] = ctypes.addressof(failed)
        values[_BAR_POSITION], values[_BAR_SPEED] = position.data_ptr(), speed.data_ptr()
        sight = [0] * len(SIGHT)
        sight[0], sight[1] = self.indices["leader"].data_ptr(), self.indices["follower"].data_ptr()
        for k, bar in enumerate(held):
            sight[_BARS + k] = 0 if bar is None else bar.data_ptr()
        sight[-1] = length.data_ptr()
        plan.look_back(pack_call(*values), pack_sight(*sight))
        return position, speed, length


class _Surroundings(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, look: _Look, position: Tensor, speed: Tensor, length: Tensor | None) -> tuple[Tensor, ...]:
        ctx.look = look
        ctx.set_materialize_grads(False)
        return look.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        position, speed, length = ctx.look.backward(bars)
        return None, position, speed, length if ctx.needs_input_grad[3] else None


def neighbors(plan: Plan, state: TrafficState) -> Neighbors:
    """Leaders, followers, gaps and closing speeds of every vehicle in its own, right and left lane."""
    look = _Look(plan, state)
    length = plan.values["length"]
    needs = state.position.requires_grad or state.speed.requires_grad
    needs = needs or (isinstance(length, Tensor) and length.requires_grad)
    if needs and torch.is_grad_enabled():
        own = look_up(length, state.driver) if isinstance(length, Tensor) else None
        if isinstance(own, Tensor) and own.dim() < 2:
            own = own.expand(state.position.shape)
        made = _Surroundings.apply(look, state.position, state.speed, own)
    else:
        made = look.forward()
    gap, follower_gap, closing, follower_closing, *distances = made
    ahead = None
    if plan.branched:
        gate_distance, end_distance, slow_distance = distances
        found = look.indices
        ahead = Ahead(
            found["gate"], gate_distance, end_distance, found["slow"], slow_distance, look.coming, look.coming_distance
        )
    return Neighbors(
        look.indices["leader"], look.indices["follower"], gap, follower_gap, closing, follower_closing, ahead
    )
