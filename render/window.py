"""Windows, where there is a screen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pygame

from trafficgrad.errors import TrafficGradError
from trafficgrad.render.moment import FrameSource
from trafficgrad.render.scene import MIN_SIZE
from trafficgrad.render.stage import Style
from trafficgrad.render.style import Array
from trafficgrad.render.viewer import Viewer, Wheel

_RATE = 60  # pictures per second at most
_NO_SCREEN = ("dummy", "offscreen")  # SDL drivers that draw for nobody


def can_open_window() -> bool:
    """Whether there is a screen to open a window on; judged by the environment, nothing is opened."""
    driver = os.environ.get("SDL_VIDEODRIVER", "")
    if driver:
        return driver not in _NO_SCREEN
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _wheel(keys: pygame.key.ScancodeWrapper) -> Wheel:
    return Wheel(
        float(keys[pygame.K_UP]) - float(keys[pygame.K_DOWN]), float(keys[pygame.K_LEFT]) - float(keys[pygame.K_RIGHT])
    )


def show(
    source: FrameSource,
    *,
    title: str = "",
    size: tuple[int, int] | None = None,
    time_factor: float = 1.0,
    folder: Path | None = None,
    style: Style | None = None,
) -> None:
    """Open a window and play ``source`` until it is closed; ``?`` shows the keys.

    Args:
        source: what to show; one that is :class:`Drivable` can be taken part in.
        title: of the window and of the picture.
        size: of the window in px; it can be resized. None: two thirds of the screen, so that on a dense one everything
            is drawn larger, and sharp.
        time_factor: simulated seconds per second at the start.
        folder: where pictures of the window are saved.
        style: what to show at first.

    Raises:
        TrafficGradError: no window can be opened.
    """
    window = open_window(size, pygame.RESIZABLE, title, "write a film to a file instead")
    try:
        viewer = Viewer(source, window.get_size(), title=title, time_factor=time_factor, folder=folder, style=style)
        pygame.key.set_repeat(350, 60)
        clock = pygame.time.Clock()
        while all([viewer.obey(event) for event in pygame.event.get()]):
            window = pygame.display.get_surface() or window
            if viewer.stage.asked != window.get_size():
                viewer.stage.resize(window.get_size())
            if window.get_size() == viewer.size:
                viewer.draw(window)
            else:  # smaller than can be read: its upper left part
                window.blit(viewer.draw(), (0, 0))
            pygame.display.flip()
            viewer.advance(clock.tick(_RATE) / 1000.0, _wheel(pygame.key.get_pressed()))
    finally:
        pygame.display.quit()


def open_window(size: tuple[int, int] | None, flags: int, title: str, otherwise: str) -> pygame.Surface:
    """A window, or one sentence that ends with what to do ``otherwise``."""
    # Windows enlarges the pictures of programs that do not say that they know about dense screens.
    os.environ.setdefault("SDL_WINDOWS_DPI_AWARENESS", "permonitorv2")
    # Only the display is started: pygame.init() would ask for a sound card too, which a server has not.
    try:
        pygame.display.init()
        window = pygame.display.set_mode(size or _share_of_screen(), flags)
    except pygame.error as error:
        pygame.display.quit()
        raise TrafficGradError(f"no window can be opened ({error}): {otherwise}") from error
    pygame.display.set_caption(title or "trafficgrad")
    return window


def _share_of_screen() -> tuple[int, int]:
    """Two thirds of the height of the first screen, 16 to 9."""
    height = max(2 * pygame.display.get_desktop_sizes()[0][1] // 3, MIN_SIZE[1])
    return 16 * height // 9, height


class PictureWindow:
    """A window for pictures that somebody else makes, such as an environment's; closing it ends nothing.

    Raises:
        TrafficGradError: no window can be opened.
    """

    def __init__(self, size: tuple[int, int], title: str = "") -> None:
        without = 'use render_mode="rgb_array", which needs none'
        self._surface: pygame.Surface | None = open_window(size, 0, title, without)
        self._clock = pygame.time.Clock()

    def show(self, picture: Array, fps: float) -> None:
        """Show a picture, uint8 ``[height, width, 3]``, so that at most ``fps`` come a second."""
        if self._surface is None:
            return
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            self.close()
            return
        pygame.surfarray.blit_array(self._surface, picture.swapaxes(0, 1))
        pygame.display.flip()
        self._clock.tick(fps)

    def close(self) -> None:
        """Close the window."""
        if self._surface is not None:
            pygame.display.quit()
            self._surface = None
