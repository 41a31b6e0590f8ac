"""The picture as somebody arranged it: colours, overlays, charts, a chosen vehicle, a camera that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pygame

from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.render.camera import Camera
from trafficgrad.render.charts import CHARTS, Chart
from trafficgrad.render.colouring import colourings
from trafficgrad.render.history import History
from trafficgrad.render.inspector import draw_inspector
from trafficgrad.render.moment import Frame, FrameSource
from trafficgrad.render.overlays import GradientMarks, LaneChanges, LeaderLinks, Overlay, Trails
from trafficgrad.render.scene import MIN_SIZE, Scene, surface_rgb
from trafficgrad.render.style import ACCENT, SMALLEST_UNIT, Array, Point

DOCK = 168.0  # px at the bottom for charts, at 720 lines
OVERLAYS = (LaneChanges.name, LeaderLinks.name, Trails.name, GradientMarks.name)
_CLOSEST = 40.0  # px/m
_FOLLOWING = 6.0  # px/m at least, while a vehicle is followed
_CARD = 200.0  # px that a vehicle's card needs to say enough, at 720 lines
_TRAIL_STEP = 0.5  # s between two corners of a trail


@dataclass(frozen=True)
class Style:
    """What to show besides the traffic. Names of overlays and charts are those of :data:`OVERLAYS`, ``CHARTS``.

    ``follow``: the number of a controlled vehicle (1 = the first) that the camera follows; None: the whole network.
    """

    colour: str = "speed"
    show: tuple[str, ...] = (LaneChanges.name,)
    follow: int | None = None

    def __post_init__(self) -> None:
        valid = [colouring.name for colouring in colourings(1.0)]
        if self.colour not in valid:
            raise TrafficGradError(
                f"unknown colour {self.colour!r}{nearest_name(self.colour, valid)}; valid are {', '.join(valid)}"
            )
        names = (*OVERLAYS, *CHARTS)
        for name in self.show:
            if name not in names:
                raise TrafficGradError(
                    f"nothing to show is named {name!r}{nearest_name(name, names)}; valid are {', '.join(names)}"
                )
        if self.follow is not None and self.follow < 1:
            raise TrafficGradError(f"follow is the number of a controlled vehicle, from 1 on, got {self.follow}")


class Stage:
    """Draws frames of one source at one size, as arranged.

    Args:
        source: what is shown. size: px; too small ones are drawn at the smallest that can be read.
        title: one line in the picture. foot: px to leave free at the bottom, at 720 lines.
        style: what to show at first.
        budget: s of one picture that each overlay and chart may spend on looking back; what is missing then comes with
            the next pictures.
    """

    def __init__(
        self,
        source: FrameSource,
        size: tuple[int, int],
        *,
        title: str = "",
        foot: float = 0.0,
        style: Style | None = None,
        budget: float = float("inf"),
    ) -> None:
        self._budget = budget
        self.source, self.title, self.foot = source, title, foot
        style = style or Style()
        self.colourings = colourings(source.max_speed)
        self.colouring = next(c for c in self.colourings if c.name == style.colour)
        self._past = History(source, _TRAIL_STEP)
        overlays: tuple[Overlay, ...] = (LaneChanges(), LeaderLinks(), Trails(self._past, budget), GradientMarks())
        self.overlays = {overlay.name: overlay for overlay in overlays}
        self.shown = set(style.show)
        self.charts: tuple[Chart, ...] = ()
        self.selected: int | None = None  # slot
        self._selected_id = -1
        self.following = style.follow is not None
        self._camera: Camera | None = None
        self.resize(size)
        self.frame = source.frame(source.start)
        if style.follow is not None:
            if style.follow > len(self.frame.controlled):
                raise TrafficGradError(
                    f"there is no controlled vehicle {style.follow} to follow, there are {len(self.frame.controlled)}"
                )
            self.select(int(self.frame.controlled[style.follow - 1]))

    # ------------------------------------------------------------------ arranging

    def resize(self, size: tuple[int, int]) -> None:
        """Another size, px."""
        self.asked = size
        self.size = (max(size[0], MIN_SIZE[0]), max(size[1], MIN_SIZE[1]))
        unit = max(min(self.size[0] / 1280, self.size[1] / 720), SMALLEST_UNIT)
        chosen = [kind for name, kind in CHARTS.items() if name in self.shown]
        dock = DOCK if chosen and self.size[1] > 2.2 * DOCK * unit else 0.0
        foot = self.foot + dock
        self.scene = Scene(self.source.network, self.size, max_speed=self.source.max_speed, title=self.title, foot=foot)
        u = self.scene.unit
        each, top = (self.size[0] - 32 * u) / max(len(chosen), 1), round(self.size[1] - foot * u)
        height = round((dock - 6) * u)
        self.charts = tuple(
            kind(self.source, pygame.Rect(round(28 * u + i * each), top, round(each - 24 * u), height), u, self._budget)
            for i, kind in enumerate(chosen if dock else [])
        )
        self._look(self._camera)

    def toggle(self, name: str) -> None:
        """Show an overlay or a chart, or hide it."""
        self.shown ^= {name}
        if name in CHARTS:
            self.resize(self.size)

    def next_colouring(self) -> None:
        """The next meaning of the vehicles' colours."""
        at = self.colourings.index(self.colouring)
        self.colouring = self.colourings[(at + 1) % len(self.colourings)]

    def zoom(self, factor: float, pixel: Point) -> None:
        """Larger or smaller, what is at ``pixel`` stays there; smaller than everything shows everything."""
        camera = self._camera or self.scene.camera_at(pixel)
        scale = min(camera.scale * factor, max(_CLOSEST, camera.scale))
        if factor < 1 and scale <= self.scene.fitted_scale * 1.001:
            self.fit()
        else:
            self._look(camera.scaled(scale / camera.scale, pixel))

    def move(self, by: Point) -> None:
        """Push what is seen by some px, where not everything is shown."""
        if self._camera is not None:
            self.following = False
            self._look(self._camera.moved(by))

    def fit(self) -> None:
        """Show everything."""
        self.following = False
        self._look(None)

    def select(self, slot: int | None) -> None:
        """Show everything about the vehicle in ``slot``; None: about nobody."""
        self.selected = slot
        self._selected_id = -1 if slot is None else int(self.frame.vehicle_id[slot])
        if slot is None:
            self.following = False

    def forget(self, time: float) -> None:
        """What comes after ``time`` (s) will be another than it was."""
        self._past.forget(time)
        for chart in self.charts:
            chart.forget(time)

    def _look(self, camera: Camera | None) -> None:
        self._camera = camera
        self.scene.look(camera)

    # ------------------------------------------------------------------ drawing

    def draw(self, time: float, surface: pygame.Surface | None = None) -> pygame.Surface:
        """Draw the moment ``time`` in s on a surface of this size, or on a new one, and return it."""
        surface = pygame.Surface(self.size) if surface is None else surface
        self.frame = frame = self.source.frame(time)
        self._keep_selection(frame)
        if self.following and self.selected is not None and frame.active[self.selected]:
            self._follow(frame)
        scene = self.scene
        scene.colouring = self.colouring
        scene.overlays = [overlay for name, overlay in self.overlays.items() if name in self.shown]
        scene.selected = self.selected
        scene.draw(frame, surface)
        if self.selected is not None:
            self._mark_selected(surface, frame)
            self._draw_card(surface, frame, self.selected)
        for chart in self.charts:
            chart.draw(surface, frame, self.colouring, self.selected)
        return surface

    def rgb(self, time: float) -> Array:
        """The picture as uint8 ``[height, width, 3]``."""
        return surface_rgb(self.draw(time))

    def _follow(self, frame: Frame) -> None:
        x, y = frame.xy[self.selected].tolist()
        middle = self.scene.area.center
        camera = self._camera or self.scene.camera_at(middle)
        scale = max(camera.scale, _FOLLOWING) if self._camera is None else camera.scale
        self._look(Camera(scale, (x, y), middle))

    def _keep_selection(self, frame: Frame) -> None:
        """Slots are given to others: the selected vehicle stays the same one, or is let go."""
        if self.selected is None:
            return
        if frame.active[self.selected] and int(frame.vehicle_id[self.selected]) == self._selected_id:
            return
        same = np.flatnonzero(frame.active & (frame.vehicle_id == self._selected_id))
        if len(same):
            self.selected = int(same[0])
        elif frame.active[self.selected]:
            self.select(None)

    def _mark_selected(self, surface: pygame.Surface, frame: Frame) -> None:
        for place in self.scene.places(frame):
            if self.selected is not None and place.seen[self.selected]:
                surface.set_clip(place.clip)
                centre = place.centre[self.selected].tolist()
                radius = 0.5 * float(np.hypot(*place.size[self.selected])) + 5 * self.scene.unit
                pygame.draw.circle(surface, ACCENT, centre, radius, max(1, round(1.6 * self.scene.unit)))
        surface.set_clip(None)

    def _draw_card(self, surface: pygame.Surface, frame: Frame, slot: int) -> None:
        panel, u = self.scene.panel, self.scene.unit
        room = pygame.Rect(panel.left, panel.below, panel.width, panel.legend - 14 * u - panel.below)
        if room.height < _CARD * u:  # charts and a straightened road take the room below the numbers
            room.update(28 * u, 66 * u, panel.width, self.scene.area.height - 70 * u)
        draw_inspector(surface, frame, slot, room, u)
