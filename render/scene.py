"""One picture: the roads, the vehicles, the road pulled straight, and what the colours and numbers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pygame

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.render.frames import Caption, Frame, Traffic, TrajectoryFrames
from trafficgrad.render.junctions import Junctions
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.panel import Panel
from trafficgrad.render.roads import draw_lights, draw_roads
from trafficgrad.render.strip import Strip, label_colour
from trafficgrad.render.style import (
    BACKGROUND,
    CONTROLLED,
    FAINT,
    MUTED,
    OVERSAMPLING,
    TEXT,
    Array,
    draw_bodies,
    nice_step,
    speed_colours,
    write,
)
from trafficgrad.render.view import RoadView
from trafficgrad.state import TrafficState
from trafficgrad.trajectory import Trajectory

MIN_SIZE = (480, 270)  # px; smaller, nothing could be read
_SMALLEST_UNIT = 0.72  # of the design's pixels at 1280x720; below, type would run together
_LANE = (9.0, 15.0)  # px that a lane is drawn wide at least: below, nobody sees who drives in which lane ...
_ROAD, _STRIP = 90.0, 60.0  # px for all lanes of a road together, in the view and straightened, that decide between
_LONG = 4.0  # a network this many times as long as high is shown straightened only: true to scale it would be a thread
_MAX_LABELS = 40  # controlled vehicles; beyond, their numbers would cover the road
_WIDEST_LABELLED = 90.0  # px from a road's middle to its edge; beyond, numbers would stand too far from their vehicles


class Scene:
    """Draws frames of one network at one size. Road and legend are drawn once and kept.

    Args:
        network: what is driven on.
        size: width and height of the picture in px.
        max_speed: m/s, upper end of the colour bar.
        title: one line above the picture.
        lane_scale: how much wider than to scale roads are drawn; ``None`` = wide enough to tell lanes apart.
        footer: keep a line free at the bottom, for :meth:`draw`'s ``footer``.

    Raises:
        TrafficGradError: a size or speed that nothing can be drawn with.
    """

    def __init__(
        self,
        network: RoadNetwork,
        size: tuple[int, int] = (1280, 720),
        *,
        max_speed: float,
        title: str = "",
        lane_scale: float | None = None,
        footer: bool = False,
    ) -> None:
        if size[0] < MIN_SIZE[0] or size[1] < MIN_SIZE[1]:
            raise TrafficGradError(
                f"a picture of {size[0]}x{size[1]} pixels is too small to read; "
                f"expected at least {MIN_SIZE[0]}x{MIN_SIZE[1]}"
            )
        if not 0 < max_speed < float("inf"):
            raise TrafficGradError(f"max_speed must be a finite speed > 0 in m/s, got {max_speed}")
        self.size, self.max_speed, self.title = (int(size[0]), int(size[1])), float(max_speed), title
        self.layout = RoadLayout.of(network)
        self.junctions = Junctions.of(self.layout)
        self.unit = u = max(min(size[0] / 1280, size[1] / 720), _SMALLEST_UNIT)
        margin, column, heading = 28 * u, 232 * u, 34 * u if title else 0.0
        self._bottom = size[1] - (26 * u if footer else 0.0)
        area = (margin, margin + heading, size[0] - 3 * margin - column, self._bottom - 2 * margin - heading)
        self.view: RoadView | None
        self.strip: Strip | None
        self.view, self.strip = self._arrange(area, margin, lane_scale)
        both = self.strip is not None and self.view is not None
        bottom = (self.strip.top if self.strip is not None and both else self._bottom) - 24 * u
        self.panel = Panel(size[0] - margin - column, margin, column, bottom, u, self.max_speed)
        self._background = self._draw_background(margin)
        self._lit: tuple[bytes, pygame.Surface] = (b"", self._background)  # phases, and the background in their colours

    def _arrange(
        self, area: tuple[float, float, float, float], margin: float, lane_scale: float | None
    ) -> tuple[RoadView | None, Strip | None]:
        left, top, width, height = area
        layout, u = self.layout, self.unit
        lanes = 2 * float(layout.half_width.max()) / float(layout.width.min())
        min_lane = float(np.clip(_ROAD / lanes, *_LANE)) * u
        if len(layout.roads) > 1:
            return RoadView.fit(layout, area, min_lane, lane_scale, self.junctions.crossing), None
        points = np.concatenate([layout.middle_line(e) for e in layout.roads[0].edges])
        span = points.max(0) - points.min(0)
        if span.max() > _LONG * max(span.min(), 1e-9):
            # As many rows as show bodies of 5 m about 14 px long, if the height has room for them.
            length = layout.roads[0].length
            wanted = np.ceil(2.8 * u * length / width)
            rows = int(np.clip(height // (lanes * min_lane + 30 * u), 1, wanted))
            to_scale = float(layout.width.min()) * width * rows / length
            lane = float(np.clip(2 * to_scale, min_lane, max(min_lane, height / 2 / lanes / rows)))
            strip = Strip(layout, left, 0.0, width, lane, rows, u)
            strip.top = top + max(0.0, (height - strip.height) / 2)
            return None, strip
        lane = float(np.clip(_STRIP / lanes, *_LANE)) * u
        strip = Strip(layout, margin, 0.0, self.size[0] - 2 * margin, lane, 1, u)
        strip.top = self._bottom - strip.height - 10 * u
        # Distances stand around the road.
        above = (left + 44 * u, top + 8 * u, width - 88 * u, strip.top - 52 * u - top)
        return RoadView.fit(layout, above, min_lane, lane_scale), strip

    def draw(self, frame: Frame, surface: pygame.Surface | None = None, footer: str = "") -> pygame.Surface:
        """Draw a frame on ``surface`` (of this scene's size), or on a new one, and return it. No display is needed.

        ``footer`` is written in the line kept free for it.
        """
        surface = pygame.Surface(self.size) if surface is None else surface
        surface.blit(self._road_at(frame.phase), (0, 0))
        fill = speed_colours(frame.speed, self.max_speed)
        halo = np.zeros(len(frame.speed), dtype=bool)
        halo[frame.controlled] = True
        if self.view is not None:
            self._draw_vehicles(surface, self.view, frame, fill, halo)
        if self.strip is not None:
            self.strip.draw_vehicles(surface, frame, fill, halo)
        self.panel.draw(surface, frame)
        if footer:
            write(surface, footer, (28 * self.unit, self._bottom + 4 * self.unit), 16 * self.unit, MUTED)
        return surface

    def rgb(self, frame: Frame) -> Array:
        """The picture as uint8 ``[height, width, 3]``."""
        return surface_rgb(self.draw(frame))

    def vehicle_pixels(self, frame: Frame) -> Array:
        """Where the vehicles' centres are drawn, px ``[N, 2]``: on the road, or if only that is shown, straightened."""
        if self.view is not None:
            return self.view.place(frame.xy, frame.aside)
        assert self.strip is not None
        return self.strip.place(frame)

    def _draw_vehicles(self, surface: pygame.Surface, view: RoadView, frame: Frame, fill: Array, halo: Array) -> None:
        centre = self.vehicle_pixels(frame)
        # Small ones are drawn larger, but never wider than their lane.
        lane = view.across * float(self.layout.width.min())
        narrowest = float(np.clip(0.8 * lane, 2.2, 4.0))
        size = np.stack(
            [np.maximum(frame.length * view.camera.scale, 5.0), np.maximum(frame.width * view.across, narrowest)], -1
        )
        on = frame.active
        shown = [(str(i), int(n)) for i, n in enumerate(frame.controlled, start=1) if frame.active[n]]
        if len(shown) > _MAX_LABELS or self.layout.half_width.max() * view.across > _WIDEST_LABELLED * self.unit:
            shown = []
        roofs = [(text, n) for text, n in shown if size[n, 1] >= 24 * self.unit]
        plates = [] if roofs else [(text, n, self._plate(view, frame, n, centre[n])) for text, n in shown]
        for _, n, plate in plates:
            pygame.draw.aaline(surface, CONTROLLED, tuple(centre[n]), tuple(plate))
        for row, part in view.each_row(self.size):
            at = row.place(frame.xy, frame.aside)
            seen = on & (at[:, 0] > part.left - size[:, 0]) & (at[:, 0] < part.right + size[:, 0])
            surface.set_clip(part)
            draw_bodies(surface, at[seen], -frame.heading[seen], size[seen], fill[seen], halo[seen])
        surface.set_clip(None)
        for text, n in roofs:
            rear = centre[n] - 0.12 * size[n, 0] * np.array([np.cos(frame.heading[n]), -np.sin(frame.heading[n])])
            write(surface, text, (rear[0], rear[1] + 1), 26 * self.unit, label_colour(fill[n]), "center")
        for text, _, plate in plates:
            image = _plate_image(text, self.unit)
            surface.blit(image, image.get_rect(center=(round(plate[0]), round(plate[1]))))

    def _plate(self, view: RoadView, frame: Frame, n: int, centre: Array) -> Array:
        """Where the plate with a vehicle's number stands, px: on the inner side of a road, of several on the right."""
        left = np.array([-np.sin(frame.heading[n]), -np.cos(frame.heading[n])])
        inner = float(left @ (np.asarray(view.camera.middle) - centre)) >= 0
        side = 1.0 if inner and len(self.layout.roads) == 1 else -1.0
        half = float(self.layout.half_width.max()) * view.across
        # Plates repeat the order of their vehicles across the road, a plate's width apart, so none hides another.
        pitch = max(1.0, (2 * _plate_radius(self.unit) + 1) / (view.across * float(self.layout.width.min())))
        from_edge = half - side * float(frame.offset[n]) * view.across
        across = 2 * half - from_edge - 0.5 * view.across * float(self.layout.width.min())
        return centre + side * left * (from_edge + 14 * self.unit + across * pitch)

    def _road_at(self, phase: Array) -> pygame.Surface:
        """The background with the signals' colours; drawn again only when they change."""
        if self.view is None or not self.junctions.heads:
            return self._background
        if phase.tobytes() != self._lit[0]:
            surface = self._background.copy()
            draw_lights(surface, self.layout, self.junctions, self.view, phase)
            self._lit = (phase.tobytes(), surface)
        return self._lit[1]

    def _draw_background(self, margin: float) -> pygame.Surface:
        surface = pygame.Surface(self.size)
        surface.fill(BACKGROUND)
        if self.view is not None:
            draw_roads(surface, self.layout, self.junctions, self.view)
            if self.strip is not None:
                self._draw_distances(surface, self.view)
            if self.view.rows > 1:
                text = "each row goes on where the one above ends on the right"
                write(surface, text, (margin, self._bottom - 8 * self.unit), 16 * self.unit, FAINT, "bottomleft")
        if self.strip is not None:
            self.strip.draw_road(surface)
            if self.view is not None:
                text, at = (
                    "the same road pulled straight, driven from left to right",
                    (margin, self.strip.top - 6 * self.unit),
                )
                write(surface, text, at, 16 * self.unit, FAINT, "bottomleft")
        if self.title:
            write(surface, self.title, (margin, 22 * self.unit), 30 * self.unit, TEXT)
        return surface

    def _draw_distances(self, surface: pygame.Surface, view: RoadView) -> None:
        """Marks outside the road that say where on the straightened road one is."""
        road = self.layout.roads[0]
        for mark in np.arange(0.0, road.length * (1 - 1e-6), nice_step(road.length, 6)):
            at = np.array([mark]), np.zeros(1)
            xy, heading = self.layout.locate(np.zeros(1, dtype=np.int64), *at)
            middle = view.place(xy, np.zeros((1, 2)))[0]
            left = np.array([-np.sin(heading[0]), -np.cos(heading[0])])
            outward = left if float(left @ (np.asarray(view.camera.middle) - middle)) < 0 else -left
            edge = middle + outward * float(self.layout.half_width.max()) * view.across
            pygame.draw.aaline(surface, FAINT, tuple(edge + 2 * outward), tuple(edge + 8 * self.unit * outward))
            write(surface, f"{mark:g} m", tuple(edge + 24 * self.unit * outward), 16 * self.unit, FAINT, "center")


def _plate_radius(unit: float) -> float:
    return max(9.5 * unit, 8.5)  # px; smaller, no digit fits


@lru_cache(maxsize=256)
def _plate_image(text: str, unit: float) -> pygame.Surface:
    """A number on a white disc with a dark rim."""
    k, radius = OVERSAMPLING, _plate_radius(unit)
    side = 2 * math.ceil(radius + 2)
    large = pygame.Surface((side * k, side * k), pygame.SRCALPHA)
    large.fill((*BACKGROUND, 0))
    middle = (side * k / 2, side * k / 2)
    pygame.draw.circle(large, BACKGROUND, middle, (radius + 1.5) * k)
    pygame.draw.circle(large, CONTROLLED, middle, radius * k)
    image = pygame.transform.smoothscale(large, (side, side))
    write(image, text, (side / 2, side / 2 + 1), 17 * unit, (0, 0, 0), "center")
    return image


def draw_state(
    state: TrafficState,
    traffic: Traffic,
    *,
    world: int = 0,
    size: tuple[int, int] = (1280, 720),
    max_speed: float = 30.0,
    title: str = "",
    captions: Mapping[str, Caption] | None = None,
) -> Array:
    """One state as a picture, uint8 ``[height, width, 3]``; for an environment's ``render()``. Needs no display.

    Args:
        state: ``B`` worlds, of which ``world`` is drawn.
        traffic: the simulator, or anything with a ``network`` and a ``fleet``.
        max_speed: m/s, upper end of the colour bar: constant, so that successive pictures compare.
        captions: shown after time and mean speed.
    """
    one = Trajectory.of([state.detach()], None, 1.0)
    frame = TrajectoryFrames.of(one, traffic, world, captions).frame(float(state.time[world]))
    return _kept_scene(traffic.network, size, max_speed, title).rgb(frame)


@lru_cache(maxsize=4)
def _kept_scene(network: RoadNetwork, size: tuple[int, int], max_speed: float, title: str) -> Scene:
    return Scene(network, size, max_speed=max_speed, title=title)


def surface_rgb(surface: pygame.Surface) -> Array:
    """The pixels of a surface, uint8 ``[height, width, 3]``."""
    width, height = surface.get_size()
    return np.frombuffer(pygame.image.tobytes(surface, "RGB"), dtype=np.uint8).reshape(height, width, 3)
