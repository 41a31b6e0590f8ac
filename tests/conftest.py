"""Shared by all tests: no window, no sound, one thread, a cache of their own; the command line as a fixture."""

import os
import sys

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

import pytest
import torch
from small_trajectories import behind_profile, drawn

from trafficgrad import Trajectory, cli

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Warmed-up traffic of the user's own is neither read nor written, by programs that tests start neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAFFICGRAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trafficgrad", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture(params=["reference", "auto"])
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs on the reference, and with the fused kernel where that covers it."""
    monkeypatch.setenv("TRAFFICGRAD_BACKEND", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def ten_drivers() -> tuple[torch.Tensor, Trajectory]:
    """Parameters of ten drivers, [10, 5], and how each follows a leader that stops, goes and brakes hard."""
    values = drawn(10)
    return values, behind_profile(values)
