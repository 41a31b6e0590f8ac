"""A record of a simulation, time first."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file
from trafficgrad.state import Action, TrafficState
from trafficgrad.tree import register_record


@register_record
@dataclass(frozen=True)
class Trajectory:
    """``T`` steps of ``B`` worlds: states at T+1 times and the actions taken between them; differentiable."""

    position: Tensor  # [T+1, B, N] m
    speed: Tensor  # [T+1, B, N] m/s
    lane: Tensor  # [T+1, B, N] int64
    lateral: Tensor  # [T+1, B, N] m
    heading: Tensor  # [T+1, B, N] rad
    cooldown: Tensor  # [T+1, B, N] s
    route: Tensor  # [T+1, B, N] int64
    route_index: Tensor  # [T+1, B, N] int64
    previous: Tensor  # [T+1, B, N] int64
    right_of_way: Tensor  # [T+1, B, N] int64
    vehicle_id: Tensor  # [T+1, B, N] int64
    driver: Tensor  # [T+1, B, N] int64
    active: Tensor  # [T+1, B, N] bool
    passed: Tensor  # [T+1, B, N] -
    time: Tensor  # [T+1, B] s
    seed: Tensor  # [T+1, B] int64
    arrivals: Tensor  # [T+1, B, Q] int64
    next_arrival: Tensor  # [T+1, B, Q] s
    inserted: Tensor  # [T+1, B, Q] int64
    next_id: Tensor  # [T+1, B] int64
    left: Tensor  # [T+1, B] int64
    phase: Tensor  # [T+1, B, S] int64
    phase_time: Tensor  # [T+1, B, S] s
    actions: Action | None  # fields [T, B, C]
    dt: float  # s

    @classmethod
    def of(cls, states: list[TrafficState], actions: Action | None, dt: float) -> Trajectory:
        """Stack states (T+1 of them) and take the actions [T, B, C] as they are."""
        stacked = tree.stack(states)
        fields = {f.name: getattr(stacked, f.name) for f in dataclasses.fields(TrafficState)}
        return cls(**fields, actions=actions, dt=dt)

    @property
    def steps(self) -> int:
        """Number of time steps ``T``."""
        return self.position.shape[0] - 1

    @property
    def states(self) -> TrafficState:
        """All states as one record whose fields have a leading time dimension."""
        return tree.index(self._record(), slice(None))

    def state(self, t: int) -> TrafficState:
        """The state after ``t`` steps (negative: from the end)."""
        return tree.index(self._record(), t)

    def _record(self) -> TrafficState:
        # Not the constructor: it would refuse the time dimension.
        record = object.__new__(TrafficState)
        for f in dataclasses.fields(TrafficState):
            object.__setattr__(record, f.name, getattr(self, f.name))
        return record

    def detach(self) -> Trajectory:
        """The same record, cut from the graph."""
        return tree.detach(self)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as NumPy arrays by name, as files hold it. Gradients are not kept."""
        arrays = {f.name: getattr(self, f.name).detach().cpu().numpy() for f in dataclasses.fields(TrafficState)}
        for name in ("acceleration", "lane", "steering", "signal"):
            value = None if self.actions is None else getattr(self.actions, name)
            if value is not None:
                arrays[f"action_{name}"] = value.detach().cpu().numpy()
        return {**arrays, "dt": np.float64(self.dt)}

    def save(self, path: str | Path) -> Path:
        """Write a compressed ``.npz``, atomically. Gradients are not kept."""
        path = Path(path)
        with complete_file(path) as partial, partial.open("wb") as file:
            write_arrays(file, self.arrays())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """Read what :meth:`save` wrote, or the trajectory of a :class:`~trafficgrad.recording.Recording`.

        Raises:
            TrafficGradError: no such file, or not a trajectory.
        """
        return cls.from_arrays(read_arrays(path), path)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], path: str | Path) -> Trajectory:
        """The inverse of :meth:`arrays`; ``path`` is what messages call it.

        Raises:
            TrafficGradError: something is missing.
        """
        names = [f.name for f in dataclasses.fields(TrafficState)]
        try:
            fields = {name: torch.from_numpy(arrays[name]) for name in names}
            dt = float(arrays["dt"])
            actions = None
            if "action_acceleration" in arrays:
                given = {name: torch.from_numpy(x) for name, x in arrays.items() if name.startswith("action_")}
                parts = (given.get(f"action_{name}") for name in ("lane", "steering", "signal"))
                actions = Action(given["action_acceleration"], *parts)
        except (KeyError, ValueError, TypeError) as error:
            raise TrafficGradError(
                f"{str(path)!r} is no trajectory: expected an .npz written by Trajectory.save"
            ) from error
        return cls(**fields, actions=actions, dt=dt)


def write_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as a compressed ``.npz``."""
    names: dict[str, Any] = dict(arrays)
    np.savez_compressed(file, **names)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``, by name; nothing in it is executed.

    Raises:
        TrafficGradError: no such file, or not an ``.npz``.
    """
    path = Path(path)
    if not path.is_file():
        raise TrafficGradError(f"no trajectory file {str(path)!r}; expected an .npz written by Trajectory.save")
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise TrafficGradError(
            f"{str(path)!r} is no trajectory: expected an .npz written by Trajectory.save"
        ) from error
