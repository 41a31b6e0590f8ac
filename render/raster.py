"""Many thin lines at once: drawing them one by one would cost more than everything else in a picture."""

from __future__ import annotations

import numpy as np
import pygame

from trafficgrad.render.style import Array


def mapped(surface: pygame.Surface, rgb: Array) -> Array:
    """Colours ``[..., 3]`` as the surface's pixels, uint32."""
    red, green, blue = (np.asarray(rgb)[..., i].astype(np.uint32) << surface.get_shifts()[i] for i in range(3))
    return np.asarray(red | green | blue)


def draw_segments(surface: pygame.Surface, start: Array, end: Array, colours: Array, width: int = 1) -> None:
    """Draw straight lines within the surface's clip, later ones over earlier ones.

    Args:
        start, end: px ``[S, 2]``. colours: ``[S, 3]``, 0 to 255. width: px, 1 or 2.
    """
    clip = surface.get_clip()
    low, high = np.array(clip.topleft), np.array(clip.bottomright) - 1
    shows = (np.maximum(start, end) >= low).all(1) & (np.minimum(start, end) <= high).all(1)
    start, way, colours = start[shows], (end - start)[shows], colours[shows]
    counts = np.ceil(np.abs(way).max(1, initial=0.0)).astype(np.int64) + 1
    counts = np.minimum(counts, 2 * sum(clip.size))  # what is longer is hardly in the picture
    total = int(counts.sum())
    if not total:
        return
    which = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    share = place / np.maximum(counts - 1, 1)[which]
    at = np.round(start[which] + share[:, None] * way[which]).astype(np.int64)
    steep = (np.abs(way[:, 1]) > np.abs(way[:, 0]))[which]
    pixels, colour = pygame.surfarray.pixels2d(surface), mapped(surface, colours)[which]
    for i in range(width):
        shifted = at + i * np.stack([steep, ~steep], -1)
        inside = ((shifted >= low) & (shifted <= high)).all(1)
        pixels[shifted[inside, 0], shifted[inside, 1]] = colour[inside]
