"""The command `compare`: grids of trainings, each a process of its own, resumable; their tables and pictures."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trafficgrad.agents import compare, compare_jobs
from trafficgrad.agents.compare_jobs import ONE_THREAD, Job, Outcome
from trafficgrad.agents.compare_progress import GridProgress, share_done
from trafficgrad.agents.compare_tables import COLUMNS, write_lines
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.agents.suites import SUITES, Group, Row, Suite
from trafficgrad.agents.train import _Session, train
from trafficgrad.errors import TrafficGradError

SMALL = [
    "simulation.warmup_steps=5",
    "simulation.horizon_steps=40",
    "pool_size=4",
    "driver_rows=16",
    "training.worlds=2",
    "training.window=4",
    "training.decisions=32",
    "training.policy.hidden=[8]",
    "training.critic.hidden=[8]",
    "training.evaluation.worlds=1",
]
SET = [f"--set={setting}" for setting in SMALL]

# In place of a training: does what BEHAVIOUR says for "agent seed", and is quick.
STUB = """
import json, os, signal, sys
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text())
folder = Path(job["folder"])
what = json.loads(os.environ["BEHAVIOUR"]).get(f"{job['agent']} {job['seed']}", "")
folder.joinpath("starts").open("a").write("x")
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "raise":
    raise RuntimeError("the bridge is out")
if what == "wait":
    folder.joinpath("pid").write_text(str(os.getpid()))
    os.read(0, 1)
    folder.joinpath("saved").touch()
    sys.exit(130)
value = 10.0 * job["seed"] + len(job["agent"])
record = {"decisions": 32, "updates": 4, "paper": value, "deterministic": value - 1, "cpu_per_update": value / 100}
curve = {"decisions": [16.0, 32.0], "seconds": [1.0, 2.0], "moving_mean": [None, value]}
folder.joinpath("result.json").write_text(json.dumps({"record": record, "curve": curve}))
"""


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Runs are done by the stub; the function says how they behave."""
    script = tmp_path / "stub.py"
    script.write_text(STUB)
    monkeypatch.setattr(compare_jobs, "COMMAND", (sys.executable, str(script)))

    def behave(**what: str) -> None:
        monkeypatch.setenv("BEHAVIOUR", json.dumps({key.replace("_", " "): value for key, value in what.items()}))

    behave()
    return behave


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_trained_resumed_and_never_repeated(command, monkeypatch):
    """Two agents, both at a time; one run was interrupted before."""
    iterate = _Session.iterate

    def interrupted(session):
        if session.iteration == 1:
            raise KeyboardInterrupt
        return iterate(session)

    folder = Path("out/runs/ring_1lane/ppo_seed1")
    with monkeypatch.context() as patch:
        patch.setattr(_Session, "iterate", interrupted)
        experiment = load_experiment("ring_1lane", "ppo", 1, [*ONE_THREAD, *SMALL])
        assert train(experiment, folder, progress=False).interrupted
    begun = lines_of(folder / "metrics.csv")

    grid = ["compare", "ring_1lane", "--seeds", "1", "--jobs", "2", "--output", "out", *SET]
    code, out, err = command(*grid, "--agents", "ppo,gippo")
    assert code == 0, err
    assert "2 of 2 runs done" in out
    assert out.endswith("out/table.md\nout/ring_1lane.png\n")

    results = lines_of(Path("out/results.csv"))
    assert list(results[0]) == list(COLUMNS)
    assert [(line["row"], line["seed"]) for line in results] == [("ppo", "1"), ("gippo", "1")]
    for line in results:
        assert (line["status"], line["updates"], line["decisions"], line["episodes"]) == ("finished", "4", "32", "64")
        for name in ("paper", "final_stochastic", "deterministic", "best_deterministic", "cpu_per_update", "seconds"):
            assert np.isfinite(float(line[name])), name
        assert 0 < float(line["deterministic_length"]) <= 40 and "torch" in line["machine"]
    curves = lines_of(Path("out/curves.csv"))
    assert len(curves) == 2 * 4 and {line["row"] for line in curves} == {"ppo", "gippo"}
    assert all(line["alpha"] for line in curves if line["row"] == "gippo")
    assert Path("out/ring_1lane.png").stat().st_size > 10_000
    assert "| ppo | 1 |" in Path("out/table.md").read_text()

    # What was interrupted went on: its first update is still the same.
    assert lines_of(folder / "metrics.csv")[0]["seconds"] == begun[0]["seconds"] and len(begun) == 1
    assert json.loads((folder / "clock.json").read_text())["updates"] == 3

    files = [path for path in Path("out/runs").rglob("*") if path.name in ("last.pt", "result.json", "job.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    code, out, err = command(*grid, "--agents", "gippo")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert len(lines_of(Path("out/results.csv"))) == 2  # those of the other row stay

    code, out, err = command(*grid, "--agents", "ppo", "--set=training.gamma=0.5")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "training.gamma = 0.99, now it would be 0.5" in err and "--output" in err


def test_controllers_drive_beside_the_agents(command):
    """A row that is not trained: once, whatever the number of seeds; again only where what it does has changed."""
    call = ["compare", "ring_1lane", "--controller", "pi saturation", "--controller", "mpc", "--jobs", "1", *SET]
    call += ["--set=scripted.mpc.horizon=4", "--set=scripted.mpc.candidates=2", "--seeds", "2"]
    code, out, _ = command(*call)
    assert code == 0 and "2 of 2 runs" in out
    rows = {line["row"]: line for line in csv.DictReader(Path("runs/compare/results.csv").read_text().splitlines())}
    assert set(rows) == {"pi saturation", "mpc"} and rows["mpc"]["episodes"] == "20" and rows["mpc"]["agent"] == ""
    assert float(rows["mpc"]["deterministic"]) != float(rows["pi saturation"]["deterministic"])
    assert Path("runs/compare/ring_1lane.png").is_file()
    grid = compare.grid(["ring_1lane"], "ppo", 2, controllers=["acc"])
    jobs = compare_jobs.plan(grid.groups[0].scenarios, grid.groups[0].rows, (1, 2), SMALL, Path("elsewhere"))
    assert [str(job) for job in jobs] == [f"ring_1lane, {row}" for row in ("ppo, seed 1", "acc, seed 1", "ppo, seed 2")]
    settings = [*SMALL, "training.decisions=64"]
    (other,) = compare_jobs.plan(["ring_1lane"], grid.groups[0].rows[1:], (1,), settings, Path("elsewhere"))
    assert other.configuration == jobs[1].configuration  # a budget is nothing to it
    (other,) = compare_jobs.plan(
        ["ring_1lane"], grid.groups[0].rows[1:], (1,), [*SMALL, "scripted.mpc.horizon=9"], Path("x")
    )
    assert other.configuration != jobs[1].configuration
    code, _, err = command("compare", "ring_1lane", "--controller", "mcp")
    assert code == 2 and "did you mean 'mpc'" in err


def test_lines_stand_for_runs_whose_folders_are_gone(command, stub):
    """As on another machine, where only the results were brought along."""
    grid = ["compare", "ring_1lane", "--agents", "ppo,gippo", "--seeds", "2", "--jobs", "1", "--output", "out"]
    assert command(*grid)[0] == 0
    shutil.rmtree("out/runs")
    before = Path("out/results.csv").read_text()
    code, _, err = command(*grid, "--set=training.threads=2", "--set=description=another text")
    assert code == 0, err
    assert not Path("out/runs").exists() and Path("out/results.csv").read_text() == before

    # Only what would be computed otherwise now, failed, or has no curve is run.
    agents = "ppo,gippo:training.agent.alpha=0.5"
    grid[3] = agents
    assert command(*grid)[0] == 0
    assert sorted(path.parent.name for path in Path("out/runs").rglob("starts")) == [
        f"{compare_jobs._folder_name(agents[4:])}_seed{seed}" for seed in (1, 2)
    ]
    shutil.rmtree("out/runs")
    lines = lines_of(Path("out/results.csv"))
    lines[0]["status"] = "failed"
    lines[-1]["configuration"] = "another"
    write_lines(Path("out/results.csv"), lines, COLUMNS)
    grid[3] = "ppo,gippo"
    assert command(*grid)[0] == 0
    chosen = [f"{lines[i]['row']}_seed{lines[i]['seed']}" for i in (0, -1)]
    assert sorted(path.parent.name for path in Path("out/runs").rglob("starts")) == sorted(chosen)


def test_a_row_is_trained_where_its_suite_has_it(monkeypatch):
    ours, theirs = Row("ours", "gippo"), Row("theirs", "ppo")
    groups = (Group("first", ("a", "b"), (ours, theirs), 0.1), Group("second", ("b",), (Row("part", "rp"),), 0.1, 3))
    monkeypatch.setitem(SUITES, "small", Suite(groups, {}, {}))

    def rows(agents: str | None) -> list[tuple[tuple[str, ...], list[str]]]:
        chosen = compare.grid([], agents, None, "small").groups
        return [(group.scenarios, [row.label for row in group.rows]) for group in chosen]

    (_, part) = compare.grid([], None, None, "small").groups
    assert part.seeds == 3 and compare.grid([], None, 7, "small").seeds == 7
    assert rows(None) == [(("a", "b"), ["ours", "theirs"]), (("b",), ["part"])]
    quick = replace(groups[0], quick_scenarios=("b",)), replace(groups[1], quick_scenarios=())
    monkeypatch.setitem(SUITES, "short", Suite(quick, {}, {}))
    assert [group.scenarios for group in compare.grid([], None, None, "short", quick=True).groups] == [("b",)]
    named = compare.grid(["b"], None, None, "short", quick=True).groups
    assert [(group.scenarios, len(group.rows)) for group in named] == [(("b",), 2), (("b",), 1)]
    assert len(compare.grid([], None, None, "short").groups[0].scenarios) == 2
    assert rows("theirs") == [(("a", "b"), ["theirs"])]
    assert rows("part,ours") == [(("a", "b"), ["ours"]), (("b",), ["part"])]
    assert rows("lr") == [(("a", "b"), ["lr"])]  # once


def test_a_setting_with_which_a_training_breaks_off(command):
    breaks = "ppo:training.agent.learning_rate=1e38"
    grid = ["compare", "ring_1lane", "--agents", breaks, "--seeds", "1", "--jobs", "1", "--output", "out", *SET]
    code, out, _ = command(*grid)
    assert code == 1 and f"{breaks}, seed 1: failed: " in out
    (line,) = lines_of(Path("out/results.csv"))
    assert line["status"] == "failed" and "finite" in line["message"] and line["paper"] == ""
    assert line["message"] in Path("out/table.md").read_text()


def test_crashes_are_told_and_tried_again(command, stub):
    stub(ppo_1="kill", gippo_2="raise")
    grid = ["compare", "ring_1lane", "--agents", "ppo,gippo", "--seeds", "2", "--jobs", "1", "--output", "out"]
    grid += ["--runs", "elsewhere"]
    code, out, err = command(*grid)
    assert (code, err) == (1, "")
    assert "ppo, seed 1: failed: killed by SIGKILL" in out
    assert "gippo, seed 2: failed: RuntimeError: the bridge is out" in out
    status = {(line["row"], line["seed"]): line["status"] for line in lines_of(Path("out/results.csv"))}
    assert status == {
        ("ppo", "1"): "failed",
        ("ppo", "2"): "finished",
        ("gippo", "1"): "finished",
        ("gippo", "2"): "failed",
    }
    assert "Failed: gippo, seed 2: RuntimeError: the bridge is out" in Path("out/table.md").read_text()
    assert not Path("out/runs").exists()

    stub()
    assert command(*grid)[0] == 0
    assert {line["status"] for line in lines_of(Path("out/results.csv"))} == {"finished"}
    starts = {path.parent.name: len(path.read_text()) for path in Path("elsewhere").rglob("starts")}
    assert starts == {"ppo_seed1": 2, "ppo_seed2": 1, "gippo_seed1": 1, "gippo_seed2": 2}


def test_ctrl_c_lets_runs_save_and_leaves_nothing_running(command, stub):
    stub(ppo_1="wait")
    pid = Path("out/runs/ring_1lane/ppo_seed1/pid").resolve()

    def press() -> None:
        while not (pid.is_file() and pid.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    code, out, err = command("compare", "ring_1lane", "--agents", "ppo", "--seeds", "2", "--jobs", "1", "--output=out")
    assert (code, err) == (130, "interrupted\n")
    assert "0 of 2 runs are done, the others are saved: the same command goes on" in out
    assert (pid.parent / "saved").is_file()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not Path("out/runs/ring_1lane/ppo_seed2").exists()
    assert not list(Path("out/runs").glob(".stop*"))
    assert not Path("out/table.md").exists()


def test_quick_is_short_and_the_table_says_so(command, stub):
    code, out, err = command("compare", "ring_1lane", "--agents", "ppo", "--quick", "--jobs", "1")
    assert code == 0, err
    full = load_experiment("ring_1lane").config.decisions
    folder = Path("runs/compare_quick")
    jobs = [json.loads(path.read_text()) for path in folder.rglob("job.json")]
    assert sorted(job["seed"] for job in jobs) == [1, 2]
    for job in jobs:
        assert job["overrides"] == [*ONE_THREAD, f"training.decisions={round(0.2 * full)}"]
    assert "**Quick:" in (folder / "table.md").read_text() and "**Quick:" in out


def test_only_the_table(command, stub):
    assert command("compare", "ring_1lane", "--agents", "ppo", "--seeds=1", "--jobs=1", "--output=out")[0] == 0
    starts = Path("out/runs/ring_1lane/ppo_seed1/starts")
    for name in ("table.md", "ring_1lane.png"):
        Path("out", name).unlink()
    code, out, _ = command("compare", "--table", "--output", "out")
    assert code == 0 and out.endswith("out/table.md\nout/ring_1lane.png\n")
    assert Path("out/table.md").is_file() and starts.read_text() == "x"
    code, _, err = command("compare", "--table", "--output", "empty")
    assert code == 2 and "no results.csv" in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["ring_1lan"], ["did you mean 'ring_1lane'"]),
        (["ring_1lane", "--agents", "gippo,gipppo"], ["'gipppo'", "did you mean 'gippo'"]),
        (["ring_1lane", "--agents", "ppo:training.wolds=3"], ["did you mean 'worlds'"]),
        (["ring_1lane", "--agents", "ppo,ppo"], ["'ppo' is there twice"]),
        (["ring_1lane", "ring_1lane"], ["'ring_1lane' is there twice"]),
        (["ring_1lane", "--agents", "x=1,ppo"], ["expected NAME", "'x=1'"]),
        (["ring_1lane", "--backend", "locla"], ["'locla'", "did you mean 'local'", "dask"]),
        (["ring_1lane", "--suite", "pacecars"], ["did you mean 'pacecar'"]),
        (["pace_car_5lane", "--suite", "pacecar"], ["no scenario 'pace_car_5lane'", "did you mean"]),
        (["ring_1lane", "--seeds", "0"], ["--seeds"]),
        ([], ["name a scenario", "--suite functions, pacecar, physics, paper"]),
    ],
)
def test_refused_before_anything_starts(command, stub, arguments, parts):
    code, out, err = command("compare", *arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1, err
    for part in parts:
        assert part in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(("backend", "package"), [("dask", "dask[distributed]"), ("ray", "ray[default]")])
def test_a_backend_that_is_not_installed(command, monkeypatch, backend, package):
    monkeypatch.setattr(compare_jobs.importlib.util, "find_spec", lambda name: None)
    code, _, err = command("compare", "ring_1lane", "--backend", backend)
    assert code == 2 and err.count("\n") == 1 and f"pip install '{package}'" in err


def test_two_files_of_one_name(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "scenarios/ring_1lane.yaml").read_text()
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in ("one.yaml", "two.yaml")]
    with pytest.raises(TrafficGradError, match=r"two\.yaml are both named 'ring_1lane'"):
        compare_jobs.plan(files, [Row("ppo", "ppo")], [1], [], tmp_path / "runs")


def test_rows_of_the_command_line():
    assert compare.parse_rows("ppo,rp") == (Row("ppo", "ppo"), Row("rp", "rp"))
    text = "gippo:lane_gradient.mode=blocked,training.policy.hidden=[8,8]"
    assert compare.parse_rows(f"ppo, {text},rp") == (
        Row("ppo", "ppo"),
        Row(text, "gippo", ("lane_gradient.mode=blocked", "training.policy.hidden=[8,8]")),
        Row("rp", "rp"),
    )
    for wrong in ("", "ppo,", "ppo,x=1", ":x=1", "ppo:"):
        with pytest.raises(TrafficGradError, match="expected NAME"):
            compare.parse_rows(wrong)


def test_the_seed_in_overrides(tmp_path):
    row = Row("own traffic", "ppo", ("training.gamma=0.9{seed}", "network.length=300"))
    assert row.overrides_of(3) == ("training.gamma=0.93", "network.length=300")
    jobs = compare_jobs.plan(["ring_1lane"], [row], [1, 2], ["training.reward_offset=0.{seed}"], tmp_path, quick=0.5)
    assert [job.overrides[0] for job in jobs] == ["training.gamma=0.91", "training.gamma=0.92"]
    full = load_experiment("ring_1lane").config.decisions
    assert jobs[1].settings == (*ONE_THREAD, *jobs[1].overrides, f"training.decisions={full // 2}")
    assert jobs[1].overrides[-1] == "training.reward_offset=0.2"
    assert len({job.folder for job in jobs}) == 2 and jobs[0].folder.name.startswith("own_traffic_")


def test_suites():
    grid = compare.grid([], suite="paper")
    assert grid.seeds is None and not grid.quick and {group.seeds for group in grid.groups} == {5}
    assert grid.groups == (*SUITES["functions"].groups, *SUITES["pacecar"].groups[:2])
    for suite in SUITES.values():
        assert set(suite.reference) <= set(suite.scenarios) and all(0 < group.quick < 1 for group in suite.groups)
        assert set(suite.scenarios) - set(suite.reference) <= set(suite.notes)  # why there is nothing beside it
        cells = [(name, row.label) for group in suite.groups for name in group.scenarios for row in group.rows]
        assert len(set(cells)) == len(cells)
        for group in suite.groups:
            assert len({row.label for row in group.rows}) == len(group.rows)
            assert not any("," in row.label for row in group.rows)
    chosen = compare.grid(["ackley_64"], "ppo shifted,gippo:training.gamma=0.9", suite="paper", quick=True)
    own, part = chosen.groups
    assert own.scenarios == part.scenarios == ("ackley_64",) and chosen.seeds == 2 and chosen.quick
    assert part.quick == SUITES["functions"].groups[1].quick
    assert part.rows == tuple(row for row in SUITES["functions"].groups[1].rows if row.label == "ppo shifted")
    assert [row.overrides for row in own.rows] == [("training.gamma=0.9",)]


@pytest.mark.parametrize("group", SUITES["paper"].groups)
def test_every_row_of_a_suite_can_be_trained(group):
    for scenario in group.scenarios:
        for row in group.rows:
            load_experiment(scenario, row.agent, 1, row.overrides_of(1))


def test_progress_tells_shares_and_time_left(tmp_path, capsys):
    jobs = [
        Job("x", "ring", Row("ppo", "ppo"), seed, (), (), tmp_path / str(seed), 1000, False, "")
        for seed in (1, 2, 3, 4)
    ]
    for seed, decisions in ((1, "250"), (2, "2000")):
        jobs[seed - 1].folder.mkdir()
        text = f"iteration,decisions,reward\n1,100,0.5\n2,{decisions},0.25\n3,9"  # the last line is being written
        (jobs[seed - 1].folder / "metrics.csv").write_text(text)
    assert [share_done(job) for job in jobs] == [0.25, 1.0, 0.0, 0.0]
    from rich.console import Console

    with GridProgress(jobs, 3, Console(width=200)) as progress:
        assert progress.left() == "-"
        progress.shares = [1.0, 1.0, 1.25, 0.0]  # two of the 2.75 that are missing
        progress.begun = time.monotonic() - 80.0
        assert progress.left() == "30s"
        progress.ends(0, Outcome("finished"), "ring, ppo, seed 1: fine")
        progress.ends(1, Outcome("failed", "lost"), "ring, ppo, seed 2: failed: lost")
        assert progress.summary(2) == "4 of 7 runs done, 2 running, 1 failed"
    assert capsys.readouterr().out.splitlines()[0] == "4 of 7 runs done: ring, ppo, seed 1: fine"
