"""Warming traffic up, and keeping the result in a file, so that the same warm-up is computed once on a machine.

A file's name is the SHA-256 of all that decides the result: the simulator with its tensors, the placed vehicles, the
states of the generators, the number of steps, the package's own code, PyTorch's version and what it runs on. It holds
the warmed-up state and the generators' states afterwards; who takes it goes on with the very bits that a warm-up would
have left. A file that is damaged or foreign counts as missing, and a folder that cannot be written to is no error.

The folder is ``$TRAFFICGRAD_CACHE``, else ``$XDG_CACHE_HOME/trafficgrad`` or ``~/.cache/trafficgrad``;
``TRAFFICGRAD_CACHE=off`` (or ``0``) turns the cache off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file
from trafficgrad.network import RoadNetwork
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState

VARIABLE = "TRAFFICGRAD_CACHE"
OFF = ("off", "0")
WORTHWHILE = 2_000_000  # vehicle-steps: seconds; a shorter warm-up is not worth a file
LARGEST = 1_000_000_000  # bytes of all files together; the ones that were not used for longest go first

_OWN_FILE = re.compile(r"\.?[0-9a-f]{64}(\.\d+)?\.pt")  # also what an interrupted writer left
_PACKAGE = Path(__file__).resolve().parent
# Folders of the package whose code can change what a warm-up gives.
_CODE = (".", "car_following", "kernels", "kernels/src", "lane_change", "network", "scenario_sections")


class _UnknownObject(Exception):
    """Something whose code or value cannot be told."""


def warm_up(
    simulator: Simulator, start: TrafficState, generators: Sequence[torch.Generator | None], steps: int
) -> TrafficState:
    """Drive ``start`` for ``steps`` by car following, with noise; what takes long, by a file where there is one.

    Either way the fields hold the same bits, without gradient, and the generators end in the same states.

    Parameters:
        start: B worlds. generators: CPU generators of the noise, each of B / their number worlds in order; None is the
            global generator, with which nothing is kept.
    """
    own = [generator for generator in generators if generator is not None]
    folder = cache_folder()
    if folder is None or len(own) < len(generators) or start.position.numel() * steps < WORTHWHILE:
        return _drive(simulator, start, generators, steps)
    key = fingerprint(simulator, start, own, steps)
    if key is None:
        return _drive(simulator, start, generators, steps)
    state = _recall(folder, key, start, own)
    if state is None:
        state = _drive(simulator, start, generators, steps)
        _keep(folder, key, state, own)
    return state


@torch.no_grad()
def _drive(
    simulator: Simulator, state: TrafficState, generators: Sequence[torch.Generator | None], steps: int
) -> TrafficState:
    like, each = state.position, state.worlds // len(generators)
    for _ in range(steps):
        noise = [torch.randn(each, state.vehicles, generator=own, dtype=like.dtype) for own in generators]
        state = simulator.step(state, None, torch.cat(noise).to(like.device))
    return state


def cache_folder() -> Path | None:
    """Where the files are; None where the cache is off or there is no home."""
    wanted = os.environ.get(VARIABLE, "").strip()
    if wanted.lower() in OFF:
        return None
    try:
        if wanted:
            return Path(wanted).expanduser() / "warm_up"
        base = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(base) if base else Path.home() / ".cache") / "trafficgrad" / "warm_up"
    except RuntimeError:
        return None


def fingerprint(
    simulator: Simulator, start: TrafficState, generators: Sequence[torch.Generator], steps: int
) -> str | None:
    """SHA-256 of all that decides a warm-up's result, as 64 hexadecimal digits.

    None where the simulator holds something whose code cannot be told, such as a model of the user's own.
    """
    digest = hashlib.sha256()
    device = start.position.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    # Vectorised loops may round otherwise than their scalar ends, so how the work is cut up counts.
    machine = (where, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), str(torch.get_default_dtype()))
    try:
        for part in (_code(), str(torch.__version__), device.type, machine, steps, simulator, start):
            _feed(digest, part)
    except _UnknownObject:
        return None
    for generator in generators:
        _feed(digest, generator.get_state())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _code() -> str:
    """Digest of the source of everything that simulates, the package's version with it."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for file in sorted(path for path in (_PACKAGE / folder).iterdir() if path.suffix in (".py", ".h", ".cpp")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _feed(digest: Any, value: object) -> None:
    """Add a value to a digest; what was written before it and after it cannot be mistaken for a part of it."""
    digest.update(f"{type(value).__qualname__}:".encode())
    if isinstance(value, Tensor):
        content = _content(value)
        digest.update(f"{value.dtype}{list(value.shape)}{len(content)}:".encode() + content)
    elif value is None or isinstance(value, bool | int | float | str):
        text = repr(value).encode()
        digest.update(f"{len(text)}:".encode() + text)
    elif isinstance(value, tuple | list):
        digest.update(f"{len(value)}:".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{list(value.shape)}{value.nbytes}:".encode() + value.tobytes())
    elif type(value) is RoadNetwork:
        # What it is compiled from, its routes and other limits: every table of a step follows from these.
        for item in (value._data, value._routes, value.route_loops, value.limits):
            _feed(digest, item)
    elif dataclasses.is_dataclass(value) and type(value).__module__.startswith("trafficgrad."):
        for field in dataclasses.fields(value):
            if field.compare:  # others hold what was made of these
                _feed(digest, field.name)
                _feed(digest, getattr(value, field.name))
    else:
        raise _UnknownObject


def _content(value: Tensor) -> bytes:
    """The bytes of a tensor's values, row by row."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _checksum(fields: dict[str, Tensor], generators: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(fields):
        _feed(digest, name)
        _feed(digest, fields[name])
    _feed(digest, generators)
    return digest.hexdigest()


def _recall(folder: Path, key: str, start: TrafficState, generators: Sequence[torch.Generator]) -> TrafficState | None:
    """The state kept under ``key``, the generators set to go on from there; None, nothing set, where there is none."""
    file = folder / f"{key}.pt"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a foreign file gets no guesses
            record = torch.load(file, map_location="cpu", weights_only=True)
        fields, states = record["fields"], record["generators"]
        expected = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
        fits = fields.keys() == expected.keys() and all(
            fields[name].shape == like.shape and fields[name].dtype == like.dtype for name, like in expected.items()
        )
        fits = fits and record["key"] == key and len(states) == len(generators)
        if not fits or record["checksum"] != _checksum(fields, states):
            return None
        for state in states:
            torch.Generator().set_state(state)
        loaded = TrafficState(**fields).to(start.position.device)
    except MemoryError:
        raise
    except Exception:  # a damaged file may fail anywhere inside the reader, with any type
        return None
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    with contextlib.suppress(OSError):
        os.utime(file)  # used just now
    return loaded


def _keep(folder: Path, key: str, state: TrafficState, generators: Sequence[torch.Generator]) -> None:
    """Keep ``state`` under ``key`` if that is possible, and make room for it."""
    fields = {
        field.name: getattr(state, field.name).detach().cpu().clone(memory_format=torch.contiguous_format)
        for field in dataclasses.fields(state)
    }
    states = [generator.get_state() for generator in generators]
    record = {"key": key, "fields": fields, "generators": states, "checksum": _checksum(fields, states)}
    with contextlib.suppress(TrafficGradError, OSError, RuntimeError):
        with complete_file(folder / f"{key}.pt") as partial:
            torch.save(record, partial)
        _make_room(folder)


def _make_room(folder: Path) -> None:
    """Remove the files that were not used for longest, until all of them together are small enough."""
    found = []
    for file in folder.iterdir():
        if _OWN_FILE.fullmatch(file.name):
            with contextlib.suppress(OSError):  # another process was faster
                information = file.stat()
                found.append((information.st_mtime_ns, information.st_size, file))
    total = 0
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > LARGEST:
            with contextlib.suppress(OSError):
                file.unlink()
