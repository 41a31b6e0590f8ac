"""Traffic that is simulated while it is watched: the same as an evaluation's, driven anew, by hand, differentiated."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import replace

import numpy as np
import pygame
import pytest
import torch

from trafficgrad import live as live_module
from trafficgrad import pictures
from trafficgrad.agents.controllers import baselines
from trafficgrad.agents.episodes import held_out_env, held_out_traffic, run_episodes
from trafficgrad.errors import TrafficGradError
from trafficgrad.live import HUMAN, LiveTraffic
from trafficgrad.pictures import Drive
from trafficgrad.render import Drivable, Style, Viewer, Wheel
from trafficgrad.render.inspector import vehicle_lines
from trafficgrad.scenario_config import load_traffic

SHORT = ("simulation.warmup_steps=20", "simulation.horizon_steps=60", "pool_size=1")


@pytest.fixture(scope="module")
def ring():
    """The four-lane ring and its hand-written controllers."""
    env = held_out_env(load_traffic("ring_4lane", SHORT))
    return env, baselines(env)


def begin(ring, names=("keep lane", HUMAN), **more):
    env, table = ring
    controllers = {name: table.get(name) for name in names}
    return LiveTraffic(env, held_out_traffic(env, [3]), controllers, **more)


def test_it_is_what_an_evaluation_drives(ring):
    env, table = ring
    source = begin(ring)
    assert isinstance(source, Drivable)
    source.finish()
    expected = run_episodes(env, table["keep lane"], held_out_traffic(env, [3]), record=True)
    assert expected.trajectory is not None
    for name in ("position", "speed", "lane"):
        assert torch.equal(getattr(source.trajectory(), name), getattr(expected.trajectory, name))
    torch.testing.assert_close(source.rewards, expected.rewards[:, 0], rtol=1e-6, atol=1e-6)
    assert source.ready == source.end == pytest.approx(source.start + 60 * env.simulator.dt)


def test_blocks_join_without_a_seam(ring):
    """At any moment the picture is that of one trajectory, also between blocks and while a lane is changed."""
    source = begin(ring, block_seconds=0.7)
    source.finish()
    whole = begin(ring, block_seconds=60.0)
    whole.finish()
    for moment in np.linspace(source.start, source.end, 57):
        one, other = source.frame(moment), whole.frame(moment)
        np.testing.assert_allclose(one.xy, other.xy, atol=1e-9)
        np.testing.assert_allclose(one.speed, other.speed, atol=1e-9)
        assert one.caption == other.caption


def test_it_goes_on_as_far_as_it_is_asked_to(ring):
    source = begin(ring, block_seconds=0.5)
    first = source.ready
    assert first < source.end
    source.prepare(first + 0.01, 10.0)
    assert first < source.ready < source.end
    source.prepare(1e9, 60.0)
    assert source.ready == source.end
    assert source.frame(1e9).time == source.end and source.frame(-5.0).time == source.start


def test_another_driver_changes_what_follows_alone(ring):
    source = begin(ring, block_seconds=0.5)
    source.finish()
    before = source.trajectory()
    moment = source.start + 30 * source.env.simulator.dt
    source.switch(HUMAN, moment)
    assert source.driver == HUMAN and source.ready == pytest.approx(moment)
    source.finish()
    after = source.trajectory()
    assert torch.equal(before.position[:31], after.position[:31])
    assert not torch.equal(before.position[31:], after.position[31:])
    # Back to who drove at first: the noise is the same, so is everything.
    source.switch("keep lane", moment)
    source.finish()
    assert torch.equal(before.position, source.trajectory().position)


def test_somebody_takes_the_wheel(ring):
    source = begin(ring, (HUMAN, "keep lane"), block_seconds=0.5)
    source.finish()
    before = source.trajectory()
    moment, slot = source.start + 20 * source.env.simulator.dt, int(source.env.slots[1])
    assert source.steer(1, Wheel(-1.0), moment) == ""
    source.finish(moment + 2.0)
    steered = source.trajectory()
    rows = slice(21, 40)
    slower = before.speed[rows, 0, slot] - steered.speed[rows, 0, slot]
    assert bool((slower[5:] > 0.1).all())
    assert source.frame(moment + 1.0).insight.by_hand == (1,)
    assert source.frame(moment - 0.3).insight.by_hand == ()
    for slot, driver in ((source.env.slots[1], "you"), (source.env.slots[3], HUMAN)):
        assert dict(vehicle_lines(source.frame(moment + 1.0), int(slot)))["driver"] == driver
    # The other controlled vehicles go on as ordinary drivers do: the same acceleration law, the same noise.
    other = int(source.env.slots[3])
    torch.testing.assert_close(steered.speed[21:23, 0, other], before.speed[21:23, 0, other], atol=1e-4, rtol=0)
    # A turn of the wheel is a lane request.
    assert source.steer(1, Wheel(0.0, 1.0), moment) == ""
    source.finish(moment + 2.0)
    assert source._decisions[-1].action[0, 1, 1] > 1 / 3
    # Given back, it is again as it was.
    source.steer(1, None, moment)
    source.finish()
    assert torch.equal(before.position, source.trajectory().position)


def test_who_commands_lanes_has_no_wheel():
    source = pictures.live(
        Drive("scenarios/pace_car_3lane.yaml", 0, ("control.command=lanes", *SHORT, "control.speed=[0, 30]"))
    )[2]
    assert "the policy commands lanes" in source.steer(0, Wheel(), source.start)


def test_gradients_are_those_of_the_return(ring):
    """Against central differences of the same decisions, driven with another speed or action; without lane changes."""
    env = held_out_env(load_traffic("ring_1lane", SHORT), device="cpu")
    double = dataclasses.replace  # the differences need float64
    env = type(env)(env.scenario, seed=1_000_000, dtype=torch.float64)
    table = baselines(env)
    source = LiveTraffic(env, held_out_traffic(env, [3]), {"keep lane": table["keep lane"]}, gradients=True)
    source.finish()
    count = min(live_module.WINDOW, len(source._decisions))
    window = source._decisions[:count]

    def drive(at, slot, change, by_action):
        state, total = window[0].state, 0.0
        for i, decision in enumerate(window):
            action = decision.action.clone()
            if i == at and by_action:
                action.view(-1)[slot] += change
            elif i == at:
                speed = state.traffic.speed.clone()
                speed[0, slot] += change
                state = double(state, scene=double(state.scene, traffic=double(state.traffic, speed=speed)))
            state, transition = env.step(state, action, source._noise[i])
            total += float(transition.reward.sum())
        return total

    for at in (2, 4):
        gradient = source.frame(source.start + (at + 0.5) * source._seconds).insight.gradient
        assert gradient is not None and gradient.start == source.start
        for slot in (0, 5):
            numeric = (drive(at, slot, 1e-4, False) - drive(at, slot, -1e-4, False)) / 2e-4
            assert gradient.speed[slot] == pytest.approx(numeric, rel=2e-3, abs=1e-7)
        assert not gradient.speed_biased.any()  # there is one lane
        assert gradient.most_speed >= np.abs(gradient.speed).max()
    smooth = 0
    base = drive(0, 0, 0.0, True)
    for at in range(count):
        right, left = ((drive(at, 0, sign * 1e-4, True) - base) / (sign * 1e-4) for sign in (1, -1))
        if right == pytest.approx(left, rel=1e-3, abs=1e-9):  # not where the action is just at a bound
            smooth += 1
            gradient = source.frame(source.start + (at + 0.5) * source._seconds).insight.gradient
            assert gradient.action[0, 0] == pytest.approx((right + left) / 2, rel=2e-3, abs=1e-6)
    assert smooth > 2


def test_the_share_of_lane_changes_is_what_blocking_leaves_out(ring):
    source = begin(ring, gradients=True)
    source.finish()
    slopes = [
        source.frame(source.start + (i + 0.5) * source._seconds).insight.gradient for i in range(len(source._decisions))
    ]
    assert any(np.abs(g.action_biased).max() > 0 for g in slopes)
    blocked = source._slopes(0, source._decisions, "blocked")
    for gradient, (speed, action) in zip(slopes, blocked, strict=True):
        np.testing.assert_allclose(gradient.speed - gradient.speed_biased, speed, atol=1e-6)
        np.testing.assert_allclose(gradient.action - gradient.action_biased, action, atol=1e-6)


def test_the_policys_mean_and_deviation_are_shown():
    source = pictures.live(Drive("ring_4lane", 0, SHORT))[2]
    insight = source.frame(source.start + 0.2).insight
    assert insight.driver == "policy" and insight.labels == ("acceleration", "lane_request")
    decision = source._decisions[0]
    np.testing.assert_allclose(insight.mean, decision.action[0].numpy(), atol=1e-6)
    assert insight.deviation.shape == (4, 2) and (insight.deviation > 0).all()
    assert insight.terms["reward"] == pytest.approx(decision.reward)
    assert source.frame(source.start).desired_speed[source.env.human.numpy()].min() > 5.0


def test_the_beginning_is_forgotten_where_there_is_too_much(ring, monkeypatch):
    monkeypatch.setattr(live_module, "WINDOW", 2)
    source = begin(ring, block_seconds=0.5, most_numbers=0.0)
    source.finish()
    first = source.frame(source.start).time
    assert source.start < first < source.end
    kept = [len(d.states) for d in source._decisions]
    assert kept[0] == 0 and kept[-1] > 0
    with pytest.raises(TrafficGradError, match="was forgotten"):
        source.trajectory()


@pytest.mark.parametrize(
    ("target", "controller", "title"),
    [
        ("ring_4lane", None, "ring_4lane, the policy that ships"),
        ("ring_4lane", "human", "ring_4lane, human drivers only"),
        ("scenarios/ring_4lane.yaml", "keep lane", "ring_4lane, keep lane"),
        ("scenarios/ring_4lane.yaml", None, "ring_4lane, human drivers only"),
        ("scenarios/intersection.yaml", None, "intersection, fixed time"),
    ],
)
def test_who_drives(target, controller, title, monkeypatch):
    monkeypatch.chdir(pictures.__file__.rpartition("/trafficgrad/")[0])
    assert pictures.live(Drive(target, 0, SHORT, seconds=2.0, controller=controller))[0] == title


@pytest.mark.parametrize(
    ("target", "controller", "message"),
    [
        ("scenarios/ring_4lane.yaml", "policy", r"no controller 'policy'; here may drive human, keep lane"),
        ("ring_4lane", "keep_lane", r"'keep_lane' \(did you mean 'keep lane'\?\)"),
        ("scenarios/ring_1lane.yaml", "ring_4lane", r"takes 33 numbers and tells 2, scenario 'ring_1lane' has"),
        ("dejong_1", None, "traffic"),
    ],
)
def test_refusals(target, controller, message, monkeypatch):
    monkeypatch.chdir(pictures.__file__.rpartition("/trafficgrad/")[0])
    with pytest.raises(TrafficGradError, match=message):
        pictures.live(Drive(target, 0, () if target == "dejong_1" else SHORT, controller=controller))


def test_a_viewer_switches_and_steers(ring, monkeypatch):
    source = begin(ring, block_seconds=0.5)
    viewer = Viewer(source, (800, 500))
    for _ in range(12):
        viewer.advance(0.1)
    assert viewer.player.time == pytest.approx(source.start + 1.2, abs=0.02)
    viewer.press(pygame.K_p)
    assert source.driver == HUMAN and "human driver" in viewer._notice
    viewer.press(pygame.K_w)
    assert viewer.wheel == 0 and viewer.stage.selected == int(source.env.slots[0])
    viewer.press(pygame.K_UP)  # does not change the speed of playing now
    assert viewer.player.factor == 1.0
    for _ in range(10):
        viewer.advance(0.1, Wheel(drive=1.0))
    _, high = source.env.scenario.control.acceleration
    driven = source._decisions[-1].action[0, 0, 0] * source.env.scenario.control.acceleration_scale
    assert float(driven) == pytest.approx(high)
    viewer.draw(pygame.Surface((800, 500)))
    assert viewer.stage.frame.insight.by_hand == (0,)
    viewer.press(pygame.K_ESCAPE)
    assert viewer.wheel is None and not source._wheels
    viewer.press(pygame.K_4)
    assert source.gradients
    deadline = time.monotonic() + 60
    while viewer.stage.frame.insight.gradient is None and time.monotonic() < deadline:
        viewer.advance(0.1)
        viewer.player.go_to(source.start + 1.0)
        viewer.draw(pygame.Surface((800, 500)))
    assert viewer.stage.frame.insight.gradient is not None


def test_an_empty_road_is_watched_too():
    """Nobody is there at first; keys that ask for a vehicle say so."""
    source = pictures.live(Drive("merge", overrides=("simulation.warmup_steps=0", "pool_size=1"), seconds=3.0))[2]
    assert not source.frame(source.start).active.any() and source.max_speed > 0
    style = Style(show=("leaders", "trails", "gradient", "time and space", "numbers"))
    viewer = Viewer(source, (800, 500), style=style)
    viewer.draw()
    for key in (pygame.K_TAB, pygame.K_f, pygame.K_w, pygame.K_c):
        viewer.press(key)
    assert viewer.stage.selected is None and viewer.wheel is None and viewer._notice == "nobody here is controlled"
    viewer.draw()


def test_no_screen_is_one_sentence(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(TrafficGradError, match=r"no screen .* trafficgrad render ring_4lane --out film.mp4"):
        pictures.watch(Drive("ring_4lane"))


def test_replace_keeps_what_a_frame_looks_up(ring):
    frame = begin(ring).frame(0.0)
    assert replace(frame, time=1.0).around is not None
