"""Vehicle bodies: from a store of small pictures, exact where they are large, dots where there are many tiny ones."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pygame

from trafficgrad.render.raster import mapped, set_pixels
from trafficgrad.render.style import BACKGROUND, CONTROLLED, OVERSAMPLING, Array, Colour, Point

_LARGE = 60.0  # px of length from which a body is drawn exactly: the store would grow too large
_DOT, _MANY = 4.0, 500  # px of length below which, of so many vehicles, they are dots: nobody sees a shape
_CROWD = 200  # bodies, beyond which the store rounds more: nobody looks at each
_SIZE_STEP = 0.5  # px


def body_outline(centre: Point, angle: float, length: float, width: float) -> list[Point]:
    """Corners of a vehicle on the screen: an oriented rectangle whose front corners are cut.

    Args:
        centre: px. angle: rad, screen direction (y down). length, width: px.
    """
    cut = 0.22 * min(length, width)
    a, b = length / 2, width / 2
    corners = ((-a, -b), (a - cut, -b), (a, -b + cut), (a, b - cut), (a - cut, b), (-a, b))
    c, s = math.cos(angle), math.sin(angle)
    return [(centre[0] + x * c - y * s, centre[1] + x * s + y * c) for x, y in corners]


def draw_bodies(surface: pygame.Surface, centres: Array, angles: Array, sizes: Array, fill: Array, halo: Array) -> None:
    """Draw vehicles: bodies in their colour, a white ring around those with a halo. What is out of sight costs little.

    Args:
        centres: px ``[N, 2]``. angles: rad ``[N]``, screen direction. sizes: px ``[N, 2]``, length and width.
        fill: uint8 ``[N, 3]``. halo: bool ``[N]``; those are drawn last, on top.
    """
    clip, reach = surface.get_clip(), np.hypot(sizes[:, 0], sizes[:, 1])[:, None]
    low, high = np.array(clip.topleft), np.array(clip.bottomright)
    seen = np.flatnonzero(((centres > low - reach) & (centres < high + reach)).all(1))
    seen = seen[np.argsort(halo[seen], kind="stable")]
    tiny = (sizes[seen, 0] < _DOT) & ~halo[seen] & (len(seen) > _MANY)
    dots, seen = seen[tiny], seen[~tiny]
    _draw_dots(surface, centres[dots], sizes[dots], fill[dots])
    large = sizes[seen, 0] >= _LARGE
    rest, exact = seen[~large], seen[large]
    _draw_stored(surface, centres[rest], angles[rest], sizes[rest], fill[rest], halo[rest])
    for n in exact:
        length, width = (float(v) for v in sizes[n])
        ring = _ring(width) if halo[n] else 0.0
        at = (float(centres[n, 0]), float(centres[n, 1]))
        image, left, top = _picture(at, float(angles[n]), length, width, _colour(fill[n]), ring)
        surface.blit(image, (left, top))


def fill_fine(surface: pygame.Surface, corners: Array, colour: Colour) -> None:
    """Fill a small polygon (px ``[K, 2]``) with smooth edges, by averaging an enlarged drawing."""
    low, k = np.floor(corners.min(0)).astype(int) - 1, OVERSAMPLING
    width, height = (int(x) for x in np.ceil(corners.max(0)).astype(int) + 1 - low)
    large = pygame.Surface((width * k, height * k), pygame.SRCALPHA)
    large.fill((*colour, 0))
    pygame.draw.polygon(large, colour, (corners - low) * k)
    surface.blit(pygame.transform.smoothscale(large, (width, height)), (int(low[0]), int(low[1])))


def _colour(rgb: Array) -> Colour:
    return int(rgb[0]), int(rgb[1]), int(rgb[2])


def _ring(width: float) -> float:
    """Px of the white ring around a body of this width."""
    return max(2.0, 0.16 * width)


def _draw_dots(surface: pygame.Surface, centres: Array, sizes: Array, fill: Array) -> None:
    """Squares of a few pixels, all at once."""
    if not len(centres):
        return
    side = max(2, round(float(np.sqrt(sizes[:, 0] * sizes[:, 1]).mean())))
    clip, corner = surface.get_clip(), np.floor(centres - side / 2 + 0.5).astype(np.int64)
    inside = ((corner >= clip.topleft) & (corner + side <= clip.bottomright)).all(1)
    colour, x, y = mapped(surface, fill[inside]), corner[inside, 0], corner[inside, 1]
    for i in range(side):
        for j in range(side):
            set_pixels(surface, x + i, y + j, colour)


def _draw_stored(
    surface: pygame.Surface, centres: Array, angles: Array, sizes: Array, fill: Array, halo: Array
) -> None:
    """Bodies from the store: each kind is drawn once and kept, rounded to parts of a pixel and bits of a colour."""
    if not len(centres):
        return
    parts, bits, tip = (3, 5, 0.7) if len(centres) <= _CROWD else (2, 4, 1.0)
    size = np.maximum(np.round(sizes / _SIZE_STEP), 1).astype(np.int64)
    turns = np.maximum(np.ceil(np.pi * size[:, 0] * _SIZE_STEP / tip), 8).astype(np.int64)
    turn = np.round(angles / (2 * np.pi) * turns).astype(np.int64) % turns
    shade = (fill >> (8 - bits)).astype(np.int64)
    fine = np.round(centres * parts).astype(np.int64)
    whole, part = fine // parts, fine % parts
    kinds = np.column_stack([size, turns, turn, shade, part, halo.astype(np.int64)])
    # One number a kind finds equal ones faster than rows do.
    spans = kinds.max(0) + 1
    code = np.zeros(len(kinds), dtype=np.int64)
    for column, span in zip(kinds.T, spans, strict=True):
        code = code * int(span) + column
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    store = [_stored(*row, parts, bits) for row in kinds[first].tolist()]
    pictures = [store[i] for i in which.tolist()]
    surface.blits(
        [(image, (x + left, y + top)) for (image, left, top), (x, y) in zip(pictures, whole.tolist(), strict=True)],
        False,
    )


@lru_cache(maxsize=40_000)
def _stored(
    length: int,
    width: int,
    turns: int,
    turn: int,
    red: int,
    green: int,
    blue: int,
    x: int,
    y: int,
    halo: int,
    parts: int,
    bits: int,
) -> tuple[pygame.Surface, int, int]:
    """A body's picture and where its corner lies, px from the whole pixel of its centre. All in steps of the store."""
    colour = tuple((v << (8 - bits)) + (1 << (7 - bits)) for v in (red, green, blue))
    size = (length * _SIZE_STEP, width * _SIZE_STEP)
    ring = _ring(size[1]) if halo else 0.0
    return _picture((x / parts, y / parts), 2 * math.pi * turn / turns, *size, colour, ring)  # type: ignore[arg-type]


def _picture(
    centre: Point, angle: float, length: float, width: float, colour: Colour, ring: float
) -> tuple[pygame.Surface, int, int]:
    """One body by averaging an enlarged drawing: edges are smooth and places count in fractions of a pixel.

    Returns:
        The picture, left, top px.
    """
    half = math.ceil(math.hypot(length, width) / 2 + 2 * ring + 2)
    left, top = math.floor(centre[0]) - half, math.floor(centre[1]) - half
    side, k = 2 * half + 1, OVERSAMPLING
    large = pygame.Surface((side * k, side * k), pygame.SRCALPHA)
    large.fill((*(BACKGROUND if ring else colour), 0))  # transparent pixels lend their colour to the averaged edge
    at = ((centre[0] - left) * k, (centre[1] - top) * k)
    _draw_body(large, at, angle, length * k, width * k, colour, ring * k)
    return pygame.transform.smoothscale(large, (side, side)), left, top


def _draw_body(
    surface: pygame.Surface, centre: Point, angle: float, length: float, width: float, colour: Colour, ring: float
) -> None:
    if ring:
        dark = ring + max(1.0, 0.5 * ring)  # a dark rim lets the white ring stand out from bright neighbours
        pygame.draw.polygon(surface, BACKGROUND, body_outline(centre, angle, length + 2 * dark, width + 2 * dark))
        pygame.draw.polygon(surface, CONTROLLED, body_outline(centre, angle, length + 2 * ring, width + 2 * ring))
    rim: Colour = tuple(c + (255 - c) * 2 // 5 for c in colour)  # type: ignore[assignment]
    pygame.draw.polygon(surface, rim, body_outline(centre, angle, length, width))
    inner = 0.16 * min(length, width)
    pygame.draw.polygon(surface, colour, body_outline(centre, angle, length - inner, width - inner))
    if length >= 10.0 and width >= 5.0:
        forward = 0.16 * length
        glass = (centre[0] + forward * math.cos(angle), centre[1] + forward * math.sin(angle))
        shade: Colour = (colour[0] * 2 // 5, colour[1] * 2 // 5, colour[2] * 2 // 5)
        pygame.draw.polygon(surface, shade, body_outline(glass, angle, 0.16 * length, 0.72 * width))
