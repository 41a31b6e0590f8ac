"""Environments around a step of one's own: what they return, their gradients, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trafficgrad.agents.experiment import Experiment, TrainingConfig
from trafficgrad.agents.train import train
from trafficgrad.envs import DifferentiableEnv, check_env, from_transition, with_pullback
from trafficgrad.errors import TrafficGradError

DT = 0.1


def cart(state: Tensor, action: Tensor) -> Tensor:
    """A mass on a line: position and speed, semi-implicit Euler."""
    speed = state[:, 1:] + DT * 2.0 * action
    return torch.cat([state[:, :1] + DT * speed, speed], 1)


def start(count: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(count, 2, generator=generator, dtype=torch.float64)


def cost(state: Tensor, action: Tensor, after: Tensor) -> Tensor:
    return -(after.square().sum(1) + 0.1 * action.square().sum(1))


def mass(step=cart, **changes) -> DifferentiableEnv:
    settings = {
        "initial": start,
        "reward": cost,
        "observations": ("position", "speed"),
        "actions": ("force",),
        "horizon": 12,
        "dtype": torch.float64,
        **changes,
    }
    return from_transition(step, **settings)


def adjoint(state: Tensor, action: Tensor):
    """The cart's step without autograd, with its pullback by hand."""
    with torch.no_grad():
        after = cart(state, action)

    def pullback(cotangent: Tensor) -> tuple[Tensor, Tensor]:
        by_speed = cotangent[:, 1] + DT * cotangent[:, 0]
        return torch.stack([cotangent[:, 0], by_speed], 1), DT * 2.0 * by_speed[:, None]

    return after, pullback


def test_environments_of_functions_pass_the_check():
    check_env(mass())
    check_env(mass(failed=lambda state: state[:, 0].abs() > 1.2, pool_size=3))
    check_env(mass(observe=lambda state: state[:, :1].sin(), observations=("sine",)))
    check_env(mass(with_pullback(lambda s, a: adjoint(s, a)[0], adjoint)))


def test_a_state_may_be_a_tree():
    tree = mass(
        lambda state, action: {"x": cart(state["x"], action)},
        initial=lambda count, generator: {"x": start(count, generator)},
        observe=lambda state: state["x"],
        reward=lambda state, action, after: (cost(state["x"], action, after["x"]), {"at": after["x"][:, 0]}),
        task_measures=("at",),
    )
    check_env(tree)
    plain, generator = mass(), torch.Generator().manual_seed(3)
    action = torch.rand(5, 1, dtype=torch.float64, generator=generator)
    begun = [env.reset(5, torch.Generator().manual_seed(0)) for env in (tree, plain)]
    (_, one), (_, other) = (env.step(state, action) for env, state in zip((tree, plain), begun, strict=True))
    assert torch.equal(one.reward, other.reward) and torch.equal(one.observation, other.observation)
    assert torch.equal(one.terms["at"], other.observation[:, 0])


def test_a_pullback_gives_the_gradient_of_the_step_it_stands_for():
    generator = torch.Generator().manual_seed(0)
    state = torch.rand(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    action = torch.rand(4, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    pulled = with_pullback(lambda s, a: adjoint(s, a)[0], adjoint)
    assert torch.autograd.gradcheck(pulled, (state, action))
    weight = torch.rand(4, 2, generator=generator, dtype=torch.float64)
    ours, plain = (
        torch.autograd.grad((f(f(state, action), action) * weight).sum(), (state, action)) for f in (pulled, cart)
    )
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (slope,) = torch.autograd.grad((pulled(state, action) ** 2).sum(), action, create_graph=True)
        slope.sum().backward()


def test_no_pullback_where_no_gradient_is_asked_for():
    asked = []

    def counted(state: Tensor, action: Tensor):
        asked.append(1)
        return adjoint(state, action)

    step = with_pullback(lambda s, a: adjoint(s, a)[0], counted)
    state, action = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    step(state, action)
    with torch.no_grad():
        step(state, action.clone().requires_grad_())
    assert not asked
    step(state, action.clone().requires_grad_())
    assert len(asked) == 1


def test_a_step_of_jax_has_the_gradient_of_differences():
    """The example's pendulum, in a process of its own: JAX starts threads, and other tests fork."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    code = (
        "import json, torch, jax_pendulum as p\n"
        "from trafficgrad.envs import check_env\n"
        "check_env(p.make())\n"
        "after = p.step(torch.tensor([[2.0, 0.5], [0.1, -1.0]]), torch.tensor([[0.3], [-1.0]]))\n"
        "print(json.dumps([p.DT / p.SUBSTEPS, p.SUBSTEPS, p.TORQUE, after.tolist()]))"
    )
    examples = Path(__file__).parents[1] / "examples"
    done = subprocess.run([sys.executable, "-c", code], cwd=examples, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    h, substeps, force, after = json.loads(done.stdout)
    for (angle, rate), torque, reached in zip(((2.0, 0.5), (0.1, -1.0)), (0.3, -1.0), after, strict=True):
        for _ in range(substeps):
            rate += h * (9.81 * math.sin(angle) + force * torque - 0.1 * rate)
            angle += h * rate
        assert reached == pytest.approx([angle, rate], rel=1e-5)


def test_an_episode_ends_by_failure_or_by_time():
    env = mass(failed=lambda state: state[:, 0] > 1.0, horizon=3)
    state = env.reset(2, torch.Generator().manual_seed(0))
    state.inner.copy_(torch.tensor([[0.99, 1.0], [0.0, 0.0]]))
    action = torch.zeros(2, 1, dtype=torch.float64)
    fresh = state.pool[state.pool_next]
    state, transition = env.step(state, action)
    assert transition.terminated.tolist() == [True, False] and not transition.truncated.any()
    assert torch.equal(state.inner[0], fresh[0]) and transition.final_observation[0, 0] > 1.0
    assert state.elapsed.tolist() == [0, 1]
    for _ in range(2):
        state, transition = env.step(state, action)
    assert transition.truncated.tolist() == [False, True] and not transition.terminated.any()


def test_worlds_are_staggered_over_the_episode():
    env = mass(horizon=10)
    state = env.stagger(env.reset(500), torch.Generator().manual_seed(0))
    assert set(state.elapsed.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "a horizon and a pool of at least 1, got 0 and 1024"),
        ({"pool_size": 0}, "a horizon and a pool of at least 1, got 12 and 0"),
    ],
)
def test_what_cannot_be_an_environment(changes, message):
    with pytest.raises(TrafficGradError, match=message):
        mass(**changes)


def test_wrong_shapes_are_named():
    with pytest.raises(TrafficGradError, match=r"shape \[2, 2\], expected \[worlds, 1\], a column for each name"):
        mass(observations=("position",), pool_size=1).reset(2)
    env = mass()
    with pytest.raises(TrafficGradError, match=r"action has shape \[3, 2\], expected \[3, 1\]"):
        env.step(env.reset(3), torch.zeros(3, 2, dtype=torch.float64))


def test_a_gradient_agent_steers_the_mass(tmp_path):
    """The return of doing nothing is about -19 (positions and speeds up to 1); steered it is above -8."""
    config = TrainingConfig.model_validate(
        {
            "agent": {"kind": "rp", "learning_rate": 1e-2},
            "decisions": 12_288,
            "worlds": 32,
            "window": 12,
            "dtype": "float64",
            "policy": {"hidden": [16], "log_std": -1.5},
            "critic": {"hidden": [16]},
        }
    )
    result = train(Experiment(mass(), config), tmp_path / "run")
    assert result.best_score is not None and result.best_score > -8.0
