"""The traffic scenario: road, drivers and task as one checked model that builds a simulator and its initial states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr, model_validator

from trafficgrad import warmup_cache
from trafficgrad.car_following import IDM
from trafficgrad.config import error_at
from trafficgrad.demand import Demand
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import LaneGradient, SignalGradient
from trafficgrad.lane_change import MOBIL, LaneChoice
from trafficgrad.network import RoadNetwork
from trafficgrad.placement import (
    check_kind,
    check_places,
    check_spread,
    controlled_slots,
    highest_speed,
    starting_places,
)
from trafficgrad.right_of_way import RightOfWay
from trafficgrad.scenario_base import BaseScenario
from trafficgrad.scenario_demand import Traffic, plan_traffic
from trafficgrad.scenario_drivers import draw
from trafficgrad.scenario_roads import is_plain
from trafficgrad.scenario_sections.control import ControlConfig, ScriptedConfig
from trafficgrad.scenario_sections.demand import Demands, Trips
from trafficgrad.scenario_sections.driving import (
    IDMConfig,
    LaneGradientConfig,
    MOBILConfig,
    RightOfWayConfig,
    SignalGradientConfig,
    SimulationConfig,
)
from trafficgrad.scenario_sections.policy import check_policy, usual_observation
from trafficgrad.scenario_sections.roads import NetworkConfig, Routes, SignalsConfig, SumoNetwork
from trafficgrad.scenario_sections.task import (
    FailureConfig,
    LocalObservation,
    ObservationConfig,
    RewardTerm,
)
from trafficgrad.scenario_sections.vehicles import (
    EmptyInitial,
    InitialConfig,
    RowsInitial,
    VehiclesConfig,
    nobody_at_start,
)
from trafficgrad.signals import Signals
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, PerDriver, TrafficState
from trafficgrad.tree import concatenate


@dataclass
class _Kept:
    """What was made of a scenario's sections, as long as they are these. Any two are equal: it says nothing new."""

    sections: tuple[object, ...] = field(default=(), compare=False)
    traffic: Traffic | None = field(default=None, compare=False)


class TrafficScenario(BaseScenario):
    """Road, drivers and task of a traffic simulation."""

    # The descriptions of the fields are what ``trafficgrad schema`` prints.
    kind: Literal["traffic"] = Field(description="what is simulated")
    network: NetworkConfig = Field(description="see below")
    signals: SignalsConfig = SignalsConfig()
    routes: Routes = Field(default=(), description="ways through the network that have a name")
    demand: Demands = Field(default=(), description="inflows: who comes, and where to")
    origin_destination: str | Trips = Field(
        default=(), description="a table of flows, or the path of a CSV file with the columns from,to,rate"
    )
    simulation: SimulationConfig = SimulationConfig()
    car_following: IDMConfig = IDMConfig()
    lane_change: MOBILConfig | None = Field(
        default=None,
        description="null = ordinary drivers keep their lane; where it is not given, null on a ring or a straight "
        "road, else mobil",
    )
    right_of_way: RightOfWayConfig = RightOfWayConfig()
    vehicles: VehiclesConfig = VehiclesConfig()
    drivers: str | None = Field(
        default=None,
        exclude=True,  # what it names has been taken over
        description="path of a file of `trafficgrad calibrate`; its settings of vehicles.human, car_following and "
        "lane_change go before those given here",
    )
    initial: InitialConfig = Field(
        default=RowsInitial(),
        description="see below; default: rows on a ring or a straight road, else spread; empty where vehicles come "
        "and none is said to be there",
    )
    control: ControlConfig = ControlConfig()
    lane_gradient: LaneGradientConfig = LaneGradientConfig()
    signal_gradient: SignalGradientConfig = SignalGradientConfig()
    observation: ObservationConfig = Field(
        default=LocalObservation(),
        description="see below; default: local on a ring or a straight road, else route, or junctions where only "
        "signals are controlled",
    )
    reward: tuple[RewardTerm, ...] = Field(default=(), strict=False, description="weighted terms that are added")
    failure: FailureConfig = FailureConfig()
    scripted: ScriptedConfig = ScriptedConfig()
    late: float | None = Field(
        default=None, gt=0, description="end of an episode that `late` measures cover, s; null = its second half"
    )
    pool_size: int = Field(default=512, ge=1, description="warmed-up initial states drawn beforehand")
    driver_rows: int = Field(default=4096, ge=1, description="human drivers drawn beforehand")

    _kept: _Kept = PrivateAttr(default_factory=_Kept)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_network(cls, data: Any) -> Any:
        """What is left out and depends on the kind of network."""
        network = data.get("network") if isinstance(data, dict) else None
        if not isinstance(network, dict):
            return data
        plain = network.get("kind") in ("ring", "straight")
        if "lane_change" not in data and not plain:
            data = {**data, "lane_change": {}}
        observation = data.get("observation", {})
        if isinstance(observation, dict) and "kind" not in observation and not plain:
            data = {**data, "observation": {"kind": usual_observation(data), **observation}}
        initial = data.get("initial", {})
        if isinstance(initial, dict) and "kind" not in initial:
            comes = data.get("demand") or data.get("origin_destination") or network.get("routes")
            kind = "rows" if plain else "spread"
            if comes and not initial and nobody_at_start(data):
                kind = "empty"
            data = {**data, "initial": {"kind": kind, **initial}}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> TrafficScenario:
        """What the sections say fits together."""
        check_kind(self)
        if not self._has_demand and (self.present == 0 or isinstance(self.initial, EmptyInitial)):
            raise error_at("vehicles", "expected at least one vehicle, got none")
        check_places(self)
        if self.vehicles.slots is not None and self.vehicles.slots < self.present:
            raise error_at(
                "vehicles.slots",
                f"expected at least the {self.present} vehicles at the start, got {self.vehicles.slots}",
            )
        control, steered = self.control, self.vehicles.controlled.control == "steered"
        if control.command == "heading_and_speed" and not steered:
            raise error_at("control.command", "heading_and_speed needs vehicles.controlled.control: steered")
        if control.command == "lanes" and not (steered and self.network.kind == "straight"):
            raise error_at(
                "control.command", "lanes needs vehicles.controlled.control: steered, and network.kind: straight"
            )
        if self.observation.kind == "lanes" and self.network.kind != "straight":
            raise error_at("observation.kind", "lanes needs network.kind: straight")
        if self.failure.overtaken and self.network.kind in ("ring", "figure_eight"):
            raise error_at("failure.overtaken", "on a closed road nobody is ahead: expected false")
        kinds = [term.kind for term in self.reward]
        if len(set(kinds)) < len(kinds):
            raise error_at("reward", f"expected every kind of term once, got {', '.join(kinds)}")
        _ = self.controlled_slots  # raises where the placement does not fit
        check_spread(self, self.traffic)  # planning the traffic refuses what is wrong with roads and demand
        check_policy(self)
        return self

    @property
    def _has_demand(self) -> bool:
        return bool(
            self.demand or self.origin_destination or (isinstance(self.network, SumoNetwork) and self.network.routes)
        )

    @property
    def traffic(self) -> Traffic:
        """The network with its routes, the demand and the drivers. Made once for the same sections."""
        sections: tuple[object, ...] = (self.network, self.signals, self.routes, self.demand, self.origin_destination)
        sections = (*sections, self.vehicles, self.initial, self.driver_rows)
        kept = self._kept
        if kept.traffic is None or any(a is not b for a, b in zip(kept.sections, sections, strict=True)):
            kept = self._kept = _Kept(sections, plan_traffic(self))
        assert kept.traffic is not None
        return kept.traffic

    @property
    def present(self) -> int:
        """Vehicles that are there at the start, and slots kept for controlled ones that come later."""
        return self.vehicles.human.count + self.vehicles.controlled.count

    @property
    def total(self) -> int:
        """Vehicle slots in every world."""
        if self.vehicles.slots is not None:
            return self.vehicles.slots
        return self.traffic.most if self._has_demand else self.present

    @property
    def horizon(self) -> int:
        """Decisions of an episode."""
        return self.simulation.horizon_steps // self.simulation.decision_steps

    @property
    def late_seconds(self) -> float:
        """What ``late`` measures cover, s."""
        return self.simulation.horizon_steps * self.simulation.dt / 2 if self.late is None else self.late

    @property
    def controlled_slots(self) -> tuple[int, ...]:
        """Vehicle slots of the controlled vehicles, in the order of their rows."""
        return controlled_slots(self)

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Simulator:
        """The simulator of this scenario.

        The table of drivers has a row for each controlled vehicle, then ``driver_rows`` human drivers drawn with
        ``seed``, as many of each class as its share says, then classes that only inflows name. What is the same for all
        of them stays a Python float.

        Parameters:
            seed: of the human drivers' parameters. dtype, device: of the per-driver tensors.
        """
        generator, traffic = torch.Generator().manual_seed(seed), self.traffic

        def table(name: str) -> PerDriver:
            return traffic.drivers.parameter(name, generator, dtype, device)

        limit = self.simulation.max_braking
        gradient = self.lane_gradient.model_dump()
        gradient["memory"] = math.inf if gradient["memory"] is None else gradient["memory"]
        return Simulator(
            network=traffic.network,
            fleet=Fleet(
                length=table("length"),
                width=table("width"),
                acceleration_noise=table("acceleration_noise"),
                speed_factor=table("speed_factor"),
                controlled=torch.tensor(self.controlled_slots, dtype=torch.int64, device=device),
                control=self.vehicles.controlled.control,
                follow_limit=self.vehicles.controlled.follow_limit,
            ),
            car_following=IDM(
                desired_speed=table("desired_speed"),
                time_headway=table("time_headway"),
                max_acceleration=table("max_acceleration"),
                comfortable_deceleration=table("comfortable_deceleration"),
                min_gap=table("min_gap"),
                exponent=self.car_following.exponent,
                desired_gap=self.car_following.desired_gap,
            ),
            lane_change=None if self.lane_change is None else MOBIL(**self.lane_change.model_dump(exclude={"kind"})),
            lane_choice=LaneChoice(**self.control.lane_choice.model_dump()),
            lane_gradient=LaneGradient(**gradient),
            dt=self.simulation.dt,
            integrator=self.simulation.integrator,
            max_braking=math.inf if limit is None else limit,
            right_of_way=RightOfWay(**self.right_of_way.model_dump()),
            signals=Signals.of(traffic.network, dtype, device),
            signal_gradient=SignalGradient(**self.signal_gradient.model_dump()),
            demand=traffic.demand,
        )

    def build_network(self) -> RoadNetwork:
        """The roads, with all routes."""
        return self.traffic.network

    def place(
        self,
        batch: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> TrafficState:
        """Vehicles at their starting places, before any warm-up; every human slot gets a driver of the table at random.

        Slots beyond the vehicles that are there at the start are not active.

        Parameters:
            batch: worlds. generator: a CPU generator of all draws. dtype, device: of the state.
        """
        traffic, count, total = self.traffic, self.present, self.total
        places = starting_places(self, traffic, batch, generator)
        controlled = torch.tensor(self.controlled_slots, dtype=torch.int64)
        driver = torch.randint(*traffic.drivers.everybody, (batch, count), generator=generator)
        driver[:, controlled] = torch.arange(len(controlled))
        active = torch.ones(batch, count, dtype=torch.bool)
        speed = torch.zeros(batch, count, dtype=torch.float64)
        if isinstance(self.initial, EmptyInitial):
            active[:] = False
        else:
            speed = draw(self.initial.speed, batch * count, generator).view(batch, count)
        if not self.vehicles.controlled.present:
            active[:, controlled] = False
        if not is_plain(self.network):
            speed = torch.minimum(speed, highest_speed(places, traffic.network))

        def padded(x: torch.Tensor, filler: float = 0) -> torch.Tensor:
            return torch.nn.functional.pad(x.expand(batch, -1), (0, total - count), value=filler)

        state = TrafficState(
            position=padded(places.position),
            speed=padded(torch.where(active, speed, 0.0)),
            lane=padded(places.lane),
            route=padded(torch.where(active, places.route, -1), -1),
            route_index=padded(places.route_index),
            driver=padded(driver, traffic.drivers.everybody[0]),
            active=padded(active),
        ).to(device, dtype)
        if traffic.demand is not None:
            seed = torch.randint(2**62, (batch,), generator=generator)
            state = replace(state, seed=seed.to(device))
        return _begin(state, traffic.demand, Signals.of(traffic.network, dtype, device))

    def initial_state(
        self,
        batch: int,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        warm_up: bool = True,
        simulator: Simulator | None = None,
    ) -> TrafficState:
        """Initial states of ``batch`` worlds: placed, then driven for ``warmup_steps`` by car following alone.

        During the warm-up controlled vehicles drive like ordinary ones and keep their lane. Afterwards the clock and
        the lane-change cool-downs stand at 0, unless there is demand or a signal: their times count from the beginning
        of the warm-up, and the clock goes on. A world depends on its own draws only. What takes long is kept in a file
        (:mod:`trafficgrad.warmup_cache`).

        Parameters:
            generator: a CPU generator of all draws, or one for each world. simulator: that of the warm-up, whose demand
                and signals begin here; ``self.build()`` where not given.

        Raises:
            TrafficGradError: as many generators as worlds are needed, or one.
        """
        own = [generator] if generator is None or isinstance(generator, torch.Generator) else list(generator)
        if len(own) not in (1, batch):
            raise TrafficGradError(f"{batch} worlds need one generator or {batch} of them, got {len(own)}")
        each = batch // len(own)
        state = concatenate([self.place(each, g, dtype, device) for g in own])
        if simulator is not None:
            state = _begin(state, simulator.demand, simulator.signals)
        if not (warm_up and self.simulation.warmup_steps):
            return state
        simulator = self.build(dtype=dtype, device=device) if simulator is None else simulator
        state = warmup_cache.warm_up(simulator, state, own, self.simulation.warmup_steps)
        if simulator.demand is not None or simulator.signals is not None:
            return state
        return replace(state, time=torch.zeros_like(state.time), cooldown=torch.zeros_like(state.cooldown))

    def summary(self) -> str:
        """One sentence about roads, demand and vehicle slots."""
        traffic, group = self.traffic, self.vehicles.controlled
        there = self.vehicles.human.count + (group.count if group.present else 0)
        there = 0 if isinstance(self.initial, EmptyInitial) else there
        parts = [f"{there} vehicles at the start in {self.total} slots"]
        if traffic.demand is not None:
            rates = [float(torch.as_tensor(inflow.rate).detach().mean()) for inflow in traffic.demand.inflows]
            listed = sum(0 if inflow.times is None else len(inflow.times) for inflow in traffic.demand.inflows)
            parts += [f"{len(rates)} inflows with {3600 * sum(rates):g} vehicles/h"]
            parts += [f"{listed} vehicles by schedule"] if listed else []
            parts += ["whoever finds no free slot waits outside (vehicles.slots)"]
        return f"{traffic.network!r}: {', '.join(parts)}"


def _begin(state: TrafficState, demand: Demand | None, signals: Signals | None) -> TrafficState:
    """The state with empty queues outside, and every signal in the phase of its programme."""
    state = state if demand is None else demand.start(state)
    return state if signals is None else signals.start(state)
