"""What all figures on paper share: ink, formats, the speed colours on white; matplotlib comes in when one is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trafficgrad.files import complete_file
from trafficgrad.render.style import DARKEST, VIRIDIS

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
INK, GRID = "#30343b", "#d9dce1"


def speed_map() -> Colormap:
    """The film's speed colours, a little darker at the bright end: here the page is white."""
    from matplotlib.colors import LinearSegmentedColormap

    table = np.asarray(VIRIDIS) / 255.0
    at = np.linspace(DARKEST * 0.2, 0.94, 64)
    stops = np.linspace(0.0, 1.0, len(table))
    return LinearSegmentedColormap.from_list(
        "speed", np.stack([np.interp(at, stops, table[:, i]) for i in range(3)], -1)
    )


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own (inches), without pyplot: nothing global changes and no display is asked for."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_figure(figure: Figure, path: Path, dpi: int = 150, palette: bool = False) -> Path:
    """Write it completely or not at all, its axes in the common style; returns the path.

    Args:
        palette: as ``.png`` with 256 colours, a quarter of the size, for figures that documents carry.
    """
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=dpi)
        if palette and path.suffix.lower() == ".png":
            from PIL import Image

            with Image.open(partial) as picture:
                small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            small.save(partial, optimize=True)
    return path
