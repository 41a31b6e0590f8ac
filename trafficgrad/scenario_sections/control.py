"""What an action means, and the hand-written controllers that policies are compared with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trafficgrad.config import StrictModel
from trafficgrad.lane_change import LaneChoice
from trafficgrad.scenario_sections.numbers import Count, Interval, NonNegative, Positive

_CHOICE = LaneChoice()


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


class SweepConfig(StrictModel):
    """The hand-written controller that actions of the command ``lanes`` add to: it holds the lanes by turns."""

    speed: NonNegative = Field(default=15.0, description="desired speed, m/s")
    lead: NonNegative = Field(default=8.0, description="distance ahead of the nearest driver that is aimed at, m")
    speed_gain: NonNegative = Field(default=0.0, description="added to the speed for each m that is missing, 1/s")
    speed_weight: NonNegative = Field(
        default=0.5, description="urgency for each m/s of a lane's first driver, m: the faster, the sooner"
    )
    distance_weight: NonNegative = Field(default=1.0, description="urgency lost for each lane of distance, m")


class LanesConfig(StrictModel):
    """The command ``lanes``: urgencies of lanes instead of steering, on a straight road."""

    scale: Positive = Field(default=10.0, description="urgency of action 1, m")
    hysteresis: NonNegative = Field(default=3.0, description="urgency of the lane that is being steered for, m")
    lookahead: NonNegative = Field(
        default=0.3, description="which lane that is: where the vehicle will be so much later, s"
    )
    inset: NonNegative = Field(default=1.2, description="how far inside the nearer edge of a lane is steered for, m")
    lateral_gain: Positive = Field(default=0.4, description="heading for each m to the place that is steered for, rad")
    speed_scale: Positive = Field(default=2.0, description="speed of action 1, added to that of a sweep, m/s")
    temperature: Positive = Field(default=5.0, description="softness of the choice on the way back, m")
    sweep: SweepConfig | None = Field(default=None, description="what actions add to; null = nothing")


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
    command: Literal["direct", "heading_and_speed", "lanes"] = Field(
        default="direct",
        description="direct: acceleration and steering; heading_and_speed: a desired speed and heading (steered "
        "vehicles), which proportional control turns into acceleration and steering in every simulator step; lanes: a "
        "desired speed and the urgency of every lane of a straight road",
    )
    lanes: LanesConfig = LanesConfig()
    heading: Interval = Field(default=(-0.9, 0.9), description="desired heading of actions -1 and 1, rad")
    heading_gain: Positive = Field(default=3.0, description="front wheel angle for each rad of wrong heading")
    speed: Interval = Field(default=(0.0, 20.0), description="desired speed of actions -1 and 1, m/s")
    speed_gain: Positive = Field(default=2.0, description="acceleration for each m/s of wrong speed, 1/s")
    lane_choice: LaneChoiceConfig = LaneChoiceConfig()
    signals: Literal["none", "switch"] = Field(
        default="none",
        description="switch: one action for each signal with `signals.control: controlled`; above 0 asks for its next "
        "phase, in every simulator step of the decision",
    )


class RampConfig(StrictModel):
    """A target speed that changes evenly from ``start`` to that of the task."""

    start: NonNegative = Field(description="target speed when an episode begins, m/s")
    duration: Positive = Field(description="time until it is that of the task, s")


class MPCConfig(StrictModel):
    """Model predictive control of the scenario's reward, the controller ``mpc``."""

    horizon: Positive = Field(default=30.0, description="how far ahead it plans, s")
    replan: Positive = Field(default=1.0, description="time between two plans, s")
    iterations: Count = Field(default=4, description="steps along the gradient for each plan")
    step: Positive = Field(default=0.15, description="length of such a step, where bounds are at -1 and 1")
    candidates: int = Field(default=16, ge=1, description="plans that are improved side by side, the best is taken")
    spread: NonNegative = Field(default=1.0, description="of them about the last plan, where bounds are at -1 and 1")


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
    mpc: MPCConfig = MPCConfig()
