"""Functions as environments: closed forms, an independent implementation, gradients, scenario files and commands."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from oracles.scalar_functions import BOUNDS, SCALAR
from toy_env import ToyEnv

from trafficgrad import tree
from trafficgrad.agents.episodes import HELD_OUT, play, policy_controller, policy_measures, validation
from trafficgrad.agents.evaluation import load_run
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.agents.train import train
from trafficgrad.envs import Ackley, DeJong, make_env
from trafficgrad.envs.functions import FUNCTIONS, FunctionEnv
from trafficgrad.envs.gym_adapter import TrafficGymEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.function_scenario import FunctionName
from trafficgrad.scenario_config import FunctionScenario, load_scenario, load_traffic, parse_scenario

NAMES = tuple(FUNCTIONS)
SHORT = ("training.decisions=256", "training.evaluation.every=128")
TINY = ("training.decisions=16", "training.worlds=8", "training.window=1", "training.evaluation.worlds=1")
TEXT = """\
kind: function
name: mine
function: ackley
dimension: 3
"""


def shifted(name: str, dimension: int, dtype: torch.dtype = torch.float64, seed: int = 3) -> FunctionEnv:
    """A function whose optimum lies anywhere within half the bound."""
    overrides = [f"function={name}", f"dimension={dimension}", f"optimum={{kind: shifted, seed: {seed}}}"]
    env = make_env(parse_scenario(TEXT, "mine.yaml", overrides), dtype=dtype)
    assert isinstance(env, FunctionEnv)
    return env


def actions(env: FunctionEnv, batch: int, seed: int = 0) -> torch.Tensor:
    """Uniform in the box."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.rand(batch, len(env.optimum), generator=generator, dtype=env.dtype) - 1.0


def rewards(env: FunctionEnv, action: torch.Tensor) -> torch.Tensor:
    return env.step(env.reset(len(action)), action)[1].reward


# ---------------------------------------------------------------------- the functions


def test_every_name_of_a_scenario_has_its_function():
    assert tuple(FUNCTIONS) == get_args(FunctionName) == tuple(SCALAR)
    assert {name: function.bound for name, function in FUNCTIONS.items()} == BOUNDS


@pytest.mark.parametrize(
    ("env", "points", "expected"),
    [
        (DeJong(2, dtype=torch.float64), [[3.0, -4.0], [0.0, 0.0], [5.12, 5.12]], [-25.0, 0.0, -2 * 5.12**2]),
        # At whole numbers the waves are at their tops, halfway between at their bottoms.
        (
            Ackley(2, dtype=torch.float64),
            [[3.0, 3.0], [-1.5, 1.5]],
            [20 * math.exp(-0.6) - 20, 20 * math.exp(-0.3) - 20 + math.exp(-1) - math.e],
        ),
    ],
)
def test_closed_forms(env, points, expected):
    points = torch.tensor(points, dtype=torch.float64)
    torch.testing.assert_close(rewards(env, points / env.bound), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dimension", [1, 2, 64])
def test_values_are_those_of_an_independent_implementation(name, dimension):
    env = shifted(name, dimension)
    action = actions(env, 50)
    transition = env.step(env.reset(50), action)[1]
    for row, reward, distance in zip(action.tolist(), transition.reward, transition.terms["distance"], strict=True):
        offset = [BOUNDS[name] * a - o for a, o in zip(row, env.optimum.tolist(), strict=True)]
        assert float(reward) == pytest.approx(SCALAR[name](offset), rel=1e-12, abs=1e-13)
        rms = math.sqrt(sum(x * x for x in offset) / dimension)
        assert float(distance) == pytest.approx(rms / BOUNDS[name], rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dimension", [1, 64])
def test_gradients_are_those_of_central_differences(name, dimension):
    env = shifted(name, dimension)
    action = actions(env, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(rewards(env, action).sum(), action)
    step = 1e-6
    for i in range(dimension):
        ahead, behind = action.detach().clone(), action.detach().clone()
        ahead[:, i] += step
        behind[:, i] -= step
        difference = (rewards(env, ahead) - rewards(env, behind)) / (2 * step)
        torch.testing.assert_close(gradient[:, i], difference, rtol=1e-5, atol=1e-5)
    assert torch.autograd.gradcheck(lambda a: rewards(env, a), action)
    assert dimension > 1 or torch.autograd.gradgradcheck(lambda a: rewards(env, a), action)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimension", [1, 64])
def test_the_optimum(name, dtype, dimension):
    env = FUNCTIONS[name](dimension, dtype=dtype)
    action = torch.zeros(2, dimension, dtype=dtype, requires_grad=True)
    transition = env.step(env.reset(2), action)[1]
    assert transition.reward.tolist() == [0.0, 0.0] and transition.reward.dtype == dtype
    assert transition.terms["distance"].tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(transition.reward.sum(), action)
    assert bool((gradient == 0).all())
    assert float(rewards(env, actions(env, 1000)).max()) < 0.0

    moved = shifted(name, dimension, dtype)
    best = (moved.optimum / moved.bound)[None].requires_grad_()
    reward = rewards(moved, best)
    # A coordinate of the point is rounded, and Ackley's function falls by at most 4 a unit of distance there.
    rounding = 4 * moved.bound * torch.finfo(dtype).eps
    assert -4 * rounding <= float(reward.detach()) <= 0.0
    assert bool(torch.autograd.grad(reward.sum(), best)[0].isfinite().all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dimension", [1, 64])
def test_rewards_close_to_the_optimum_keep_their_digits_in_single_precision(name, dimension):
    env = FUNCTIONS[name](dimension)
    sizes = [10.0**-k for k in range(1, 9)]
    direction = actions(env, 1, seed=5).double()
    points = torch.cat([direction * size for size in sizes]).float()
    found = rewards(env, points / env.bound).double()
    exact = FUNCTIONS[name](dimension, dtype=torch.float64)
    expected = rewards(exact, (points / env.bound).double())
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0.0)
    assert bool((found.diff() > 0).all()) and float(found[-1]) < 0
    # The exact one is the scalar implementation as far as that keeps its own digits.
    row = [env.bound * a for a in (points / env.bound)[3].double().tolist()]
    assert float(expected[3]) == pytest.approx(SCALAR[name](row), abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_beyond_the_box_nothing_changes(name):
    env = FUNCTIONS[name](2, dtype=torch.float64)
    action = torch.tensor([[1.5, -7.0], [0.3, 1.2], [0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    reward = rewards(env, action)
    torch.testing.assert_close(reward.detach(), rewards(env, action.detach().clamp(-1, 1)), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(reward.sum(), action)
    assert (gradient == 0).tolist() == [[True, True], [False, True], [False, False]]


# ---------------------------------------------------------------------- the environment


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_one_decision(name):
    env = FUNCTIONS[name](3)
    assert env.differentiable and env.agents is None and env.horizon == 1
    assert env.observation_labels == ("nothing",) and env.action_labels == ("x1", "x2", "x3")
    assert env.task_measures == ("distance",) and env.sample_noise(5) is None
    state = env.reset(5)
    assert env.present(state) is None and env.stagger(state, torch.Generator()) is state
    env.require_control()
    for _ in range(3):
        state, transition = env.step(state, actions(env, 5))
        for observation in (state.observation, transition.observation, transition.final_observation):
            assert observation.shape == (5, 1) and not bool(observation.any())
        assert state.elapsed.tolist() == [0] * 5 and state.elapsed.dtype == torch.int64
        assert bool(transition.terminated.all()) and not bool(transition.truncated.any())
        assert transition.reward.shape == transition.terms["distance"].shape == (5,)


def test_no_gradient_crosses_the_end_of_an_episode():
    env = Ackley(2)
    action = actions(env, 3).requires_grad_()
    state, transition = env.step(env.reset(3), action)
    assert transition.reward.requires_grad and not transition.terms["distance"].requires_grad
    assert not any(x.requires_grad for x in tree.leaves((state, transition.observation, transition.final_observation)))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_changes_nothing(name):
    env = shifted(name, 4)
    state, action = env.reset(6), actions(env, 6).requires_grad_()
    given = [*tree.leaves(state), action, env.optimum]
    before, versions = [x.clone() for x in given], [x._version for x in given]
    random = torch.get_rng_state()
    first = rewards(env, action)
    first.sum().backward()
    second = env.step(state, action)[1].reward
    assert torch.equal(first, second) and torch.equal(random, torch.get_rng_state())
    assert [x._version for x in given] == versions
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))
    alone = torch.cat([rewards(env, row[None]) for row in action.detach()])
    torch.testing.assert_close(alone, first.detach(), rtol=1e-14, atol=1e-14)  # a world does not know the others


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: DeJong(0), ["at least 1 variable", "0"]),
        (lambda: Ackley(3, torch.zeros(2)), ["[2]", "expected [3]"]),
        (lambda: DeJong(2, torch.tensor([0.0, 5.2])), ["+-5.12", "5.2"]),
        (lambda: DeJong(1, torch.tensor([math.nan])), ["+-5.12", "nan"]),
        (lambda: DeJong(3).step(DeJong(3).reset(2), torch.zeros(2, 1)), ["[2, 1]", "expected [2, 3]"]),
        (lambda: DeJong(3).step(DeJong(3).reset(2), torch.zeros(3)), ["[3]", "expected [2, 3]"]),
    ],
)
def test_refusals_are_one_sentence(build, parts):
    with pytest.raises(TrafficGradError) as error:
        build()
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


# ---------------------------------------------------------------------- scenario files


def test_a_scenario_says_which_function():
    scenario = parse_scenario(TEXT, "mine.yaml")
    assert isinstance(scenario, FunctionScenario) and scenario.horizon == 1
    assert scenario.optimum.kind == "origin" and not bool(scenario.place_of_optimum().any())
    env = make_env(scenario, dtype=torch.float64)
    assert isinstance(env, Ackley) and env.optimum.tolist() == [0.0] * 3 and env.reset(2).observation.dtype == env.dtype
    again = parse_scenario(scenario.to_yaml(), "resolved")
    assert again == scenario and list(again.model_dump()) == list(scenario.model_dump())
    assert scenario.to_yaml().splitlines()[-1] == "training: {}"


@pytest.mark.parametrize("name", NAMES)
def test_a_shifted_optimum_is_drawn_by_its_own_seed(name):
    env, same, other = shifted(name, 50), shifted(name, 50), shifted(name, 50, seed=4)
    assert torch.equal(env.optimum, same.optimum) and not torch.equal(env.optimum, other.optimum)
    assert float(env.optimum.abs().max()) <= 0.5 * env.bound
    assert float(env.optimum.max()) > 0.3 * env.bound and float(env.optimum.min()) < -0.3 * env.bound
    torch.testing.assert_close(shifted(name, 50, torch.float32).optimum, env.optimum.float())
    overrides = ["optimum={kind: shifted, within: 0.01}", "dimension=200"]
    place = parse_scenario(TEXT, "mine.yaml", overrides).place_of_optimum()
    assert place.shape == (200,) and 0.009 < float(place.abs().max()) <= 0.01
    scenario = parse_scenario(TEXT, "mine.yaml", overrides)
    random = torch.get_rng_state()
    assert torch.equal(make_env(scenario, seed=1).optimum, make_env(scenario, seed=2).optimum)
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize(
    ("old", "new", "place", "parts"),
    [
        ("function: ackley", "function: akley", "3: function", ["'akley'", "did you mean 'ackley'", "de_jong"]),
        ("function: ackley\n", "", ": function", ["missing"]),
        ("kind: function", "kind: functoin", "1: kind", ["did you mean 'function'", "traffic"]),
        ("dimension: 3", "dimension: 0", "4: dimension", ["greater than or equal to 1", "0"]),
        ("dimension: 3", "dimension: 2.5", "4: dimension", ["integer", "2.5"]),
        ("dimension", "dimensions", "4: dimensions", ["unknown key", "did you mean 'dimension'"]),
        ("dimension: 3", "dimension: 3\nnetwork: {}", "5: network", ["unknown key", "optimum"]),
        ("dimension: 3", "dimension: 3\noptimum: {}", "5: optimum.kind", ["missing", "origin, shifted"]),
        ("dimension: 3", "dimension: 3\noptimum: {kind: shift}", "5: optimum.kind", ["did you mean 'shifted'"]),
        ("dimension: 3", "dimension: 3\noptimum: {kind: origin, seed: 1}", "5: optimum.seed", ["unknown key"]),
        (
            "dimension: 3",
            "dimension: 3\noptimum: {kind: shifted, within: 1.5}",
            "5: optimum.within",
            ["less than or equal to 1", "1.5"],
        ),
        ("name: mine", "name: my own", "2: name", ["pattern"]),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_with_its_place(old, new, place, parts):
    with pytest.raises(TrafficGradError) as error:
        parse_scenario(TEXT.replace(old, new), "mine.yaml")
    sentence = str(error.value)
    assert sentence.startswith("mine.yaml:") and place in sentence and "\n" not in sentence
    for part in parts:
        assert part in sentence, sentence


@pytest.mark.parametrize("name", ["ackley_1", "ackley_64", "dejong_1", "dejong_64"])
def test_shipped_scenarios(name):
    env = make_env(load_scenario(name))
    kind, dimension = name.split("_")
    assert isinstance(env, {"ackley": Ackley, "dejong": DeJong}[kind])
    assert env.optimum.tolist() == [0.0] * int(dimension)


# ---------------------------------------------------------------------- judging a policy


def test_any_environment_is_played_up_to_the_end_of_its_first_episodes():
    """Beside a loop over single worlds, on an environment with early ends, a time limit, noise and random starts."""
    env, worlds = ToyEnv(vehicles=None, horizon=9, reach=1.2, dtype=torch.float64), 40

    def controller(state):
        return 3.0 * torch.sin(5.0 * state.observation[:, :2])

    played = play(env, controller, worlds, seed=7).measures
    generator = torch.Generator().manual_seed(7)
    state = env.reset(worlds, generator)
    history = []
    for _ in range(env.horizon):
        state, transition = env.step(state, controller(state), env.sample_noise(worlds, generator))
        history.append(transition)
    for world in range(worlds):
        total, length, distance = 0.0, 0, 0.0
        for transition in history:
            total += float(transition.reward[world])
            distance += float(transition.terms["distance"][world])
            length += 1
            if transition.done[world]:
                break
        assert float(played["return"][world]) == pytest.approx(total)
        assert int(played["length"][world]) == length
        assert float(played["reward"][world]) == pytest.approx(total / length)
        assert float(played["distance"][world]) == pytest.approx(distance / length)
    assert 1 <= float(played["length"].min()) < float(played["length"].max()) == env.horizon


def test_measures_of_a_policy_on_a_function():
    scenario = load_scenario("dejong_1", ["optimum={kind: shifted, seed: 1}"])
    policy = load_experiment("dejong_1", overrides=["training.policy.output_gain=1.0"]).build_networks().policy()
    action = float(policy(torch.zeros(1, 1)))
    optimum = 5.12 * float(scenario.place_of_optimum())
    measures = policy_measures(scenario, policy, 3)
    assert measures["return"].tolist() == pytest.approx([-((5.12 * action - optimum) ** 2)] * 3)
    assert measures["length"].tolist() == [1.0] * 3 and torch.equal(measures["reward"], measures["return"])
    assert measures["distance"].tolist() == pytest.approx([abs(action - optimum / 5.12)] * 3)

    noisy = policy_measures(scenario, policy, 500, torch.Generator().manual_seed(2))
    taken = policy.sample(torch.zeros(500, 1), torch.Generator().manual_seed(2))
    torch.testing.assert_close(noisy["return"], -(5.12 * taken[:, 0] - optimum).square())
    assert float(noisy["return"].std()) > 0
    again = policy_measures(scenario, policy, 500, torch.Generator().manual_seed(2))
    assert torch.equal(noisy["return"], again["return"])

    judged = validation(scenario, 2)(policy)
    assert judged["score"] == judged["return"] == pytest.approx(float(measures["return"][0]))


def test_measures_of_a_policy_on_traffic():
    small = ["simulation.warmup_steps=5", "simulation.horizon_steps=20", "pool_size=2", "driver_rows=16"]
    experiment = load_experiment("ring_1lane", overrides=small)
    policy = experiment.build_networks().policy()
    measures = policy_measures(experiment.scenario, policy, 2)
    assert measures["return"].shape == measures["length"].shape == (2,)
    assert measures["length"].tolist() == [experiment.env.horizon] * 2
    noisy = policy_measures(experiment.scenario, policy, 2, torch.Generator().manual_seed(0))
    assert not torch.equal(noisy["return"], measures["return"])
    judged = validation(experiment.scenario, 1)(policy)
    assert judged["score"] == pytest.approx(judged["return"] / experiment.env.horizon)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_policy_is_judged_in_its_own_precision(dtype):
    policy = load_experiment("ackley_1", overrides=[f"training.dtype={dtype}"]).build_networks().policy()
    reward = policy_measures(load_scenario("ackley_1"), policy, 1)["return"]
    assert reward.dtype == getattr(torch, dtype)


# ---------------------------------------------------------------------- training and commands


def test_a_training_of_a_function(tmp_path: Path):
    run = tmp_path / "run"
    result = train(load_experiment("dejong_1", "gippo", 1, SHORT), run, progress=False)
    assert result.decisions == 256 and result.metrics["episode_length"] == 1.0
    assert result.metrics["reward"] == pytest.approx(result.metrics["episode_return"])
    assert 0 < result.metrics["distance"] < 1 and result.metrics["evaluation/length"] == 1.0
    loaded = load_run(run)
    assert loaded.scenario.name == "dejong_1" and loaded.scenario.kind == "function"
    longer = load_experiment(run / "config.yaml", overrides=["training.decisions=320"])
    again = train(longer, run, resume=True, progress=False)
    assert again.decisions == 320


def test_training_and_evaluation_from_the_command_line(command):
    settings = [f"--set={setting}" for setting in SHORT]
    code, out, err = command("train", "ackley_1", "--agent", "ppo", "--output", "run", *settings)
    assert code == 0, err
    assert out.endswith("run/learning_curve.png; now: trafficgrad evaluate run\n") and "distance" in out

    code, out, err = command("evaluate", "run", "--seeds", "50")
    assert code == 0, err
    assert out.splitlines()[-1] == "run/learning_curve.png"
    with Path("run/evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    loaded = load_run("run")
    env = make_env(loaded.scenario)
    certain = play(env, policy_controller(loaded.policy), 1).measures
    generator = torch.Generator().manual_seed(HELD_OUT)
    exploring = policy_measures(loaded.scenario, loaded.policy, 50, generator)
    shown = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert list(shown) == ["policy", "policy, exploring", "random actions"]
    for row, measures in (("policy", certain), ("policy, exploring", exploring)):
        written = [float(line["reward"]) for line in rows if line["controller"] == row]
        assert len(written) == 50
        assert sum(written) / 50 == pytest.approx(float(measures["reward"].mean()), rel=1e-4)
        assert f"{float(measures['reward'].mean()):.4g} ±" in shown[row]
        assert f"{float(measures['distance'].mean()):.3g} ±" in shown[row]


def test_a_function_without_a_policy_is_judged_by_chance(command):
    code, out, err = command("evaluate", "dejong_64")
    assert code == 0, err
    assert "1000 episodes" in out and "│ policy" not in out
    assert out.splitlines()[-1] == "no policy was asked for; `trafficgrad train dejong_64` trains one"
    line = out[out.index("│ random actions") :].partition("\n")[0]
    # Mean of -sum x^2 over the box: -64 * 5.12^2 / 3, with a standard error of 0.3 % over 1000 points
    assert float(line.split("│")[2].split("±")[0]) == pytest.approx(-64 * 5.12**2 / 3, rel=0.02)


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "dejong_1"],
        ["simulate", "dejong_1", "--set", "simulation.dt=0.1"],
        ["render", "dejong_1"],
        ["gradcheck", "dejong_1"],
        ["draw", "dejong_1"],
        ["export", "dejong_1"],
        ["simulate", "mine.yaml"],
        ["render", "mine.yaml", "--seconds", "3"],
        ["render", "run/best.pt"],
    ],
)
def test_commands_for_traffic_refuse_a_function_in_one_sentence(command, arguments):
    Path("mine.yaml").write_text(TEXT)
    if "run/best.pt" in arguments:
        train(load_experiment("mine.yaml", "ppo", 1, TINY), "run", progress=False)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1
    for part in ("kind function", "kind traffic", "trafficgrad train", "trafficgrad evaluate"):
        assert part in err


def test_traffic_is_asked_for_by_kind(tmp_path):
    assert load_traffic("ring_1lane").kind == "traffic"
    for refused in (lambda: load_traffic("ackley_1"), lambda: TrafficGymEnv("ackley_1")):
        with pytest.raises(TrafficGradError, match="'ackley_1' is of kind function"):
            refused()
    with pytest.raises(TrafficGradError, match="did you mean 'traffic'"):
        (tmp_path / "mine.yaml").write_text("kind: trafic\n")
        load_traffic(tmp_path / "mine.yaml")
    with pytest.raises(TrafficGradError, match="unknown value \\[1\\]"):
        (tmp_path / "mine.yaml").write_text("kind: [1]\n")
        load_traffic(tmp_path / "mine.yaml")
