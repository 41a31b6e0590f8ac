"""The one exception that the command line turns into a sentence and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrafficGradError(ValueError):
    """A user's input cannot be used; the message says what came, what was expected and the way out."""


def nearest_name(name: str, valid: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the valid name closest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def missing_package(package: str, extra: str, what: str) -> TrafficGradError:
    """What to raise where an optional ``package`` cannot be imported that ``what`` needs."""
    return TrafficGradError(
        f'{what} needs the package {package}, which cannot be imported: pip install "trafficgrad[{extra}]"'
    )
