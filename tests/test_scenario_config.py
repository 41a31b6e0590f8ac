"""Scenario files: what they say is built as written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from small_scenario import SMALL

from trafficgrad.config import StrictModel
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradients import LaneGradient
from trafficgrad.lane_change import LaneChoice
from trafficgrad.scenario_config import json_schema, list_scenarios, load_scenario, parse_scenario
from trafficgrad.tree import index

RINGS = ("ring_1lane", "ring_4lane", "ring_4lane_hard", "ring_4lane_waves")
NETWORKS = ("bottleneck", "figure_eight", "grid_3x3", "highway_truck", "intersection", "merge", "midtown", "roundabout")
PACE_CARS = tuple(f"pace_car_{lanes}lane" for lanes in (1, 2, 3, 4, 10))
FUNCTIONS = ("ackley_1", "ackley_64", "dejong_1", "dejong_64")
TRAFFIC = tuple(sorted((*PACE_CARS, *RINGS, *NETWORKS)))
PHYSICS = ("ant", "cartpole", "half_cheetah", "hopper")
SHIPPED = tuple(sorted((*TRAFFIC, *FUNCTIONS, *PHYSICS)))


def test_overrides_replace_settings():
    scenario = parse_scenario(
        SMALL,
        "file.yaml",
        [
            "network.length=300",
            "vehicles.human.desired_speed=20",
            "vehicles.human.time_headway.uniform=[1, 2]",
            "reward.0.target=1e1",
            "control.lane_choice.cooldown=1",
            "lane_change={kind: mobil, threshold: 0.3}",
            "training.agent.kind=ppo",
        ],
    )
    assert scenario.network.length == 300.0
    assert scenario.vehicles.human.desired_speed == 20.0
    assert scenario.vehicles.human.time_headway.uniform == (1.0, 2.0)
    assert scenario.reward[0].target == 10.0
    assert scenario.control.lane_choice.cooldown == 1.0
    assert scenario.lane_change.threshold == 0.3
    assert scenario.training == {"agent": {"kind": "ppo"}}


class _Training(StrictModel):
    worlds: int = 1
    rate: float = 1.0


def test_the_training_section_is_checked_where_it_is_written():
    text = SMALL + "training:\n  worlds: 3\n  rate: 5e-4\n"
    assert parse_scenario(text, "file.yaml").validate_training(_Training) == _Training(worlds=3, rate=5e-4)
    assert parse_scenario(SMALL, "file.yaml").validate_training(_Training) == _Training()
    with pytest.raises(TrafficGradError, match=r"^file.yaml:19: training.wolds: unknown key \(did you mean 'worlds'"):
        parse_scenario(text.replace("worlds", "wolds"), "file.yaml").validate_training(_Training)
    changed = parse_scenario(text, "file.yaml").model_copy(update={"training": {"worlds": "many"}})
    with pytest.raises(TrafficGradError, match=r"training\.worlds: should be a valid integer, got 'many'"):
        changed.validate_training(_Training)


@pytest.mark.parametrize("name", SHIPPED)
def test_resolved_yaml_loads_to_an_equal_scenario(name):
    scenario = load_scenario(name)
    again = parse_scenario(scenario.to_yaml(), "resolved")
    assert again == scenario
    assert again.to_yaml() == scenario.to_yaml()
    assert again != load_scenario(name, ["dimension=7" if name in FUNCTIONS else "pool_size=7"])


def test_names_of_shipped_scenarios(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flagship = load_scenario("ring_4lane")
    assert flagship == load_scenario("ring_4lane.yaml") == load_scenario("scenarios/ring_4lane.yaml")
    Path("ring_4lane").write_text(SMALL)
    assert load_scenario("ring_4lane").name == "small"  # a file that is there comes first
    listed = dict(list_scenarios())
    assert tuple(listed) == SHIPPED
    assert tuple(dict(list_scenarios("traffic"))) == TRAFFIC
    assert tuple(dict(list_scenarios("function"))) == FUNCTIONS
    assert all(text.endswith(".") and "\n" not in text for text in listed.values())


def test_schema_describes_every_setting():
    schema = json_schema()
    assert [entry["$ref"].rpartition("/")[2] for entry in schema["oneOf"]] == [
        "TrafficScenario",
        "FunctionScenario",
        "CartpoleScenario",
        "MujocoScenario",
        "CustomScenario",
    ]
    assert schema["$defs"]["TrafficScenario"]["properties"]["kind"]["const"] == "traffic"
    assert schema["$defs"]["FunctionScenario"]["properties"]["kind"]["const"] == "function"
    for name, model in schema["$defs"].items():
        if name == "Placement" or "kind" in model["properties"] or name.endswith("Config"):
            for key, field in model["properties"].items():
                assert key == "kind" or "description" in field or "$ref" in field or "default" in field, (name, key)


def test_defaults_are_those_of_the_simulator():
    scenario = parse_scenario(SMALL, "file.yaml")
    simulator = scenario.build()
    assert simulator.lane_choice == LaneChoice()
    assert simulator.lane_gradient == LaneGradient()
    assert simulator.lane_change is None
    assert simulator.max_braking == float("inf")


def test_drivers_are_drawn_as_written():
    scenario = load_scenario("ring_4lane")
    simulator = scenario.build(seed=3, dtype=torch.float64)
    model, fleet = simulator.car_following, simulator.fleet
    bounds = {"desired_speed": (15, 35), "time_headway": (0.8, 1.4), "max_acceleration": (0.8, 1.6)}
    controlled = {"desired_speed": 25.0, "time_headway": 1.0, "max_acceleration": 1.5}
    for name, (low, high) in bounds.items():
        table = getattr(model, name)
        assert table.shape == (4 + scenario.driver_rows,) and table.dtype == torch.float64
        assert bool((table[:4] == controlled[name]).all())
        human = table[4:]
        assert low <= float(human.min()) and float(human.max()) <= high
        # mean and standard deviation of the uniform distribution, five standard errors
        error = 5 * (high - low) / 12**0.5 / scenario.driver_rows**0.5
        assert abs(float(human.mean()) - (low + high) / 2) < error
        assert abs(float(human.std()) - (high - low) / 12**0.5) < error
    assert model.comfortable_deceleration == 1.5 and isinstance(model.comfortable_deceleration, float)
    assert fleet.acceleration_noise[3:6].tolist() == [0.0, 0.632, 0.632]
    assert fleet.controlled.tolist() == [0, 4, 8, 12] == list(scenario.controlled_slots)
    assert fleet.control == ("lane",) * 4 and fleet.follow_limit == (True,) * 4
    same = scenario.build(seed=3, dtype=torch.float32).car_following.desired_speed
    assert torch.equal(same, model.desired_speed.float())
    assert not torch.equal(same, scenario.build(seed=4).car_following.desired_speed)


def test_everything_of_the_flagship_reaches_the_simulator():
    scenario = load_scenario("ring_4lane")
    simulator = scenario.build()
    change = simulator.lane_change
    assert (change.threshold, change.politeness, change.safe_deceleration, change.cooldown) == (0.1, 0.0, 3.0, 3.0)
    assert (change.right_bias, change.min_gap, change.sides) == (0.0, 0.5, "alternate")
    assert (simulator.dt, simulator.max_braking, simulator.integrator) == (0.1, 9.0, "ballistic")
    assert simulator.network.lane_length.tolist() == [600.0] * 4
    assert scenario.horizon == 300


def test_placement_of_the_flagship():
    scenario = load_scenario("ring_4lane")
    state = scenario.initial_state(3, torch.Generator().manual_seed(0), torch.float64, warm_up=False)
    assert state.position.shape == (3, 60) and state.position.dtype == torch.float64
    for i in range(60):
        lane, row = i % 4, i // 4
        jitter = state.position[:, i] - (row + lane / 4) * 600 / 15
        assert bool((state.lane[:, i] == lane).all())
        assert bool(((jitter >= 0) & (jitter < 1)).all())
    assert bool((state.speed == 8.0).all())
    assert state.driver[:, [0, 4, 8, 12]].tolist() == [[0, 1, 2, 3]] * 3
    human = state.driver[:, [i for i in range(60) if i not in (0, 4, 8, 12)]]
    assert int(human.min()) >= 4 and int(human.max()) < 4 + scenario.driver_rows
    assert human.unique().numel() > 150
    again = scenario.initial_state(3, torch.Generator().manual_seed(0), torch.float64, warm_up=False)
    assert torch.equal(state.position, again.position) and torch.equal(state.driver, again.driver)


@pytest.mark.parametrize("kind", ["ring", "straight"])
def test_a_road_of_several_edges_holds_the_same_places(kind):
    one = parse_scenario(SMALL, "file.yaml", [f"network.kind={kind}"])
    four = parse_scenario(SMALL, "file.yaml", [f"network.kind={kind}", "network.edges=4"])
    a = one.place(2, torch.Generator().manual_seed(1), torch.float64)
    b = four.place(2, torch.Generator().manual_seed(1), torch.float64)
    xy, _ = one.build_network().locate(a.lane, a.position)
    other, _ = four.build_network().locate(b.lane, b.position)
    assert four.build_network().lane_length.tolist() == [50.0] * 8
    assert bool((b.position < 50.0).all()) and bool((b.lane >= 2).any())
    torch.testing.assert_close(xy, other, atol=1e-2, rtol=0)  # polylines of a circle with other corners


def test_jitter_must_not_reach_beyond_a_straight_road():
    crowded = ["network.kind=straight", "vehicles.human.count=10"]  # 6 rows, 33.3 m apart, the last 16.7 m from the end
    parse_scenario(SMALL, "file.yaml", [*crowded, "initial.jitter=16"])
    with pytest.raises(TrafficGradError, match=r"initial\.jitter"):
        parse_scenario(SMALL, "file.yaml", [*crowded, "initial.jitter=17"])


def test_a_generator_for_each_world():
    scenario = load_scenario("ring_4lane", ["simulation.warmup_steps=20", "driver_rows=64"])
    simulator = scenario.build()
    seeds = (7, 8, 9)
    together = scenario.initial_state(3, [torch.Generator().manual_seed(s) for s in seeds], simulator=simulator)
    for world, seed in enumerate(seeds):
        alone = scenario.initial_state(1, torch.Generator().manual_seed(seed), simulator=simulator)
        assert torch.equal(together.position[world], alone.position[0])
        assert torch.equal(together.driver[world], alone.driver[0])


@pytest.mark.parametrize("name", RINGS)
def test_warm_up(name):
    scenario = load_scenario(name, ["simulation.warmup_steps=150", "driver_rows=64"])
    simulator = scenario.build()
    state = scenario.initial_state(2, torch.Generator().manual_seed(5), simulator=simulator)
    assert float(state.time.abs().max()) == 0.0 and float(state.cooldown.abs().max()) == 0.0
    assert not state.position.requires_grad

    # By hand: the same draws, the same steps.
    generator = torch.Generator().manual_seed(5)
    expected = scenario.place(2, generator)
    for _ in range(150):
        expected = simulator.step(expected, None, torch.randn(2, scenario.total, generator=generator))
    for field in dataclasses.fields(state):
        if field.name not in ("time", "cooldown"):
            assert torch.equal(getattr(state, field.name), getattr(expected, field.name)), field.name
    slots = list(scenario.controlled_slots)
    assert bool((state.lane[:, slots] == scenario.vehicles.controlled.placement.lane).all())
    if name == "ring_4lane":
        assert float(expected.cooldown.max()) > 0.0  # somebody had changed lane


def test_a_world_does_not_depend_on_the_others():
    scenario = load_scenario("ring_4lane", ["driver_rows=64"])
    simulator = scenario.build()
    generator = torch.Generator().manual_seed(2)
    start = scenario.place(3, generator)
    noise = torch.randn(50, 3, scenario.total, generator=generator)
    together, alone = start, index(start, slice(1, 2))
    for step in range(50):
        together = simulator.step(together, None, noise[step])
        alone = simulator.step(alone, None, noise[step, 1:2])
    assert torch.equal(together.position[1:2], alone.position)
    assert torch.equal(together.lane[1:2], alone.lane)


def test_shipped_files_are_plain_yaml():
    for name in SHIPPED:
        text = (Path(__file__).parents[1] / "scenarios" / f"{name}.yaml").read_text()
        assert yaml.safe_load(text)["name"] == name
        assert text.startswith("# ") and "look for" in text
