"""Who is on the road, and where everybody starts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trafficgrad.config import StrictModel, default_kind
from trafficgrad.scenario_sections.numbers import Count, NonNegative, NonNegativeNumber, Positive, PositiveNumber
from trafficgrad.scenario_sections.roads import Names


class DriverConfig(StrictModel):
    """Bodies and IDM parameters of a group of drivers; ``{uniform: [lowest, highest]}`` draws one for each driver."""

    length: PositiveNumber = Field(default=5.0, description="m")
    width: PositiveNumber = Field(default=2.0, description="m")
    desired_speed: PositiveNumber = Field(default=30.0, description="speed on an empty road, m/s")
    time_headway: NonNegativeNumber = Field(default=1.0, description="time gap kept to the leader, s")
    max_acceleration: PositiveNumber = Field(default=1.0, description="m/s2")
    comfortable_deceleration: PositiveNumber = Field(default=1.5, description="m/s2")
    min_gap: NonNegativeNumber = Field(default=2.0, description="gap kept at standstill, m")
    acceleration_noise: NonNegativeNumber = Field(default=0.0, description="random acceleration, m/s2/sqrt(s)")
    speed_factor: PositiveNumber = Field(default=1.0, description="times the speed limit bounds the desired speed")


class VehicleConfig(DriverConfig):
    """A group of vehicles and their drivers; ``{uniform: [lowest, highest]}`` draws a number for each driver."""

    count: Count = Field(default=0, description="vehicles in every world at the start")


class VehicleClassConfig(DriverConfig):
    """Other vehicles among the human-driven ones, such as trucks."""

    share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="of all human-driven vehicles, those at the start and those that come; 0 = only in inflows that "
        "name the class",
    )


class Placement(StrictModel):
    """Which starting places the controlled vehicles take, on a ring or a straight road."""

    lane: Count = Field(default=0, description="lane; 0 = rightmost")
    rows: tuple[Count, ...] | None = Field(
        default=None, strict=False, description="rows of that lane; null = the first ones"
    )


class ControlledVehicleConfig(VehicleConfig):
    """The vehicles that a policy drives; outside an episode they drive by IDM and keep their lane."""

    count: Count = Field(default=0, description="slots of controlled vehicles in every world")
    present: bool = Field(
        default=True, description="they are there at the start; false: all come by the demand's `controlled_share`"
    )
    placement: Placement = Placement()
    control: Literal["acceleration", "lane", "steered"] = Field(
        default="acceleration",
        description="acceleration; lane: acceleration and lane requests; steered: acceleration and steering",
    )
    follow_limit: bool = Field(default=True, description="apply at most the vehicle's own IDM acceleration")


class VehiclesConfig(StrictModel):
    """Who is on the road."""

    human: VehicleConfig = VehicleConfig()
    classes: dict[str, VehicleClassConfig] = Field(
        default_factory=dict, description="further kinds of human-driven vehicles by name, such as `truck`"
    )
    controlled: ControlledVehicleConfig = ControlledVehicleConfig()
    slots: int | None = Field(
        default=None,
        ge=1,
        description="most vehicles at a time in a world, others wait outside; null = those at the start and, with "
        "demand, as many as it may bring at a time",
    )


class RowsInitial(StrictModel):
    """Vehicle i starts in lane i mod L at (i div L + lane / L) * length / rows + U(0, jitter)."""

    kind: Literal["rows"] = "rows"
    speed: NonNegativeNumber = Field(default=0.0, description="m/s")
    jitter: NonNegative = Field(default=0.0, description="largest random displacement forwards, m")


class QueueInitial(StrictModel):
    """Human vehicles in a queue on every lane, from the road's start on; controlled ones ahead, on random lanes.

    The human vehicles are dealt to the lanes evenly (the first lanes get those that are left over). Controlled vehicle
    c starts ``lead`` + c * ``spacing`` ahead of the front-most vehicle of the lane that it was given.
    """

    kind: Literal["queue"]
    spacing: Positive = Field(default=10.0, description="from vehicle to vehicle, front to front, m")
    lead: Positive = Field(default=50.0, description="of the first controlled vehicle over the lane's front, m")
    speed: NonNegativeNumber = Field(default=0.0, description="m/s")


class SpreadInitial(StrictModel):
    """Vehicles at equal distances along all lanes that a route leads on from, the first at random; not at junctions.

    A vehicle drives any of the routes that need no lane change where it starts.
    """

    kind: Literal["spread"]
    speed: NonNegativeNumber = Field(default=0.0, description="m/s; at most the speed limit")
    jitter: NonNegative = Field(default=0.0, description="largest random displacement forwards, m")
    controlled_edges: Names | None = Field(
        default=None, description="where controlled vehicles start, and nobody else; null = evenly among the others"
    )


class EmptyInitial(StrictModel):
    """Nobody is there at the start."""

    kind: Literal["empty"]


InitialConfig = Annotated[
    RowsInitial | QueueInitial | SpreadInitial | EmptyInitial,
    Field(discriminator="kind"),
    BeforeValidator(default_kind("rows")),
]


def nobody_at_start(data: dict[str, Any]) -> bool:
    """Whether a scenario that is not checked yet puts no vehicle on the road at the start."""
    vehicles = data.get("vehicles", {})
    groups = [vehicles.get(name, {}) for name in ("human", "controlled")] if isinstance(vehicles, dict) else []
    human, controlled = [group if isinstance(group, dict) else {} for group in groups] or [{}, {}]
    demand = data.get("demand")
    inflows = [flow for flow in demand if isinstance(flow, dict)] if isinstance(demand, list | tuple) else []
    come = controlled.get("present") is False or any(flow.get("controlled_share") for flow in inflows)
    return not human.get("count") and (come or not controlled.get("count"))
