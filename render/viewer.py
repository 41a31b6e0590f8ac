"""Looking at traffic and taking part in it: what keys and mouse do, and what is drawn then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pygame

from trafficgrad.render.charts import Numbers, TimeSpace
from trafficgrad.render.moment import FrameSource
from trafficgrad.render.overlays import GradientMarks, LaneChanges, LeaderLinks, Trails
from trafficgrad.render.player import Player
from trafficgrad.render.stage import Stage, Style
from trafficgrad.render.style import ACCENT, BACKGROUND, FAINT, GROUND, MUTED, TEXT, Point, write

FOOT = 44.0  # px at the bottom for the bar of time and a line of text, at 720 lines
_PREPARING = 0.012  # s of a picture that simulating on may take
_LOOKING_BACK = 0.004  # s of a picture that each overlay and chart may look back
_ZOOM = 1.25  # of one turn of the wheel
_DRAG = 4.0  # px that the mouse may move in a click
_NOTICE = 3.0  # s that a notice stays
_BUTTONS = (1, 2, 3)  # left, middle, right
_ARROWS = (pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN)


@dataclass(frozen=True)
class Wheel:
    """What somebody at the keyboard asks of a vehicle."""

    drive: float = 0.0  # 1 = accelerate as hard as allowed, -1 = brake
    turn: float = 0.0  # 1 = to the left, -1 = to the right


@runtime_checkable
class Drivable(Protocol):
    """A source that is simulated while it is watched. What was simulated can be looked at again, and driven anew."""

    drivers: tuple[str, ...]  # who may drive the controlled vehicles
    driver: str  # who does, from the last choice on
    ready: float  # s, until when it is simulated
    gradients: bool  # whether windows get their gradient

    def prepare(self, time: float, seconds: float) -> None:
        """Simulate on until ``time`` (s) and a little beyond, for at most ``seconds`` of computing or one decision."""
        ...

    def switch(self, driver: str, time: float) -> None:
        """Let ``driver`` drive from ``time`` (s) on: what came after is forgotten."""
        ...

    def steer(self, vehicle: int, wheel: Wheel | None, time: float) -> str:
        """Drive the controlled vehicle (its place among them) by hand from ``time`` on; None gives it back.

        Returns:
            Why that is not possible; empty if it is.
        """
        ...


class Viewer:
    """What the window shows and how it obeys: no window of its own, so it can be tried without one.

    Args:
        source: what to show; one that is :class:`Drivable` can be taken part in.
        size: px. title: in the picture. time_factor: simulated seconds per second at the start.
        folder: where pictures of the window are saved. style: what to show at first.
    """

    def __init__(
        self,
        source: FrameSource,
        size: tuple[int, int] = (1280, 720),
        *,
        title: str = "",
        time_factor: float = 1.0,
        folder: Path | None = None,
        style: Style | None = None,
    ) -> None:
        self.source, self.folder = source, folder or Path()
        self.live: Drivable | None = source if isinstance(source, Drivable) else None
        self.player = Player(source, time_factor)
        self.stage = Stage(source, size, title=title, foot=FOOT, style=style, budget=_LOOKING_BACK)
        self.help = False
        self.wheel: int | None = None  # place of the vehicle that is driven by hand
        self._turned = Wheel()
        self._pressed: Point | None = None
        self._dragged, self._scrubbing = False, False
        self._notice, self._notice_left = "", 0.0
        self.keys = self._bind()
        self._ask_for_gradients()

    @property
    def size(self) -> tuple[int, int]:
        """Px of what is drawn."""
        return self.stage.size

    @property
    def bar(self) -> pygame.Rect:
        """The bar of time, px."""
        u, (width, height) = self.stage.scene.unit, self.size
        return pygame.Rect(round(28 * u), round(height - (FOOT - 8) * u), round(width - 56 * u), round(6 * u))

    def draw(self, surface: pygame.Surface | None = None) -> pygame.Surface:
        """Draw the present picture on a surface of this size, or on a new one, and return it."""
        surface = pygame.Surface(self.size) if surface is None else surface
        self.stage.draw(self.player.time, surface)
        self._draw_foot(surface)
        if self.help:
            self._draw_help(surface)
        return surface

    def advance(self, seconds: float, wheel: Wheel | None = None) -> None:
        """Let ``seconds`` of real time pass; ``wheel`` is what the keyboard asks of the vehicle driven by hand."""
        self._notice_left -= seconds
        if self.live is None:
            self.player.advance(seconds)
            return
        if self.wheel is not None and wheel is not None and wheel != self._turned and self.player.playing:
            self.live.steer(self.wheel, wheel, self.player.time)
            self.stage.forget(self.player.time)
            self._turned = wheel
        self.live.prepare(self.player.time + max(seconds * self.player.factor, self.source.step), _PREPARING)
        if self.player.playing:
            self.player.advance(seconds)
            self.player.time = min(self.player.time, self.live.ready)

    # ------------------------------------------------------------------ how it obeys

    def obey(self, event: pygame.event.Event) -> bool:
        """Follow an event; False for those that close the window."""
        if event.type == pygame.QUIT:
            return False
        if event.type == pygame.KEYDOWN:
            return self.press(event.key, event.mod, event.unicode)
        if event.type == pygame.MOUSEWHEEL:
            self.stage.zoom(_ZOOM**event.y, pygame.mouse.get_pos())
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button in _BUTTONS:
            self._press_at(event.pos, event.button)
        elif event.type == pygame.MOUSEMOTION and self._pressed is not None:
            self._drag_to(event.pos, event.rel)
        elif event.type == pygame.MOUSEBUTTONUP and event.button in _BUTTONS:
            self._release_at(event.pos, event.button)
        return True

    def press(self, key: int, modifiers: int = 0, text: str = "") -> bool:
        """Obey a key; False for those that close the window."""
        if key == pygame.K_ESCAPE and (self.help or self.wheel is not None or self.stage.selected is not None):
            if self.help:
                self.help = False
            elif self.wheel is not None:
                self._leave_wheel()
            else:
                self.select(None)
            return True
        if key in (pygame.K_q, pygame.K_ESCAPE):
            return False
        if text == "?":
            key = pygame.K_h
        if key == pygame.K_TAB and modifiers & pygame.KMOD_SHIFT:
            self._next_controlled(-1)
        elif self.wheel is not None and key in _ARROWS:
            pass  # looked at while they are held down
        elif key in self.keys:
            self.keys[key].act()
        return True

    def select(self, slot: int | None) -> None:
        """Show everything about the vehicle in ``slot``; None: about nobody."""
        if slot is None:
            self._leave_wheel()
        self.stage.select(slot)

    def notice(self, text: str) -> None:
        """Say something in the last line for a while."""
        self._notice, self._notice_left = text, _NOTICE

    def _bind(self) -> dict[int, _Key]:
        """Keys, in the order of the help."""
        p, k, stage = self.player, pygame, self.stage

        def middle() -> Point:
            return stage.scene.area.center

        table = [
            _Key("space", "play, pause", p.toggle, k.K_SPACE),
            _Key("left, right", "one step back, on", lambda: p.step(-1), k.K_LEFT),
            _Key("", "", lambda: p.step(1), k.K_RIGHT),
            _Key("up, down", "faster, slower", lambda: p.faster(1), k.K_UP),
            _Key("", "", lambda: p.faster(-1), k.K_DOWN),
            _Key("Home, End", "to the beginning, to the end", lambda: p.go_to(self.source.start), k.K_HOME),
            _Key("", "", self._to_end, k.K_END),
            _Key("wheel, + -", "zoom", lambda: stage.zoom(_ZOOM, middle()), k.K_PLUS, k.K_EQUALS, k.K_KP_PLUS),
            _Key("", "", lambda: stage.zoom(1 / _ZOOM, middle()), k.K_MINUS, k.K_KP_MINUS),
            _Key("drag", "move the view"),
            _Key("0", "show everything", stage.fit, k.K_0, k.K_KP0),
            _Key("click", "choose a vehicle"),
            _Key("Tab", "next controlled vehicle (Shift: previous)", lambda: self._next_controlled(1), k.K_TAB),
            _Key("F", "follow the chosen vehicle", self._toggle_following, k.K_f),
            _Key("C", "colour: speed, acceleration, headway", stage.next_colouring, k.K_c),
            _Key("1", "lane changes", lambda: stage.toggle(LaneChanges.name), k.K_1),
            _Key("2", "leaders", lambda: stage.toggle(LeaderLinks.name), k.K_2),
            _Key("3", "trails", lambda: stage.toggle(Trails.name), k.K_3),
            _Key("4", "gradient: who mattered", self._toggle_gradient, k.K_4),
            _Key("5", "time and space", lambda: stage.toggle(TimeSpace.name), k.K_5),
            _Key("6", "numbers over time", lambda: stage.toggle(Numbers.name), k.K_6),
            _Key("P", "who drives: policy, human driver, ...", self._next_driver, k.K_p),
            _Key("W", "take the wheel, with the arrow keys", self._take_wheel, k.K_w),
            _Key("S", "save the picture", self._save, k.K_s),
            _Key("H, ?", "this help", self._toggle_help, k.K_h),
            _Key("Esc", "let go of wheel or vehicle, close"),
            _Key("Q", "quit"),
        ]
        self.help_lines = [(key.name, key.text) for key in table if key.name]
        return {code: key for key in table for code in key.codes}

    def _toggle_gradient(self) -> None:
        self.stage.toggle(GradientMarks.name)
        self._ask_for_gradients()

    def _ask_for_gradients(self) -> None:
        wanted = GradientMarks.name in self.stage.shown
        if self.live is not None:
            self.live.gradients = wanted
        elif wanted and self.stage.frame.insight.gradient is None:
            self.notice("this recording holds no gradients: watch a run or a scenario")

    def _toggle_help(self) -> None:
        self.help = not self.help

    def _to_end(self) -> None:
        self.player.go_to(self.source.end if self.live is None else self.live.ready)

    def _next_controlled(self, sign: int) -> None:
        frame, chosen = self.stage.frame, self.stage.selected
        there = [int(n) for n in frame.controlled if frame.active[n]]
        if not there:
            self.notice("nobody here is controlled")
            return
        at = there.index(chosen) + sign if chosen in there else (0 if sign > 0 else -1)
        self.select(there[at % len(there)])

    def _toggle_following(self) -> None:
        if self.stage.selected is None:
            self._next_controlled(1)
        if self.stage.selected is not None:
            self.stage.following = not self.stage.following

    def _next_driver(self) -> None:
        live = self.live
        if live is None or len(live.drivers) < 2:
            self.notice("this recording was driven already" if live is None else f"only {live.driver} can drive here")
            return
        self._leave_wheel()
        following = live.drivers[(live.drivers.index(live.driver) + 1) % len(live.drivers)]
        live.switch(following, self.player.time)
        self.stage.forget(self.player.time)
        self.notice(f"from here on: {following}")

    def _take_wheel(self) -> None:
        if self.wheel is not None:
            self._leave_wheel()
            return
        if self.live is None:
            self.notice("this recording was driven already: watch a run or a scenario to drive")
            return
        controlled = self.stage.frame.controlled.tolist()
        if self.stage.selected not in controlled:
            self._next_controlled(1)
        if self.stage.selected not in controlled:
            return
        place = controlled.index(self.stage.selected)
        why = self.live.steer(place, Wheel(), self.player.time)
        if why:
            self.notice(why)
            return
        self.wheel, self._turned, self.player.playing = place, Wheel(), True
        self.stage.forget(self.player.time)
        self.notice("you drive, with the arrow keys; W or Esc gives the wheel back")

    def _leave_wheel(self) -> None:
        if self.wheel is not None and self.live is not None:
            self.live.steer(self.wheel, None, self.player.time)
            self.stage.forget(self.player.time)
        self.wheel = None

    def _save(self) -> None:
        surface = self.draw()
        title = "".join(c if c.isalnum() else "_" for c in self.stage.title)[:40] or "traffic"
        path = self.folder / f"{title}_{self.player.time:.2f}s.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            pygame.image.save(surface, path)
        except (OSError, pygame.error) as error:
            self.notice(f"not saved: {error}")
        else:
            self.notice(f"saved {path}")

    # ------------------------------------------------------------------ mouse

    def _press_at(self, pixel: Point, button: int) -> None:
        self._pressed, self._dragged = pixel, False
        self._scrubbing = button == 1 and self.bar.inflate(0, 16).collidepoint(pixel)
        if self._scrubbing:
            self._scrub(pixel[0])

    def _drag_to(self, pixel: Point, by: Point) -> None:
        assert self._pressed is not None
        if self._scrubbing:
            self._scrub(pixel[0])
            return
        self._dragged |= bool(np.hypot(pixel[0] - self._pressed[0], pixel[1] - self._pressed[1]) > _DRAG)
        if self._dragged:
            self.stage.move(by)

    def _release_at(self, pixel: Point, button: int) -> None:
        if button == 1 and not self._dragged and not self._scrubbing and self._pressed is not None:
            slot = self.stage.scene.vehicle_at(self.stage.frame, pixel)
            if slot is not None or self.stage.scene.area.collidepoint(pixel):
                self.select(slot)
        self._pressed, self._scrubbing = None, False

    def _scrub(self, x: float) -> None:
        bar, source = self.bar, self.source
        share = min(max((x - bar.left) / bar.width, 0.0), 1.0)
        time = source.start + share * (source.end - source.start)
        self.player.playing = False
        self.player.go_to(time if self.live is None else min(time, self.live.ready))

    # ------------------------------------------------------------------ parts of the picture

    def _draw_foot(self, surface: pygame.Surface) -> None:
        u, bar, source = self.stage.scene.unit, self.bar, self.source
        span = max(source.end - source.start, 1e-9)
        pygame.draw.rect(surface, GROUND, bar, border_radius=bar.height // 2)
        ready = source.end if self.live is None else self.live.ready
        for until, colour in ((ready, FAINT), (self.player.time, TEXT)):
            part = bar.copy()
            part.width = round(bar.width * min(max((until - source.start) / span, 0.0), 1.0))
            if part.width:
                pygame.draw.rect(surface, colour, part, border_radius=bar.height // 2)
        at = (bar.left + bar.width * self.player.share, bar.centery)
        pygame.draw.circle(surface, BACKGROUND, at, 8 * u)
        pygame.draw.circle(surface, TEXT, at, 6 * u)
        state = "playing" if self.player.playing else "paused"
        who = "" if self.live is None else f", {'you drive' if self.wheel is not None else self.live.driver}"
        text = self._notice if self._notice_left > 0 else f"{state}, {self.player.factor:g} x real time{who}"
        y = bar.bottom + 9 * u
        write(surface, text, (bar.left, y), 16 * u, ACCENT if self._notice_left > 0 else MUTED)
        write(surface, "? help", (bar.right, y), 16 * u, FAINT, "topright")

    def _draw_help(self, surface: pygame.Surface) -> None:
        u, rows = self.stage.scene.unit, len(self.help_lines)
        line = min(22 * u, (self.size[1] - 90 * u) / rows)
        card = pygame.Rect(0, 0, round(520 * u), round(rows * line + 64 * u))
        card.center = (self.size[0] // 2, self.size[1] // 2)
        pygame.draw.rect(surface, GROUND, card, border_radius=round(10 * u))
        pygame.draw.rect(surface, FAINT, card, 1, border_radius=round(10 * u))
        write(surface, "keys and mouse", (card.left + 24 * u, card.top + 16 * u), 24 * u, TEXT)
        for i, (name, text) in enumerate(self.help_lines):
            y = card.top + 50 * u + i * line
            write(surface, name, (card.left + 24 * u, y), 17 * u, ACCENT)
            write(surface, text, (card.left + 150 * u, y), 17 * u, TEXT)


class _Key:
    """One line of the help, and the keys that do it."""

    def __init__(self, name: str, text: str, act: Callable[[], object] | None = None, *codes: int) -> None:
        self.name, self.text, self.codes = name, text, codes
        self.act = act or (lambda: None)
