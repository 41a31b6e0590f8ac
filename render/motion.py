"""How recorded vehicles move: which lanes lie between two states, and what lies behind each vehicle."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.style import Array

_FASTEST = 100.0  # m/s; what moves on faster is another vehicle, or the same one put elsewhere
_MOST_HOPS = 8  # lanes in a row, of one step and behind a vehicle


class Motion:
    """One world's vehicles over ``K`` states.

    A vehicle's *trail* is the row of lanes behind it: the lane on which it came to its edge, then those before. A point
    of its body is found by walking back from the front bumper; what lies before its edge is on the trail. Between two
    states it moves on the trail that it has afterwards, or backwards on the one it had before.

    Attributes:
        lane, position, lateral: ``[K, N]``, where the front bumpers are at the states.
        continues: ``[K-1, N]`` bool, the same vehicle, on its way. advance: ``[K-1, N]`` m that it moves.
        shift: ``[K-1, N]`` m to the left, from lane to lane. changes: bool ``[K-1, N]``, at once, as lanes are changed.
    """

    def __init__(
        self,
        layout: RoadLayout,
        lane: Array,
        position: Array,
        lateral: Array,
        previous: Array,
        same: Array,
        active: Array,
        step: float,
    ) -> None:
        """Follow vehicles; ``same`` [K-1, N]: a slot holds the same one after a step, which takes ``step`` s."""
        self.layout, self.lane, self.position, self.lateral = layout, lane, position, lateral
        self._limit = _FASTEST * step + 1.0
        self._ways = _Ways(layout, self._limit)
        edge = layout.edge[lane]
        onto_itself = np.array(
            [
                any(layout.edge[s] == e for one in m for s in layout.successors[one])
                for e, m in enumerate(layout.lanes_of)
            ]
        )
        self.advance = position[1:] - position[:-1]
        self.shift = layout.offset[lane[1:]] - layout.offset[lane[:-1]] + lateral[1:] - lateral[:-1]
        here = edge[1:] == edge[:-1]
        laps = here & onto_itself[edge[1:]] & (2 * np.abs(self.advance) > layout.edge_length[edge[1:]])
        self.continues = same & here & ~laps & (np.abs(self.advance) <= self._limit)
        leaves = same & (~here | laps)
        self._trails: list[tuple[int, ...]] = []
        self._row: dict[tuple[int, ...], int] = {}
        self._lay_trails(previous, active, leaves)
        self._table = np.array(self._trails, dtype=np.int64).reshape(-1, _MOST_HOPS)
        jump = np.abs(self.shift) > 0.6 * layout.width[lane[1:]]
        self.changes = self.continues & (lane[1:] != lane[:-1]) & jump

    def _lay_trails(self, previous: Array, active: Array, leaves: Array) -> None:
        """Follow everybody over edge ends; the trail stays what it is until the next one."""
        states, slots = self.lane.shape
        trail = np.zeros((states, slots), dtype=np.int32)
        known = np.zeros((states, slots), dtype=bool)
        known[0] = True
        known[1:] = leaves | (active[1:] & ~self.continues)
        now = [0] * slots
        for k, n in np.argwhere(known):
            before = int(previous[k, n])
            way = self._cross(k - 1, n, before) if k > 0 and leaves[k - 1, n] else None
            if way is None:
                now[n] = self._number(self._ways.entry(int(self.lane[k, n]), before))
            else:
                old = self._trails[now[n]]
                now[n] = self._number((*way[::-1], *(old[1:] if old[0] == way[0] else ())))
            trail[k, n] = now[n]
        since = np.maximum.accumulate(np.where(known, np.arange(states)[:, None], 0), axis=0)
        self._trail = np.take_along_axis(trail, since, axis=0)

    def _cross(self, k: int, n: int, previous: int) -> tuple[int, ...] | None:
        """The lanes over which one comes forwards from state k to the next; notes how far, backwards too."""
        layout = self.layout
        here, there = ((int(self.lane[i, n]), float(self.position[i, n])) for i in (k, k + 1))
        moves = []
        for sign, (a, p), (b, q) in ((1.0, here, there), (-1.0, there, here)):
            way = self._ways.between(a, b, previous if sign > 0 else -1)
            if way is not None:
                far = layout.lane_length[list(way[:-1])].sum() - p + q
                aside = layout.offset[[way[0], b]].sum() - layout.offset[[a, way[-1]]].sum()
                moves.append((float(far), sign, float(aside), way))
        if not moves or min(moves)[0] > self._limit:
            return None
        far, sign, aside, way = min(moves)
        self.continues[k, n], self.advance[k, n] = True, sign * far
        self.shift[k, n] = sign * aside + self.lateral[k + 1, n] - self.lateral[k, n]
        return way if sign > 0 else None

    def _number(self, trail: tuple[int, ...]) -> int:
        if trail not in self._row:
            self._row[trail] = len(self._trails)
            self._trails.append(self._ways.complete(trail))
        return self._row[trail]

    def at(self, k: int, part: float) -> tuple[Array, Array, Array, Array]:
        """Front bumpers ``part`` of a step after state ``k``: row of the trail, lane, position and lateral.

        A position below 0 is before the lane. A lane that is changed at once is changed at the step's beginning.
        """
        if part == 0.0:
            return self._trail[k], self.lane[k], self.position[k], self.lateral[k]
        moves, advance, shift = self.continues[k], self.advance[k], self.shift[k]
        forward = moves & (advance >= 0)
        share = np.where(self.changes[k], 1.0, part)
        return (
            np.where(forward, self._trail[k + 1], self._trail[k]),
            np.where(forward, self.lane[k + 1], self.lane[k]),
            np.where(
                forward,
                self.position[k + 1] - (1.0 - part) * advance,
                self.position[k] + np.where(moves, part * advance, 0.0),
            ),
            np.where(
                forward,
                self.lateral[k + 1] - (1.0 - share) * shift,
                self.lateral[k] + np.where(moves, share * shift, 0.0),
            ),
        )

    def walk_back(self, trail: Array, lane: Array, position: Array, lateral: Array) -> tuple[Array, Array, Array]:
        """Lane, position and lateral of points whose position may lie before their lane.

        Where a trail ends, the lane is prolonged.
        """
        rows = self._table[trail]
        lane, position, lateral = lane.copy(), position.copy(), lateral.copy()
        for hop in range(1, _MOST_HOPS):
            before = rows[:, hop]
            back = (position < 0) & (before >= 0)
            if not back.any():
                break
            if hop == 1:
                lateral += np.where(back, self.layout.offset[lane] - self.layout.offset[rows[:, 0]], 0.0)
            position += np.where(back, self.layout.lane_length[before], 0.0)
            lane = np.where(back, before, lane)
        return lane, position, lateral


class _Ways:
    """Which lanes lead from where to where; every question is answered once."""

    def __init__(self, layout: RoadLayout, limit: float) -> None:
        self._layout, self._limit = layout, limit
        self._before = layout.network.predecessors.tolist()
        self.between = lru_cache(maxsize=None)(self._between)
        self.entry = lru_cache(maxsize=None)(self._entry)

    def _beside(self, lane: int) -> list[int]:
        """The lanes of the same edge, the nearest first."""
        lanes = self._layout.lanes_of[self._layout.edge[lane]].tolist()
        return sorted(lanes, key=lambda one: abs(one - lane))

    def _between(self, a: int, b: int, previous: int) -> tuple[int, ...] | None:
        """Lanes from the edge of ``a`` over at least one edge end to that of ``b``; None = too far.

        Of several ways the one that comes over the lane ``previous``, then that with the fewest changes of lane, then
        the shortest in lanes.
        """
        goal, found = self._layout.edge[b], []
        for start in self._beside(a):
            rows: list[tuple[tuple[int, ...], float]] = [((start,), 0.0)]
            for _ in range(_MOST_HOPS - 1):
                longer = []
                for way, passed in rows:
                    for lane in self._layout.successors[way[-1]]:
                        if self._layout.edge[lane] == goal:
                            found.append((*way, lane))
                        elif passed + self._layout.lane_length[lane] <= self._limit and lane not in way:
                            longer.append(((*way, lane), passed + float(self._layout.lane_length[lane])))
                rows = longer
        if not found:
            return None
        return min(found, key=lambda w: (w[-2] != previous, abs(w[0] - a) + abs(w[-1] - b), len(w)))

    def _entry(self, lane: int, previous: int) -> tuple[int, ...]:
        """Trail of somebody of whom only the lane before is known, or not even that (-1)."""
        if previous >= 0:
            for one in self._beside(lane):
                if previous in self._before[one]:
                    return (one, previous)
        return (lane,)

    def complete(self, trail: tuple[int, ...]) -> tuple[int, ...]:
        """A trail of the full length: goes on where only one lane leads here, else ends with -1."""
        lanes = list(trail[:_MOST_HOPS])
        while len(lanes) < _MOST_HOPS:
            before = [lane for lane in self._before[lanes[-1]] if lane >= 0] if lanes[-1] >= 0 else []
            lanes.append(before[0] if len(before) == 1 else -1)
        return tuple(lanes)
