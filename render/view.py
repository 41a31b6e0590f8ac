"""How a network lies in a picture: to which scale, how much wider than to scale, in how many rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pygame

from trafficgrad.render.camera import Camera
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.style import Array

_CORNER = 2.5  # m by which each side of a street may grow where streets cross: there is no more room for it
_WIDEST = (1.8, 1.3)  # times to scale that streets of several roads may be: where they cross, and where they only meet
_LONG = 4.0  # a network this many times as long as high is cut into rows: in one it would be a thread
_MOST_ROWS, _ROW_GAP = 8, 20.0  # px between rows


@dataclass(frozen=True)
class RoadView:
    """A camera and how much wider than to scale roads are drawn, so that lanes can be told apart.

    Streets grow from their axis to both sides; along the road everything stays to scale. In several rows, each shows
    the piece of the network that lies to the right of the row above.
    """

    camera: Camera  # of the first row
    lane_scale: float  # -, >= 1
    area: pygame.Rect  # px, all rows
    rows: int = 1

    @classmethod
    def fit(
        cls,
        layout: RoadLayout,
        area: tuple[float, float, float, float],
        min_lane: float,
        lane_scale: float | None = None,
        crossing: bool = False,
    ) -> RoadView:
        """The largest view of the whole network, widened roads included, in ``area`` (left, top, width, height in px).

        ``lane_scale=None`` takes the smallest one that makes every lane ``min_lane`` px wide, or as near as several
        roads, ``crossing`` or not, can be widened without covering each other.
        """
        scale = 1.0 if lane_scale is None else lane_scale
        several = len(layout.roads) > 1
        widest = (_WIDEST[0] if crossing else _WIDEST[1]) if several else float("inf")
        if several and crossing:
            widest = min(widest, 1.0 + _CORNER / float((np.abs(layout.axis) + layout.width / 2).max()))
        # The borders of a view that is not widened, and what a widening adds to them.
        sides = [(lanes[i], side) for lanes in layout.lanes_of for i, side in ((0, -0.5), (-1, 0.5))]
        plain = np.concatenate([layout.beside(a, side * layout.width[a]) for a, side in sides])
        more = np.concatenate([layout.beside(a, side * layout.width[a], 2.0) for a, side in sides]) - plain
        span = np.ptp(plain, axis=0)
        wanted = min_lane / float(layout.width.min())
        rows = _row_count(span, area, wanted) if several and span[0] > _LONG * span[1] else 1
        left, top, width, height = area
        for _ in range(8):  # wider roads leave less room, which asks for wider roads; this settles quickly
            points = plain + (scale - 1.0) * more
            camera = Camera.fit(points.min(0), points.max(0), (left, top, rows * width, _row_height(height, rows)))
            if lane_scale is None:
                scale = min(max(1.0, min_lane / (camera.scale * float(layout.width.min()))), widest)
        if rows > 1:  # not centred: it begins at the left of the first row
            camera = replace(camera, middle=(left + camera.scale * float(np.ptp(points[:, 0])) / 2, camera.middle[1]))
        return cls(camera, scale, pygame.Rect(area), rows)

    def place(self, xy: Array, aside: Array) -> Array:
        """Where points that lie ``aside`` (m, ``[N, 2]``) of their street's axis are drawn, px ``[N, 2]``."""
        pixels = self.camera.to_screen(xy + (self.lane_scale - 1.0) * aside)
        row = np.clip((pixels[:, 0] - self.area.left) // self.area.width, 0, self.rows - 1)
        return pixels + np.stack([-row * self.area.width, row * self.area.height / self.rows], -1)

    def each_row(self, size: tuple[int, int]) -> Iterator[tuple[RoadView, pygame.Rect]]:
        """Every row as a view of its own, and the part of a picture of ``size`` px that it fills."""
        if self.rows == 1:
            yield replace(self, area=pygame.Rect((0, 0), size)), pygame.Rect((0, 0), size)
            return
        x, y = self.camera.middle
        for row in range(self.rows):
            down = row * self.area.height / self.rows
            part = pygame.Rect(
                self.area.left, self.area.top + round(down), self.area.width, self.area.height // self.rows
            )
            camera = replace(self.camera, middle=(x - row * self.area.width, y + down))
            yield RoadView(camera, self.lane_scale, pygame.Rect((0, 0), size)), part

    @property
    def across(self) -> float:
        """Px that one metre across the road takes."""
        return self.camera.scale * self.lane_scale


def _row_count(span: Array, area: tuple[float, float, float, float], wanted: float) -> int:
    """The fewest rows that show a network of ``span`` m at ``wanted`` px/m, or else as large as possible."""
    numbers = range(1, _MOST_ROWS + 1)
    scales = [min(rows * area[2] / span[0], _row_height(area[3], rows) / span[1]) for rows in numbers]
    return next(
        (rows for rows, scale in zip(numbers, scales, strict=True) if scale >= wanted), 1 + int(np.argmax(scales))
    )


def _row_height(height: float, rows: int) -> float:
    return height / rows - (_ROW_GAP if rows > 1 else 0.0)
