"""Every mistake in a scenario file is one sentence with its place."""

from __future__ import annotations

import pytest
from small_networks import MAPS, scenario_text
from small_scenario import SMALL

from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import load_scenario, parse_scenario


def message(text: str, *overrides: str) -> str:
    """The sentence that refuses ``text``."""
    with pytest.raises(TrafficGradError) as error:
        parse_scenario(text, "file.yaml", overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "place", "parts"),
    [
        (
            "    desired_speed",
            "    desired_sped",
            "11: vehicles.human.desired_sped",
            ["unknown key", "'desired_speed'"],
        ),
        ("length: 200.0", "length: -200", "5: network.length", ["greater than 0", "-200"]),
        ("length: 200.0", "length: 0", "5: network.length", ["greater than 0"]),
        ("length: 200.0", "length: .inf", "5: network.length", ["finite", "inf"]),
        ("length: 200.0", 'length: "200"', "5: network.length", ["valid number", "'200'"]),
        ("lanes: 2", "lanes: 2.5", "6: network.lanes", ["integer", "2.5"]),
        ("lanes: 2", "lanes: true", "6: network.lanes", ["integer", "True"]),
        ("lanes: 2", "lanes: 2\n  lanes: 3", "7: key 'network.lanes'", ["twice", "file.yaml:6"]),
        ("kind: ring", "kind: rign", "4: network.kind", ["'rign'", "did you mean 'ring'", "straight"]),
        ("  kind: ring\n", "", "3: network.kind", ["missing", "ring, straight"]),
        ("kind: pace", "kind: pase", "16: reward.0.kind", ["did you mean 'pace'", "mean_speed"]),
        ("kind: traffic", "kind: trafic", "1: kind", ["did you mean 'traffic'"]),
        ("kind: traffic\n", "", "kind", ["missing", "traffic"]),
        ("[15, 35]", "[35, 15]", "11: vehicles.human.desired_speed.uniform", ["[lowest, highest]", "35"]),
        ("[15, 35]", "[-1, 35]", "11: vehicles.human.desired_speed", ["greater than 0", "-1"]),
        ("{uniform: [15, 35]}", "-3", "11: vehicles.human.desired_speed", ["greater than 0", "-3"]),
        ("{uniform: [15, 35]}", "{normal: [15, 35]}", "11: vehicles.human.desired_speed.normal", ["uniform"]),
        ("    target: 12.0\n", "", "16: reward.0.target", ["missing"]),
        ("    target: 12.0\n", "    target: 12.0\n  - {kind: pace, target: 3}\n", "15: reward", ["once"]),
        ("horizon_steps: 20", "horizon_steps: 21", "7: simulation.horizon_steps", ["21", "decision_steps 5"]),
        ("count: 9", "count: 90", "8: vehicles", ["92 vehicles", "200 m"]),
        ("rows: [0, 3]", "rows: [0, 0]", "14: vehicles.controlled.placement.rows", ["2 different rows"]),
        ("rows: [0, 3]", "rows: [0, 5]", "14: vehicles.controlled.placement", ["11 places"]),
        ("lane: 1", "lane: 2", "14: vehicles.controlled.placement", ["lane 2"]),
        ("name: small", "name: ../small", "2: name", ["pattern"]),
        ("  human:\n", "  human: 3\n  x:\n", "10: vehicles.x", ["unknown key"]),
        ("network:", "network: 3\nx:", "4: x", ["unknown key", "network"]),
        ("lanes: 2", "on: 2", "6: ", ["expected a name", "'on'"]),
        ("lanes: 2", "[1, 2]: 2", "6: ", ["expected a name", "sequence"]),
        ("lanes: 2", "lanes: [2", "7: is not valid YAML", ["expected ',' or ']'"]),
        ("lanes: 2", "lanes: !!python/object/apply:os.getcwd []", "6: is not valid YAML", ["tag"]),
        ("lanes: 2", "lanes: !!python/name:os.system", "6: is not valid YAML", ["tag"]),
        ("{uniform: [15, 35]}", "&a [*a]", "11: is not valid YAML", ["aliases"]),
        ("lanes: 2", "lanes: 2026-13-40", "is not valid YAML", ["month"]),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(old, new, place, parts):
    assert old in SMALL
    sentence = message(SMALL.replace(old, new, 1))
    assert sentence.startswith(f"file.yaml:{place}" if place[0].isdigit() else "file.yaml")
    for part in (place, *parts):
        assert part in sentence


@pytest.mark.parametrize("text", ["", "3", "- 1\n- 2", "just a word"])
def test_not_a_mapping(text):
    assert "expected a YAML mapping" in message(text)


def test_hostile_text():
    assert "nested too deeply" in message("x: " + "[" * 20000)
    assert "not valid YAML" in message("x: \x00")
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert "aliases are not supported" in message(bomb)


def test_files_that_cannot_be_read(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    for file, part in (
        (tmp_path / "missing.yaml", "no such file"),
        (tmp_path, "is a folder"),
        (binary, "not a text file"),
        ("ring_4lan", "did you mean 'ring_4lane'"),
        ("scenarios/ring_2lane.yaml", "ring_1lane, ring_4lane"),
        ("elsewhere/ring_4lane.yaml", "no such file"),
    ):
        with pytest.raises(TrafficGradError, match=part):
            load_scenario(file)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("vehicles.human.cuont=3", ["vehicles.human.cuont", "did you mean 'count'"]),
        ("simulation.warmup_step=3", ["did you mean 'warmup_steps'"]),
        ("control.lane_choice.coldown=3", ["control.lane_choice.coldown", "did you mean 'cooldown'"]),
        ("nonsense.below=3", ["nonsense", "unknown key", "network"]),
        ("network.length=-3", ["network.length", "greater than 0", "-3"]),
        ("network.length=[", ["not a YAML value"]),
        ("network.length", ["expected key=value"]),
        ("=3", ["expected key=value"]),
        ("network..length=3", ["expected key=value"]),
        ("reward.1.target=3", ["1 entries", "'1'"]),
        ("reward.0.target=-3", ["reward.0.target", "greater than 0"]),
        ("network=3", ["network", "mapping"]),
        ("kind=functional", ["kind", "traffic", "did you mean 'function'"]),
    ],
)
def test_a_bad_override_is_refused(override, parts):
    sentence = message(SMALL, override)
    assert sentence.startswith(f"--set {override!r}")
    for part in parts:
        assert part in sentence


def test_a_later_override_is_to_blame():
    sentence = message(SMALL, "network.length=300", "network.length=-1")
    assert sentence.startswith("--set 'network.length=-1'")


CROSSING = "network: {kind: intersection}"
CARS = "vehicles: {human: {count: 4}}"


@pytest.mark.parametrize(
    ("sections", "place", "parts"),
    [
        (["network: {kind: gird}", CARS], "4: network.kind", ["did you mean 'grid'", "roundabout"]),
        (["network: {kind: grid, colums: 3}", CARS], "4: network.colums", ["did you mean 'columns'"]),
        (["network: {kind: grid, lanes: 0}", CARS], "4: network.lanes", ["greater than or equal to 1"]),
        (["network: {kind: grid, offsets: [1, 2]}", CARS], "4: network", ["grid: offsets", "9"]),
        (["network: {kind: bottleneck, lanes: 3}", CARS], "4: network", ["multiple of 4"]),
        (["network: {kind: roundabout, radius: 5}", CARS], "4: network", ["radius of at least"]),
        (["network: {kind: sumo}", CARS], "4: network.path", ["missing"]),
        ([f"network: {{kind: sumo, path: {MAPS / 'town.osm'}}}", CARS], "4: network.path", ["town.osm", "<net>"]),
        ([f"network: {{kind: osm, path: {MAPS / 'lanes.net.xml'}}}", CARS], "4: network.path", ["lanes.net.xml"]),
        (
            [f"network: {{kind: sumo, path: {MAPS / 'lanes.net.xml'}, routes: [no.rou.xml]}}"],
            "4: network.routes",
            ["no"],
        ),
        ([f"network: {{kind: sumo, path: {MAPS / 'lanes.net.xml'}, routes: 3}}"], "4: network.routes", ["3"]),
        (["network: {kind: ring, length: 100}", CARS, "signals: {control: actuated}"], "6: signals", ["no signals"]),
        (
            ["network: {kind: intersection, control: priority}", CARS, "signals: {min_green: 3}"],
            "6: signals",
            ["no signals"],
        ),
        ([CROSSING, CARS, "signals: {control: actuatd}"], "6: signals.control", ["did you mean 'actuated'"]),
        ([CROSSING, CARS, "signals: {control: actuated, min_green: 70}"], "6: signals", ["min_duration"]),
        ([CROSSING, CARS, "routes: [{name: a, edges: [west_inn]}]"], "6: routes.0.edges", ["did you mean 'west_in'"]),
        ([CROSSING, CARS, "routes: [{name: a, edges: [west_in, east_out]}]"], "6: routes.0.edges", ["no connection"]),
        ([CROSSING, CARS, "routes: [{name: a, edges: []}]"], "6: routes.0.edges", ["at least 1"]),
        (
            [CROSSING, CARS, "routes: [{name: a, edges: [west_in]}, {name: a, edges: [east_in]}]"],
            "6: routes.1.name",
            ["twice"],
        ),
        (
            [CROSSING, "demand: [{from: west_inn, rate: 3}]"],
            "5: demand.0.from",
            ["there is no edge 'west_inn'", "did you mean 'west_in'"],
        ),
        ([CROSSING, "demand: [{from: 12, rate: 3}]"], "5: demand.0.from", ["there is no edge"]),
        ([CROSSING, "demand: [{rate: 3}]"], "5: demand.0.from", ["missing"]),
        ([CROSSING, "demand: [{form: west_in, rate: 3}]"], "5: demand.0.form", ["did you mean 'from'"]),
        ([CROSSING, "demand: [{from: west_in}]"], "5: demand.0.rate", ["missing", "poisson"]),
        ([CROSSING, "demand: [{from: west_in, rate: -3}]"], "5: demand.0.rate", ["greater than or equal to 0"]),
        ([CROSSING, "demand: [{from: west_in, rate: 3, to: east}]"], "5: demand.0.to", ["there is no edge 'east'"]),
        ([CROSSING, "demand: [{from: west_in, rate: 3, to: south_in}]"], "5: demand.0.to", ["no way", "'south_in'"]),
        ([CROSSING, "demand: [{from: west_in, rate: 3, to: []}]"], "5: demand.0.to", ["at least one"]),
        ([CROSSING, "demand: [{from: west_in, rate: 3, to: {east_out: 0}}]"], "5: demand.0.to", ["above 0"]),
        (
            [CROSSING, "demand: [{from: west_in, rate: 3, to: east_out, turns: {}}]"],
            "5: demand.0.turns",
            ["one of to, routes and turns"],
        ),
        (
            [CROSSING, "demand: [{from: west_in, rate: 3, turns: {west_in: {east_out: 1}}}]"],
            "5: demand.0.turns",
            ["no connection leads"],
        ),
        (
            [CROSSING, "demand: [{from: west_in, rate: 3, turns: {west_out: {east: 1}}}]"],
            "5: demand.0.turns.west_out",
            ["there is no edge 'east'"],
        ),
        (
            [CROSSING, "demand: [{from: west_in, rate: 3, routes: {left: 1}}]"],
            "5: demand.0.routes",
            ["no route 'left'", "has none"],
        ),
        (
            [
                CROSSING,
                "routes: [{name: left, edges: [east_in]}]",
                "demand: [{from: west_in, rate: 3, routes: {left: 1}}]",
            ],
            "6: demand.0.routes",
            ["begins with edge 'east_in'", "'west_in'"],
        ),
        ([CROSSING, "demand: [{from: west_in, kind: schedule}]"], "5: demand.0.times", ["schedule"]),
        ([CROSSING, "demand: [{from: west_in, kind: schedule, times: [1], rate: 3}]"], "5: demand.0.rate", ["belongs"]),
        ([CROSSING, "demand: [{from: west_in, kind: schedule, times: [2, 1]}]"], "5: demand.0.times", ["ascending"]),
        (
            [CROSSING, "demand: [{from: west_in, rate: 3, kind: posson}]"],
            "5: demand.0.kind",
            ["did you mean 'poisson'"],
        ),
        ([CROSSING, "demand: [{from: west_in, rate: 3, begin: 5, end: 1}]"], "5: demand.0.end", ["at least begin = 5"]),
        ([CROSSING, "demand: [{from: west_in, rate: 3, lanes: [2]}]"], "5: demand.0.lanes", ["lanes 0 to 1"]),
        ([CROSSING, "demand: [{from: west_in, rate: 3, vehicles: trucks}]"], "5: demand.0.vehicles", ["human"]),
        (
            [CROSSING, "demand: [{from: west_in, rate: 3, controlled_share: 0.1}]"],
            "5: demand.0.controlled_share",
            ["vehicles.controlled.count"],
        ),
        (
            ["network: {kind: ring, length: 100}", "demand: [{from: 0, rate: 3}]"],
            "5: demand.0",
            ["no exit is reached"],
        ),
        (
            [CROSSING, "origin_destination: [{from: west_in, to: east, rate: 3}]"],
            "5: origin_destination.0.to",
            ["there is no edge 'east'"],
        ),
        ([CROSSING, "origin_destination: no.csv"], "5: origin_destination", ["there is no file 'no.csv'"]),
        ([CROSSING], "vehicles", ["at least one vehicle"]),
        ([CROSSING, CARS, "initial: {kind: empty}"], "6: initial.kind", ["vehicles.human.count"]),
        ([CROSSING, CARS, "initial: {kind: rows}"], "6: initial.kind", ["rows needs", "spread or empty"]),
        ([CROSSING, CARS, "initial: {kind: queue}"], "6: initial.kind", ["queue needs"]),
        ([CROSSING, CARS, "initial: {spacing: 3}"], "6: initial.spacing", ["unknown key", "jitter"]),
        (["network: {kind: ring, length: 100}", CARS, "initial: {kind: spread}"], "6: initial.kind", ["rows, queue"]),
        (
            [CROSSING, "vehicles: {controlled: {count: 2, placement: {lane: 1}}}"],
            "5: vehicles.controlled.placement",
            ["initial.controlled_edges"],
        ),
        (["network: {kind: figure_eight}", "vehicles: {human: {count: 70}}"], "5: vehicles", ["70 vehicles", "fit"]),
        (
            [
                "network: {kind: figure_eight}",
                "vehicles: {controlled: {count: 4}}",
                "initial: {controlled_edges: [left]}",
            ],
            "6: initial.controlled_edges",
            ["4 vehicles", "fit"],
        ),
        (
            ["network: {kind: figure_eight}", CARS, "initial: {controlled_edges: [lft]}"],
            "6: initial.controlled_edges",
            ["did you mean 'left'"],
        ),
        ([CROSSING, "vehicles: {human: {count: 4}, slots: 3}"], "5: vehicles.slots", ["at least the 4 vehicles", "3"]),
        (
            [CROSSING, "vehicles: {human: {count: 4}, classes: {truck: {share: 1.2}}}"],
            "5: vehicles.classes.truck.share",
            ["less than or equal to 1"],
        ),
        (
            [CROSSING, "vehicles: {human: {count: 4}, classes: {a: {share: 0.7}, b: {share: 0.4}}}"],
            "5: vehicles.classes",
            ["sum to at most 1", "1.1"],
        ),
        (
            [CROSSING, "vehicles: {human: {count: 4}, classes: {human: {share: 0.7}}}"],
            "5: vehicles.classes.human",
            ["taken"],
        ),
    ],
)
def test_a_mistake_about_roads_or_demand_is_one_sentence_with_its_place(sections, place, parts):
    sentence = message(scenario_text("\n".join(sections)))
    assert sentence.startswith(f"file.yaml:{place}" if place[0].isdigit() else f"file.yaml: {place}"), sentence
    for part in parts:
        assert part in sentence, sentence


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["table.csv:1", "from,to,rate"]),
        ("from,to\na,b\n", ["table.csv:1", "got 'from,to'"]),
        ("from,to,rate\nwest_in,east_out,many\n", ["table.csv:2", "west_in,east_out,many"]),
        ("from,to,rate\nwest_in,east_out,1,2\n", ["table.csv:2"]),
        ("from,to,rate\n\nwest_in,east_out,-1\n", ["table.csv:3"]),
        ("from,to,rate\nwest_in,eastout,1\n", ["there is no edge 'eastout'", "did you mean 'east_out'"]),
    ],
)
def test_a_bad_table_is_one_sentence(text, parts, tmp_path):
    (tmp_path / "table.csv").write_text(text)
    sentence = message(scenario_text(CROSSING, f"origin_destination: {tmp_path / 'table.csv'}"))
    assert sentence.startswith("file.yaml:5: origin_destination: ")
    for part in parts:
        assert part in sentence, sentence
