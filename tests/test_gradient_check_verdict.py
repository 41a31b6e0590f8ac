"""The gradient check as a whole: biases that it must find, its verdict, picture and command."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import pytest
import torch
from small_gradient_check import SHORT, TINY, lanes, ring

from trafficgrad import cli
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.gradient_check import (
    Agreement,
    CheckSettings,
    check_gradients,
    gradient_variants,
)
from trafficgrad.gradient_check.verdict import direction, judge, size
from trafficgrad.gradients import LaneGradient
from trafficgrad.render import gradient_check_figure
from trafficgrad.scenario_config import load_scenario

# ---------------------------------------------------------------------- the whole check


@pytest.fixture(scope="module")
def lane_check():
    settings = CheckSettings(windows=8, steps=8, pairs=96, samples=16, exploration=0.3, seed=1)
    return check_gradients(lanes(), settings)


def test_a_blocked_lane_choice_has_no_gradient_at_all(lane_check):
    blocked, straight = lane_check.modes["blocked"], lane_check.modes["straight_through"]
    assert lane_check.components == ("acceleration", "lane_request")
    found = blocked.agreement["all"]["lane_request"]
    assert found.norm == 0.0 and found.norm_ratio == 0.0
    assert found.relative_bias == pytest.approx(1.0)
    assert found.reference_norm > 0 and found.reference_reliability > 0.3
    assert straight.agreement["all"]["lane_request"].norm > 0
    # Between switches blocked is the derivative of the simulation; straight-through adds what blocked leaves out.
    assert blocked.local.largest_error < 1e-5 and blocked.local.cosine > 0.999999
    assert straight.local.cosine < 0.999
    assert blocked.sample.changed == straight.sample.changed > 0
    assert 0 < blocked.sample.differs == straight.sample.differs < 1
    assert "lane_request: no gradient at all" in blocked.verdict
    assert blocked.trust == 0


def test_norms_and_horizons(lane_check):
    assert lane_check.horizons == [1, 2, 4, 8]
    for mode in lane_check.modes.values():
        assert len(mode.norms) == 8 and len(mode.norms[0]) == 1  # decisions, controlled vehicles
        assert mode.horizon[-1]["acceleration"] == mode.agreement["all"]["acceleration"]
        growth = [table["acceleration"].norm for table in mode.horizon]
        assert growth == sorted(growth) and growth[0] > 0


def test_failures_split_the_windows():
    env = TrafficEnv(load_scenario("pace_car_2lane"), dtype=torch.float64)
    settings = CheckSettings(windows=10, steps=24, pairs=24, samples=16, block=24)
    result = check_gradients(env, settings, variants=gradient_variants(env, ["blocked"], {"transition_width": [0.1]}))
    counts = result.reference.windows
    assert counts["all"] == 10 == counts["failure_free"] + counts["with_failures"]
    assert counts["failure_free"] >= 4 and counts["with_failures"] >= 1
    assert 0 < result.reference.failed < counts["with_failures"] / 10
    assert result.judged == "failure_free"
    assert list(result.modes) == ["blocked", "straight_through, width 0.1"]
    assert result.modes["straight_through, width 0.1"].gradient.transition_width == 0.1
    near = result.modes["blocked"].agreement["with_failures"]["everything"]
    assert near.seen < 0.5 < result.modes["blocked"].agreement["failure_free"]["acceleration"].seen
    assert "Near failures" in result.modes["blocked"].verdict and "cliff" in result.verdict


def test_the_seed_decides():
    env, settings = ring(), dataclasses.replace(TINY, pairs=8, samples=4)
    first, second = (check_gradients(env, settings).to_dict() for _ in range(2))
    assert first == second
    other = check_gradients(env, dataclasses.replace(settings, seed=5)).to_dict()
    assert other["modes"]["blocked"]["agreement"] != first["modes"]["blocked"]["agreement"]


def test_numbers_follow_the_size_of_the_scenario():
    small = CheckSettings().for_env(TrafficEnv(load_scenario("pace_car_2lane"), dtype=torch.float64))
    large = CheckSettings().for_env(TrafficEnv(load_scenario("ring_4lane", ["pool_size=1"]), dtype=torch.float64))
    assert small.sizes == (64, 32, 2000, 256, 0.1) and large.sizes == (24, 32, 104, 20, 0.1)
    assert large.horizons == [1, 2, 4, 8, 16, 32]
    assert dataclasses.replace(large, steps=12).horizons == [1, 2, 4, 8, 12]
    rounded = CheckSettings(windows=3, pairs=5, samples=1).for_env(ring())
    assert rounded.sizes == (3, 8, 8, 4, 0.1)


@pytest.mark.parametrize(
    ("change", "trust", "words"),
    [
        ({}, 2, "trust it for windows of 8 decisions."),
        ({"norm_ratio": 3.0}, 1, "size too large (3x): trust its direction, not its size for windows of 8 decisions."),
        ({"true_cosine": 0.8}, 1, "direction mostly right (0.80 ± 0.05, median window 0.95)"),
        ({"median_cosine": 0.2}, 0, "direction unrelated (0.95 ± 0.05, median window 0.20)"),
        ({"true_cosine_error": 0.4}, 0, "its cosine is uncertain (more --windows)"),
        ({"reference_norm": 0.01, "true_cosine": -1.0}, 0, "lane_request: direction wrong"),  # it fills the gradient
        ({"reference_norm": 0.01, "norm": 0.01, "true_cosine": -1.0}, 2, "lane_request (minor): direction wrong"),
        ({"reference_reliability": 0.2, "true_cosine": -1.0}, 2, "lane_request: not measurable"),
    ],
)
def test_trust_follows_its_rules(lane_check, change, trust, words):
    good = Agreement(8, 0.9, 0.05, 0.95, 0.05, 0.95, 1.0, 1.0, 0.1, 0.3, 0.95, 1.0, 0.99)
    table = {"acceleration": good, "lane_request": dataclasses.replace(good, **change), "everything": good}
    mode = dataclasses.replace(
        lane_check.modes["blocked"],
        agreement=lane_check.modes["blocked"].agreement | {"all": table},
        horizon=[table] * 4,
    )
    judged = judge(dataclasses.replace(lane_check, modes={"one": mode}))
    assert judged.modes["one"].trust == trust
    assert words in judged.modes["one"].verdict
    assert ("no gradient can be trusted" in judged.verdict) == (trust == 0)


def test_the_horizon_that_can_be_trusted(lane_check):
    good = Agreement(8, 0.9, 0.05, 0.95, 0.05, 0.95, 1.0, 1.0, 0.1, 0.3, 0.95, 1.0, 0.99)
    tables = [
        {"acceleration": dataclasses.replace(good, **change), "everything": good}
        for change in ({"true_cosine": 0.1, "reference_norm": 0.01}, {}, {"true_cosine": 0.75}, {"true_cosine": 0.5})
    ]
    mode = lane_check.modes["blocked"]
    mode = dataclasses.replace(mode, agreement=mode.agreement | {"all": tables[-1]}, horizon=tables)
    judged = judge(dataclasses.replace(lane_check, modes={"one": mode}))
    # The first decision's return hardly depends on anything and does not count; that of 4 decisions is the last good.
    assert "do not trust it beyond windows of 4 decisions" in judged.modes["one"].verdict


# ---------------------------------------------------------------------- verdict


@pytest.mark.parametrize(
    ("cosine", "word"),
    [(0.95, "right"), (0.8, "mostly right"), (0.4, "weak"), (0.0, "unrelated"), (-0.2, "unrelated"), (-0.9, "wrong")],
)
def test_directions_in_words(cosine, word):
    assert direction(cosine) == word


@pytest.mark.parametrize(
    ("ratio", "word"), [(1.4, "right"), (0.6, "near"), (1.9, "near"), (0.1, "too small"), (7.0, "too large")]
)
def test_sizes_in_words(ratio, word):
    assert size(ratio) == word


# ---------------------------------------------------------------------- pictures


@pytest.mark.parametrize("vehicles", [1, 3])
def test_a_picture_is_drawn(tmp_path, vehicles):
    path = gradient_check_figure(
        tmp_path / "check.png",
        cosines={("steering", "all"): {"a": (0.9, 0.1), "b": (math.nan, math.nan)}},
        horizons=[1, 2],
        norms={"reference": [0.0, 1.0], "a": [0.1, 2.0], "b": [0.0, 0.0]},
        by_vehicle={"a": [[1.0] * vehicles, [0.0] * vehicles], "b": [[0.0] * vehicles] * 2},
        rows=[0, 1],
        row_label="decision",
        title="check",
    )
    assert path.stat().st_size > 10_000


# ---------------------------------------------------------------------- the command


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trafficgrad", "gradcheck", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


QUICK = ["--windows=4", "--steps=2", "--pairs=8", "--samples=4", *(f"--set={setting}" for setting in SHORT)]


def test_json_is_all_that_is_printed(command, tmp_path):
    code, out, err = command("ring_1lane", *QUICK, "--json", "--plot=check.png")
    assert code == 0, err
    record = json.loads(out)
    assert record["scenario"] == "ring_1lane" and record["settings"]["windows"] == 4
    assert set(record["modes"]) == {"blocked", "straight_through", "sigmoid"}
    assert record["modes"]["blocked"]["agreement"]["with_failures"]["everything"]["cosine"] is None
    assert record["modes"]["blocked"]["local"]["largest_error"] < 1e-5
    assert record["horizons"] == [1, 2] and record["verdict"]
    assert (tmp_path / "check.png").is_file()


def test_tables_are_printed(command):
    code, out, err = command("ring_1lane", *QUICK, "--mode=blocked", "--wrt=drivers")
    assert code == 0, err
    for text in ("time_headway", "h = 2", "blocked: ", "Verdict: "):
        assert text in out
    assert "sigmoid" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ring_1lane", "--mode=straight"], "unknown gradient mode 'straight'"),
        (["ring_1lane", "--wrt=acton"], "did you mean 'actions'?"),
        (["ring_1lane", "--steps=9000"], "an episode of 'ring_1lane' has 300"),
        (["ring_1lane", "--widths=0.1"], "leave --widths out"),
        (["pace_car_2lane", "--widths=0.1,zero"], "expected numbers above 0"),
        (["pace_car_2lane", "--vary=memry=1"], "did you mean 'memory'?"),
        (["ring_1lane", "--policy=ring_4lane"], "give a policy that was trained on this scenario"),
        (["ring_1lane", "--set=vehicles.controlled={count: 0}"], "no controlled vehicle"),
        (["ring_1lane", "--sd=0"], "finite sd above 0"),
        (["ring_1lane", "--windows=0"], "windows >= 1"),
        (["ring_9lane"], "no such file"),
    ],
)
def test_a_mistake_is_one_sentence(command, arguments, message):
    code, out, err = command(*arguments)
    assert code == 2 and out == ""
    assert message in err and err.count("\n") == 1


def test_an_interrupt_is_told(command, monkeypatch):
    from trafficgrad.gradient_check import command as module

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "check_gradients", interrupted)
    code, out, err = command("ring_1lane", "--json", *QUICK)
    assert (code, out) == (130, "") and err.endswith("interrupted\n")


def test_variants_keep_the_scenarios_settings():
    env = lanes()
    found = gradient_variants(env, vary={"memory": [1.0]})
    assert list(found) == ["straight_through", "blocked", "sigmoid", "straight_through, memory 1"]
    assert {x.choices for x in found.values()} == {"controlled"}
    assert found["straight_through, memory 1"] == dataclasses.replace(env.simulator.lane_gradient, memory=1.0)
    assert isinstance(found["blocked"], LaneGradient) and found["blocked"].mode == "blocked"
