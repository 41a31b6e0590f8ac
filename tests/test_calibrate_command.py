"""The command `trafficgrad calibrate`, and files of drivers in scenarios."""

from __future__ import annotations

import csv

import pytest
import torch
from small_trajectories import NAMES, behind_profile, drawn, two_lanes, write_pairs

import trafficgrad as tg
from trafficgrad.scenario_config import load_scenario, parse_scenario


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    values = drawn(3)
    return values, write_pairs(tmp_path_factory.mktemp("data") / "pairs.csv", behind_profile(values))


def test_what_it_finds_drives_in_a_scenario(pairs, command, tmp_path):
    values, path = pairs
    out, plot = tmp_path / "drivers.yaml", tmp_path / "fit.png"
    code, told, said = command("calibrate", str(path), "--starts", "1", "--out", str(out), "--plot", str(plot))
    assert code == 0, said
    assert "car0" in told and "without effect" in told  # of the leaders, who follow nobody
    assert plot.stat().st_size > 10_000
    scenario = load_scenario("ring_1lane", [f"drivers={out}"])
    assert scenario.drivers is None and scenario.vehicles.human.count == 21
    simulator = scenario.build()
    rows = {name: getattr(simulator.car_following, name)[1:7] for name in NAMES}  # row 0 is controlled
    cars = torch.stack([rows[name][[1, 3, 5]] for name in NAMES], -1)
    torch.testing.assert_close(cars, values.float(), rtol=1e-3, atol=1e-3)
    assert parse_scenario(scenario.to_yaml(), "again") == scenario  # needs the file no more


def test_lane_changes_come_with_it(command, tmp_path):
    _, record = two_lanes(2, politeness=0.3, threshold=0.2, steps=1500, count=24, length=480.0)
    path = tmp_path / "lanes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "time", "position", "speed", "lane"])
        for t in range(0, len(record.position)):
            for n in range(24):
                place, pace = float(record.position[t, 0, n]), float(record.speed[t, 0, n])
                rows.writerow([n, f"{0.1 * t:.1f}", repr(place), repr(pace), int(record.lane[t, 0, n])])
    out = tmp_path / "drivers.yaml"
    options = ("--ring", "480", "--lane-change", "mobil", "--free", "time_headway", "--starts", "1", "--out", str(out))
    code, told, said = command("calibrate", str(path), *options)
    assert code == 0, said
    assert "politeness" in told and "held out" in told
    scenario = load_scenario("ring_4lane", [f"drivers={out}", "lane_change.threshold=0.7"])
    assert scenario.lane_change.politeness != 0.0 and scenario.lane_change.threshold == 0.7  # the option goes first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.csv",), "cannot be read"),
        (("PAIRS", "--model", "krauss"), "unknown car-following model 'krauss'"),
        (("PAIRS", "--lane-change", "mobile"), "unknown lane-change model 'mobile' (did you mean 'mobil'?)"),
        (("PAIRS", "--column", "speed"), "--column 'speed': expected NAME=VALUE"),
        (("PAIRS", "--fix", "min_gap=two"), "'two' is no number"),
        (("PAIRS", "--fix", "gap=2"), "unknown parameter 'gap'"),
        (("PAIRS", "--bounds", "min_gap=2"), "expected NAME=LOWEST:HIGHEST"),
        (("PAIRS", "--free", "min_gap", "--starts", "1", "--plot", "fit.gif"), "'.gif'"),
        (("PAIRS", "--free", "exponent", "--starts", "1", "--out", "d.yaml"), "one exponent for all drivers"),
    ],
)
def test_mistakes_get_one_sentence(pairs, command, arguments, message):
    given = [str(pairs[1]) if word == "PAIRS" else word for word in arguments]
    code, _, said = command("calibrate", *given)
    assert code == 2 and message in said
    assert said.count("\n") == 1


# ---------------------------------------------------------------------- files of drivers


def drivers(tmp_path, text):
    path = tmp_path / "drivers.yaml"
    path.write_text(text, encoding="utf-8")
    return [f"drivers={path}"]


def test_listed_numbers_go_together(tmp_path):
    text = "vehicles:\n  human:\n    desired_speed: {values: [20.0, 30.0]}\n    min_gap: {values: [1.0, 2.0]}\n"
    model = load_scenario("ring_4lane", drivers(tmp_path, text)).build().car_following
    assert model.desired_speed[4:8].tolist() == [20.0, 30.0, 20.0, 30.0]
    assert model.min_gap[4:8].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert model.time_headway[4:].unique().numel() > 2  # still drawn, as the scenario says


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network: {kind: ring}\n", "drivers.yaml:1: network: a file of drivers has the sections"),
        ("vehicles: {humans: {min_gap: 1.0}}\n", "did you mean 'vehicles.human'"),
        ("vehicles: {human: 3}\n", "vehicles.human: expected a mapping"),
        ("vehicles:\n  human:\n    min_gap: -1.0\n", "drivers.yaml:3: vehicles.human.min_gap"),
        ("vehicles:\n  human:\n    min_gap: {values: []}\n", "drivers.yaml:3: vehicles.human.min_gap"),
        ("vehicles:\n  human:\n    gap: 1.0\n", "drivers.yaml:3: vehicles.human.gap: unknown key"),
    ],
)
def test_files_of_drivers_that_are_wrong_say_where(tmp_path, text, message):
    with pytest.raises(tg.TrafficGradError) as error:
        load_scenario("ring_4lane", drivers(tmp_path, text))
    assert message in str(error.value)
