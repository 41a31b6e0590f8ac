"""What a training shows and keeps: a table on the screen, ``metrics.csv``, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from trafficgrad.files import complete_file

METRICS = "metrics.csv"


class MetricsFile:
    """A CSV file with a row per iteration, on disk as soon as it is written.

    A row may bring new columns: the file is then rewritten with them, once.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        """Continue ``path`` with its rows up to iteration ``keep``; the rest is dropped (it will be computed again)."""
        self.path = path
        self.columns: list[str] = []
        self.rows: list[dict[str, str]] = []
        if keep and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if (row.get("iteration") or "").isdigit()]
            self.rows = [row for row in self.rows if int(row["iteration"]) <= keep]
            self.columns = list(self.rows[0]) if self.rows else []
        self._rewrite()

    def append(self, row: Mapping[str, float]) -> None:
        """Write one row; a column that it lacks stays empty."""
        text = {k: str(v) if isinstance(v, int) else f"{v:.8g}" for k, v in row.items()}
        self.rows.append(text)
        if not text.keys() <= set(self.columns):
            self.columns += [k for k in text if k not in self.columns]
            self._rewrite()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(text)

    def _rewrite(self) -> None:
        buffer = io.StringIO(newline="")
        if self.columns:
            writer = csv.DictWriter(buffer, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        with complete_file(self.path) as partial:
            partial.write_text(buffer.getvalue(), encoding="utf-8", newline="")


def tensorboard_writer(folder: Path, first_step: int) -> Any:
    """A TensorBoard writer into ``folder`` that forgets what lies after ``first_step``; None where not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step)


def duration(seconds: float) -> str:
    """Seconds as 42s, 3m05s, 2h10m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def number(value: float) -> str:
    """A metric in at most eight characters."""
    return f"{value:.3g}" if abs(value) < 1e-2 or abs(value) >= 1e4 else f"{value:.4g}"


class ProgressTable:
    """The training as a table: live in a terminal, plain lines elsewhere. A context manager.

    Args:
        columns: title -> key of the row; text values are shown as they are.
        enabled: False: nothing is printed.
        interval: s between two lines; in a terminal the newest line is refreshed in between.
    """

    def __init__(self, columns: Mapping[str, str], enabled: bool = True, interval: float = 2.0) -> None:
        self.columns = columns
        self.enabled = enabled
        self.interval = interval
        self.console = Console(quiet=not enabled, highlight=False, soft_wrap=True)
        self.shown: deque[list[str]] = deque(maxlen=max(5, self.console.height - 8))
        self.widths = [max(len(title), 8) for title in columns]
        self.live: Live | None = None
        self.started = -float("inf")
        self.headed = False

    def __enter__(self) -> ProgressTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def message(self, text: str) -> None:
        """One line of text."""
        self.console.print(text, markup=False)

    def row(self, values: Mapping[str, float | str], last: bool = False) -> None:
        """Show an iteration; ``last`` shows it whatever the interval."""
        if not self.enabled:
            return
        cells = [self._cell(values.get(key)) for key in self.columns.values()]
        now = time.monotonic()
        due = last or now - self.started >= self.interval
        if due:
            self.started = now
        if self.console.is_terminal:
            if not due and self.shown:
                self.shown.pop()
            self.shown.append(cells)
            self._refresh()
        elif due:
            if not self.headed:
                self._line(list(self.columns))
                self.headed = True
            self._line(cells)

    @staticmethod
    def _cell(value: float | str | None) -> str:
        if value is None:
            return "-"
        return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else number(value)

    def _line(self, cells: list[str]) -> None:
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, self.widths, strict=True))
        self.console.print(line, markup=False)
        self.console.file.flush()

    def _refresh(self) -> None:
        table = Table(box=None, pad_edge=False)
        for title in self.columns:
            table.add_column(title, justify="right", no_wrap=True)
        for cells in self.shown:
            table.add_row(*cells)
        if self.live is None:
            self.live = Live(table, console=self.console, auto_refresh=False)
            self.live.start()
        self.live.update(table, refresh=True)
