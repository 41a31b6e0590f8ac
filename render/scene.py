"""One picture: the roads, the vehicles, the road pulled straight, and what the colours and numbers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import pygame

from trafficgrad.errors import TrafficGradError
from trafficgrad.network import RoadNetwork
from trafficgrad.render.bodies import draw_bodies
from trafficgrad.render.camera import Camera
from trafficgrad.render.colouring import Colouring, SpeedColouring
from trafficgrad.render.frames import Traffic, TrajectoryFrames
from trafficgrad.render.junctions import Junctions
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.moment import MANY, Caption, Frame
from trafficgrad.render.overlays import Canvas, Overlay
from trafficgrad.render.panel import Panel
from trafficgrad.render.place import Place
from trafficgrad.render.plates import Plates
from trafficgrad.render.roads import RoadTiles, draw_lights, draw_roads
from trafficgrad.render.strip import Strip
from trafficgrad.render.style import (
    BACKGROUND,
    FAINT,
    SMALLEST_UNIT,
    TEXT,
    Array,
    Point,
    distance_text,
    nice_step,
    write,
)
from trafficgrad.render.view import RoadView
from trafficgrad.state import TrafficState
from trafficgrad.trajectory import Trajectory

MIN_SIZE = (480, 270)  # px; smaller, nothing could be read
_LANE = (9.0, 15.0)  # px that a lane is drawn wide at least: below, nobody sees who drives in which lane ...
_ROAD, _STRIP = 90.0, 60.0  # px for all lanes of a road together, in the view and straightened, that decide between
_LONG = 4.0  # a network this many times as long as high is shown straightened only: true to scale it would be a thread
_SHORTEST, _DOT = 5.0, 2.0  # px that a body is long at least, and of many vehicles


class Scene:
    """Draws frames of one network at one size. Road and legend are drawn once and kept.

    Args:
        network: what is driven on.
        size: width and height of the picture in px.
        max_speed: m/s, upper end of the colour bar.
        title: one line above the picture.
        lane_scale: how much wider than to scale roads are drawn; ``None`` = wide enough to tell lanes apart.
        foot: px to keep free at the bottom, at 720 lines.

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
        foot: float = 0.0,
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
        self.unit = u = max(min(size[0] / 1280, size[1] / 720), SMALLEST_UNIT)
        margin, column, heading = 28 * u, 232 * u, 34 * u if title else 0.0
        self._bottom = size[1] - foot * u
        area = (margin, margin + heading, size[0] - 3 * margin - column, self._bottom - 2 * margin - heading)
        self.view: RoadView | None
        self.strip: Strip | None
        self.view, self.strip = self._arrange(area, margin, lane_scale)
        self._fitted = self.view, self.strip
        both = self.strip is not None and self.view is not None
        bottom = (self.strip.top if self.strip is not None and both else self._bottom) - 24 * u
        self.plates = Plates(self.layout, u)
        self.panel = Panel(size[0] - margin - column, margin, column, bottom, u)
        self.colouring: Colouring = SpeedColouring(self.max_speed)
        self.overlays: Sequence[Overlay] = ()
        self.selected: int | None = None  # slot
        # Where the road is seen when the view moves: all that is left of the panel, above the strip.
        edge = self.strip.top - 28 * u if self.strip is not None and both else self._bottom
        self.area = pygame.Rect(0, 0, round(self.panel.left - margin), round(edge))
        self._tiles = RoadTiles(self.layout, self.junctions)
        self._background = self._draw_background(margin)
        self._lit: tuple[bytes, pygame.Surface] = (b"", self._background)  # phases, and the background in their colours

    def _arrange(
        self, area: tuple[float, float, float, float], margin: float, lane_scale: float | None
    ) -> tuple[RoadView | None, Strip | None]:
        left, top, width, height = area
        layout, u = self.layout, self.unit
        lanes = 2 * float(layout.half_width.max()) / float(layout.width.min())
        self._min_lane = min_lane = float(np.clip(_ROAD / lanes, *_LANE)) * u
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

    def look(self, camera: Camera | None) -> None:
        """Show the road as ``camera`` sees it in :attr:`area`, streets to scale where they are wide enough; None: all.

        A road that is shown straightened only is then shown as it lies in the world.
        """
        if camera is None:
            self.view, self.strip = self._fitted
            return
        camera = camera.snapped()
        widest = 1.0 if self._fitted[0] is None else self._fitted[0].lane_scale
        wanted = self._min_lane / (camera.scale * float(self.layout.width.min()))
        self.view = RoadView(camera, coarse(float(np.clip(wanted, 1.0, widest))), self.area)
        self.strip = self._fitted[1] if self._fitted[0] is not None else None

    @property
    def is_fitted(self) -> bool:
        """The whole network is shown."""
        return (self.view, self.strip) == self._fitted

    @property
    def fitted_scale(self) -> float:
        """Px/m of the picture of the whole network."""
        view, strip = self._fitted
        if view is not None:
            return view.camera.scale
        assert strip is not None
        return strip.scale

    def camera_at(self, pixel: Point, scale: float | None = None) -> Camera:
        """The camera of the present view, or, where the road is shown straightened only, one that shows the same place.

        ``scale`` (px/m) is that of a straightened road, default: its own.
        """
        if self.view is not None and self.view.rows == 1:
            return self.view.camera
        if self.view is not None:
            row = int(np.clip((pixel[1] - self.view.area.top) * self.view.rows // self.view.area.height, 0, 99))
            up = row * self.view.area.height / self.view.rows
            return self.view.camera.moved((-row * self.view.area.width, up))
        assert self.strip is not None
        distance = self.strip.distance_at(pixel)
        at = np.array([self.layout.roads[0].length / 2 if distance is None else distance])
        xy, _ = self.layout.locate(np.zeros(1, dtype=np.int64), at, np.zeros(1))
        return Camera(scale or self.strip.scale, (float(xy[0, 0]), float(xy[0, 1])), pixel)

    def draw(self, frame: Frame, surface: pygame.Surface | None = None) -> pygame.Surface:
        """Draw a frame on ``surface`` (of this scene's size), or on a new one, and return it. No display is needed."""
        surface = pygame.Surface(self.size) if surface is None else surface
        self._draw_ground(surface, frame.phase)
        canvas = Canvas(surface, self.places(frame), self.colouring.fill(frame), self.unit, self.selected)
        halo = np.zeros(len(frame.speed), dtype=bool)
        halo[frame.controlled] = True
        for overlay in self.overlays:
            if overlay.below:
                overlay.draw(canvas, frame)
        view = self.view
        plates = [] if view is None else self.plates.lay_out(view, frame, self.vehicle_pixels(frame))
        clip = pygame.Rect((0, 0), self.size) if self.is_fitted else self.area
        surface.set_clip(clip)
        self.plates.draw_lines(surface, plates)
        for place in canvas.places:
            surface.set_clip(place.clip)
            seen = place.seen
            draw_bodies(surface, place.centre[seen], place.angle[seen], place.size[seen], canvas.fill[seen], halo[seen])
        surface.set_clip(clip)
        self.plates.draw(surface, plates)
        for place in canvas.places:
            if view is not None and not place.straight:
                surface.set_clip(place.clip)
                self.plates.draw_roofs(surface, view, frame, place, canvas.fill)
        surface.set_clip(None)
        for overlay in self.overlays:
            if not overlay.below:
                overlay.draw(canvas, frame)
        keys = [key for overlay in self.overlays for key in overlay.legend(frame)]
        self.panel.draw(surface, frame, self.colouring, keys)
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

    def places(self, frame: Frame) -> list[Place]:
        """All parts of the picture that show vehicles."""
        found = [] if self.view is None else self._road_places(self.view, frame)
        return found if self.strip is None else [*found, *self.strip.places(frame)]

    def vehicle_at(self, frame: Frame, pixel: Point) -> int | None:
        """Slot of the vehicle drawn at a pixel, or near it; None where there is none."""
        hits = [hit for place in self.places(frame) if (hit := place.nearest(pixel, 8 * self.unit)) is not None]
        return min(hits)[1] if hits else None

    def _road_places(self, view: RoadView, frame: Frame) -> list[Place]:
        # Small ones are drawn larger, but never wider than their lane.
        lane = view.across * float(self.layout.width.min())
        narrowest = float(np.clip(0.8 * lane, 2.2, 4.0))
        shortest = _SHORTEST if len(frame.length) <= MANY else _DOT  # of many, lengths to scale say more than shapes
        size = np.stack(
            [
                np.maximum(frame.length * view.camera.scale, shortest),
                np.maximum(frame.width * view.across, min(narrowest, shortest)),
            ],
            -1,
        )
        found = []
        for row, part in view.each_row(self.size):
            clip = part if self.is_fitted else self.area

            def centres(of: Frame, row: RoadView = row) -> Array:
                return row.place(of.xy, of.aside)

            at = centres(frame)
            low, high = np.array(clip.topleft) - size[:, :1], np.array(clip.bottomright) + size[:, :1]
            seen = frame.active & ((at > low) & (at < high)).all(1)
            found.append(Place(clip, at, -frame.heading, size, seen, centres, straight=False))
        return found

    def _draw_ground(self, surface: pygame.Surface, phase: Array) -> None:
        """Roads and signals. That of the whole network is kept; the signals are drawn into it when they change."""
        if self.is_fitted:
            if self.view is not None and self.junctions.heads and phase.tobytes() != self._lit[0]:
                lit = self._background.copy()
                draw_lights(lit, self.layout, self.junctions, self.view, phase)
                self._lit = (phase.tobytes(), lit)
            surface.blit(self._lit[1], (0, 0))
            return
        assert self.view is not None
        surface.blit(self._frame_of_road, (0, 0))
        self._tiles.draw(surface, self.view, self.area)
        surface.set_clip(self.area)
        draw_lights(surface, self.layout, self.junctions, self.view, phase)
        surface.set_clip(None)
        if self.title:
            self._write_title(surface)

    @cached_property
    def _frame_of_road(self) -> pygame.Surface:
        """What stays around a road that is not shown as a whole."""
        surface = pygame.Surface(self.size)
        surface.fill(BACKGROUND)
        if self._fitted[0] is not None and self._fitted[1] is not None:
            self._fitted[1].draw_road(surface)
        return surface

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
            self._write_title(surface)
        return surface

    def _write_title(self, surface: pygame.Surface) -> None:
        write(surface, self.title, (28 * self.unit, 22 * self.unit), 30 * self.unit, TEXT)

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
            write(
                surface,
                distance_text(mark, road.length),
                tuple(edge + 24 * self.unit * outward),
                16 * self.unit,
                FAINT,
                "center",
            )


def coarse(lane_scale: float) -> float:
    """A widening of roads, rounded up: few values, so that little is computed anew while one zooms."""
    return 1.05 ** math.ceil(math.log(lane_scale, 1.05) - 1e-9)


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
