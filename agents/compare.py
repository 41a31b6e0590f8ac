"""``trafficgrad compare``: agents on scenarios with several seeds, side by side, resumable."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from trafficgrad import terminal
from trafficgrad.agents.compare_jobs import (
    Job,
    Outcome,
    check_backend,
    dispatch,
    forget,
    is_finished,
    outcome_of,
    plan,
    read_job,
    unfinished,
)
from trafficgrad.agents.compare_progress import GridProgress
from trafficgrad.agents.compare_run import GRACE, INTERRUPTED
from trafficgrad.agents.compare_tables import (
    COLUMNS,
    CURVE_COLUMNS,
    CURVES,
    RESULTS,
    TABLE,
    Line,
    curve_lines,
    key,
    markdown,
    read_lines,
    result_line,
    write_lines,
)
from trafficgrad.agents.suites import SUITES, Group, Row, Suite
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.files import complete_file

QUICK, QUICK_SEEDS, SEEDS = 0.2, 2, 3  # factor on the budget, seeds, without a suite
AGENTS = "gippo,ppo"  # without a suite


@dataclass(frozen=True)
class Grid:
    """What is compared."""

    groups: tuple[Group, ...]
    seeds: int | None  # of all groups; None: each has its own number
    suite: Suite | None  # that brings published numbers along
    quick: bool  # smaller budgets


@dataclass(frozen=True)
class Ended:
    """How a comparison ended."""

    finished: int  # runs, those of earlier calls among them
    failed: int
    total: int
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """Of the command: 130 after Ctrl-C, 1 if a run failed."""
        return INTERRUPTED if self.interrupted else 1 if self.failed else 0


def grid(
    scenarios: Sequence[str],
    agents: str | None = None,
    seeds: int | None = None,
    suite: str | None = None,
    quick: bool = False,
    controllers: Sequence[str] = (),
) -> Grid:
    """The grid that the command line asks for.

    Args:
        scenarios: files or shipped names; with a suite, those of its scenarios that are wanted, none for all.
        agents: see :func:`parse_rows`; with a suite also labels of its rows. seeds: number of them, 1 to N.
        suite: name of a suite. quick: fewer seeds and a smaller budget.
        controllers: names or import paths of controllers that drive besides; without a suite or agents, they alone.

    Raises:
        TrafficGradError: an unknown suite, a scenario that is not in it, or nothing to compare.
    """
    known = find_suite(suite)
    if known is None:
        if not scenarios:
            raise TrafficGradError(f"name a scenario to compare on, or a suite: --suite {', '.join(SUITES)}")
        wanted = () if agents is None and controllers else parse_rows(agents or AGENTS)
        groups: tuple[Group, ...] = (Group("", tuple(scenarios), wanted, QUICK, SEEDS),)
    else:
        for name in scenarios:
            if name not in known.scenarios:
                raise TrafficGradError(
                    f"the suite {suite!r} has no scenario {name!r}{nearest_name(name, known.scenarios)}; "
                    f"it has {', '.join(known.scenarios)}"
                )
        rows = parse_rows(agents) if agents is not None else None
        parts = (
            _part(known, group, scenarios or (group.quick_scenarios if quick else None), rows) for group in known.groups
        )
        groups = tuple(part for part in parts if part.scenarios and part.rows)
    driven = tuple(Row(name, "", controller=name) for name in controllers)
    groups = tuple(replace(group, rows=(*group.rows, *driven)) for group in groups)
    return Grid(groups, QUICK_SEEDS if seeds is None and quick else seeds, known, quick)


def _part(suite: Suite, group: Group, scenarios: Sequence[str] | None, rows: tuple[Row, ...] | None) -> Group:
    """What of a suite's group is wanted: its rows by their labels; None: all.

    Rows of one's own are trained with the first group that has a scenario.
    """
    names = tuple(name for name in group.scenarios if scenarios is None or name in scenarios)
    if rows is None:
        return replace(group, scenarios=names)
    before = suite.groups[: suite.groups.index(group)]
    first = not any(name in other.scenarios for other in before for name in group.scenarios)
    named = {row.label: row for row in group.rows}
    known = {row.label for other in suite.groups for row in other.rows}
    wanted = (named.get(row.label, row) for row in rows if row.label in named or (first and row.label not in known))
    return replace(group, scenarios=names, rows=tuple(wanted))


def find_suite(name: str | None) -> Suite | None:
    """The suite of that name, None for None.

    Raises:
        TrafficGradError: no such suite.
    """
    if name is not None and name not in SUITES:
        raise TrafficGradError(f"unknown suite {name!r}{nearest_name(name, SUITES)}; valid are {', '.join(SUITES)}")
    return SUITES[name] if name is not None else None


def parse_rows(text: str) -> tuple[Row, ...]:
    """Rows from ``NAME,NAME:key=value,key=value,NAME``; the label of a row is its text.

    A comma inside brackets belongs to a value.

    Raises:
        TrafficGradError: a name is missing, or a setting stands where a name was expected.
    """
    rows: list[list[str]] = []
    for piece in _split(text):
        name, colon, rest = piece.partition(":")
        if "=" in name and rows and ":" in rows[-1][0]:
            rows[-1].append(piece)
        elif not name or "=" in name or (colon and "=" not in rest):
            raise TrafficGradError(f"--agents: expected NAME or NAME:key=value,key=value, got {piece!r} in {text!r}")
        else:
            rows.append([piece])
    found = []
    for pieces in rows:
        label = ",".join(pieces)
        name, _, settings = pieces[0].partition(":")
        found.append(Row(label, name, tuple(x for x in (settings, *pieces[1:]) if x)))
    return tuple(found)


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece.strip() for piece in pieces]


def compare(
    wanted: Grid,
    output: Path,
    *,
    settings: Sequence[str] = (),
    runs: Path | None = None,
    jobs: int | None = None,
    backend: str = "local",
    console: Console | None = None,
) -> Ended:
    """Run what has not been run yet, several at a time, and write results, curves and table into ``output``.

    Every run is a process of its own. One that crashes is reported and tried again by the next call. Ctrl-C stops them
    all, each after having saved; the next call goes on from there.

    Args:
        settings: dotted ``key=value`` for all rows. runs: folder of the run folders; default: ``output/runs``.
        jobs: runs at a time; default: one for every core. backend: local (this machine), dask, ray.

    Raises:
        TrafficGradError: anything that does not fit, before the first run starts.
    """
    console = console or terminal.console()
    check_backend(backend)
    folder = runs or output / "runs"
    planned = [
        job
        for group in wanted.groups
        for job in plan(
            group.scenarios,
            group.rows,
            range(1, (wanted.seeds or group.seeds) + 1),
            settings,
            folder,
            group.quick if wanted.quick else None,
        )
    ]
    files = _Files(output, planned)
    left = [job for job in unfinished(planned) if not files.has(job)]
    for job in planned:
        if is_finished(job):
            files.keep(job, Outcome("finished"))
    files.write()
    interrupted = False
    with GridProgress(left, len(planned) - len(left), console) as progress:
        if left:
            progress.message(f"{progress.summary()}; runs in {folder}")
            interrupted = _run(left, folder, jobs, backend, files, progress)
            files.write()
    status = [outcome.status for outcome in progress.ended.values()]
    ended = Ended(
        len(planned) - len(left) + status.count("finished"), status.count("failed"), len(planned), interrupted
    )
    if files.results:
        renew_table(output, wanted.suite)
    if interrupted:
        console.print(
            f"interrupted; {ended.finished} of {ended.total} runs are done, the others are saved: "
            "the same command goes on",
            soft_wrap=True,
            highlight=False,
        )
    return ended


def _run(
    jobs: Sequence[Job], folder: Path, workers: int | None, backend: str, files: _Files, progress: GridProgress
) -> bool:
    """Run jobs, show and keep what they found; True: interrupted.

    The backend works in a thread of its own, so that Ctrl-C meets this one, which tells the runs to save.
    """
    stop = folder.resolve() / f".stop_{uuid.uuid4().hex[:8]}"
    errors: list[BaseException] = []
    done = threading.Event()  # Thread.join, interrupted, takes a running thread for an ended one (Python 3.11)

    def work() -> None:
        try:
            dispatch(jobs, workers, backend, stop)
        except BaseException as error:  # also what a backend raises as it is torn down
            errors.append(error)
        finally:
            done.set()

    for job in jobs:
        forget(job)
    interrupted, patience = False, float("inf")
    asked = threading.Event()

    def handle(number: int, frame: object) -> None:
        # A flag, not an exception: raised inside a destructor or a callback it would be ignored.
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM: what a cluster sends when time is up
        with contextlib.suppress(ValueError):  # only the main thread may
            before[number] = signal.signal(number, handle)
    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            try:
                if asked.is_set() and not interrupted:
                    raise KeyboardInterrupt
                over = done.is_set()  # asked first: what ends from here on is seen in the next round
                for i, job in enumerate(jobs):
                    if i not in progress.ended and (outcome := outcome_of(job)) is not None:
                        progress.ends(i, outcome, f"{job}: {files.keep(job, outcome)}")
                        files.write()
                # A backend that lost its workers may wait for ever; the trainings watch who started them.
                if over or time.monotonic() > patience:
                    break
                progress.update()
                done.wait(0.2)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted, patience = True, time.monotonic() + GRACE + 10.0
                folder.mkdir(parents=True, exist_ok=True)
                stop.touch()
                progress.message("interrupted; the running trainings save ...")
    finally:
        if done.is_set():
            stop.unlink(missing_ok=True)
        for caught, handler in before.items():
            signal.signal(caught, handler)
    if errors and not interrupted:
        raise TrafficGradError(
            f"the backend {backend!r} broke off ({type(errors[0]).__name__}: {errors[0]}); the same command goes on"
        ) from errors[0]
    return interrupted


class _Files:
    """The files in the output folder; lines of runs that are not in the grid stay."""

    def __init__(self, output: Path, jobs: Sequence[Job]) -> None:
        self.output = output
        self.results = {key(line): line for line in read_lines(output / RESULTS)}
        self.curves: dict[tuple[str, str, str], list[Line]] = {}
        for line in read_lines(output / CURVES):
            self.curves.setdefault(key(line), []).append(line)
        # The grid's order; what was there besides it follows, scenario by scenario.
        keys = [*(job.key for job in jobs), *self.results]
        self.places = [list(dict.fromkeys(names)) for names in zip(*keys, strict=True)]

    def has(self, job: Job) -> bool:
        """Whether the job's line is there from an earlier call, perhaps on another machine, with the same settings."""
        line = self.results.get(job.key, {})
        same = line.get("configuration") == job.configuration and line.get("status") == "finished"
        return same and job.key in self.curves

    def keep(self, job: Job, outcome: Outcome) -> str:
        """Take a run's outcome in; returns it in words."""
        if outcome.status == "interrupted":
            return "interrupted, saved"
        if outcome.status == "failed":
            self.results[job.key] = result_line(job, "failed", outcome.message, {})
            self.curves.pop(job.key, None)
            return f"failed: {outcome.message}"
        found = read_job(job.folder)
        line = self.results[job.key] = result_line(job, "finished", "", found["record"])
        self.curves[job.key] = curve_lines(job, found["curve"])
        said = {"highest moving mean": line["paper"], "last policy": line["deterministic"]}
        return ", ".join(f"{name} {float(value):.5g}" for name, value in said.items() if value)

    def _sorted(self, keys: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        return sorted(keys, key=lambda x: [names.index(name) for name, names in zip(x, self.places, strict=True)])

    def write(self) -> None:
        """Renew the two CSV files."""
        results = [self.results[k] for k in self._sorted(self.results)]
        write_lines(self.output / RESULTS, results, COLUMNS)
        curves = [line for k in self._sorted(self.curves) for line in self.curves[k]]
        write_lines(self.output / CURVES, curves, CURVE_COLUMNS)


def renew_table(output: Path, suite: Suite | None = None) -> Path:
    """Write ``table.md`` from ``results.csv`` and ``curves.csv``.

    Raises:
        TrafficGradError: there are no results.
    """
    lines = read_lines(output / RESULTS)
    if not lines:
        raise TrafficGradError(f"{output}: there is no {RESULTS} of `trafficgrad compare` with a run in it")
    with complete_file(output / TABLE) as partial:
        partial.write_text(markdown(lines, suite, read_lines(output / CURVES)), encoding="utf-8")
    return output / TABLE
