"""Drawing of roads: surface, lane markings along the lanes' own lines, arrows of the driving direction, stop lines."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pygame

from trafficgrad.render.junctions import PERMISSIVE, YIELD, Junctions, crossbar, junction_areas, teeth
from trafficgrad.render.layout import RoadLayout, along_line, left_of, lengths_along
from trafficgrad.render.style import (
    ARROW,
    ASPHALT,
    EDGE_LINE,
    LANE_LINE,
    LIGHTS,
    STOP_LINE,
    THREAD,
    Array,
    Colour,
    fill_fine,
)
from trafficgrad.render.view import RoadView

_SMOOTH = 3  # the road is drawn this much larger once and averaged down
_THINNEST = 1.5  # px that a road is wide at least
_MARKED = (2.5, 5.0)  # px of a lane from which on its borders are drawn, and markings and stop lines too


def draw_roads(surface: pygame.Surface, layout: RoadLayout, junctions: Junctions, view: RoadView) -> None:
    """Draw all roads of a network; made once per view, then kept as background."""
    k, (width, height) = _SMOOTH, surface.get_size()
    large = pygame.transform.scale(surface, (width * k, height * k))
    for row, part in view.each_row((width, height)):
        large.set_clip(pygame.Rect(part.left * k, part.top * k, part.width * k, part.height * k))
        _draw_row(large, layout, junctions, row)
    surface.blit(pygame.transform.smoothscale(large, (width, height)), (0, 0))


def _draw_row(large: pygame.Surface, layout: RoadLayout, junctions: Junctions, view: RoadView) -> None:
    k, scale = _SMOOTH, view.lane_scale
    camera = view.camera.zoomed(k)
    roads = range(len(layout.network.edges))
    lane_width = float(layout.width[~layout.is_junction].min())
    thick = view.across * lane_width  # px of the narrowest lane
    areas, kerbs = junction_areas(layout, scale)
    for right, left in (layout.borders(e, scale) for e in roads):
        areas.append(np.concatenate([right, left[::-1]]))
    for area in areas:
        pygame.draw.polygon(large, ASPHALT if thick >= _MARKED[0] else THREAD, list(camera.to_screen(area)))
    if thick < _THINNEST:
        for e in roads:
            _line(large, camera.to_screen(layout.borders(e, scale)[1]), THREAD, _THINNEST * k)
    if thick >= _MARKED[0]:
        for border in (*kerbs, *(border for e in roads for border in layout.borders(e, scale))):
            _line(large, camera.to_screen(border), EDGE_LINE, min(1.4, 0.14 * thick) * k)
    if thick >= _MARKED[1]:
        dash = max(3.0, 7.0 / view.camera.scale)
        for lanes in layout.lanes_of[: len(roads)]:
            for lane in lanes[:-1]:
                for piece in _dashes(layout.beside(lane, layout.width[lane] / 2, scale), dash, 2.0 * dash):
                    _line(large, camera.to_screen(piece), LANE_LINE, 1.2 * k)
            for lane in lanes:
                for chevron in _arrows(layout.beside(lane, 0.0, scale), view, lane_width):
                    _line(large, camera.to_screen(chevron), ARROW, 1.4 * k)
        for lane, kind in junctions.lines.items():
            bar = camera.to_screen(crossbar(layout, lane, scale, (0.0, max(0.5, 1.6 / view.camera.scale))))
            for piece in teeth(bar) if kind == YIELD else [bar]:
                pygame.draw.polygon(large, STOP_LINE, list(piece))


def draw_lights(
    surface: pygame.Surface, layout: RoadLayout, junctions: Junctions, view: RoadView, phase: Array
) -> None:
    """Draw the signals' colours: a bar before each stop line. ``phase`` is int64 [S]."""
    back = max(0.4, 1.2 / view.camera.scale)
    size = max(0.9, 2.6 / view.camera.scale)
    for row, part in view.each_row(surface.get_size()):
        surface.set_clip(part)
        for lane, letter in junctions.lights(layout.network, phase).items():
            bar = crossbar(layout, lane, view.lane_scale, (back, back + size), 0.9)
            fill_fine(surface, row.camera.to_screen(bar), LIGHTS[PERMISSIVE.index(letter)])
    surface.set_clip(None)


def _arrows(line: Array, view: RoadView, lane: float) -> list[Array]:
    """Quiet chevrons on the asphalt along a lane's line, about 120 px apart; ``lane`` is a lane's width, m."""
    whole = float(lengths_along(line)[-1])
    count = int(whole * view.camera.scale // 120)
    size = 0.24 * view.lane_scale * lane  # m
    chevrons = []
    for at in (np.arange(count) + 0.5) * whole / max(count, 1):
        tip, tail = along_line(line, [(at + size / 2) / whole, (at - size / 2) / whole])
        left = size * left_of((tip - tail) / np.linalg.norm(tip - tail))
        chevrons.append(np.stack([tail + left, tip, tail - left]))
    return chevrons


def _dashes(line: Array, dash: float, gap: float) -> list[Array]:
    """Pieces of a line, ``dash`` m long with about ``gap`` m between."""
    size = float(lengths_along(line)[-1])
    count = max(1, round(size / (dash + gap)))
    starts = (np.arange(count) + 0.25) * size / count
    return [along_line(line, np.linspace(start, min(start + dash, size), 4) / size) for start in starts]


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
