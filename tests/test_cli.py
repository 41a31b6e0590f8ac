"""The command line: what it prints, and that a mistake is one sentence and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trafficgrad import __version__, cli
from trafficgrad.scenario_config import list_scenarios

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    f"--set={setting}"
    for setting in (
        "simulation.warmup_steps=5",
        "simulation.horizon_steps=20",
        "pool_size=4",
        "driver_rows=16",
        "training.worlds=2",
        "training.window=4",
        "training.decisions=16",
        "training.evaluation.worlds=1",
    )
]


def test_version(command):
    assert command("--version") == (0, f"trafficgrad {__version__}\n", "")


def test_without_a_command_it_explains_itself(command):
    code, out, err = command()
    assert code == 0 and err == ""
    for name in ("train", "scenarios", "schema"):
        assert f"\n  {name} " in out
    assert command("--help") == (code, out, err)


def test_module_runs():
    run = subprocess.run(
        [sys.executable, "-m", "trafficgrad", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stdout) == (0, f"trafficgrad {__version__}\n")


def test_scenarios_are_listed(command):
    code, out, _ = command("scenarios")
    assert code == 0
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert [(name, text) for name, text in rows] == list_scenarios()


def test_schema_is_json(command):
    code, out, _ = command("schema")
    assert code == 0
    schema = json.loads(out)
    sections = schema["$defs"]
    for model in ("TrafficScenario", "FunctionScenario", "TrainingConfig"):
        assert sections[model]["additionalProperties"] is False
    assert "IDMConfig" in sections
    assert sections["FunctionScenario"]["properties"]["training"] == {"$ref": "#/$defs/TrainingConfig"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["trian", "train"]),
        (["train"], ["FILE"]),
        (["train", "ring_4lane", "--sed", "1"], ["--sed", "--seed"]),
        (["train", "ring_4lane", "--seed", "-1"], ["--seed"]),
        (["train", "ring_4lane", "--seed", "one"], ["--seed", "integer"]),
        (["train", "missing.yaml"], ["missing.yaml", "no such file", "ring_4lane"]),
        (["train", "ring_4lan"], ["did you mean 'ring_4lane'"]),
        (["train", "."], ["folder"]),
        (["train", "ring_4lane", "--set", "network.lenght=3"], ["--set", "network.lenght", "did you mean 'length'"]),
        (["train", "ring_4lane", "--set", "network.length=-3"], ["network.length", "greater than 0", "-3"]),
        (["train", "ring_4lane", "--set", "network.length"], ["key=value"]),
        (["train", "ring_4lane", "--set", "training.wolds=3"], ["training.wolds", "did you mean 'worlds'"]),
        (["train", "ring_4lane", "--agent", "gipo"], ["gipo", "did you mean 'gippo'", "ppo"]),
        (["train", "ring_4lane", "--device", "cudda"], ["cudda", "cpu"]),
        (["train", "ring_4lane", "--resume", *TINY], ["runs/ring_4lane_gippo_seed0", "resume"]),
        (["train", ".", "--resume"], ["config.yaml", "no such file"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(command, arguments, parts):
    code, out, err = command(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("trafficgrad: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


def test_a_misspelt_key_in_a_file_names_the_line(command):
    text = (ROOT / "scenarios" / "ring_4lane.yaml").read_text()
    line = next(i for i, row in enumerate(text.splitlines(), start=1) if row.strip().startswith("time_headway"))
    Path("mine.yaml").write_text(text.replace("time_headway", "time_hedway", 1))
    code, _, err = command("train", "mine.yaml")
    assert code == 2
    assert f"mine.yaml:{line}: vehicles.human.time_hedway" in err and "did you mean 'time_headway'" in err


def test_interrupt_outside_a_training(command, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trafficgrad.scenario_config.list_scenarios", interrupt)
    code, _, err = command("scenarios")
    assert (code, err) == (130, "interrupted\n")


def test_an_error_of_the_system_is_one_sentence(command, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        Path("gone").read_text()

    monkeypatch.setattr("trafficgrad.scenario_config.list_scenarios", fail)
    code, _, err = command("scenarios")
    assert (code, err) == (2, "trafficgrad: gone: No such file or directory\n")


def test_a_bug_keeps_its_traceback(command, monkeypatch):
    monkeypatch.setattr("trafficgrad.scenario_config.list_scenarios", lambda: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["trafficgrad", "scenarios"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_train_and_resume(command):
    code, out, err = command("train", "ring_1lane", "--agent", "ppo", "--seed", "3", *TINY)
    assert code == 0, err
    folder = Path("runs/ring_1lane_ppo_seed3")
    assert out.endswith(f"{folder / 'learning_curve.png'}; now: trafficgrad watch {folder}\n")
    assert {"config.yaml", "last.pt", "best.pt", "metrics.csv", "learning_curve.png"} <= {
        file.name for file in folder.iterdir()
    }
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3

    code, _, err = command("train", "ring_1lane", "--agent", "ppo", "--seed", "3", *TINY)
    assert code == 2 and "already holds a run" in err
    code, _, err = command("train", str(folder), "--resume", "--set", "training.decisions=24")
    assert code == 0, err
    assert len((folder / "metrics.csv").read_text().splitlines()) == 4


def test_looking_at_a_run(command):
    assert command("train", "ring_4lane", "--output", "run", *TINY)[0] == 0

    code, out, err = command("evaluate", "run", "--seeds", "2")
    assert code == 0, err
    for row in ("policy", "human only", "keep lane", "fan out and align"):
        assert row in out
    assert out.splitlines()[-2:] == ["run/time_space.png", "run/learning_curve.png"]
    assert len(Path("run/evaluation.csv").read_text().splitlines()) == 1 + 4 * 2

    code, out, err = command("render", "run", "--seconds", "1", "--size", "480", "270")
    assert (code, out) == (0, "run/episode.mp4\n"), err
    assert Path("run/episode.mp4").stat().st_size > 1000
    code, out, _ = command("render", "run/last.pt", "--seconds", "1", "--size", "480", "270", "--out", "x/still.png")
    assert (code, out) == (0, "x/still.png\n")


def test_a_scenario_without_a_policy_is_judged_by_its_baselines(command):
    settings = [setting for setting in TINY if "training" not in setting]
    code, out, err = command("evaluate", "ring_4lane_waves", "--seeds", "2", *settings)
    assert code == 0, err
    for row in ("human only", "keep lane ", "keep lane and align", "fan out and align"):
        assert f"│ {row}" in out
    assert "│ policy" not in out and "standing %" not in out  # nobody stands in the first seconds
    assert out.splitlines()[-1] == "no policy was asked for; `trafficgrad train ring_4lane_waves` trains one"
    assert not Path("runs").exists()

    slow = [*settings, "--set=initial.speed=0", "--set=simulation.warmup_steps=0"]
    (Path.cwd() / "mine.yaml").write_text((ROOT / "scenarios" / "ring_1lane.yaml").read_text())
    code, out, err = command("evaluate", "mine.yaml", "--seeds", "2", *slow)
    assert code == 0, err
    assert "standing %" in out and "│ human only" in out
    assert command("evaluate", "mine.yml")[0] == 2


def test_a_folder_with_brackets_is_a_name(command):
    """What the terminal's library takes for markup is printed as it is."""
    assert command("train", "ring_1lane", "--output", "[/x]", *TINY)[0] == 0
    code, out, err = command("evaluate", "[/x]", "--seeds", "1")
    assert code == 0, err
    assert "[/x]: " in out


def test_looking_at_human_drivers(command):
    settings = [setting for setting in TINY if "training" not in setting]
    code, out, err = command("simulate", "ring_1lane", "--seeds", "2", *settings)
    assert code == 0, err
    assert "human only" in out and out.splitlines()[-1] == "runs/ring_1lane_human/time_space.png"
    code, out, _ = command("render", "ring_1lane", "--size", "480", "270", "--out", "film.gif", *settings)
    assert (code, out) == (0, "film.gif\n")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["evaluate", "missing"], "no such run"),
        (["evaluate", "."], "is no run folder"),
        (["evaluate", "broken.pt"], "cannot be read"),
        (["evaluate", "broken.pt", "--device", "gpu"], "gpu"),
        (["render", "missing"], "no such file"),
        (["render", "ring_1lane", "--seconds", "0"], "seconds"),
        (["render", "ring_1lane", "--set", "network.lenght=3"], "did you mean 'length'"),
        (["simulate", "ring_1lane", "--seeds", "0"], "--seeds"),
        (["bench", "--threads", "0"], "--threads"),
    ],
)
def test_nothing_to_look_at(command, arguments, part):
    Path("broken.pt").write_bytes(b"no checkpoint")
    code, _, err = command(*arguments)
    assert code == 2 and err.count("\n") == 1 and part in err
