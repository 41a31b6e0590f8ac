"""Programmes of traffic signals, as data of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trafficgrad.errors import TrafficGradError, nearest_name

SignalKind = Literal["fixed", "actuated", "controlled"]
KINDS: tuple[SignalKind, ...] = ("fixed", "actuated", "controlled")
LETTERS = "rygG"  # red, yellow, green but yields, green
SHORTEST, LONGEST = 5.0, 60.0  # s, of a green phase that is not fixed, by default


@dataclass(frozen=True)
class Meter:
    """A ramp meter: a signal on an on-ramp, whose every green is long enough for one vehicle that waits there.

    The red lasts as long as the rate asks for: green and red together take 1 / rate.
    """

    rate: float  # vehicles/s
    green: float = 2.0  # s
    distance: float = 80.0  # m from the stop line to the end of the ramp

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

    def programme(self) -> dict[str, Any]:
        """As a graph carries it; its one letter is for the ramp."""
        phases = [{"duration": self.green, "state": "G"}, {"duration": 1.0 / self.rate - self.green, "state": "r"}]
        return {"kind": "fixed", "offset": 0.0, "phases": phases}


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
