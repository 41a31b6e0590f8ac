"""The task: what is observed, what earns reward, and what ends an episode early."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from trafficgrad.config import StrictModel, default_kind, name_kind
from trafficgrad.scenario_sections.numbers import Count, NonNegative, Positive


class LocalObservation(StrictModel):
    """What each controlled vehicle sees of its surroundings, one row a vehicle, or all rows joined."""

    kind: Literal["local"] = "local"
    shared: bool = Field(
        default=True, description="true: one row per controlled vehicle, for a shared policy; false: the rows joined"
    )
    target_speed: NonNegative | None = Field(
        default=None, description="the own speed is shown relative to it, m/s; null = absolute"
    )
    speed_scale: Positive = Field(default=5.0, description="speed differences are divided by it, m/s")
    gap_scale: Positive = Field(default=50.0, description="gaps are divided by it and end at 1, m")
    distance_scale: Positive = Field(
        default=100.0, description="divides distances between controlled vehicles; how far behind others are seen, m"
    )
    beside_distance: Positive = Field(
        default=20.0, description="a controlled vehicle within it in a side lane counts as beside, m"
    )
    others: Count = Field(default=3, description="how many of the other controlled vehicles are shown, nearest first")


class WorldObservation(StrictModel):
    """Where every vehicle is and how it moves, seen from the first controlled vehicle: joined rows of all vehicles.

    Four blocks over all vehicles in the order of their slots: distance ahead, distance to the left, speed along the
    road, speed across it.
    """

    kind: Literal["world"]

    @property
    def shared(self) -> bool:
        """All controlled vehicles are driven by one joint policy."""
        return False

    @property
    def target_speed(self) -> None:
        """Speeds are absolute."""
        return None


class LanesObservation(StrictModel):
    """What each controlled vehicle of a straight road sees of the first ordinary driver of every lane behind it.

    Its own velocity and place across the road, then the drivers, the nearest first: how far it is ahead of each, how
    fast that one comes nearer and how far to the left its lane is. One row a vehicle, or all rows joined.
    """

    kind: Literal["lanes"]
    shared: bool = Field(
        default=True, description="true: one row per controlled vehicle, for a shared policy; false: the rows joined"
    )

    @property
    def target_speed(self) -> None:
        """Speeds are absolute."""
        return None


class RouteObservation(StrictModel):
    """What each controlled vehicle sees along its own way, on any network, one row a vehicle, or all rows joined.

    Its speed and limit, its neighbours in three lanes, the next gate (signal, right of way), how far its lane leads on
    and the lane changes that its route needs, the next turn, and the traffic on the next two edges.
    """

    kind: Literal["route"]
    shared: bool = Field(
        default=True, description="true: one row per controlled vehicle, for a shared policy; false: the rows joined"
    )
    target_speed: NonNegative | None = Field(
        default=None, description="the own speed is shown relative to it, m/s; null = absolute"
    )
    speed_scale: Positive = Field(default=5.0, description="speeds and their differences are divided by it, m/s")
    gap_scale: Positive = Field(default=50.0, description="gaps are divided by it and end at 1, m")
    distance_scale: Positive = Field(
        default=100.0, description="distances to gates and lane ends are divided by it and end at 1, m"
    )
    time_scale: Positive = Field(default=30.0, description="divides the time that a signal's phase still lasts, s")
    count_scale: Positive = Field(default=10.0, description="divides numbers of vehicles on an edge")


class JunctionsObservation(StrictModel):
    """What every controlled signal sees of the lanes that lead to it, one row a signal, or all rows joined."""

    kind: Literal["junctions"]
    shared: bool = Field(
        default=True, description="true: one row per controlled signal, for a shared policy; false: the rows joined"
    )
    reach: Positive = Field(default=100.0, description="how far before the stop line vehicles are seen, m")
    speed_scale: Positive = Field(default=5.0, description="divides mean speeds, m/s")
    time_scale: Positive = Field(default=30.0, description="divides the time since the phase began, s")
    count_scale: Positive = Field(default=10.0, description="divides numbers of vehicles on a lane")

    @property
    def target_speed(self) -> None:
        """Speeds are absolute."""
        return None


ObservationConfig = Annotated[
    LocalObservation | WorldObservation | LanesObservation | RouteObservation | JunctionsObservation,
    Field(discriminator="kind"),
    BeforeValidator(default_kind("local")),
]


class FailureConfig(StrictModel):
    """What ends an episode before its time limit. Distances are those of vehicle centres."""

    reward: float | None = Field(
        default=None, description="takes the place of the reward of the decision that failed; null = the reward stays"
    )
    overlap: bool = Field(default=True, description="two vehicles of a lane overlap")
    touching: bool = Field(
        default=False,
        description="two bodies overlap in the plane, on whatever lanes; computed on the CPU, which takes time",
    )
    centre_distance: Positive | None = Field(
        default=None,
        description="another vehicle of the same road is nearer to a controlled one than this, m; null = no such test",
    )
    off_road: bool = Field(default=False, description="a controlled vehicle is on no lane")
    farthest: Positive | None = Field(
        default=None,
        description="the vehicle of the same road next to a controlled one is further than this, m; null = no such "
        "test",
    )
    overtaken: bool = Field(
        default=False, description="a human driver, on any lane of the same road, is ahead of a controlled vehicle"
    )


class PaceReward(StrictModel):
    """1 - min(1, mean over human vehicles of |v - target| / target)."""

    kind: Literal["pace"]
    target: Positive = Field(description="speed that the traffic shall have, m/s")
    weight: float = Field(default=1.0, description="factor of this term")


class MeanSpeedReward(StrictModel):
    """Mean speed of all vehicles / scale."""

    kind: Literal["mean_speed"]
    scale: Positive = Field(description="speed that earns 1, m/s")
    weight: float = Field(default=1.0, description="factor of this term")


class SpeedDeviationReward(StrictModel):
    """Minus the standard deviation of the vehicles' speeds at one time / scale."""

    kind: Literal["speed_deviation"]
    scale: Positive = Field(description="deviation that costs 1, m/s")
    weight: float = Field(default=1.0, description="factor of this term")


class AccelerationReward(StrictModel):
    """Minus the mean over the controlled vehicles that are there of (acceleration / scale)^2."""

    kind: Literal["acceleration"]
    scale: Positive = Field(description="acceleration that costs 1, m/s2")
    weight: float = Field(default=1.0, description="factor of this term")


class CollisionReward(StrictModel):
    """Minus 1 in every step in which two vehicles overlap."""

    kind: Literal["collision"]
    weight: float = Field(default=1.0, description="factor of this term")


class DelayReward(StrictModel):
    """Minus the mean over vehicles of 1 - v / v_free; v_free: the desired speed, at most the speed limit."""

    kind: Literal["delay"]
    weight: float = Field(default=1.0, description="factor of this term")


class OutflowReward(StrictModel):
    """Vehicles that leave the road / scale; without gradient."""

    kind: Literal["outflow"]
    scale: Positive = Field(description="flow that earns 1, vehicles/h")
    weight: float = Field(default=1.0, description="factor of this term")


class WaitingReward(StrictModel):
    """Minus the number of vehicles that stand (slower than 1 m/s) or wait outside / scale; without gradient."""

    kind: Literal["waiting"]
    scale: Positive = Field(description="vehicles that cost 1")
    weight: float = Field(default=1.0, description="factor of this term")


RewardTerm = Annotated[
    PaceReward
    | MeanSpeedReward
    | SpeedDeviationReward
    | AccelerationReward
    | CollisionReward
    | DelayReward
    | OutflowReward
    | WaitingReward,
    Field(discriminator="kind"),
    BeforeValidator(name_kind),
]
