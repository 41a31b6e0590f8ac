"""Traffic signals of a simulation: which phase is on, when it changes, and what each junction lane is shown."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.network.signals import LETTERS
from trafficgrad.network.tables import LaneTables
from trafficgrad.state import Ahead, TrafficState

RED, YELLOW, YIELDING, GREEN = range(4)
FIXED, ACTUATED, CONTROLLED = range(3)
EXTENSION = 3.0  # s of travel to the stop line: an actuated green goes on for vehicles nearer than this
_AT_LINE = 5.0  # m
_CRUMB = 1e-3  # s, more than float32 loses in hours


@dataclass(frozen=True)
class Signals:
    """Programmes of all signals of a network as tensors; ``S`` signals of at most ``P`` phases, ``L`` letters.

    ``durations`` and ``offset`` of fixed programmes may require gradients, and may differ from world to world.
    """

    durations: Tensor  # [S, P] or [B, S, P] s; 0 = padding
    offset: Tensor  # [S] or [B, S] s, when phase 0 begins
    letters: Tensor  # [S, P, L] int64: RED, YELLOW, YIELDING, GREEN
    kind: Tensor  # [S] int64: FIXED, ACTUATED, CONTROLLED
    shortest: Tensor  # [S, P] s, of phases that are not fixed
    longest: Tensor  # [S, P] s
    phases: Tensor  # [S] int64, number of phases

    @classmethod
    def of(
        cls, network: RoadNetwork, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Signals | None:
        """The programmes that a network carries; None where it has none."""
        programmes = network.signals
        if not programmes:
            return None
        phases = max(len(one.durations) for one in programmes)
        letters = max(len(one.states[0]) for one in programmes)

        def table(name: str, filler: float) -> Tensor:
            rows = [[*getattr(one, name), *[filler] * (phases - len(one.durations))] for one in programmes]
            return torch.tensor(rows, dtype=dtype, device=device)

        shown = [
            [
                [LETTERS.index(letter) for letter in state] + [RED] * (letters - len(state))
                for state in (*one.states, *[""] * (phases - len(one.states)))
            ]
            for one in programmes
        ]
        kinds = ("fixed", "actuated", "controlled")
        return cls(
            table("durations", 0.0),
            torch.tensor([one.offset for one in programmes], dtype=dtype, device=device),
            torch.tensor(shown, device=device),
            torch.tensor([kinds.index(one.kind) for one in programmes], device=device),
            table("shortest", 0.0),
            table("longest", math.inf),
            torch.tensor([len(one.durations) for one in programmes], device=device),
        )

    def __post_init__(self) -> None:
        known = self.letters.shape[:2]
        if (
            self.durations.dim() not in (2, 3)
            or self.offset.dim() not in (1, 2)
            or self.durations.shape[-2:] != known
            or self.offset.shape[-1:] != known[:1]
        ):
            raise TrafficGradError(
                f"Signals need durations {list(known)} and offset {list(known[:1])}, with worlds before them or not, "
                f"got {list(self.durations.shape)} and {list(self.offset.shape)}"
            )
        if bool((self.durations.detach() < 0).any()):
            raise TrafficGradError("Signals.durations must be >= 0 s")

    @property
    def count(self) -> int:
        """S."""
        return len(self.kind)

    def check_worlds(self, worlds: int) -> None:
        """The programmes are for so many worlds, or the same for all.

        Raises:
            TrafficGradError: they are for another number.
        """
        for name, value, shared in (("durations", self.durations, 2), ("offset", self.offset, 1)):
            if value.dim() > shared and len(value) != worlds:
                raise TrafficGradError(f"Signals.{name} are for {len(value)} worlds, the state has {worlds}")

    def metered(self, signal: int, rate: Tensor) -> Signals:
        """The programmes with another rate of a meter: its greens stay, each with its red takes 1 / rate.

        Parameters:
            signal: row of the meter, in whose programme green and red alternate. rate: vehicles/s, [] or [B]; it may
                require a gradient, and must leave a red.

        Raises:
            TrafficGradError: the signal is no meter, or (on the CPU) the rate leaves no red.
        """
        count = int(self.phases[signal])
        shown = (self.letters[signal, :count] >= YIELDING).any(-1).tolist()
        if shown != [True, False] * (count // 2):
            raise TrafficGradError(f"signal {signal} is no meter: expected phases that are green and red in turn")
        red = 1.0 / rate[..., None] - self.durations[..., signal, 0:count:2]  # [K], or [B, K]
        if red.device.type == "cpu" and not bool((red > 0).all()):
            raise TrafficGradError(
                f"signal {signal}: a rate of {float(rate.max()):g} vehicles/s leaves no red beside the green"
            )
        place = torch.zeros_like(self.letters[..., 0], dtype=torch.bool)
        place[signal, 1:count:2] = True
        worlds = red.shape[:-1]
        reds = torch.stack([red, red], -1).reshape(*worlds, 1, count)
        reds = torch.nn.functional.pad(reds, (0, place.shape[1] - count))
        return dataclasses.replace(self, durations=torch.where(place, reds, self.durations))

    def start(self, state: TrafficState) -> TrafficState:
        """The state with every signal at the phase that its programme has at the state's time."""
        phase, elapsed = self._fixed(state.time)
        fixed = self.kind == FIXED
        return _with(state, torch.where(fixed, phase, 0), torch.where(fixed, elapsed, 0.0))

    def _fixed(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Phase [B, S] and time since it began of programmes that run by the clock."""
        durations, offset = self.durations.detach(), self.offset.detach()
        ends = durations.cumsum(-1)
        cycle = ends[..., -1]
        # Rounding must not put a moment that is a whole number of steps before the switch that it is.
        moment = torch.remainder(time[:, None] - offset + _CRUMB, cycle)
        phase = (moment[..., None] >= ends).sum(-1)
        begin = torch.where(phase > 0, _of_phase(ends, (phase - 1).clamp(min=0)), 0.0)
        return phase, (moment - begin - _CRUMB).clamp(min=0.0)

    def begun(self, state: TrafficState) -> Tensor:
        """When the present phases began, [B, S] s; for fixed programmes with the graph of offsets and durations."""
        ends = self.durations.cumsum(-1)
        begins = _of_phase(torch.cat([torch.zeros_like(ends[..., :1]), ends], -1), state.phase)
        cycle = ends[..., -1]
        began = state.time[:, None] - state.phase_time
        number = torch.round((began - self.offset - begins).detach() / cycle.detach())
        time = self.offset + number * cycle + begins
        return torch.where(self.kind == FIXED, time, began.detach())

    def remaining(self, state: TrafficState) -> Tensor:
        """How long the present phases go on if they last as long as their programmes say, [B, S] s."""
        return self.lasts(state.phase) - state.phase_time

    def lasts(self, phase: Tensor) -> Tensor:
        """How long phases [B, S] last as their programmes say, [B, S] s."""
        return _of_phase(self.durations, phase)

    def shown(self, phase: Tensor, signal: Tensor, index: Tensor) -> Tensor:
        """Letter that vehicles see: ``signal`` and ``index`` int64 of one shape [B, ...], -1 = no signal (YIELDING)."""
        s, i = signal.clamp(min=0), index.clamp(min=0)
        now = phase.gather(1, s.reshape(len(s), -1)).reshape(s.shape)
        return torch.where(signal < 0, YIELDING, self.letters[s, now, i])

    @torch.no_grad()
    def wanted(self, state: TrafficState, ahead: Ahead, t: LaneTables) -> Tensor:
        """[B, S] bool: somebody comes to a green of the signal, or stands at it, within ``EXTENSION`` s."""
        way = ahead.gate[..., 0].clamp(min=0)
        signal = torch.where((ahead.gate[..., 0] >= 0) & state.active, t.junctions.signal[way], -1)
        letter = self.shown(state.phase, signal, t.junctions.signal_index[way])
        near = ahead.gate_distance[..., 0].detach() < EXTENSION * state.speed.detach() + _AT_LINE
        comes = (signal >= 0) & (letter >= YIELDING) & near
        count = self.count
        found = torch.zeros(state.worlds, count + 1, dtype=torch.int64, device=signal.device)
        return found.scatter_add(1, torch.where(comes, signal, count), comes.long())[:, :-1] > 0

    @torch.no_grad()
    def advance(self, state: TrafficState, dt: float, wanted: Tensor | None, request: Tensor | None) -> TrafficState:
        """Phases after a step, at the state's new time.

        Parameters:
            wanted: [B, S] bool, vehicles come to a green of an actuated signal. request: [B, S], above 0 asks a
                controlled signal for its next phase.
        """
        by_clock, elapsed = self._fixed(state.time)
        waited = state.phase_time + dt
        phase = state.phase
        s = torch.arange(self.count, device=phase.device).expand(phase.shape)
        duration, least, most = (_of_phase(x.detach(), phase) for x in (self.durations, self.shortest, self.longest))
        passing = (self.letters[s, phase] == YELLOW).any(-1) | ~(self.letters[s, phase] >= YIELDING).any(-1)
        crumb = 1e-3 * dt
        over = waited >= duration - crumb
        late = (waited >= least - crumb) & (~wanted if wanted is not None else over) | (waited >= most - crumb)
        asked = torch.zeros_like(over) if request is None else request > 0
        told = (waited >= least - crumb) & asked | (waited >= most - crumb)
        ends = torch.where(passing, over, torch.where(self.kind == ACTUATED, late, told))
        following = torch.where(ends, (phase + 1) % self.phases, phase)
        own_time = torch.where(ends, 0.0, waited)
        fixed = self.kind == FIXED
        return _with(state, torch.where(fixed, by_clock, following), torch.where(fixed, elapsed, own_time))


def _of_phase(table: Tensor, phase: Tensor) -> Tensor:
    """Entries of a table [S, P] or [B, S, P] for the phases [B, S]."""
    return table.expand(len(phase), *table.shape[-2:]).gather(2, phase[..., None])[..., 0]


def _with(state: TrafficState, phase: Tensor, phase_time: Tensor) -> TrafficState:
    return dataclasses.replace(state, phase=phase, phase_time=phase_time.to(state.position.dtype))
