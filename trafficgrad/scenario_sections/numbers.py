"""Numbers of a scenario file: with bounds, as intervals, and drawn anew for every driver."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

from trafficgrad.config import StrictModel


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
