"""What is drawn where roads meet: the area that the ways share, who gives way, and the signals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trafficgrad.network import RoadNetwork
from trafficgrad.network.conflicts import CROSSING, MERGE
from trafficgrad.network.connections import curve
from trafficgrad.render.layout import RoadLayout, along_line, directions, lengths_along
from trafficgrad.render.style import Array

PERMISSIVE = "ryg"  # letters of signals, the most permissive last; G counts as g: both look green
SIGNAL, STOP, YIELD = "signal", "stop", "yield"
_KERB = 0.5  # m between corners of roads from which on a kerb goes from one to the other


@dataclass(frozen=True)
class Junctions:
    """Marks at the ends of lanes.

    Attributes:
        crossing: somewhere ways cross each other.
        lines: lane -> what stands at its end: ``signal``, ``stop``, or ``yield`` where all that leave it give way.
        heads: lane -> (signal, letter) of each way that leaves it by signal.
    """

    crossing: bool
    lines: dict[int, str]
    heads: dict[int, tuple[tuple[int, int], ...]]

    @classmethod
    def of(cls, layout: RoadLayout) -> Junctions:
        """Read a network's rules."""
        if not layout.is_junction.any():
            return cls(False, {}, {})
        tables = layout.network.tables(torch.float64, "cpu").junctions
        foe, rank = tables.foe.numpy(), tables.rank.numpy()
        meets = (foe >= 0) & np.isin(tables.kind.numpy(), (CROSSING, MERGE))
        # Of equals the first to come goes first: each of them has to look.
        gives_way = (meets & (rank[foe] >= rank[:, None])).any(1)
        signal, letter, stop = tables.signal.numpy(), tables.signal_index.numpy(), tables.stop.numpy()
        lines: dict[int, str] = {}
        heads: dict[int, tuple[tuple[int, int], ...]] = {}
        for lane in np.flatnonzero(~layout.is_junction).tolist():
            ways = [way for way in layout.successors[lane] if layout.is_junction[way]]
            lit = tuple((int(signal[way]), int(letter[way])) for way in ways if signal[way] >= 0)
            if lit:
                lines[lane], heads[lane] = SIGNAL, lit
            elif any(stop[way] for way in ways):
                lines[lane] = STOP
            elif ways and all(gives_way[way] for way in ways):
                lines[lane] = YIELD
        return cls(bool(tables.crosses.any()), lines, heads)

    def lights(self, network: RoadNetwork, phase: Array) -> dict[int, str]:
        """Lane -> letter of ``PERMISSIVE`` that its drivers see: that of the most permissive way.

        ``phase`` is int64 [S]; nothing is lit where it is not known.
        """
        if len(phase) != len(network.signals):
            return {}
        states = [signal.states[int(p)].lower() for signal, p in zip(network.signals, phase, strict=True)]
        return {lane: max((states[s][i] for s, i in ways), key=PERMISSIVE.index) for lane, ways in self.heads.items()}


@dataclass(frozen=True)
class _End:
    """Where a road ends at a node: its corners, counter-clockwise around the node, and the direction that leads in."""

    first: Array  # [2] m
    last: Array  # [2] m
    inwards: Array  # [2]


def junction_areas(layout: RoadLayout, scale: float = 1.0) -> tuple[list[Array], list[Array]]:
    """Polygons of the nodes that ways cross and of the ways themselves, and the kerbs beside them, each ``[K, 2]`` m.

    An area reaches from road to road; from corner to corner the kerb is a curve. Streets are ``scale`` times as wide.
    """
    keys, ways = layout.network.edges, np.flatnonzero(layout.is_junction)
    ends: dict[object, list[_End]] = {keys[layout.edge[layout.origin[way]]][1]: [] for way in ways}
    for e, (u, v, _) in enumerate(keys):
        if not (u in ends or v in ends):
            continue
        right, left = layout.borders(e, scale)
        line = layout.lines[layout.lanes_of[e][0]]
        if v in ends:
            ends[v].append(_End(left[-1], right[-1], directions(line[-2:])[0]))
        if u in ends:
            ends[u].append(_End(right[0], left[0], -directions(line[:2])[0]))
    areas, kerbs = [], []
    for around in ends.values():
        outline, sides = _outline(around)
        areas.append(outline)
        kerbs += sides
    for way in ways.tolist():
        half = layout.width[way] / 2
        areas.append(np.concatenate([layout.beside(way, -half, scale), layout.beside(way, half, scale)[::-1]]))
    return areas, kerbs


def _outline(ends: list[_End]) -> tuple[Array, list[Array]]:
    """Outline of the area between the ends of roads, and those parts of it that lie between two roads."""
    centre = np.mean([(end.first + end.last) / 2 for end in ends], axis=0)

    def angle(end: _End) -> float:
        x, y = (end.first + end.last) / 2 - centre
        return float(np.arctan2(y, x))

    outline: list[Array] = []
    kerbs = []
    ordered = sorted(ends, key=angle)
    for end, following in zip(ordered, [*ordered[1:], ordered[0]], strict=True):
        corner = following.first
        outline += [end.first, end.last]
        if float(np.hypot(*(corner - end.last))) > _KERB:
            kerb = curve(np.stack([end.last - end.inwards, end.last]), np.stack([corner, corner - following.inwards]))
            outline += list(kerb[1:-1])
            kerbs.append(kerb)
    return np.array(outline), kerbs


def crossbar(layout: RoadLayout, lane: int, scale: float, back: tuple[float, float], side: float = 1.0) -> Array:
    """A bar across a lane, from ``back[0]`` to ``back[1]`` m before its end and ``side`` of it wide: 4 corners, m."""
    corners = []
    for half, places in ((-side / 2, back), (side / 2, back[::-1])):
        line = layout.beside(lane, half * float(layout.width[lane]), scale)
        size = max(float(lengths_along(line)[-1]), 1e-6)
        corners.append(along_line(line, [max(1.0 - place / size, 0.0) for place in places]))
    return np.concatenate(corners)


def teeth(bar: Array) -> list[Array]:
    """A bar (4 corners) cut into three pieces with gaps between."""
    a, b, c, d = bar
    at = [(0.08, 0.28), (0.4, 0.6), (0.72, 0.92)]
    return [np.stack([a + s * (d - a), b + s * (c - b), b + t * (c - b), a + t * (d - a)]) for s, t in at]
