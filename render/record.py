"""Films and stills without a display: frames go from a plain pygame surface into a file."""

from __future__ import annotations

import base64
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pygame

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending, complete_file
from trafficgrad.render.moment import FrameSource, Timed
from trafficgrad.render.scene import MIN_SIZE, surface_rgb
from trafficgrad.render.stage import Stage, Style
from trafficgrad.render.style import Array

FORMATS = (".mp4", ".gif", ".png")
_AHEAD = 8  # pictures that wait for ffmpeg
_GIF_LIMIT = 1e9  # pixels of all frames together; a GIF is put together in memory

Progress = Callable[[int, int], None]  # frames done, frames in all


def frame_times(source: Timed, fps: float, time_factor: float) -> Array:
    """Simulated times (s) of a film's frames: ``fps`` pictures a second, ``time_factor`` simulated seconds in each.

    Raises:
        TrafficGradError: a rate that is not positive.
    """
    for name, value in (("fps", fps), ("time_factor", time_factor)):
        if not 0 < value < float("inf"):
            raise TrafficGradError(f"{name} must be a number > 0, got {value}")
    step = time_factor / fps
    return source.start + step * np.arange(int((source.end - source.start) / step + 1e-6) + 1)


def record(
    source: FrameSource,
    path: str | Path,
    *,
    size: tuple[int, int] = (1280, 720),
    fps: float = 25.0,
    time_factor: float = 1.0,
    title: str = "",
    progress: Progress | None = None,
    beside: tuple[str, FrameSource] | None = None,
    style: Style | None = None,
) -> Path:
    """Write a film (``.mp4``, ``.gif``) or the last moment as a still (``.png``). Needs no display.

    The file appears under its name only when it is complete.

    Args:
        source: what to show.
        path: the ending chooses the format. Missing folders are made.
        size: width and height in px; even numbers for mp4.
        fps: frames per second; a GIF rounds their distance to hundredths of a second.
        time_factor: simulated seconds per second of film.
        title: one line in the picture.
        progress: called with the frames done and their total after each frame.
        beside: title and source of a second panel to the right, at the same time since its own start; the film is as
            long as the longer of both.
        style: colours, overlays, charts, whom to follow.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, an impossible size or rate, no ffmpeg, or a folder that cannot be written.
    """
    path = Path(path)
    kind = check_ending(path, FORMATS)
    if kind == ".png":
        return snapshot(source, path, size=size, title=title, beside=beside, style=style)
    fps = rounded_rate(kind, fps)
    picture = _Panels(source, size, title, beside, style)
    times = max((frame_times(one, fps, time_factor) for one in picture.sources), key=len)
    write_film(path, picture.draw, (times - times[0]).tolist(), size, fps, progress)
    return path


def rounded_rate(kind: str, fps: float) -> float:
    """The rate that a film of the ending ``kind`` can have: a GIF rounds the distance of pictures to 1/100 s."""
    return 100.0 / max(2, round(100.0 / fps)) if kind == ".gif" and fps > 0 else fps


def write_film(
    path: Path,
    draw: Callable[[float], pygame.Surface],
    times: Sequence[float],
    size: tuple[int, int],
    fps: float,
    progress: Progress | None = None,
) -> None:
    """Write a film (``.mp4``, ``.gif``) of the pictures that ``draw`` makes of ``times``.

    Raises:
        TrafficGradError: an odd size of an mp4, a GIF that does not fit into memory, no ffmpeg.
    """
    kind = path.suffix.lower()
    if kind == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise TrafficGradError(f"an mp4 needs an even width and height, got {size[0]}x{size[1]}")
    if kind == ".gif" and len(times) * size[0] * size[1] > _GIF_LIMIT:
        raise TrafficGradError(
            f"a GIF of {len(times)} frames of {size[0]}x{size[1]} would take gigabytes of memory: "
            "write an mp4, or take a smaller size, fewer fps or a larger time_factor"
        )

    def surfaces() -> Iterator[pygame.Surface]:
        for done, time in enumerate(times, start=1):
            yield draw(time)
            if progress is not None:
                progress(done, len(times))

    with complete_file(path) as partial:
        if kind == ".mp4":
            _write_mp4(partial, surfaces(), size, fps)
        else:
            some = [surface_rgb(draw(times[i])) for i in (0, len(times) // 2, -1)]
            _write_gif(partial, (surface_rgb(x) for x in surfaces()), fps, np.concatenate(some))


def snapshot(
    source: FrameSource,
    path: str | Path,
    *,
    time: float | None = None,
    size: tuple[int, int] = (1280, 720),
    title: str = "",
    beside: tuple[str, FrameSource] | None = None,
    style: Style | None = None,
) -> Path:
    """Write one moment (s; default: the last) as a PNG and return its path.

    Raises:
        TrafficGradError: an ending that is not ``.png``, an impossible size, or a folder that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise TrafficGradError(f"a still is written as .png, got {path.name!r}")
    import imageio.v3 as imageio

    elapsed = (source.end if time is None else time) - source.start
    picture = surface_rgb(_Panels(source, size, title, beside, style).draw(elapsed))
    with complete_file(path) as partial:
        imageio.imwrite(partial, picture)
    return path


class _Panels:
    """One source, or two side by side in the same clock."""

    def __init__(
        self,
        source: FrameSource,
        size: tuple[int, int],
        title: str,
        beside: tuple[str, FrameSource] | None,
        style: Style | None,
    ) -> None:
        parts = [(title, source)] if beside is None else [(title, source), beside]
        width = size[0] // len(parts)
        if width < MIN_SIZE[0] or size[1] < MIN_SIZE[1]:
            raise TrafficGradError(
                f"a picture of {size[0]}x{size[1]} pixels is too small to read; "
                f"expected at least {MIN_SIZE[0] * len(parts)}x{MIN_SIZE[1]}"
            )
        self.sources = [one for _, one in parts]
        widths = (size[0] - width * (len(parts) - 1), width)
        self._stages = [
            Stage(one, (w, size[1]), title=name, style=style) for (name, one), w in zip(parts, widths, strict=False)
        ]
        self._surface = pygame.Surface(size)

    def draw(self, elapsed: float) -> pygame.Surface:
        """The picture ``elapsed`` s after the sources' starts, on the same surface each time."""
        left = 0
        for stage in self._stages:
            part = self._surface
            if len(self._stages) > 1:
                part = self._surface.subsurface((left, 0), stage.size)
            stage.draw(stage.source.start + elapsed, part)
            left += stage.size[0]
        return self._surface


def _write_mp4(path: Path, surfaces: Iterator[pygame.Surface], size: tuple[int, int], fps: float) -> None:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise TrafficGradError(
            "an mp4 needs ffmpeg, which was not found: pip install imageio-ffmpeg, or write a .gif"
        ) from error
    film = imageio_ffmpeg.write_frames(
        str(path),
        size,
        pix_fmt_in="bgr0",  # a surface's own order of bytes: nothing is turned around here
        fps=fps,
        quality=6,
        codec="libx264",
        macro_block_size=2,
        ffmpeg_log_level="error",
        # "veryfast" halves the time on two cores for a tenth more bytes; "faststart" lets browsers play while loading.
        output_params=["-preset", "veryfast", "-movflags", "+faststart"],
    )
    film.send(None)
    try:
        with ThreadPoolExecutor(1, "ffmpeg") as writer:
            # The next pictures are drawn while ffmpeg takes the last ones.
            waiting: deque[Future[None]] = deque()
            for surface in surfaces:
                waiting.append(writer.submit(film.send, _bytes(surface)))
                if len(waiting) > _AHEAD:
                    waiting.popleft().result()
            for written in waiting:
                written.result()
    finally:
        film.close()


def _bytes(surface: pygame.Surface) -> bytes:
    """A surface's pixels as blue, green, red, nothing."""
    if surface.get_shifts()[:3] == (16, 8, 0) and surface.get_pitch() == 4 * surface.get_width():
        return bytes(surface.get_buffer().raw)
    return pygame.image.tobytes(surface, "BGRA")


def _write_gif(path: Path, pictures: Iterator[Array], fps: float, sample: Array) -> None:
    # One palette for all frames, taken from some of them: a palette a frame costs seven times the time and makes still
    # areas flicker. The colour bar is in every sample, so all speed colours are in the palette.
    from PIL import Image

    palette = Image.fromarray(sample).quantize(256)
    images = (Image.fromarray(p).quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures)
    next(images).save(path, format="GIF", save_all=True, append_images=images, duration=round(1000.0 / fps), loop=0)


class NotebookFilm:
    """A film that a notebook shows as the value of a cell; see :func:`notebook_film`."""

    def __init__(self, video: bytes, size: tuple[int, int]) -> None:
        self.video, self.size = video, size

    def _repr_html_(self) -> str:
        """What Jupyter asks for: the film itself, so the notebook needs no file beside it."""
        data = base64.b64encode(self.video).decode("ascii")
        width, height = self.size
        return (
            f'<video controls loop width="{width}" height="{height}" style="max-width: 100%; height: auto" '
            f'src="data:video/mp4;base64,{data}"></video>'
        )

    def __repr__(self) -> str:
        return f"NotebookFilm({len(self.video):,} bytes, {self.size[0]}x{self.size[1]})"


def notebook_film(
    source: FrameSource,
    *,
    size: tuple[int, int] = (960, 540),
    fps: float = 25.0,
    time_factor: float = 4.0,
    title: str = "",
    style: Style | None = None,
) -> NotebookFilm:
    """A film for a notebook: make it the last value of a cell. Arguments are those of :func:`record`."""
    with tempfile.TemporaryDirectory() as folder:
        path = record(
            source, Path(folder) / "film.mp4", size=size, fps=fps, time_factor=time_factor, title=title, style=style
        )
        return NotebookFilm(path.read_bytes(), size)
