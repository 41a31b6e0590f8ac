"""Pictures of what has no roads: cart-pole and bodies, as films, stills and in a window."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pygame
import pytest
import torch

from trafficgrad import episode_pictures, pictures
from trafficgrad.agents.episodes import play, policy_controller
from trafficgrad.agents.evaluation import load_run
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.agents.train import train
from trafficgrad.envs import make_env
from trafficgrad.errors import TrafficGradError
from trafficgrad.render import draw_cartpole, show_pictures
from trafficgrad.scenario_config import load_scenario

SHORT = ("horizon_steps=30", "training.decisions=16", "training.worlds=2", "training.window=4", "pool_size=4")
WHITE = (255, 255, 255)


def run_command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trafficgrad", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "short"
    train(load_experiment("cartpole", overrides=SHORT), folder, progress=False)
    return folder


def pole(picture: np.ndarray) -> np.ndarray:
    """Centre (column, row) of the white pixels."""
    return np.argwhere((picture == WHITE).all(-1)).mean(0)[::-1]


def test_the_pole_is_where_its_angle_says():
    size = (640, 360)
    up, right, down = (pole(draw_cartpole(0.0, angle, size=size)) for angle in (0.0, 0.5 * math.pi, math.pi))
    assert up[0] == pytest.approx(320, abs=1) and down[0] == pytest.approx(320, abs=1)
    assert down[1] - up[1] == pytest.approx(64, abs=3)  # two half poles, at 64 px a metre
    assert right[0] - 320 == pytest.approx(32, abs=2) and right[1] == pytest.approx(0.5 * (up[1] + down[1]), abs=2)
    moved = pole(draw_cartpole(1.0, 0.0, size=size))
    assert moved[0] - up[0] == pytest.approx(64, abs=2)
    assert (draw_cartpole(9.0, 0.0, size=size) == WHITE).all(-1).any()  # beyond the track it stays in the picture


def test_an_episode_is_the_one_that_is_evaluated(run):
    loaded = load_run(run)
    film = episode_pictures.record_episode(loaded.scenario, loaded, seed=0)
    played = play(make_env(loaded.scenario), policy_controller(loaded.policy), 1).measures
    assert film.returns[-1] == pytest.approx(float(played["return"]), rel=1e-5)
    assert len(film.actions) == 30 and film.end == pytest.approx(0.5)
    assert film.caption(film.end) == f"time 0.5 s, return {film.returns[-1]:.1f}"
    part = episode_pictures.record_episode(loaded.scenario, loaded, seed=0, seconds=0.1)
    assert len(part.actions) == 6 and torch.equal(part.states[6], film.states[6])
    other = episode_pictures.record_episode(loaded.scenario, loaded, seed=1)
    assert not torch.equal(other.states[0], film.states[0])


@pytest.mark.parametrize("ending", ["mp4", "gif", "png"])
def test_films_and_stills_of_a_run(run, ending, tmp_path):
    done = run_command("render", str(run), "--out", f"film.{ending}", "--size", "320", "200", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frames = np.stack(list(imageio.imiter(tmp_path / f"film.{ending}")))[..., :3]
    assert frames.shape[1:] == (200, 320, 3)
    assert len(frames) == {"mp4": 13, "gif": 7, "png": 1}[ending]  # 0.5 s at 25 and 12.5 pictures a second
    if ending != "png":
        assert (frames[0] != frames[-1]).any()


def test_a_scenario_without_a_policy_and_a_moment(tmp_path):
    words = ("render", "cartpole", "--set", "horizon_steps=12", "--out", "still.png", "--at", "0.1")
    assert run_command(*words, cwd=tmp_path).returncode == 0
    picture = imageio.imread(tmp_path / "still.png")
    assert picture.shape == (720, 1280, 3)
    film = episode_pictures.record_episode(load_scenario("cartpole", ["horizon_steps=12"]), None, 0)
    assert not torch.stack(film.actions).any()
    expected = film.picture(0.1, (1280, 720))
    assert (picture[60:] == expected[60:]).all()  # below the title


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("render", "cartpole", "--controller", "mpc"), "only its policy can drive there, not 'mpc'"),
        (("render", "cartpole", "--compare", "human"), "--compare shows two drivers of the same traffic"),
        (("render", "cartpole", "--out", "film.avi"), "avi"),
        (("render", "cartpole", "--seconds", "-1"), "seconds must be a number > 0, got -1"),
        (("render", "cartpole", "--speed", "0"), "must be a number > 0, got 0"),
        (("render", "dejong_1"), "needs one of kind traffic"),
        (("watch", "cartpole"), "trafficgrad render cartpole --out film.mp4"),
    ],
)
def test_mistakes_are_one_sentence(words, message, tmp_path):
    done = run_command(*words, cwd=tmp_path, DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert "\n" not in done.stderr.strip()
    assert not list(tmp_path.iterdir())


def test_the_window_plays_steps_and_goes_on_to_the_next_episode(monkeypatch):
    scenario, shown = load_scenario("cartpole", ["horizon_steps=30"]), []

    def episodes():
        for source in episode_pictures.episodes(scenario, None, 0):
            shown.append(source)
            yield source

    keys = iter([pygame.K_SPACE, pygame.K_RIGHT, pygame.K_UP, pygame.K_HOME, pygame.K_n, pygame.K_q])

    def events():
        key = next(keys)
        return [pygame.event.Event(pygame.KEYDOWN, key=key)]

    monkeypatch.setattr(pygame.event, "get", events)
    show_pictures(episodes(), title="test", size=(400, 240))
    assert len(shown) == 2 and next(keys, None) is None
    assert not pygame.display.get_init()


needs_mujoco = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="MuJoCo is not installed")


@needs_mujoco
def test_a_body_is_drawn_or_opengl_is_asked_for(tmp_path):
    """With EGL or OSMesa a picture of the hopper in the middle; without, a sentence that names both."""
    words = ("render", "hopper", "--set", "horizon_steps=3", "--out", "still.png", "--size", "320", "240")
    done = run_command(*words, cwd=tmp_path)
    if done.returncode:
        assert done.returncode == 2 and "EGL or OSMesa" in done.stderr
        pytest.skip(f"no OpenGL here: {done.stderr}")
    picture = imageio.imread(tmp_path / "still.png").astype(int)
    brown = (picture[..., 0] > picture[..., 2] + 25).astype(float)
    rows, columns = np.nonzero(brown)
    assert len(rows) > 200 and abs(np.median(columns) - 160) < 30
    assert sorted(file.name for file in tmp_path.iterdir()) == ["still.png"]


@needs_mujoco
def test_without_opengl_there_is_one_sentence(tmp_path):
    words = ("render", "hopper", "--set", "horizon_steps=3")
    for choice, message in (("glfw", "EGL or OSMesa"), ("nonsense", "MUJOCO_GL: nonsense")):
        done = run_command(*words, cwd=tmp_path, MUJOCO_GL=choice, DISPLAY="", WAYLAND_DISPLAY="")
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_policy_must_be_one_of_pictures(run):
    with pytest.raises(TrafficGradError, match="only its policy can drive there"):
        pictures.without_roads(pictures.Drive(run, controller="human"))
    assert pictures.without_roads(pictures.Drive("ring_4lane")) is None
