"""Films and stills without a display: frames go from a plain pygame surface into a file."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending, complete_file
from trafficgrad.render.moment import FrameSource
from trafficgrad.render.scene import MIN_SIZE
from trafficgrad.render.stage import Stage, Style
from trafficgrad.render.style import Array

FORMATS = (".mp4", ".gif", ".png")
_GIF_LIMIT = 1e9  # pixels of all frames together; a GIF is put together in memory

Progress = Callable[[int, int], None]  # frames done, frames in all


def frame_times(source: FrameSource, fps: float, time_factor: float) -> Array:
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
    if kind == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise TrafficGradError(f"an mp4 needs an even width and height, got {size[0]}x{size[1]}")
    if kind == ".gif":
        fps = 100.0 / max(2, round(100.0 / fps)) if fps > 0 else fps
    picture = _Panels(source, size, title, beside, style)
    times = max((frame_times(one, fps, time_factor) for one in picture.sources), key=len)
    if kind == ".gif" and len(times) * size[0] * size[1] > _GIF_LIMIT:
        raise TrafficGradError(
            f"a GIF of {len(times)} frames of {size[0]}x{size[1]} would take gigabytes of memory: "
            "write an mp4, or take a smaller size, fewer fps or a larger time_factor"
        )

    def pictures() -> Iterator[Array]:
        for done, time in enumerate(times - times[0] + source.start, start=1):
            yield picture.rgb(float(time) - source.start)
            if progress is not None:
                progress(done, len(times))

    with complete_file(path) as partial:
        if kind == ".mp4":
            _write_mp4(partial, pictures(), fps)
        else:
            middle = [
                picture.rgb(float(t) - source.start) for t in times[[0, len(times) // 2, -1]] - times[0] + source.start
            ]
            _write_gif(partial, pictures(), fps, np.concatenate(middle))
    return path


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

    picture = _Panels(source, size, title, beside, style).rgb((source.end if time is None else time) - source.start)
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

    def rgb(self, elapsed: float) -> Array:
        """The picture ``elapsed`` s after the sources' starts."""
        return np.concatenate([stage.rgb(stage.source.start + elapsed) for stage in self._stages], axis=1)


def _write_mp4(path: Path, pictures: Iterator[Array], fps: float) -> None:
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise TrafficGradError(
            "an mp4 needs ffmpeg, which was not found: pip install imageio-ffmpeg, or write a .gif"
        ) from error
    # "veryfast" halves the time on two cores for a tenth more bytes; "faststart" lets browsers play while loading.
    options = ["-preset", "veryfast", "-movflags", "+faststart"]
    film: Any
    with imageio.get_writer(
        path,
        format="FFMPEG",
        fps=fps,
        codec="libx264",
        quality=6,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=options,
    ) as film:
        for picture in pictures:
            film.append_data(picture)


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
