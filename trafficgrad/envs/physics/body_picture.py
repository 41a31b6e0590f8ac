"""Pictures of MuJoCo's bodies, by gymnasium's renderer; needs no screen where EGL or OSMesa is."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trafficgrad.envs.physics.mujoco_step import gymnasium_model, load_mujoco
from trafficgrad.errors import TrafficGradError

_CAMERA: dict[str, Any] = {"distance": 4.5, "elevation": -12.0, "azimuth": 90.0}
_HEIGHT = 0.8  # m of the point that the camera looks at
_VARIABLE = "MUJOCO_GL"  # of the environment: which OpenGL draws


class BodyPainter:
    """Draws states of a model of gymnasium's, by the name of its file; the camera follows the torso."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._size: tuple[int, int] | None = None
        self._data: Any = None
        self._renderer: Any = None
        # OpenGL's state belongs to a thread, and a window's thread has a state of its own.
        self._thread = ThreadPoolExecutor(1, "pictures")

    def draw(self, state: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A picture, uint8 [height, width, 3], of ``qpos`` and ``qvel`` [nq + nv]; ``size``: width and height in px.

        Raises:
            TrafficGradError: MuJoCo is not installed, or there is no OpenGL that draws without a screen.
        """
        return self._thread.submit(self._draw, state, size).result()

    def _draw(self, state: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
        mujoco = load_mujoco()
        if self._size != size:
            self._close()
            self._data, self._renderer = self._open(size)
            self._size = size
        data, model = self._data, self._renderer.model
        numbers = state.detach().cpu().numpy()
        data.qpos[:], data.qvel[:] = numbers[: model.nq], numbers[model.nq :]
        mujoco.mj_forward(model, data)
        torso = data.xpos[1]
        self._renderer.viewer.cam.lookat[:] = torso[0], torso[1], _HEIGHT
        return self._renderer.render("rgb_array")

    def close(self) -> None:
        """Give OpenGL's memory back; nothing can be drawn any more."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer, self._size = None, None

    def _open(self, size: tuple[int, int]) -> tuple[Any, Any]:
        mujoco = load_mujoco()
        model = gymnasium_model(self.file)
        model.vis.global_.offwidth, model.vis.global_.offheight = size
        data = mujoco.MjData(model)
        _choose_opengl()
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        renderer = MujocoRenderer(model, data, _CAMERA, *size)
        try:
            renderer.render("rgb_array")
        except Exception as error:  # whatever the driver raises
            raise TrafficGradError(_no_opengl(str(error))) from None
        return data, renderer


def _choose_opengl() -> None:
    """On Linux without a choice of the user's: EGL or OSMesa, which draw without a screen, whichever works."""
    chosen = os.environ.get(_VARIABLE)
    if chosen not in (None, "", "egl", "osmesa") or not sys.platform.startswith("linux"):
        return
    failures = []
    for name in (chosen,) if chosen else ("egl", "osmesa"):
        try:
            context = __import__(f"mujoco.{name}", fromlist=["GLContext"]).GLContext(16, 16)
            context.free()
        except Exception as error:  # of a missing library: ImportError, AttributeError, RuntimeError, by version
            failures.append(f"{name}: {error}")
        else:
            os.environ[_VARIABLE] = name
            return
    raise TrafficGradError(_no_opengl("; ".join(failures)))


def _no_opengl(reason: str) -> str:
    return (
        "pictures of MuJoCo's bodies need OpenGL that draws without a screen, EGL or OSMesa (Debian and Ubuntu: "
        f"apt install libegl1 or libosmesa6), and it cannot be used here ({reason})"
    )
