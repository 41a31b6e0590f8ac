"""MuJoCo's bodies: the next states of gymnasium's environments, Jacobians beside differences, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from trafficgrad.agents.episodes import play, policy_controller, policy_measures
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.envs import Ant, HalfCheetah, Hopper, make_env
from trafficgrad.envs.physics import BODIES, BodyEnv, MujocoStep
from trafficgrad.errors import TrafficGradError
from trafficgrad.kernels.library import use_threads
from trafficgrad.scenario_config import load_scenario

mujoco = pytest.importorskip("mujoco")

GYMNASIUM = {
    Hopper: ("Hopper-v5", {}),
    Ant: ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}),
    HalfCheetah: ("HalfCheetah-v5", {}),
}
OWN_INTEGRATOR = {Hopper: "rk4", Ant: "rk4", HalfCheetah: "euler"}
BODY = pytest.mark.parametrize("body", list(GYMNASIUM))


def in_contact(body: type[BodyEnv], worlds: int = 12, **settings) -> tuple[BodyEnv, Tensor, Tensor]:
    """An environment, states after some random decisions (on the ground), and controls within their range."""
    env = body(dtype=torch.float64, **settings)
    generator = torch.Generator().manual_seed(0)
    state, size = env.reset(worlds, generator), len(env.action_labels)
    with torch.no_grad():
        for _ in range(60 if body is Hopper else 20):
            state, _ = env.step(state, 0.3 * torch.randn(worlds, size, generator=generator, dtype=torch.float64))
    return env, state.inner, 1.8 * torch.rand(worlds, size, generator=generator, dtype=torch.float64) - 0.9


@BODY
def test_next_state_reward_and_end_are_gymnasiums(body):
    """100 random decisions from each of three starts, every one from gymnasium's own state."""
    name, options = GYMNASIUM[body]
    theirs = gymnasium.make(name, **options).unwrapped
    env = body(integrator=OWN_INTEGRATOR[body], dtype=torch.float64)
    rng = np.random.default_rng(0)
    assert env.horizon == gymnasium.spec(name).max_episode_steps
    ours, sums, theirs_sums, worst, rewards = [], 0.0, 0.0, 0.0, []
    for episode in range(3):
        theirs.reset(seed=episode)
        for _ in range(100):
            before = torch.tensor(np.concatenate([theirs.data.qpos, theirs.data.qvel]))[None]
            action = rng.uniform(-1, 1, theirs.model.nu)
            seen, reward, ended, _, _ = theirs.step(action)
            held = torch.tensor(action)[None]
            after = env.advance(before, held)
            worst = max(worst, np.abs(after[0].numpy() - np.concatenate([theirs.data.qpos, theirs.data.qvel])).max())
            np.testing.assert_allclose(env.observe(after)[0].numpy(), seen, rtol=0, atol=1e-10)
            failed = env.failed(after)
            assert (failed is not None and bool(failed)) == ended
            own = float(env.rewarded(before, held, after)[0])
            rewards.append(abs(own - reward))
            sums, theirs_sums = sums + own, theirs_sums + reward
            ours.append(after)
    assert worst < 1e-10
    if body is Ant:  # gymnasium's torso lags within the step
        assert sums == pytest.approx(theirs_sums, abs=0.05 * 3) and max(rewards) < 0.2
    else:
        assert max(rewards) < 1e-10


@BODY
@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_jacobians_in_contact_agree_with_centred_differences(body, integrator):
    env, inner, control = in_contact(body, integrator=integrator)
    inner, control = inner.requires_grad_(), control.requires_grad_()
    weight = torch.randn(inner.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slopes = torch.autograd.grad((env.advance(inner, control) * weight).sum(), (inner, control))

    @torch.no_grad()
    def differences(which: int) -> Tensor:
        point, h = (inner, control)[which], 1e-6
        columns = []
        for axis in torch.eye(point.shape[1], dtype=torch.float64):
            ends = []
            for sign in (1.0, -1.0):
                moved = [inner, control]
                moved[which] = point + sign * h * axis
                ends.append((env.advance(*moved) * weight).sum(1))
            columns.append((ends[0] - ends[1]) / (2 * h))
        return torch.stack(columns, 1)

    for which, slope in enumerate(slopes):
        expected = differences(which)
        relative = (slope - expected).norm(dim=1) / expected.norm(dim=1)
        assert float(relative.median()) < 1e-5


@BODY
def test_starts_are_drawn_like_gymnasiums(body):
    """Ranges of positions, and deviations of rates: uniform noise for the hopper, normal for the others."""
    name, options = GYMNASIUM[body]
    theirs = gymnasium.make(name, **options).unwrapped
    drawn = []
    for seed in range(300):
        theirs.reset(seed=seed)
        drawn.append(np.concatenate([theirs.data.qpos, theirs.data.qvel]))
    expected, env = torch.tensor(np.stack(drawn)), body(pool_size=3000)
    inner, positions = env.reset(3000, torch.Generator().manual_seed(0)).inner, theirs.model.nq
    torch.testing.assert_close(inner.mean(0), expected.mean(0), rtol=0, atol=0.25 * env.reset_noise)
    torch.testing.assert_close(inner.std(0), expected.std(0), rtol=0.2, atol=0)
    furthest = (inner[:, :positions] - inner[:, :positions].mean(0)).abs().max()
    assert float(furthest) == pytest.approx(env.reset_noise, rel=0.05)
    normal = float((inner[:, positions:].abs() > 2.0 * env.reset_noise).double().mean())
    assert normal == (0.0 if body is Hopper else pytest.approx(0.0455, rel=0.1))


def test_centred_differences_are_closer():
    slopes = {}
    for centred in (False, True):
        env, inner, control = in_contact(Hopper, integrator="rk4", eps=1e-5, centred=centred)
        control.requires_grad_()
        slopes[centred] = torch.autograd.grad(env.advance(inner, control).sum(), control)[0]
    env, inner, control = in_contact(Hopper, integrator="rk4", eps=1e-7, centred=True)
    control.requires_grad_()
    exact = torch.autograd.grad(env.advance(inner, control).sum(), control)[0]
    errors = {centred: float((slope - exact).norm()) for centred, slope in slopes.items()}
    assert 0.0 < errors[True] < 0.1 * errors[False]


def test_a_quaternion_counts_as_a_rotation():
    """Its length does not matter, so there is no slope along it; turning it is what MuJoCo's own functions say."""
    env, inner, control = in_contact(Ant, integrator="euler")
    stretched = inner.clone()
    stretched[:, 3:7] *= 1.5
    torch.testing.assert_close(env.advance(stretched, control), env.advance(inner, control), rtol=0, atol=1e-9)
    for start in (inner, stretched):
        begun = start.clone().requires_grad_()
        weight = torch.randn(inner.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        (slope,) = torch.autograd.grad((env.advance(begun, control) * weight).sum(), begun)
        along = (slope[:, 3:7] * start[:, 3:7]).sum(1)
        assert float(along.abs().max()) < 1e-9 * float(slope[:, 3:7].norm(dim=1).max())
    tangent, model = env.simulator._tangent, env.simulator.model
    change = 0.3 * np.random.default_rng(0).standard_normal((len(inner), 2 * model.nv))
    state = inner.numpy()
    moved = tangent.moved(state, change)
    for row in range(len(state)):
        qpos, back = state[row, : model.nq].copy(), np.zeros(model.nv)
        mujoco.mj_integratePos(model, qpos, change[row, : model.nv], 1.0)
        np.testing.assert_allclose(moved[row, : model.nq], qpos, rtol=0, atol=1e-12)
        mujoco.mj_differentiatePos(model, back, 1.0, state[row, : model.nq], moved[row, : model.nq])
        np.testing.assert_allclose(tangent.between(state[row], moved[row])[: model.nv], back, rtol=0, atol=1e-12)
    np.testing.assert_allclose(tangent.between(state, moved), change, rtol=0, atol=1e-9)


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_a_control_at_its_limit_has_the_slope_from_within(integrator):
    env, inner, control = in_contact(Hopper, integrator=integrator)
    slopes = []
    for value in (1.0, 1.0 - 1e-5):
        held = torch.full_like(control, value).requires_grad_()
        slopes.append(torch.autograd.grad(env.advance(inner, held).sum(), held)[0])
    assert float(slopes[0].abs().min()) > 0.0
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-2, atol=1e-6)


def test_no_jacobian_where_no_gradient_is_asked_for():
    env, _, control = in_contact(Hopper, worlds=4, integrator="euler", reward="shaped")
    simulator, state = env.simulator, env.reset(4)
    env.step(state, control)
    with torch.no_grad():
        env.step(state, control.clone().requires_grad_())
    _, transition = env.step(state, control.clone().requires_grad_())  # forwards alone
    assert simulator.jacobians == 0
    transition.reward[:3].sum().backward()
    assert simulator.jacobians == 3  # not of the world that nobody asked about


def test_threads_change_nothing():
    results = []
    for count in (1, 2):
        env, inner, control = in_contact(Ant, worlds=20, integrator="euler")
        control.requires_grad_()
        with use_threads(count):
            after = env.advance(inner, control)
            results.append((after, *torch.autograd.grad(after.sum(), control)))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_window_has_gradients_and_types(dtype):
    env = Hopper(integrator="euler", reward="shaped", dtype=dtype)
    state = env.reset(3, torch.Generator().manual_seed(0))
    assert state.inner.dtype == torch.float64 and state.observation.dtype == dtype
    actions = [torch.zeros(3, 3, dtype=dtype, requires_grad=True) for _ in range(4)]
    total = torch.zeros((), dtype=dtype)
    for action in actions:
        state, transition = env.step(state, action)
        assert transition.reward.dtype == transition.final_observation.dtype == dtype
        total = total + transition.reward.sum()
    slopes = torch.autograd.grad(total, actions)
    assert all(bool(slope.isfinite().all()) and bool(slope.any()) for slope in slopes)


def test_shaped_rewards_slope_where_gymnasiums_do_not():
    for body in (Hopper, Ant):
        env, inner, control = in_contact(body, integrator="euler")
        after = inner.clone().requires_grad_()
        _, terms = env.rewarded(inner, control, after)
        height = {Hopper: 1, Ant: 2}[body]
        (gym,) = torch.autograd.grad(terms["gym"].sum(), after, retain_graph=True)
        (shaped,) = torch.autograd.grad(terms["shaped"].sum(), after)
        assert not gym[:, height:].any() and bool(shaped[:, height].any())
        torch.testing.assert_close(gym[:, 0], torch.full((12,), 1.0 / env.simulator.seconds, dtype=torch.float64))


@pytest.mark.parametrize("name", list(BODIES))
def test_policies_are_judged_by_gymnasiums_dynamics_and_reward(name):
    overrides = ["horizon_steps=15", "training.policy.hidden=[8]"]
    scenario = load_scenario(name, overrides)
    judged, trained = make_env(scenario.judged()), make_env(scenario)
    assert isinstance(judged, BodyEnv) and isinstance(trained, BodyEnv)
    assert (trained.simulator.integrator, trained.reward_name) == ("euler", "shaped")
    assert (judged.simulator.integrator, judged.reward_name) == (OWN_INTEGRATOR[type(judged)], "gym")
    policy = load_experiment(name, overrides=overrides).build_networks().policy()
    measured = policy_measures(scenario, policy, 3)
    played = play(judged, policy_controller(policy), 3).measures
    torch.testing.assert_close(measured["return"], played["return"])
    torch.testing.assert_close(measured["return"], measured["gym"] * measured["length"], rtol=1e-5, atol=1e-5)


def test_a_hopper_that_stands_in_one_integrator_stands_in_the_other():
    """Ten decisions of both from the same starts differ by less than a millimetre and a centimetre a second."""
    ends = []
    for integrator in ("euler", "rk4"):
        env = Hopper(integrator=integrator, dtype=torch.float64)
        inner = env.reset(8, torch.Generator().manual_seed(0)).inner
        for _ in range(10):
            inner = env.advance(inner, torch.zeros(8, 3, dtype=torch.float64))
        ends.append(inner)
    difference = (ends[0] - ends[1]).abs()
    assert float(difference[:, :6].max()) < 1e-3 and float(difference[:, 6:].max()) < 1e-2
    assert float(difference.max()) > 0.0


def test_models_that_are_not_covered_are_refused():
    text = """<mujoco><worldbody><body><joint name="j"/><geom size="1"/></body></worldbody>
    <actuator><intvelocity joint="j" kp="1" actrange="-1 1"/></actuator></mujoco>"""
    with pytest.raises(TrafficGradError, match="expected one whose whole state is qpos and qvel"):
        MujocoStep(mujoco.MjModel.from_xml_string(text))
    plain = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint/><geom size='1'/></body></worldbody></mujoco>"
    )
    with pytest.raises(TrafficGradError, match=r"expected frame_skip >= 1 and eps > 0, got 0 and 1e-08"):
        MujocoStep(plain, frame_skip=0)


def test_without_mujoco_there_is_one_sentence(tmp_path):
    """In a process that cannot import it: cart-pole and traffic work, a hopper asks for the extra."""
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "from trafficgrad.cli import main\n"
        "import trafficgrad.envs as envs; envs.CartpoleSwingUp().reset(2)\n"
        "sys.argv = ['trafficgrad', 'train', 'hopper']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert 'pip install "trafficgrad[physics]"' in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_working_folder(tmp_path, monkeypatch):
    """MuJoCo would write what it thinks of gymnasium's files into MUJOCO_LOG.TXT."""
    monkeypatch.chdir(tmp_path)
    HalfCheetah()
    assert not list(tmp_path.iterdir())
