"""The column beside the road: the caption's numbers, and what colours and outlines mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pygame

from trafficgrad.render.bodies import draw_bodies
from trafficgrad.render.colouring import Colouring
from trafficgrad.render.moment import Frame, caption_items
from trafficgrad.render.style import (
    MUTED,
    TEXT,
    Array,
    Colour,
    Point,
    nice_step,
    write,
)


class Panel:
    """Numbers on top, legend at the bottom, from ``top`` to ``bottom`` px. ``unit`` is the size of a design pixel."""

    def __init__(self, left: float, top: float, width: float, bottom: float, unit: float) -> None:
        self.left, self.top, self.width, self.unit = left, top, width, unit
        self._foot = bottom
        self.legend = bottom - 152 * unit  # px, where what colours mean begins
        self.below = top  # px, the end of the numbers in the last picture

    def draw(
        self, surface: pygame.Surface, frame: Frame, colouring: Colouring, keys: Sequence[tuple[Colour, str]] = ()
    ) -> None:
        """Write the frame's caption and counts; captions for which there is no room are left out, the last first.

        ``keys``: colours and what they mean, above the colour bar.
        """
        u, y = self.unit, self.top
        self.legend = self._foot - 152 * u - (20 * len(keys) + 8) * u * bool(keys)
        for name, value in caption_items(frame):
            large = name == "mean speed"
            if y + (60 if large else 46) * u > self.legend:
                break
            write(surface, name, (self.left, y), 18 * u, MUTED)
            write(surface, value, (self.left, y + 15 * u), (44 if large else 30) * u, TEXT)
            y += (64 if large else 50) * u
        self.below = y
        for i, (colour, text) in enumerate(keys):
            at = (self.left + 5 * u, self.legend + (8 + 20 * i) * u)
            pygame.draw.circle(surface, colour, at, 4 * u)
            write(surface, text, (self.left + 16 * u, at[1]), 16 * u, MUTED, "midleft")
        self._draw_colour_bar(surface, colouring, colouring.mean(frame))
        count = int(frame.active[frame.controlled].sum())
        others = int(frame.active.sum()) - count
        fill = colouring.colours(np.array([colouring.low + 0.55 * (colouring.high - colouring.low)]))
        self._draw_key(surface, self._foot - 56 * u, True, f"controlled vehicle ({count})", fill)
        self._draw_key(surface, self._foot - 28 * u, False, f"other driver ({others})", fill)

    def _draw_colour_bar(self, surface: pygame.Surface, colouring: Colouring, mean: float) -> None:
        u, low, high, top = self.unit, colouring.low, colouring.high, self._foot - 152 * self.unit
        write(surface, f"colour = {colouring.name} in {colouring.unit}", (self.left, top), 18 * u, MUTED)
        bar = pygame.Rect(round(self.left), round(top + 36 * u), round(self.width), round(14 * u))
        colours = colouring.colours(np.linspace(low, high, bar.width))
        surface.blit(pygame.surfarray.make_surface(np.repeat(colours[:, None], bar.height, axis=1)), bar)

        def across(value: float) -> float:
            return bar.left + colouring.share(value) * (bar.width - 1)

        step = nice_step(high - low, 5)
        for mark in np.arange(np.ceil(low / step) * step, high + 1e-9 * step, step):
            x = across(mark)
            pygame.draw.line(surface, MUTED, (x, bar.bottom), (x, bar.bottom + 4 * u))
            write(surface, f"{mark:g}", (x, bar.bottom + 6 * u), 16 * u, MUTED, "midtop")
        if np.isfinite(mean):
            x, y = across(mean), bar.top - 9 * u
            pygame.draw.polygon(surface, TEXT, [(x, bar.top + 2 * u), (x - 6 * u, y), (x + 6 * u, y)])
            near_end = x > bar.right - 44 * u
            at: Point = (x - 9 * u if near_end else x + 9 * u, bar.top - 2 * u)
            write(surface, "mean", at, 15 * u, MUTED, "bottomright" if near_end else "bottomleft")

    def _draw_key(self, surface: pygame.Surface, top: float, controlled: bool, text: str, fill: Array) -> None:
        u = self.unit
        centre, size = np.array([[self.left + 16 * u, top + 8 * u]]), np.array([[24 * u, 11 * u]])
        draw_bodies(surface, centre, np.zeros(1), size, fill, np.array([controlled]))
        write(surface, text, (self.left + 40 * u, top + 9 * u), 19 * u, TEXT, "midleft")
