"""Episodes that come as pictures: a window to play them in, films and stills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pygame

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending, complete_file
from trafficgrad.render.moment import Timed
from trafficgrad.render.player import Player
from trafficgrad.render.record import FORMATS, Progress, frame_times, rounded_rate, write_film
from trafficgrad.render.scene import surface_rgb
from trafficgrad.render.style import GROUND, MUTED, TEXT, Array, write
from trafficgrad.render.window import open_window

_KEYS = "space plays and pauses, arrows step and change the speed, Home begins anew, n another episode, q quits"
_RATE = 60  # pictures per second at most


class PictureSource(Timed, Protocol):
    """An episode that draws itself."""

    def picture(self, time: float, size: tuple[int, int]) -> Array:
        """What it looks like at ``time``, uint8 ``[height, width, 3]``."""

    def caption(self, time: float) -> str:
        """One line about ``time``."""


def draw_picture(source: PictureSource, time: float, size: tuple[int, int], title: str = "") -> pygame.Surface:
    """The picture of a moment with title and caption."""
    surface = pygame.Surface(size)
    pygame.surfarray.blit_array(surface, source.picture(time, size).swapaxes(0, 1))
    unit = size[1] / 720.0
    _band(surface, 0, 44 * unit)
    write(surface, title, (16 * unit, 22 * unit), 24 * unit, TEXT, "midleft")
    write(surface, source.caption(time), (size[0] - 16 * unit, 22 * unit), 20 * unit, MUTED, "midright")
    return surface


def _band(surface: pygame.Surface, top: float, height: float) -> None:
    """A dark stripe on which text can be read."""
    band = pygame.Surface((surface.get_width(), round(height)), pygame.SRCALPHA)
    band.fill((*GROUND, 200))
    surface.blit(band, (0, round(top)))


def film_pictures(
    source: PictureSource,
    path: str | Path,
    *,
    size: tuple[int, int] = (1280, 720),
    fps: float = 25.0,
    time_factor: float = 1.0,
    title: str = "",
    at: float | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a film (``.mp4``, ``.gif``) or a still (``.png``); needs no display.

    Parameters:
        source: what to show. path: the ending chooses the format. size: px. fps: pictures per second.
        time_factor: simulated seconds per second. title: one line. at: s of a still; None: the last moment.
        progress: called with the frames done and their total after each frame.

    Raises:
        TrafficGradError: another ending, an impossible size or rate, no ffmpeg.
    """
    path = Path(path)
    kind = check_ending(path, FORMATS)
    if min(size) < 100:
        raise TrafficGradError(f"a picture of {size[0]}x{size[1]} pixels is too small, expected at least 100x100")
    if kind == ".png":
        import imageio.v3 as imageio

        moment = source.end if at is None else min(max(source.start + at, source.start), source.end)
        with complete_file(path) as partial:
            imageio.imwrite(partial, surface_rgb(draw_picture(source, moment, size, title)))
        return path
    fps = rounded_rate(kind, fps)
    times = frame_times(source, fps, time_factor).tolist()
    write_film(path, lambda time: draw_picture(source, time, size, title), times, size, fps, progress)
    return path


def show_pictures(
    episodes: Iterator[PictureSource], *, title: str = "", size: tuple[int, int] | None = None, time_factor: float = 1.0
) -> None:
    """Open a window and play episodes until it is closed; a line at the bottom tells the keys.

    Parameters:
        episodes: the first is shown, the next ones as they are asked for. title: of the window and the pictures.
        size: px; None: two thirds of the screen. time_factor: simulated seconds per second at the start.

    Raises:
        TrafficGradError: no window can be opened.
    """
    source = next(episodes)
    player = Player(source, time_factor)
    window = open_window(size, 0, title, "write a film to a file instead")
    try:
        pygame.key.set_repeat(350, 60)
        clock = pygame.time.Clock()
        while True:
            for event in pygame.event.get():
                if event.type == pygame.QUIT:
                    return
                if event.type == pygame.KEYDOWN:
                    if event.key in (pygame.K_q, pygame.K_ESCAPE):
                        return
                    if event.key == pygame.K_n:
                        source = next(episodes, source)
                        player = Player(source, player.factor)
                    _obey(player, event.key)
            shown = window.get_size()
            caption = f"{title}, {player.factor:g} x" if player.factor != 1.0 else title
            window.blit(draw_picture(source, player.time, shown, caption), (0, 0))
            _band(window, shown[1] * 694 / 720, shown[1] * 26 / 720)
            write(window, _KEYS, (0.5 * shown[0], shown[1] - 12), 15 * shown[1] / 720, MUTED, "midbottom")
            pygame.draw.line(window, TEXT, (0, shown[1] - 3), (round(player.share * shown[0]), shown[1] - 3), 4)
            pygame.display.flip()
            player.advance(clock.tick(_RATE) / 1000.0)
    finally:
        pygame.display.quit()


def _obey(player: Player, key: int) -> None:
    if key == pygame.K_SPACE:
        player.toggle()
    elif key in (pygame.K_LEFT, pygame.K_RIGHT):
        player.step(1 if key == pygame.K_RIGHT else -1)
    elif key in (pygame.K_UP, pygame.K_DOWN):
        player.faster(1 if key == pygame.K_UP else -1)
    elif key == pygame.K_HOME:
        player.go_to(player.source.start)
