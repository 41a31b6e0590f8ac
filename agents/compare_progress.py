"""What a comparison shows while it runs: how many runs are done, running, failed, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from trafficgrad.agents.compare_jobs import Job, Outcome, has_begun
from trafficgrad.agents.logging import METRICS, duration

INTERVAL = 60.0  # s between two lines where there is no terminal
_REFRESH = 1.0  # s between two looks at the running runs


class GridProgress:
    """Counts runs and reads how far the running ones are: live in a terminal, plain lines elsewhere.

    A context manager.

    Args:
        jobs: those that will run. done: runs that were finished before.
    """

    def __init__(self, jobs: Sequence[Job], done: int, console: Console) -> None:
        self.jobs = jobs
        self.before = done
        self.console = console
        self.ended: dict[int, Outcome] = {}
        self.last = ""
        self.begun = self.shown = time.monotonic()
        self.looked = -float("inf")
        self.shares = [share_done(job) for job in jobs]
        self.first = sum(self.shares)
        self.live: Live | None = None

    def __enter__(self) -> GridProgress:
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def ends(self, index: int, outcome: Outcome, told: str) -> None:
        """Job number ``index`` has ended; ``told`` is its line."""
        self.ended[index] = outcome
        self.last = told
        if outcome.status != "interrupted":
            self.message(f"{self.summary()}: {told}" if self.live is None else told)

    def message(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self) -> None:
        """Look at the running runs now and then, and show them."""
        now = time.monotonic()
        if now - self.looked < _REFRESH:
            return
        self.looked = now
        running = [i for i, job in enumerate(self.jobs) if i not in self.ended and has_begun(job)]
        for i in running:
            self.shares[i] = share_done(self.jobs[i])
        for i, outcome in self.ended.items():
            self.shares[i] = 1.0 if outcome.status != "interrupted" else self.shares[i]
        if self.live is not None:
            grid = Table(box=None, pad_edge=False, show_header=False)
            for i in running:
                grid.add_row(f"  {self.jobs[i]}", f"{100 * self.shares[i]:.0f} %")
            outer = Table(box=None, pad_edge=False, show_header=False)
            outer.add_row(f"{self.summary(len(running))}, {self.left()} left")
            outer.add_row(grid)
            if self.last:
                outer.add_row(f"last: {self.last}")
            self.live.update(outer, refresh=True)
        elif now - self.shown > INTERVAL:
            self.shown = now
            self.message(f"{self.summary(len(running))}, {self.left()} left")

    def summary(self, running: int | None = None) -> str:
        """Runs done, running, failed, of how many."""
        status = [outcome.status for outcome in self.ended.values()]
        done, failed = self.before + status.count("finished"), status.count("failed")
        parts = [f"{done} of {self.before + len(self.jobs)} runs done"]
        parts += [f"{running} running"] if running is not None else []
        parts += [f"{failed} failed"] if failed else []
        return ", ".join(parts)

    def left(self) -> str:
        """Time left, from the share of all decisions made since the start."""
        share, total = sum(self.shares), float(len(self.jobs))
        if share - self.first < 1e-6 * total:
            return "-"
        return duration((time.monotonic() - self.begun) * (total - share) / (share - self.first))


def share_done(job: Job) -> float:
    """Share of its decisions that a run has made, by its ``metrics.csv``; 0 where there is none yet."""
    return min(1.0, _last_decisions(job.folder / METRICS) / job.decisions)


def _last_decisions(path: Path) -> float:
    """The column ``decisions`` of the last complete line; the file may be growing."""
    try:
        with path.open("rb") as file:
            names = file.readline().decode().strip().split(",")
            start = file.tell()
            end = file.seek(0, 2)
            file.seek(max(start, end - 8192))
            lines = file.read().decode(errors="replace").split("\n")
        cells = lines[-2].strip().split(",") if len(lines) > 1 else []
        return float(cells[names.index("decisions")])
    except (OSError, ValueError, IndexError):
        return 0.0
