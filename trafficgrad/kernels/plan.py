"""From a simulator to what the kernel reads of it, and what it does not cover."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.demand import Demand
from trafficgrad.dynamics import INTEGRATORS
from trafficgrad.gradients import HARD_BRAKING, GradientMode, SignalGradient
from trafficgrad.kernels.layout import (
    INFLOW_REALS,
    INFLOWS,
    JUNCTION_PLACES,
    JUNCTIONS,
    PARAMETERS,
    RIGHT_OF_WAY,
    Setup,
    WishRecord,
)
from trafficgrad.kernels.library import library
from trafficgrad.lane_change import MOBIL
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.tables import LaneTables
from trafficgrad.signals import Signals
from trafficgrad.state import CONTROLS, PerDriver

if TYPE_CHECKING:
    from trafficgrad.simulator import Simulator


_MODES: tuple[GradientMode, ...] = ("blocked", "straight_through", "sigmoid")  # as the kernel numbers them


def not_covered(simulator: Simulator, dtype: torch.dtype) -> str | None:
    """What of a simulator the kernel does not do for states of a dtype, as a clause; None if it does everything."""
    if type(simulator.car_following) is not IDM:
        return f"it knows the car-following model IDM, not {type(simulator.car_following).__name__}"
    if simulator.lane_change is not None and type(simulator.lane_change) is not MOBIL:
        return f"it knows the lane-change model MOBIL, not {type(simulator.lane_change).__name__}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not in {_short(dtype)}"
    for name, value in {**parameters_of(simulator), **_tables_of(simulator)}.items():
        if not isinstance(value, Tensor):
            continue
        if value.device.type != "cpu":
            return f"it runs on the CPU, and {name} is on {value.device}"
        if value.dtype != dtype:
            return f"{name} is {_short(value.dtype)} and the state {_short(dtype)}"
    for name, value in _tables_of(simulator).items():
        if not value.is_contiguous():
            return f"{name} is not contiguous in memory"
    if simulator.demand is not None and simulator.demand.differentiates_times:
        return "it does not differentiate by the times of a schedule"
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


def _tables_of(simulator: Simulator, all_of_them: bool = True) -> dict[str, Tensor]:
    """What may be differentiated by beside the parameters per driver; with worlds in front or not.

    Without ``all_of_them`` only what carries gradients.
    """
    tables = {}
    if simulator.network.limits is not None:
        tables["speed_limit"] = simulator.network.limits
    if simulator.signals is not None and (all_of_them or simulator.signal_gradient.mode != "blocked"):
        tables |= {"durations": simulator.signals.durations, "offset": simulator.signals.offset}
    return tables


class Plan:
    """A simulator as the kernel reads it, for one dtype; made once and kept with the simulator."""

    def __init__(self, simulator: Simulator, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.values = parameters_of(simulator)
        self.tensors = {name: value for name, value in self.values.items() if isinstance(value, Tensor)}
        #: rank of each table that is the same for all worlds
        self.tables = {"speed_limit": 1, "durations": 2, "offset": 1}
        fleet = simulator.fleet
        self.controlled = len(fleet.slots)
        self.highest_slot = int(fleet.slots.max()) if self.controlled else -1
        self.steered, self.asks = bool(fleet.rows("steered")), bool(fleet.rows("lane"))
        several = simulator.network.max_lanes > 1
        self.decides = several and (simulator.lane_change is not None or self.steered)
        self.may_ask = several and self.asks
        self.mode = simulator.lane_gradient.mode
        self.worlds = {len(value) for value in self.tensors.values() if value.dim() == 2}
        self.tensors |= _tables_of(simulator, False)
        for name, value in _tables_of(simulator).items():
            if value.dim() > self.tables[name]:
                self.worlds.add(len(value))
        self.demand = simulator.demand
        self.inflows = 0 if self.demand is None else len(self.demand.inflows)
        self.open = not simulator.network.is_closed or self.demand is not None
        self.branched = not simulator.network.is_unbranched
        self.routes = self.branched or self.demand is not None  # the kernel reads and writes the state's routes
        signals = simulator.signals
        self.signals = 0 if signals is None else signals.count
        self.carries = signals is not None and simulator.signal_gradient.mode == "straight_through"
        #: fields of whole numbers that the kernel reads, and fields with one value a world
        self.whole: tuple[str, ...] = ("lane", "previous", "driver", "left")
        self.per_world: tuple[str, ...] = ("time", "left")
        if self.routes:
            self.whole += ("route", "route_index", "right_of_way", "phase")
        if self.demand is not None:
            self.whole += ("vehicle_id", "seed", "arrivals", "inserted", "next_id")
            self.per_world += ("seed", "next_id")
        self._kept: list[Any] = []
        self.setup = self._setup(simulator)
        self.address = ctypes.addressof(self.setup)
        functions = library().functions
        assert functions is not None
        kind = "float" if dtype == torch.float32 else "double"
        self.forward = getattr(functions, f"trafficgrad_forward_{kind}")
        self.backward = getattr(functions, f"trafficgrad_backward_{kind}")
        self.look = getattr(functions, f"trafficgrad_look_{kind}")
        self.look_back = getattr(functions, f"trafficgrad_look_back_{kind}")
        self._sizes: dict[tuple[int, int, bool], int] = {}
        self._saved_bytes = functions.trafficgrad_saved_bytes
        self.orders: dict[tuple[int, int], list[Tensor]] = {}
        self.wishes: dict[Any, WishRecord] = {}
        self._tables = simulator.network.tables(dtype, "cpu")
        self._watched = [*self.tensors.values(), *_tables_of(simulator).values()]
        self._addresses = [value.data_ptr() for value in self._watched]

    def is_current(self) -> bool:
        """Whether the parameters' tensors are still where they were."""
        return self._addresses == [value.data_ptr() for value in self._watched]

    def saved_bytes(self, worlds: int, vehicles: int, keeps_sides: bool) -> int:
        """What a step keeps for the way back."""
        size = self._sizes.get((worlds, vehicles, keeps_sides))
        if size is None:
            size = self._sizes[worlds, vehicles, keeps_sides] = self._saved_bytes(
                self.address, worlds, vehicles, keeps_sides, self.dtype.itemsize
            )
        return size

    def places(self) -> tuple[int, int]:
        """Addresses of where every lane begins along its chain, and how long a closed chain is."""
        return self._real(self._tables.offset), self._real(self._tables.chain_length)

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
        if self.demand is not None:
            self._demand(s, self.demand, simulator.network)
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
        s.mode = _MODES.index(gradient.mode)
        s.everybody = gradient.choices == "all"
        s.temperature, s.choice_temperature = gradient.temperature, gradient.choice_temperature
        s.decay, s.transition_width = gradient.decay(simulator.dt), gradient.transition_width
        limits = gradient.contrast_limits
        s.contrast = 0 if limits is None else 1 if isinstance(limits, tuple) else 2
        s.contrast_low, s.contrast_high = limits if isinstance(limits, tuple) else (-HARD_BRAKING, math.inf)
        for name in RIGHT_OF_WAY:
            setattr(s, name, getattr(simulator.right_of_way, name))
        if simulator.signals is not None:
            self._signals(s, simulator.signals, simulator.signal_gradient)
        return s

    def _road(self, s: Setup, network: RoadNetwork) -> None:
        t = network.tables(self.dtype, "cpu")
        s.lanes, s.road_edges, s.max_lanes = len(network.lanes), len(network.edges), network.max_lanes
        s.chains, s.closed = len(network.lanes), not self.open
        for name in ("edge", "number", "left", "right", "successor", "predecessor", "chain"):
            setattr(s, name, self._whole(getattr(t, name)))
        s.levels = len(t.ahead)
        s.ahead, s.behind = (self._whole(torch.stack([to for to, _ in x])) for x in (t.ahead, t.behind))
        s.ahead_passed, s.behind_passed = (self._real(torch.stack([way for _, way in x])) for x in (t.ahead, t.behind))
        # Every junction lane is an edge of its own.
        counts = torch.bincount(t.edge)
        s.edges = len(counts)
        s.first_lane, s.edge_lanes = self._whole(counts.cumsum(0) - counts), self._whole(counts)
        s.length, s.width = self._real(t.length), self._real(t.width)
        s.has_limits = network.has_speed_limits
        limits = self.tensors.get("speed_limit", network.speed_limit.to(self.dtype))
        s.speed_limit = self._strided(limits)
        s.limit_stride = limits.shape[-1] if limits.dim() == 2 else 0
        s.branched, s.hops = self.branched, network.hops
        if self.routes:
            self._junctions(s, t)

    def _junctions(self, s: Setup, t: LaneTables) -> None:
        j, plan = t.junctions, t.plan
        s.foes = j.foe.shape[1]
        for name in JUNCTIONS:
            setattr(s, name, self._whole(getattr(j, name)))
        for name in JUNCTION_PLACES:
            setattr(s, name, self._real(getattr(j, name)))
        s.routes = len(plan.route_start) - 1
        s.next_lane, s.following_row, s.ends = (self._whole(x) for x in (plan.next_lane, plan.following, plan.ends))
        s.change, s.route_start = self._whole(plan.change), self._whole(plan.route_start)
        s.reach = self._real(plan.reach)

    def _demand(self, s: Setup, demand: Demand, network: RoadNetwork) -> None:
        t, doors = (
            demand.tables(self.dtype, torch.device("cpu")),
            demand.doors(network, self.dtype, torch.device("cpu")),
        )
        s.inflows, s.inflow_routes, s.door_hops = len(demand.inflows), t.route.shape[1], doors.hops
        whole = [t.poisson, t.scheduled, t.listed, t.route, t.listed_route, t.times_start, t.times_count]
        whole += [t.first_driver, t.drivers, doors.edge, doors.lanes, doors.allowed]
        for name, table in zip(INFLOWS, whole, strict=True):
            setattr(s, name, self._whole(table))
        for name, table in zip(INFLOW_REALS, (t.end, t.times, doors.speed), strict=True):
            setattr(s, name, self._real(table))
        s.inflow_share, s.inflow_controlled = (self._keep(x.contiguous()) for x in (t.share, t.controlled_share))

    def _signals(self, s: Setup, signals: Signals, gradient: SignalGradient) -> None:
        s.signals, s.phases, s.letters = signals.letters.shape
        s.signal_mode, s.headway = _MODES.index(gradient.mode), gradient.headway
        s.durations, s.offset = self._strided(signals.durations), self._strided(signals.offset)
        s.durations_stride = s.signals * s.phases if signals.durations.dim() == 3 else 0
        s.offset_stride = s.signals if signals.offset.dim() == 2 else 0
        s.shortest, s.longest = self._real(signals.shortest), self._real(signals.longest)
        s.letter, s.signal_kind = self._whole(signals.letters), self._whole(signals.kind)
        s.phase_count = self._whole(signals.phases)

    def _strided(self, x: Tensor) -> int:
        """A table as it is, so that later changes of its values are seen."""
        return self._keep(x.detach())

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
