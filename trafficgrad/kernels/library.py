"""Finds and loads the compiled kernel. Nothing is ever compiled when the package runs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from trafficgrad.kernels.layout import CALL_BYTES, OUTCOME_BYTES, SIGHT_BYTES, FollowingRecord, Setup, WishRecord

FOLDER = Path(__file__).parent
VARIABLE = "TRAFFICGRAD_KERNEL"  # of the environment: another library, for those who work on the kernel
_NAMES = ("libfused.so", "libfused.dylib", "libfused.dll")
HOW = (
    "install trafficgrad again where a C++17 compiler is (Debian and Ubuntu: apt install g++; macOS: "
    "xcode-select --install; Windows: Visual Studio Build Tools)"
)


_threads: int | None = None


def threads() -> int:
    """How many threads a call may take: PyTorch's number, unless :func:`use_threads` says another."""
    return torch.get_num_threads() if _threads is None else _threads


@contextlib.contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let the kernel take ``count`` threads whatever PyTorch has; None: PyTorch's number.

    A step of many worlds is worth several threads where the small tensors around it are not.
    """
    global _threads
    before, _threads = _threads, count
    try:
        yield
    finally:
        _threads = before


class Library(NamedTuple):
    """The kernel's entry points, or why there are none."""

    functions: ctypes.CDLL | None
    variant: str  # which of its builds runs on this CPU: "avx512", "avx2" or "generic"
    missing: str | None  # one sentence


@functools.cache
def library() -> Library:
    """The kernel that was built with the package."""
    other = os.environ.get(VARIABLE)
    if other and not Path(other).is_file():
        return Library(None, "", f"the environment variable {VARIABLE} names {other!r}, and there is no such file")
    path = Path(other) if other else next((FOLDER / name for name in _NAMES if (FOLDER / name).is_file()), None)
    if path is None:
        return Library(None, "", f"the fused kernel was not built with this installation: {HOW}")
    try:
        functions = ctypes.CDLL(str(path))
        sizes = (ctypes.c_int64 * 6)()
        functions.trafficgrad_sizes(ctypes.byref(sizes))
        records = [ctypes.sizeof(record) for record in (Setup, WishRecord, FollowingRecord)]
        if tuple(sizes) != (records[0], CALL_BYTES, SIGHT_BYTES, records[1], OUTCOME_BYTES, records[2]):
            return Library(None, "", f"{path.name} belongs to another version of trafficgrad: {HOW}")
        functions.trafficgrad_variant.restype = ctypes.c_char_p
        variant = functions.trafficgrad_variant().decode()
        functions.trafficgrad_use.restype = ctypes.c_int64
        functions.trafficgrad_use.argtypes = [ctypes.c_char_p]
        functions.trafficgrad_saved_bytes.restype = ctypes.c_int64
        functions.trafficgrad_saved_bytes.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 4]
        for name in ("forward_float", "forward_double", "backward_float", "backward_double"):
            entry = getattr(functions, f"trafficgrad_{name}")
            entry.restype = None
            entry.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        functions.trafficgrad_follow.restype = None
        functions.trafficgrad_follow.argtypes = [ctypes.POINTER(FollowingRecord)]
        for kind in ("float", "double"):
            look = getattr(functions, f"trafficgrad_look_{kind}")
            look.restype, look.argtypes = None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
            look = getattr(functions, f"trafficgrad_look_back_{kind}")
            look.restype, look.argtypes = None, [ctypes.c_char_p, ctypes.c_char_p]
    except (OSError, AttributeError) as error:
        return Library(None, "", f"the fused kernel {path.name} cannot be loaded ({error}): {HOW}")
    return Library(functions, variant, None)
