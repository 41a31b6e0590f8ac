"""A window to look at traffic, where there is a screen."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import pygame

from trafficgrad.errors import TrafficGradError
from trafficgrad.render.frames import FrameSource
from trafficgrad.render.scene import MIN_SIZE, Scene

HELP = "space: play or pause    left, right: step    up, down: faster, slower    home: restart    q: quit"
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_RATE = 60  # pictures per second at most
_NO_SCREEN = ("dummy", "offscreen")  # SDL drivers that draw for nobody


def can_open_window() -> bool:
    """Whether there is a screen to open a window on; judged by the environment, nothing is opened."""
    driver = os.environ.get("SDL_VIDEODRIVER", "")
    if driver:
        return driver not in _NO_SCREEN
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@dataclass
class Player:
    """Where playing stands: moved on by the clock, steered by keys."""

    source: FrameSource
    factor: float = 1.0  # simulated seconds per second
    playing: bool = True
    time: float = float("nan")  # s

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf"):
            raise TrafficGradError(f"time_factor must be a number > 0, got {self.factor}")
        self.time = self.source.start

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` of real time pass; playing stops at the end."""
        if self.playing:
            self._go_to(self.time + seconds * self.factor)
            self.playing = self.time < self.source.end

    def press(self, key: int) -> bool:
        """Obey a key; False for those that close the window."""
        if key in (pygame.K_q, pygame.K_ESCAPE):
            return False
        if key == pygame.K_SPACE:
            if not self.playing and self.time >= self.source.end:
                self.time = self.source.start
            self.playing = not self.playing
        elif key in (pygame.K_LEFT, pygame.K_RIGHT):
            self.playing = False
            self._go_to(self.time + (self.source.step if key == pygame.K_RIGHT else -self.source.step))
        elif key == pygame.K_UP:
            self.factor = min((f for f in FACTORS if f > self.factor), default=self.factor)
        elif key == pygame.K_DOWN:
            self.factor = max((f for f in FACTORS if f < self.factor), default=self.factor)
        elif key == pygame.K_HOME:
            self.time = self.source.start
        return True

    def _go_to(self, time: float) -> None:
        self.time = min(max(time, self.source.start), self.source.end)

    @property
    def status(self) -> str:
        """What the window's last line says."""
        return f"{'playing' if self.playing else 'paused'}, {self.factor:g} x real time    {HELP}"


def show(
    source: FrameSource, *, title: str = "", size: tuple[int, int] = (1280, 720), time_factor: float = 1.0
) -> None:
    """Open a window and play ``source`` until it is closed. Keys are named in the window's last line.

    Args:
        source: what to show.
        title: of the window and of the picture.
        size: of the window in px; it can be resized.
        time_factor: simulated seconds per second at the start.

    Raises:
        TrafficGradError: no window can be opened.
    """
    player = Player(source, time_factor)
    # Only the display is started: pygame.init() would ask for a sound card too, which a server has not.
    try:
        pygame.display.init()
        window = pygame.display.set_mode(size, pygame.RESIZABLE)
    except pygame.error as error:
        pygame.display.quit()
        raise TrafficGradError(f"no window can be opened ({error}): write a film to a file instead") from error
    try:
        pygame.display.set_caption(title or "trafficgrad")
        scene = Scene(source.network, size, max_speed=source.max_speed, title=title, footer=True)
        clock = pygame.time.Clock()
        while all(_obey(event, player) for event in pygame.event.get()):
            window = pygame.display.get_surface() or window
            wanted = (max(window.get_width(), MIN_SIZE[0]), max(window.get_height(), MIN_SIZE[1]))
            if wanted != scene.size:
                scene = Scene(source.network, wanted, max_speed=source.max_speed, title=title, footer=True)
            window.blit(scene.draw(source.frame(player.time), footer=player.status), (0, 0))
            pygame.display.flip()
            player.advance(clock.tick(_RATE) / 1000.0)
    finally:
        pygame.display.quit()


def _obey(event: pygame.event.Event, player: Player) -> bool:
    if event.type == pygame.QUIT:
        return False
    return player.press(event.key) if event.type == pygame.KEYDOWN else True
