"""Hand-written controllers of signals that actions switch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from trafficgrad.errors import TrafficGradError
from trafficgrad.signals import Signals
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState


def _signals(simulator: Simulator) -> Signals:
    if simulator.signals is None:
        raise TrafficGradError("this network has no signals to control")
    return simulator.signals


@dataclass(frozen=True)
class FixedTime:
    """Follow the programme that the network carries: ask for the next phase until the phase of the clock is there.

    Decisions that are not made in every step delay its changes by less than a decision.
    """

    simulator: Simulator

    def __call__(self, state: TrafficState) -> Action:
        """Action of the signals; controlled vehicles, if there are any, keep their speed."""
        signals = _signals(self.simulator)
        by_clock = replace(signals, kind=torch.zeros_like(signals.kind)).start(state).phase
        return _switch(self.simulator, state, by_clock != state.phase)


@dataclass(frozen=True)
class Actuated:
    """Ask for the next phase as soon as no vehicle comes to a green of the signal.

    The shortest and longest greens of the signal hold.
    """

    simulator: Simulator

    def __call__(self, state: TrafficState) -> Action:
        """Action of the signals; controlled vehicles, if there are any, keep their speed."""
        signals, ahead = _signals(self.simulator), self.simulator.neighbors(state).ahead
        assert ahead is not None
        t = self.simulator.network.tables(state.position.dtype, state.position.device)
        return _switch(self.simulator, state, ~signals.wanted(state, ahead, t))


def _switch(simulator: Simulator, state: TrafficState, asks: torch.Tensor) -> Action:
    idle = state.speed.new_zeros(state.worlds, len(simulator.fleet.slots))
    return Action(idle, signal=torch.where(asks, 1.0, -1.0).to(state.speed.dtype))
