"""Numbers of the controlled vehicles: on their roofs where these are large enough, else on plates beside the road."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pygame

from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.moment import Frame
from trafficgrad.render.place import Place
from trafficgrad.render.style import BACKGROUND, CONTROLLED, OVERSAMPLING, Array, Colour, Point, write
from trafficgrad.render.view import RoadView

_MOST = 40  # controlled vehicles; beyond, their numbers would cover the road
_WIDEST = 90.0  # px from a road's middle to its edge; beyond, plates would stand too far away: they go to the vehicle
_ROOF = 24.0  # px of width from which on a body carries its number


@dataclass(frozen=True)
class Plate:
    """A number, whose it is and where it stands."""

    text: str
    vehicle: Point  # px, where the line to the vehicle ends
    at: Point  # px, middle of the plate


class Plates:
    """Lays the numbers of a network's controlled vehicles out and draws them."""

    def __init__(self, layout: RoadLayout, unit: float) -> None:
        """``unit`` is the size of a design pixel."""
        self.layout, self.unit = layout, unit
        points = np.concatenate(layout.lines)
        self._middle = (points.min(0) + points.max(0)) / 2  # m, of the network

    def lay_out(self, view: RoadView, frame: Frame, centres: Array) -> list[Plate]:
        """Plates beside the road for vehicles at ``centres`` px; none where their roofs carry the numbers."""
        if self._on_roofs(view, frame):
            return []
        plates = []
        for text, n in self._numbered(frame):
            x, y = self._place(view, frame, n, centres[n]).tolist()
            plates.append(Plate(text, (float(centres[n, 0]), float(centres[n, 1])), (x, y)))
        return plates

    def draw_lines(self, surface: pygame.Surface, plates: list[Plate]) -> None:
        """The lines from the vehicles to their plates, which lie under the vehicles."""
        for plate in plates:
            pygame.draw.aaline(surface, CONTROLLED, plate.vehicle, plate.at)

    def draw(self, surface: pygame.Surface, plates: list[Plate]) -> None:
        """The plates that are whole within the surface's clip."""
        for plate in plates:
            image = _image(plate.text, self.unit)
            box = image.get_rect(center=(round(plate.at[0]), round(plate.at[1])))
            if surface.get_clip().contains(box):
                surface.blit(image, box)

    def draw_roofs(self, surface: pygame.Surface, view: RoadView, frame: Frame, place: Place, fill: Array) -> None:
        """The numbers on roofs that are large enough; ``fill`` [N, 3] are the bodies' colours."""
        if not self._on_roofs(view, frame):
            return
        for text, n in self._numbered(frame):
            if place.seen[n]:
                x, y = place.centre[n] - 0.12 * place.size[n, 0] * place.direction[n]
                write(surface, text, (x, y + 1), 26 * self.unit, _ink(fill[n]), "center")

    def _numbered(self, frame: Frame) -> list[tuple[str, int]]:
        shown = [(str(i), int(n)) for i, n in enumerate(frame.controlled, start=1) if frame.active[n]]
        return shown if len(shown) <= _MOST else []

    def _on_roofs(self, view: RoadView, frame: Frame) -> bool:
        widths = frame.width[frame.controlled]
        return bool(len(widths) and widths.min() * view.across >= _ROOF * self.unit)

    def _place(self, view: RoadView, frame: Frame, n: int, centre: Array) -> Array:
        """Where a vehicle's plate stands, px: on the inner side of a road, of several on the right."""
        left = np.array([-np.sin(frame.heading[n]), -np.cos(frame.heading[n])])
        half = float(self.layout.half_width.max()) * view.across
        radius = _radius(self.unit)
        if half > _WIDEST * self.unit:
            return np.asarray(centre + left * (0.5 * float(frame.width[n]) * view.across + radius + 12 * self.unit))
        inner = float(left @ (view.camera.to_screen(self._middle) - centre)) >= 0
        side = 1.0 if inner and len(self.layout.roads) == 1 else -1.0
        # Plates repeat the order of their vehicles across the road, a plate's width apart, so none hides another.
        lane = view.across * float(self.layout.width.min())
        from_edge = half - side * float(frame.offset[n]) * view.across
        across = (2 * half - from_edge - 0.5 * lane) * max(1.0, (2 * radius + 1) / lane)
        return np.asarray(centre + side * left * (from_edge + 14 * self.unit + across))


def _ink(fill: Array) -> Colour:
    """Black or white, whichever is easier to read on ``fill``."""
    return (0, 0, 0) if float(fill @ np.array([0.3, 0.59, 0.11])) > 110 else (255, 255, 255)


def _radius(unit: float) -> float:
    return max(9.5 * unit, 8.5)  # px; smaller, no digit fits


@lru_cache(maxsize=256)
def _image(text: str, unit: float) -> pygame.Surface:
    """A number on a white disc with a dark rim."""
    k, radius = OVERSAMPLING, _radius(unit)
    side = 2 * math.ceil(radius + 2)
    large = pygame.Surface((side * k, side * k), pygame.SRCALPHA)
    large.fill((*BACKGROUND, 0))
    middle = (side * k / 2, side * k / 2)
    pygame.draw.circle(large, BACKGROUND, middle, (radius + 1.5) * k)
    pygame.draw.circle(large, CONTROLLED, middle, radius * k)
    image = pygame.transform.smoothscale(large, (side, side))
    write(image, text, (side / 2, side / 2 + 1), 17 * unit, (0, 0, 0), "center")
    return image
