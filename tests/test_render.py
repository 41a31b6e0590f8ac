"""Pictures, films and plots: drawn where it should be, in the right colour, and without asking for a display."""

from __future__ import annotations

import base64
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pygame
import pytest
import torch

from trafficgrad.car_following import IDM
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import ring, straight
from trafficgrad.render import (
    Camera,
    Scene,
    TrajectoryFrames,
    can_open_window,
    caption_text,
    draw_state,
    frame_times,
    learning_curve,
    notebook_film,
    record,
    show,
    snapshot,
    time_space_diagram,
)
from trafficgrad.render.frames import LANE_CHANGE_TIME
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.style import ASPHALT, CONTROLLED, speed_colours
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.trajectory import Trajectory

DT = 0.1
SMALL = (480, 270)


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)


def state(position, speed, lane, **more):
    return TrafficState(
        position=torch.tensor(position, dtype=torch.float64),
        speed=torch.tensor(speed, dtype=torch.float64),
        lane=torch.tensor(lane),
        **more,
    )


def frames(states, network, controlled=(), **more):
    return TrajectoryFrames(Trajectory.of(states, None, DT), network, 5.0, 2.0, controlled, **more)


@pytest.fixture(scope="module")
def drive():
    """Four vehicles in two lanes for 3 s, slot 1 controlled: a simulator and its trajectory."""
    fleet = Fleet(length=torch.tensor([4.0, 5.0, 6.0, 5.0]), width=1.8, controlled=(1,))
    simulator = Simulator(ring(200.0, lanes=2), fleet, IDM(15.0, 1.0, 1.0, 1.5, 2.0))
    start = state([20.0, 70.0, 120.0, 199.0], [5.0, 8.0, 2.0, 10.0], [0, 0, 1, 1])
    return simulator, simulator.simulate(start, 30)


# ---------------------------------------------------------------- where things are


def test_camera_round_trip_and_fit():
    camera = Camera.fit(np.array([-10.0, 5.0]), np.array([30.0, 15.0]), (100.0, 50.0, 400.0, 300.0))
    points = np.array([[-10.0, 5.0], [30.0, 15.0], [3.0, 7.0]])
    screen = camera.to_screen(points)
    assert np.allclose(camera.to_world(screen), points)
    assert np.allclose(screen[:2, 0], [100.0, 500.0])  # as wide as the area
    assert screen[0, 1] > screen[1, 1]  # upwards in the world is upwards on the screen
    assert np.allclose(screen[:2].mean(0), [300.0, 200.0])


def test_layout_joins_edges_to_roads():
    layout = RoadLayout(ring(300.0, lanes=2, edges=3))
    (road,) = layout.roads
    assert road.closed and road.length == 300.0 and list(road.starts) == [0.0, 100.0, 200.0]
    assert layout.offset.tolist() == [-1.75, 1.75] * 3
    assert RoadLayout(straight(50.0, edges=2)).roads[0].closed is False
    # No jump where edges meet, the ring's start included.
    for at in (0.0, 100.0, 200.0):
        two, _ = layout.locate(np.zeros(2, dtype=int), np.array([at - 1e-6, at + 1e-6]), np.zeros(2))
        assert np.linalg.norm(two[1] - two[0]) < 1e-4


@pytest.mark.parametrize("edges", [1, 4])
def test_motion_is_interpolated_over_edge_ends(edges):
    network = ring(100.0, edges=edges)
    last = edges - 1
    source = frames(
        [state([100.0 / edges - 0.5, 10.0], [9.0, 4.0], [last, 0]), state([0.5, 10.4], [11.0, 4.0], [0, 0])], network
    )
    between = source.frame(0.75 * DT)
    assert np.allclose(between.distance, [0.25, 10.3])
    assert np.allclose(between.speed, [10.5, 4.0])
    # Both bumpers are on the circle.
    for ahead, at in ((2.5, 0.25), (-2.5, 0.25 - 5.0)):
        angle = 2 * math.pi * at / 100.0
        end = between.xy[0] + ahead * np.array([math.cos(between.heading[0]), math.sin(between.heading[0])])
        assert np.allclose(end, 100 / (2 * math.pi) * np.array([math.cos(angle), math.sin(angle)]), atol=0.03)


def test_lane_change_glides_and_arrives():
    states = [state([10.0 + t], [10.0], [0 if t < 5 else 1], time=torch.tensor([t * DT])) for t in range(20)]
    source = frames(states, ring(500.0, lanes=2))
    times = np.arange(0.0, 1.9, 0.05)
    offset = np.array([source.frame(t).offset[0] for t in times])
    assert offset[0] == -1.75 and offset[-1] == 1.75
    assert (np.diff(offset) >= 0).all() and np.diff(offset).max() < 0.5
    moving = times[(offset > -1.74) & (offset < 1.74)]
    assert moving[0] >= 0.4 and moving[-1] <= 0.4 + LANE_CHANGE_TIME


def test_another_vehicle_in_the_slot_is_not_a_motion():
    states = [state([10.0, 50.0], [5.0, 5.0], [0, 0]), state([30.0, 50.5], [5.0, 5.0], [0, 0])]
    states[1] = replace(states[1], vehicle_id=torch.tensor([[7, 1]]))
    source = frames(states, ring(100.0))
    assert np.allclose(source.frame(0.5 * DT).distance, [10.0, 50.25])
    assert source.tracks().continues.tolist() == [[False, True]]


def test_tracks_count_laps():
    states = [state([t * 30.0 % 100.0], [30.0], [0]) for t in range(9)]
    source = TrajectoryFrames(Trajectory.of(states, None, 1.0), ring(100.0), 5.0, 2.0)
    tracks = source.tracks(stride=2)
    assert np.allclose(tracks.advance, 60.0) and tracks.continues.all()
    assert np.allclose(tracks.distance[:, 0], [0.0, 60.0, 20.0, 80.0, 40.0])


# ---------------------------------------------------------------- pictures


def test_speed_colours_are_viridis():
    import matplotlib

    ours = speed_colours(np.linspace(0.0, 20.0, 101), 20.0).astype(float)
    theirs = matplotlib.colormaps["viridis"](np.linspace(0.2, 1.0, 101))[:, :3] * 255
    assert np.abs(ours - theirs).max() < 6
    assert (np.diff(ours @ [0.2126, 0.7152, 0.0722]) > 0).all()
    assert speed_colours(99.0, 20.0).tolist() == ours[-1].tolist()


def test_vehicles_have_the_colour_of_their_speed_and_controlled_ones_a_white_ring():
    network = ring(100.0)
    there = state([30.0, 60.0, 90.0], [2.0, 18.0, 10.0], [0, 0, 0], active=torch.tensor([[True, True, False]]))
    frame = frames([there], network, [1]).frame(0.0)
    scene = Scene(network, (1280, 720), max_speed=20.0)
    picture = scene.rgb(frame).astype(int)
    assert picture.shape == (720, 1280, 3)
    view = scene.view
    pixels = scene.vehicle_pixels(frame)
    left = np.stack([-np.sin(frame.heading), -np.cos(frame.heading)], -1)
    for n, colour in enumerate([speed_colours(2.0, 20.0), speed_colours(18.0, 20.0), ASPHALT]):
        # Behind the middle: there is a number on the roof, and the windscreen lies before it.
        rear = pixels[n] - 0.35 * 5.0 * view.camera.scale * np.array([-left[n, 1], left[n, 0]])
        x, y = np.round(rear).astype(int)
        assert np.abs(picture[y, x] - colour).max() <= 4, n
        x, y = np.round(pixels[n] + left[n] * (view.across + 1.5)).astype(int)
        ring_colour = picture[y, x]
        assert (np.abs(ring_colour - CONTROLLED).max() < 40) == (n == 1), n


@pytest.mark.parametrize("size", [(1280, 720), (960, 540), (640, 360)])
def test_lanes_can_be_told_apart_and_parts_do_not_overlap(size):
    network = ring(600.0, lanes=4)
    side_by_side = state([100.0] * 4, [10.0] * 4, [0, 1, 2, 3])
    frame = frames([side_by_side], network).frame(0.0)
    scene = Scene(network, size, max_speed=20.0, title="title")
    pixels = scene.vehicle_pixels(frame)
    assert np.linalg.norm(np.diff(pixels, axis=0), axis=1).min() >= 9
    strip = scene.strip.place(frame)
    assert (np.diff(strip[:, 1]) <= -9).all() and np.ptp(strip[:, 0]) < 1e-9
    around = state(np.arange(0.0, 600.0, 10.0).tolist(), [1.0] * 60, [0] * 60)
    outer = scene.vehicle_pixels(frames([around], network).frame(0.0))
    assert outer[:, 1].min() > 0 and outer[:, 0].min() > 0
    assert outer[:, 1].max() < scene.strip.top and outer[:, 0].max() < scene.panel.left
    assert scene.strip.top + scene.strip.height <= size[1]
    assert scene.panel.top + 64 * scene.unit < scene.panel.legend


def test_a_long_road_is_drawn_in_rows():
    network = straight(3000.0, lanes=2)
    there = state([10.0, 1500.0, 2990.0], [5.0, 10.0, 20.0], [0, 1, 0])
    frame = frames([there], network, [1]).frame(0.0)
    scene = Scene(network, (960, 540), max_speed=20.0)
    assert scene.view is None and scene.strip.rows > 2
    picture, pixels = scene.rgb(frame).astype(int), scene.vehicle_pixels(frame)
    assert (np.diff(pixels[:, 1]) > 0).all()
    for (x, y), colour in zip(np.round(pixels).astype(int), speed_colours(frame.speed, 20.0), strict=True):
        assert np.abs(picture[y, x - 2] - colour).max() < 30


def test_a_body_over_the_rings_start_shows_on_both_ends_of_the_strip():
    network = ring(200.0)
    scene = Scene(network, (960, 540), max_speed=10.0)
    picture = scene.rgb(frames([state([2.0], [10.0], [0])], network).frame(0.0)).astype(int)
    row = picture[round(scene.strip.top + scene.strip.road_height / 2)]
    yellow = np.flatnonzero(np.abs(row - speed_colours(10.0, 10.0)).max(-1) < 40)
    left, right = scene.strip.left, scene.strip.left + scene.strip.width
    assert yellow.min() < left + 6 and yellow.max() > right - 4
    assert not ((yellow > left + 20) & (yellow < right - 20)).any()


def test_an_empty_road_is_a_picture_too():
    network = ring(100.0)
    frame = frames([state([1.0], [0.0], [0], active=torch.tensor([[False]]))], network).frame(0.0)
    assert caption_text(frame) == "time 0.0 s, mean speed no vehicle"
    assert Scene(network, SMALL, max_speed=10.0).rgb(frame).std() > 1


def test_drawing_asks_for_no_display(drive):
    simulator, trajectory = drive
    picture = draw_state(trajectory.state(3), simulator, size=SMALL, captions={"reward": 0.5})
    assert picture.dtype == np.uint8 and picture.shape == (270, 480, 3)
    assert not pygame.display.get_init()
    assert pygame.mixer.get_init() is None


def test_caption(drive):
    simulator, trajectory = drive
    rewards = torch.linspace(0, 1, 30)
    source = TrajectoryFrames.of(trajectory, simulator, captions={"reward": rewards, "driver": "policy", "target": 12})
    mean = float(trajectory.speed[10].mean())
    assert (
        caption_text(source.frame(1.0))
        == f"time 1.0 s, mean speed {mean:.1f} m/s, reward {float(rewards[10]):.2f}, driver policy, target 12.00"
    )
    assert source.frame(1.0).length.tolist() == [4.0, 5.0, 6.0, 5.0]
    assert "reward 1.00" in caption_text(source.frame(3.0))
    assert source.end == pytest.approx(3.0)


# ---------------------------------------------------------------- files


def test_films_and_stills(drive, tmp_path):
    simulator, trajectory = drive
    source = TrajectoryFrames.of(trajectory, simulator)
    assert len(frame_times(source, 10.0, 2.0)) == 16
    seen = []
    film = record(
        source, tmp_path / "new" / "a.mp4", size=SMALL, fps=10, time_factor=2, progress=lambda *x: seen.append(x)
    )
    pictures = imageio.imread(film)
    assert pictures.shape == (16, 270, 480, 3)
    assert seen == [(i, 16) for i in range(1, 17)]
    still = imageio.imread(snapshot(source, tmp_path / "a.png", time=0.0, size=SMALL))
    assert still.shape == (270, 480, 3)
    assert np.abs(pictures[0].astype(int) - still).mean() < 6
    assert np.abs(pictures[15].astype(int) - pictures[0]).max() > 60

    film = record(source, tmp_path / "a.gif", size=SMALL, fps=10, time_factor=2)
    pictures = imageio.imread(film)
    assert pictures.shape[:3] == (16, 270, 480)
    assert imageio.immeta(film)["duration"] == 100
    assert np.abs(pictures[0, ..., :3].astype(int) - still).mean() < 3

    last = imageio.imread(record(source, tmp_path / "b.png", size=SMALL))
    assert (last == Scene(simulator.network, SMALL, max_speed=source.max_speed).rgb(source.frame(source.end))).all()
    assert sorted(os.listdir(tmp_path)) == ["a.gif", "a.png", "b.png", "new"] and os.listdir(tmp_path / "new") == [
        "a.mp4"
    ]
    assert not pygame.display.get_init()


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_an_interrupted_film_leaves_the_old_file(drive, tmp_path, name):
    simulator, trajectory = drive
    source = TrajectoryFrames.of(trajectory, simulator)
    (tmp_path / name).write_text("old")

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(source, tmp_path / name, size=SMALL, fps=5, progress=interrupt)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "old"


def test_a_film_for_a_notebook(drive):
    simulator, trajectory = drive
    film = notebook_film(TrajectoryFrames.of(trajectory, simulator), size=SMALL, time_factor=2.0)
    html = film._repr_html_()
    assert html.startswith('<video controls loop width="480" height="270"') and "http" not in html
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    assert imageio.imread(data, extension=".mp4").shape == (38, 270, 480, 3)  # 3 s at 2 x, 25 pictures a second
    assert "NotebookFilm(" in repr(film) and len(repr(film)) < 60  # not the bytes


def test_two_panels_show_the_same_clock(drive, tmp_path):
    simulator, trajectory = drive
    source = TrajectoryFrames.of(trajectory, simulator)
    shorter = TrajectoryFrames.of(simulator.simulate(trajectory.state(0), 10), simulator)
    file = record(source, tmp_path / "two.gif", size=(980, 270), fps=10, title="left", beside=("right", shorter))
    pictures = imageio.imread(file)
    assert pictures.shape[:3] == (31, 270, 980)  # as long as the longer one
    alone = imageio.imread(record(source, tmp_path / "one.gif", size=(490, 270), fps=10, title="left"))
    assert np.abs(pictures[20, :, :490].astype(int) - alone[20]).mean() < 3
    half = pictures[:, 60:, 490:]
    assert (half[5] != half[10]).any() and (half[12] == half[30]).all()  # the other stands still when it is over
    with pytest.raises(TrafficGradError, match="at least 960x270"):
        record(source, tmp_path / "two.gif", size=(900, 270), beside=("right", shorter))


def test_time_space_diagram(drive, tmp_path):
    simulator, trajectory = drive
    plain = imageio.imread(time_space_diagram(trajectory, simulator.network, tmp_path / "a.png"))[..., :3].astype(int)
    marked = imageio.imread(
        time_space_diagram(trajectory, simulator.network, tmp_path / "b.png", controlled=simulator.fleet.controlled)
    )[..., :3].astype(int)

    def red(picture):
        return int(((picture[..., 0] > 180) & (picture[..., 1:].max(-1) < 80)).sum())

    assert red(plain) == 0 and red(marked) > 300
    assert (plain.max(-1) - plain.min(-1) > 60).sum() > 300  # coloured lines


def test_plots_do_without_global_state():
    code = "import sys, trafficgrad.render; print('matplotlib.pyplot' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert run.stdout.strip() == "False"


def test_learning_curve(tmp_path):
    rows = [f"{i},{i * 100},{i / 50},{'' if i % 10 else i / 60}" for i in range(1, 60)]
    (tmp_path / "metrics.csv").write_text("\n".join(["iteration,decisions,reward,score", *rows]))
    metrics = tmp_path / "metrics.csv"
    one = imageio.imread(learning_curve(metrics, tmp_path / "a.png"))
    two = imageio.imread(learning_curve({"a": metrics, "b": metrics}, tmp_path / "b.png", columns=["reward"]))
    assert one.shape[0] > two.shape[0] > 200 and one.std() > 5 and two.std() > 5
    learning_curve(metrics, tmp_path / "c.svg", progress="iteration")
    assert "iteration" in (tmp_path / "c.svg").read_text()
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png", "c.svg", "metrics.csv"]


# ---------------------------------------------------------------- window


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"DISPLAY": ""}, "linux", False),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"DISPLAY": ":0", "SDL_VIDEODRIVER": "dummy"}, "linux", False),
        ({"SDL_VIDEODRIVER": "x11"}, "linux", True),
        ({}, "darwin", True),
        ({}, "win32", True),
    ],
)
def test_can_open_window(monkeypatch, environment, platform, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert can_open_window() is expected


def test_no_window_is_one_sentence(drive, monkeypatch):
    simulator, trajectory = drive
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    with pytest.raises(TrafficGradError, match="no window can be opened"):
        show(TrajectoryFrames.of(trajectory, simulator))


# ---------------------------------------------------------------- what cannot be done is said


def test_refusals(drive, tmp_path):
    simulator, trajectory = drive
    network, source = simulator.network, TrajectoryFrames.of(trajectory, simulator)
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("iteration,reward\n1,0.5\n")
    broken = replace(trajectory, position=trajectory.position.clone().index_fill_(2, torch.tensor([2]), float("nan")))
    text = tmp_path / "text.csv"
    text.write_text("iteration,reward\n1,much\n")
    for call, words in [
        (lambda: record(source, tmp_path / "a.mp5"), r"'.mp5'.*\.mp4, \.gif, \.png.*did you mean '\.mp4'"),
        (lambda: record(source, tmp_path / "film"), "no ending"),
        (lambda: record(source, tmp_path / "a.mp4", size=(641, 360)), "even width and height, got 641x360"),
        (lambda: record(source, tmp_path / "a.gif", size=(100, 100)), "too small"),
        (lambda: record(source, tmp_path / "a.gif", fps=0), "fps must be a number > 0, got 0"),
        (lambda: record(source, tmp_path / "a.mp4", time_factor=-1), "time_factor must be"),
        (lambda: record(source, tmp_path / "a.gif", fps=50, time_factor=0.001), "gigabytes"),
        (lambda: record(source, metrics / "a.png"), "cannot write"),
        (lambda: snapshot(source, tmp_path / "a.jpg"), "as .png, got 'a.jpg'"),
        (lambda: Scene(network, max_speed=0.0), "max_speed"),
        (lambda: TrajectoryFrames.of(trajectory, simulator, world=1), "no world 1"),
        (lambda: TrajectoryFrames(trajectory, network, 5.0, 2.0, [4]), r"0 to 3, got \[4\]"),
        (lambda: TrajectoryFrames.of(trajectory, simulator, captions={"reward": [1.0] * 7}), r"\(31\).*\(30\)"),
        (lambda: TrajectoryFrames.of(broken, simulator), "slot 2 has no finite position or speed after step 0"),
        (lambda: time_space_diagram(trajectory, network, tmp_path / "a.jpg"), "'.jpg' is none of"),
        (lambda: learning_curve(tmp_path / "none.csv", tmp_path / "a.png"), "no metrics file"),
        (lambda: learning_curve(metrics, tmp_path / "a.png", columns=["rewad"]), "did you mean 'reward'"),
        (lambda: learning_curve(text, tmp_path / "a.png"), "no table of numbers"),
    ]:
        with pytest.raises(TrafficGradError, match=words):
            call()
    assert sorted(os.listdir(tmp_path)) == ["metrics.csv", "text.csv"]


def test_missing_ffmpeg_is_one_sentence(drive, tmp_path, monkeypatch):
    import imageio_ffmpeg

    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    simulator, trajectory = drive
    with pytest.raises(TrafficGradError, match="needs ffmpeg"):
        record(TrajectoryFrames.of(trajectory, simulator), tmp_path / "a.mp4", size=SMALL)
    assert os.listdir(tmp_path) == []


def test_import_is_quiet_light_and_says_when_pygame_is_missing():
    light = "import sys, trafficgrad.render; print(sorted({'matplotlib', 'imageio', 'PIL'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-W", "always", "-c", light], capture_output=True, text=True, timeout=60)
    assert run.stdout == "[]\n", run.stdout + run.stderr
    missing = "import sys; sys.modules['pygame'] = None; import trafficgrad.render"
    run = subprocess.run([sys.executable, "-c", missing], capture_output=True, text=True, timeout=60)
    assert "TrafficGradError: drawing needs pygame" in run.stderr
