"""Programmes of traffic signals, as data of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trafficgrad.errors import TrafficGradError, nearest_name

SignalKind = Literal["fixed", "actuated", "controlled"]
KINDS: tuple[SignalKind, ...] = ("fixed", "actuated", "controlled")
LETTERS = "rygG"  # red, yellow, green but yields, green
SHORTEST, LONGEST = 5.0, 60.0  # s, of a green phase that is not fixed, by default


@dataclass(frozen=True)
class Meter:
    """A meter: a signal before a merge, whose every green is long enough for one vehicle that waits there.

    The red lasts as long as the rate asks for: green and red together take 1 / rate. Several lanes take turns.
    """

    rate: float  # vehicles/s, of all lanes together
    green: float = 2.0  # s
    distance: float = 80.0  # m from the stop line to the merge: the end of the ramp, the first narrowing

    def __post_init__(self) -> None:
        for name in ("rate", "green", "distance"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise TrafficGradError(f"meter: {name} must be a finite number > 0, got {value!r}")
        if not 1.0 / self.rate > self.green:
            raise TrafficGradError(
                f"meter: a green of {self.green:g} s for each vehicle leaves no red at {self.rate:g} vehicles/s: "
                f"choose a rate below {1.0 / self.green:g}"
            )

    def programme(self, turns: Sequence[int] = (0,)) -> dict[str, Any]:
        """As a graph carries it.

        Parameters:
            turns: lanes in the order in which they get green; letter i of a state is for lane i.
        """
        red = {"duration": 1.0 / self.rate - self.green, "state": "r" * len(turns)}
        phases = []
        for lane in turns:
            state = "".join("G" if i == lane else "r" for i in range(len(turns)))
            phases += [{"duration": self.green, "state": state}, red]
        return {"kind": "fixed", "offset": 0.0, "phases": phases}


def phases_in_turn(greens: Sequence[tuple[float, str]], yellow: float, all_red: float) -> list[dict[str, Any]]:
    """Phases with green in turn, as a graph carries them; who loses it is shown yellow and then red before the next.

    Parameters:
        greens: duration in s and state of each. yellow, all_red: s; 0 = no such phase.
    """
    phases: list[dict[str, Any]] = []
    for k, (duration, state) in enumerate(greens):
        after = greens[(k + 1) % len(greens)][1] if len(greens) > 1 else "r" * len(state)
        phases.append({"duration": duration, "state": state})
        for letter, seconds in (("y", yellow), ("r", all_red)):
            if seconds > 0:
                pairs = zip(state, after, strict=True)
                change = "".join(letter if now != "r" and then == "r" else now for now, then in pairs)
                phases.append({"duration": seconds, "state": change})
    return phases


@dataclass(frozen=True)
class Signal:
    """One programme. Letter i of a state is for the connections with ``signal_index`` i.

    ``fixed``: phases follow each other by ``durations``, phase 0 begins at ``offset``. ``actuated``: a green phase
    lasts at least ``shortest``, then as long as vehicles come, at most ``longest``. ``controlled``: phases with green
    last until an action asks for the next one (between ``shortest`` and ``longest``).
    """

    name: str
    kind: SignalKind
    offset: float  # s
    durations: tuple[float, ...]  # s
    states: tuple[str, ...]
    shortest: tuple[float, ...]  # s
    longest: tuple[float, ...]  # s

    @classmethod
    def of(cls, name: str, programme: Mapping[str, Any]) -> Signal:
        """Check a programme of a graph's ``signals``.

        Raises:
            TrafficGradError: one sentence that names the signal.
        """
        where = f"signal {name!r}"
        kind = programme.get("kind", "fixed")
        if kind not in KINDS:
            raise TrafficGradError(
                f"{where}: unknown kind {kind!r}{nearest_name(str(kind), KINDS)}; valid are {', '.join(KINDS)}"
            )
        phases = programme.get("phases")
        if not phases:
            raise TrafficGradError(f"{where}: expected at least one phase, each with duration and state")
        durations, states, shortest, longest = [], [], [], []
        for p, phase in enumerate(phases):
            duration, state = phase.get("duration"), phase.get("state")
            if not isinstance(duration, (int, float)) or not (duration > 0 and math.isfinite(duration)):
                raise TrafficGradError(f"{where}: phase {p} needs a duration > 0 s, got {duration!r}")
            if not isinstance(state, str) or not state or set(state) - set(LETTERS):
                raise TrafficGradError(
                    f"{where}: phase {p} needs a state of the letters r (red), y (yellow), g (green, yields) and "
                    f"G (green), got {state!r}"
                )
            least = float(phase.get("min_duration", min(SHORTEST, duration) if "y" not in state else duration))
            most = float(phase.get("max_duration", max(LONGEST, duration)))
            if not 0 < least <= most:
                raise TrafficGradError(
                    f"{where}: phase {p} needs 0 < min_duration <= max_duration, got {least}, {most}"
                )
            durations.append(float(duration))
            states.append(state)
            shortest.append(least)
            longest.append(most)
        if len({len(state) for state in states}) > 1:
            raise TrafficGradError(f"{where}: all states need the same number of letters, got {', '.join(states)}")
        offset = float(programme.get("offset", 0.0))
        return cls(name, kind, offset, tuple(durations), tuple(states), tuple(shortest), tuple(longest))

    def programme(self) -> dict[str, Any]:
        """The programme again, as a graph carries it."""
        rows = zip(self.durations, self.states, self.shortest, self.longest, strict=True)
        phases = [{"duration": d, "state": s, "min_duration": a, "max_duration": b} for d, s, a, b in rows]
        return {"kind": self.kind, "offset": self.offset, "phases": phases}

    @property
    def cycle(self) -> float:
        """Sum of the durations, s."""
        return sum(self.durations)
