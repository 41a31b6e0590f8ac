"""Scenario files on networks of every kind that several tests use."""

from __future__ import annotations

from pathlib import Path

MAPS = Path(__file__).parent / "data"

NETWORKS: dict[str, str] = {
    "ring": """\
network: {kind: ring, length: 300.0, lanes: 2}
vehicles: {human: {count: 20}}
""",
    "straight": """\
network: {kind: straight, length: 600.0, lanes: 2}
demand: [{from: 0, rate: 1800}]
""",
    "figure_eight": """\
network: {kind: figure_eight}
vehicles: {human: {count: 13}, controlled: {count: 1}}
""",
    "merge": """\
network: {kind: merge}
demand: [{from: highway_in, rate: 1500, speed: 10.0}, {from: ramp, rate: 500, kind: constant}]
""",
    "bottleneck": """\
network: {kind: bottleneck}
vehicles: {controlled: {count: 4, control: lane}}
demand: [{from: section_1, rate: 3000, controlled_share: 0.2, lanes: [0, 1, 2]}]
""",
    "grid": """\
network: {kind: grid, rows: 2, columns: 2}
signals: {control: actuated, min_green: 6.0}
vehicles: {human: {count: 20}}
demand: [{from: east_0_0, rate: 600}, {from: north_0_1, rate: 400, turns: {north_0_1: {north_1_1: 0.7, west_0_1: 0.3}}}]
""",
    "intersection": """\
network: {kind: intersection}
demand: [{from: west_in, rate: 900}, {from: south_in, rate: 600, to: [north_out, east_out]}]
""",
    "roundabout": """\
network: {kind: roundabout}
origin_destination:
  - {from: west_in, to: east_out, rate: 400}
  - {from: west_in, to: north_out, rate: 200}
  - {from: south_in, to: north_out, rate: 300}
""",
    "highway": """\
network: {kind: highway, length: 2000.0, on_ramp_at: 800.0}
vehicles: {human: {count: 30}, classes: {truck: {share: 0.2, length: 12.0, desired_speed: 22.0}}}
initial: {speed: 20.0}
demand: [{from: highway_0, rate: 2400}, {from: on_ramp, rate: 400, vehicles: human}]
""",
    "arterial": """\
network: {kind: arterial, junctions: 2}
signals: {control: controlled}
demand: [{from: east_0, rate: 900}, {from: north_in_0, rate: 200, to: {east_2: 0.7, west_0: 0.3}}]
""",
    "sumo": f"""\
network: {{kind: sumo, path: {MAPS / "rules.net.xml.gz"}}}
vehicles: {{human: {{count: 10}}}}
""",
    "osm": f"""\
network: {{kind: osm, path: {MAPS / "town.osm"}}}
vehicles: {{human: {{count: 20}}}}
demand: [{{from: 13 -> 10, rate: 200}}]
""",
}


def scenario_text(network: str, *more: str) -> str:
    """A whole scenario file around the sections of a network."""
    return "\n".join(["kind: traffic", "name: small", "driver_rows: 64", network.rstrip(), *more, ""])
