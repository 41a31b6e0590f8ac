"""Films and stills without a display: frames go from a plain pygame surface into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending, complete_file
from trafficgrad.render.frames import FrameSource
from trafficgrad.render.scene import Scene
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

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, an impossible size or rate, no ffmpeg, or a folder that cannot be written.
    """
    path = Path(path)
    kind = check_ending(path, FORMATS)
    if kind == ".png":
        return snapshot(source, path, size=size, title=title)
    if kind == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise TrafficGradError(f"an mp4 needs an even width and height, got {size[0]}x{size[1]}")
    if kind == ".gif":
        fps = 100.0 / max(2, round(100.0 / fps)) if fps > 0 else fps
    times = frame_times(source, fps, time_factor)
    scene = Scene(source.network, size, max_speed=source.max_speed, title=title)
    if kind == ".gif" and len(times) * size[0] * size[1] > _GIF_LIMIT:
        raise TrafficGradError(
            f"a GIF of {len(times)} frames of {size[0]}x{size[1]} would take gigabytes of memory: "
            "write an mp4, or take a smaller size, fewer fps or a larger time_factor"
        )

    def pictures() -> Iterator[Array]:
        for done, time in enumerate(times, start=1):
            yield scene.rgb(source.frame(float(time)))
            if progress is not None:
                progress(done, len(times))

    with complete_file(path) as partial:
        if kind == ".mp4":
            _write_mp4(partial, pictures(), fps)
        else:
            middle = [scene.rgb(source.frame(float(t))) for t in (times[0], times[len(times) // 2], times[-1])]
            _write_gif(partial, pictures(), fps, np.concatenate(middle))
    return path


def snapshot(
    source: FrameSource,
    path: str | Path,
    *,
    time: float | None = None,
    size: tuple[int, int] = (1280, 720),
    title: str = "",
) -> Path:
    """Write one moment (s; default: the last) as a PNG and return its path.

    Raises:
        TrafficGradError: an ending that is not ``.png``, an impossible size, or a folder that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise TrafficGradError(f"a still is written as .png, got {path.name!r}")
    import imageio.v3 as imageio

    picture = Scene(source.network, size, max_speed=source.max_speed, title=title).rgb(
        source.frame(source.end if time is None else time)
    )
    with complete_file(path) as partial:
        imageio.imwrite(partial, picture)
    return path


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
