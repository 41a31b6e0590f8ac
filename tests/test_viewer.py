"""The window: keys, mouse, camera, overlays, charts and the card of a vehicle; in memory, and under a real server."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pygame
import pytest
import torch

from trafficgrad.car_following import IDM
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import ring, straight
from trafficgrad.render import Camera, Stage, Style, TrajectoryFrames, Viewer, show
from trafficgrad.render.charts import Numbers, TimeSpace
from trafficgrad.render.colouring import AccelerationColouring, HeadwayColouring, SpeedColouring
from trafficgrad.render.frames import Details
from trafficgrad.render.inspector import vehicle_lines
from trafficgrad.render.moment import Gradient, Insight
from trafficgrad.render.overlays import GradientMarks, LaneChanges, LeaderLinks, Trails
from trafficgrad.render.player import Player
from trafficgrad.render.scene import MIN_SIZE, Scene
from trafficgrad.render.style import ACCENT, CONTROLLED, DIVERGING, speed_colours
from trafficgrad.render.viewer import FOOT
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.trajectory import Trajectory

DT = 0.1
SIZE = (960, 540)


def traffic(position, speed, lane):
    return TrafficState(
        position=torch.tensor(position, dtype=torch.float64),
        speed=torch.tensor(speed, dtype=torch.float64),
        lane=torch.tensor(lane),
    )


@pytest.fixture(scope="module")
def drive():
    """Four vehicles on two lanes of a ring for 6 s, slots 1 and 3 controlled; slot 0 changes to the left after 2 s."""
    fleet = Fleet(length=torch.tensor([4.0, 5.0, 6.0, 5.0]), width=1.8, controlled=(1, 3))
    simulator = Simulator(ring(200.0, lanes=2), fleet, IDM(15.0, 1.0, 1.0, 1.5, 2.0))
    before = simulator.simulate(traffic([20.0, 70.0, 120.0, 180.0], [5.0, 8.0, 2.0, 10.0], [0, 0, 1, 1]), 20)
    states = [before.state(t) for t in range(21)]
    moved = states[-1].lane.clone()
    moved[0, 0] = 1
    after = simulator.simulate(dataclasses.replace(states[-1], lane=moved), 40)
    states += [after.state(t) for t in range(1, 41)]
    return simulator, Trajectory.of(states, None, DT)


def gradients(count, biased=0.0):
    """Slopes that only slot 2 and the first controlled vehicle have."""
    speed, part = np.array([0.0, 0.0, 0.8, 0.0]), np.array([0.0, 0.0, biased, 0.0])
    action, half = np.array([[0.5, -0.4], [0.0, 0.0]]), np.array([[0.0, -0.4], [0.0, 0.0]])
    one = Gradient(0.0, 6.0, speed + part, part, action, half, 1.0, 0.5)
    terms = {"reward": 0.5, "pace": 0.25}
    mean, deviation = np.array([[0.3, -0.1], [0.0, 0.0]]), np.full((2, 2), 0.2)
    insight = Insight("policy", terms, ("acceleration", "lane_request"), mean, deviation, one)
    return [insight] * count


@pytest.fixture
def source(drive):
    simulator, trajectory = drive
    details = Details(desired_speed=15.0, insights=gradients(60, biased=-0.5))
    return TrajectoryFrames.of(trajectory, simulator, captions={"reward": np.linspace(0.0, 1.0, 60)}, details=details)


@pytest.fixture
def viewer(source):
    viewer = Viewer(source, SIZE, title="test")
    viewer.draw(pygame.Surface(SIZE))
    return viewer


def rgb(stage, time):
    return stage.rgb(time).astype(int)


def differs(first, second):
    """Pixels [K, 2] (x, y) in which two pictures differ."""
    y, x = np.nonzero((first != second).any(-1))
    return np.stack([x, y], -1)


# ---------------------------------------------------------------- time


def test_player():
    class Span:
        start, end, step = 2.0, 4.0, 0.5

    player = Player(Span())
    player.advance(0.05)
    assert player.time == pytest.approx(2.05)
    player.advance(30.0)  # after a hitch nothing is skipped
    assert player.time < 2.2
    player.step(1)
    assert player.time == 2.5 and not player.playing
    player.step(1)
    player.step(-1)
    player.step(-1)
    assert player.time == 2.0
    player.toggle()
    player.faster(1)
    player.advance(0.1)
    assert player.time == pytest.approx(2.2)
    for _ in range(40):
        player.advance(0.1)
    assert player.time == 4.0 and not player.playing and player.share == 1.0
    player.toggle()
    assert player.time == 2.0 and player.playing
    for _ in range(9):
        player.faster(-1)
    assert player.factor == 0.25
    with pytest.raises(TrafficGradError, match="time_factor"):
        Player(Span(), 0.0)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([pygame.K_RIGHT], 3.1),
        ([pygame.K_LEFT, pygame.K_LEFT], 2.8),
        ([pygame.K_HOME], 0.0),
        ([pygame.K_END], 6.0),
    ],
)
def test_keys_move_time(viewer, keys, expected):
    viewer.player.go_to(3.0)
    for key in keys:
        assert viewer.press(key)
    assert viewer.player.time == pytest.approx(expected)


def test_space_plays_and_q_closes(viewer):
    assert viewer.press(pygame.K_SPACE) and not viewer.player.playing
    assert viewer.press(pygame.K_SPACE) and viewer.player.playing
    assert viewer.press(pygame.K_UP) and viewer.player.factor == 2.0
    assert not viewer.press(pygame.K_q)
    assert not viewer.press(pygame.K_ESCAPE)
    assert not viewer.obey(pygame.event.Event(pygame.QUIT))


def test_the_bar_scrubs(viewer):
    bar = viewer.bar
    for kind, x in ((pygame.MOUSEBUTTONDOWN, bar.left), (pygame.MOUSEMOTION, bar.centerx), (pygame.MOUSEBUTTONUP, 0)):
        event = {"pos": (x or bar.centerx, bar.centery), "rel": (0, 0), "button": 1}
        assert viewer.obey(pygame.event.Event(kind, event))
    assert viewer.player.time == pytest.approx(3.0, abs=0.02) and not viewer.player.playing


# ---------------------------------------------------------------- camera


def test_cameras():
    camera = Camera(3.0, (10.0, 5.0), (400.0, 300.0))
    points = np.array([[0.0, 0.0], [12.5, -3.0]])
    at = (120.0, 77.0)
    closer = camera.scaled(2.5, at)
    assert closer.scale == 7.5
    np.testing.assert_allclose(closer.to_world(np.array(at)), camera.to_world(np.array(at)))
    np.testing.assert_allclose(
        camera.moved((7.0, -2.0)).to_screen(points), camera.to_screen(points) + np.array([7.0, -2.0])
    )
    snapped = camera.moved((0.3, 0.4)).snapped()
    origin = snapped.to_screen(np.zeros(2))
    np.testing.assert_allclose(origin, np.round(origin), atol=1e-9)
    assert np.abs(origin - camera.moved((0.3, 0.4)).to_screen(np.zeros(2))).max() <= 0.5


def test_zoom_keeps_what_is_under_the_mouse(viewer):
    stage = viewer.stage
    frame = viewer.source.frame(0.0)
    slot = 2
    pixel = stage.scene.vehicle_pixels(frame)[slot]
    for _ in range(8):
        stage.zoom(1.25, tuple(pixel))
    after = stage.scene.vehicle_pixels(frame)[slot]
    assert np.abs(after - pixel).max() < 12  # streets come nearer to scale meanwhile
    assert stage.scene.vehicle_at(frame, tuple(after)) == slot
    assert not stage.scene.is_fitted
    for _ in range(30):
        stage.zoom(1 / 1.25, tuple(pixel))
    assert stage.scene.is_fitted


def test_tiles_show_the_same_road_as_a_whole_picture(viewer):
    """Wherever the view was moved before, the roads in it are the same."""
    stage = viewer.stage
    at = tuple(stage.scene.vehicle_pixels(stage.frame)[0])
    stage.zoom(4.0, at)
    stage.move((-150, 40))
    stage.move((150, -40))
    moved = rgb(stage, 0.0)
    fresh = Stage(viewer.source, SIZE, title="test", foot=stage.foot)
    fresh.zoom(4.0, at)
    assert np.array_equal(moved, rgb(fresh, 0.0))
    # Asphalt is where the vehicles are, and the picture is not the fitted one.
    pixels = np.round(fresh.scene.vehicle_pixels(fresh.frame)).astype(int)
    inside = [tuple(p) for p in pixels if fresh.scene.area.collidepoint(p)]
    assert inside and all(moved[y, x].sum() > 60 for x, y in inside)


def test_drag_moves_and_follow_keeps_the_vehicle_in_the_middle(viewer):
    stage = viewer.stage
    stage.zoom(3.0, stage.scene.area.center)
    before = stage.scene.vehicle_pixels(stage.frame)
    for kind, pos, rel in (
        (pygame.MOUSEBUTTONDOWN, (300, 200), (0, 0)),
        (pygame.MOUSEMOTION, (340, 190), (40, -10)),
        (pygame.MOUSEBUTTONUP, (340, 190), (0, 0)),
    ):
        viewer.obey(pygame.event.Event(kind, pos=pos, rel=rel, button=1))
    np.testing.assert_allclose(stage.scene.vehicle_pixels(stage.frame) - before, [[40, -10]] * 4, atol=1.0)
    assert stage.selected is None  # a drag is no click
    viewer.press(pygame.K_f)
    for moment in (0.5, 2.5, 5.9):
        viewer.player.go_to(moment)
        viewer.draw(pygame.Surface(SIZE))
        x, y = stage.scene.vehicle_pixels(stage.frame)[stage.selected]
        # Not the road's axis but the vehicle; streets wider than to scale move it a little aside.
        assert math.hypot(x - stage.scene.area.centerx, y - stage.scene.area.centery) < 12
    viewer.press(pygame.K_0)
    assert stage.scene.is_fitted and not stage.following


# ---------------------------------------------------------------- choosing


def test_click_and_tab_choose(viewer):
    stage = viewer.stage
    x, y = stage.scene.vehicle_pixels(stage.frame)[2]
    for kind in (pygame.MOUSEBUTTONDOWN, pygame.MOUSEBUTTONUP):
        viewer.obey(pygame.event.Event(kind, pos=(x + 1, y - 1), button=1, rel=(0, 0)))
    assert stage.selected == 2
    viewer.press(pygame.K_TAB)
    assert stage.selected == 1
    viewer.press(pygame.K_TAB)
    assert stage.selected == 3
    viewer.press(pygame.K_TAB)
    assert stage.selected == 1
    viewer.press(pygame.K_TAB, pygame.KMOD_SHIFT)
    assert stage.selected == 3
    assert viewer.press(pygame.K_ESCAPE) and stage.selected is None


def test_the_card_tells_everything(source):
    lines = dict(vehicle_lines(source.frame(1.0), 1))
    speed = source.frame(1.0).speed
    assert lines["driver"] == "policy" and lines["speed"] == f"{speed[1]:.2f} m/s"
    assert lines["desired speed"] == "15.00 m/s" and lines["lane"] == "1 from the right"
    assert lines["policy: acceleration"] == "+0.30 ± 0.20" and lines["policy: lane_request"] == "-0.10 ± 0.20"
    assert lines["reward"] == "+0.500" and lines["reward: pace"] == "+0.250"
    assert lines["lane change"] == "none"
    follower = dict(vehicle_lines(source.frame(1.0), 0))
    gap = source.frame(1.0).around.gap[0]
    assert follower["driver"] == "human driver" and follower["leader"] == "vehicle 1"
    assert follower["gap"] == f"{gap:.1f} m" and follower["time headway"] == f"{gap / speed[0]:.2f} s"
    # Bumper to bumper, from the positions alone.
    position = source.frame(1.0).distance
    assert gap == pytest.approx(position[1] - 5.0 - position[0], abs=1e-6)
    assert dict(vehicle_lines(source.frame(3.5), 0))["lane change"] == "to the left, 1.5 s ago"
    third = dict(vehicle_lines(source.frame(1.0), 2))
    assert third["d return / d speed"] == "+0.3 s/m" and third["of it by lane changes"] == "-0.5 s/m"


def test_the_chosen_vehicle_is_ringed_and_stays_the_same(viewer):
    stage = viewer.stage
    plain = rgb(stage, 1.0)
    stage.select(2)
    ringed = rgb(stage, 1.0)
    centre = stage.scene.vehicle_pixels(stage.frame)[2]
    yellow = (np.abs(ringed - ACCENT).max(-1) < 30) & (np.abs(plain - ACCENT).max(-1) > 60)
    y, x = np.nonzero(yellow[: stage.scene.area.bottom, : stage.scene.area.right])
    far = np.hypot(x - centre[0], y - centre[1])
    assert len(far) > 20 and far.max() < 40


def test_a_chosen_vehicle_that_left_is_let_go():
    network = straight(100.0)
    first = traffic([[50.0]], [[5.0]], [[0]])
    second = dataclasses.replace(first, vehicle_id=torch.tensor([[7]]), position=torch.tensor([[2.0]]).double())
    stage = Stage(TrajectoryFrames(Trajectory.of([first, second], None, DT), network, 5.0, 2.0), SIZE)
    stage.select(0)
    stage.draw(0.1, pygame.Surface(SIZE))
    assert stage.selected is None


# ---------------------------------------------------------------- colours and overlays


def test_colourings(source):
    frame = source.frame(1.0)
    speed, acceleration, headway = SpeedColouring(15.0), AccelerationColouring(), HeadwayColouring()
    assert np.array_equal(speed.fill(frame), speed_colours(frame.speed, 15.0))
    change = (source.frame(1.1).speed - frame.speed) / DT
    np.testing.assert_allclose(acceleration.values(frame), change, atol=1e-9)
    np.testing.assert_allclose(headway.values(frame), frame.around.gap / frame.speed, rtol=1e-9)
    ends = acceleration.colours(np.array([-9.0, 0.0, 9.0]))
    assert ends.tolist() == [list(DIVERGING[0]), list(DIVERGING[8]), list(DIVERGING[-1])]
    assert acceleration.mean(frame) == pytest.approx(change.mean())
    unknown = dataclasses.replace(frame, look=None)
    assert np.isnan(headway.values(unknown)).all() and len(np.unique(headway.fill(unknown), axis=0)) == 1


def oklab(colours):
    """Colours 0..255 in OKLab, from its definition (Ottosson 2020)."""
    c = np.asarray(colours) / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
              [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
              [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T


def test_the_diverging_colours_are_even():
    """Steps of equal length, the lightness falls to the middle and rises, and the ends differ without red and green."""
    lab = oklab(DIVERGING)
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() < 1.25 * steps.min()
    assert (np.diff(lab[:9, 0]) < 0).all() and (np.diff(lab[8:, 0]) > 0).all()
    assert abs(lab[0, 2] - lab[-1, 2]) > 0.2  # blue against yellow


@pytest.mark.parametrize("name", [LaneChanges.name, LeaderLinks.name, Trails.name, GradientMarks.name])
def test_overlays_draw_near_vehicles_only(source, name):
    """Something is drawn where it should be, and nowhere else."""
    moment = 2.6
    plain = rgb(Stage(source, SIZE, style=Style(show=())), moment)
    stage = Stage(source, SIZE, style=Style(show=(name,)))
    pixels = differs(plain, rgb(stage, moment))
    assert len(pixels) > 10
    frame = source.frame(moment)
    places = stage.scene.places(frame)
    # Where the gradient says what its colours mean.
    beside = (pixels[:, 0] >= stage.scene.panel.left) & (pixels[:, 1] < stage.scene.strip.top - 30)
    assert beside.any() == (name == GradientMarks.name)
    pixels = pixels[~beside]
    if name == LaneChanges.name:
        slots, reach = [0], 40
    elif name == GradientMarks.name:
        slots, reach = [1, 2], 75
    elif name == Trails.name:
        # Behind a vehicle, on the way that it came.
        slots, reach = (
            [0, 1, 2, 3],
            20 + max(p.centre[0, 0] * 0 + 15.0 * 4.0 * stage.scene.fitted_scale * 3 for p in places),
        )
    else:
        slots, reach = [0, 1, 2, 3], 60.0 * stage.scene.strip.scale + 20
    centres = np.concatenate([place.centre[slots] for place in places])
    far = np.linalg.norm(pixels[:, None] - centres[None], axis=-1).min(1)
    assert far.max() < reach


def test_lane_change_marks_fade_and_stand_on_the_side_left(source):
    stage = Stage(source, SIZE, style=Style(show=(LaneChanges.name,)))
    bare = Stage(source, SIZE, style=Style(show=()))
    assert len(differs(rgb(stage, 1.9), rgb(bare, 1.9))) == 0
    fresh, old = (np.abs(rgb(stage, t) - rgb(bare, t)).max() for t in (2.2, 4.9))
    assert fresh > 120 > 60 > old
    pixels = differs(rgb(stage, 3.2), rgb(bare, 3.2))
    road = pixels[pixels[:, 1] < stage.scene.strip.top - 40]
    centre = stage.scene.vehicle_pixels(stage.frame)[0]
    middle = np.array(stage.scene.view.camera.middle)
    # It drove to the left, inwards on a ring that is driven counter-clockwise: the mark is outside.
    assert np.linalg.norm(road - middle, axis=1).mean() > np.linalg.norm(centre - middle)


def test_gradient_marks_say_who_and_which_way(source):
    """Blue ahead of the first controlled vehicle, orange to its right and dashed; a halo around slot 2 alone."""
    stage, bare = (Stage(source, SIZE, style=Style(show=show)) for show in ((GradientMarks.name,), ()))
    picture, plain = rgb(stage, 1.0), rgb(bare, 1.0)
    place = stage.scene.places(stage.frame)[0]
    pixels = differs(picture, plain)
    pixels = pixels[pixels[:, 1] < stage.scene.strip.top - 40]
    blue = picture[pixels[:, 1], pixels[:, 0]] @ [-1, 0, 1] > 30
    orange = picture[pixels[:, 1], pixels[:, 0]] @ [1, 0, -1] > 30
    ahead, left = place.direction[1], np.array([place.direction[1][1], -place.direction[1][0]])
    way = pixels - place.centre[1]
    near = np.linalg.norm(way, axis=1) < 70
    assert (way[blue & near] @ ahead).mean() > 15
    assert (way[orange & near] @ left).mean() < -8
    assert np.linalg.norm(pixels - place.centre[2], axis=1).min() < 12
    assert np.linalg.norm(pixels - place.centre[3], axis=1).min() > 20


def test_a_style_is_checked():
    with pytest.raises(TrafficGradError, match=r"unknown colour 'sped' \(did you mean 'speed'\?\)"):
        Style("sped")
    with pytest.raises(TrafficGradError, match=r"'trail' \(did you mean 'trails'\?\)"):
        Style(show=("trail",))
    with pytest.raises(TrafficGradError, match="from 1 on, got 0"):
        Style(follow=0)


def test_nobody_to_follow(source):
    with pytest.raises(TrafficGradError, match="no controlled vehicle 3 to follow, there are 2"):
        Stage(source, SIZE, style=Style(follow=3))


# ---------------------------------------------------------------- charts


def test_time_and_space(source):
    stage = Stage(source, (1280, 720), style=Style(show=(TimeSpace.name,)))
    picture = rgb(stage, 5.0)
    chart = stage.charts[0]
    for slot, colour in ((1, np.array(CONTROLLED)), (2, None)):
        hits = 0
        for moment in (1.0, 2.0, 3.0, 4.0):
            frame = source.frame(moment)
            x = round(float(chart.across(moment, 0.0)))
            y = chart.plot.bottom - 1 - frame.distance[slot] / 200.0 * (chart.plot.height - 1)
            near = picture[int(y) - 2 : int(y) + 4, x - 1 : x + 2].reshape(-1, 3)
            wanted = speed_colours(frame.speed[slot], source.max_speed) if colour is None else colour
            hits += bool((np.abs(near - wanted).max(-1) < 60).any())
        assert hits >= 3, slot
    future = picture[
        chart.plot.top : chart.plot.bottom - 1, round(float(chart.across(5.3, 0.0))) : chart.plot.right - 2
    ]
    assert np.ptp(future.reshape(-1, 3), axis=0).max() == 0


def test_numbers_over_time(source):
    stage = Stage(source, (1280, 720), style=Style(show=(Numbers.name,)))
    picture, chart = rgb(stage, 6.0), stage.charts[0]
    third = chart.plot.height / 3
    rows = slice(round(chart.plot.top + 2 * third + 17), chart.plot.bottom - 1)
    tops = []
    for moment in (1.0, 3.0, 5.0):  # the reward rises from 0 to 1
        column = picture[rows, round(float(chart.across(moment, 0.0)))].sum(-1)
        tops.append(int(column.argmax()))
    assert tops[0] > tops[1] > tops[2]


def test_charts_come_and_go_with_their_keys(viewer):
    stage = viewer.stage
    viewer.press(pygame.K_5)
    viewer.press(pygame.K_6)
    assert [type(chart) for chart in stage.charts] == [TimeSpace, Numbers]
    assert not stage.charts[0].area.colliderect(stage.charts[1].area)
    assert stage.scene.strip.top + stage.scene.strip.height <= stage.charts[0].area.top
    assert stage.charts[0].area.bottom <= viewer.bar.top
    assert all(chart.budget < 0.1 for chart in stage.charts)  # a window waits for nothing
    viewer.press(pygame.K_5)
    viewer.press(pygame.K_6)
    assert stage.charts == ()


# ---------------------------------------------------------------- help, notices, saving


def test_help_names_every_key(viewer):
    plain = pygame.Surface(SIZE)
    viewer.player.playing = False
    viewer.draw(plain)
    assert viewer.press(0, text="?") and viewer.help
    helped = pygame.Surface(SIZE)
    viewer.draw(helped)
    changed = (pygame.surfarray.array3d(plain) != pygame.surfarray.array3d(helped)).any(-1)
    assert changed.mean() > 0.2
    assert viewer.press(pygame.K_ESCAPE) and not viewer.help
    text = " ".join(f"{name} {what}" for name, what in viewer.help_lines)
    for word in ("space", "zoom", "follow", "wheel", "gradient", "quit", "Tab", "Home"):
        assert word in text


def test_a_recording_says_what_it_cannot_do(viewer):
    for key, expected in ((pygame.K_p, "driven already"), (pygame.K_w, "driven already")):
        viewer.press(key)
        assert expected in viewer._notice


def test_s_saves_a_picture(viewer, tmp_path):
    viewer.folder = tmp_path / "new"
    viewer.press(pygame.K_s)
    (file,) = viewer.folder.glob("*.png")
    assert pygame.image.load(file).get_size() == SIZE
    (tmp_path / "file").write_text("")
    viewer.folder = tmp_path / "file"
    viewer.press(pygame.K_s)
    assert "not saved" in viewer._notice


def test_small_windows_are_drawn_at_the_smallest_size(source):
    viewer = Viewer(source, (200, 100))
    assert viewer.size == MIN_SIZE
    viewer.draw(pygame.Surface(viewer.size))


# ---------------------------------------------------------------- windows


def test_window_opens_plays_and_closes(drive, monkeypatch):
    simulator, trajectory = drive
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    drawn = []

    class Watched(TrajectoryFrames):
        def frame(self, time):
            drawn.append(time)
            key = {4: pygame.K_RIGHT, 6: pygame.K_q}.get(len(drawn))
            if key is not None:
                pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key, mod=0, unicode=""))
            return super().frame(time)

    show(Watched.of(trajectory, simulator), title="test", size=(640, 400), time_factor=0.5)
    assert len(drawn) == 6 and drawn == sorted(drawn)  # the first is the stage's own
    assert drawn[4] - drawn[3] >= DT / 2 and drawn[5] == drawn[4]
    assert not pygame.display.get_init()


_WINDOW = """
import sys, torch
from trafficgrad.network import ring
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.car_following import IDM
from trafficgrad.render import TrajectoryFrames, show
simulator = Simulator(ring(200.0), Fleet(controlled=(1,)), IDM(15.0, 1.0, 1.0, 1.5, 2.0))
position, speed, lane = torch.tensor([[20.0, 90.0]]), torch.tensor([[5.0, 8.0]]), torch.zeros(1, 2, dtype=torch.int64)
state = TrafficState(position=position, speed=speed, lane=lane)
source = TrajectoryFrames.of(simulator.simulate(state, 3000), simulator)
from pathlib import Path
show(source, title="a window", size=(800, 600), folder=Path(sys.argv[1]))
print("closed")
"""


@pytest.mark.skipif(shutil.which("Xvfb") is None or shutil.which("xdotool") is None, reason="needs Xvfb and xdotool")
def test_a_real_window(tmp_path):
    """A window on a real server: mouse and keys reach it, nothing is printed on the way."""
    display = f":{90 + os.getpid() % 9}"
    server = subprocess.Popen(["Xvfb", display, "-screen", "0", "1024x768x24"], stderr=subprocess.DEVNULL)
    environment = {**os.environ, "DISPLAY": display, "SDL_VIDEODRIVER": "x11", "SDL_AUDIODRIVER": "dummy"}
    try:
        time.sleep(1.0)
        command = [sys.executable, "-c", _WINDOW, str(tmp_path)]
        window = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        xdo = ["xdotool", "search", "--sync", "--onlyvisible", "--class", "."]
        found = subprocess.run(
            xdo, env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout.split()[0]
        time.sleep(0.5)
        # The bar of time is at the bottom: a click in its middle leads to the middle of 300 s.
        at = ["mousemove", "--window", found]
        actions = [
            ["key", "space"],
            [*at, "400", "576"],
            ["click", "1"],
            [*at, "300", "250"],
            ["click", "4"],
            ["click", "4"],
        ]
        for action in (*actions, *(["key", name] for name in ("Tab", "f", "s", "q"))):
            subprocess.run(["xdotool", *action], env=environment, check=True, timeout=20)
            time.sleep(0.3)
        out, err = window.communicate(timeout=30)
    finally:
        server.terminate()
        server.wait()
    assert found and out == "closed\n" and err == ""
    (file,) = tmp_path.glob("*.png")
    assert float(file.stem.rpartition("_")[2].removesuffix("s")) == pytest.approx(150.0, abs=2.0)
    picture = pygame.surfarray.array3d(pygame.image.load(file)).astype(int)
    # The chosen vehicle is followed: its ring is in the middle of the road's part of the picture.
    yellow = np.argwhere(np.abs(picture - ACCENT).max(-1) < 25)
    middle = Scene(ring(200.0), picture.shape[:2], max_speed=10.0, title="a window", foot=FOOT).area.center
    assert (np.linalg.norm(yellow - middle, axis=1) < 60).sum() > 20
