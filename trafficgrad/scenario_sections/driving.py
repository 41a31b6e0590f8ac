"""Time, models of drivers, junctions, and how gradients pass lane changes and signals."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trafficgrad.config import StrictModel, error_at
from trafficgrad.gradients import LaneGradient, SignalGradient
from trafficgrad.right_of_way import RightOfWay
from trafficgrad.scenario_sections.numbers import Count, Interval, NonNegative, Positive

_GRADIENT = LaneGradient()
_SIGNAL_GRADIENT = SignalGradient()
_RULES = RightOfWay()


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


class RightOfWayConfig(StrictModel):
    """How drivers behave at junctions; the same for all."""

    time_gap: NonNegative = Field(
        default=_RULES.time_gap,
        description="between clearing a crossing and the arrival of somebody with precedence, s",
    )
    safe_deceleration: NonNegative = Field(
        default=_RULES.safe_deceleration,
        description="braking that merging may ask of oneself and of who comes behind, m/s2",
    )
    stop_deceleration: NonNegative = Field(
        default=_RULES.stop_deceleration,
        description="who would brake harder than this for yellow or red drives on, m/s2",
    )
    reaction_time: NonNegative = Field(
        default=_RULES.reaction_time,
        description="the right of way is asked for that much before braking must begin, s",
    )
    zip_distance: NonNegative = Field(
        default=_RULES.zip_distance,
        description="from there on drivers whose lanes join in turn leave room for each other, m",
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


class SignalGradientConfig(StrictModel):
    """How gradients pass signals that change."""

    mode: Literal["straight_through", "blocked", "sigmoid"] = Field(
        default=_SIGNAL_GRADIENT.mode,
        description="straight_through: changes come at whole steps forward, at their exact times backward; blocked: no "
        "gradient; sigmoid: the step of a change is shared out forward too",
    )
    headway: Positive = Field(
        default=_SIGNAL_GRADIENT.headway,
        description="how late, about, one may come and still count as somebody who could have passed, s",
    )
