"""From a simulator to what the kernel reads of it, and what it does not cover."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.dynamics import INTEGRATORS
from trafficgrad.gradients import HARD_BRAKING
from trafficgrad.kernels.layout import PARAMETERS, Setup
from trafficgrad.kernels.library import library
from trafficgrad.lane_change import MOBIL
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.state import CONTROLS, PerDriver

if TYPE_CHECKING:
    from trafficgrad.simulator import Simulator

_LARGEST = 2**31 - 1


def not_covered(simulator: Simulator, dtype: torch.dtype) -> str | None:
    """What of a simulator the kernel does not do for states of a dtype, as a clause; None if it does everything."""
    if type(simulator.car_following) is not IDM:
        return f"it knows the car-following model IDM, not {type(simulator.car_following).__name__}"
    if simulator.lane_change is not None and type(simulator.lane_change) is not MOBIL:
        return f"it knows the lane-change model MOBIL, not {type(simulator.lane_change).__name__}"
    if not simulator.network.is_unbranched:
        return "it knows roads that only go on, not junctions, lanes that end or limits that differ"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not in {_short(dtype)}"
    for name, value in parameters_of(simulator).items():
        if isinstance(value, Tensor) and value.device.type != "cpu":
            return f"it runs on the CPU, and {name} is on {value.device}"
        if isinstance(value, Tensor) and value.dtype != dtype:
            return f"{name} is {_short(value.dtype)} and the state {_short(dtype)}"
    return None


def parameters_of(simulator: Simulator) -> dict[str, PerDriver]:
    """Every parameter per driver by the name that the kernel has for it."""
    following, fleet = simulator.car_following, simulator.fleet
    assert isinstance(following, IDM)
    change = simulator.lane_change if isinstance(simulator.lane_change, MOBIL) else MOBIL()
    values = {name: getattr(following, name) for name in PARAMETERS[:6]}
    values |= {"length": fleet.length, "noise_size": fleet.acceleration_noise, "speed_factor": fleet.speed_factor}
    for name in ("politeness", "threshold", "safe_deceleration", "right_bias"):
        values[name] = getattr(change, name)
    return {**values, "change_cooldown": change.cooldown, "change_min_gap": change.min_gap}


class Plan:
    """A simulator as the kernel reads it, for one dtype; made once and kept with the simulator."""

    def __init__(self, simulator: Simulator, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.values = parameters_of(simulator)
        self.tensors = {name: value for name, value in self.values.items() if isinstance(value, Tensor)}
        fleet = simulator.fleet
        self.controlled = len(fleet.slots)
        self.highest_slot = int(fleet.slots.max()) if self.controlled else -1
        self.steered, self.asks = bool(fleet.rows("steered")), bool(fleet.rows("lane"))
        several = simulator.network.max_lanes > 1
        self.decides = several and (simulator.lane_change is not None or self.steered)
        self.may_ask = several and self.asks
        self.mode = simulator.lane_gradient.mode
        self.worlds = {len(value) for value in self.tensors.values() if value.dim() == 2}
        self.rows = min((v.shape[-1] for v in self.tensors.values() if v.dim()), default=_LARGEST)
        self.open = not simulator.network.is_closed
        self._kept: list[Any] = []
        self.setup = self._setup(simulator)
        self.address = ctypes.addressof(self.setup)
        functions = library().functions
        assert functions is not None
        kind = "float" if dtype == torch.float32 else "double"
        self.forward = getattr(functions, f"trafficgrad_forward_{kind}")
        self.backward = getattr(functions, f"trafficgrad_backward_{kind}")
        self._sizes: dict[tuple[int, int, bool], int] = {}
        self._saved_bytes = functions.trafficgrad_saved_bytes
        self.orders: dict[tuple[int, int], list[Tensor]] = {}
        self._addresses = [value.data_ptr() for value in self.tensors.values()]

    def is_current(self) -> bool:
        """Whether the parameters' tensors are still where they were."""
        return self._addresses == [value.data_ptr() for value in self.tensors.values()]

    def saved_bytes(self, worlds: int, vehicles: int, soft: bool) -> int:
        """What a step keeps for the way back."""
        size = self._sizes.get((worlds, vehicles, soft))
        if size is None:
            size = self._sizes[worlds, vehicles, soft] = self._saved_bytes(worlds, vehicles, soft, self.dtype.itemsize)
        return size

    def take_order(self, worlds: int, vehicles: int) -> Tensor:
        """A hint of the vehicles' order along the road, [B, N] int32; give it back with :meth:`keep_order`."""
        kept = self.orders.setdefault((worlds, vehicles), [])
        try:
            return kept.pop()  # atomic, so that threads do not share one
        except IndexError:
            return torch.arange(vehicles, dtype=torch.int32).repeat(worlds, 1)

    def keep_order(self, order: Tensor) -> None:
        """Keep the hint for the next step."""
        self.orders[tuple(order.shape)].append(order)  # type: ignore[index]

    # ------------------------------------------------------------------ the record

    def _setup(self, simulator: Simulator) -> Setup:
        s = Setup()
        self._road(s, simulator.network)
        fleet, gradient, choice = simulator.fleet, simulator.lane_gradient, simulator.lane_choice
        s.crossings = simulator.crossings
        s.controlled = self.controlled
        s.slot = self._whole(fleet.slots)
        s.control = self._whole(torch.tensor([CONTROLS.index(kind) for kind in fleet.control], dtype=torch.int32))
        s.limited = self._whole(torch.tensor(fleet.limited, dtype=torch.int32))
        for p, name in enumerate(PARAMETERS):
            self._parameter(s, p, self.values[name])
        s.fourth_power = "exponent" not in self.tensors and self.values["exponent"] == 4.0
        s.is_polite = "politeness" in self.tensors or self.values["politeness"] != 0.0
        s.is_biased = "right_bias" in self.tensors or self.values["right_bias"] != 0.0
        following, change = simulator.car_following, simulator.lane_change
        assert isinstance(following, IDM)
        s.dt, s.max_braking = simulator.dt, simulator.max_braking
        s.integrator = INTEGRATORS.index(simulator.integrator)
        s.paper_gap = following.desired_gap == "paper"
        s.changes_lanes = change is not None
        s.alternates = isinstance(change, MOBIL) and change.sides == "alternate"
        s.choice_min_gap, s.choice_cooldown = choice.min_gap, choice.cooldown
        s.choice_safe, s.choice_own = choice.safe_deceleration, choice.own_deceleration
        # The order of MODES and Mode: blocked first in the kernel, as it asks for least.
        s.mode = ("blocked", "straight_through", "sigmoid").index(gradient.mode)
        s.everybody = gradient.choices == "all"
        s.temperature, s.choice_temperature = gradient.temperature, gradient.choice_temperature
        s.decay, s.transition_width = gradient.decay(simulator.dt), gradient.transition_width
        limits = gradient.contrast_limits
        s.contrast = 0 if limits is None else 1 if isinstance(limits, tuple) else 2
        s.contrast_low, s.contrast_high = limits if isinstance(limits, tuple) else (-HARD_BRAKING, math.inf)
        return s

    def _road(self, s: Setup, network: RoadNetwork) -> None:
        t = network.tables(self.dtype, "cpu")
        s.lanes, s.edges, s.max_lanes = len(network.lanes), len(network.edges), network.max_lanes
        s.chains, s.closed = len(network.lanes), network.is_closed
        for name in ("edge", "number", "left", "right", "successor", "predecessor", "chain"):
            setattr(s, name, self._whole(getattr(t, name)))
        s.levels = len(t.ahead)
        s.ahead, s.behind = (self._whole(torch.stack([to for to, _ in x])) for x in (t.ahead, t.behind))
        s.ahead_passed, s.behind_passed = (self._real(torch.stack([way for _, way in x])) for x in (t.ahead, t.behind))
        counts = torch.tensor(network.edge_lanes)
        s.first_lane, s.edge_lanes = self._whole(counts.cumsum(0) - counts), self._whole(counts)
        s.length, s.width = self._real(t.length), self._real(t.width)
        s.has_limits = network.has_speed_limits
        s.speed_limit = float(network.speed_limit[0])

    def _parameter(self, s: Setup, p: int, value: PerDriver) -> None:
        if isinstance(value, Tensor):
            s.value[p], s.rows[p] = value.data_ptr(), value.shape[-1] if value.dim() else 1
            s.world_stride[p] = value.stride(0) if value.dim() == 2 else 0
            s.driver_stride[p] = value.stride(-1) if value.dim() else 0
        else:
            s.value[p], s.rows[p] = self._real(torch.tensor([value], dtype=torch.float64)), 1

    def _whole(self, x: Tensor) -> int:
        return self._keep(x.to(torch.int32).contiguous())

    def _real(self, x: Tensor) -> int:
        return self._keep(x.detach().to(self.dtype).contiguous())

    def _keep(self, x: Tensor) -> int:
        self._kept.append(x)
        return x.data_ptr()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
