"""Colours, type sizes and vehicle bodies: everything that the picture's parts must agree on.

The background is dark on purpose: the speed colours (viridis, perceptually uniform and safe for colour-blind eyes) end
in a bright yellow that a white page would swallow. White belongs to controlled vehicles alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pygame

Array: TypeAlias = npt.NDArray[Any]
Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

BACKGROUND: Colour = (13, 16, 22)
ASPHALT: Colour = (38, 43, 52)
THREAD: Colour = (62, 70, 84)  # roads that are too thin for border lines to lift them from the background
EDGE_LINE: Colour = (128, 137, 150)
LANE_LINE: Colour = (88, 96, 108)
ARROW: Colour = (72, 80, 93)
FAINT: Colour = (118, 127, 141)
MUTED: Colour = (164, 172, 184)
TEXT: Colour = (233, 237, 243)
STOP_LINE: Colour = (176, 183, 194)
CONTROLLED: Colour = (255, 255, 255)
LIGHTS: tuple[Colour, ...] = ((240, 62, 54), (255, 168, 0), (74, 222, 110))  # red, yellow, green; apart in brightness

# matplotlib's viridis (CC0) at 17 equal steps; tests compare it with matplotlib's own.
VIRIDIS: tuple[Colour, ...] = (
    (68, 1, 84),
    (72, 24, 106),
    (71, 45, 123),
    (66, 64, 134),
    (59, 82, 139),
    (51, 99, 141),
    (44, 114, 142),
    (38, 130, 142),
    (33, 145, 140),
    (31, 160, 136),
    (40, 174, 128),
    (63, 188, 115),
    (94, 201, 98),
    (132, 212, 75),
    (173, 220, 48),
    (216, 226, 25),
    (253, 231, 37),
)
DARKEST = 0.2  # the map's first, near-black fifth would vanish on asphalt: speed 0 starts here
OVERSAMPLING = 4  # bodies are drawn this much larger and averaged down, so that slow motion does not jitter
SMALLEST_TEXT = 13  # px
_FINE_LIMIT = 500  # vehicles; beyond, bodies are drawn without averaging


def speed_fraction(speed: Array | float, max_speed: float) -> Array:
    """Where ``speed`` (m/s, any shape) lies on the colour bar, 0 to 1."""
    return np.clip(np.asarray(speed, dtype=np.float64) / max_speed, 0.0, 1.0)


def speed_colours(speed: Array | float, max_speed: float) -> Array:
    """Colours of speeds, uint8 ``[..., 3]``: dark violet at standstill, yellow from ``max_speed`` on."""
    table = np.asarray(VIRIDIS, dtype=np.float64)
    at = DARKEST + (1.0 - DARKEST) * speed_fraction(speed, max_speed)
    stops = np.linspace(0.0, 1.0, len(table))
    return np.stack([np.interp(at, stops, table[:, i]) for i in range(3)], axis=-1).round().astype(np.uint8)


def nice_step(span: float, parts: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts ``span`` into at most ``parts`` pieces (at least one)."""
    raw = span / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * (1.0 - 1e-9))


def _font(pixels: int) -> pygame.font.Font:
    if not pygame.font.get_init():
        pygame.font.init()
        _FONTS.clear()  # fonts do not survive a pygame.quit()
    if pixels not in _FONTS:
        _FONTS[pixels] = pygame.font.Font(None, pixels)
    return _FONTS[pixels]


_FONTS: dict[int, pygame.font.Font] = {}


@lru_cache(maxsize=1024)
def text_image(text: str, size: float, colour: Colour) -> pygame.Surface:
    """One line in pygame's own typeface (the same on every machine), never smaller than can be read.

    Letters are set enlarged and averaged down: at small sizes pygame rounds their distances to whole pixels.
    """
    pixels = max(round(size), SMALLEST_TEXT)
    large = _font(pixels * OVERSAMPLING).render(text, True, colour)
    plain = pygame.Surface(large.get_size(), pygame.SRCALPHA)
    plain.fill((*colour, 0))  # averaged edges keep the text's colour
    plain.blit(large, (0, 0))
    width, height = plain.get_size()
    return pygame.transform.smoothscale(
        plain, (max(1, round(width / OVERSAMPLING)), max(1, round(height / OVERSAMPLING)))
    )


def write(
    surface: pygame.Surface, text: str, at: Point, size: float, colour: Colour, anchor: str = "topleft"
) -> pygame.Rect:
    """Write one line with the given corner or edge (a ``pygame.Rect`` attribute) at ``at``; return where it stands."""
    image = text_image(text, size, colour)
    return surface.blit(image, image.get_rect(**{anchor: (round(at[0]), round(at[1]))}))


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
    """Draw vehicles: bodies in their colour, a white ring around those with a halo.

    Args:
        centres: px ``[N, 2]``. angles: rad ``[N]``, screen direction. sizes: px ``[N, 2]``, length and width.
        fill: uint8 ``[N, 3]``. halo: bool ``[N]``; those are drawn last, on top.
    """
    order = np.argsort(halo, kind="stable")
    fine = len(order) <= _FINE_LIMIT
    for n in order:
        x, y = (float(v) for v in centres[n])
        length, width = (float(v) for v in sizes[n])
        colour: Colour = (int(fill[n, 0]), int(fill[n, 1]), int(fill[n, 2]))
        ring = max(2.0, 0.16 * width) if halo[n] else 0.0
        if fine:
            _draw_fine(surface, (x, y), float(angles[n]), length, width, colour, ring)
        else:
            _draw_body(surface, (x, y), float(angles[n]), length, width, colour, ring)


def fill_fine(surface: pygame.Surface, corners: Array, colour: Colour) -> None:
    """Fill a small polygon (px ``[K, 2]``) with smooth edges, by averaging an enlarged drawing."""
    low, k = np.floor(corners.min(0)).astype(int) - 1, OVERSAMPLING
    width, height = (int(x) for x in np.ceil(corners.max(0)).astype(int) + 1 - low)
    large = pygame.Surface((width * k, height * k), pygame.SRCALPHA)
    large.fill((*colour, 0))
    pygame.draw.polygon(large, colour, (corners - low) * k)
    surface.blit(pygame.transform.smoothscale(large, (width, height)), (int(low[0]), int(low[1])))


def _draw_fine(
    surface: pygame.Surface, centre: Point, angle: float, length: float, width: float, colour: Colour, ring: float
) -> None:
    """One body by averaging an enlarged drawing: edges are smooth and positions count in fractions of a pixel."""
    half = math.ceil(math.hypot(length, width) / 2 + 2 * ring + 2)
    left, top = math.floor(centre[0]) - half, math.floor(centre[1]) - half
    side, k = 2 * half + 1, OVERSAMPLING
    large = pygame.Surface((side * k, side * k), pygame.SRCALPHA)
    large.fill((*(BACKGROUND if ring else colour), 0))  # transparent pixels lend their colour to the averaged edge
    at = ((centre[0] - left) * k, (centre[1] - top) * k)
    _draw_body(large, at, angle, length * k, width * k, colour, ring * k)
    surface.blit(pygame.transform.smoothscale(large, (side, side)), (left, top))


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
