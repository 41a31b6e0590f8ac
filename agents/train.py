"""The one training loop: roll out, update, show, save."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from trafficgrad.agents import checkpoint
from trafficgrad.agents.actor_critic import Policy
from trafficgrad.agents.experiment import Experiment
from trafficgrad.agents.logging import METRICS, MetricsFile, ProgressTable, duration, tensorboard_writer
from trafficgrad.agents.rollout import begin, check_finite, collect
from trafficgrad.config import flat_keys
from trafficgrad.errors import TrafficGradError
from trafficgrad.kernels.library import use_threads
from trafficgrad.tree import leaves

STEADY = 3  # evaluations whose mean score decides which policy is the best: one alone may be luck
RECENT = 10  # iterations whose episodes make the moving return
SAVE_SECONDS = 30.0  # between two checkpoints, where writing one takes longer than CHEAP_SAVE
CHEAP_SAVE = 0.05  # s


@dataclass(frozen=True)
class TrainResult:
    """How a training ended."""

    output: Path
    decisions: int
    iterations: int
    seconds: float  # of training, earlier sessions of the run included
    best_score: float | None  # mean of the last evaluations, or the moving return of the episodes; None before any
    interrupted: bool  # ended by Ctrl-C; `resume` goes on
    metrics: dict[str, float]  # of the last iteration
    policy: Policy  # deterministic policy at the end


def train(experiment: Experiment, output: str | Path, *, resume: bool = False, progress: bool = True) -> TrainResult:
    """Train until the budget is spent.

    The folder ``output`` then holds ``config.yaml`` (resolved), ``metrics.csv``, ``last.pt`` (to resume from),
    ``best.pt`` and, where TensorBoard is installed, its events. Resuming continues bit for bit on the same machine,
    number of threads and versions.

    Args:
        experiment: environment, configuration, evaluation.
        output: the run's folder, created if needed.
        resume: continue the run in ``output``; the budget may have grown.
        progress: print the table.

    Raises:
        TrafficGradError: the folder already holds a run, there is nothing to resume, or the configuration does not fit.
        NonFiniteError: a NaN or an infinite number; ``last.pt`` then holds the last good iteration.
    """
    output = Path(output)
    config = experiment.config
    record = _open_run(experiment, output, resume)
    with (
        _threads(config.threads, config.simulator_threads),
        _quiet_collector(),
        ProgressTable(_columns(experiment), progress) as table,
    ):
        shape = f"{config.worlds} worlds x {config.window} decisions"
        table.message(f"{output}: {config.agent.kind}, {shape}; drawing initial states ...")
        session = _Session(experiment, record)
        if session.iteration >= config.iterations:
            table.message(f"the run already has its {session.decisions:,} decisions; raise training.decisions to go on")
            return session.result(output, {}, False)
        _write_config(output, session.yaml)
        metrics_file = MetricsFile(output / METRICS, keep=session.iteration)
        board = tensorboard_writer(output / "tensorboard", session.decisions)
        good, row, interrupted = session.capture(), dict[str, float](), False
        score: float | None = None
        begun, first, saved, cost = time.monotonic(), session.iteration, time.monotonic(), 0.0
        try:
            while session.iteration < config.iterations:
                row = session.iterate()
                if session.judge(row):
                    best = checkpoint.policy_record(
                        session.networks, session.yaml, session.best_score, session.decisions
                    )
                    checkpoint.save_checkpoint(best, output / checkpoint.BEST)
                metrics_file.append(row)
                good = session.capture()
                if board is not None:
                    for name, value in row.items():
                        board.add_scalar(name, value, session.decisions)
                now = time.monotonic()
                left = (now - begun) / (session.iteration - first) * (config.iterations - session.iteration)
                score = row.get("score", score)
                shown: dict[str, float | str] = {**row, "left": duration(left)}
                if score is not None:
                    shown["score"] = score
                table.row(shown, last=session.iteration == config.iterations)
                if cost < CHEAP_SAVE or now - saved > SAVE_SECONDS:
                    checkpoint.save_checkpoint(good, output / checkpoint.LAST)
                    saved = time.monotonic()
                    cost = saved - now
        except KeyboardInterrupt:
            interrupted = True
        finally:
            # Whatever happened, the last complete iteration is kept.
            checkpoint.save_checkpoint(good, output / checkpoint.LAST)
            if board is not None:
                board.close()
        if interrupted:
            table.message(
                f"interrupted; saved after {good['decisions']:,} decisions, go on with: "
                f"trafficgrad train {output / checkpoint.CONFIG} --output {output} --resume"
            )
            session.restore(good)
        return session.result(output, row, interrupted)


class _Session:
    """Everything that changes during a training, and how to save and restore it."""

    def __init__(self, experiment: Experiment, record: dict[str, Any] | None) -> None:
        config = experiment.config
        self.experiment = experiment
        self.yaml = experiment.to_yaml()
        self.device = config.resolve_device()
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.networks = experiment.build_networks()
        self.agent = experiment.build_agent(self.networks, self.generator)
        # Initial states are drawn on the CPU, so that every device trains on the same traffic.
        traffic = torch.Generator().manual_seed(config.seed)
        env_state = experiment.env.stagger(experiment.env.reset(config.worlds, traffic), self.generator)
        if not any(x is env_state.observation for x in leaves(env_state)):
            raise TrafficGradError(
                f"the environment's state is a {type(env_state).__name__} whose observation is no field of a "
                "registered record: expected a frozen dataclass decorated with trafficgrad.tree.register_record"
            )
        if env_state.observation.dtype != config.torch_dtype:
            raise TrafficGradError(
                f"training.dtype is {config.dtype}, but the environment computes in {env_state.observation.dtype}"
            )
        self.carry = begin(env_state, self.networks, config.rollout, self.generator)
        self.iteration = 0
        self.seconds = 0.0
        self.best_score: float | None = None
        self.scores: list[float] = []  # of the last evaluations
        self.next_evaluation = config.evaluation.every
        self.recent: list[list[float]] = []  # per iteration: sum of the returns of its complete episodes, their number
        if record is not None:
            self.restore(record)

    @property
    def decisions(self) -> int:
        """Decisions made so far, over all worlds."""
        return self.iteration * self.experiment.config.worlds * self.experiment.config.window

    def iterate(self) -> dict[str, float]:
        """One rollout and one update; returns the numbers for the log."""
        config, begun = self.experiment.config, time.monotonic()
        gradient = self.agent.needs_gradient
        progress = self.iteration / config.iterations
        carry, rollout = collect(
            self.experiment.env, self.carry, self.networks, config.rollout_at(progress), self.generator, gradient
        )
        context = f"iteration {self.iteration + 1}: "
        check_finite(rollout, carry, not self.agent.drop_nonfinite_gradient, context)
        simulated = time.monotonic()
        metrics = self.agent.update(rollout, progress)
        self.networks.update_normalizer(rollout.of_present(rollout.raw_observation))
        if not all(torch.stack([x.isfinite().all() for x in self.networks.state_dict().values()]).tolist()):
            raise TrafficGradError(f"{context}the update left a weight that is not finite: lower the learning rates")
        names = ["reward", "episodes", "return_sum", "length_sum", *rollout.terms]
        values = [
            rollout.reward.mean(),
            rollout.episodes,
            rollout.episode_return,
            rollout.episode_length,
            *rollout.terms.values(),
        ]
        numbers = dict(zip(names, torch.stack([x.to(rollout.reward.dtype) for x in values]).tolist(), strict=True))
        self.carry = carry
        self.iteration += 1
        episodes = numbers.pop("episodes")
        returns, lengths = numbers.pop("return_sum"), numbers.pop("length_sum")
        self.recent = [*self.recent, [returns, episodes]][-RECENT:]
        ended = time.monotonic()
        self.seconds += ended - begun
        return {
            "iteration": self.iteration,
            "decisions": self.decisions,
            "seconds": self.seconds,
            "decisions_per_second": config.worlds * config.window / (ended - begun),
            "update_seconds": ended - simulated,
            **numbers,
            "episodes": int(episodes),
            **({"episode_return": returns / episodes, "episode_length": lengths / episodes} if episodes else {}),
            **metrics,
        }

    def judge(self, row: dict[str, float]) -> bool:
        """Add a score to ``row`` where there is one now; True if it is the best so far."""
        config, evaluate = self.experiment.config, self.experiment.evaluate
        if evaluate is None:
            episodes = sum(count for _, count in self.recent)
            if not episodes:
                return False
            row["score"] = sum(total for total, _ in self.recent) / episodes
        else:
            if self.decisions < self.next_evaluation and self.iteration < config.iterations:
                return False
            self.next_evaluation = (self.decisions // config.evaluation.every + 1) * config.evaluation.every
            begun = time.monotonic()
            measures = evaluate(self.networks.policy())
            self.seconds += time.monotonic() - begun
            row["score"] = measures["score"]
            row |= {f"evaluation/{name}": value for name, value in measures.items() if name != "score"}
        self.scores = [*self.scores, row["score"]][-STEADY:]
        score = row["score"] if evaluate is None else sum(self.scores) / len(self.scores)
        if self.best_score is not None and score <= self.best_score:
            return False
        self.best_score = score
        return True

    def capture(self) -> dict[str, Any]:
        """A checkpoint of this moment; later training does not change it (environment states are never changed)."""
        return {
            **checkpoint.policy_record(self.networks, self.yaml, self.best_score, self.decisions),
            "training": {
                "networks": checkpoint.snapshot(self.networks.state_dict()),
                "agent": checkpoint.snapshot(self.agent.state_dict()),
                "carry": checkpoint.tensors_of(self.carry),
                "generator": self.generator.get_state(),
                "iteration": self.iteration,
                "seconds": self.seconds,
                "best_score": self.best_score,
                "scores": self.scores,
                "next_evaluation": self.next_evaluation,
                "recent": self.recent,
            },
        }

    def restore(self, record: dict[str, Any]) -> None:
        """Go back to what :meth:`capture` returned."""
        try:
            saved = record["training"]
            self.networks.load_state_dict(saved["networks"])
            self.agent.load_state_dict(saved["agent"])
            self.carry = checkpoint.rebuild(self.carry, saved["carry"])
            self.generator.set_state(saved["generator"].cpu())
            self.iteration = int(saved["iteration"])
            self.seconds = float(saved["seconds"])
            self.best_score = None if saved["best_score"] is None else float(saved["best_score"])
            self.scores = [float(score) for score in saved["scores"]]
            self.next_evaluation = int(saved["next_evaluation"])
            self.recent = [[float(total), float(count)] for total, count in saved["recent"]]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            if isinstance(error, TrafficGradError):
                raise
            raise TrafficGradError(
                "the checkpoint is incomplete or belongs to another configuration; it cannot be resumed"
            ) from error

    def result(self, output: Path, row: dict[str, float], interrupted: bool) -> TrainResult:
        """The summary."""
        return TrainResult(
            output,
            self.decisions,
            self.iteration,
            self.seconds,
            self.best_score,
            interrupted,
            row,
            self.networks.policy(),
        )


def _columns(experiment: Experiment) -> dict[str, str]:
    """Title and key of each column on the screen."""
    columns = {"decisions": "decisions", "dec/s": "decisions_per_second"}
    columns |= {"reward": "reward", "return": "episode_return"}
    columns |= {name: name for name in experiment.env.task_measures}
    columns["score"] = "score"
    own, config = experiment.agent is not None, experiment.config.agent
    if not own and config.kind == "gippo" and config.use_gradient:
        columns |= {"alpha": "alpha", "oorr": "oorr", "|dA/da|": "gradient_norm"}
    elif not own and config.kind == "trig":
        columns |= {"|dA/da|": "gradient_norm", "trust": "trust"} if config.use_gradient else {}
        columns |= {"kl": "kl_reached"}
    else:
        columns |= {"grad": "actor_gradient_norm"}
    return columns | {"left": "left"}


def _open_run(experiment: Experiment, output: Path, resume: bool) -> dict[str, Any] | None:
    """Check the folder; the checkpoint to resume from, or None for a new run."""
    last = output / checkpoint.LAST
    if resume:
        if not last.is_file():
            raise TrafficGradError(f"{output}: there is no {checkpoint.LAST} to resume from")
        record = checkpoint.load_checkpoint(last, experiment.config.resolve_device())
        _same_configuration(record["yaml"], experiment.to_yaml(), output)
        return record
    if any((output / name).exists() for name in (checkpoint.LAST, checkpoint.BEST, checkpoint.CONFIG)):
        raise TrafficGradError(f"{output}: already holds a run; continue it with --resume or choose another --output")
    return None


def _same_configuration(old: Any, new: str, output: Path) -> None:
    """Refuse to resume with settings other than the run's; budget, evaluation and machine may change.

    The hand-written controllers may change too: no training knows them.
    """
    try:
        before = yaml.safe_load(old) if isinstance(old, str) else None
    except yaml.YAMLError:
        before = None
    if not isinstance(before, dict):
        raise TrafficGradError(f"{output}: the configuration in {checkpoint.LAST} cannot be read")
    free = (
        "training.decisions",
        "training.evaluation.",
        "training.threads",
        "training.simulator_threads",
        "training.device",
        "scripted.",
    )
    flat_before, flat_now = flat_keys(before), flat_keys(yaml.safe_load(new))
    changed = sorted(
        key
        for key in flat_before.keys() | flat_now.keys()
        if not key.startswith(free) and flat_before.get(key) != flat_now.get(key)
    )
    if changed:
        key, more = changed[0], f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise TrafficGradError(
            f"{output}: cannot resume with {key} = {flat_now.get(key)!r}, the run has {flat_before.get(key)!r}{more}; "
            f"resume with its {checkpoint.CONFIG} or choose another --output"
        )


def _write_config(output: Path, text: str) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / checkpoint.CONFIG).write_text(text, encoding="utf-8")
    except OSError as error:
        raise TrafficGradError(
            f"{output}: cannot be written to ({(error.strerror or str(error)).lower()}); choose another --output"
        ) from None


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """Python's garbage collector does not look again and again at what was there before.

    A rollout makes many small objects, so the collector runs often, and it would take a fifth of the time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _threads(count: int | None, simulator: int | None) -> Iterator[None]:
    """PyTorch with ``count`` threads and the fused kernel with ``simulator``, as before afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        with use_threads(simulator or _cores()):
            yield
    finally:
        torch.set_num_threads(before)
