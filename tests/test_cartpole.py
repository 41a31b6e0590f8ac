"""The pole on a cart: Newton's laws with the hinge's forces, energy, closed forms, gradients, and a short training."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trafficgrad.agents.episodes import validation
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.agents.train import train
from trafficgrad.envs import CartpoleSwingUp, check_env, make_env
from trafficgrad.physics_scenario import CartpoleConfig
from trafficgrad.scenario_config import load_scenario

PI = math.pi


def newton(config: CartpoleConfig, state: np.ndarray, force: float) -> np.ndarray:
    """Accelerations of cart and pole from Newton's laws for both, with the two forces in the hinge as unknowns."""
    x, angle, speed, rate = state
    half, mass, spin = config.pole_length / 2, config.pole_mass, config.pole_mass * config.pole_length**2 / 12
    s, c = math.sin(angle), math.cos(angle)
    beyond = math.copysign(max(abs(x) - config.track, 0.0), x)
    outer = force - config.damping * speed - config.track_stiffness * beyond
    # unknowns: x'', a'', and the force (h, v) of the pole on the cart
    equations = np.array(
        [
            [config.cart_mass + config.armature, 0.0, -1.0, 0.0],  # cart, along
            [mass, mass * half * c, 1.0, 0.0],  # pole's centre, along
            [0.0, -mass * half * s, 0.0, 1.0],  # pole's centre, upwards
            # pole about its centre, clockwise; (-h, -v) acts at -(half s, half c) from there
            [0.0, spin + config.armature, -half * c, half * s],
        ]
    )
    right = np.array(
        [outer, mass * half * s * rate**2, mass * half * c * rate**2 - mass * config.gravity, -config.damping * rate]
    )
    return np.linalg.solve(equations, right)[:2]


def test_accelerations_are_those_of_newtons_laws():
    rng = np.random.default_rng(0)
    for _ in range(50):
        config = CartpoleConfig(
            **dict(zip(("cart_mass", "pole_mass", "pole_length", "damping"), rng.uniform(0.1, 5.0, 4), strict=True)),
            armature=float(rng.uniform(0, 1)),
            track=1.0,
        )
        env = CartpoleSwingUp(config, dtype=torch.float64)
        state, force = rng.uniform(-3, 3, 4), float(rng.uniform(-20, 20))
        ours = env._accelerations(*torch.tensor(state), torch.tensor(force, dtype=torch.float64))
        np.testing.assert_allclose([float(a) for a in ours], newton(config, state, force), rtol=1e-10, atol=1e-10)


def test_finer_steps_converge_to_the_solution_of_the_equations():
    """Semi-implicit Euler is of first order: a tenth of the step, a tenth of the error."""
    from scipy.integrate import solve_ivp

    config = CartpoleConfig()
    state, action = np.array([0.3, 2.0, -0.5, 1.0]), 0.4

    def slope(_: float, y: np.ndarray) -> np.ndarray:
        return np.concatenate([y[2:], newton(config, y, action * config.force)])

    exact = solve_ivp(slope, (0.0, config.dt * 30), state, rtol=1e-11, atol=1e-11).y[:, -1]
    errors = []
    for substeps in (4, 40, 400):
        env = CartpoleSwingUp(config.model_copy(update={"substeps": substeps}), dtype=torch.float64)
        inner = torch.tensor(state)[None]
        for _ in range(30):
            inner = env.advance(inner, torch.tensor([[action]], dtype=torch.float64))
        errors.append(np.abs(inner[0].numpy() - exact).max())
    assert errors[0] < 0.3
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.3) and errors[2] / errors[1] == pytest.approx(0.1, rel=0.1)


def test_without_action_a_hanging_pole_hangs_and_a_balanced_one_stands_for_a_while():
    env = CartpoleSwingUp(dtype=torch.float64)
    inner, still = torch.tensor([[0.0, -PI, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64), torch.zeros(2, 1)
    for _ in range(240):
        inner = env.advance(inner, still.double())
    torch.testing.assert_close(inner[0], torch.tensor([0.0, -PI, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(inner[1], torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64))


def test_a_constant_force_moves_the_centre_of_mass_as_one():
    """Without friction: M x'' of the whole is the force, whatever the pole does."""
    config = CartpoleConfig(damping=0.0, armature=0.0, track=1e6, substeps=200)
    env = CartpoleSwingUp(config, dtype=torch.float64)
    inner = torch.tensor([[0.0, 2.5, 0.0, 0.0]], dtype=torch.float64)

    def centre(state: Tensor) -> Tensor:
        return state[:, 0] + config.pole_mass / (config.cart_mass + config.pole_mass) * 0.5 * torch.sin(state[:, 1])

    begun, steps = centre(inner), 60
    for _ in range(steps):
        inner = env.advance(inner, torch.full((1, 1), 0.2, dtype=torch.float64))
    time = steps * config.dt
    expected = begun + 0.5 * 0.2 * config.force / (config.cart_mass + config.pole_mass) * time**2
    assert abs(float(centre(inner) - expected)) < 2e-3 * float(expected - begun)


def test_energy_stays_without_friction_and_force():
    """But for an error in proportion to the step."""
    config = CartpoleConfig(damping=0.0, armature=0.0, cart_mass=2.0)

    def energy(state: Tensor) -> float:
        _, angle, speed, rate = state[0].tolist()
        half, m = config.pole_length / 2, config.pole_mass
        squared = (speed + half * math.cos(angle) * rate) ** 2 + (half * math.sin(angle) * rate) ** 2
        turning = m * config.pole_length**2 / 12 * rate**2
        return 0.5 * (config.cart_mass * speed**2 + m * squared + turning) + m * config.gravity * half * math.cos(angle)

    lost = []
    for substeps in (50, 100, 200):
        env = CartpoleSwingUp(config.model_copy(update={"substeps": substeps}), dtype=torch.float64)
        inner = torch.tensor([[0.0, 1.0, 0.3, 0.0]], dtype=torch.float64)
        before = energy(inner)
        for _ in range(120):
            inner = env.advance(inner, torch.zeros(1, 1, dtype=torch.float64))
        lost.append(energy(inner) - before)
    assert abs(lost[0]) < 0.01 * config.pole_mass * config.gravity * config.pole_length
    assert lost[1] / lost[0] == pytest.approx(0.5, rel=0.1) and lost[2] / lost[1] == pytest.approx(0.5, rel=0.1)


def test_observation_and_reward_by_hand():
    env = CartpoleSwingUp(dtype=torch.float64)
    inner = torch.tensor([[1.0, 2 * PI + 0.5, -2.0, 3.0], [0.0, -PI, 0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([1.0, -2.0, math.sin(0.5), math.cos(0.5), 3.0], dtype=torch.float64)
    torch.testing.assert_close(env.observe(inner)[0], expected)
    reward, terms = env.rewarded(inner, torch.zeros(2, 1), inner)
    torch.testing.assert_close(
        reward, torch.tensor([-(0.25 + 0.9 + 0.05 + 0.4), -PI * PI], dtype=torch.float64), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(terms["upright"], torch.cos(inner[:, 1]))


def test_it_starts_hanging_within_its_bounds():
    inner = CartpoleSwingUp(pool_size=4000).reset(4000, torch.Generator().manual_seed(0)).inner
    middle, within = torch.tensor([0.0, -PI, 0.0, 0.0]), torch.tensor([PI / 2, PI / 2, 0.25, 0.25])
    assert bool(((inner - middle).abs() <= within + 1e-6).all())
    assert bool(((inner - middle).abs().amax(0) > 0.98 * within).all())


def test_gradients():
    check_env(CartpoleSwingUp(horizon=30, dtype=torch.float64))
    env = CartpoleSwingUp(dtype=torch.float64)
    inner = torch.tensor([[0.4, 2.0, 0.5, -1.0], [4.6, -0.3, 1.0, 0.2]], dtype=torch.float64, requires_grad=True)
    action = torch.tensor([[0.3], [-0.6]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(env.advance, (inner, action))

    def two_steps(inner: Tensor, action: Tensor) -> Tensor:
        after = env.advance(inner, action)
        return env.rewarded(after, action, env.advance(after, action))[0]

    assert torch.autograd.gradcheck(two_steps, (inner, action))


def test_the_scenario_builds_it():
    scenario = load_scenario("cartpole", ["cartpole.force=500", "horizon_steps=50", "pool_size=7"])
    env = make_env(scenario, dtype=torch.float64)
    assert isinstance(env, CartpoleSwingUp)
    assert env.config.force == 500.0 and env.horizon == scenario.horizon == 50 and env.pool_size == 7
    assert env.dtype == torch.float64


def test_a_short_training_swings_the_pole_up(tmp_path):
    """Hanging is -8 to -10 a decision; a policy that swings up within the episode is above -5."""
    overrides = ("training.decisions=81920", "training.evaluation.every=81920", "training.seed=1")
    experiment = load_experiment("cartpole", overrides=overrides)
    before = validation(experiment.scenario, 32)(experiment.build_networks().policy())["score"]
    result = train(experiment, tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        upright = [float(row["upright"]) for row in csv.DictReader(file)]
    assert before < -6.0
    assert result.best_score is not None and result.best_score > -5.0
    assert np.mean(upright[-3:]) > 0.0 > np.mean(upright[:3])
