"""Where playing stands: moved on by the clock, steered by the viewer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trafficgrad.errors import TrafficGradError
from trafficgrad.render.moment import Timed

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # simulated seconds per second
_LONGEST = 0.1  # s of real time that one picture moves on at most: after a hitch nothing is skipped


@dataclass
class Player:
    """Time within a source. ``factor``: simulated seconds per second."""

    source: Timed
    factor: float = 1.0
    playing: bool = True
    time: float = math.nan  # s

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise TrafficGradError(f"time_factor must be a number > 0, got {self.factor}")
        self.time = self.source.start

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` of real time pass; playing stops at the end."""
        if self.playing:
            self.go_to(self.time + min(seconds, _LONGEST) * self.factor)
            self.playing = self.time < self.source.end

    def toggle(self) -> None:
        """Play or pause; at the end: from the beginning."""
        if not self.playing and self.time >= self.source.end:
            self.time = self.source.start
        self.playing = not self.playing

    def step(self, steps: int) -> None:
        """Pause, and move by recorded states."""
        self.playing = False
        step = self.source.step
        place = (self.time - self.source.start) / step
        whole = math.floor(place + 1e-6) if steps > 0 else math.ceil(place - 1e-6)
        self.go_to(self.source.start + (whole + steps) * step)

    def faster(self, sign: int) -> None:
        """The next of :data:`FACTORS`, up (1) or down (-1)."""
        others = [f for f in FACTORS if (f - self.factor) * sign > 0]
        self.factor = (min if sign > 0 else max)(others, default=self.factor)

    def go_to(self, time: float) -> None:
        """A time within the source."""
        self.time = min(max(time, self.source.start), self.source.end)

    @property
    def share(self) -> float:
        """How much of the source is behind, 0 to 1."""
        span = self.source.end - self.source.start
        return (self.time - self.source.start) / span if span > 0 else 1.0
