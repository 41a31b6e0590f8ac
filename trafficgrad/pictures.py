"""Looking at a scenario or a trained policy: one recorded episode, as a window, a film or one picture."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from trafficgrad import episode_pictures, render
from trafficgrad.agents.compare_tables import CURVES, Line, columns, is_distance, read_lines
from trafficgrad.agents.controllers import baselines, find_controller
from trafficgrad.agents.episodes import EnvController, Episodes, held_out_env, held_out_traffic, policy_controller
from trafficgrad.agents.evaluation import LoadedRun, load_run
from trafficgrad.agents.suites import Suite, sections
from trafficgrad.calibration.command import Found
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.live import HUMAN, MOST_NUMBERS, LiveTraffic
from trafficgrad.recording import Recording
from trafficgrad.render.layout import RoadLayout
from trafficgrad.render.overlays import GradientMarks
from trafficgrad.scenario_config import (
    Scenario,
    TrafficScenario,
    is_scenario,
    load_scenario,
    load_traffic,
    require_traffic,
)
from trafficgrad.trajectory import Trajectory

GRADIENT = GradientMarks.name
FPS, GIF_FPS = 25.0, 12.5  # a GIF keeps every frame whole


@dataclass(frozen=True)
class Show:
    """Recorded episodes, of which the first world is shown."""

    title: str
    folder: Path  # where its pictures go
    trajectory: Trajectory
    reward: torch.Tensor  # [T], of the decision that each simulator step belongs to; empty = not known
    source: render.FrameSource
    controlled: torch.Tensor  # int64 [C], slots


def is_run(target: str | Path) -> bool:
    """Whether ``target`` means a trained policy (run folder, checkpoint, name of a shipped one) or a scenario."""
    path = Path(target)
    if path.exists():
        return path.is_dir() or path.suffix == ".pt"
    return importlib.resources.files("trafficgrad.scenarios").joinpath(f"{target}.pt").is_file()


@dataclass(frozen=True)
class Drive:
    """One held-out episode that somebody wants to see."""

    target: str | Path  # a run or a checkpoint: its deterministic policy drives; or a scenario: human drivers
    seed: int = 0  # of the held-out traffic
    overrides: Sequence[str] = ()  # dotted settings of the scenario
    device: torch.device | str = "cpu"
    seconds: float | None = None  # the first part only
    # Who begins to drive: "policy", "human", a hand-written controller of the scenario, another run or checkpoint.
    controller: str | None = None


def live(drive: Drive, most_numbers: float = math.inf) -> tuple[str, Path, LiveTraffic]:
    """Held-out traffic that is simulated while it is watched.

    Parameters:
        most_numbers: see :class:`~trafficgrad.live.LiveTraffic`.

    Returns:
        A title, the folder for its pictures, and the traffic.

    Raises:
        TrafficGradError: neither a run nor a scenario of traffic, no such controller, a policy for other observations,
            a device that is not there, a length that is not positive.
    """
    target, overrides, device, controller = drive.target, drive.overrides, drive.device, drive.controller
    run = load_run(target, device, overrides) if is_run(target) else None
    scenario = load_traffic(target, overrides) if run is None else require_traffic(run.scenario)
    env = held_out_env(scenario if drive.seconds is None else _shortened(scenario, drive.seconds), device=device)
    scripted = {HUMAN if who is None else name: who for name, who in baselines(env).items()}
    table: dict[str, EnvController | None] = {HUMAN: None, **scripted} if len(env.slots) or not scripted else scripted
    policy = None if run is None else run.policy
    if controller is not None and controller != "policy" and not _named(controller, table) and is_run(controller):
        other = load_run(controller, device)
        policy, controller = other.policy, "policy"
        _check_fits(other, env)
    if policy is not None:
        table = {"policy": policy_controller(policy), **table}
    first = next(iter(table)) if controller is None else _named(controller, table)
    if first is None:
        assert controller is not None
        first, table[controller] = controller, find_controller(controller, env)
    table = {first: table.pop(first), **table}
    shown = None if policy is None else ("policy", policy)
    title, folder = _caption(scenario.name, run, first)
    return title, folder, LiveTraffic(env, held_out_traffic(env, [drive.seed]), table, shown, most_numbers=most_numbers)


def _named(controller: str, table: Mapping[str, EnvController | None]) -> str | None:
    wanted = HUMAN if controller == "human" else controller
    return wanted if wanted in table else None


def _check_fits(run: LoadedRun, env: TrafficEnv) -> None:
    """Refuse a policy that was trained on other observations or actions."""
    spec = run.policy.spec
    own = (spec.observation_size, spec.action_size)
    here = (len(env.observation_labels), len(env.action_labels))
    if own != here or (spec.agents is None) != (env.agents is None):
        raise TrafficGradError(
            f"the policy of {run.name} takes {own[0]} numbers and tells {own[1]}, scenario {env.scenario.name!r} has "
            f"{here[0]} and {here[1]}: watch it on the scenario it was trained on"
        )


def is_recording(target: str | Path) -> bool:
    """Whether ``target`` means a recorded trajectory."""
    return Path(target).suffix == ".npz"


def recorded(target: str | Path) -> tuple[str, Path, render.TrajectoryFrames]:
    """A recording's title, the folder for its pictures, and its frames.

    Raises:
        TrafficGradError: no such file, no recording, or a trajectory that cannot be drawn.
    """
    recording = Recording.load(target)
    return recording.title or Path(target).stem, Path(target).parent, render.TrajectoryFrames.of_recording(recording)


def perform(drive: Drive, gradients: bool = False) -> Show:
    """Drive one held-out episode to its end; see :func:`live`. A recording (``.npz``) is shown as it is.

    Parameters:
        gradients: windows get their gradient.
    """
    if is_recording(drive.target):
        recording = Recording.load(drive.target)
        title, folder, frames = recorded(drive.target)
        reward = torch.as_tensor(recording.captions.get("reward", ()))
        return Show(title, folder, recording.trajectory, reward, frames, recording.controlled)
    title, folder, source = live(drive)
    source.gradients = gradients
    source.finish()
    steps = source.env.scenario.simulation.decision_steps
    reward = source.rewards.repeat_interleave(steps)
    return Show(title, folder, source.trajectory(), reward, source, source.env.slots)


def show_of(env: TrafficEnv, episodes: Episodes) -> Show:
    """The first world of recorded episodes, driven by human drivers."""
    if episodes.trajectory is None:
        raise TrafficGradError("these episodes were not recorded: run them with record=True")
    reward = episodes.rewards[:, 0].repeat_interleave(env.scenario.simulation.decision_steps)
    source = render.TrajectoryFrames.of(episodes.trajectory, env.simulator, captions={"reward": reward})
    title, folder = _caption(env.scenario.name, None, HUMAN)
    return Show(title, folder, episodes.trajectory, reward, source, env.slots)


def _caption(scenario: str, run: LoadedRun | None, driver: str) -> tuple[str, Path]:
    """Title, and folder of the pictures."""
    if run is None:
        who = "human drivers only" if driver == HUMAN else driver
        return f"{scenario}, {who}", Path("runs") / f"{scenario}_human"
    if driver != "policy":
        return f"{scenario}, {'human drivers only' if driver == HUMAN else driver}", run.folder or Path(
            "runs"
        ) / scenario
    if run.folder is None:
        return f"{scenario}, the policy that ships", Path("runs") / f"{scenario}_shipped"
    return f"{scenario}, policy of {Path(run.name).name}", run.folder


def without_roads(drive: Drive) -> tuple[Scenario, LoadedRun | None] | None:
    """What somebody wants to see, where it has pictures but no roads; None: see :func:`live`.

    Raises:
        TrafficGradError: somebody else than the policy is asked to drive there.
    """
    run = load_run(drive.target, drive.device, drive.overrides) if is_run(drive.target) else None
    if run is None and not is_scenario(drive.target):
        return None
    scenario = load_scenario(drive.target, drive.overrides) if run is None else run.scenario
    if not episode_pictures.can_be_shown(scenario):
        return None
    if drive.controller not in (None, "policy"):
        raise TrafficGradError(
            f"scenario {scenario.name!r} has no traffic: only its policy can drive there, not {drive.controller!r}"
        )
    return scenario, run


def watch(
    drive: Drive, speed: float = 1.0, size: tuple[int, int] | None = None, style: render.Style | None = None
) -> None:
    """Open a window on traffic that is simulated meanwhile; see :func:`live`.

    Parameters:
        speed: simulated seconds per second at the start. size: px; None: two thirds of the screen.
        style: what to show at first.

    Raises:
        TrafficGradError: there is no screen.
    """
    if not render.can_open_window():
        raise TrafficGradError(
            "there is no screen to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set): "
            f"write a film instead, trafficgrad render {drive.target} --out film.mp4"
        )
    plain = without_roads(drive)
    if plain is not None:
        episodes = episode_pictures.episodes(*plain, drive.seed, drive.seconds)
        render.show_pictures(episodes, title=_played(*plain)[0], size=size, time_factor=speed)
        return
    source: render.FrameSource
    if is_recording(drive.target):
        title, folder, source = recorded(drive.target)
    else:
        title, folder, source = live(drive, MOST_NUMBERS)
    render.show(source, title=title, size=size, time_factor=speed, folder=folder, style=style)


def _played(scenario: Scenario, run: LoadedRun | None) -> tuple[str, Path]:
    """Title, and folder of the pictures, without roads."""
    if run is None:
        return f"{scenario.name}, action 0", Path("runs") / scenario.name
    return _caption(scenario.name, run, "policy")


def film_without_roads(
    drive: Drive,
    scenario: Scenario,
    run: LoadedRun | None,
    output: Path | None = None,
    speed: float = 1.0,
    size: tuple[int, int] = (1280, 720),
    fps: float | None = None,
    at: float | None = None,
) -> Path:
    """Write a film or a still of an episode that has no roads; see :func:`film`, and :func:`without_roads`."""
    title, folder = _played(scenario, run)
    path = output or folder / "episode.mp4"
    rate = fps or (GIF_FPS if path.suffix.lower() == ".gif" else FPS)
    return episode_pictures.film(scenario, run, path, drive.seed, drive.seconds, speed, size, rate, at, title)


def film(
    show: Show,
    output: Path | None = None,
    speed: float = 4.0,
    size: tuple[int, int] = (1280, 720),
    fps: float | None = None,
    beside: Show | None = None,
    style: render.Style | None = None,
    at: float | None = None,
) -> Path:
    """Write a film of the episode.

    Parameters:
        output: .mp4, .gif, .png (the last moment) or .npz (a recording to watch later); default: ``episode.mp4`` in
            its folder.
        speed: simulated seconds per second. size: px. fps: pictures per second; default: 25, of a GIF 12.5.
        beside: another show, drawn to the right in the same clock. style: colours, overlays, whom to follow.
        at: of a still, the moment (s after the beginning).

    Returns:
        The file written.
    """
    path = output or show.folder / "episode.mp4"
    if path.suffix.lower() == ".npz":
        return _record(show, path)
    panel = None if beside is None else (beside.title, beside.source)
    if at is not None:
        moment = show.source.start + at
        return render.snapshot(show.source, path, time=moment, size=size, title=show.title, beside=panel, style=style)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"drawing {path.name}")
        return render.record(
            show.source,
            path,
            title=show.title,
            size=size,
            fps=fps or (GIF_FPS if path.suffix.lower() == ".gif" else FPS),
            time_factor=speed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            beside=panel,
            style=style,
        )


def _record(show: Show, path: Path) -> Path:
    """Write what was driven, to be watched without simulating it again."""
    live = show.source if isinstance(show.source, LiveTraffic) else None
    if live is None:
        raise TrafficGradError(f"{path.name!r}: only what is simulated can be recorded")
    simulator = live.env.simulator
    return Recording(
        show.trajectory,
        simulator.network,
        simulator.fleet.length,
        simulator.fleet.width,
        simulator.fleet.slots.cpu(),
        simulator.car_following.desired_speed,
        {"reward": show.reward.numpy()},
        show.title,
    ).save(path)


def overview(show: Show) -> Path:
    """One picture of an episode, in the show's folder.

    On a single road who was where when, one panel a lane (``time_space.png``); on other networks the last moment
    (``last_moment.png``).
    """
    network = show.source.network
    if len(RoadLayout.of(network).roads) > 1:
        return film(show, show.folder / "last_moment.png")
    path = show.folder / "time_space.png"
    return render.time_space_diagram(show.trajectory, network, path, controlled=show.controlled, title=show.title)


def learning_curve(run: Path) -> Path:
    """Draw the ``metrics.csv`` of a run folder as ``learning_curve.png`` beside it."""
    return render.learning_curve(run / "metrics.csv", run / "learning_curve.png", title=run.name)


def calibration(found: Found, path: Path) -> Path:
    """Draw what was recorded of some drivers, and what the fitted ones do behind the same leaders."""
    drivers, records = found.drivers, found.drivers.records
    first, held = records.split(drivers.settings.holdout, drivers.settings.shortest)
    longest = records.samples.argsort(descending=True, stable=True)[: render.MOST_RECORDS].sort().values
    shown = []
    for row in longest.tolist():
        count, kept = int(records.samples[row]), int(first.samples[row])
        parts = [(first, row, slice(0, kept))]
        if held is not None and kept < count:
            begins = (held.driver == records.driver[row]) & (held.start > records.start[row])
            begins &= held.start < records.start[row] + count * records.dt
            parts.append((held, int(begins.nonzero()[0, 0]), slice(kept - 1, count)))
        position, speed = records.position[:count, row].clone(), records.speed[:count, row].clone()
        for part, own, place in parts:
            driven = drivers.predict(part)
            size = int(part.samples[own])
            position[place], speed[place] = driven.position[:size, own], driven.speed[:size, own]
        rear = records.leader_rear[:count, row]
        g = 0 if drivers.settings.shared else int(records.driver[row])
        shown.append(
            render.FollowedRecord(
                name=records.ids[int(records.driver[row])],
                time=(records.start[row] + records.dt * torch.arange(count)).numpy(),
                gap=(rear - records.position[:count, row]).numpy(),
                speed=records.speed[:count, row].numpy(),
                leader_speed=records.leader_speed[:count, row].numpy(),
                fitted_gap=(rear - position).numpy(),
                fitted_speed=speed.numpy(),
                held_out_from=None if kept == count else float(records.start[row] + records.dt * (kept - 1)),
                caption=f"gap error {drivers.fit.gap[g]:.2f} m, held out {drivers.held_out.gap[g]:.2f} m",
            )
        )
    return render.calibration_figure(path, shown, title="recorded and fitted")


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
