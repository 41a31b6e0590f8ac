"""What the documents say is true: every program in them runs, every command exists, every table is current."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trafficgrad
from trafficgrad.agents.experiment import TrainingConfig, load_experiment
from trafficgrad.agents.train import train
from trafficgrad.scenario_config import load_scenario, parse_scenario
from trafficgrad.scenario_reference import reference
from trafficgrad.state import TrafficState

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = sorted((ROOT / "docs" / "api").glob("*.md"))
SHORT = ["--set", "simulation.warmup_steps=20", "--set", "simulation.horizon_steps=200"]
# Arguments that make an example short; what needs hours is shown that it starts.
EXAMPLES: dict[str, list[str]] = {
    "alpha_policy.py": [],
    "calibrate.py": [],
    "calibrate_lane_changes.py": ["1500", "1", "50"],
    "mpc.py": [],
    "plan_trajectory.py": [],
    "recover_state.py": [],
    "tune_gains.py": ["300", "2"],
    "learning_study.py": ["--help"],
    "lane_gate_study.py": ["--table"],
    "signal_timing.py": ["--help"],
    "sweep_search.py": ["pace_car_3lane", "--generations=1", "--population=2", "--worlds=2", "--held-out=4"],
    "draw_midtown.py": ["--output", "."],
    "million_vehicles.py": ["2000"],
    "clean_ppo.py": ["--steps", "256", "--worlds", "4", "--window", "32", *SHORT],
    "jax_pendulum.py": ["--decisions", "2048", "--output", "jax_run"],
    "stable_baselines.py": ["--steps", "256", "--worlds", "4", "--window", "32", *SHORT],
}
QUIET = ("clean_ppo.py", "stable_baselines.py")  # other libraries on ours: any warning is an error
MAIN = (
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . && "
    ".venv/bin/trafficgrad train scenarios/ring_4lane.yaml"
)
TESTS = 'python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ".[dev]" && .venv/bin/python -m pytest'


def _blocks(language: str) -> list[tuple[str, str]]:
    """Name and text of every code block of a language in the documents."""
    found = []
    for document in DOCUMENTS:
        for i, match in enumerate(re.finditer(rf"^```{language}\n(.*?)^```", document.read_text(), re.M | re.S)):
            found.append((f"{document.name}-{i}", match.group(1)))
    return found


PROGRAMS = {name: text for name, text in _blocks("python") if not text.startswith("# examples/")}
COPIES = {name: text for name, text in _blocks("python") if text.startswith("# examples/")}


# Runs programs one after the other in a process, each in a folder of its own; importing torch takes longer than most.
RUNNER = """
import contextlib, json, os, runpy, sys

for folder, program, arguments in json.loads(sys.argv[1]):
    print(f"-- {program}", file=sys.stderr)  # stands above a traceback
    os.chdir(folder)
    sys.argv = [program, *arguments]
    with open("printed.txt", "w") as printed, contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:  # --help
            if end.code:
                raise
"""


def _run(programs: dict[Path, list[str]], folder: Path, options: tuple[str, ...] = ()) -> list[str]:
    """What programs print, given their arguments."""
    folders = [folder / str(i) for i in range(len(programs))]
    for made in folders:
        made.mkdir()
    jobs = [(str(at), str(path), arguments) for at, (path, arguments) in zip(folders, programs.items(), strict=True)]
    run = subprocess.run(
        [sys.executable, *options, "-c", RUNNER, json.dumps(jobs)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return [(made / "printed.txt").read_text() for made in folders]


def test_the_two_commands_stand_on_lines_of_their_own():
    assert f"\n{MAIN}\n" in README
    assert f"\n{TESTS}\n" in README


@pytest.mark.parametrize("part", range(2))
def test_programs_in_documents_run(part, tmp_path):
    documents = sorted({name.rpartition("-")[0] for name in PROGRAMS})[part::2]
    files = {}
    for name, text in PROGRAMS.items():
        if name.rpartition("-")[0] in documents:
            file = tmp_path / f"{name}.py"
            file.write_text(text)
            files[file] = []
    assert len(files) > 2
    _run(files, tmp_path)


def test_the_environment_in_the_documents_is_trained_by_its_path(tmp_path, monkeypatch):
    (text,) = (text for text in PROGRAMS.values() if text.startswith("# point_mass.py\n"))
    (yaml,) = (text for _, text in _blocks("yaml") if "point_mass:PointMass" in text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("point_mass.py").write_text(text)
    Path("mine.yaml").write_text(yaml)
    tiny = ["training.decisions=64", "training.worlds=16", "training.window=2"]
    for file in ("point_mass:PointMass", "mine.yaml"):
        experiment = load_experiment(file, "trig", overrides=tiny)
        assert train(experiment, experiment.scenario.name, progress=False).iterations == 2
    assert experiment.env.horizon == 30
    del sys.modules["point_mass"]


def test_the_notebook_runs_and_says_what_stands_in_it(tmp_path):
    (file,) = (ROOT / "examples").glob("*.ipynb")
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    program = tmp_path / "program.py"
    program.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    (printed,) = _run({program: []}, tmp_path)
    stored = "".join("".join(out["text"]) for cell in cells for out in cell["outputs"] if "text" in out)
    number = re.compile(r"-?\d+\.\d+")
    assert number.sub("_", printed) == number.sub("_", stored)
    human, planned = (float(x) for x in re.findall(r"([\d.]+) % of uniform flow", printed))
    assert human < 80.0 and planned >= 97.0
    for name, within in (("time_headway", 0.05), ("max_acceleration", 0.05), ("min_gap", 0.05)):
        found, true = (float(x) for x in re.findall(rf"{name}: ([\d.]+), in truth ([\d.]+)", printed)[0])
        assert abs(found / true - 1.0) < within
    assert sum("image/png" in out.get("data", {}) for cell in cells for out in cell["outputs"]) == 3


def test_every_example_is_run():
    assert sorted(path.name for path in (ROOT / "examples").glob("*.py")) == sorted(EXAMPLES)


OTHERS = [name for name in EXAMPLES if name not in QUIET]


@pytest.mark.parametrize("names", [QUIET, OTHERS[::2], OTHERS[1::2]], ids=" ".join)
def test_examples_run(names, tmp_path):
    options = ("-W", "error") if names == QUIET else ()
    printed = _run({ROOT / "examples" / name: EXAMPLES[name] for name in names}, tmp_path, options)
    for name, text in zip(names, printed, strict=True):
        assert text
        check_example(name, text)


def check_example(name: str, printed: str) -> None:
    """Of what it prints, what must be true."""
    if name == "calibrate.py":
        headways = [float(x) for x in re.findall(r"\d\.\d+", printed.splitlines()[-1])]
        truth = [0.8 + 0.8 * i / 9 for i in range(9)]
        assert len(headways) == 9
        assert max(abs(a - b) for a, b in zip(headways, truth, strict=True)) < 0.011
    if name == "calibrate_lane_changes.py":
        off = dict(re.findall(r"^(\S.*?) +politeness .* at most (\d+) %", printed, re.M))
        assert int(off["lanes, straight_through"]) <= 15 < int(off["lanes, blocked"])
        assert int(off["likelihood of choices"]) <= 15
    if name == "plan_trajectory.py":
        human, planned = (float(x) for x in re.findall(r"([\d.]+) % of uniform flow", printed))
        assert human < 80.0 and planned >= 97.0
    if name == "recover_state.py":
        before, after = (float(x) for x in re.findall(r"([\d.]+) m (?:at first|found)", printed))
        assert after < 0.1 < before
    if name == "mpc.py":
        costs = [float(x) for x in re.findall(r"cost +([\d.]+)", printed)]
        assert len(costs) == 10 and costs[-1] < 0.1 * costs[0]
    if name == "sweep_search.py":
        found = load_scenario("pace_car_3lane", re.findall(r"--set (\S+)", printed))
        assert found.control.lanes.sweep is not None and found.control.command == "lanes"
        assert all(float(x) > 50.0 for x in re.findall(r"held-out episodes: (\S+) \+-", printed))
    if name == "stable_baselines.py":
        assert re.fullmatch(r"256 decisions in [\d.]+ s; return per episode [\d.]+ -> [\d.]+\n", printed)
    if name == "clean_ppo.py":
        rows = re.findall(r"^([\d,]+) decisions, [\d.]+ s: mean reward ([\d.]+), return ([\d.]+)$", printed, re.M)
        assert [row[0] for row in rows] == ["128", "256"]
        assert all(0 < float(reward) < float(whole) for _, reward, whole in rows)


def test_examples_are_copied_word_for_word():
    assert len(COPIES) == 2
    for text in COPIES.values():
        title, _, body = text.partition("\n")
        assert body == (ROOT / title.removeprefix("# ")).read_text()


def test_scenarios_in_documents_load():
    blocks = _blocks("yaml")
    assert blocks
    for name, text in blocks:
        parse_scenario(text, name).validate_training(TrainingConfig)


def test_the_reference_is_current():
    current = (ROOT / "docs" / "settings.md").read_text() == reference(TrainingConfig) + "\n"
    assert current, "run: trafficgrad schema --markdown > docs/settings.md"


def test_commands_in_documents_exist(capsys):
    from trafficgrad.cli import app

    mentioned = set()
    for document in DOCUMENTS:
        for command in re.findall(r"(?:^|`|/)trafficgrad ([a-z]+)([^`\n|]*)", document.read_text(), re.M):
            mentioned.add((command[0], tuple(re.findall(r"--[a-z]+", command[1]))))
    assert {"train", "evaluate", "render", "simulate", "scenarios", "schema", "bench"} <= {
        name for name, _ in mentioned
    }
    for name, options in sorted(mentioned):
        app([name, "--help"], standalone_mode=False)
        printed = capsys.readouterr().out
        for option in options:
            assert option in printed, f"trafficgrad {name} has no {option}"


def test_links_lead_somewhere():
    for document in [*DOCUMENTS, *REFERENCE]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_public_name_is_in_the_reference():
    shown = {name for page in REFERENCE for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)}
    missing = [name for name in trafficgrad.__all__ if f"trafficgrad.{name}" not in shown]
    assert not missing, "add `::: trafficgrad.NAME` to a page of docs/api"


def test_the_table_of_fields_is_whole():
    """docs/model.md: every field of a state with its shape and unit, as its line in state.py says."""
    source = (ROOT / "trafficgrad" / "state.py").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\[B.*?\]) \| (\S*) ?\| ", (ROOT / "docs" / "model.md").read_text(), re.M)
    assert [name for name, _, _ in rows] == [field.name for field in dataclasses.fields(TrafficState)]
    for name, shape, unit in rows:
        (said,) = re.findall(rf"^    {name}: Tensor.*# (\[B.*)$", source, re.M)
        assert said.startswith(f"{shape} {unit}".strip()), f"{name}: {said}"
