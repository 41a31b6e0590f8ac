"""Colours and type sizes: what the picture's parts must agree on.

The background is dark on purpose: the speed colours (viridis, perceptually uniform and safe for colour-blind eyes) end
in a bright yellow that a white page would swallow. White belongs to controlled vehicles alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pygame

Array: TypeAlias = npt.NDArray[Any]
Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

BACKGROUND: Colour = (13, 16, 22)
GROUND: Colour = (22, 26, 34)  # under charts and cards
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
# Orange - grey - blue at 17 steps of equal length in OKLab (Ottosson 2020), lightest at the ends: also told apart
# without red or green.
DIVERGING: tuple[Colour, ...] = (
    (237, 151, 80),
    (221, 146, 87),
    (206, 142, 93),
    (190, 138, 98),
    (175, 133, 102),
    (160, 129, 106),
    (144, 124, 109),
    (129, 119, 111),
    (113, 113, 113),
    (114, 122, 131),
    (114, 130, 148),
    (114, 138, 166),
    (113, 146, 184),
    (112, 154, 202),
    (111, 162, 220),
    (109, 170, 238),
    (107, 178, 255),
)
UNKNOWN: Colour = (98, 104, 114)
ACCENT: Colour = (255, 214, 102)  # what is selected
DARKEST = 0.2  # the map's first, near-black fifth would vanish on asphalt: speed 0 starts here
OVERSAMPLING = 4  # bodies are drawn this much larger and averaged down, so that slow motion does not jitter
SMALLEST_TEXT = 13  # px
SMALLEST_UNIT = 0.72  # of the design's pixels at 1280x720; below, type would run together


def speed_fraction(speed: Array | float, max_speed: float) -> Array:
    """Where ``speed`` (m/s, any shape) lies on the colour bar, 0 to 1."""
    return np.clip(np.asarray(speed, dtype=np.float64) / max_speed, 0.0, 1.0)


def speed_colours(speed: Array | float, max_speed: float) -> Array:
    """Colours of speeds, uint8 ``[..., 3]``: dark violet at standstill, yellow from ``max_speed`` on."""
    return ramp(VIRIDIS, DARKEST + (1.0 - DARKEST) * speed_fraction(speed, max_speed))


def ramp(stops: Sequence[Colour], share: Array) -> Array:
    """Colours between equally spaced ``stops``, uint8 ``[..., 3]``, at shares from 0 to 1."""
    table, at = np.asarray(stops, dtype=np.float64), np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(share, at, table[:, i]) for i in range(3)], axis=-1).round().astype(np.uint8)


def nice_step(span: float, parts: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts ``span`` into at most ``parts`` pieces (at least one)."""
    raw = span / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * (1.0 - 1e-9))


def distance_text(metres: float, span: float) -> str:
    """A distance on a scale of ``span`` m: in km where that is long."""
    return f"{metres / 1000.0:g} km" if span >= 20_000.0 else f"{metres:g} m"


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
