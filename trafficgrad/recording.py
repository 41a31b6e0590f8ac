"""A trajectory with everything that is needed to look at it again: one file, no scenario, no simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trafficgrad.car_following.base import look_up
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file
from trafficgrad.neighbors import find_neighbors, measure
from trafficgrad.network import RoadNetwork
from trafficgrad.network.files import network_text, parse_network
from trafficgrad.state import Neighbors, PerDriver, TrafficState
from trafficgrad.trajectory import Trajectory, read_arrays, write_arrays

_ABOUT = "recording_about"  # JSON text: format, title, network
_PREFIX, _CAPTION = "recording_", "recording_caption_"
FORMAT = "trafficgrad recording 1"


@dataclass(frozen=True)
class Recording:
    """What was driven, where, and by whom.

    Its file is a trajectory's ``.npz`` with more in it: :meth:`Trajectory.load` reads it too.
    """

    trajectory: Trajectory
    network: RoadNetwork
    length: PerDriver = 5.0  # m
    width: PerDriver = 2.0  # m
    controlled: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # [C] slots
    desired_speed: PerDriver | None = None  # m/s
    captions: Mapping[str, np.ndarray] = field(default_factory=dict)  # [T] or [T+1], numbers beside the picture
    title: str = ""

    def neighbors(self, state: TrafficState) -> Neighbors:
        """Who surrounds whom in a state of this trajectory, one or more of its worlds."""
        length = look_up(self.length, state.driver)
        return measure(state, find_neighbors(state, self.network, length), length)

    def save(self, path: str | Path) -> Path:
        """Write a compressed ``.npz``, atomically."""
        path = Path(path)
        about = {"format": FORMAT, "title": self.title, "network": network_text(self.network)}
        arrays = {
            **self.trajectory.arrays(),
            _ABOUT: np.array(json.dumps(about)),
            f"{_PREFIX}length": _array(self.length),
            f"{_PREFIX}width": _array(self.width),
            f"{_PREFIX}controlled": self.controlled.cpu().numpy(),
            **{f"{_CAPTION}{name}": np.asarray(values, dtype=np.float64) for name, values in self.captions.items()},
        }
        if self.desired_speed is not None:
            arrays[f"{_PREFIX}desired_speed"] = _array(self.desired_speed)
        with complete_file(path) as partial, partial.open("wb") as file:
            write_arrays(file, arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read what :meth:`save` wrote.

        Raises:
            TrafficGradError: no such file, no trajectory, or one without roads.
        """
        arrays = read_arrays(path)
        trajectory = Trajectory.from_arrays(arrays, path)
        if _ABOUT not in arrays:
            raise TrafficGradError(
                f"{str(path)!r} is a trajectory without its roads, as Trajectory.save writes it; "
                "trafficgrad.recording.Recording(trajectory, network).save writes one that can be drawn"
            )
        try:
            about = json.loads(str(arrays[_ABOUT]))
            if about["format"] != FORMAT:
                raise TrafficGradError(
                    f"{str(path)!r} has the format {about['format']!r}, this trafficgrad reads {FORMAT!r}"
                )
            network = RoadNetwork.from_graph(parse_network(about["network"], f"{path}, its network"))
            length, width = (_per_driver(arrays[f"{_PREFIX}{name}"]) for name in ("length", "width"))
            controlled = torch.from_numpy(arrays[f"{_PREFIX}controlled"]).to(torch.int64)
        except (KeyError, ValueError, TypeError) as error:
            if isinstance(error, TrafficGradError):
                raise
            raise TrafficGradError(f"{str(path)!r} is no complete recording") from error
        desired = arrays.get(f"{_PREFIX}desired_speed")
        return cls(
            trajectory,
            network,
            length,
            width,
            controlled,
            None if desired is None else _per_driver(desired),
            {name.removeprefix(_CAPTION): values for name, values in arrays.items() if name.startswith(_CAPTION)},
            str(about.get("title", "")),
        )


def _array(value: PerDriver) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(float(value))


def _per_driver(array: np.ndarray) -> PerDriver:
    return torch.from_numpy(array) if array.ndim else float(array)
