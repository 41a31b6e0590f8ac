"""The gradient check by signal timing: what it perturbs, and that it tells right gradients from wrong ones."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradient_check import CheckSettings, SignalTiming, check_gradients, gradient_variants
from trafficgrad.gradient_check.command import run
from trafficgrad.gradients import SignalGradient
from trafficgrad.scenario_config import parse_scenario

CROSS = """\
kind: traffic
name: cross
network: {kind: intersection, lanes: 1, left_lanes: 0, protected_left: false, arm_length: 90.0, green: 12.0}
simulation: {dt: 0.5, horizon_steps: 140, decision_steps: 10, warmup_steps: 40}
lane_change: null
demand:
  - {from: west_in, to: east_out, rate: 700}
  - {from: north_in, to: south_out, rate: 200}
vehicles: {slots: 24}
reward: [{kind: delay}]
pool_size: 4
driver_rows: 8
"""
SHORT = CheckSettings(wrt="signals", windows=3, steps=10, pairs=20, samples=4)


def cross(*overrides: str) -> TrafficEnv:
    return TrafficEnv(parse_scenario(CROSS, "cross", overrides), dtype=torch.float64)


def test_the_estimate_is_right_and_what_leaves_a_part_out_is_not() -> None:
    """Nobody is controlled. Longer green for the busy street helps; the exact part alone knows nothing of it."""
    result = check_gradients(cross(), SHORT)
    assert result.components == ("offset", "green 1") and result.vehicles == ("center",)
    assert result.driver == "car following alone (nothing is controlled)"
    tables = {name: mode.agreement["all"] for name, mode in result.modes.items()}
    estimate = tables["straight_through"]["green 1"]
    assert estimate.reference_reliability > 0.5  # the reference knows what it says
    assert estimate.true_cosine > 0.9 and 0.5 < estimate.norm_ratio < 2.0
    assert tables["blocked"]["everything"].norm == 0.0
    assert tables["sigmoid"]["green 1"].true_cosine < 0.5
    assert result.modes["straight_through"].trust > 0 == result.modes["blocked"].trust
    assert result.modes["straight_through"].local.tried == 0  # differences between whole steps are 0


def test_changed_programmes_keep_their_cycle_and_start_where_they_are() -> None:
    """A programme of four greens, those of left turns included; the second world is not perturbed."""
    wide = ("network.lanes=2", "network.left_lanes=1", "network.arm_length=150.0")
    env = cross(*wide, "network.protected_left=true", "network.left_green=8.0")
    signals = env.simulator.signals
    parameters = SignalTiming(env, sd=2.0)
    assert parameters.components == ("offset", "green 1", "green 2", "green 3")
    start = env.scenario.initial_state(2, torch.Generator().manual_seed(0), torch.float64, simulator=env.simulator)
    theta = torch.zeros(2, parameters.dimension, dtype=torch.float64)
    theta[0] = torch.tensor([1.5, 2.0, -1.0, 0.5])
    other, begun = parameters.place(env, start, parameters.spread(theta))
    changed = other.simulator.signals
    before, after = signals.durations[0], changed.durations
    greens = [p for p, state in enumerate(env.simulator.network.signals[0].states) if "G" in state and "y" not in state]
    assert len(greens) == 4
    expected = torch.zeros(len(before), dtype=torch.float64)
    expected[greens] = torch.tensor([2.0, -1.0, 0.5, -1.5], dtype=torch.float64)
    assert torch.allclose(after[0, 0] - before, expected) and torch.equal(after[1, 0], before)
    assert torch.allclose(changed.offset - signals.offset, torch.tensor([[1.5], [0.0]], dtype=torch.float64))
    assert torch.equal(begun.phase, changed.start(start).phase)
    theta[0, 1] = -100.0  # no phase is shorter than a step
    shortest = parameters.place(env, start, parameters.spread(theta))[0].simulator.signals.durations.min()
    assert float(shortest) == env.simulator.dt


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(TrafficGradError, match="'cross' has no signal that runs by the clock"):
        SignalTiming(cross("signals.control=actuated"), sd=2.0)
    with pytest.raises(TrafficGradError, match="'cross' has no signals"):
        SignalTiming(cross("network.control=priority"), sd=2.0)
    with pytest.raises(TrafficGradError, match=r"'center' has a green of 12 s, too short .* an sd of at most 4"):
        SignalTiming(cross(), sd=5.0)
    with pytest.raises(TrafficGradError, match=r"SignalGradient\.temperature cannot be varied; these can: headway"):
        gradient_variants(cross(), vary={"temperature": [1.0]}, wrt="signals")


def test_variants_and_usual_sizes() -> None:
    env = cross("signal_gradient.headway=1.5")
    found = gradient_variants(env, ["blocked"], {"headway": [3.0]}, "signals")
    assert found == {
        "blocked": SignalGradient("blocked", 1.5),
        "straight_through, headway 3": SignalGradient("straight_through", 3.0),
    }
    settings = dataclasses.replace(SHORT, steps=None).for_env(env)
    assert settings.sizes.steps == 14 and settings.sizes.sd == 2.0  # two cycles of 34 s, decisions of 5 s
    assert dataclasses.replace(settings, wrt="drivers", sd=None).for_env(env).sizes.sd == 0.1


def test_the_command_prints_it(tmp_path, capsys) -> None:
    file = tmp_path / "cross.yaml"
    file.write_text(CROSS)
    few = dataclasses.replace(SHORT, windows=1, pairs=4, samples=4, steps=4)
    run(file, few, modes=["blocked"], as_json=True, plot=tmp_path / "check.png")
    printed = json.loads(capsys.readouterr().out)
    assert printed["modes"]["blocked"]["gradient"] == {"mode": "blocked", "headway": 2.0}
    assert (tmp_path / "check.png").exists()
