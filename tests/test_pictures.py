"""Pictures of whole scenes beside those that were looked at: nothing has changed, up to rounding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pygame
import pytest
from scenes import FOLDER, SCENES


def read(path: Path) -> np.ndarray:
    return pygame.surfarray.array3d(pygame.image.load(path)).astype(int)


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_looks_as_it_did(name: str, tmp_path: Path) -> None:
    """Machines round differently: edges may move by parts of a pixel, a digit may change, nothing else.

    After a change on purpose: python tests/scenes.py, and look at the pictures.
    """
    stage, moment = SCENES[name]()
    picture = pygame.surfarray.array3d(stage.draw(stage.source.start + moment)).astype(int)
    expected = read(FOLDER / f"{name}.png")
    assert picture.shape == expected.shape
    off = np.abs(picture - expected).max(-1)
    assert (off > 48).mean() < 0.002 and off.mean() < 0.5, f"{(off > 48).sum()} pixels differ"


@pytest.mark.parametrize("name", ["ring_4"])
def test_a_change_is_noticed(name: str) -> None:
    """The tolerance is smaller than one vehicle somewhere else, or one overlay less."""
    stage, moment = SCENES[name]()
    expected = read(FOLDER / f"{name}.png")
    for change in ("later", "no leaders"):
        if change == "no leaders":
            stage.shown -= {"leaders"}
        picture = stage.draw(stage.source.start + moment + (0.2 if change == "later" else 0.0))
        off = np.abs(pygame.surfarray.array3d(picture).astype(int) - expected).max(-1)
        assert (off > 48).mean() > 0.002, change


@pytest.mark.parametrize("arguments", [["ring_1lane", "--out", "a.png"], ["ring_1lane", "--out", "a.mp4"]])
def test_a_film_says_nothing_but_its_name(arguments: list[str], tmp_path: Path) -> None:
    """No display, no sound card: no warning of SDL, ALSA or ffmpeg, nothing that a script would stumble over."""
    quick = ["--seconds", "1", "--size", "480", "270", "--set", "simulation.warmup_steps=5"]
    code = "import sys; from trafficgrad.cli import main; sys.argv[0] = 'trafficgrad'; main()"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code, "render", *arguments, *quick],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and run.stdout == f"{arguments[-1]}\n"
    assert "warning" not in run.stderr.lower() and "alsa" not in run.stderr.lower() and "sdl" not in run.stderr.lower()
