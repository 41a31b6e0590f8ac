"""Drawing of roads: surface, lane markings along the lanes' own lines, arrows of the driving direction."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pygame

from trafficgrad.render.camera import Camera
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.style import ARROW, ASPHALT, EDGE_LINE, LANE_LINE, Array, Colour

_SMOOTH = 3  # the road is drawn this much larger once and averaged down


@dataclass(frozen=True)
class RoadView:
    """A camera and how much wider than to scale roads are drawn, so that lanes can be told apart.

    Roads grow from their middle line to both sides; along the road everything stays to scale.
    """

    camera: Camera
    lane_scale: float  # -, >= 1

    @classmethod
    def fit(
        cls,
        layout: RoadLayout,
        area: tuple[float, float, float, float],
        min_lane: float,
        lane_scale: float | None = None,
    ) -> RoadView:
        """The largest view of the whole network, widened roads included, in ``area`` (left, top, width, height in px).

        ``lane_scale=None`` takes the smallest one that makes every lane ``min_lane`` px wide.
        """
        scale = 1.0 if lane_scale is None else lane_scale
        for _ in range(8):  # wider roads leave less room, which asks for wider roads; this settles quickly
            lines = [_boundary(layout, e, side, scale) for e in range(len(layout.half_width)) for side in (-1.0, 1.0)]
            points = np.concatenate(lines)
            camera = Camera.fit(points.min(0), points.max(0), area)
            if lane_scale is None:
                scale = max(1.0, min_lane / (camera.scale * float(layout.width.min())))
        return cls(camera, scale)

    def place(self, xy: Array, heading: Array, offset: Array) -> Array:
        """Where points that lie ``offset`` m left of the road's middle are drawn, px ``[N, 2]``."""
        return self.camera.to_screen(xy + ((self.lane_scale - 1.0) * offset)[:, None] * _left(heading))

    @property
    def across(self) -> float:
        """Px that one metre across the road takes."""
        return self.camera.scale * self.lane_scale


def draw_roads(surface: pygame.Surface, layout: RoadLayout, view: RoadView) -> None:
    """Draw all roads of a network; made once per view, then kept as background."""
    k = _SMOOTH
    width, height = surface.get_size()
    large = pygame.transform.scale(surface, (width * k, height * k))
    camera = view.camera.zoomed(k)
    for e in range(len(layout.half_width)):
        right, left = (camera.to_screen(_boundary(layout, e, side, view.lane_scale)) for side in (-1.0, 1.0))
        pygame.draw.polygon(large, ASPHALT, [*right, *left[::-1]])
    for e, lanes in enumerate(layout.lanes_of):
        for side in (-1.0, 1.0):
            _line(large, camera.to_screen(_boundary(layout, e, side, view.lane_scale)), EDGE_LINE, 1.4 * k)
        for lane in lanes[:-1]:
            at = layout.offset[lane] + layout.width[lane] / 2
            dash = max(3.0, 7.0 / view.camera.scale)
            for piece in _dashes(_beside(layout, e, at, view.lane_scale), dash, 2.0 * dash):
                _line(large, camera.to_screen(piece), LANE_LINE, 1.2 * k)
        for lane in lanes:
            _arrows(large, layout, e, float(layout.offset[lane]), view, camera)
    surface.blit(pygame.transform.smoothscale(large, (width, height)), (0, 0))


def _arrows(
    surface: pygame.Surface, layout: RoadLayout, edge: int, offset: float, view: RoadView, camera: Camera
) -> None:
    """Quiet chevrons on the asphalt, about 120 px apart."""
    line = _beside(layout, edge, offset, view.lane_scale)
    along = _along(line)
    count = int(along[-1] * view.camera.scale // 120)
    size = 0.24 * view.across * float(layout.width.min()) / view.camera.scale  # m
    for at in (np.arange(count) + 0.5) * along[-1] / max(count, 1):
        tip, tail = (
            np.array([np.interp(at + shift, along, line[:, i]) for i in range(2)]) for shift in (size / 2, -size / 2)
        )
        forward = (tip - tail) / np.linalg.norm(tip - tail)
        left = np.array([-forward[1], forward[0]]) * size
        chevron = camera.to_screen(np.stack([tail + left, tip, tail - left]))
        _line(surface, chevron, ARROW, 1.4 * camera.scale / view.camera.scale)


def _boundary(layout: RoadLayout, edge: int, side: float, scale: float) -> Array:
    return _beside(layout, edge, side * float(layout.half_width[edge]), scale)


def _beside(layout: RoadLayout, edge: int, offset: float, scale: float) -> Array:
    """The line ``offset`` m left of the middle of an edge, drawn ``scale`` times as far from it: ``[K, 2]`` m."""
    line = layout.middle_line(edge)
    step = _directions(line)
    before, after = int(layout.before[edge]), int(layout.after[edge])
    first = step[:1] if before < 0 else _directions(layout.middle_line(before))[-1:]
    last = step[-1:] if after < 0 else _directions(layout.middle_line(after))[:1]
    forward = np.concatenate([first, step]) + np.concatenate([step, last])
    normal = np.stack([-forward[:, 1], forward[:, 0]], -1) / np.linalg.norm(forward, axis=1, keepdims=True)
    return line + offset * scale * normal


def _directions(line: Array) -> Array:
    step = np.diff(line, axis=0)
    return step / np.linalg.norm(step, axis=1, keepdims=True)


def _left(heading: Array) -> Array:
    return np.stack([-np.sin(heading), np.cos(heading)], -1)


def _along(line: Array) -> Array:
    return np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])


def _dashes(line: Array, dash: float, gap: float) -> list[Array]:
    """Pieces of a line, ``dash`` m long with about ``gap`` m between."""
    along = _along(line)
    count = max(1, round(along[-1] / (dash + gap)))
    pieces = []
    for start in (np.arange(count) + 0.25) * along[-1] / count:
        at = np.linspace(start, min(start + dash, along[-1]), 4)
        pieces.append(np.stack([np.interp(at, along, line[:, i]) for i in range(2)], -1))
    return pieces


def _line(surface: pygame.Surface, points: Array, colour: Colour, width: float) -> None:
    """A line of real width: one quad per segment with round joints, because pygame's own thick lines have notches."""
    half = width / 2
    for a, b in pairwise(points):
        along = b - a
        size = float(np.hypot(*along))
        if size > 0:
            n = np.array([-along[1], along[0]]) / size * half
            pygame.draw.polygon(surface, colour, [a + n, b + n, b - n, a - n])
    for p in points[1:-1]:
        pygame.draw.circle(surface, colour, p, half)
