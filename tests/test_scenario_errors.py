"""Every mistake in a scenario file is one sentence with its place."""

from __future__ import annotations

import pytest
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
        ("kind=function", ["kind", "traffic"]),
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
