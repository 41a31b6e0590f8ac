"""The road pulled straight: lanes one above the other, driven from left to right, in as many rows as it needs."""

from __future__ import annotations

from functools import partial

import numpy as np
import pygame

from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.moment import MANY, Frame
from trafficgrad.render.place import Place
from trafficgrad.render.style import (
    ARROW,
    ASPHALT,
    EDGE_LINE,
    FAINT,
    LANE_LINE,
    Array,
    distance_text,
    nice_step,
    write,
)

_ROW_LABELS = 20.0  # px under each row, for the distances, at 720 lines


class Strip:
    """One road drawn straight. What is drawn across it is exaggerated, what is along it is to scale.

    Attributes:
        scale: px/m along. across: px/m across. height: px, of all rows with their distance labels.
    """

    def __init__(
        self, layout: RoadLayout, left: float, top: float, width: float, lane: float, rows: int, unit: float
    ) -> None:
        """``lane`` is the width of a lane in px, ``unit`` the size of one design pixel."""
        self.layout, self.road = layout, layout.roads[0]
        self.left, self.top, self.width, self.rows, self.unit = left, top, width, rows, unit
        self.span = self.road.length / rows
        self.scale = width / self.span
        self.across = lane / float(layout.width.min())
        self.road_height = 2 * float(layout.half_width.max()) * self.across
        self.pitch = self.road_height + (_ROW_LABELS if rows == 1 else 1.4 * _ROW_LABELS) * unit
        self.height = rows * self.pitch

    def draw_road(self, surface: pygame.Surface) -> None:
        """Surface, markings, arrows and a scale of distances."""
        for row in range(self.rows):
            middle = self._middle(row)
            for edge, start in zip(self.road.edges, self.road.starts, strict=True):
                low, high = np.clip(
                    [start - row * self.span, start + self.layout.edge_length[edge] - row * self.span], 0.0, self.span
                )
                if high > low:
                    self._draw_edge(surface, edge, middle, self.left + low * self.scale, self.left + high * self.scale)
            self._draw_distances(surface, row)

    def _draw_edge(self, surface: pygame.Surface, edge: int, middle: float, x0: float, x1: float) -> None:
        half = float(self.layout.half_width[edge]) * self.across
        pygame.draw.rect(surface, ASPHALT, (round(x0), round(middle - half), round(x1) - round(x0), round(2 * half)))
        thick = max(1, round(self.unit))
        for y in (middle - half, middle + half):
            pygame.draw.line(surface, EDGE_LINE, (round(x0), round(y)), (round(x1), round(y)), thick)
        lanes = self.layout.lanes_of[edge]
        for lane in lanes[:-1]:
            y = round(middle - (self.layout.offset[lane] + self.layout.width[lane] / 2) * self.across)
            for x in np.arange(x0, x1, 24 * self.unit):
                pygame.draw.line(surface, LANE_LINE, (round(x), y), (round(min(x + 9 * self.unit, x1)), y), thick)
        for lane in lanes:
            y, size = middle - self.layout.offset[lane] * self.across, 0.24 * self.layout.width[lane] * self.across
            for x in np.arange(x0 + 60 * self.unit, x1 - size, 120 * self.unit):
                pygame.draw.aalines(surface, ARROW, False, [(x, y - size), (x + size, y), (x, y + size)])

    def _draw_distances(self, surface: pygame.Surface, row: int) -> None:
        step = nice_step(self.span, max(2, int(self.width / (90 * self.unit))))
        bottom = self._middle(row) + self.road_height / 2
        for mark in np.arange(np.ceil(row * self.span / step) * step, (row + 1) * self.span + 1e-6 * step, step):
            x = self.left + (mark - row * self.span) * self.scale
            pygame.draw.line(surface, FAINT, (round(x), round(bottom + 2)), (round(x), round(bottom + 5 * self.unit)))
            at_end = x > self.left + self.width - 30 * self.unit
            at_start = x < self.left + 10 * self.unit
            anchor = "topright" if at_end else "topleft" if at_start else "midtop"
            write(
                surface,
                distance_text(mark, self.road.length),
                (x, bottom + 6 * self.unit),
                16 * self.unit,
                FAINT,
                anchor,
            )

    def places(self, frame: Frame) -> list[Place]:
        """Every row; on a closed road a body over the end goes on at the start, which is a place of its own."""
        on_it = frame.active & (frame.road == 0)
        centre = self._centre(frame)
        shortest, narrowest = (5.0, 4.0) if len(centre) <= MANY else (2.0, 2.0)
        size = np.stack(
            [np.maximum(frame.length * self.scale, shortest), np.maximum(frame.width * self.across, narrowest)], -1
        )
        found = []
        for row in range(self.rows):
            middle = self._middle(row)
            clip = pygame.Rect(
                round(self.left), round(middle - self.road_height), round(self.width), round(2 * self.road_height)
            )
            for lap in (-1, 0, 1) if self.road.closed else (0,):
                at = centre - row * self.span + lap * self.road.length
                seen = on_it & (at > -frame.length) & (at < self.span + frame.length)
                if seen.any():
                    centres = partial(self._on_row, row=row, lap=lap)
                    found.append(Place(clip, centres(frame), np.zeros(len(size)), size, seen, centres, straight=True))
        return found

    def _on_row(self, frame: Frame, row: int, lap: int) -> Array:
        at = self._centre(frame) - row * self.span + lap * self.road.length
        return np.stack([self.left + at * self.scale, self._middle(row) - frame.offset * self.across], -1)

    def place(self, frame: Frame) -> Array:
        """Where the vehicles' centres are drawn, px ``[N, 2]``."""
        centre = self._centre(frame)
        row = np.clip(centre // self.span, 0, self.rows - 1)
        middle = self.top + row * self.pitch + self.road_height / 2
        return np.stack([self.left + (centre - row * self.span) * self.scale, middle - frame.offset * self.across], -1)

    def distance_at(self, pixel: tuple[float, float]) -> float | None:
        """Distance along the road (m) that is drawn at a pixel; None beside the strip."""
        row = int((pixel[1] - self.top) // self.pitch)
        if not (0 <= row < self.rows and self.left <= pixel[0] <= self.left + self.width):
            return None
        return row * self.span + (pixel[0] - self.left) / self.scale

    def _centre(self, frame: Frame) -> Array:
        centre = frame.distance - frame.length / 2
        return np.asarray(np.mod(centre, self.road.length) if self.road.closed else centre)

    def _middle(self, row: int) -> float:
        return self.top + row * self.pitch + self.road_height / 2
