"""What all figures on paper share: ink, formats, the speed colours on white; matplotlib comes in when one is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trafficgrad.files import complete_file
from trafficgrad.render.style import DARKEST, VIRIDIS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

DPI = 150  # of a .png
FORMATS = (".png", ".pdf", ".svg")
INK, GRID = "#30343b", "#d9dce1"
CONTROLLED = "#d7191c"
# Okabe and Ito's colours without their yellow, which a white page swallows; told apart by colour-blind eyes.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")


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


def plain(text: str) -> str:
    """A user's text for matplotlib, which would read what stands between two dollar signs as a formula."""
    return text.replace("$", r"\$")


def head(axes: Axes, title: str) -> None:
    """A figure's title, left above its first panel; none where it is empty."""
    if title:
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold", color=INK)


def name_axes(axes: Axes, right: str, up: str) -> None:
    """Labels and grid of a panel with curves or points."""
    axes.set_xlabel(right)
    axes.set_ylabel(up)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def legend_beside(axes: Axes) -> None:
    """The key to the right of a panel: curves may be anywhere in it."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def save_figure(figure: Figure, path: Path, dpi: int = DPI, palette: bool = False) -> Path:
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
            shrink(partial)
    return path


def shrink(path: Path) -> None:
    """Give a ``.png`` 256 colours, rare ones too: a quarter of the size or less."""
    from PIL import Image

    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    small = whole.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
