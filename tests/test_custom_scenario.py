"""Environments of one's own, by import path: every agent trains on them; what cannot be used is named."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trafficgrad.agents.evaluation import load_run
from trafficgrad.agents.experiment import AGENTS, load_experiment
from trafficgrad.agents.train import train
from trafficgrad.envs import check_env, make_env
from trafficgrad.errors import TrafficGradError
from trafficgrad.import_path import import_name
from trafficgrad.scenario_config import CustomScenario, is_scenario, load_scenario, parse_scenario

TOY = (Path(__file__).parent / "toy_env.py").read_text()
MODULE = (
    TOY
    + '''

class Own(ToyEnv):
    """With parameters of all kinds."""

    def __init__(self, vehicles: int | None = 2, horizon: int = 7, dtype: torch.dtype = torch.float32, seed: int = 5):
        super().__init__(vehicles, horizon, dtype=dtype)
        self.seed = seed
        if horizon < 1:
            raise ValueError("an episode has at least one step")


class Half(DifferentiableEnv):
    """Lacks everything."""


@dataclass(frozen=True)
class Plain:
    observation: Tensor
    elapsed: Tensor


class Loose(Own):
    """Its state is no registered record."""

    def reset(self, batch, generator=None):
        state = super().reset(batch, generator)
        return Plain(state.observation, state.elapsed)

    def stagger(self, env_state, generator=None):
        return env_state


CALLED = []


def call(*_, **__):
    CALLED.append(True)


class Careless:
    def __init__(self, *_, **__):
        CALLED.append(True)
'''
)
YAML = """\
kind: custom
name: mine
environment: own_env:Own
arguments: {vehicles: 3}
training:
  worlds: 4
  window: 4
  agent: {kind: ppo}
"""
TINY = ("training.worlds=4", "training.window=4", "training.decisions=32", "training.evaluation.worlds=2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder holds a user's module; nothing of it stays behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_env.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "failing.py").write_text("1 / 0\n")
    (tmp_path / "mine.yaml").write_text(YAML)
    known = set(sys.modules)
    yield tmp_path
    for name in ("own_env", "broken", "failing"):
        if name not in known:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains_by_import_path(agent: str, tmp_path: Path) -> None:
    experiment = load_experiment("own_env:Own", agent, seed=1, overrides=TINY)
    before = {name: x.clone() for name, x in experiment.build_networks().actor.state_dict().items()}
    result = train(experiment, tmp_path / "run", progress=False)
    assert result.iterations == 2 and result.decisions == 32
    after = result.policy.actor.state_dict()
    assert any(not torch.equal(x, before[name]) for name, x in after.items())
    assert "distance" in result.metrics and "evaluation/return" in result.metrics


def test_an_environment_of_ones_own_passes_the_check() -> None:
    check_env(make_env(parse_scenario(YAML, "mine.yaml"), dtype=torch.float64))


def test_a_path_is_a_scenario_without_settings() -> None:
    scenario = load_scenario("own_env:Own", ["arguments.horizon=3", "training.worlds=8"])
    assert isinstance(scenario, CustomScenario) and scenario.kind == "custom" and scenario.name == "Own"
    assert scenario.environment == "own_env:Own" and scenario.training == {"worlds": 8}
    assert is_scenario("own_env:Own") and not is_scenario("own_env.Own") and not is_scenario("C:own_env.yaml")
    assert parse_scenario(scenario.to_yaml(), "resolved") == scenario
    env = make_env(scenario, dtype=torch.float64, seed=3)
    assert (env.horizon, env.dtype, env.seed) == (3, torch.float64, 3)
    assert make_env(load_scenario("own_env:Own", ["arguments.seed=9"]), seed=3).seed == 9


def test_train_resume_and_evaluate_from_the_command_line(command, tmp_path: Path) -> None:
    settings = [f"--set={setting}" for setting in TINY]
    code, out, err = command("train", "own_env:Own", "--agent", "gippo", *settings)
    assert code == 0, err
    run = Path("runs/Own_gippo_seed0")
    assert out.endswith(f"now: trafficgrad evaluate {run}\n") and "distance" in out
    code, _, err = command("train", str(run), "--resume", "--set", "training.decisions=48")
    assert code == 0, err
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 3
    code, out, err = command("evaluate", str(run), "--seeds", "5")
    assert code == 0, err
    assert "│ policy " in out and "│ random actions" in out and "┃ distance ┃" in " ".join(out.split())
    with (run / "evaluation.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * 5
    code, out, err = command("evaluate", "own_env:Own", "--seeds", "5")
    assert code == 0, err
    assert out.splitlines()[-1] == "no policy was asked for; `trafficgrad train own_env:Own` trains one"
    code, out, err = command("render", "mine.yaml")
    assert code == 2 and "of kind custom, but this needs one of kind traffic" in err


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    longer = (*TINY, "training.decisions=64")
    whole = train(load_experiment("mine.yaml", overrides=longer), tmp_path / "whole", progress=False)
    train(load_experiment("mine.yaml", overrides=TINY), tmp_path / "parts", progress=False)
    again = load_experiment(tmp_path / "parts" / "config.yaml", overrides=["training.decisions=64"])
    parts = train(again, tmp_path / "parts", resume=True, progress=False)
    for one, other in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    loaded = load_run(tmp_path / "parts")
    assert loaded.scenario.environment == "own_env:Own" and loaded.scenario.arguments == {"vehicles": 3}
    assert loaded.policy(torch.zeros(2, 3, 4)).shape == (2, 3, 2)


def test_a_state_that_a_checkpoint_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrafficGradError, match="a Plain whose observation is no field of a registered record"):
        train(load_experiment("own_env:Loose", "ppo", overrides=TINY), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("own_env:Own", "own_envs:Own", "mine.yaml:3: environment: there is no module 'own_envs': expected own_envs"),
        ("own_env:Own", "own_env.sub:Own", "there is no module 'own_env.sub'"),
        ("own_env:Own", "own_env:Owm", "3: environment: module 'own_env' has no 'Owm' (did you mean 'Own'?)"),
        ("own_env:Own", "own_env:call", "own_env:call is a function, expected a class derived from"),
        ("own_env:Own", "own_env:Careless", "own_env:Careless is class Careless, expected a class derived from"),
        ("own_env:Own", "own_env:DT", "own_env:DT is a float, expected a class derived from"),
        ("own_env:Own", "os:system", "os:system is a builtin_function_or_method, expected a class derived from"),
        (
            "own_env:Own",
            "own_env:Half",
            "Half is abstract, expected a class that also defines reset, sample_noise, step",
        ),
        ("own_env:Own", "broken:Own", "module 'broken' cannot be imported: No module named 'nowhere_to_be_found'"),
        ("own_env:Own", "failing:Own", "module 'failing' cannot be imported: ZeroDivisionError: division by zero"),
        ("vehicles: 3", "vehicle: 3", "mine.yaml:4: arguments.vehicle: Own has no such parameter (did you mean 'vehic"),
        ("vehicles: 3", "cars: 3", "Own has no such parameter; it takes vehicles: "),
        ("vehicles: 3", "horizon: 0", "4: arguments: Own cannot be built with them: an episode has at least one step"),
        ("vehicles: 3", "horizon: two", "mine.yaml:4: arguments: Own cannot be built with them: '<' not supported"),
    ],
)
def test_what_cannot_be_an_environment_is_named(old: str, new: str, sentence: str) -> None:
    scenario = parse_scenario(YAML.replace(old, new), "mine.yaml")
    with pytest.raises(TrafficGradError) as error:
        make_env(scenario)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    called = getattr(sys.modules.get("own_env"), "CALLED", [])
    assert called == [], "something was called that is no environment"


@pytest.mark.parametrize(
    "path", ["own_env", "own_env.Own", "own env:Own", "own_env:Own()", "./own_env:Own", "own_env:"]
)
def test_what_is_no_import_path_is_named(path: str) -> None:
    with pytest.raises(TrafficGradError, match="environment: String should match pattern"):
        parse_scenario(YAML.replace("own_env:Own", f'"{path}"'), "mine.yaml")
    with pytest.raises(TrafficGradError, match="expected an import path such as my_module:MyClass"):
        import_name(path)


def test_only_the_processor_where_the_class_knows_no_device() -> None:
    with pytest.raises(TrafficGradError, match="Own has no parameter 'device', so it runs with training"):
        make_env(load_scenario("own_env:Own"), device="meta")


def test_installed_modules_and_folders_are_found(folder: Path) -> None:
    assert make_env(load_scenario("trafficgrad.envs:DeJong", ["arguments.dimension=3"])).action_labels == (
        "x1",
        "x2",
        "x3",
    )
    (folder / "package").mkdir()
    (folder / "package" / "inner.py").write_text("from own_env import Own\n")
    assert import_name("package.inner:Own").__name__ == "Own"
    for name in ("package", "package.inner"):
        sys.modules.pop(name)
