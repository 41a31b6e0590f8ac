"""What the vehicles' colours mean: speed, acceleration or time headway, each with its scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from trafficgrad.render.moment import Frame
from trafficgrad.render.style import DIVERGING, UNKNOWN, Array, ramp, speed_colours

_HARD = 3.0  # m/s2 at which the colours of acceleration end
_LONG = 5.0  # s of time headway at which its colours end


class Colouring(ABC):
    """One quantity as a colour. ``low`` and ``high`` are the ends of the scale."""

    name: ClassVar[str]
    unit: ClassVar[str]
    low: float
    high: float

    @abstractmethod
    def values(self, frame: Frame) -> Array:
        """Of every vehicle, ``[N]``; NaN = not known."""

    @abstractmethod
    def colours(self, values: Array) -> Array:
        """uint8 ``[..., 3]``."""

    def fill(self, frame: Frame) -> Array:
        """Colours of all vehicles, uint8 ``[N, 3]``."""
        values = self.values(frame)
        known = np.isfinite(values)
        return np.where(
            known[:, None], self.colours(np.where(known, values, self.low)), np.array(UNKNOWN, dtype=np.uint8)
        )

    def mean(self, frame: Frame) -> float:
        """Over the active vehicles; NaN where nothing is known."""
        values = self.values(frame)[frame.active]
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")

    def share(self, value: float) -> float:
        """Where a value lies on the scale, 0 to 1."""
        return float(np.clip((value - self.low) / (self.high - self.low), 0.0, 1.0))


class SpeedColouring(Colouring):
    """Dark violet at standstill, yellow at ``max_speed``."""

    name, unit = "speed", "m/s"

    def __init__(self, max_speed: float) -> None:
        self.low, self.high = 0.0, max_speed

    def values(self, frame: Frame) -> Array:
        """See the class."""
        return frame.speed

    def colours(self, values: Array) -> Array:
        """See the class."""
        return speed_colours(values, self.high)


class AccelerationColouring(Colouring):
    """Orange where somebody brakes, blue where somebody accelerates, grey between."""

    name, unit = "acceleration", "m/s²"
    low, high = -_HARD, _HARD

    def values(self, frame: Frame) -> Array:
        """See the class."""
        return frame.acceleration

    def colours(self, values: Array) -> Array:
        """See the class."""
        return ramp(DIVERGING, (np.asarray(values) - self.low) / (self.high - self.low))


class HeadwayColouring(Colouring):
    """Yellow close behind somebody, dark violet far behind; grey where nobody is ahead or one stands."""

    name, unit = "time headway", "s"
    low, high = 0.0, _LONG
    _SLOWEST = 0.5  # m/s below which a headway in seconds means nothing

    def values(self, frame: Frame) -> Array:
        """See the class."""
        if frame.around is None:
            return np.full(len(frame.speed), np.nan)
        moves = frame.speed > self._SLOWEST
        headway = frame.around.gap / np.where(moves, frame.speed, 1.0)
        return np.where(moves & np.isfinite(headway), headway, np.nan)

    def colours(self, values: Array) -> Array:
        """See the class."""
        return speed_colours(self.high - np.asarray(values), self.high)


def colourings(max_speed: float) -> tuple[Colouring, ...]:
    """All of them, the usual one first."""
    return SpeedColouring(max_speed), AccelerationColouring(), HeadwayColouring()
