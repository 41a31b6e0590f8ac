"""Every shipped scenario with every agent, for two iterations; shipped policies; hand-written baselines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trafficgrad.agents.episodes import baselines, held_out_env, held_out_traffic, run_episodes
from trafficgrad.agents.evaluation import load_run
from trafficgrad.agents.experiment import AGENTS, load_experiment
from trafficgrad.agents.train import train
from trafficgrad.scenario_config import list_scenarios, load_scenario

SMALL = (
    "simulation.warmup_steps=10", "pool_size=4", "training.worlds=2", "training.window=4", "training.decisions=16",
    "training.evaluation.worlds=1", "simulation.horizon_steps=20",
)  # fmt: skip
NAMES = [name for name, _ in list_scenarios()]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("agent", list(AGENTS))
@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_trains_with_every_agent(name: str, agent: str, tmp_path: Path) -> None:
    result = train(load_experiment(name, agent, 1, SMALL), tmp_path / "run", progress=False)
    assert result.iterations == 2 and result.decisions == 16
    assert (tmp_path / "run" / "best.pt").is_file()
    assert load_run(tmp_path / "run").scenario.name == name


@pytest.mark.parametrize(
    "setting", ["lane_gradient.choices=all", "lane_gradient.mode=blocked", "observation.shared=false"]
)
def test_the_flagship_trains_with_other_gradients_and_a_joint_network(setting: str, tmp_path: Path) -> None:
    result = train(load_experiment("ring_4lane", "gippo", 1, (*SMALL, setting)), tmp_path / "run", progress=False)
    assert result.iterations == 2


@pytest.mark.parametrize("device", DEVICES)
def test_the_device_is_one_word(device: str, tmp_path: Path) -> None:
    result = train(load_experiment("ring_4lane", "gippo", 1, SMALL, device), tmp_path / "run", progress=False)
    assert next(result.policy.parameters()).device.type == device
    assert result.metrics["gradient_norm"] > 0


def test_baselines_of_the_flagship_are_where_an_independent_study_put_them() -> None:
    """Reward per step of human drivers, keep lane, fan out and align: 0.49, 0.54, 0.825, each within 0.03.

    The figures are of 100 seeds; here of 8, whose mean has a standard error of 0.02.
    """
    env = held_out_env(load_scenario("ring_4lane"))
    traffic = held_out_traffic(env, range(8))
    rewards = {name: run_episodes(env, c, traffic).measures for name, c in baselines(env).items()}
    for name, expected in (("human only", 0.49), ("keep lane", 0.54), ("fan out and align", 0.825)):
        assert float(rewards[name]["reward"].mean()) == pytest.approx(expected, abs=0.05), name
        assert float(rewards[name]["collisions"].sum()) == 0


def test_the_shipped_policy_passes_the_gate() -> None:
    from trafficgrad.agents.episodes import policy_controller

    run = load_run("ring_4lane")
    env = held_out_env(run.scenario)
    measures = run_episodes(env, policy_controller(run.policy), held_out_traffic(env, range(8))).measures
    assert float(measures["reward"].mean()) > 0.75
    assert float(measures["late_speed_error"].mean()) < 1.5
    assert float(measures["collisions"].sum()) == 0
    assert torch.isfinite(measures["return"]).all()
