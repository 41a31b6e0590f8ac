"""One run of a comparison, as a process of its own: ``python -m trafficgrad.agents.compare_run JOB.json``.

It trains, or goes on where the run in the folder stopped, measures the last and the best policy on held-out episodes
and writes ``result.json`` into the run's folder; a controller only drives held-out episodes. When its standard input is
closed it saves and ends with exit code 130: so it neither outlives the process that started it nor loses anything.
"""

from __future__ import annotations

import _thread
import csv
import faulthandler
import json
import math
import os
import platform
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trafficgrad.agents.actor_critic import Policy
from trafficgrad.agents.checkpoint import BEST, CONFIG, LAST, load_checkpoint, load_policy
from trafficgrad.agents.controllers import find_controller
from trafficgrad.agents.episodes import held_out_env, held_out_traffic, policy_measures, run_episodes
from trafficgrad.agents.experiment import Experiment, load_experiment
from trafficgrad.agents.logging import METRICS
from trafficgrad.agents.statistics import Array, moving_mean, thin
from trafficgrad.agents.train import train
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file

RESULT, CLOCK = "result.json", "clock.json"
INTERRUPTED = 130
GRACE = 60.0  # s, to save after the standard input was closed
EPISODES = 64  # held-out ones that judge a policy
DRIVEN = 20  # those of a controller, which may plan for a while in each
POINTS = 100  # of a learning curve
TRACES = ("alpha", "oorr", "gradient_variance", "determinant")  # columns of metrics.csv that a curve keeps


def run(job: dict[str, Any]) -> bool:
    """Train and measure; False: interrupted.

    Args:
        job: ``scenario``, ``agent``, ``seed``, ``overrides``, ``folder``; ``controller`` where nothing is trained.

    Raises:
        TrafficGradError: the configuration does not fit, or the training broke off.
    """
    folder = Path(job["folder"])
    experiment = load_experiment(job["scenario"], job["agent"], int(job["seed"]), job["overrides"])
    if job.get("controller") is not None:
        write_json(folder / RESULT, _without_nan(drive(experiment, job["controller"])))
        return True
    resume = (folder / LAST).is_file()
    if not resume:  # stopped before its first update: nothing is lost
        for name in (CONFIG, BEST, METRICS, CLOCK):
            (folder / name).unlink(missing_ok=True)
    before = int(load_checkpoint(folder / LAST)["training"]["iteration"]) if resume else 0
    clock = _read_json(folder / CLOCK) or {"cpu_seconds": 0.0, "updates": 0}
    judge = _Timed(experiment)
    timed = replace(experiment, evaluate=judge) if experiment.evaluate is not None else experiment
    begun = time.process_time()
    result = train(timed, folder, resume=resume, progress=False)
    clock["cpu_seconds"] += time.process_time() - begun - judge.seconds
    clock["updates"] += result.iterations - before
    write_json(folder / CLOCK, clock)
    if result.interrupted:
        return False
    metrics = read_metrics(folder / METRICS)
    moving = moving_mean(metrics["episode_return"], metrics["episodes"])
    record: dict[str, Any] = {
        "decisions": result.decisions,
        "updates": result.iterations,
        "seconds": result.seconds,
        "cpu_seconds": clock["cpu_seconds"],
        "cpu_per_update": clock["cpu_seconds"] / clock["updates"] if clock["updates"] else math.nan,
        "wall_per_update": float(np.median(np.diff(metrics["seconds"], prepend=0.0))),
        "paper": float(np.nanmax(moving)) if np.isfinite(moving).any() else math.nan,
        **measures(experiment, folder),
        "episodes": EPISODES,
        "machine": _machine(),
    }
    write_json(folder / RESULT, {"record": _without_nan(record), "curve": _without_nan(curve(metrics, moving))})
    return True


def drive(experiment: Experiment, controller: str) -> dict[str, Any]:
    """What a controller achieves: ``record``, and a level ``curve`` to compare trainings with.

    Raises:
        TrafficGradError: there is no such controller here, or no traffic.
    """
    env = held_out_env(experiment.scenario)
    begun, cpu = time.perf_counter(), time.process_time()
    episodes = run_episodes(env, find_controller(controller, env), held_out_traffic(env, range(DRIVEN)))
    seconds = time.perf_counter() - begun
    reached = float(episodes.measures["return"].mean())
    record = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "deterministic": reached,
        "deterministic_length": float(episodes.measures["length"].mean()),
        "episodes": DRIVEN,
        "machine": _machine(),
    }
    level = {"decisions": [0.0, float(experiment.config.decisions)], "seconds": [0.0, seconds]}
    return {"record": record, "curve": {**level, "moving_mean": [reached, reached]}}


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}"


def measures(experiment: Experiment, folder: Path) -> dict[str, float]:
    """Mean return and length of held-out episodes: last policy with its exploration noise, without, best policy."""
    found = {}
    last = load_policy(folder / LAST)
    noise = torch.Generator().manual_seed(experiment.config.seed)
    judged: dict[str, tuple[Policy, torch.Generator | None]] = {
        "final_stochastic": (last, noise),
        "deterministic": (last, None),
    }
    if (folder / BEST).is_file():
        judged["best_deterministic"] = (load_policy(folder / BEST), None)
    for name, (policy, generator) in judged.items():
        episodes = policy_measures(experiment.scenario, policy, EPISODES, generator)
        found[name] = float(episodes["return"].mean())
        found[f"{name}_length"] = float(episodes["length"].mean())
    return found


def curve(metrics: dict[str, Array], moving: Array) -> dict[str, list[float]]:
    """The learning curve, at most ``POINTS`` points with the maximum of the moving mean among them."""
    rows = thin(moving, POINTS)
    columns = {"decisions": metrics["decisions"], "seconds": metrics["seconds"], "moving_mean": moving}
    columns |= {name: metrics[name] for name in TRACES if name in metrics}
    return {name: [float(x) for x in values[rows]] for name, values in columns.items()}


def read_metrics(path: Path) -> dict[str, Array]:
    """Columns of a ``metrics.csv``, ``[U]`` each; an empty cell is NaN.

    ``episodes`` and ``episode_return`` are there even where no episode has ended.

    Raises:
        TrafficGradError: no such file, or no table of numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = list(rows[0]) if rows else []
        table = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrafficGradError(f"{path}: cannot be read as the metrics of a training ({error})") from error
    if not {"decisions", "seconds"} <= table.keys():
        raise TrafficGradError(f"{path}: holds no update of a training")
    table.setdefault("episodes", np.zeros(len(rows)))
    table.setdefault("episode_return", np.full(len(rows), np.nan))
    return table


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with complete_file(path) as partial:
        partial.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _without_nan(tree: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(tree, dict):
        return {key: _without_nan(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class _Timed:
    """The experiment's judge, and the CPU seconds it took: they are no cost of learning."""

    def __init__(self, experiment: Experiment) -> None:
        self.evaluate = experiment.evaluate
        self.seconds = 0.0

    def __call__(self, policy: Policy) -> dict[str, float]:
        assert self.evaluate is not None
        begun = time.process_time()
        try:
            return self.evaluate(policy)
        finally:
            self.seconds += time.process_time() - begun


def _stop_when_input_ends() -> None:
    """Interrupt the training when the standard input is closed, by a wish to stop or by the death of who started it."""

    def wait() -> None:
        # Not sys.stdin: its lock, held while it reads, would break the interpreter's end.
        while os.read(0, 1024):
            pass
        _thread.interrupt_main()
        time.sleep(GRACE)
        os._exit(INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Exit code 0: finished, 130: interrupted and saved, 1: failed, the last line on stderr says why."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who started this may ignore it
    faulthandler.enable()
    code = INTERRUPTED
    try:
        _stop_when_input_ends()
        torch.set_num_threads(1)
        code = 0 if run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))) else INTERRUPTED
    except KeyboardInterrupt:
        pass
    except TrafficGradError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        code = 1
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
