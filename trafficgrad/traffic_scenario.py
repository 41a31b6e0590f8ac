"""The traffic scenario: road, drivers and task as one checked model that builds a simulator and its initial states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import yaml
from pydantic import Field, PrivateAttr, model_validator

from trafficgrad import warmup_cache
from trafficgrad.car_following import IDM
from trafficgrad.config import Document, M, StrictModel, error_at
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import LaneGradient
from trafficgrad.lane_change import MOBIL, LaneChoice
from trafficgrad.network import RoadNetwork, ring, straight
from trafficgrad.placement import check_places, controlled_slots, draw, starting_places
from trafficgrad.scenario_models import (
    ControlConfig,
    FailureConfig,
    IDMConfig,
    InitialConfig,
    LaneGradientConfig,
    LocalObservation,
    MOBILConfig,
    NetworkConfig,
    ObservationConfig,
    RewardTerm,
    RowsInitial,
    ScriptedConfig,
    SimulationConfig,
    Uniform,
    VehiclesConfig,
)
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, PerDriver, TrafficState
from trafficgrad.tree import concatenate


class TrafficScenario(StrictModel):
    """A traffic scenario. The field descriptions are what ``trafficgrad schema`` prints."""

    kind: Literal["traffic"] = Field(description="what is simulated")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names runs and pictures")
    description: str = Field(default="", description="what happens and what to look for")
    network: NetworkConfig
    simulation: SimulationConfig = SimulationConfig()
    car_following: IDMConfig = IDMConfig()
    lane_change: MOBILConfig | None = Field(default=None, description="null = ordinary drivers keep their lane")
    vehicles: VehiclesConfig
    initial: InitialConfig = RowsInitial()
    control: ControlConfig = ControlConfig()
    lane_gradient: LaneGradientConfig = LaneGradientConfig()
    observation: ObservationConfig = LocalObservation()
    reward: tuple[RewardTerm, ...] = Field(default=(), strict=False, description="weighted terms that are added")
    failure: FailureConfig = FailureConfig()
    scripted: ScriptedConfig = ScriptedConfig()
    late: float | None = Field(
        default=None, gt=0, description="end of an episode that `late` measures cover, s; null = its second half"
    )
    pool_size: int = Field(default=512, ge=1, description="warmed-up initial states drawn beforehand")
    driver_rows: int = Field(default=4096, ge=1, description="human drivers drawn beforehand")
    training: dict[str, Any] = Field(
        default_factory=dict, description="settings of the training; checked by `trafficgrad train`"
    )

    _document: Document = PrivateAttr(default_factory=lambda: Document({}, "the scenario"))

    @model_validator(mode="after")
    def _fits_the_road(self) -> TrafficScenario:
        """What the sections say fits together."""
        if self.total == 0:
            raise error_at("vehicles", "expected at least one vehicle, got none")
        check_places(self)
        control, steered = self.control, self.vehicles.controlled.control == "steered"
        if control.command == "heading_and_speed" and not steered:
            raise error_at("control.command", "heading_and_speed needs vehicles.controlled.control: steered")
        if self.failure.overtaken and self.network.kind == "ring":
            raise error_at("failure.overtaken", "on a closed road nobody is ahead: expected false")
        kinds = [term.kind for term in self.reward]
        if len(set(kinds)) < len(kinds):
            raise error_at("reward", f"expected every kind of term once, got {', '.join(kinds)}")
        _ = self.controlled_slots  # raises where the placement does not fit
        return self

    @property
    def total(self) -> int:
        """Vehicle slots in every world."""
        return self.vehicles.human.count + self.vehicles.controlled.count

    @property
    def rows(self) -> int:
        """Rows of starting places along the road."""
        return math.ceil(self.total / self.network.lanes)

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
        ``seed``. What is the same for all of them stays a Python float.

        Parameters:
            seed: of the human drivers' parameters. dtype, device: of the per-driver tensors.
        """
        generator = torch.Generator().manual_seed(seed)

        def table(name: str) -> PerDriver:
            human, controlled = getattr(self.vehicles.human, name), getattr(self.vehicles.controlled, name)
            count = self.vehicles.controlled.count
            if not isinstance(human, Uniform) and (human == controlled or count == 0):
                return float(human)
            rows = [draw(controlled, count, generator), draw(human, self.driver_rows, generator)]
            return torch.cat(rows).to(device=device, dtype=dtype)

        limit = self.simulation.max_braking
        gradient = self.lane_gradient.model_dump()
        gradient["memory"] = math.inf if gradient["memory"] is None else gradient["memory"]
        return Simulator(
            network=self.build_network(),
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
        )

    def build_network(self) -> RoadNetwork:
        """The road."""
        builder = {"ring": ring, "straight": straight}[self.network.kind]
        limit = math.inf if self.network.speed_limit is None else self.network.speed_limit
        return builder(self.network.length, self.network.lanes, self.network.edges, limit, self.network.lane_width)

    def place(
        self,
        batch: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> TrafficState:
        """Vehicles at their starting places, before any warm-up; every human slot gets a driver of the table at random.

        Parameters:
            batch: worlds. generator: a CPU generator of all draws. dtype, device: of the state.
        """
        along, lane = starting_places(self, batch, generator)
        piece = self.network.length / self.network.edges
        edge = (along / piece).long().clamp(max=self.network.edges - 1)
        position = (along - edge * piece).clamp(min=0)
        controlled = torch.tensor(self.controlled_slots, dtype=torch.int64)
        driver = torch.randint(
            len(controlled), len(controlled) + self.driver_rows, (batch, self.total), generator=generator
        )
        driver[:, controlled] = torch.arange(len(controlled))
        speed = draw(self.initial.speed, batch * self.total, generator).view(batch, self.total)
        return TrafficState(position=position, speed=speed, lane=edge * self.network.lanes + lane, driver=driver).to(
            device, dtype
        )

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
        the lane-change cool-downs stand at 0. A world depends on its own draws only. What takes long is kept in a file
        (:mod:`trafficgrad.warmup_cache`).

        Parameters:
            generator: a CPU generator of all draws, or one for each world. simulator: that of the warm-up,
                ``self.build()`` where not given.

        Raises:
            TrafficGradError: as many generators as worlds are needed, or one.
        """
        own = [generator] if generator is None or isinstance(generator, torch.Generator) else list(generator)
        if len(own) not in (1, batch):
            raise TrafficGradError(f"{batch} worlds need one generator or {batch} of them, got {len(own)}")
        each = batch // len(own)
        state = concatenate([self.place(each, g, dtype, device) for g in own])
        if not (warm_up and self.simulation.warmup_steps):
            return state
        simulator = self.build(dtype=dtype, device=device) if simulator is None else simulator
        state = warmup_cache.warm_up(simulator, state, own, self.simulation.warmup_steps)
        return replace(state, time=torch.zeros_like(state.time), cooldown=torch.zeros_like(state.cooldown))

    def to_yaml(self) -> str:
        """Every setting written out, defaults too, as YAML that loads to an equal scenario."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

    def overridden(self, section: tuple[str, ...]) -> set[str]:
        """Keys of a section that an override set, and not the file."""
        return self._document.overridden(section)

    def validate_training(self, model: type[M]) -> M:
        """Check the ``training`` section with ``model``; an error names the file and line it came from.

        Raises:
            TrafficGradError: one sentence.
        """
        return replace(self._document, data={"training": self.training}).validate(model, ("training",))
