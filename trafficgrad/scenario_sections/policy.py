"""What one policy can see and do: how vehicles, signals and the observation fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trafficgrad.config import error_at
from trafficgrad.scenario_sections.task import JunctionsObservation

if TYPE_CHECKING:
    from trafficgrad.traffic_scenario import TrafficScenario


def usual_observation(data: dict[str, Any]) -> str:
    """Kind of observation on a network with junctions, of a scenario that is not checked yet."""
    control, vehicles = data.get("control"), data.get("vehicles")
    group = vehicles.get("controlled") if isinstance(vehicles, dict) else None
    drives = bool(group.get("count")) if isinstance(group, dict) else False
    switches = isinstance(control, dict) and control.get("signals") == "switch"
    return "junctions" if switches and not drives else "route"


def check_policy(scenario: TrafficScenario) -> None:
    """Actions need signals that they control, a shared policy has actions of one kind, and sees whom it controls.

    Raises:
        PydanticCustomError: it is not so, an error that names the key.
    """
    seen, count = scenario.observation, scenario.vehicles.controlled.count
    junctions = isinstance(seen, JunctionsObservation)
    switched = scenario.control.signals == "switch"
    controlled = any(signal.kind == "controlled" for signal in scenario.traffic.network.signals)
    if switched and not controlled:
        raise error_at("control.signals", "switch needs signals of the network with signals.control: controlled")
    if junctions and not controlled:
        raise error_at("observation.kind", "junctions needs signals of the network with signals.control: controlled")
    if switched and count and seen.shared:
        raise error_at(
            "observation.shared",
            "a shared policy has actions of one kind; where vehicles and signals are controlled, expected false",
        )
    if junctions and count and seen.shared:
        raise error_at("observation.kind", "junctions shows signals, but vehicles are controlled: expected route")
    if switched and not count and not junctions:
        raise error_at(
            "observation.kind", f"{seen.kind} shows controlled vehicles, and there are none: expected junctions"
        )
