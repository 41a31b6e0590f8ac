"""Where vehicles stand in a picture: on the road, and on the road pulled straight, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pygame

from trafficgrad.render.moment import Frame
from trafficgrad.render.style import Array


@dataclass(frozen=True)
class Place:
    """A part of the picture that shows vehicles, and where it shows those of a frame."""

    clip: pygame.Rect  # px
    centre: Array  # [N, 2] px, of the bodies
    angle: Array  # [N] rad, screen direction (y down)
    size: Array  # [N, 2] px, length and width
    seen: Array  # [N] bool, bodies that show
    centres: Callable[[Frame], Array]  # of another frame, px [N, 2]
    straight: bool  # the road pulled straight

    @cached_property
    def front(self) -> Array:
        """Px ``[N, 2]``, the middle of the front bumper."""
        return self.centre + 0.5 * self.size[:, :1] * self.direction

    @cached_property
    def rear(self) -> Array:
        """Px ``[N, 2]``, the middle of the rear bumper."""
        return self.centre - 0.5 * self.size[:, :1] * self.direction

    @cached_property
    def direction(self) -> Array:
        """Unit vectors ``[N, 2]`` on the screen."""
        return np.stack([np.cos(self.angle), np.sin(self.angle)], -1)

    def nearest(self, pixel: tuple[float, float], reach: float) -> tuple[float, int] | None:
        """Distance from the body (px) and slot of the vehicle at ``pixel``; None if none is within ``reach`` px."""
        if not self.clip.collidepoint(pixel) or not self.seen.any():
            return None
        way = np.asarray(pixel) - self.centre
        along = np.abs((way * self.direction).sum(1)) - self.size[:, 0] / 2
        across = np.abs(way[:, 0] * self.direction[:, 1] - way[:, 1] * self.direction[:, 0]) - self.size[:, 1] / 2
        far = np.hypot(np.maximum(along, 0.0), np.maximum(across, 0.0))
        far = np.where(self.seen, far, np.inf)
        n = int(far.argmin())
        return (float(far[n]), n) if far[n] <= reach else None
