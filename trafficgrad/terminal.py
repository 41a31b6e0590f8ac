"""Printing tables where there is no terminal to ask for its width."""

from __future__ import annotations

from rich.console import Console

WIDTH = 180  # columns, of files and pipes


def console() -> Console:
    """Standard output; tables keep their columns when it is a file or a pipe."""
    standard = Console()
    return standard if standard.is_terminal else Console(width=WIDTH)
