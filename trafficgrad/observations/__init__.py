"""What policies see: rows of numbers about controlled vehicles or signals and their surroundings, each with a label.

One module a kind: :mod:`local <trafficgrad.observations.local>`, :mod:`world <trafficgrad.observations.world>`,
:mod:`lanes <trafficgrad.observations.lanes>`, :mod:`route <trafficgrad.observations.route>` and
:mod:`junctions <trafficgrad.observations.junctions>`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trafficgrad.observations.distances import Offsets, offsets
from trafficgrad.observations.junctions import controlled_signals, junction_labels, observe_junctions
from trafficgrad.observations.lanes import Leads, lane_labels, lane_leads, observe_lanes
from trafficgrad.observations.local import local_labels, observe_local
from trafficgrad.observations.route import observe_route, route_labels
from trafficgrad.observations.world import observe_world, world_labels
from trafficgrad.scenario_sections.control import ControlConfig
from trafficgrad.scenario_sections.task import (
    JunctionsObservation,
    LanesObservation,
    LocalObservation,
    ObservationConfig,
    RouteObservation,
    WorldObservation,
)
from trafficgrad.simulator import Simulator
from trafficgrad.state import Neighbors, TrafficState
from trafficgrad.traffic_scenario import TrafficScenario

__all__ = [
    "Leads",
    "Offsets",
    "controlled_signals",
    "junction_labels",
    "lane_labels",
    "lane_leads",
    "local_labels",
    "observation_labels",
    "observe",
    "observe_junctions",
    "observe_lanes",
    "observe_local",
    "observe_route",
    "observe_world",
    "offsets",
    "route_labels",
    "world_labels",
]

_SIGNALS = JunctionsObservation(kind="junctions")  # how signals are shown behind vehicles of a joint policy


def observation_labels(scenario: TrafficScenario, simulator: Simulator) -> tuple[str, ...]:
    """Label of every column of :func:`observe`: of one row of a shared observation, or of all rows joined."""
    config = scenario.observation
    if isinstance(config, WorldObservation):
        labels = world_labels(scenario.total)
    elif isinstance(config, JunctionsObservation):
        labels = junction_labels(config, simulator)
        labels = labels if config.shared else _joined(labels, _signal_names(simulator))
    else:
        if isinstance(config, LocalObservation):
            labels = local_labels(config, simulator.network.max_lanes)
        elif isinstance(config, LanesObservation):
            labels = lane_labels(simulator.network.max_lanes)
        else:
            labels = route_labels(config)
        every = [str(c) for c in range(len(simulator.fleet.slots))]
        labels = labels if config.shared else _joined(labels, every)
    if not _appends_signals(config, scenario.control):
        return labels
    return labels + _joined(junction_labels(_SIGNALS, simulator), _signal_names(simulator))


def observe(
    state: TrafficState,
    neighbors: Neighbors | None,
    simulator: Simulator,
    config: ObservationConfig,
    control: ControlConfig,
) -> Tensor:
    """[B, C, O] for a shared observation, else [B, O], as the scenario's ``observation`` section says.

    ``neighbors`` may be None: they are looked for where the observation needs them.
    Where a joint policy drives vehicles and switches signals, the signals' rows follow those of the vehicles.
    """
    if isinstance(config, WorldObservation):
        rows = observe_world(state, simulator)
    elif isinstance(config, JunctionsObservation):
        rows = observe_junctions(state, simulator, config)
    elif isinstance(config, LanesObservation):
        rows = observe_lanes(state, simulator)
    else:
        around = simulator.neighbors(state) if neighbors is None else neighbors
        if isinstance(config, RouteObservation):
            rows = observe_route(state, around, simulator, config)
        else:
            rows = observe_local(state, around, simulator, config)
    rows = rows if config.shared or rows.dim() == 2 else rows.flatten(1)
    if not _appends_signals(config, control):
        return rows
    return torch.cat([rows, observe_junctions(state, simulator, _SIGNALS).flatten(1)], 1)


def _appends_signals(config: ObservationConfig, control: ControlConfig) -> bool:
    """Whether the signals that the policy switches are shown behind the vehicles that it drives."""
    return control.signals == "switch" and not isinstance(config, JunctionsObservation)


def _signal_names(simulator: Simulator) -> list[str]:
    names = [signal.name for signal in simulator.network.signals]
    return [f"signal {names[s]}" for s in controlled_signals(simulator).tolist()]


def _joined(labels: tuple[str, ...], rows: list[str]) -> tuple[str, ...]:
    return tuple(f"{row}: {label}" for row in rows for label in labels)
