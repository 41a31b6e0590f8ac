"""Everything about one vehicle, as lines of text."""

from __future__ import annotations

import math

import numpy as np
import pygame

from trafficgrad.render.moment import Frame
from trafficgrad.render.style import ACCENT, GROUND, MUTED, TEXT, write

_LINE = 19.0  # px, at 720 lines


def vehicle_lines(frame: Frame, slot: int) -> list[tuple[str, str]]:
    """Name and value, with unit, of what is known of the vehicle in ``slot``."""
    n, insight = slot, frame.insight
    if not frame.active[n]:
        return [("vehicle", "has left the road")]
    place = np.flatnonzero(frame.controlled == n)
    driver = (insight.driver or "controlled") if len(place) else "human driver"
    driver = "you" if len(place) and int(place[0]) in insight.by_hand else driver
    lines = [
        ("driver", driver),
        ("speed", f"{frame.speed[n]:.2f} m/s"),
        ("acceleration", _number(frame.acceleration[n], "m/s²", sign=True)),
        ("desired speed", _number(frame.desired_speed[n], "m/s")),
        ("lane", f"{frame.lane[n] + 1} from the right"),
    ]
    around = frame.around
    if around is not None:
        leader = int(around.leader[n])
        lines.append(("leader", f"vehicle {frame.vehicle_id[leader]}" if leader >= 0 else "nobody"))
        if leader >= 0:
            lines.append(("gap", f"{around.gap[n]:.1f} m"))
            moves = frame.speed[n] > 0.5
            lines.append(("time headway", f"{around.gap[n] / frame.speed[n]:.2f} s" if moves else "stands"))
    ago = frame.time - frame.changed[n]
    side = "left" if frame.side[n] > 0 else "right"
    lines.append(("lane change", f"to the {side}, {ago:.1f} s ago" if math.isfinite(ago) else "none"))
    if len(place) and insight.mean is not None:
        c = int(place[0])
        for i, label in enumerate(insight.labels):
            text = f"{insight.mean[c, i]:+.2f}"
            if insight.deviation is not None:
                text += f" ± {insight.deviation[c, i]:.2f}"
            lines.append((f"policy: {label}", text))
    if len(place):
        lines += [(f"reward: {name}" if name != "reward" else name, f"{x:+.3f}") for name, x in insight.terms.items()]
    gradient = insight.gradient
    if gradient is not None:
        lines.append(("d return / d speed", f"{gradient.speed[n]:+.3g} s/m"))
        if gradient.speed_biased[n]:
            lines.append(("of it by lane changes", f"{gradient.speed_biased[n]:+.3g} s/m"))
    return lines


def draw_inspector(
    surface: pygame.Surface, frame: Frame, slot: int, area: pygame.Rect, unit: float
) -> pygame.Rect | None:
    """A card with the vehicle's lines at the top of ``area``; those that have no room are left out.

    Returns:
        Where the card is; None where not even its first lines have room.
    """
    lines = vehicle_lines(frame, slot)
    room = int((area.height - 40 * unit) // (_LINE * unit))
    if room < 2:
        return None
    lines = lines[:room]
    card = pygame.Rect(area.left, area.top, area.width, round((40 + _LINE * len(lines)) * unit))
    pygame.draw.rect(surface, GROUND, card, border_radius=round(6 * unit))
    left, right = card.left + 10 * unit, card.right - 10 * unit
    place = np.flatnonzero(frame.controlled == slot)
    title = f"vehicle {frame.vehicle_id[slot]}" + (f", controlled {place[0] + 1}" if len(place) else "")
    write(surface, title, (left, card.top + 8 * unit), 22 * unit, ACCENT)
    for i, (name, value) in enumerate(lines):
        y = card.top + (34 + _LINE * i) * unit
        written = write(surface, value, (right, y), 16 * unit, TEXT, "topright")
        clip = surface.get_clip()
        surface.set_clip(
            pygame.Rect(card.left, card.top, max(0, written.left - card.left - round(6 * unit)), card.height)
        )
        write(surface, name, (left, y), 16 * unit, MUTED)
        surface.set_clip(clip)
    return card


def _number(value: float, unit: str, sign: bool = False) -> str:
    if not math.isfinite(value):
        return "not known"
    return f"{value:+.2f} {unit}" if sign else f"{value:.2f} {unit}"
