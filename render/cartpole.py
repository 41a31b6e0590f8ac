"""A cart with a pole, drawn from the side."""

from __future__ import annotations

import math

import pygame

from trafficgrad.render.scene import surface_rgb
from trafficgrad.render.style import (
    ACCENT,
    ASPHALT,
    BACKGROUND,
    CONTROLLED,
    EDGE_LINE,
    FAINT,
    GROUND,
    LANE_LINE,
    OVERSAMPLING,
    Array,
    Point,
    nice_step,
    write,
)

_CART = (0.5, 0.2)  # m, length and height


def draw_cartpole(
    x: float,
    angle: float,
    force: float = 0.0,
    *,
    track: float = 4.0,
    pole_length: float = 1.0,
    size: tuple[int, int] = (1280, 720),
) -> Array:
    """A picture, uint8 ``[height, width, 3]``.

    Parameters:
        x: of the cart, m; the picture moves on where it would leave it. angle: of the pole from upright, rad, to the
            right. force: of the actuator, -1 to 1, an arrow.
        track: m to either side. pole_length: m. size: width and height in px.
    """
    width, height = size
    surface = pygame.Surface(size)
    surface.fill(BACKGROUND)
    half = track + 1.0
    scale = min(width / (2.0 * half), 0.36 * height / pole_length)
    centre = max(abs(x) - (0.5 * width / scale - 0.5), 0.0) * math.copysign(1.0, x)
    ground = round(0.62 * height)

    def at(along: float, above: float) -> Point:
        return 0.5 * width + (along - centre) * scale, ground - above * scale

    left, right = centre - 0.5 * width / scale, centre + 0.5 * width / scale
    pygame.draw.rect(surface, GROUND, (0, ground, width, height - ground))
    pygame.draw.line(surface, LANE_LINE, (0, ground), (width, ground), 2)
    ends = (at(-track, 0.0)[0], at(track, 0.0)[0])
    pygame.draw.line(surface, EDGE_LINE, (ends[0], ground), (ends[1], ground), 4)
    for end in ends:
        pygame.draw.line(surface, EDGE_LINE, (end, ground - 10), (end, ground + 10), 4)
    step = nice_step(right - left, 12)
    for i in range(math.ceil(left / step), math.floor(right / step) + 1):
        place = at(i * step, 0.0)[0]
        pygame.draw.line(surface, FAINT, (place, ground + 2), (place, ground + 8))
        write(surface, f"{i * step:g} m", (place, ground + 14), 15.0, FAINT, "midtop")
    if force:
        tail = at(x + math.copysign(0.5 * _CART[0], force), 0.5 * _CART[1])
        head = (tail[0] + force * 0.8 * scale, tail[1])
        pygame.draw.line(surface, ACCENT, tail, head, 4)
        barb = math.copysign(min(10.0, abs(head[0] - tail[0])), force)
        pygame.draw.polygon(surface, ACCENT, [head, (head[0] - barb, head[1] - 6), (head[0] - barb, head[1] + 6)])
    _body(surface, at(x, 0.5 * _CART[1]), scale, angle, pole_length)
    return surface_rgb(surface)


def _body(surface: pygame.Surface, hinge: Point, scale: float, angle: float, length: float) -> None:
    """Cart and pole, drawn enlarged and averaged down, so that slow motion does not jitter."""
    reach = math.ceil((length + 0.5) * scale)
    large = pygame.Surface((2 * reach * OVERSAMPLING, 2 * reach * OVERSAMPLING), pygame.SRCALPHA)
    large.fill((*ASPHALT, 0))
    unit, middle = scale * OVERSAMPLING, reach * OVERSAMPLING
    corner = (hinge[0] - reach, hinge[1] - reach)
    whole = (math.floor(corner[0]), math.floor(corner[1]))
    begin = (
        middle + (corner[0] - whole[0]) * OVERSAMPLING,
        middle + (corner[1] - whole[1]) * OVERSAMPLING,
    )
    cart = pygame.Rect(0, 0, round(_CART[0] * unit), round(_CART[1] * unit))
    cart.center = (round(begin[0]), round(begin[1]))
    pygame.draw.rect(large, EDGE_LINE, cart, border_radius=round(0.04 * unit))
    tip = (begin[0] + math.sin(angle) * length * unit, begin[1] - math.cos(angle) * length * unit)
    across = (math.cos(angle) * 0.03 * unit, math.sin(angle) * 0.03 * unit)
    pygame.draw.polygon(
        large,
        CONTROLLED,
        [
            (begin[0] - across[0], begin[1] - across[1]),
            (begin[0] + across[0], begin[1] + across[1]),
            (tip[0] + across[0], tip[1] + across[1]),
            (tip[0] - across[0], tip[1] - across[1]),
        ],
    )
    for place in (begin, tip):
        pygame.draw.circle(large, CONTROLLED, place, 0.03 * unit)
    pygame.draw.circle(large, ASPHALT, begin, 0.02 * unit)
    surface.blit(pygame.transform.smoothscale(large, (2 * reach, 2 * reach)), whole)
