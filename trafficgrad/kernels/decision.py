"""A decision of an environment in one call of the kernel: its steps, and what is observed, earned and failed by them.

The definitions are those of the environment's own modules (observations, rewards, metrics, failures), which know the
scenario; this one gets plain numbers.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trafficgrad.kernels.fused import Run
from trafficgrad.kernels.layout import MEASURES, MOST_OTHERS, TERMS, WishRecord, pack_outcome
from trafficgrad.kernels.plan import Plan
from trafficgrad.state import Action, TrafficState
from trafficgrad.trajectory import Trajectory

Sees = Literal["nothing", "local", "world"]
_SEES: tuple[Sees, ...] = ("nothing", "local", "world")


@dataclass(frozen=True)
class Wish:
    """What an environment wants to know of the states that its decisions lead to."""

    sees: Sees
    target_speed: float = 0.0  # m/s, the observation's
    speed_scale: float = 1.0
    gap_scale: float = 1.0
    distance_scale: float = 1.0
    beside_distance: float = 0.0
    others: int = 0
    terms: tuple[tuple[str, float], ...] = ()  # name in TERMS and scale; of the pace: its target
    fails_overlapping: bool = False
    fails_off_road: bool = False
    fails_overtaken: bool = False
    nearest: float = 0.0  # m, of centres; 0 = no test
    farthest: float = math.inf
    target: float = 0.0  # m/s, of the speed error
    standing: float = 0.0  # m/s


@dataclass(frozen=True)
class Decision:
    """What a decision led to."""

    last: TrafficState
    whole: Callable[[], Trajectory]  # the states between its steps, without graph
    observation: Tensor  # [B, C, O], of the world [B, 4 N]; [B, 0, 0] where nothing is seen
    terms: Tensor  # [TERMS, B], means over the steps; 0 where not asked for
    measures: dict[str, Tensor]  # name in MEASURES -> [B]
    failed: Tensor  # [B] bool
    collided: Tensor  # [B] bool


def why_not(plan: Plan, wish: Wish) -> str | None:
    """What keeps the kernel from telling this of the simulator, as a clause; None if it can."""
    if plan.branched:
        return "roads meet and part"
    if plan.inflows:
        return "vehicles come"
    if wish.others > MOST_OTHERS:
        return f"more than {MOST_OTHERS} other controlled vehicles are shown"
    if not plan.controlled and wish.sees != "nothing":
        return "nobody is controlled"
    length = plan.values["length"]
    if isinstance(length, Tensor) and length.requires_grad:
        return "vehicle lengths require a gradient"
    return None


class _Asked(Run):
    """A call that tells an outcome."""

    judged = True

    def __init__(
        self, plan: Plan, wish: Wish, state: TrafficState, steps: int, action: Action | None, noise: Tensor | None
    ) -> None:
        super().__init__(plan, state, action, noise, steps, True)
        self.whole = False
        worlds, vehicles = self.position.shape
        shape: tuple[int, ...] = (worlds, 0, 0)
        if wish.sees == "local":
            shape = (worlds, plan.controlled, _columns(plan, wish))
        elif wish.sees == "world":
            shape = (worlds, 4 * vehicles)
        self.wish = _record(plan, wish)
        self.shape = shape
        self.observation = self.terms = 0  # addresses; the call does not keep its results, which keep the call
        self.measures = torch.empty((len(MEASURES), worlds), dtype=plan.dtype)
        self.failed = torch.empty(worlds, dtype=torch.bool)
        self.collided = torch.empty(worlds, dtype=torch.bool)
        self.bar_observation: Tensor | None = None
        self.bar_terms: Tensor | None = None
        self.later: dict[str, Tensor] = {}  # fields after every step that may carry gradients

    def room(self, like: Tensor) -> Tensor:
        """For a field of the states after, without the one before."""
        return torch.empty((self.steps, *like.shape), dtype=like.dtype)

    def outcome(self) -> bytes:
        """What the kernel reads and writes of it."""
        return pack_outcome(
            *(self.wish, self.observation, self.terms),
            *(x.data_ptr() for x in (self.measures, self.failed, self.collided)),
            0 if self.bar_observation is None else self.bar_observation.data_ptr(),
            0 if self.bar_terms is None else self.bar_terms.data_ptr(),
        )

    def tell(self, keep: bool) -> tuple[Tensor, ...]:
        """Do the steps; returns the last state's fields that may carry gradients, as ``made`` names them, the
        observation and the terms.
        """
        dtype = self.plan.dtype
        observation = torch.empty(self.shape, dtype=dtype)
        terms = torch.empty((len(TERMS), self.shape[0]), dtype=dtype)
        self.observation, self.terms = observation.data_ptr(), terms.data_ptr()
        made = self.forward(keep)
        self.observation = self.terms = 0
        self.later = dict(zip(self.made, made, strict=True))
        return (*[x[-1] for x in made], observation, terms)


class _Decided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Asked, *tensors: Tensor) -> tuple[Tensor, ...]:
        told = run.tell(True)
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*run.later.values(), *tensors)
        fixed = run.without_gradient()
        ctx.mark_non_differentiable(*(x for name, x in zip(run.made, told, strict=False) if name in fixed))
        return told

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # they have not been changed, and are still here
        run: _Asked = ctx.run
        *fields, bar_observation, bar_terms = bars
        run.bar_observation = None if bar_observation is None else bar_observation.contiguous()
        run.bar_terms = None if bar_terms is None else bar_terms.contiguous()
        return (None, *run.backward(tuple(fields)))


def decide(
    plan: Plan,
    wish: Wish,
    state: TrafficState,
    steps: int,
    action: Action | None,
    noise: Tensor | None,
    dt: float,
) -> Decision:
    """``steps`` steps with one action [B, C], held as in :func:`trafficgrad.kernels.fused.hold`, and their outcome."""
    run = _Asked(plan, wish, state, steps, action, noise)
    tensors = run.differentiable() if torch.is_grad_enabled() else []
    run.decide_softness(bool(tensors))
    *fields, observation, terms = _Decided.apply(run, *tensors) if tensors else run.tell(False)
    last = object.__new__(TrafficState)  # the constructor would check again what the kernel has made
    last.__dict__.update(state.__dict__)
    last.__dict__.update(zip(run.made, fields, strict=True))
    last.__dict__.update({name: x[-1] for name, x in run.plain.items()})

    def whole() -> Trajectory:
        fields = {name: x.detach().expand(steps + 1, *x.shape) for name, x in vars(state).items()}
        for name, x in {**run.later, **run.plain}.items():
            fields[name] = torch.cat([fields[name][:1], x])
        return Trajectory(**fields, actions=None, dt=dt)

    return Decision(
        last,
        whole,
        observation,
        terms,
        dict(zip(MEASURES, run.measures.unbind(), strict=True)),
        run.failed,
        run.collided,
    )


def _columns(plan: Plan, wish: Wish) -> int:
    """Of a row of the local observation."""
    lanes = plan.setup.max_lanes
    return 7 + wish.others if lanes == 1 else 23 + lanes + 2 * wish.others


def _record(plan: Plan, wish: Wish) -> int:
    """Address of the wish as the kernel reads it; made once for a plan."""
    record = plan.wishes.get(wish)
    if record is None:
        record = plan.wishes[wish] = WishRecord()
        record.place, record.circumference = plan.places()
        record.sees, record.others = _SEES.index(wish.sees), wish.others
        for name in ("target_speed", "speed_scale", "gap_scale", "distance_scale", "beside_distance"):
            setattr(record, name, getattr(wish, name))
        for name, scale in wish.terms:
            record.earns[TERMS.index(name)], record.scale[TERMS.index(name)] = 1, scale
        for name in ("fails_overlapping", "fails_off_road", "fails_overtaken", "nearest", "farthest", "target"):
            setattr(record, name, getattr(wish, name))
        record.standing = wish.standing
    return ctypes.addressof(record)
