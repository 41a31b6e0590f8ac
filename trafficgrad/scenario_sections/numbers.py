"""Numbers of a scenario file: with bounds, as intervals, drawn anew for every driver, or listed driver by driver."""

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


class Listed(StrictModel):
    """A number for one driver after the other, from the beginning again behind the last.

    Lists of several parameters go together: a driver has the same place in all of them.
    """

    values: tuple[float, ...] = Field(strict=False, min_length=1, description="a number for each driver in turn")


Number = float | Uniform | Listed


def _which(value: Any) -> str:
    if isinstance(value, Listed) or (isinstance(value, dict) and "values" in value):
        return "list"
    return "distribution" if isinstance(value, dict | Uniform) else "number"


def _above_zero(value: Number) -> Number:
    if lowest(value) <= 0:
        raise ValueError(f"should be greater than 0, got {lowest(value)}")
    return value


def _not_negative(value: Number) -> Number:
    if lowest(value) < 0:
        raise ValueError(f"should be greater than or equal to 0, got {lowest(value)}")
    return value


def lowest(value: Number) -> float:
    """The smallest number that a setting can give."""
    if isinstance(value, Listed):
        return min(value.values)
    return value.uniform[0] if isinstance(value, Uniform) else value


def highest(value: Number) -> float:
    """The largest number that a setting can give."""
    if isinstance(value, Listed):
        return max(value.values)
    return value.uniform[1] if isinstance(value, Uniform) else value


_Number = Annotated[
    Annotated[float, Tag("number")] | Annotated[Uniform, Tag("distribution")] | Annotated[Listed, Tag("list")],
    Discriminator(_which),
]
PositiveNumber = Annotated[_Number, AfterValidator(_above_zero)]
NonNegativeNumber = Annotated[_Number, AfterValidator(_not_negative)]
