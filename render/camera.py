"""World <-> screen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trafficgrad.render.style import Array, Point


@dataclass(frozen=True)
class Camera:
    """A view from above: x to the right, y upwards, the same scale both ways."""

    scale: float  # px/m
    target: Point  # m, the world point in the middle of the view
    middle: Point  # px, where that point is drawn

    @classmethod
    def fit(cls, lower: Array, upper: Array, area: tuple[float, float, float, float]) -> Camera:
        """The largest view of the box ``lower`` to ``upper`` (m) in ``area`` (left, top, width, height in px)."""
        left, top, width, height = area
        span = np.maximum(np.asarray(upper, dtype=np.float64) - lower, 1e-3)
        centre = (np.asarray(upper, dtype=np.float64) + lower) / 2
        scale = float(min(width / span[0], height / span[1]))
        return cls(scale, (float(centre[0]), float(centre[1])), (left + width / 2, top + height / 2))

    def to_screen(self, xy: Array) -> Array:
        """World points ``[..., 2]`` in m -> px, y down."""
        return (np.asarray(xy, dtype=np.float64) - self.target) * (self.scale, -self.scale) + self.middle

    def to_world(self, pixels: Array) -> Array:
        """Screen points ``[..., 2]`` in px -> m."""
        return (np.asarray(pixels, dtype=np.float64) - self.middle) / (self.scale, -self.scale) + self.target

    def moved(self, pixels: Point) -> Camera:
        """The same view pushed by ``pixels``."""
        return Camera(self.scale, self.target, (self.middle[0] + pixels[0], self.middle[1] + pixels[1]))

    def scaled(self, factor: float, at: Point) -> Camera:
        """``factor`` times the scale; what is at the pixel ``at`` stays there."""
        x, y = self.to_world(np.asarray(at)).tolist()
        return Camera(self.scale * factor, (x, y), at)

    def centred(self, target: Point, at: Point) -> Camera:
        """The same scale with the world point ``target`` at the pixel ``at``."""
        return Camera(self.scale, target, at)

    def snapped(self) -> Camera:
        """Moved by less than a pixel, so that the world's origin lies on a whole one."""
        x, y = self.to_screen(np.zeros(2)).tolist()
        return self.moved((round(x) - x, round(y) - y))

    def zoomed(self, factor: float) -> Camera:
        """The same view at ``factor`` times the scale (to draw enlarged and average down)."""
        return Camera(self.scale * factor, self.target, (self.middle[0] * factor, self.middle[1] * factor))
