"""One page about a trained policy: what it is and achieves, its plots and its film, in a file that stands alone."""

from __future__ import annotations

import importlib.resources
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich import markup
from rich.console import Console

from trafficgrad import __version__, pictures, render, tree, web_page
from trafficgrad.agents import evaluation
from trafficgrad.agents.checkpoint import find_checkpoint, load_checkpoint
from trafficgrad.agents.controllers import usual
from trafficgrad.agents.episodes import Episodes, held_out_env, held_out_traffic, policy_controller, run_episodes
from trafficgrad.agents.evaluation import LoadedRun
from trafficgrad.agents.logging import METRICS
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import check_ending, complete_file
from trafficgrad.render.figures import DPI, shrink
from trafficgrad.render.layout import RoadLayout
from trafficgrad.scenario_config import TrafficScenario
from trafficgrad.simulator import Simulator
from trafficgrad.trajectory import Trajectory

ENDINGS = (".html", ".htm")
FILM_SECONDS = 20.0  # of the film in the page
FILM_SIZE = (960, 540)  # px
FASTEST = 4.0  # simulated seconds per second of film, where the episode is longer than the film

Draw = Callable[[Path], Path]


@dataclass(frozen=True)
class _Drawing:
    """A figure to come."""

    name: str  # of its file, and before the ids in it
    draw: Draw
    alt: str
    caption: str
    pixels: bool = False  # where most of it is pixels in any format


def write_report(
    target: str | Path,
    output: Path | None = None,
    seeds: int | None = None,
    *,
    film: bool = True,
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Path:
    """Judge a policy, draw it, and write all of it into one HTML page without links, scripts or fonts.

    Parameters:
        target: a run folder, a checkpoint, or the name of a shipped policy.
        output: the page (.html, .htm); default: ``report.html`` in the run's folder, or for a shipped policy in
            ``runs/NAME_shipped``.
        seeds: number of held-out traffic seeds, or of episodes; None: see `evaluate`.
        film: embed about 20 s of film.
        overrides: dotted settings of the scenario. device: where to compute.

    Returns:
        The path written; the file is there completely or not at all.

    Raises:
        TrafficGradError: no such run, another ending, a file that cannot be written.
    """
    run = evaluation.load_run(target, device, overrides)
    path = output or (run.folder or Path("runs") / f"{run.scenario.name}_shipped") / "report.html"
    check_ending(path, ENDINGS)
    if path.is_dir():
        raise TrafficGradError(f"cannot write {str(path)!r}: it is a folder; expected the name of a file")
    record = _record_of(target)
    with TemporaryDirectory() as folder:
        parts = [_what_it_is(run, record)]
        with _telling(f"{run.name}: judging the policy beside others"):
            judged = replace(run, folder=None)  # without its folder the run's evaluation.csv stays as it is
            results = evaluation.evaluate(judged, seeds, Console(file=io.StringIO()), device)
        parts.append(web_page.section("What it achieves", _achieved(run, results)))
        if isinstance(run.scenario, TrafficScenario):
            with _telling(f"{run.name}: driving the episode that is shown"):
                before, after = _drive_both(run, list(results)[1], device)
            if film:
                parts.insert(1, web_page.section("Film", _film(target, after, overrides, device, Path(folder))))
            drawings = _traffic_drawings(before, after)
            parts.append(web_page.section("One episode", _shown(drawings, Path(folder), _which(before, after))))
        else:
            told = "This run drives no traffic: there is no film, and there are no plots of vehicles."
            parts.append(web_page.section("Traffic", [web_page.paragraph(told)]))
        parts.append(web_page.section("Training", _training(run, Path(folder))))
        text = web_page.collapsed("Every setting, as resolved (YAML)", run.scenario.to_yaml())
        parts.append(web_page.section("Configuration", [text]))
    page = web_page.page(_title(run), parts, f"trafficgrad {__version__}: trafficgrad report {target}")
    with complete_file(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")  # a path may hold anything
    return path


@contextmanager
def _telling(text: str) -> Iterator[None]:
    """A line on stderr while something takes its time, in a terminal."""
    with Console(stderr=True).status(markup.escape(text)):
        yield


def _title(run: LoadedRun) -> str:
    """The run's folder, and the file where one was asked for."""
    if run.folder is None:
        return f"{run.name}, the policy that ships"
    path = Path(run.name).resolve()
    return path.name if path.is_dir() else f"{path.parent.name}/{path.name}"


def _record_of(target: str | Path) -> dict[str, Any]:
    """The checkpoint behind a run that :func:`evaluation.load_run` has read."""
    if Path(target).exists():
        return load_checkpoint(find_checkpoint(target))
    shipped = importlib.resources.files("trafficgrad.scenarios").joinpath(f"{target}.pt")
    with importlib.resources.as_file(shipped) as file:
        return load_checkpoint(file)


def _what_it_is(run: LoadedRun, record: Mapping[str, Any]) -> str:
    """Description and facts."""
    scenario, training = run.scenario, run.scenario.training
    agent = training.get("agent")
    kind = agent.get("kind") if isinstance(agent, dict) else None
    budget, score, decisions = training.get("decisions"), record.get("score"), record.get("decisions")
    spent = (
        f"{decisions:,}" + (f" of {budget:,}" if isinstance(budget, int) else "")
        if isinstance(decisions, int)
        else None
    )
    known = {
        "scenario": scenario.name,
        "agent": kind,
        "training seed": training.get("seed"),
        "policy after": None if spent is None else f"{spent} decisions",
        "score in validation": f"{score:.4g}" if isinstance(score, float) else None,
        "trained with": f"trafficgrad {record['version']}" if record.get("version") else None,
    }
    pairs = [(name, str(value)) for name, value in known.items() if value is not None]
    return (web_page.paragraph(scenario.description) if scenario.description else "") + web_page.facts(pairs)


def _achieved(run: LoadedRun, results: dict[str, Episodes]) -> list[str]:
    """The evaluation's table."""
    measured = next(iter(results.values())).measures
    episodes = len(measured["reward"])
    columns = None
    if not isinstance(run.scenario, TrafficScenario):
        single = bool((measured["length"] == 1).all())
        wanted = [name for name in ("reward", "return", "length") if name == "reward" or not single]
        wanted += [name for name in measured if name not in ("reward", "return", "length")]
        columns = {name: evaluation.played_column(run.scenario, name) for name in wanted}
    grid = evaluation.table(results, "", columns)
    what = "held-out traffic seeds, which no training has seen" if columns is None else "episodes"
    late = f" Late: in the last {run.scenario.late_seconds:g} s." if isinstance(run.scenario, TrafficScenario) else ""
    caption = f"Over {episodes} {what}: mean ± standard deviation.{late}"
    rows = [[str(cell) for cell in row] for row in zip(*(column.cells for column in grid.columns), strict=True)]
    return [web_page.table(caption, [str(column.header) for column in grid.columns], rows)]


@dataclass(frozen=True)
class _Episode:
    """One recorded held-out episode, up to its end."""

    label: str
    simulator: Simulator
    trajectory: Trajectory
    failed: bool

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.trajectory.steps * self.simulator.dt


def _drive_both(run: LoadedRun, baseline: str, device: torch.device | str) -> tuple[_Episode, _Episode]:
    """The same held-out traffic without the policy (human drivers, or signals by their programme), and with it."""
    env = held_out_env(run.scenario, device=device)
    traffic = held_out_traffic(env, [0])
    label = "human drivers" if baseline == "human only" else f"{baseline} signals"
    found = []
    for name, controller in ((label, usual(env)), ("policy", policy_controller(run.policy))):
        episode = run_episodes(env, controller, traffic, record=True)
        decisions = int(episode.measures["length"][0])
        assert episode.trajectory is not None, "it was recorded"
        # What comes after a failure belongs to another episode.
        steps = decisions * env.scenario.simulation.decision_steps
        trajectory = tree.index(episode.trajectory, slice(0, steps + 1))
        found.append(_Episode(name, env.simulator, trajectory, decisions < env.horizon))
    return found[0], found[1]


def _film(
    target: str | Path, episode: _Episode, overrides: Sequence[str], device: torch.device | str, folder: Path
) -> list[str]:
    """The first part of the policy's episode, or why there is none."""
    speed = min(FASTEST, max(1.0, episode.seconds / FILM_SECONDS))
    seconds = min(episode.seconds, FILM_SECONDS * speed)
    try:
        with _telling(f"{target}: driving what is filmed"):
            show = pictures.perform(pictures.Drive(target, 0, overrides, device, seconds))
        mp4 = pictures.film(show, folder / "film.mp4", speed, FILM_SIZE)
    except TrafficGradError as error:
        return [web_page.paragraph(f"There is no film: {error}.")]
    part = f"all {seconds:.3g} s" if seconds > episode.seconds - 1e-6 else f"the first {seconds:.3g} s"
    caption = f"The policy on held-out traffic 0: {part} of the episode, {speed:.2g} times as fast as in reality."
    return [web_page.film(mp4.read_bytes(), f"Film: {caption}", caption)]


def _which(before: _Episode, after: _Episode) -> str:
    """Which episode is shown, and where a failure ends it."""
    text = f"The plots show the same held-out traffic, seed 0, twice: without the policy ({before.label}), and with it."
    for name, episode in (("Without the policy", before), ("With the policy", after)):
        if episode.failed:
            text += f" {name} a failure ends the episode after {episode.seconds:.3g} s."
    return text


def _traffic_drawings(before: _Episode, after: _Episode) -> list[_Drawing]:
    """What is drawn of one episode, without and with the policy."""
    network, controlled = after.simulator.network, after.simulator.fleet.controlled
    both = {episode.label: episode.trajectory for episode in (before, after)}
    who = f"{before.label} and {after.label}"
    drawings = [
        _Drawing(
            "speeds",
            lambda path: render.speed_distribution(both, path, controlled=controlled),
            f"Histograms of vehicle speeds, {who}.",
            "How the speeds are distributed over all vehicles and moments.",
        ),
        _Drawing(
            "deviation",
            lambda path: render.deviation_over_time(both, path),
            f"Mean speed and standard deviation of speed against time, {who}.",
            "Mean speed of all vehicles, and the standard deviation of their speeds at each time: 0 where all drive "
            "alike.",
        ),
    ]
    if len(RoadLayout.of(network).roads) > 1:
        return drawings
    first = _Drawing(
        "before_after",
        lambda path: render.before_after(
            before.trajectory,
            after.trajectory,
            network,
            path,
            controlled=controlled,
            labels=(before.label, after.label),
        ),
        f"Time-space diagrams of {who} side by side, with speed deviation and distribution below.",
        "Who was where when, a line for each vehicle, a panel for each lane; below, the speeds of the vehicles that "
        "are not controlled.",
        pixels=True,
    )
    last = _Drawing(
        "fundamental",
        lambda path: render.fundamental_diagram(both, network, path),
        f"Flow and speed against density, {who}.",
        "Flow and speed against density, by Edie's definitions: a dot for each cell of space and time.",
    )
    return [first, *drawings, last]


def _training(run: LoadedRun, folder: Path) -> list[str]:
    """Learning curve and traces, where the run has a log."""
    if run.folder is None or not (run.folder / METRICS).is_file():
        return [web_page.paragraph(f"No {METRICS} lies beside this policy, so there is no learning curve.")]
    metrics = run.folder / METRICS
    drawings = [
        _Drawing(
            "learning_curve",
            lambda path: render.learning_curve(metrics, path),
            "Score and rewards against decisions.",
            "The learning curve. Pale: every update; dark: running mean.",
        ),
        _Drawing(
            "traces",
            lambda path: render.training_traces(metrics, path),
            "Steps along the simulator's gradient, and what was measured of its bias and variance, against decisions.",
            "How far the training followed the simulator's gradient, and what it measured of bias and variance.",
        ),
    ]
    return _shown(drawings, folder)


def _shown(drawings: Sequence[_Drawing], folder: Path, text: str = "") -> list[str]:
    """The figures; in place of one that cannot be drawn, the reason."""
    out = [web_page.paragraph(text)] if text else []
    for drawing in drawings:
        with _telling(f"drawing {drawing.name}"):
            try:
                picture = _smallest(drawing, folder)
            except TrafficGradError as error:
                out.append(web_page.paragraph(f"{str(error)[:1].upper()}{str(error)[1:]}."))
                continue
        out.append(web_page.figure(picture, drawing.caption))
    return out


def _smallest(drawing: _Drawing, folder: Path) -> str:
    """A figure as pixels or as lines, whichever takes fewer bytes in the page."""
    png = drawing.draw(folder / f"{drawing.name}.png")
    shrink(png)
    image = web_page.png_image(png.read_bytes(), drawing.alt, DPI)
    if drawing.pixels:
        return image
    svg = drawing.draw(folder / f"{drawing.name}.svg").read_text(encoding="utf-8")
    return min(image, web_page.svg_image(svg, drawing.name, drawing.alt), key=len)
