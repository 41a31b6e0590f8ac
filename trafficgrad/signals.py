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

    ``durations`` and ``offset`` of fixed programmes may require gradients.
    """

    durations: Tensor  # [S, P] s; 0 = padding
    offset: Tensor  # [S] s, when phase 0 begins
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
        if self.durations.dim() != 2 or self.offset.shape != self.durations.shape[:1]:
            raise TrafficGradError(
                f"Signals need durations [S, P] and offset [S], got {list(self.durations.shape)} and "
                f"{list(self.offset.shape)}"
            )
        if bool((self.durations.detach() < 0).any()):
            raise TrafficGradError("Signals.durations must be >= 0 s")

    def start(self, state: TrafficState) -> TrafficState:
        """The state with every signal at the phase that its programme has at the state's time."""
        phase, elapsed = self._fixed(state.time)
        fixed = self.kind == FIXED
        return _with(state, torch.where(fixed, phase, 0), torch.where(fixed, elapsed, 0.0))

    def _fixed(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Phase [B, S] and time since it began of programmes that run by the clock."""
        durations, offset = self.durations.detach(), self.offset.detach()
        ends = durations.cumsum(1)
        cycle = ends[:, -1]
        # Rounding must not put a moment that is a whole number of steps before the switch that it is.
        moment = torch.remainder(time[:, None] - offset + _CRUMB, cycle)
        phase = (moment[..., None] >= ends).sum(-1)
        begin = torch.where(
            phase > 0, ends.expand(len(time), -1, -1).gather(2, (phase - 1).clamp(min=0)[..., None])[..., 0], 0.0
        )
        return phase, (moment - begin - _CRUMB).clamp(min=0.0)

    def begun(self, state: TrafficState) -> Tensor:
        """When the present phases began, [B, S] s; for fixed programmes with the graph of offsets and durations."""
        ends = self.durations.cumsum(1)
        whole = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1)
        s = torch.arange(len(self.offset), device=ends.device).expand(state.phase.shape)
        cycle = ends[:, -1]
        began = state.time[:, None] - state.phase_time
        number = torch.round((began - self.offset - whole[s, state.phase]).detach() / cycle.detach())
        time = self.offset + number * cycle + whole[s, state.phase]
        return torch.where(self.kind == FIXED, time, began.detach())

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
        count = len(self.offset)
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
        s = torch.arange(len(self.offset), device=phase.device).expand(phase.shape)
        duration, least, most = (x.detach()[s, phase] for x in (self.durations, self.shortest, self.longest))
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


def _with(state: TrafficState, phase: Tensor, phase_time: Tensor) -> TrafficState:
    return dataclasses.replace(state, phase=phase, phase_time=phase_time.to(state.position.dtype))
