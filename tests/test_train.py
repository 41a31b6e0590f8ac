"""The training loop: what it writes, how it resumes, stops and refuses."""

import csv
import dataclasses
import math

import pytest
import torch
import yaml
from toy_env import ToyEnv

from trafficgrad.agents import NonFiniteError
from trafficgrad.agents.checkpoint import load_checkpoint, load_policy
from trafficgrad.agents.experiment import Experiment, TrainingConfig, load_experiment, switch_agent
from trafficgrad.agents.logging import MetricsFile
from trafficgrad.agents.lr import LR, LRConfig
from trafficgrad.agents.ppo import PPOConfig
from trafficgrad.agents.rp import RPConfig
from trafficgrad.agents.train import train
from trafficgrad.errors import TrafficGradError

WORLDS, WINDOW = 8, 6
SMALL_AGENTS = {
    "trig": {"kind": "trig", "critic_minibatch": 16, "critic_epochs": 2, "schedule": "constant", "kl": 0.02},
    "gippo": {"kind": "gippo", "minibatch": 16, "epochs": 2},
    "ppo": {"kind": "ppo", "minibatch": 16, "epochs": 2},
    **{
        kind: {"kind": kind, "critic_minibatch": 16, "critic_epochs": 2, "schedule": "constant"}
        for kind in ("lr", "rp", "lr_rp", "pe")
    },
}


def experiment(iterations=4, agent="gippo", env=None, evaluate=None, **config):
    section = {
        "decisions": iterations * WORLDS * WINDOW,
        "worlds": WORLDS,
        "window": WINDOW,
        "agent": agent if isinstance(agent, dict) else SMALL_AGENTS[agent],
        "policy": {"hidden": [8]},
        "critic": {"hidden": [8]},
        **config,
    }
    return Experiment(env or ToyEnv(), TrainingConfig.model_validate(section), evaluate=evaluate)


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(first, second):
    """Everything of two checkpoints but wall-clock seconds and the YAML."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        skip = {"seconds", "yaml"}
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first.keys() - skip)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("agent", list(SMALL_AGENTS))
def test_resume_is_bit_for_bit(tmp_path, agent):
    whole = train(experiment(4, agent), tmp_path / "whole", progress=False)
    train(experiment(2, agent), tmp_path / "parts", progress=False)
    result = train(experiment(4, agent), tmp_path / "parts", resume=True, progress=False)
    assert same(load_checkpoint(tmp_path / "whole/last.pt"), load_checkpoint(tmp_path / "parts/last.pt"))
    assert result.iterations == 4 and result.best_score == whole.best_score
    timed = {"seconds", "decisions_per_second", "update_seconds"}
    for one, two in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}


def test_seed_decides_and_the_global_random_state_does_not(tmp_path):
    before = torch.get_rng_state()
    train(experiment(2), tmp_path / "a", progress=False)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    train(experiment(2), tmp_path / "b", progress=False)
    train(experiment(2, seed=1), tmp_path / "c", progress=False)
    a, b, c = (load_checkpoint(tmp_path / name / "last.pt") for name in "abc")
    assert same(a, b) and not same(a["policy"], c["policy"])


def test_the_run_folder(tmp_path):
    result = train(experiment(3), tmp_path / "run", progress=False)
    run = result.output
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.csv", "last.pt", "best.pt"} <= names
    assert not {name for name in names if name.startswith(".")}
    assert TrainingConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text())["training"]) == (
        experiment(3).config
    )
    table = rows(run)
    assert [row["iteration"] for row in table] == ["1", "2", "3"] and table[-1]["decisions"] == str(3 * WORLDS * WINDOW)
    for name in ("reward", "distance", "alpha", "oorr", "gradient_norm", "gradient_norm_max", "kl"):
        assert math.isfinite(float(table[-1][name])), name
    assert result.metrics["iteration"] == 3 and not result.interrupted
    assert "training" not in load_checkpoint(run / "best.pt")


@pytest.mark.parametrize("agent", list(SMALL_AGENTS))
@pytest.mark.parametrize("vehicles", [2, None])
def test_it_learns(tmp_path, agent, vehicles):
    settings = {"policy": {}, "critic": {}, "worlds": 32, "window": 16, "decisions": 32 * 16 * 25}
    many_steps = agent in ("gippo", "ppo", "trig")
    kind = {"kind": agent} | ({"minibatch": 128} if many_steps else {"learning_rate": 3e-3, "schedule": "constant"})
    if agent in ("lr", "pe"):  # one noisy or short-sighted step a rollout: it needs more of them
        settings["decisions"] *= 4
    train(experiment(agent=kind, env=ToyEnv(vehicles, horizon=20), **settings), tmp_path / "run", progress=False)
    reward = [float(row["reward"]) for row in rows(tmp_path / "run")]
    assert sum(reward[-5:]) / 5 > sum(reward[:5]) / 5 + 0.3


@pytest.mark.parametrize("interrupted_in", ["step", "evaluation"])
@pytest.mark.parametrize("agent", ["gippo", "trig"])
def test_ctrl_c_saves_and_the_resumed_run_is_the_uninterrupted_one(tmp_path, interrupted_in, agent, capsys):
    class Interrupted(ToyEnv):
        def step(self, *arguments):
            if self.steps == 2 * WINDOW + 3:
                raise KeyboardInterrupt
            return super().step(*arguments)

    def broken(policy):
        raise KeyboardInterrupt

    def fine(policy):
        return {"score": 0.0}

    # Everything that a run remembers: the noise, a target network, the spread of values.
    memory = {"noise_memory": 3.0, "critic": {"hidden": [8], "target_share": 0.5, "normalize_value": True}}
    config = {"agent": agent, "evaluation": {"every": 3 * WORLDS * WINDOW}, **(memory if agent == "trig" else {})}
    if interrupted_in == "step":
        first = experiment(4, env=Interrupted(), evaluate=fine, **config)
    else:
        first = experiment(4, evaluate=broken, **config)
    result = train(first, tmp_path / "run")
    assert result.interrupted and result.iterations == 2
    assert "--resume" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run/last.pt")["training"]["iteration"] == 2
    resumed = experiment(4, evaluate=fine, **config)
    assert not train(resumed, tmp_path / "run", resume=True, progress=False).interrupted
    train(resumed, tmp_path / "whole", progress=False)
    assert same(load_checkpoint(tmp_path / "whole/last.pt"), load_checkpoint(tmp_path / "run/last.pt"))


def test_a_nan_stops_and_keeps_the_last_good_policy(tmp_path):
    train(experiment(2), tmp_path / "good", progress=False)
    poisoned = experiment(4, env=ToyEnv(poison=(3, 2 * WINDOW + 1)))
    with pytest.raises(NonFiniteError, match=r"iteration 3: .* at decision 1 of the window, world 3"):
        train(poisoned, tmp_path / "run", progress=False)
    good, kept = (load_checkpoint(tmp_path / name / "last.pt") for name in ("good", "run"))
    assert same(good, kept)
    assert len(rows(tmp_path / "run")) == 2
    assert load_policy(tmp_path / "run")(torch.zeros(2, 4)).isfinite().all()


def test_any_error_keeps_the_last_good_policy(tmp_path):
    class Failing(ToyEnv):
        def step(self, *arguments):
            if self.steps == WINDOW:
                raise RuntimeError("the bridge is out")
            return super().step(*arguments)

    with pytest.raises(RuntimeError, match="bridge"):
        train(experiment(4, env=Failing()), tmp_path / "run", progress=False)
    assert load_checkpoint(tmp_path / "run/last.pt")["training"]["iteration"] == 1


def test_evaluation_decides_the_best(tmp_path):
    """The mean of the last three, as one alone may be luck."""
    scores = iter([0.1, 0.9, 0.5, 0.6, 0.2])
    policies = []

    def evaluate(policy):
        policies.append(policy(torch.ones(2, 4)))
        return {"score": next(scores), "speed": 3.0}

    result = train(
        experiment(5, evaluate=evaluate, evaluation={"every": WORLDS * WINDOW}), tmp_path / "run", progress=False
    )
    assert result.best_score == pytest.approx((0.9 + 0.5 + 0.6) / 3)
    best = load_checkpoint(tmp_path / "run/best.pt")
    assert best["score"] == result.best_score and best["decisions"] == 4 * WORLDS * WINDOW
    assert torch.equal(load_policy(tmp_path / "run")(torch.ones(2, 4)), policies[3])
    assert [row["score"] for row in rows(tmp_path / "run")] == ["0.1", "0.9", "0.5", "0.6", "0.2"]
    assert rows(tmp_path / "run")[0]["evaluation/speed"] == "3"


def test_evaluations_come_when_due_and_at_the_end(tmp_path):
    def evaluate(policy):
        return {"score": 1.0}

    train(experiment(5, evaluate=evaluate, evaluation={"every": 100}), tmp_path / "run", progress=False)
    assert [row["score"] for row in rows(tmp_path / "run")] == ["", "", "1", "", "1"]  # at 144 and 240 decisions


def test_refusals(tmp_path):
    train(experiment(1), tmp_path / "run", progress=False)
    with pytest.raises(TrafficGradError, match="already holds a run"):
        train(experiment(1), tmp_path / "run", progress=False)
    with pytest.raises(TrafficGradError, match=r"training\.gamma = 0\.5, the run has 0\.99"):
        train(experiment(2, gamma=0.5), tmp_path / "run", resume=True, progress=False)
    with pytest.raises(TrafficGradError, match="to resume"):
        train(experiment(1), tmp_path / "empty", resume=True, progress=False)
    assert not (tmp_path / "empty").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(TrafficGradError, match="cannot be written"):
        train(experiment(1), tmp_path / "file", progress=False)
    with pytest.raises(TrafficGradError, match="float64"):
        train(experiment(1, env=ToyEnv(dtype=torch.float64)), tmp_path / "new", progress=False)
    with pytest.raises(TrafficGradError, match="did you mean 'ay'"):
        experiment(1, frozen_actions=["ayy"])
    with pytest.raises(TrafficGradError, match="every action"):
        experiment(1, frozen_actions=["ax", "ay"])
    with pytest.raises(TrafficGradError, match="device 'gpu'"):
        train(experiment(1, device="gpu"), tmp_path / "new", progress=False)


def test_an_environment_without_gradient_trains_with_ppo_only(tmp_path):
    class Plain(ToyEnv):
        differentiable = False

    with pytest.raises(TrafficGradError, match="differentiable"):
        train(experiment(1, env=Plain()), tmp_path / "a", progress=False)
    train(experiment(1, "ppo", env=Plain()), tmp_path / "b", progress=False)
    train(experiment(1, env=Plain(), agent={"kind": "gippo", "use_gradient": False}), tmp_path / "c", progress=False)


def test_a_finished_run_can_be_extended_only(tmp_path, capsys):
    train(experiment(2), tmp_path / "run", progress=False)
    result = train(experiment(2), tmp_path / "run", resume=True)
    assert result.iterations == 2 and "already has its 96 decisions" in capsys.readouterr().out
    assert train(experiment(3), tmp_path / "run", resume=True, progress=False).iterations == 3


def test_plain_lines_without_a_terminal(tmp_path, capsys):
    train(experiment(2), tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert "gippo, 8 worlds x 6 decisions" in lines[0]
    for title in ("decisions", "dec/s", "reward", "distance", "score", "alpha", "oorr", "|dA/da|", "left"):
        assert title in lines[1].split(), title
    assert len(lines) >= 3 and len(lines[2]) == len(lines[1])


def test_threads_and_dtype(tmp_path):
    before = torch.get_num_threads()
    env = ToyEnv(dtype=torch.float64)
    result = train(experiment(1, env=env, dtype="float64", threads=1), tmp_path / "run", progress=False)
    assert torch.get_num_threads() == before
    assert {x.dtype for x in result.policy.state_dict().values()} == {torch.float64}
    assert load_policy(tmp_path / "run")(torch.zeros(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_frozen_actions_are_zero_in_training(tmp_path):
    class Watch(ToyEnv):
        def step(self, env_state, action, noise=None):
            assert (action[..., 1] == 0).all() and (action[..., 0] != 0).any()
            return super().step(env_state, action, noise)

    result = train(experiment(2, env=Watch(), frozen_actions=["ay"]), tmp_path / "run", progress=False)
    assert (result.policy(torch.ones(5, 3, 4))[..., 1] == 0).all()


def test_switching_the_agent_keeps_shared_keys():
    section = {"seed": 3, "agent": {"kind": "gippo", "alpha": 0.2, "clip": 0.3}}
    assert switch_agent(section, "ppo") == {"seed": 3, "agent": {"kind": "ppo", "clip": 0.3}}
    assert switch_agent(section, "gippo") == section
    assert switch_agent({}, "ppo") == {"agent": {"kind": "ppo"}}
    misspelt = switch_agent({"agent": {"kind": "gippo", "clipp": 0.3}}, "ppo")
    with pytest.raises(ValueError, match="did you mean 'clip'"):
        TrainingConfig.model_validate(misspelt)
    with pytest.raises(TrafficGradError, match="did you mean 'ppo'"):
        switch_agent(section, "pppo")


def test_an_agent_of_another_kind_gets_its_own_defaults_but_for_what_was_asked_for():
    section = {"agent": {"kind": "gippo", "learning_rate": 3e-4, "max_gradient_norm": 2.0}}
    assert switch_agent(section, "rp") == {"agent": {"kind": "rp"}}
    assert switch_agent(section, "rp", {"max_gradient_norm"}) == {"agent": {"kind": "rp", "max_gradient_norm": 2.0}}
    plain = load_experiment("pace_car_2lane", "rp").config.agent
    assert plain == RPConfig()
    chosen = load_experiment("pace_car_2lane", "rp", overrides=["training.agent.learning_rate=2e-3"]).config.agent
    assert chosen == RPConfig(learning_rate=2e-3)
    with pytest.raises(TrafficGradError, match=r"--set 'training\.agent\.clip=0\.1'.*clip: unknown key"):
        load_experiment("pace_car_2lane", "rp", overrides=["training.agent.clip=0.1"])


VARIANTS = """
kind: function
name: small
function: de_jong
dimension: 2
training:
  worlds: 8
  policy: {hidden: [8], log_std: -0.1}
  agent: {kind: gippo, learning_rate: 1.0e-3}
  variants:
    ppo: {agent: {kind: ppo, clip: 0.3}, worlds: 16}
    wide: {policy: {hidden: [32]}}
    broken: {polcy: {hidden: [32]}}
"""


def test_variants_of_a_training(tmp_path):
    """A variant says what differs; settings of the command line win over it; kinds of agents stay choosable."""
    file = tmp_path / "small.yaml"
    file.write_text(VARIANTS)

    def config(agent=None, *overrides):
        return load_experiment(file, agent, overrides=overrides).config

    plain, ppo, wide = config(), config("ppo"), config("wide")
    assert plain.agent.kind == "gippo" and plain.worlds == 8 and plain.variants == {}
    assert ppo.agent == PPOConfig(clip=0.3) and ppo.worlds == 16 and ppo.policy == plain.policy
    assert wide.policy.hidden == [32] and wide.policy.log_std == -0.1 and wide.agent == plain.agent
    assert config("lr").agent == LRConfig()
    chosen = config("ppo", "training.agent.epochs=2", "training.worlds=4")
    assert chosen.agent == PPOConfig(clip=0.3, epochs=2) and chosen.worlds == 4
    with pytest.raises(TrafficGradError, match=r"small\.yaml.*polcy: unknown key \(did you mean 'policy'\?\)"):
        config("broken")
    with pytest.raises(
        TrafficGradError, match=r"unknown agent 'wid'.*did you mean 'wide'.*valid are ppo, wide, .*gippo"
    ):
        config("wid")
    saved = yaml.safe_load(load_experiment(file, "ppo").to_yaml())
    assert saved["training"]["agent"]["kind"] == "ppo" and saved["training"]["variants"] == {}


def test_metrics_file_grows_columns_and_forgets_what_will_come_again(tmp_path):
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.append({"iteration": 1, "reward": 0.5})
    file.append({"iteration": 2, "reward": 0.25, "score": 1.0})
    file.append({"iteration": 3, "reward": 0.125})
    assert rows(tmp_path) == [
        {"iteration": "1", "reward": "0.5", "score": ""},
        {"iteration": "2", "reward": "0.25", "score": "1"},
        {"iteration": "3", "reward": "0.125", "score": ""},
    ]
    MetricsFile(path, keep=2).append({"iteration": 3, "reward": 9.0})
    assert [row["reward"] for row in rows(tmp_path)] == ["0.5", "0.25", "9"]


def test_experiment_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment().config = None


def test_an_agent_of_ones_own_is_trained_like_any_other(tmp_path):
    config = LRConfig.model_validate(SMALL_AGENTS["lr"])
    built_in = experiment(agent="lr")
    own = dataclasses.replace(built_in, agent=lambda networks, generator: LR(config, networks, generator))
    train(built_in, tmp_path / "built_in", progress=False)
    train(own, tmp_path / "own", progress=False)
    assert same(load_checkpoint(tmp_path / "own" / "last.pt"), load_checkpoint(tmp_path / "built_in" / "last.pt"))
    longer = dataclasses.replace(own, config=experiment(iterations=6, agent="lr").config)
    assert train(longer, tmp_path / "own", resume=True, progress=False).iterations == 6


def test_an_agent_of_ones_own_that_needs_gradients_is_refused_where_there_are_none():
    class Blind(ToyEnv):
        differentiable = False

    class Greedy(LR):
        needs_gradient = True

    wants = experiment(agent="lr", env=Blind())
    wants = dataclasses.replace(wants, agent=lambda networks, generator: Greedy(LRConfig(), networks, generator))
    with pytest.raises(TrafficGradError, match="agent of your own needs a differentiable environment"):
        wants.build_agent(wants.build_networks(), torch.Generator())
