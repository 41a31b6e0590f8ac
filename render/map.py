"""A map of a road network: who may drive where, and who gives way to whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending, complete_file
from trafficgrad.network import RoadNetwork
from trafficgrad.render.camera import Camera
from trafficgrad.render.figures import FORMATS, INK
from trafficgrad.render.junctions import PERMISSIVE, SIGNAL, STOP, YIELD, Junctions, crossbar, junction_areas, teeth
from trafficgrad.render.layout import RoadLayout, along_line, directions, left_of, lengths_along
from trafficgrad.render.style import nice_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROAD, _AREA, _MARKING, _WAY = "#c3c9d2", "#b3bac5", "#ffffff", "#6d7784"
_LIGHTS = ("#d62728", "#eaa000", "#1f9d4d")  # as PERMISSIVE
_DPI = 150
_MARGIN = 40.0  # px around the roads; the scale bar stands in it
_SMALLEST = 200  # px
_ARROWS = 130.0  # px from one arrow of a lane to the next
_WIDE = 3.0  # px of a lane, from which on markings, arrows of each lane and ways across nodes can be seen
_LETTER = 12.0  # px, of an edge's name


def draw_network(
    network: RoadNetwork,
    path: str | Path,
    *,
    size: tuple[int, int] = (1600, 1200),
    labels: bool = False,
    title: str = "",
) -> Path:
    """Draw a network to scale: lanes with their directions, ways across nodes, stop lines, signals, a scale bar.

    A solid bar at the end of a lane says stop, a broken one give way, a coloured one is a signal in its first phase: it
    has the colour of the most permissive way that leaves the lane.

    Args:
        network: what to draw.
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all.
        size: width and height in px, at 150 px an inch.
        labels: write the names of the edges on those that are long enough; an edge without one is called from -> to.
        title: one line above the map.

    Returns:
        The path written.

    Raises:
        TrafficGradError: another ending, or a size that nothing can be drawn with.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    if min(size) < _SMALLEST:
        raise TrafficGradError(f"a map of {size[0]}x{size[1]} pixels is too small; expected at least {_SMALLEST} each")
    from matplotlib.figure import Figure

    layout = RoadLayout.of(network)
    junctions = Junctions.of(layout)
    points = np.concatenate(layout.lines)
    reach = float(layout.half_width.max())
    camera = Camera.fit(
        points.min(0) - reach,
        points.max(0) + reach,
        (_MARGIN, _MARGIN, size[0] - 2 * _MARGIN, size[1] - 2 * _MARGIN),
    )
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    lower, upper = camera.to_world(np.array([[0.0, size[1]], [size[0], 0.0]]))
    axes.set_xlim(lower[0], upper[0])
    axes.set_ylim(lower[1], upper[1])
    _draw_surface(axes, layout, camera.scale)
    if camera.scale * float(layout.width.min()) >= _WIDE:
        _draw_markings(axes, layout)
    _draw_arrows(axes, layout, camera.scale)
    _draw_stop_lines(axes, layout, junctions, camera.scale)
    if labels:
        _draw_names(axes, layout, camera.scale)
    _draw_scale_bar(axes, camera, size)
    if title:
        left, top = _MARGIN / size[0], 1.0 - 0.3 * _MARGIN / size[1]
        axes.text(left, top, title, transform=axes.transAxes, fontsize=11, fontweight="bold", color=INK, va="top")
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=_DPI)
    return path


def _draw_surface(axes: Axes, layout: RoadLayout, scale: float) -> None:
    """Roads and nodes; the outline of what would be a thread is thick enough to be seen."""
    from matplotlib.collections import PolyCollection

    thread = max(0.0, 1.5 - scale * float(layout.width.min()))  # px that are missing
    roads = [
        np.concatenate([right, left[::-1]]) for right, left in map(layout.borders, range(len(layout.network.edges)))
    ]
    for polygons, colour, order in ((roads, _ROAD, 1), (junction_areas(layout)[0], _AREA, 2)):
        width = (0.3 + thread) * 72 / _DPI
        axes.add_collection(
            PolyCollection(polygons, facecolors=colour, edgecolors=colour, linewidths=width, zorder=order)
        )


def _draw_markings(axes: Axes, layout: RoadLayout) -> None:
    """Borders of lanes and of directions, and the ways across nodes."""
    from matplotlib.collections import LineCollection

    edges = range(len(layout.network.edges))
    between = [layout.beside(a, layout.width[a] / 2) for e in edges for a in layout.lanes_of[e][:-1]]
    middle = [
        layout.borders(e)[1]
        for e in edges
        if np.isclose(layout.axis[layout.lanes_of[e][-1]], -layout.width[layout.lanes_of[e][-1]] / 2)
    ]
    ways = [layout.lines[way] for way in np.flatnonzero(layout.is_junction)]
    axes.add_collection(LineCollection(between, colors=_MARKING, linewidths=0.7, linestyles=(0, (6, 6)), zorder=3))
    axes.add_collection(LineCollection(middle, colors=_MARKING, linewidths=0.9, zorder=3))
    axes.add_collection(LineCollection(ways, colors=_WAY, linewidths=0.5, zorder=3))


def _draw_arrows(axes: Axes, layout: RoadLayout, scale: float) -> None:
    """Arrow heads in driving direction, on each lane or, where lanes are threads, on each edge."""
    from matplotlib.collections import PolyCollection

    heads = []
    each = scale * float(layout.width.min()) >= _WIDE
    for e in range(len(layout.network.edges)):
        for lane in layout.lanes_of[e] if each else layout.lanes_of[e][:1]:
            line, half = layout.lines[lane], max(0.2 * float(layout.width[lane]), 1.6 / scale)
            size = float(lengths_along(line)[-1])
            count = max(1, int(size * scale / _ARROWS))
            if size < 6 * half:
                continue
            for place in (np.arange(count) + 0.5) / count * size:
                tail, tip = along_line(line, [(place - 1.5 * half) / size, (place + 1.5 * half) / size])
                aside = half * left_of(directions(np.stack([tail, tip])))[0]
                heads.append(np.stack([tail + aside, tip, tail - aside]))
    axes.add_collection(PolyCollection(heads, facecolors=_WAY, edgecolors="none", zorder=4))


def _draw_stop_lines(axes: Axes, layout: RoadLayout, junctions: Junctions, scale: float) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    lights = junctions.lights(layout.network, np.zeros(len(layout.network.signals), dtype=np.int64))
    bars, colours = [], []
    for lane, kind in junctions.lines.items():
        bar = crossbar(layout, lane, 1.0, (0.0, max(0.8, 2.0 / scale)), 0.9)
        parts = teeth(bar) if kind == YIELD else [bar]
        bars += parts
        colours += [_LIGHTS[PERMISSIVE.index(lights[lane])] if kind == SIGNAL else INK] * len(parts)
    if not bars:
        return
    axes.add_collection(PolyCollection(bars, facecolors=colours, edgecolors=colours, linewidths=0.2, zorder=5))
    kinds = set(junctions.lines.values())
    texts = ((SIGNAL, "signal, in its first phase", _LIGHTS[2]), (STOP, "stop", INK), (YIELD, "give way", "white"))
    handles = [
        Patch(facecolor=c, edgecolor=INK, hatch="|||" if kind == YIELD else "", label=text)
        for kind, text, c in texts
        if kind in kinds
    ]
    axes.legend(
        handles=handles, loc="lower right", ncols=3, frameon=False, fontsize=8, handlelength=1.2, handleheight=0.5
    )


def _draw_names(axes: Axes, layout: RoadLayout, scale: float) -> None:
    """Beside the edges, on the right, never upside down."""
    graph = layout.network.to_graph()
    for e, key in enumerate(layout.network.edges):
        name = graph.edges[key].get("name") or f"{key[0]} → {key[1]}"
        right, _ = layout.borders(e)
        if lengths_along(right)[-1] * scale < 0.6 * _LETTER * len(name):
            continue
        before, middle, after = along_line(right, [0.45, 0.5, 0.55])
        ahead = directions(np.stack([before, after]))[0]
        middle = middle - 0.75 * _LETTER / scale * left_of(ahead)
        upright = (np.degrees(np.arctan2(ahead[1], ahead[0])) + 90.0) % 180.0 - 90.0
        axes.text(
            middle[0], middle[1], name, rotation=upright, rotation_mode="anchor", ha="center", va="center_baseline",
            color=INK, fontsize=_LETTER * 72 / _DPI, zorder=6,
        )  # fmt: skip


def _draw_scale_bar(axes: Axes, camera: Camera, size: tuple[int, int]) -> None:
    length = nice_step(0.3 * size[0] / camera.scale, 2)
    bottom = size[1] - _MARGIN / 2
    start = camera.to_world(np.array([_MARGIN, bottom]))
    axes.plot(
        [start[0], start[0] + length],
        [start[1], start[1]],
        color=INK,
        linewidth=1.2,
        marker="|",
        markersize=5,
        zorder=7,
    )
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    at = camera.to_world(np.array([_MARGIN + 12 + length * camera.scale, bottom]))
    axes.text(at[0], at[1], text, fontsize=8, color=INK, va="center", zorder=7)
