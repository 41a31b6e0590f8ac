"""Charts beside the road that grow while it is watched: who was where when, and a few numbers over time."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import pygame

from trafficgrad.render.colouring import Colouring
from trafficgrad.render.history import History
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.moment import Frame, FrameSource
from trafficgrad.render.raster import draw_segments
from trafficgrad.render.style import (
    CONTROLLED,
    FAINT,
    GROUND,
    MUTED,
    SMALLEST_TEXT,
    TEXT,
    Array,
    distance_text,
    nice_step,
    write,
)

SECONDS = 60.0  # s that a chart shows
_COLUMN = 2  # px between two samples


class Chart(ABC):
    """A picture of the last :data:`SECONDS` in a rectangle."""

    name: ClassVar[str]

    def __init__(self, source: FrameSource, area: pygame.Rect, unit: float, budget: float = float("inf")) -> None:
        """``area`` in px; ``budget``: s that looking back may take of one picture."""
        self.area, self.unit, self.budget = area, unit, budget
        self.plot = pygame.Rect(
            area.left + round(44 * unit), area.top + round(20 * unit), area.width - round(44 * unit), 0
        )
        self.plot.height = area.bottom - round(18 * unit) - self.plot.top
        self.history = History(source, SECONDS * _COLUMN / self.plot.width)
        self.source = source

    @property
    def seconds(self) -> float:
        """Span of time from edge to edge."""
        return self.plot.width / _COLUMN * self.history.step

    def begin(self, time: float) -> float:
        """Time at the left edge, s: the present moves to the right, then everything moves a quarter to the left."""
        quarter = max(1, round(self.plot.width / _COLUMN / 4)) * self.history.step
        beyond = time - self.source.start - self.seconds
        return self.source.start + max(0.0, float(np.ceil(beyond / quarter - 1e-9))) * quarter

    def across(self, time: Array | float, begin: float) -> Array:
        """Px of times."""
        return self.plot.left + (np.asarray(time) - begin) / self.history.step * _COLUMN

    def draw(self, surface: pygame.Surface, frame: Frame, colouring: Colouring, selected: int | None) -> None:
        """Draw the chart with its axis of time and a line at the frame's time."""
        begin = self.begin(frame.time)
        pygame.draw.rect(surface, GROUND, self.plot)
        self.fill(surface, frame, begin, colouring, selected)
        step = nice_step(self.seconds, max(2, int(self.plot.width / (80 * self.unit))))
        for mark in np.arange(np.ceil(begin / step) * step, begin + self.seconds + 1e-6, step):
            x = round(float(self.across(mark, begin)))
            pygame.draw.line(surface, FAINT, (x, self.plot.bottom), (x, self.plot.bottom + 3))
            anchor = "topright" if x > self.plot.right - 20 * self.unit else "midtop"
            write(surface, f"{mark:g} s", (x, self.plot.bottom + 4), 14 * self.unit, FAINT, anchor)
        now = round(float(self.across(frame.time, begin)))
        for top, bottom in self.bands(frame):
            pygame.draw.line(surface, MUTED, (now, round(top)), (now, round(bottom)))

    def bands(self, frame: Frame) -> list[tuple[float, float]]:
        """Top and bottom, px, of where the line at the frame's time is drawn."""
        return [(self.plot.top, self.plot.bottom - 1)]

    def forget(self, time: float) -> None:
        """What came after ``time`` (s) will be another."""
        self.history.forget(time)

    @abstractmethod
    def fill(
        self, surface: pygame.Surface, frame: Frame, begin: float, colouring: Colouring, selected: int | None
    ) -> None:
        """Draw what the plot shows, from ``begin`` s on."""


class TimeSpace(Chart):
    """Lines of all vehicles of a road: time to the right, distance upwards, in their colours; controlled ones white.

    The road is that of the selected vehicle, else the longest. Lines are drawn as time goes on and kept.
    """

    name = "time and space"

    def __init__(self, source: FrameSource, area: pygame.Rect, unit: float, budget: float = float("inf")) -> None:
        super().__init__(source, area, unit, budget)
        self.layout = RoadLayout.of(source.network)
        lengths = [road.length for road in self.layout.roads]
        self._longest = int(np.argmax(lengths))
        self._image = pygame.Surface(self.plot.size)
        self._key: tuple[float, int, str] = (np.nan, -1, "")
        self._drawn: set[int] = set()

    def forget(self, time: float) -> None:
        """What came after ``time`` (s) will be another."""
        super().forget(time)
        self._key = (np.nan, -1, "")

    def fill(
        self, surface: pygame.Surface, frame: Frame, begin: float, colouring: Colouring, selected: int | None
    ) -> None:
        """See the class."""
        on = selected is not None and bool(frame.active[selected])
        road = int(frame.road[selected]) if selected is not None and on else self._longest
        key = (begin, road, colouring.name)
        if key != self._key:
            self._key, self._drawn = key, set()
            self._image.fill(GROUND)
        frames = self.history.until(frame.time, frame.time - begin, self.budget)
        for before, after in itertools.pairwise(frames):
            place = round((after.time - self.source.start) / self.history.step)
            if place not in self._drawn and after.time - before.time < 1.5 * self.history.step:
                self._drawn.add(place)
                self._draw_step(before, after, road, begin, colouring)
        surface.blit(self._image, self.plot)
        length, u = self.layout.roads[road].length, self.unit
        for share, anchor in ((0.0, "bottomright"), (1.0, "topright")):
            at = (self.plot.left - 5 * u, self.plot.bottom - share * self.plot.height)
            write(surface, distance_text(round(share * length), length), at, 14 * u, FAINT, anchor)
        several = ""
        if len(self.layout.roads) > 1:
            whose = f"the road of vehicle {frame.vehicle_id[selected]}" if on else "the longest road"
            several = f" on {whose}"
        write(surface, f"where everybody was{several}", (self.plot.left, self.area.top), 15 * u, MUTED)

    def _draw_step(self, before: Frame, after: Frame, road: int, begin: float, colouring: Colouring) -> None:
        """The lines from one sample to the next."""
        length, size = self.layout.roads[road].length, self.plot.size
        same = before.active & after.active & (before.road == road) & (after.road == road)
        same &= before.vehicle_id == after.vehicle_id
        a, b = before.distance, after.distance
        same &= np.abs(b - a) < 0.5 * length  # not over the end of a ring
        n = np.flatnonzero(same)
        white = np.zeros(len(same), dtype=bool)
        white[after.controlled] = True
        n = n[np.argsort(white[n], kind="stable")]
        colours = np.where(white[n, None], np.array(CONTROLLED), colouring.fill(after)[n])
        left = round(float(self.across(before.time, begin))) - self.plot.left
        start, end = (
            np.stack([np.full(len(n), x), (size[1] - 1) * (1.0 - one.distance[n] / length)], -1)
            for x, one in ((left, before), (left + _COLUMN - 1, after))
        )
        draw_segments(self._image, start, end, colours)
        draw_segments(self._image, start[white[n]] - (0, 1), end[white[n]] - (0, 1), colours[white[n]])


class Numbers(Chart):
    """Mean speed, its deviation over the vehicles, and the reward, one above the other."""

    name = "numbers"
    _ROWS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("mean speed", "m/s"),
        ("deviation of speeds", "m/s"),
        ("reward", ""),
    )

    def bands(self, frame: Frame) -> list[tuple[float, float]]:
        """See the base class: one a number, below its name."""
        rows, u = self._rows(frame), self.unit
        height = self.plot.height / len(rows)
        return [
            (self.plot.top + i * height + 17 * u, self.plot.top + (i + 1) * height - 4 * u) for i in range(len(rows))
        ]

    def _rows(self, frame: Frame) -> tuple[tuple[str, str], ...]:
        return self._ROWS if isinstance(frame.caption.get("reward"), float) else self._ROWS[:2]

    def fill(
        self, surface: pygame.Surface, frame: Frame, begin: float, colouring: Colouring, selected: int | None
    ) -> None:
        """See the class."""
        frames = [*self.history.until(frame.time, frame.time - begin, self.budget), frame]
        rows, u = self._rows(frame), self.unit
        bands = self.bands(frame)
        times = self.across(np.array([one.time for one in frames]), begin)
        for i, (name, unit) in enumerate(rows):
            values = np.array([_number(one, name) for one in frames])
            known = np.isfinite(values)
            top, bottom = bands[i]
            if i:
                pygame.draw.line(surface, FAINT, (self.plot.left, top - 17 * u), (self.plot.right - 1, top - 17 * u))
            write(surface, name, (self.plot.left + 6 * u, top - 15 * u), 14 * u, MUTED)
            if not known.any():
                continue
            low, high = float(values[known].min()), float(values[known].max())
            span = max(high - low, 0.05 * max(abs(high), abs(low)), 1e-6)
            middle = (high + low) / 2
            y = bottom - (values - middle + span / 2) / span * (bottom - top)
            points = np.stack([times, y], -1)[known]
            if len(points) > 1:
                pygame.draw.aalines(surface, TEXT, False, points.tolist())
            text = f"{values[known][-1]:.2f} {unit}".strip()
            write(surface, text, (self.plot.right - 6 * u, top - 15 * u), 15 * u, TEXT, "topright")
            for value, at, anchor in ((high, top, "topright"), (low, bottom, "bottomright")):
                if high - low > 1e-6 and bottom - top > 2 * SMALLEST_TEXT:
                    write(surface, f"{value:.3g}", (self.plot.left - 5 * u, at), 13 * u, FAINT, anchor)


def _number(frame: Frame, name: str) -> float:
    if name == "mean speed":
        return frame.mean_speed
    if name == "reward":
        value = frame.caption.get("reward", float("nan"))
        return value if isinstance(value, float) else float("nan")
    return frame.speed_deviation


CHARTS: dict[str, type[Chart]] = {chart.name: chart for chart in (TimeSpace, Numbers)}
