"""The gradient by signal timing: offsets and green splits of programmes that run by the clock."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradient_check.parameters import Parameters
from trafficgrad.signals import FIXED, YELLOW, YIELDING, Signals
from trafficgrad.state import TrafficState

_SPARE = 3.0  # standard deviations of a green that must fit into it


class SignalTiming(Parameters):
    """Changes of fixed programmes in s: of the offset, and of the green phases, while cycles keep their length.

    ``green k`` makes the k-th green phase of a programme longer at the cost of its last one, so that a programme of G
    green phases has G - 1 such numbers; yellow and all-red stay. A perturbation that would leave less than a step of a
    phase is cut off there.
    """

    def __init__(self, env: TrafficEnv, sd: float) -> None:
        """``sd``, the perturbations' standard deviation, s.

        Raises:
            TrafficGradError: no signal runs by the clock, or a green is too short for such perturbations.
        """
        signals, name = env.simulator.signals, env.scenario.name
        rows = [] if signals is None else (signals.kind == FIXED).nonzero()[:, 0].tolist()
        if signals is None or not rows:
            what = "no signals" if signals is None else "no signal that runs by the clock (signals.control: fixed)"
            raise TrafficGradError(f"scenario {name!r} has {what}: take the gradient by actions, drivers or initial")
        greens = [green_phases(signals, s) for s in rows]
        durations = signals.durations.detach()
        for s, phases in zip(rows, greens, strict=True):
            shortest = min((float(durations[s, p]) for p in phases), default=float("inf"))
            if len(phases) > 1 and shortest < _SPARE * sd:
                raise TrafficGradError(
                    f"signal {env.simulator.network.signals[s].name!r} has a green of {shortest:g} s, too short for "
                    f"perturbations of {sd:g} s: give an sd of at most {shortest / _SPARE:.2g}"
                )
        most = max(1, *(len(phases) for phases in greens)) if greens else 1
        self.components = ("offset", *(f"green {k + 1}" for k in range(most - 1)))
        self.vehicles = tuple(env.simulator.network.signals[s].name for s in rows)
        self.time_of = torch.zeros(1, dtype=torch.int64, device=env.device)
        self.vehicle_of = torch.arange(len(rows), device=env.device)
        self._rows = torch.tensor(rows, device=env.device)
        self._least = env.simulator.dt
        # [signals, components, phases]: how much of a component a phase gets.
        self._share = torch.zeros(len(rows), most, durations.shape[1], dtype=env.dtype, device=env.device)
        self._known = torch.zeros(len(rows), most, dtype=torch.bool, device=env.device)
        self._known[:, 0] = True
        for v, phases in enumerate(greens):
            for k, phase in enumerate(phases[:-1], start=1):
                self._share[v, k, phase], self._share[v, k, phases[-1]] = 1.0, -1.0
                self._known[v, k] = True

    def free(self, start: TrafficState) -> Tensor:
        """Not what a programme of fewer greens lacks."""
        return self._known.reshape(-1).expand(start.worlds, -1)

    def place(self, env: TrafficEnv, start: TrafficState, fine: Tensor) -> tuple[TrafficEnv, TrafficState]:
        """An environment with the changed programmes, in the phases that these have at the window's start."""
        signals, change = env.simulator.signals, fine[:, 0]
        assert signals is not None
        phases = signals.durations[self._rows]
        longer = torch.einsum("bvk,vkp->bvp", change, self._share)
        floor = torch.where(phases < self._least, phases, self._least)
        changed = torch.where(phases + longer < floor, floor, phases + longer)
        worlds = len(fine)
        durations = signals.durations.expand(worlds, -1, -1).index_copy(1, self._rows, changed)
        offset = signals.offset.expand(worlds, -1).index_copy(
            1, self._rows, signals.offset[self._rows] + change[..., 0]
        )
        timed = dataclasses.replace(signals, durations=durations, offset=offset)
        begun, clock = timed.start(start), signals.kind == FIXED
        start = dataclasses.replace(
            start,
            phase=torch.where(clock, begun.phase, start.phase),
            phase_time=torch.where(clock, begun.phase_time, start.phase_time),
        )
        return env.with_simulator(dataclasses.replace(env.simulator, signals=timed)), start


def green_phases(signals: Signals, signal: int) -> list[int]:
    """The phases of a programme that show green to somebody and yellow to nobody."""
    shown = signals.letters[signal, : int(signals.phases[signal])]
    green = (shown >= YIELDING).any(-1) & ~(shown == YELLOW).any(-1)
    return green.nonzero()[:, 0].tolist()
