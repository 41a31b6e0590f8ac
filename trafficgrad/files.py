"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trafficgrad.errors import TrafficGradError, nearest_name


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` if all goes well and vanishes if not.

    Raises:
        TrafficGradError: the folder cannot be written.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise TrafficGradError(
            f"cannot write {str(path)!r}: {error.strerror or error}; choose a folder that can be written"
        ) from error


def check_ending(path: Path, endings: Sequence[str]) -> str:
    """The ending of ``path`` in lower case.

    Raises:
        TrafficGradError: it is none of ``endings``.
    """
    kind = path.suffix.lower()
    if kind not in endings:
        got = f"the ending {path.suffix!r}" if path.suffix else "no ending"
        raise TrafficGradError(
            f"cannot write {path.name!r}: {got} is none of {', '.join(endings)}{nearest_name(kind, endings)}"
        )
    return kind
