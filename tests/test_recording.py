"""Recordings: one file that can be drawn without scenario and simulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import trafficgrad as tg
from trafficgrad import pictures
from trafficgrad.errors import TrafficGradError
from trafficgrad.recording import Recording
from trafficgrad.render import TrajectoryFrames


@pytest.fixture(scope="module")
def drive():
    """Eight vehicles on a ring whose drivers differ, slot 3 controlled; its simulator and 4 s of it."""
    length = torch.linspace(3.0, 8.0, 8)
    fleet = tg.Fleet(length=length, width=1.9, controlled=(3,))
    wishes = torch.linspace(8.0, 16.0, 8)
    simulator = tg.Simulator(tg.ring(300.0, 2), fleet, tg.IDM(desired_speed=wishes), tg.MOBIL())
    position = torch.arange(8.0)[None] * 30
    state = tg.TrafficState(position, torch.full((1, 8), 5.0), torch.tensor([[0, 1] * 4]))
    return simulator, simulator.simulate(state, 40)


def recording(drive, **more):
    simulator, trajectory = drive
    fleet = simulator.fleet
    return Recording(
        trajectory,
        simulator.network,
        fleet.length,
        fleet.width,
        fleet.slots,
        simulator.car_following.desired_speed,
        **more,
    )


def test_what_is_written_is_drawn_as_before(drive, tmp_path):
    simulator, trajectory = drive
    rewards = np.linspace(0.0, 1.0, 40)
    file = recording(drive, captions={"reward": rewards}, title="a ring").save(tmp_path / "ring.npz")
    again = Recording.load(file)
    assert again.title == "a ring" and again.controlled.tolist() == [3] and again.width == 1.9
    assert torch.equal(again.trajectory.position, trajectory.position)
    one = TrajectoryFrames.of(trajectory, simulator, captions={"reward": rewards})
    other = TrajectoryFrames.of_recording(again)
    for moment in (0.0, 1.73, 4.0):
        first, second = one.frame(moment), other.frame(moment)
        for name in ("xy", "heading", "length", "speed", "offset", "controlled"):
            np.testing.assert_allclose(getattr(second, name), getattr(first, name), atol=1e-6, err_msg=name)
        assert second.caption == first.caption
        assert second.desired_speed.tolist() == torch.linspace(8.0, 16.0, 8).tolist()
        assert np.array_equal(second.around.leader, first.around.leader)
        np.testing.assert_allclose(second.around.gap, first.around.gap, atol=1e-4)
    assert torch.equal(tg.Trajectory.load(file).speed, trajectory.speed)


def test_a_run_is_recorded_and_watched_without_its_scenario(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ("simulation.warmup_steps=10", "simulation.horizon_steps=50", "pool_size=1")
    show = pictures.perform(pictures.Drive("ring_4lane", 1, settings))
    file = pictures.film(show, tmp_path / "policy.npz")
    again = pictures.perform(pictures.Drive(file))
    assert again.title == show.title and torch.equal(again.trajectory.lane, show.trajectory.lane)
    assert again.controlled.tolist() == show.controlled.tolist() and len(again.reward) == 50
    moment = again.source.end
    np.testing.assert_allclose(again.source.frame(moment).xy, show.source.frame(moment).xy, atol=1e-6)
    assert pictures.film(again, tmp_path / "still.png").is_file()
    with pytest.raises(TrafficGradError, match="only what is simulated"):
        pictures.film(again, tmp_path / "again.npz")


def test_refusals(drive, tmp_path):
    _, trajectory = drive
    bare = trajectory.save(tmp_path / "bare.npz")
    with pytest.raises(TrafficGradError, match="without its roads"):
        Recording.load(bare)
    (tmp_path / "text.npz").write_text("no archive")
    for load in (Recording.load, tg.Trajectory.load):
        with pytest.raises(TrafficGradError, match="is no trajectory"):
            load(tmp_path / "text.npz")
        with pytest.raises(TrafficGradError, match="no trajectory file"):
            load(tmp_path / "nowhere.npz")
    file = recording(drive).save(tmp_path / "whole.npz")
    with np.load(file) as data:
        arrays = dict(data)
    for name, value, message in (
        ("recording_about", np.array('{"format": "another"}'), "has the format 'another'"),
        ("recording_about", np.array("{"), "is no complete recording"),
        (
            "recording_about",
            np.array('{"format": "trafficgrad recording 1", "network": "{}"}'),
            "JSON of something else",
        ),
        ("position", np.full_like(arrays["position"], np.nan), "no finite position or speed"),
    ):
        np.savez(tmp_path / "damaged.npz", **{**arrays, name: value})
        with pytest.raises(TrafficGradError, match=message):
            TrajectoryFrames.of_recording(Recording.load(tmp_path / "damaged.npz"))
