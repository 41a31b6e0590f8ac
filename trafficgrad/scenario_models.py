"""The sections of a scenario file, as pydantic models. Names are full words; every description ends with the unit."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from trafficgrad.config import StrictModel, default_kind, error_at, name_kind
from trafficgrad.gradients import LaneGradient
from trafficgrad.lane_change import LaneChoice

_CHOICE = LaneChoice()
_GRADIENT = LaneGradient()


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected [lowest, highest], got {list(bounds)}")
    return bounds


Interval = Annotated[tuple[float, float], Field(strict=False), AfterValidator(_ordered)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Uniform(StrictModel):
    """A number drawn anew for every driver, each value between two bounds equally likely."""

    uniform: Interval = Field(description="lowest and highest value")


def _which(value: Any) -> str:
    return "distribution" if isinstance(value, dict | Uniform) else "number"


def _above_zero(value: float | Uniform) -> float | Uniform:
    if lowest(value) <= 0:
        raise ValueError(f"should be greater than 0, got {lowest(value)}")
    return value


def _not_negative(value: float | Uniform) -> float | Uniform:
    if lowest(value) < 0:
        raise ValueError(f"should be greater than or equal to 0, got {lowest(value)}")
    return value


def lowest(value: float | Uniform) -> float:
    """The smallest number that a setting can give."""
    return value.uniform[0] if isinstance(value, Uniform) else value


def highest(value: float | Uniform) -> float:
    """The largest number that a setting can give."""
    return value.uniform[1] if isinstance(value, Uniform) else value


_Number = Annotated[Annotated[float, Tag("number")] | Annotated[Uniform, Tag("distribution")], Discriminator(_which)]
PositiveNumber = Annotated[_Number, AfterValidator(_above_zero)]
NonNegativeNumber = Annotated[_Number, AfterValidator(_not_negative)]


class _Road(StrictModel):
    length: Positive = Field(description="length of the whole road, m")
    lanes: int = Field(default=1, ge=1, description="lanes side by side; lane 0 is the rightmost")
    edges: int = Field(default=1, ge=1, description="pieces of equal length that the road is built of")
    speed_limit: Positive | None = Field(default=None, description="m/s; null = none")
    lane_width: Positive = Field(default=3.5, description="m")


class RingNetwork(_Road):
    """A closed circle."""

    kind: Literal["ring"]


class StraightNetwork(_Road):
    """A straight road with two ends."""

    kind: Literal["straight"]


NetworkConfig = Annotated[RingNetwork | StraightNetwork, Field(discriminator="kind"), BeforeValidator(name_kind)]


class SimulationConfig(StrictModel):
    """Time: the step, the integrator, and how many steps everything takes."""

    dt: Positive = Field(default=0.1, description="one simulator step, s")
    integrator: Literal["ballistic", "semi_implicit_euler", "explicit_euler"] = Field(
        default="ballistic", description="update rule"
    )
    max_braking: Positive | None = Field(
        default=None, description="hardest braking of any vehicle, m/s2; null = unlimited"
    )
    warmup_steps: Count = Field(default=0, description="simulator steps driven before an episode begins")
    horizon_steps: int = Field(default=1000, ge=1, description="simulator steps of an episode")
    decision_steps: int = Field(default=1, ge=1, description="simulator steps between two decisions of the policy")

    @model_validator(mode="after")
    def _whole_decisions(self) -> SimulationConfig:
        if self.horizon_steps % self.decision_steps:
            raise error_at(
                "horizon_steps", f"{self.horizon_steps} is no multiple of decision_steps {self.decision_steps}"
            )
        return self


class IDMConfig(StrictModel):
    """Intelligent Driver Model; its other parameters belong to the vehicles."""

    kind: Literal["idm"] = "idm"
    exponent: Positive = Field(default=4.0, description="exponent of v / v0")
    desired_gap: Literal["sumo", "paper"] = Field(
        default="sumo",
        description="sumo: s0 + max(0, v T + v dv / (2 sqrt(a b))); paper: max(0, s0 + v T + v dv / (2 sqrt(a b)))",
    )


class MOBILConfig(StrictModel):
    """Lane changes of ordinary drivers."""

    kind: Literal["mobil"] = "mobil"
    politeness: NonNegative = Field(default=0.0, description="weight of the followers' accelerations")
    threshold: NonNegative = Field(default=0.1, description="gain that a change must promise, m/s2")
    safe_deceleration: Positive = Field(default=4.0, description="braking that a new follower may be asked for, m/s2")
    right_bias: float = Field(
        default=0.0, description="gain added for a change to the right, taken off for one to the left, m/s2"
    )
    cooldown: NonNegative = Field(default=3.0, description="time after a change before the next, s")
    min_gap: NonNegative = Field(default=0.5, description="gap needed in front and behind in the new lane, m")
    sides: Literal["both", "alternate"] = Field(
        default="alternate", description="both sides each step, or left and right in turn"
    )


class VehicleConfig(StrictModel):
    """Bodies and IDM parameters of a group of drivers; ``{uniform: [lowest, highest]}`` draws one for each driver."""

    count: Count = Field(description="vehicles in every world")
    length: PositiveNumber = Field(default=5.0, description="m")
    width: PositiveNumber = Field(default=2.0, description="m")
    desired_speed: PositiveNumber = Field(default=30.0, description="speed on an empty road, m/s")
    time_headway: NonNegativeNumber = Field(default=1.0, description="time gap kept to the leader, s")
    max_acceleration: PositiveNumber = Field(default=1.0, description="m/s2")
    comfortable_deceleration: PositiveNumber = Field(default=1.5, description="m/s2")
    min_gap: NonNegativeNumber = Field(default=2.0, description="gap kept at standstill, m")
    acceleration_noise: NonNegativeNumber = Field(default=0.0, description="random acceleration, m/s2/sqrt(s)")
    speed_factor: PositiveNumber = Field(default=1.0, description="times the speed limit bounds the desired speed")


class Placement(StrictModel):
    """Which starting places the controlled vehicles take."""

    lane: Count = Field(default=0, description="lane; 0 = rightmost")
    rows: tuple[Count, ...] | None = Field(
        default=None, strict=False, description="rows of that lane; null = the first ones"
    )


class ControlledVehicleConfig(VehicleConfig):
    """The vehicles that a policy drives; outside an episode they drive by IDM and keep their lane."""

    placement: Placement = Placement()
    control: Literal["acceleration", "lane", "steered"] = Field(
        default="acceleration",
        description="acceleration; lane: acceleration and lane requests; steered: acceleration and steering",
    )
    follow_limit: bool = Field(default=True, description="apply at most the vehicle's own IDM acceleration")


class VehiclesConfig(StrictModel):
    """Who is on the road."""

    human: VehicleConfig
    controlled: ControlledVehicleConfig = ControlledVehicleConfig(count=0)


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


InitialConfig = Annotated[
    RowsInitial | QueueInitial, Field(discriminator="kind"), BeforeValidator(default_kind("rows"))
]


class LaneChoiceConfig(StrictModel):
    """When the lane request of a controlled vehicle is granted."""

    min_gap: NonNegative = Field(
        default=_CHOICE.min_gap, description="gap needed in front and behind in the new lane, m"
    )
    safe_deceleration: Positive = Field(
        default=_CHOICE.safe_deceleration, description="braking that a new follower may be asked for, m/s2"
    )
    own_deceleration: Positive = Field(
        default=_CHOICE.own_deceleration, description="braking that the change may ask of the vehicle itself, m/s2"
    )
    cooldown: NonNegative = Field(default=_CHOICE.cooldown, description="time after a change before the next, s")


class ControlConfig(StrictModel):
    """What an action of the policy means."""

    acceleration: Interval = Field(default=(-3.0, 2.0), description="bounds, m/s2")
    acceleration_scale: Positive = Field(default=2.0, description="acceleration of action 1, m/s2")
    steering: Interval = Field(
        default=(-0.1, 0.1), description="bounds of the front wheel angle (steered vehicles), rad"
    )
    steering_scale: Positive = Field(default=0.05, description="front wheel angle of action 1 (steered vehicles), rad")
    speed_limits: Interval | None = Field(
        default=None,
        description="beyond the highest (lowest) speed the acceleration is at most (least) the way back to it in 1 s, "
        "m/s; null = none",
    )
    command: Literal["direct", "heading_and_speed"] = Field(
        default="direct",
        description="direct: acceleration and steering; heading_and_speed: a desired speed and heading (steered "
        "vehicles), which proportional control turns into acceleration and steering in every simulator step",
    )
    heading: Interval = Field(default=(-0.9, 0.9), description="desired heading of actions -1 and 1, rad")
    heading_gain: Positive = Field(default=3.0, description="front wheel angle for each rad of wrong heading")
    speed: Interval = Field(default=(0.0, 20.0), description="desired speed of actions -1 and 1, m/s")
    speed_gain: Positive = Field(default=2.0, description="acceleration for each m/s of wrong speed, 1/s")
    lane_choice: LaneChoiceConfig = LaneChoiceConfig()


class RampConfig(StrictModel):
    """A target speed that changes evenly from ``start`` to that of the task."""

    start: NonNegative = Field(description="target speed when an episode begins, m/s")
    duration: Positive = Field(description="time until it is that of the task, s")


class ScriptedConfig(StrictModel):
    """The hand-written controllers that policies are compared with. They change neither traffic nor training."""

    ramp: RampConfig | None = Field(
        default=None, description="target speed of vehicles that align; null = that of the task from the start on"
    )
    correction: Positive = Field(
        default=4.0, description="most that aligning adds to the target speed, or takes off it, m/s"
    )
    keep_lane_and_align: bool = Field(
        default=False, description="compare also with vehicles that align, but keep their lane"
    )


def _contrast(value: Any) -> Any:
    """Refuse other words than ``drivers``, and intervals of the wrong order, with one sentence."""
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(x, int | float) for x in value)
    if value is not None and value != "drivers" and not (pair and value[0] < value[1]):
        raise ValueError(f"expected [lowest, highest], drivers or null, got {value!r}")
    return value


class LaneGradientConfig(StrictModel):
    """How gradients pass lane changes."""

    mode: Literal["straight_through", "blocked", "sigmoid"] = Field(
        default=_GRADIENT.mode,
        description="straight_through: hard forward, soft backward; blocked: no gradient; sigmoid: relaxed forward too",
    )
    choices: Literal["all", "controlled"] = Field(
        default=_GRADIENT.choices,
        description="whose lane choices carry gradient; `controlled` blocks those of drivers",
    )
    temperature: Positive = Field(default=_GRADIENT.temperature, description="softness of MOBIL's decision, m/s2")
    choice_temperature: Positive = Field(
        default=_GRADIENT.choice_temperature, description="softness of a controlled vehicle's lane request"
    )
    memory: Positive | None = Field(
        default=_GRADIENT.memory if math.isfinite(_GRADIENT.memory) else None,
        description="how long the gradient remembers a change, s; null = for ever",
    )
    transition_width: Positive = Field(
        default=_GRADIENT.transition_width, description="width of the soft lane boundary (steered vehicles), m"
    )
    contrast_limits: Annotated[Interval | Literal["drivers"] | None, BeforeValidator(_contrast)] = Field(
        default=_GRADIENT.contrast_limits,
        description="clamp of the compared accelerations, m/s2; drivers: nobody brakes harder than 6 times its "
        "comfortable deceleration; null: none",
    )


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


ObservationConfig = Annotated[
    LocalObservation | WorldObservation, Field(discriminator="kind"), BeforeValidator(default_kind("local"))
]


class FailureConfig(StrictModel):
    """What ends an episode before its time limit. Distances are those of vehicle centres."""

    reward: float | None = Field(
        default=None, description="takes the place of the reward of the decision that failed; null = the reward stays"
    )
    overlap: bool = Field(default=True, description="two vehicles of a lane overlap")
    centre_distance: Positive | None = Field(
        default=None, description="another vehicle is nearer to a controlled one than this, m; null = no such test"
    )
    off_road: bool = Field(default=False, description="a controlled vehicle is on no lane")
    farthest: Positive | None = Field(
        default=None, description="the vehicle next to a controlled one is further than this, m; null = no such test"
    )
    overtaken: bool = Field(default=False, description="a human driver, on any lane, is ahead of a controlled vehicle")


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
    """Minus the mean over controlled vehicles of (acceleration / scale)^2."""

    kind: Literal["acceleration"]
    scale: Positive = Field(description="acceleration that costs 1, m/s2")
    weight: float = Field(default=1.0, description="factor of this term")


class CollisionReward(StrictModel):
    """Minus 1 in every step in which two vehicles overlap."""

    kind: Literal["collision"]
    weight: float = Field(default=1.0, description="factor of this term")


RewardTerm = Annotated[
    PaceReward | MeanSpeedReward | SpeedDeviationReward | AccelerationReward | CollisionReward,
    Field(discriminator="kind"),
    BeforeValidator(name_kind),
]
