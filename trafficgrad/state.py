"""The data of a simulation: what a world looks like at one time, who drives, and what the controlled vehicles do.

Shapes: ``B`` worlds, ``N`` vehicle slots, ``C`` controlled vehicles, ``P`` drivers, ``Q`` inflows, ``S`` signals. Units
are SI.
"Per driver" means a float, a tensor ``[P]`` or ``[B, P]``: a vehicle uses row ``driver[b, n]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.tree import register_record

Control = Literal["acceleration", "lane", "steered"]
CONTROLS: tuple[Control, ...] = ("acceleration", "lane", "steered")
PerDriver = float | Tensor


@register_record
@dataclass(frozen=True)
class TrafficState:
    """State of ``B`` worlds with ``N`` vehicle slots each. Nothing ever changes a state: steps return new ones.

    Only ``position``, ``speed`` and ``lane`` must be given; the rest defaults to vehicles at the centre of their
    lane, slot ``n`` driven by driver ``n``, all active, at time zero. ``[N]`` inputs are read as one world.
    """

    position: Tensor  # [B, N] m, front bumper, along the lane
    speed: Tensor  # [B, N] m/s, >= 0 (a steered vehicle may reverse)
    lane: Tensor  # [B, N] int64, index into network.lanes; -1 = off the road (steered vehicles only)
    lateral: Tensor = None  # type: ignore[assignment]  # [B, N] m, + = left of the lane's centre line; carries only gradient for drivers bound to lanes
    heading: Tensor = None  # type: ignore[assignment]  # [B, N] rad, relative to the lane (steered vehicles)
    cooldown: Tensor = None  # type: ignore[assignment]  # [B, N] s until the next lane change is allowed
    route: Tensor = None  # type: ignore[assignment]  # [B, N] int64, row of the network's routes (open networks); -1 = none
    route_index: Tensor = None  # type: ignore[assignment]  # [B, N] int64, progress along the route
    previous: Tensor = None  # type: ignore[assignment]  # [B, N] int64, lane that the front bumper was on before; -1 = none
    right_of_way: Tensor = None  # type: ignore[assignment]  # [B, N] int64, last junction lane it may cross; -1
    vehicle_id: Tensor = None  # type: ignore[assignment]  # [B, N] int64, identity of the vehicle in the slot
    driver: Tensor = None  # type: ignore[assignment]  # [B, N] int64, row of every per-driver parameter
    active: Tensor = None  # type: ignore[assignment]  # [B, N] bool, the slot holds a vehicle
    passed: Tensor = None  # type: ignore[assignment]  # [B, N] -, 0: carries only the gradient of passing a red signal
    time: Tensor = None  # type: ignore[assignment]  # [B] s
    seed: Tensor = None  # type: ignore[assignment]  # [B] int64, of everything random that traffic draws itself
    arrivals: Tensor = None  # type: ignore[assignment]  # [B, Q] int64, vehicles that have come to each inflow
    next_arrival: Tensor = None  # type: ignore[assignment]  # [B, Q] s, when the next one comes; inf = none
    inserted: Tensor = None  # type: ignore[assignment]  # [B, Q] int64, of the arrivals those that entered; the rest waits
    next_id: Tensor = None  # type: ignore[assignment]  # [B] int64, identity of the next vehicle
    left: Tensor = None  # type: ignore[assignment]  # [B] int64, vehicles that have left the road
    phase: Tensor = None  # type: ignore[assignment]  # [B, S] int64, of every signal
    phase_time: Tensor = None  # type: ignore[assignment]  # [B, S] s since the phase began

    def __post_init__(self) -> None:
        def put(name: str, value: Tensor) -> None:
            object.__setattr__(self, name, value)

        for name in ("position", "speed", "lane"):
            if not isinstance(getattr(self, name), Tensor):
                raise TrafficGradError(
                    f"TrafficState.{name} must be a torch.Tensor, got {type(getattr(self, name)).__name__}"
                )
        if self.position.dim() == 1:
            for name in _VEHICLE_FIELDS:
                value = getattr(self, name)
                if isinstance(value, Tensor) and value.dim() == 1:
                    put(name, value[None])
        p = self.position
        if p.dim() != 2:
            raise TrafficGradError(f"TrafficState.position must have shape [worlds, vehicles], got {list(p.shape)}")
        if self.lane.dtype != torch.int64:
            put("lane", self.lane.long())
        for name, default in _DEFAULTS.items():
            if getattr(self, name) is None:
                put(name, default(p))
        for name in _VEHICLE_FIELDS:
            shape = getattr(self, name).shape
            if shape != p.shape:
                raise TrafficGradError(f"TrafficState.{name} has shape {list(shape)}, but position has {list(p.shape)}")

    @property
    def worlds(self) -> int:
        """Number of worlds ``B``."""
        return self.position.shape[0]

    @property
    def vehicles(self) -> int:
        """Number of vehicle slots ``N``."""
        return self.position.shape[1]

    def detach(self) -> TrafficState:
        """The same state, cut from the graph (``lateral`` too)."""
        return tree.detach(self)

    def index(self, rows: Tensor | slice | Sequence[int]) -> TrafficState:
        """The worlds ``rows``."""
        return tree.index(self, rows)

    def where(self, mask: Tensor, other: TrafficState) -> TrafficState:
        """Per world: this state where ``mask`` [B] holds, else ``other``."""
        return tree.where(mask, self, other)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TrafficState:
        """Move to ``device``; floating fields take ``dtype``."""
        return tree.move(self, device, dtype)

    def validate(self) -> TrafficState:
        """Check finiteness and signs; return ``self``.

        Raises:
            TrafficGradError: names the field, the world and the slot of the first bad value.
        """
        for name in ("position", "speed", "lateral", "heading", "cooldown"):
            bad = ~torch.isfinite(getattr(self, name))
            if bool(bad.any()):
                b, n = (int(i) for i in bad.nonzero()[0])
                raise TrafficGradError(f"TrafficState.{name} is not finite in world {b}, vehicle slot {n}")
        return self


def _slots(p: Tensor) -> Tensor:
    return torch.arange(p.shape[1], device=p.device).expand(p.shape)


_DEFAULTS: dict[str, Callable[[Tensor], Tensor]] = {  # from the positions
    "lateral": lambda p: torch.zeros_like(p, requires_grad=False),
    "heading": lambda p: torch.zeros_like(p, requires_grad=False),
    "cooldown": lambda p: torch.zeros_like(p, requires_grad=False),
    "route": lambda p: torch.full_like(p, -1, dtype=torch.int64, requires_grad=False),
    "route_index": lambda p: torch.zeros_like(p, dtype=torch.int64, requires_grad=False),
    "previous": lambda p: torch.full_like(p, -1, dtype=torch.int64, requires_grad=False),
    "right_of_way": lambda p: torch.full_like(p, -1, dtype=torch.int64, requires_grad=False),
    "vehicle_id": _slots,
    "driver": _slots,
    "active": lambda p: torch.ones_like(p, dtype=torch.bool, requires_grad=False),
    "passed": lambda p: torch.zeros_like(p, requires_grad=False),
    "time": lambda p: p.new_zeros(p.shape[0]),
    "seed": lambda p: torch.zeros(p.shape[0], dtype=torch.int64, device=p.device),
    "arrivals": lambda p: torch.zeros(p.shape[0], 0, dtype=torch.int64, device=p.device),
    "next_arrival": lambda p: p.new_zeros(p.shape[0], 0),
    "inserted": lambda p: torch.zeros(p.shape[0], 0, dtype=torch.int64, device=p.device),
    "next_id": lambda p: torch.full((p.shape[0],), p.shape[1], dtype=torch.int64, device=p.device),
    "left": lambda p: torch.zeros(p.shape[0], dtype=torch.int64, device=p.device),
    "phase": lambda p: torch.zeros(p.shape[0], 0, dtype=torch.int64, device=p.device),
    "phase_time": lambda p: p.new_zeros(p.shape[0], 0),
}
_VEHICLE_FIELDS = (
    "position",
    "speed",
    "lane",
    "lateral",
    "heading",
    "cooldown",
    "route",
    "route_index",
    "previous",
    "right_of_way",
    "vehicle_id",
    "driver",
    "active",
    "passed",
)


@dataclass(frozen=True)
class Fleet:
    """Bodies and roles. ``length`` to ``speed_factor`` are per driver, the rest per controlled vehicle.

    Controls: ``"acceleration"`` (bound to its lane), ``"lane"`` (acceleration and a lane request), ``"steered"``
    (acceleration and steering, kinematic bicycle). One value serves all controlled vehicles. A controlled vehicle with
    ``follow_limit`` applies min(action, its own car-following acceleration) in every simulator step.
    """

    length: PerDriver = 5.0  # m
    width: PerDriver = 2.0  # m
    acceleration_noise: PerDriver = 0.0  # m/s2/sqrt(s)
    speed_factor: PerDriver = 1.0  # -, times the speed limit bounds the desired speed
    controlled: Tensor | Sequence[int] = ()  # int64 [C], slots
    control: Control | Sequence[Control] = "acceleration"
    follow_limit: bool | Sequence[bool] = False

    def __post_init__(self) -> None:
        slots = torch.as_tensor(self.controlled, dtype=torch.int64).reshape(-1)
        count = len(slots)
        if len(set(slots.tolist())) != count or bool((slots < 0).any()):
            raise TrafficGradError(f"Fleet.controlled must be distinct vehicle slots >= 0, got {slots.tolist()}")
        control = (self.control,) * count if isinstance(self.control, str) else tuple(self.control)
        limit = (
            (self.follow_limit,) * count
            if isinstance(self.follow_limit, bool)
            else tuple(bool(x) for x in self.follow_limit)
        )
        for name, values in (("control", control), ("follow_limit", limit)):
            if len(values) != count:
                raise TrafficGradError(f"Fleet.{name} has {len(values)} entries for {count} controlled vehicles")
        for value in (*control, self.control if isinstance(self.control, str) else CONTROLS[0]):
            if value not in CONTROLS:
                raise TrafficGradError(
                    f"Fleet.control: unknown {value!r}{nearest_name(value, CONTROLS)}; valid are {', '.join(CONTROLS)}"
                )
        object.__setattr__(self, "controlled", slots)
        object.__setattr__(self, "control", control)
        object.__setattr__(self, "follow_limit", limit)

    @property
    def slots(self) -> Tensor:
        """``controlled`` as the int64 tensor [C] that it was made."""
        assert isinstance(self.controlled, Tensor)
        return self.controlled

    @property
    def limited(self) -> list[bool]:
        """``follow_limit`` of each controlled vehicle."""
        assert not isinstance(self.follow_limit, bool)
        return list(self.follow_limit)

    def rows(self, control: Control) -> list[int]:
        """Rows of ``controlled`` that are controlled in this way."""
        return [row for row, kind in enumerate(self.control) if kind == control]

    def mask(self, vehicles: int, rows: Sequence[int] | None = None) -> Tensor:
        """[vehicles] bool: the slots of the controlled vehicles, or of some rows of them."""
        slots = self.slots if rows is None else self.slots[list(rows)]
        return torch.zeros(vehicles, dtype=torch.bool, device=slots.device).index_fill(0, slots, True)


@register_record
@dataclass(frozen=True)
class Action:
    """What the controlled vehicles do. Bounds belong to the environment. Fields [T, B, C] make an open-loop plan."""

    acceleration: Tensor  # [B, C] m/s2
    lane: Tensor | None = (
        None  # [B, C] float, + = left: above 1/3 asks for the left lane, below -1/3 for the right; None = keep
    )
    steering: Tensor | None = None  # [B, C] rad, front wheel angle (steered vehicles); None = straight
    signal: Tensor | None = (
        None  # [B, S] float, of controlled signals: above 0 asks for the next phase; None = none does
    )


@register_record
@dataclass(frozen=True)
class Ahead:
    """What lies on the road ahead of every vehicle, along its way; distances from its front bumper."""

    gate: Tensor  # [B, N, G] int64 next lanes that take the right of way, first the own if it waits there; -1 = none
    gate_distance: Tensor  # [B, N, G] m to their stop lines, below 0 for the own one; +inf = none
    end_distance: Tensor  # [B, N] m to where the lane ends without leading on; +inf = it does not
    slow: Tensor  # [B, N] int64 lane whose speed limit is the next to matter, -1 = none
    slow_distance: Tensor  # [B, N] m to where it begins
    coming: Tensor  # [B, A] int64, slot of the vehicle that comes to each lane next, -1 = nobody
    coming_distance: Tensor  # [B, A] m from its front to the lane's beginning, without gradient; +inf = nobody


@register_record
@dataclass(frozen=True)
class Neighbors:
    """Who surrounds whom; last dimension: right, own, left lane. Missing: index -1, gap +inf, closing speed 0."""

    leader: Tensor  # [B, N, 3] int64
    follower: Tensor  # [B, N, 3] int64
    gap: Tensor  # [B, N, 3] m, leader's rear bumper - own front bumper
    follower_gap: Tensor  # [B, N, 3] m, own rear bumper - follower's front bumper
    closing_speed: Tensor  # [B, N, 3] m/s, own speed - leader's
    follower_closing_speed: Tensor  # [B, N, 3] m/s, follower's speed - own
    ahead: Ahead | None = None  # where roads meet, part or end; None where they only go on
