"""Demand: vehicles come to the edges of a network, queue where they cannot enter, and enter as soon as it is safe.

Nothing here is random but by counters (:mod:`trafficgrad.randomness`): when the k-th vehicle of inflow q comes, which
route it takes and who drives it are functions of (seed, q, k), so that a step stays a pure function of its state.

Gradients: the time of an arrival carries that of the inflow's rate, and an entering vehicle that was not kept waiting
has driven since it came, position = entrance + speed (now - arrival). How many vehicles have come, who enters and where
are choices without gradient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trafficgrad.entrances import (
    LOOK,
    MOST_HOPS,
    Doors,
    Entrance,
    EntryDrivers,
    Heads,
    find_entries,
    free_places,
    insert,
    rank_among,
)
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.randomness import uniform
from trafficgrad.state import TrafficState

InflowKind = Literal["poisson", "constant", "schedule"]
KINDS: tuple[InflowKind, ...] = ("poisson", "constant", "schedule")
MOST_ARRIVALS = 4  # of one inflow that are counted in a step; further ones are counted in the next
_INTERVAL, _ROUTE, _DRIVER, _CONTROLLED = range(4)  # what a random number decides, its last counter


@dataclass(frozen=True)
class Inflow:
    """Vehicles that come to one edge.

    ``poisson``: independent arrivals, exponential intervals of mean 1 / rate. ``constant``: one every 1 / rate, the
    first 1 / rate after ``begin``. ``schedule``: at given ``times``.
    """

    edge: int  # row of network.edges where they enter
    routes: Sequence[int] = ()  # rows of network.routes, each begins with this edge; empty = no route
    shares: Tensor | Sequence[float] | None = None  # of the routes, any positive sum; None = equal
    kind: InflowKind = "poisson"
    rate: float | Tensor = 0.0  # vehicles/s, [] or [B]; may require a gradient
    begin: float = 0.0  # s
    end: float = math.inf  # s, nobody comes from then on
    times: Tensor | Sequence[float] | None = None  # [K] s, ascending (schedule)
    schedule_routes: Tensor | Sequence[int] | None = None  # [K] rows, -1 = no route; None = by shares
    drivers: tuple[int, int] = (0, 1)  # first row, and the row after the last, of the drivers' tables
    controlled_share: float = 0.0  # of those who come, to drive in controlled slots
    speed: float | None = None  # m/s, entering faster than this is not tried; None = as fast as is safe
    lanes: Sequence[int] | None = None  # numbers of the edge's lanes that may be entered; None = all

    def __post_init__(self) -> None:
        def refuse(what: str) -> TrafficGradError:
            return TrafficGradError(f"Inflow to edge {self.edge}: {what}")

        if self.kind not in KINDS:
            close = nearest_name(str(self.kind), KINDS)
            raise refuse(f"unknown kind {self.kind!r}{close}; valid are {', '.join(KINDS)}")
        rate = torch.as_tensor(self.rate).detach()
        if rate.dim() > 1 or not bool((torch.isfinite(rate) & (rate >= 0)).all()):
            raise refuse(f"rate must be finite and >= 0 vehicles/s, a number or [worlds], got {self.rate}")
        if not (math.isfinite(self.begin) and self.begin <= self.end):
            raise refuse(f"begin and end must be times in ascending order, got {self.begin} and {self.end}")
        if (self.times is not None) != (self.kind == "schedule"):
            raise refuse(f"times belong to kind 'schedule', and it needs them; the kind is {self.kind!r}")
        if self.times is not None:
            times = torch.as_tensor(self.times, dtype=torch.float64).detach().reshape(-1)
            if not bool(torch.isfinite(times).all() and (times.diff() >= 0).all()):
                raise refuse("times must be finite and ascending")
            if self.schedule_routes is not None and len(self.schedule_routes) != len(times):
                raise refuse(f"schedule_routes has {len(self.schedule_routes)} entries for {len(times)} times")
        elif self.schedule_routes is not None:
            raise refuse("schedule_routes belong to kind 'schedule'")
        if self.shares is not None:
            shares = torch.as_tensor(self.shares, dtype=torch.float64).detach().reshape(-1)
            if len(shares) != len(self.routes):
                raise refuse(f"shares has {len(shares)} entries for {len(self.routes)} routes")
            if not bool((shares >= 0).all() and torch.isfinite(shares).all() and shares.sum() > 0):
                raise refuse(f"shares must be >= 0 and not all 0, got {shares.tolist()}")
        if not 0 <= self.drivers[0] < self.drivers[1]:
            raise refuse(f"drivers must be (first row, row after the last), got {self.drivers}")
        if not 0.0 <= self.controlled_share <= 1.0:
            raise refuse(f"controlled_share must be between 0 and 1, got {self.controlled_share}")
        if self.speed is not None and not self.speed >= 0.0:
            raise refuse(f"speed must be >= 0 m/s, got {self.speed}")
        if self.lanes is not None and (not self.lanes or min(self.lanes) < 0):
            raise refuse(f"lanes must be numbers of lanes, 0 = right, got {tuple(self.lanes)}")


class Tables(NamedTuple):
    """The inflows as tensors; ``R`` routes, the times of all schedules behind each other, +inf after each."""

    inflow: Tensor  # [Q] int64
    edge: Tensor  # [Q] int64
    poisson: Tensor  # [Q] bool
    scheduled: Tensor  # [Q] bool
    begin: Tensor  # [Q] s
    end: Tensor  # [Q] s
    rate: Tensor | None  # [Q] vehicles/s; None = looked at in every step
    times: Tensor  # [sum of (K + 1)] s
    times_start: Tensor  # [Q] int64
    times_count: Tensor  # [Q] int64
    listed: Tensor  # [Q] bool, the schedule says the routes
    listed_route: Tensor  # [sum of (K + 1)] int64
    route: Tensor  # [Q, R] int64
    share: Tensor  # [Q, R] float64, cumulative
    first_driver: Tensor  # [Q] int64
    drivers: Tensor  # [Q] int64
    controlled_share: Tensor  # [Q] float64
    speed: Tensor  # [Q] m/s, inf = none


@dataclass(frozen=True)
class Demand:
    """All inflows of a network. ``Q`` inflows; the balance arrivals = inserted + waiting holds after every step."""

    inflows: Sequence[Inflow]
    _kept: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inflows", tuple(self.inflows))
        if not self.inflows:
            raise TrafficGradError("Demand needs at least one inflow")

    def check(self, network: RoadNetwork, drivers: EntryDrivers | None = None) -> None:
        """The inflows fit a network and the tables of drivers.

        Raises:
            TrafficGradError: names the inflow, and what of it does not exist.
        """
        for q, inflow in enumerate(self.inflows):
            where = f"inflow {q}"
            if not 0 <= inflow.edge < len(network.edges):
                raise TrafficGradError(
                    f"{where}: there is no edge {inflow.edge}; valid are 0 to {len(network.edges) - 1}"
                )
            listed = [] if inflow.schedule_routes is None else torch.as_tensor(inflow.schedule_routes).tolist()
            for route in (*inflow.routes, *(route for route in listed if route != -1)):
                if not 0 <= route < len(network.routes):
                    raise TrafficGradError(f"{where}: there is no route {route}; the network has {len(network.routes)}")
                first = int(network.routes[route, 0])
                if first != inflow.edge:
                    raise TrafficGradError(
                        f"{where} enters edge {network.edges[inflow.edge]}, but its route {route} begins with edge "
                        f"{network.edges[first]}"
                    )
            count = network.edge_lanes[inflow.edge]
            if inflow.lanes is not None and max(inflow.lanes) >= count:
                raise TrafficGradError(
                    f"{where}: edge {network.edges[inflow.edge]} has the lanes 0 to {count - 1}, "
                    f"not {max(inflow.lanes)}"
                )
            for name, value in () if drivers is None else zip(drivers._fields, drivers, strict=True):
                if isinstance(value, Tensor) and value.dim() and value.shape[-1] < inflow.drivers[1]:
                    raise TrafficGradError(
                        f"{where}: its drivers are rows up to {inflow.drivers[1] - 1}, but {name} has {value.shape[-1]}"
                    )

    def start(self, state: TrafficState) -> TrafficState:
        """The state with empty queues and the time of every inflow's first arrival, not before the state's time."""
        t = self.tables(state.position.dtype, state.position.device)
        none = torch.zeros(state.worlds, len(self.inflows), dtype=torch.int64, device=state.position.device)
        now = state.time[:, None]
        previous = torch.where(t.begin > now, t.begin, now)
        first = self._arrival(state.seed, previous, none, t, self.rates(state))
        return dataclasses.replace(state, arrivals=none, inserted=none, next_arrival=first)

    def waiting(self, state: TrafficState) -> Tensor:
        """Vehicles that have come to each inflow and not entered yet, [B, Q] int64."""
        return state.arrivals - state.inserted

    def advance(self, state: TrafficState, entrance: Entrance) -> TrafficState:
        """Arrivals and entries of one step.

        Who has come by ``state.time`` joins the queue of the inflow. Then at most one vehicle of each inflow enters,
        first come first served, if a slot is free and the entrance is safe. Of several inflows to one lane, and where
        slots are scarce, the one whose queue is the longest in time goes first.

        Parameters:
            state: after all else of the step. entrance: of this state.
        """
        if state.arrivals.shape[1] != len(self.inflows):
            raise TrafficGradError(
                f"the state has {state.arrivals.shape[1]} inflows, the demand {len(self.inflows)}: "
                "begin with demand.start(state)"
            )
        device = state.position.device
        t = self.tables(state.position.dtype, device)
        rate = self.rates(state)
        arrivals, next_arrival = self._count_arrivals(state, t, rate)
        counted = dataclasses.replace(state, arrivals=arrivals, next_arrival=next_arrival)
        waiting = self.waiting(counted)
        if device.type == "cpu" and not bool((waiting > 0).any()):  # elsewhere looking would wait for the device
            return counted
        heads = self._heads(state, waiting, t, rate, entrance)
        entry = find_entries(state, heads, self.doors(entrance.network, state.position.dtype, device), entrance)
        return insert(counted, heads, entry, entrance)

    # ------------------------------------------------------------------ arrivals

    def _arrival(self, seed: Tensor, previous: Tensor, number: Tensor, t: Tables, rate: Tensor) -> Tensor:
        """When the vehicle ``number`` [B, Q] of each inflow comes, given when the one before came, [B, Q] s."""
        u = uniform(seed[:, None], t.inflow, number, _INTERVAL)
        share = torch.where(t.poisson, -torch.log(u), 1.0).to(previous.dtype)
        comes = rate > 0
        time = torch.where(comes, previous + share / torch.where(comes, rate, 1.0), math.inf)
        if any(inflow.kind == "schedule" for inflow in self.inflows):
            row = t.times_start + torch.minimum(number, t.times_count)
            time = torch.where(t.scheduled, self._times(t)[row], time)
        return torch.where(time < t.end, time, math.inf)

    def _count_arrivals(self, state: TrafficState, t: Tables, rate: Tensor) -> tuple[Tensor, Tensor]:
        arrivals, coming = state.arrivals, state.next_arrival
        now = state.time[:, None]
        for _ in range(MOST_ARRIVALS):
            due = coming <= now
            if due.device.type == "cpu" and not bool(due.any()):
                break
            coming = torch.where(due, self._arrival(state.seed, coming, arrivals + 1, t, rate), coming)
            arrivals = arrivals + due
        return arrivals, coming

    def _heads(self, state: TrafficState, waiting: Tensor, t: Tables, rate: Tensor, entrance: Entrance) -> Heads:
        number = state.inserted
        waits = waiting > 0
        now = state.time[:, None]
        row = t.times_start + torch.minimum(number, t.times_count)
        with torch.no_grad():
            wait = waiting.to(now.dtype) / torch.where(rate > 0, rate, 1.0)
            wait = torch.where(t.scheduled, now - t.times[row], wait)
            order = torch.where(waits, wait, -math.inf).argsort(dim=1, descending=True, stable=True)
        since = now - state.next_arrival
        fresh = (self.waiting(state) == 0) & (since >= 0) & (since < 1.5 * entrance.dt)
        # Rounding may make it a little more than a step.
        offset = torch.where(fresh, torch.where(since < entrance.dt, since, entrance.dt), 0.0)

        purpose = torch.arange(_ROUTE, _CONTROLLED + 1, device=number.device)
        u = uniform(state.seed[:, None, None], t.inflow[:, None], number[..., None], purpose)
        choice = (u[..., :1] >= t.share).sum(-1).clamp(max=t.route.shape[1] - 1)
        route = t.route[t.inflow, choice]
        route = torch.where(t.listed, t.listed_route[row], route)
        driver = t.first_driver + (u[..., 1] * t.drivers).long().clamp(max=t.drivers - 1)
        slot_row = torch.full_like(driver, -1)
        slots = entrance.controlled
        if len(slots):
            free = ~state.active[:, slots]
            wants = waits & (u[..., 2] < t.controlled_share)
            rank = rank_among(wants, order)
            kept = free_places(free).gather(1, rank.clamp(0, len(slots)))
            slot_row = torch.where(wants & (kept < len(slots)), kept, slot_row)
            driver = torch.where(slot_row >= 0, slot_row, driver)
        return Heads(waits, order, offset, route, driver, slot_row)

    # ------------------------------------------------------------------ tensors

    def rates(self, state: TrafficState) -> Tensor:
        """[Q] or [B, Q] vehicles/s. Tensors are looked at anew in every step, so that an optimiser may change them."""
        t = self.tables(state.position.dtype, state.position.device)
        if t.rate is not None:
            return t.rate
        like = state.position
        rates = [torch.as_tensor(i.rate, dtype=like.dtype, device=like.device) for i in self.inflows]
        for inflow, rate in zip(self.inflows, rates, strict=True):
            if rate.dim() and rate.shape != (state.worlds,):
                raise TrafficGradError(
                    f"Inflow to edge {inflow.edge}: rate has shape {list(rate.shape)} for {state.worlds} worlds"
                )
        return torch.stack([rate.expand(state.worlds) for rate in rates], 1)

    @property
    def differentiates_times(self) -> bool:
        """Whether the times of a schedule require a gradient."""
        return any(isinstance(i.times, Tensor) and i.times.requires_grad for i in self.inflows)

    def _times(self, t: Tables) -> Tensor:
        """``t.times``, with the graph of those that have one."""
        if not self.differentiates_times:
            return t.times
        given = [i.times for i in self.inflows]
        end = t.times.new_full((1,), math.inf)
        parts = [
            end if x is None else torch.cat([torch.as_tensor(x, dtype=end.dtype, device=end.device).reshape(-1), end])
            for x in given
        ]
        return torch.cat(parts)

    def tables(self, dtype: torch.dtype, device: torch.device) -> Tables:
        """The inflows as tensors, without graph; made once."""
        key = (dtype, str(device))
        if key not in self._kept:
            self._kept[key] = self._compile(dtype, device)
        return self._kept[key]

    def _compile(self, dtype: torch.dtype, device: torch.device) -> Tables:
        flows = self.inflows

        def whole(values: Sequence[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int64, device=device)

        def real(values: Sequence[float], kind: torch.dtype = dtype) -> Tensor:
            return torch.tensor(list(values), dtype=kind, device=device)

        def flag(values: Sequence[bool]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.bool, device=device)

        times = [
            [] if i.times is None else torch.as_tensor(i.times, dtype=torch.float64).detach().reshape(-1).tolist()
            for i in flows
        ]
        listed = [
            [-1] * len(k) if i.schedule_routes is None else torch.as_tensor(i.schedule_routes).tolist()
            for i, k in zip(flows, times, strict=True)
        ]
        width = max(1, *(len(i.routes) for i in flows)) if len(flows) > 1 else max(1, len(flows[0].routes))
        routes, shares = [], []
        for inflow in flows:
            given = inflow.shares if inflow.shares is not None else [1.0] * max(1, len(inflow.routes))
            total = torch.as_tensor(given, dtype=torch.float64).detach().reshape(-1).cpu().cumsum(0)
            # From the last route with a share on it is exactly 1, which no random number reaches.
            share = torch.where(total < total[-1], total / total[-1], 1.0).tolist()
            routes.append([*inflow.routes, *[-1] * (width - len(inflow.routes))])
            shares.append([*share, *[1.0] * (width - len(share))])
        fixed = not any(isinstance(i.rate, Tensor) for i in flows)
        starts = [sum(len(k) + 1 for k in times[:q]) for q in range(len(flows))]
        return Tables(
            inflow=torch.arange(len(flows), device=device),
            edge=whole([i.edge for i in flows]),
            poisson=flag([i.kind == "poisson" for i in flows]),
            scheduled=flag([i.kind == "schedule" for i in flows]),
            begin=real([i.begin for i in flows]),
            end=real([i.end for i in flows]),
            rate=real([float(i.rate) for i in flows]) if fixed else None,
            times=real([x for k in times for x in (*k, math.inf)]),
            times_start=whole(starts),
            times_count=whole([len(k) for k in times]),
            listed=flag([i.schedule_routes is not None for i in flows]),
            listed_route=whole([x for k in listed for x in (*k, -1)]),
            route=torch.tensor(routes, dtype=torch.int64, device=device),
            share=torch.tensor(shares, dtype=torch.float64, device=device),
            first_driver=whole([i.drivers[0] for i in flows]),
            drivers=whole([i.drivers[1] - i.drivers[0] for i in flows]),
            controlled_share=real([i.controlled_share for i in flows], torch.float64),
            speed=real([math.inf if i.speed is None else i.speed for i in flows]),
        )

    def doors(self, network: RoadNetwork, dtype: torch.dtype, device: torch.device) -> Doors:
        """Where the inflows lead on this network; made at the first call and kept."""
        t = self.tables(dtype, device)
        key = (network.base, t.speed.dtype, str(t.speed.device))
        if key not in self._kept:
            self.check(network)
            numbers = range(network.max_lanes)
            first = [sum(network.edge_lanes[: i.edge]) for i in self.inflows]
            counts = [network.edge_lanes[i.edge] for i in self.inflows]
            lanes = [[a + min(k, n - 1) for k in numbers] for a, n in zip(first, counts, strict=True)]
            allowed = [
                [k < n and (i.lanes is None or k in i.lanes) for k in numbers]
                for i, n in zip(self.inflows, counts, strict=True)
            ]
            device = t.speed.device
            hops = min(MOST_HOPS, math.ceil(LOOK / float(network.lane_length.min())))
            doors = Doors(
                t.edge, torch.tensor(lanes, device=device), torch.tensor(allowed, device=device), t.speed, hops
            )
            self._kept[key] = doors
        return self._kept[key]
