"""Many thin lines at once: drawing them one by one would cost more than everything else in a picture."""

from __future__ import annotations

import numpy as np
import pygame

from trafficgrad.render.style import Array


def mapped(surface: pygame.Surface, rgb: Array) -> Array:
    """Colours ``[..., 3]`` as the surface's pixels, uint32."""
    red, green, blue = (np.asarray(rgb)[..., i].astype(np.uint32) << surface.get_shifts()[i] for i in range(3))
    return np.asarray(red | green | blue)


def set_pixels(surface: pygame.Surface, x: Array, y: Array, colour: Array) -> None:
    """Give pixels ``x, y`` [K] of a 32-bit surface their mapped colours [K]; all must lie on it."""
    pixels = pygame.surfarray.pixels2d(surface).T
    if pixels.flags.c_contiguous:  # one index a pixel is twice as fast as two
        pixels.reshape(-1)[y * pixels.shape[1] + x] = colour
    else:
        pixels[y, x] = colour


def draw_segments(surface: pygame.Surface, start: Array, end: Array, colours: Array, width: int = 1) -> None:
    """Draw straight lines within the surface's clip, later ones over earlier ones.

    Args:
        start, end: px ``[S, 2]``. colours: ``[S, 3]``, 0 to 255. width: px, 1 or 2.
    """
    clip = surface.get_clip()
    low, high = np.array(clip.topleft, dtype=np.float32), np.array(clip.bottomright, dtype=np.float32) - width
    start, end = np.asarray(start, dtype=np.float32), np.asarray(end, dtype=np.float32)
    lower, upper = np.minimum(start, end), np.maximum(start, end)
    shows = (upper >= low).all(1) & (lower <= high).all(1)
    if not shows.any():
        return
    whole = bool(((lower >= low) & (upper <= high))[shows].all())
    start, way, colour = start[shows], (end - start)[shows], mapped(surface, colours)[shows]
    long = np.abs(way)
    # What is longer than the picture is hardly in it.
    counts = np.minimum(np.ceil(long.max(1)).astype(np.int32) + 1, 2 * sum(clip.size))
    step = way / np.maximum(counts - 1, 1)[:, None].astype(np.float32)
    place = np.arange(int(counts.sum()), dtype=np.int32)
    place -= np.repeat(np.cumsum(counts, dtype=np.int32) - counts, counts)
    x, y = (
        np.rint(np.repeat(start[:, i], counts) + place * np.repeat(step[:, i], counts)).astype(np.int32) for i in (0, 1)
    )
    colour = np.repeat(colour, counts)
    steep = np.repeat((long[:, 1] > long[:, 0]).astype(np.int32), counts) if width > 1 else None
    for i in range(width):
        if steep is not None and i:
            x, y = x + steep, y + (1 - steep)
        if whole:
            set_pixels(surface, x, y, colour)
        else:
            inside = (x >= clip.left) & (x < clip.right) & (y >= clip.top) & (y < clip.bottom)
            set_pixels(surface, x[inside], y[inside], colour[inside])
