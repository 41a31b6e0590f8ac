"""Looking at a scenario or a trained policy: one recorded episode, as a window, a film or one picture."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from trafficgrad import render
from trafficgrad.agents.compare_tables import CURVES, Line, columns, is_distance, read_lines
from trafficgrad.agents.episodes import Episodes, held_out_env, held_out_traffic, policy_controller, run_episodes, usual
from trafficgrad.agents.evaluation import LoadedRun, load_run
from trafficgrad.agents.suites import Suite, sections
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.render.layout import RoadLayout
from trafficgrad.scenario_config import TrafficScenario, load_traffic, require_traffic
from trafficgrad.simulator import Simulator
from trafficgrad.trajectory import Trajectory

FPS, GIF_FPS = 25.0, 12.5  # a GIF keeps every frame whole


@dataclass(frozen=True)
class Show:
    """Recorded episodes, of which the first world is shown."""

    title: str
    folder: Path  # where its pictures go
    simulator: Simulator
    trajectory: Trajectory
    reward: torch.Tensor  # [T], of the decision that each simulator step belongs to


def is_run(target: str | Path) -> bool:
    """Whether ``target`` means a trained policy (run folder, checkpoint, name of a shipped one) or a scenario."""
    path = Path(target)
    if path.exists():
        return path.is_dir() or path.suffix == ".pt"
    return importlib.resources.files("trafficgrad.scenarios").joinpath(f"{target}.pt").is_file()


def perform(
    target: str | Path,
    seed: int = 0,
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
    seconds: float | None = None,
) -> Show:
    """Drive one held-out episode and record it.

    Parameters:
        target: a run or a checkpoint: its deterministic policy drives; or a scenario: human-only traffic.
        seed: of the held-out traffic. overrides: dotted settings of the scenario. seconds: the first part only.

    Raises:
        TrafficGradError: neither a run nor a scenario of traffic, a device that is not there, a length that is not
            positive.
    """
    run = load_run(target, device, overrides) if is_run(target) else None
    scenario = load_traffic(target, overrides) if run is None else require_traffic(run.scenario)
    env = held_out_env(scenario if seconds is None else _shortened(scenario, seconds), device=device)
    controller = usual(env) if run is None else policy_controller(run.policy)
    episode = run_episodes(env, controller, held_out_traffic(env, [seed]), record=True)
    return show_of(env, episode, run)


def show_of(env: TrafficEnv, episodes: Episodes, run: LoadedRun | None = None) -> Show:
    """The first world of recorded episodes, driven by the policy of ``run`` or by human drivers."""
    if episodes.trajectory is None:
        raise TrafficGradError("these episodes were not recorded: run them with record=True")
    name, steps = env.scenario.name, env.scenario.simulation.decision_steps
    if run is None:
        title, folder = f"{name}, human drivers only", Path("runs") / f"{name}_human"
    elif run.folder is None:
        title, folder = f"{name}, the policy that ships", Path("runs") / f"{name}_shipped"
    else:
        title, folder = f"{name}, policy of {run.name}", run.folder
    reward = episodes.rewards[:, 0].repeat_interleave(steps)
    return Show(title, folder, env.simulator, episodes.trajectory, reward)


def film(
    show: Show, output: Path | None = None, speed: float = 4.0, size: tuple[int, int] = (1280, 720)
) -> Path | None:
    """Play the episode in a window where there is a screen and no ``output`` is asked for; else write a film.

    Parameters:
        output: .mp4, .gif or .png (the last moment). speed: simulated seconds per second. size: px.

    Returns:
        The file written, or None after a window.
    """
    source = render.TrajectoryFrames.of(show.trajectory, show.simulator, captions={"reward": show.reward})
    if output is None and render.can_open_window():
        render.show(source, title=show.title, size=size, time_factor=speed)
        return None
    path = output or show.folder / "episode.mp4"
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"drawing {path.name}")
        return render.record(
            source,
            path,
            title=show.title,
            size=size,
            fps=GIF_FPS if path.suffix.lower() == ".gif" else FPS,
            time_factor=speed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def overview(show: Show) -> Path:
    """One picture of an episode, in the show's folder.

    On a single road who was where when, one panel a lane (``time_space.png``); on other networks the last moment
    (``last_moment.png``).
    """
    network = show.simulator.network
    if len(RoadLayout.of(network).roads) > 1:
        return film(show, show.folder / "last_moment.png") or show.folder
    controlled = show.simulator.fleet.controlled
    path = show.folder / "time_space.png"
    return render.time_space_diagram(show.trajectory, network, path, controlled=controlled, title=show.title)


def learning_curve(run: Path) -> Path:
    """Draw the ``metrics.csv`` of a run folder as ``learning_curve.png`` beside it."""
    return render.learning_curve(run / "metrics.csv", run / "learning_curve.png", title=run.name)


def comparison(folder: Path, suite: Suite | None = None) -> list[Path]:
    """Draw the ``curves.csv`` of a comparison, one picture a scenario, ``SCENARIO.png`` beside it.

    Of a suite each group has one of its own, ``SCENARIO_GROUP.png``. Where no return of a scenario is above 0 its
    distance to 0 is drawn, logarithmically.
    """
    curves: dict[str, dict[str, dict[str, list[Line]]]] = {}
    for line in read_lines(folder / CURVES):
        curves.setdefault(line["scenario"], {}).setdefault(line["row"], {}).setdefault(line["seed"], []).append(line)
    written = []
    for scenario, rows in curves.items():
        runs = {row: [columns(lines) for lines in seeds.values()] for row, seeds in rows.items()}
        distance = is_distance(_returns(runs))
        found = sections(suite, scenario, runs)
        for name, labels in found.items():
            shown = {label: runs[label] for label in labels}
            if np.isfinite(_returns(shown)).any():
                part = f", {name}" if name else ""
                path = folder / f"{Path(scenario).name}{f'_{name}' if part else ''}.png"
                title = f"{scenario}{part}: median and middle half over seeds"
                written.append(render.comparison_figure(path, shown, title=title, distance=distance))
    return written


def _returns(runs: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> np.ndarray:
    return np.concatenate([run["moving_mean"] for row in runs.values() for run in row])


def _shortened(scenario: TrafficScenario, seconds: float) -> TrafficScenario:
    """The scenario with an episode of about ``seconds``, at most its own."""
    if not 0 < seconds < float("inf"):
        raise TrafficGradError(f"seconds must be a number > 0, got {seconds}")
    simulation = scenario.simulation
    decisions = round(seconds / (simulation.dt * simulation.decision_steps))
    steps = max(1, min(scenario.horizon, decisions)) * simulation.decision_steps
    return scenario.model_copy(update={"simulation": simulation.model_copy(update={"horizon_steps": steps})})
