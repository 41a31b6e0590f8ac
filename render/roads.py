"""Drawing of roads: surface, lane markings along the lanes' own lines, arrows of the driving direction, stop lines."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pygame

from trafficgrad.render.bodies import fill_fine
from trafficgrad.render.camera import Camera
from trafficgrad.render.junctions import PERMISSIVE, YIELD, Junctions, crossbar, junction_areas, teeth
from trafficgrad.render.layout import RoadLayout, along_line, left_of, lengths_along
from trafficgrad.render.style import (
    ARROW,
    ASPHALT,
    BACKGROUND,
    EDGE_LINE,
    LANE_LINE,
    LIGHTS,
    STOP_LINE,
    THREAD,
    Array,
    Colour,
)
from trafficgrad.render.view import RoadView

_SMOOTH = 3  # the road is drawn this much larger once and averaged down ...
_TILE_SMOOTH = 2  # ... and this much where pieces of it are drawn while the view moves
_TILE, _MOST_TILES = 256, 160  # px of a tile's side, and how many are kept
_PIECE = 12  # segments of a line that are looked at together
_THINNEST = 1.5  # px that a road is wide at least
_MARKED = (2.5, 5.0)  # px of a lane from which on its borders are drawn, and markings and stop lines too


class _Stroke(NamedTuple):
    """A line of one width."""

    points: Array  # [K, 2] m
    colour: Colour
    width: float  # px

    def pieces(self) -> list[_Stroke]:
        """Short parts of it, one segment of each in common, so that every joint is inside one of them."""
        starts = range(0, max(len(self.points) - 2, 1), _PIECE - 1)
        return [self._replace(points=self.points[i : i + _PIECE + 1]) for i in starts]


class _Shapes:
    """Points of many shapes, to leave out those that a picture does not show."""

    def __init__(self, shapes: list[Array]) -> None:
        self.shapes = shapes
        self._lower = np.stack([x.min(0) for x in shapes]) if shapes else np.zeros((0, 2))
        self._upper = np.stack([x.max(0) for x in shapes]) if shapes else np.zeros((0, 2))

    def indices(self, lower: Array, upper: Array) -> list[int]:
        """Those that may show between two corners, m."""
        return list(np.flatnonzero(((self._upper >= lower) & (self._lower <= upper)).all(1)).tolist())

    def within(self, lower: Array, upper: Array) -> list[Array]:
        """Their points, ``[K, 2]`` m each."""
        return [self.shapes[i] for i in self.indices(lower, upper)]


class _Strokes:
    """Lines in short pieces."""

    def __init__(self, strokes: list[_Stroke]) -> None:
        self._pieces = [piece for stroke in strokes for piece in stroke.pieces()]
        self._shapes = _Shapes([piece.points for piece in self._pieces])

    def draw(self, surface: pygame.Surface, camera: Camera, enlarged: int, window: tuple[Array, Array]) -> None:
        """Draw what may show in ``window``, corners in m."""
        for i in self._shapes.indices(*window):
            points, colour, width = self._pieces[i]
            _line(surface, camera.to_screen(points), colour, width * enlarged)


class RoadPicture:
    """All roads as shapes in the world, for one scale; drawn whole or piece by piece."""

    def __init__(self, layout: RoadLayout, junctions: Junctions, scale: float, lane_scale: float) -> None:
        """``scale`` px/m along the road; streets are ``lane_scale`` times as wide as to scale."""
        self._layout, self._scale, self._lane_scale = layout, scale, lane_scale
        self._lane_width = float(layout.width[~layout.is_junction].min())
        thick = scale * lane_scale * self._lane_width  # px of the narrowest lane
        self._marked = thick >= _MARKED[1]
        areas, kerbs, borders = _outlines(layout, lane_scale)
        self._fills = _Shapes(list(areas))
        self._asphalt = ASPHALT if thick >= _MARKED[0] else THREAD
        strokes = [_Stroke(left, THREAD, _THINNEST) for _, left in borders] if thick < _THINNEST else []
        if thick >= _MARKED[0]:
            width = min(1.4, 0.14 * thick)
            strokes += [_Stroke(x, EDGE_LINE, width) for x in (*kerbs, *(x for pair in borders for x in pair))]
        self._strokes = _Strokes(strokes)
        self._edges = _Shapes([np.concatenate(pair) for pair in borders])
        self._markings: dict[int, _Strokes] = {}  # of edges that were looked at
        bars: list[Array] = []
        for lane, kind in junctions.lines.items() if self._marked else ():
            bar = crossbar(layout, lane, lane_scale, (0.0, max(0.5, 1.6 / scale)))
            bars += teeth(bar) if kind == YIELD else [bar]
        self._bars = _Shapes(bars)

    def draw(self, surface: pygame.Surface, camera: Camera, enlarged: int) -> None:
        """Draw what ``camera`` shows on ``surface``, both ``enlarged`` times the size of a picture."""
        corners = camera.to_world(np.array([[0, 0], surface.get_size()]))
        margin = 4.0 * enlarged / camera.scale
        window = (corners.min(0) - margin, corners.max(0) + margin)
        for area in self._fills.within(*window):
            pygame.draw.polygon(surface, self._asphalt, list(camera.to_screen(area)))
        self._strokes.draw(surface, camera, enlarged, window)
        if self._marked:
            for edge in self._edges.indices(*window):
                if edge not in self._markings:
                    self._markings[edge] = _Strokes(self._mark(edge))
                self._markings[edge].draw(surface, camera, enlarged, window)
        for bar in self._bars.within(*window):
            pygame.draw.polygon(surface, STOP_LINE, list(camera.to_screen(bar)))

    def _mark(self, edge: int) -> list[_Stroke]:
        """Lines between an edge's lanes, and arrows."""
        layout, lanes, strokes = self._layout, self._layout.lanes_of[edge], []
        dash = max(3.0, 7.0 / self._scale)
        for lane in lanes[:-1]:
            line = layout.beside(lane, layout.width[lane] / 2, self._lane_scale)
            strokes += [_Stroke(piece, LANE_LINE, 1.2) for piece in _dashes(line, dash, 2.0 * dash)]
        size = 0.24 * self._lane_scale * self._lane_width
        for lane in lanes:
            arrows = _arrows(layout.beside(lane, 0.0, self._lane_scale), self._scale, size)
            strokes += [_Stroke(chevron, ARROW, 1.4) for chevron in arrows]
        return strokes


@lru_cache(maxsize=16)
def _outlines(
    layout: RoadLayout, lane_scale: float
) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[tuple[Array, Array], ...]]:
    """Asphalt in pieces, kerbs of junctions, and the borders of every edge."""
    areas, kerbs = junction_areas(layout, lane_scale)
    borders = tuple(layout.borders(e, lane_scale) for e in range(len(layout.network.edges)))
    areas += [piece for right, left in borders for piece in _surface(right, left)]
    return tuple(areas), tuple(kerbs), borders


def draw_roads(surface: pygame.Surface, layout: RoadLayout, junctions: Junctions, view: RoadView) -> None:
    """Draw all roads of a network; made once per view, then kept as background."""
    k, (width, height) = _SMOOTH, surface.get_size()
    large = pygame.transform.scale(surface, (width * k, height * k))
    picture = RoadPicture(layout, junctions, view.camera.scale, view.lane_scale)
    for row, part in view.each_row((width, height)):
        large.set_clip(pygame.Rect(part.left * k, part.top * k, part.width * k, part.height * k))
        picture.draw(large, row.camera.zoomed(k), k)
    surface.blit(pygame.transform.smoothscale(large, (width, height)), (0, 0))


class RoadTiles:
    """Roads under a view that moves: tiles of the picture, drawn when they come into sight and kept.

    A camera must lie on whole pixels (:meth:`trafficgrad.render.camera.Camera.snapped`).
    """

    def __init__(self, layout: RoadLayout, junctions: Junctions) -> None:
        self.layout, self.junctions = layout, junctions
        self._scales: tuple[float, float] = (0.0, 0.0)
        self._picture: RoadPicture | None = None
        self._tiles: OrderedDict[tuple[int, int], pygame.Surface] = OrderedDict()

    def draw(self, surface: pygame.Surface, view: RoadView, area: pygame.Rect) -> None:
        """Draw the roads that ``view`` shows in ``area`` px."""
        scales = (view.camera.scale, view.lane_scale)
        if scales != self._scales or self._picture is None:
            self._scales, self._picture = scales, RoadPicture(self.layout, self.junctions, *scales)
            self._tiles.clear()
        origin = np.round(view.camera.to_screen(np.zeros(2))).astype(int)
        first = np.floor_divide(np.array(area.topleft) - origin, _TILE)
        last = np.floor_divide(np.array(area.bottomright) - 1 - origin, _TILE)
        clip = surface.get_clip()
        surface.set_clip(area)
        for i in range(int(first[0]), int(last[0]) + 1):
            for j in range(int(first[1]), int(last[1]) + 1):
                surface.blit(self._tile(i, j), (int(origin[0]) + i * _TILE, int(origin[1]) + j * _TILE))
        surface.set_clip(clip)

    def _tile(self, i: int, j: int) -> pygame.Surface:
        """The tile whose corner is ``(i, j)`` tiles from the world's origin."""
        if (i, j) in self._tiles:
            self._tiles.move_to_end((i, j))
            return self._tiles[i, j]
        assert self._picture is not None
        k = _TILE_SMOOTH
        large = pygame.Surface((_TILE * k, _TILE * k))
        large.fill(BACKGROUND)
        camera = Camera(self._scales[0], (0.0, 0.0), (-i * _TILE, -j * _TILE))
        self._picture.draw(large, camera.zoomed(k), k)
        tile = pygame.transform.smoothscale(large, (_TILE, _TILE))
        self._tiles[i, j] = tile
        if len(self._tiles) > _MOST_TILES:
            self._tiles.popitem(last=False)
        return tile


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


def _surface(right: Array, left: Array) -> list[Array]:
    """What lies between two borders, in short pieces: a polygon costs the rows of pixels that it spans, seen or not."""
    if len(right) != len(left):
        return [np.concatenate([right, left[::-1]])]
    starts = range(0, max(len(right) - 1, 1), _PIECE)
    return [np.concatenate([right[i : i + _PIECE + 1], left[i : i + _PIECE + 1][::-1]]) for i in starts]


def _arrows(line: Array, scale: float, size: float) -> list[Array]:
    """Quiet chevrons of ``size`` m on the asphalt along a lane's line, about 120 px apart at ``scale`` px/m."""
    whole = float(lengths_along(line)[-1])
    count = int(whole * scale // 120)
    if not count:
        return []
    at = (np.arange(count) + 0.5) * whole / count
    tip, tail = along_line(line, np.concatenate([at + size / 2, at - size / 2]) / whole).reshape(2, count, 2)
    along = tip - tail
    left = size * left_of(along / np.linalg.norm(along, axis=1, keepdims=True))
    return list(np.stack([tail + left, tip, tail - left], axis=1))


def _dashes(line: Array, dash: float, gap: float) -> list[Array]:
    """Pieces of a line, ``dash`` m long with about ``gap`` m between."""
    size = float(lengths_along(line)[-1])
    count = max(1, round(size / (dash + gap)))
    starts = (np.arange(count) + 0.25) * size / count
    points = np.linspace(starts, np.minimum(starts + dash, size), 4, axis=1)
    return list(along_line(line, points.ravel() / size).reshape(count, 4, 2))


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
