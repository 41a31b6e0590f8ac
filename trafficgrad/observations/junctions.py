"""Observation ``junctions``: the approaches of every controlled signal, and its phase."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from trafficgrad.metrics import STANDING
from trafficgrad.network.road_network import RoadNetwork
from trafficgrad.scenario_sections.task import JunctionsObservation
from trafficgrad.signals import CONTROLLED
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState


def controlled_signals(simulator: Simulator) -> Tensor:
    """Signals that actions switch, [S'] int64, in the order of the network's signals."""
    if simulator.signals is None:
        return torch.zeros(0, dtype=torch.int64)
    return (simulator.signals.kind == CONTROLLED).nonzero()[:, 0]


def junction_labels(config: JunctionsObservation, simulator: Simulator) -> tuple[str, ...]:
    """Label of every column of :func:`observe_junctions`, units in brackets."""
    assert simulator.signals is not None
    count = config.count_scale
    labels = []
    for k in range(_approaches(simulator.network.base).shape[1]):
        labels += [
            f"approach {k}: vehicles within {config.reach:g} m [{count:g}]",
            f"approach {k}: standing [{count:g}]",
            f"approach {k}: mean speed [{config.speed_scale:g} m/s]",
        ]
    labels += [f"phase {p}" for p in range(simulator.signals.durations.shape[-1])]
    return (*labels, f"time in phase [{config.time_scale:g} s]")


def observe_junctions(state: TrafficState, simulator: Simulator, config: JunctionsObservation) -> Tensor:
    """[B, S', O]: one row for each controlled signal, columns as :func:`junction_labels`.

    Approaches are the lanes that lead to the signal, in the order of the network's lanes; signals with fewer have 0
    for the rest. Mean speeds are differentiable in speeds; where nobody comes they are 0.
    """
    assert simulator.signals is not None
    network = simulator.network
    t = network.tables(state.position.dtype, state.position.device)
    chosen = controlled_signals(simulator).to(state.lane.device)
    lanes = _approaches(network.base).to(state.lane.device)[chosen]
    count = len(network.lanes)
    lane = state.lane.clamp(min=0)
    to_line = t.length[lane] - state.position.detach()
    near = state.active & (state.lane >= 0) & (to_line <= config.reach)
    at = torch.where(near, lane, count)

    def on_lanes(values: Tensor) -> Tensor:
        """Sums over the vehicles near, [B, S', K]; 0 where there is no approach."""
        sums = state.speed.new_zeros(state.worlds, count + 1).scatter_add(1, at, values)
        return torch.where(lanes >= 0, sums[:, lanes.clamp(min=0)], 0.0)

    one = torch.ones_like(state.speed, requires_grad=False)
    number = on_lanes(one)
    standing = on_lanes((state.speed.detach() < STANDING).to(one.dtype))
    speed = on_lanes(state.speed) / number.clamp(min=1.0)
    lanes_seen = torch.stack(
        [number / config.count_scale, standing / config.count_scale, speed / config.speed_scale], -1
    ).flatten(2)
    phases = torch.arange(simulator.signals.durations.shape[-1], device=lanes.device)
    phase = (state.phase[:, chosen, None] == phases).to(one.dtype)
    time = state.phase_time[:, chosen, None] / config.time_scale
    return torch.cat([lanes_seen, phase, time], -1)


@functools.lru_cache(maxsize=8)
def _approaches(network: RoadNetwork) -> Tensor:
    """Lanes that lead to each signal, [S, K] int64, -1 = padding."""
    j = network.tables(torch.float64, "cpu").junctions
    rows = [sorted(set(j.origin[j.signal == s].tolist())) for s in range(len(network.signals))]
    width = max(len(row) for row in rows)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])
