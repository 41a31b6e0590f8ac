"""What may be drawn over or under the vehicles, each by itself: lane changes, leaders, trails, gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pygame

from trafficgrad.render.history import History
from trafficgrad.render.moment import MANY, Frame
from trafficgrad.render.place import Place
from trafficgrad.render.raster import draw_segments
from trafficgrad.render.style import ACCENT, ASPHALT, BACKGROUND, Array, Colour

CHANGE_SHOWN = 3.0  # s that a lane change stays marked
TRAIL_SECONDS = 4.0
_MARK: Colour = (255, 179, 92)
_FAR = 60.0  # m of a gap, beyond which a leader hardly counts
_LINK: Colour = (150, 160, 176)
_GOOD: Colour = (96, 176, 255)  # more of it would have raised the return ...
_BAD: Colour = (255, 146, 72)  # ... or lowered it
_LEAST = 0.02  # of the largest slope, from which on one is drawn
_LONGEST = 46.0  # px of an arrow of the strongest slope, at 720 lines
_WIDEST = 15.0  # px of a halo of the strongest slope


@dataclass(frozen=True)
class Canvas:
    """What an overlay draws on, and where the vehicles are on it."""

    surface: pygame.Surface
    places: list[Place]
    fill: Array  # uint8 [N, 3], the vehicles' colours
    unit: float  # px of a design pixel
    selected: int | None  # slot


class Overlay(ABC):
    """One thing to show. ``below``: under the vehicles."""

    name: ClassVar[str]
    below: ClassVar[bool] = False

    @abstractmethod
    def draw(self, canvas: Canvas, frame: Frame) -> None:
        """Draw what belongs to ``frame``; the surface's clip is set and given back."""

    def legend(self, frame: Frame) -> list[tuple[Colour, str]]:
        """Colours and what they mean, for the panel; here: the drawing speaks for itself."""
        return []


class LaneChanges(Overlay):
    """A chevron beside everybody who changed lane within the last seconds, on the side of the lane left; it fades."""

    name = "lane changes"

    def draw(self, canvas: Canvas, frame: Frame) -> None:
        """See the class."""
        with np.errstate(invalid="ignore"):
            age = frame.time - frame.changed
            fresh = frame.active & (age >= 0) & (age < CHANGE_SHOWN)
        for place in canvas.places:
            canvas.surface.set_clip(place.clip)
            for n in np.flatnonzero(fresh & place.seen):
                size = min(4.5 * canvas.unit, max(2.0, 0.8 * float(place.size[n, 0])))
                ahead, side = place.direction[n], float(frame.side[n])
                left = np.array([ahead[1], -ahead[0]])  # on the screen, y down
                tip = place.centre[n] - side * left * (place.size[n, 1] / 2 + 2.5 * canvas.unit)
                back = tip - side * left * size
                colour = _mix(_MARK, BACKGROUND, float(age[n]) / CHANGE_SHOWN)
                pygame.draw.aalines(canvas.surface, colour, False, [back + ahead * size, tip, back - ahead * size])
                pygame.draw.lines(canvas.surface, colour, False, [back + ahead * size, tip, back - ahead * size], 2)
        canvas.surface.set_clip(None)


class LeaderLinks(Overlay):
    """A line from every vehicle to the one that it follows, unless that is far ahead; the selected one's is bright."""

    name = "leaders"
    below = True

    def draw(self, canvas: Canvas, frame: Frame) -> None:
        """See the class."""
        if frame.around is None:
            return
        leader = frame.around.leader
        has = frame.active & (leader >= 0)
        close = has & (frame.around.gap < _FAR)
        for place in canvas.places:
            if (place.seen & close).sum() > MANY and canvas.selected is None:
                continue
            canvas.surface.set_clip(place.clip)
            front, rear = place.front, place.rear
            ends = rear[np.maximum(leader, 0)]
            # On a closed road that is drawn straight the leader may be at the other end: nothing links there.
            near = (ends - front)[:, 0] > -place.size[:, 0] if place.straight else np.ones(len(ends), dtype=bool)
            rows = np.flatnonzero(close & place.seen & near)
            rows = rows if len(rows) <= MANY else rows[:0]
            colours = np.broadcast_to(np.array(_LINK), (len(rows), 3))
            draw_segments(canvas.surface, front[rows], ends[rows], colours)
            one = canvas.selected
            if one is not None and has[one] and place.seen[one] and near[one]:
                pygame.draw.line(canvas.surface, ACCENT, front[one], ends[one], max(2, round(2 * canvas.unit)))
        canvas.surface.set_clip(None)


class Trails(Overlay):
    """Where everybody was within the last seconds, in the present colour, ever darker; not where very many are seen."""

    name = "trails"
    below = True

    def __init__(self, history: History, budget: float) -> None:
        """``budget``: s that looking back may take of one picture."""
        self.history, self.budget = history, budget

    def draw(self, canvas: Canvas, frame: Frame) -> None:
        """See the class."""
        # On the road; straightened only where nothing else is shown.
        places = [place for place in canvas.places if not place.straight] or canvas.places
        several = max((int(place.seen.sum()) for place in places), default=0) > MANY
        past = [] if several else self.history.until(frame.time, TRAIL_SECONDS, self.budget)
        for place in places:
            canvas.surface.set_clip(place.clip)
            reach = 0.4 * max(place.clip.size)
            after, later, pieces = place.centre, frame, []
            for one in reversed(past):
                before = place.centres(one)
                same = place.seen & one.active & later.active & (one.vehicle_id == frame.vehicle_id)
                # A vehicle that passes the end of a road drawn straight begins anew.
                rows = np.flatnonzero(same & (np.abs(after - before).max(1) < reach))
                share = 0.2 + 0.8 * (frame.time - one.time) / TRAIL_SECONDS
                shade = canvas.fill[rows] * (1.0 - share) + np.array(ASPHALT) * share
                pieces.append((before[rows], after[rows], shade))
                after, later = before, one
            if pieces:  # the newest over the others
                start, end, shades = (np.concatenate(x[::-1]) for x in zip(*pieces, strict=True))
                draw_segments(canvas.surface, start, end, shades, width=2)
        canvas.surface.set_clip(None)


class GradientMarks(Overlay):
    """Which vehicle mattered: slopes of the window's return by speeds (halo) and by the controlled actions (arrow).

    Blue: more of it would have raised the return; orange: lowered. The halo's width and the arrow's length say how
    much, beside the largest of the window, so one sees when somebody mattered. The part that comes through lane
    changes, which is biased, is dashed: a dashed ring, a dashed arrow.
    """

    name = "gradient"
    below = True

    def legend(self, frame: Frame) -> list[tuple[Colour, str]]:
        """See the base class."""
        gradient = frame.insight.gradient
        if gradient is None:
            return [(_LINK, "gradient: not known yet")]
        span = f"{gradient.start:.1f} to {gradient.end:.1f} s"
        return [
            (_LINK, f"return of {span}, by speeds"),
            (_GOOD, f"faster is better, most {gradient.most_speed:.2g} s/m"),
            (_BAD, "slower is better; arrows: actions"),
            (_LINK, "dashed: through lane changes, biased"),
        ]

    def draw(self, canvas: Canvas, frame: Frame) -> None:
        """See the class."""
        gradient = frame.insight.gradient
        if gradient is None:
            return
        exact = np.nan_to_num(gradient.speed - gradient.speed_biased)
        biased = np.nan_to_num(gradient.speed_biased)
        most = max(gradient.most_speed, 1e-12)
        for place in canvas.places:
            canvas.surface.set_clip(place.clip)
            widest = (_WIDEST if not place.straight else 0.4 * _WIDEST) * canvas.unit
            for n in np.flatnonzero(place.seen & (np.maximum(np.abs(exact), np.abs(biased)) > _LEAST * most)):
                body = 0.5 * float(np.hypot(*place.size[n])) + 1.0
                width = widest * float(np.sqrt(abs(exact[n]) / most))
                if abs(exact[n]) > _LEAST * most:
                    _halo(canvas.surface, place.centre[n], body, width, _GOOD if exact[n] > 0 else _BAD)
                if abs(biased[n]) > _LEAST * most:
                    radius = body + widest * float(np.sqrt(abs(biased[n]) / most))
                    _dashed_ring(canvas.surface, place.centre[n], radius, _GOOD if biased[n] > 0 else _BAD)
        canvas.surface.set_clip(None)
        self._draw_arrows(canvas, frame)

    def _draw_arrows(self, canvas: Canvas, frame: Frame) -> None:
        gradient = frame.insight.gradient
        assert gradient is not None
        biased = np.nan_to_num(gradient.action_biased)
        exact = np.nan_to_num(gradient.action) - biased
        most = max(gradient.most_action, 1e-12)
        for place in canvas.places:
            canvas.surface.set_clip(place.clip)
            for c, n in enumerate(frame.controlled.tolist()):
                if not place.seen[n] or c >= len(exact):
                    continue
                ahead = place.direction[n]
                left = np.array([ahead[1], -ahead[0]])
                for slopes, dashed in ((exact[c], False), (biased[c], True)):
                    # The first action is along the road, the second across it: a lane, or steering, to the left.
                    for slope, way, start in zip(slopes[:2], (ahead, left), place.size[n] / 2, strict=False):
                        length = _LONGEST * canvas.unit * float(slope) / most
                        if abs(length) >= 2.0:
                            sign = np.sign(length)
                            at = place.centre[n] + sign * way * (start + 2) + (3 * left if dashed else 0)
                            _arrow(canvas.surface, at, at + way * length, _GOOD if slope > 0 else _BAD, dashed)
        canvas.surface.set_clip(None)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    r, g, b = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return r, g, b


def _halo(surface: pygame.Surface, centre: Array, inner: float, width: float, colour: Colour) -> None:
    """A soft ring outside ``inner`` px."""
    rings = max(2, round(width))
    for i in range(rings, 0, -1):
        shade = _mix(colour, BACKGROUND, 0.25 + 0.65 * i / rings)
        pygame.draw.circle(surface, shade, centre.tolist(), inner + width * i / rings)


def _dashed_ring(surface: pygame.Surface, centre: Array, radius: float, colour: Colour) -> None:
    count = max(8, 2 * round(radius / 4))
    for i in range(0, count, 2):
        turn = np.linspace(i, i + 1.1, 4) * 2 * np.pi / count
        points = centre + radius * np.stack([np.cos(turn), np.sin(turn)], -1)
        pygame.draw.lines(surface, colour, False, points.tolist(), 2)


def _arrow(surface: pygame.Surface, start: Array, end: Array, colour: Colour, dashed: bool) -> None:
    way = end - start
    size = max(float(np.hypot(*way)), 1e-9)
    along, across = way / size, np.array([-way[1], way[0]]) / size
    head = min(8.0, 0.6 * size)
    neck = end - along * head
    tip = np.stack([end, neck + across * head / 2, neck - across * head / 2]).tolist()
    if not dashed:
        pygame.draw.line(surface, colour, start.tolist(), neck.tolist(), 3)
        pygame.draw.polygon(surface, colour, tip)
        return
    for at in np.arange(0.0, size - head, 7.0):
        piece = (start + along * at, start + along * min(at + 4.0, size - head))
        pygame.draw.line(surface, colour, piece[0].tolist(), piece[1].tolist(), 2)
    pygame.draw.aalines(surface, colour, True, tip)
