"""The trainings of a comparison: planned in one process, each run in a process of its own, spread by joblib."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import joblib
import yaml

from trafficgrad.agents.checkpoint import CONFIG, LAST
from trafficgrad.agents.compare_run import GRACE, INTERRUPTED, RESULT, write_json
from trafficgrad.agents.controllers import find_controller
from trafficgrad.agents.episodes import held_out_env
from trafficgrad.agents.experiment import Experiment, load_experiment
from trafficgrad.agents.suites import SEED, Row
from trafficgrad.config import flat_keys
from trafficgrad.errors import TrafficGradError, nearest_name

JOB, OUTCOME, ERRORS = "job.json", "outcome.json", "errors.log"
COMMAND = (sys.executable, "-m", "trafficgrad.agents.compare_run")
ONE_THREAD = ("training.threads=1", "training.simulator_threads=1")  # runs side by side don't disturb each other
BACKENDS = {"local": "joblib", "dask": "dask[distributed]", "ray": "ray[default]"}  # name -> what to install
_MODULES = {"local": "joblib", "dask": "distributed", "ray": "ray"}
_POLL = 0.2  # s between two looks at a process
# Settings that do not say what is computed.
_BESIDE = ("description", "training.threads", "training.simulator_threads", "training.device", "scripted")


@dataclass(frozen=True)
class Job:
    """One training: everything that another process, perhaps on another machine, needs to know."""

    scenario: str  # file or shipped name
    name: str  # of the scenario
    row: Row
    seed: int
    overrides: tuple[str, ...]  # of row and command line, with the seed in place of `{seed}`
    settings: tuple[str, ...]  # these, before them one thread, after them the budget of --quick
    folder: Path  # absolute
    decisions: int  # budget
    quick: bool
    configuration: str  # checksum of the complete configuration

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells lines of the results apart."""
        return self.name, self.row.label, str(self.seed)

    def __str__(self) -> str:
        return f"{self.name}, {self.row.label}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: str  # finished, failed, interrupted
    message: str = ""  # why it failed


def plan(
    scenarios: Sequence[str],
    rows: Sequence[Row],
    seeds: Sequence[int],
    settings: Sequence[str],
    runs: Path,
    quick: float | None = None,
) -> list[Job]:
    """All trainings of a grid, seed after seed, so that a part of it compares all rows.

    Args:
        scenarios: files or shipped names. settings: dotted ``key=value`` for all rows; they win over a row's own.
        runs: folder of the run folders. quick: factor on every budget.

    Raises:
        TrafficGradError: anything that does not fit, found before the first training starts: an unknown scenario or
            agent, a wrong setting, a folder with a run of another configuration.
    """
    labels = [row.label for row in rows]
    _refuse_twins("row", labels)
    names: dict[str, str] = {}
    jobs = []
    for seed in seeds:
        for scenario in scenarios:
            for row in rows:
                if row.controller is not None and seed != seeds[0]:
                    continue  # nothing is trained: it drives the same held-out traffic once
                job, experiment = _job(scenario, row, seed, settings, runs, quick)
                if names.setdefault(job.name, scenario) != scenario:
                    raise TrafficGradError(
                        f"{names[job.name]} and {scenario} are both named {job.name!r}: give one another name"
                    )
                _same_configuration(job, experiment)
                jobs.append(job)
    _refuse_twins("scenario", list(scenarios))
    return jobs


def _job(
    scenario: str,
    row: Row,
    seed: int,
    settings: Sequence[str],
    runs: Path,
    quick: float | None,
) -> tuple[Job, Experiment]:
    overrides = (*row.overrides_of(seed), *(text.replace(SEED, str(seed)) for text in settings))
    complete = (*ONE_THREAD, *overrides)
    experiment = load_experiment(scenario, row.agent or None, seed, complete)
    if quick is not None:
        decisions = max(1, round(quick * experiment.config.decisions))
        complete = (*complete, f"training.decisions={decisions}")
        experiment = replace(experiment, config=experiment.config.model_copy(update={"decisions": decisions}))
    if row.controller is not None:
        find_controller(row.controller, held_out_env(experiment.scenario))
    name = experiment.scenario.name
    folder = runs.resolve() / _folder_name(name) / f"{_folder_name(row.label)}_seed{seed}"
    file = str(Path(scenario).resolve()) if Path(scenario).is_file() else scenario
    job = Job(
        file,
        name,
        row,
        seed,
        overrides,
        complete,
        folder,
        experiment.config.decisions,
        quick is not None,
        _checksum(experiment, row.controller),
    )
    return job, experiment


def _checksum(experiment: Experiment, controller: str | None) -> str:
    """Of all settings that say what is computed; equal where two runs are the same on different machines."""
    settings = _what(experiment.to_yaml())
    if controller is not None:
        settings = {key: value for key, value in settings.items() if not key.startswith("training")}
        scripted = getattr(experiment.scenario, "scripted", None)
        settings |= {"controller": controller, "scripted": None if scripted is None else scripted.model_dump_json()}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _what(text: str) -> dict[str, Any]:
    """Settings in a configuration that say what is computed: dotted key -> value."""
    return {key: value for key, value in flat_keys(yaml.safe_load(text)).items() if not key.startswith(_BESIDE)}


def _folder_name(text: str) -> str:
    """``text`` as a name of a folder; where letters had to go a checksum keeps different texts apart."""
    name = "".join(c if c.isalnum() or c in "_-." else "_" for c in text)
    return name if name == text else f"{name[:60]}_{crc32(text.encode()):08x}"


def _refuse_twins(what: str, names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise TrafficGradError(f"the {what} {name!r} is there twice")


def _same_configuration(job: Job, experiment: Experiment) -> None:
    """Refuse to go on with, or to count as finished, a run with other settings."""
    path = job.folder / CONFIG
    if not path.is_file():
        return
    text = experiment.to_yaml()
    saved = path.read_text(encoding="utf-8")
    if saved == text:
        return
    try:
        before, now = (_what(x) for x in (saved, text))
    except (yaml.YAMLError, AttributeError):
        raise TrafficGradError(f"{path}: is no configuration of a run; remove its folder") from None
    keys = sorted(before.keys() | now.keys())
    changed = [key for key in keys if before.get(key) != now.get(key)]
    if changed:
        key, more = changed[0], f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise TrafficGradError(
            f"{job.folder}: holds a run with {key} = {before.get(key)!r}, now it would be {now.get(key)!r}{more}; "
            "choose another --output (or --runs), or remove that folder"
        )


def is_finished(job: Job) -> bool:
    """Whether the job's result is there."""
    return (job.folder / RESULT).is_file()


def check_backend(name: str) -> None:
    """Refuse a backend that does not exist or is not installed.

    Raises:
        TrafficGradError: the sentence says what to install.
    """
    if name not in BACKENDS:
        raise TrafficGradError(
            f"unknown backend {name!r}{nearest_name(name, BACKENDS)}; valid are {', '.join(BACKENDS)}"
        )
    if importlib.util.find_spec(_MODULES[name]) is None:
        raise TrafficGradError(f"the backend {name!r} is not installed: pip install '{BACKENDS[name]}'")


def dispatch(jobs: Sequence[Job], workers: int | None, backend: str, stop: Path) -> None:
    """Run jobs, ``workers`` at a time, until all are done or the file ``stop`` appears; blocks.

    Meanwhile :func:`has_begun` and :func:`outcome_of` tell about each: by files, which every backend can do.

    Args:
        workers: None: one for every core that this process may use, on a cluster all its workers.
    """
    with _backend(backend, workers):
        count = workers or (joblib.cpu_count() if backend == "local" else -1)
        joblib.Parallel(n_jobs=count, batch_size=1)(joblib.delayed(run_job)(job, COMMAND, stop) for job in jobs)


@contextlib.contextmanager
def _backend(name: str, workers: int | None) -> Iterator[None]:
    """Joblib's backend, and what it needs around it."""
    if name == "dask":
        # Without an address (DASK_SCHEDULER_ADDRESS, dask's configuration) a cluster on this machine.
        import dask
        from distributed import Client

        # Without an address (DASK_SCHEDULER_ADDRESS, dask's configuration) a cluster in this process: threads that wait
        # for trainings, which Ctrl-C does not kill as it would processes of dask's own.
        count = workers or joblib.cpu_count()
        local = {"processes": False, "n_workers": 1, "threads_per_worker": count, "dashboard_address": None}
        chosen = {} if dask.config.get("scheduler-address", None) else local
        with Client(**chosen), joblib.parallel_config(backend="dask"):
            yield
    elif name == "ray":
        from ray.util.joblib import register_ray

        register_ray()
        with joblib.parallel_config(backend="ray"):
            yield
    else:
        with joblib.parallel_config(backend="threading"):  # a thread does nothing but wait for its process
            yield


def run_job(job: Job, command: Sequence[str], stop: Path) -> None:
    """Run one job in a process of its own, wait for it and write down its outcome; called in a worker of the backend.

    The process ends likewise where the worker dies: its standard input is closed then.

    Args:
        command: program that reads the job's JSON file.
        stop: when this file appears the job is told to save and to end.
    """
    if stop.exists():
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    told = {"scenario": job.scenario, "agent": job.row.agent or None, "seed": job.seed, "folder": str(job.folder)}
    write_json(job.folder / JOB, {**told, "overrides": job.settings, "controller": job.row.controller})
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with (job.folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            [*command, str(job.folder / JOB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **one},
            start_new_session=True,
        )
        assert process.stdin is not None
        try:
            while process.poll() is None:
                if stop.exists():
                    process.stdin.close()  # it saves and ends
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(GRACE)
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdin.close()
    write_json(job.folder / OUTCOME, asdict(_judge(job, process.returncode, stop)))


def _judge(job: Job, code: int, stop: Path) -> Outcome:
    if code == 0 and is_finished(job):
        return Outcome("finished")
    if code == INTERRUPTED or (stop.exists() and code):
        return Outcome("interrupted")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return Outcome("failed", f"killed by {name}{hint}")
    lines = (job.folder / ERRORS).read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return Outcome("failed", said[-1][:500] if said else f"ended with exit code {code} and without a result")


def forget(job: Job) -> None:
    """Remove what says that the job was begun before, and how it ended."""
    for name in (JOB, OUTCOME):
        (job.folder / name).unlink(missing_ok=True)


def has_begun(job: Job) -> bool:
    """Whether a worker has taken the job up since :func:`forget`."""
    return (job.folder / JOB).is_file()


def outcome_of(job: Job) -> Outcome | None:
    """How a job ended that was begun since :func:`forget`; None: it has not ended."""
    path = job.folder / OUTCOME
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that have to run, those with a checkpoint first: what was interrupted ends before new runs begin."""
    left = [job for job in jobs if not is_finished(job)]
    return sorted(left, key=lambda job: not (job.folder / LAST).is_file())


def read_job(folder: Path) -> dict[str, Any]:
    """The result of a finished run: ``record`` and ``curve``."""
    data: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return data
