"""What a trained policy achieves on traffic it has never seen, beside human drivers and hand-written controllers.

Where there is no traffic: in episodes of its environment, with and without its exploration noise, beside chance.
"""

from __future__ import annotations

import csv
import importlib.resources
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich import markup
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trafficgrad import terminal
from trafficgrad.agents.actor_critic import Policy
from trafficgrad.agents.checkpoint import find_checkpoint, load_checkpoint, policy_of
from trafficgrad.agents.controllers import baselines, find_controller
from trafficgrad.agents.episodes import (
    HELD_OUT,
    EnvController,
    Episodes,
    dtype_of,
    held_out_env,
    held_out_traffic,
    play,
    policy_controller,
    run_episodes,
)
from trafficgrad.agents.logging import duration
from trafficgrad.envs import EnvState, make_env
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.files import complete_file
from trafficgrad.scenario_config import (
    FunctionScenario,
    Scenario,
    TrafficScenario,
    load_scenario,
    load_traffic,
    parse_scenario,
)

TRAFFIC_SEEDS = 20  # default numbers of episodes
EPISODES, SHORT_EPISODES = 64, 1000  # where there is no traffic; those of one decision take no time


class Column(NamedTuple):
    """How a measure is shown."""

    title: str
    digits: int
    factor: float = 1.0
    form: str = "f"  # of the digits; g: significant ones


COLUMNS = {
    "reward": Column("reward", 3),
    "late_speed_error": Column("late error m/s", 2),
    "mean_speed": Column("mean speed m/s", 2),
    "late_mean_speed": Column("late speed m/s", 2),
    "speed_deviation": Column("deviation m/s", 2),
    "late_speed_deviation": Column("late deviation m/s", 2),
    "standing": Column("standing %", 1, 100.0),
    "lane_changes": Column("lane ch. /veh/min", 2),
    "collisions": Column("collisions", 0),
    "return": Column("return", 1),
    "flow": Column("left /h", 0),
    "travel_speed": Column("travel speed m/s", 2),
    "waiting_outside": Column("waiting outside", 1),
}
PLAYED = {  # where there is no traffic: the rewards of a function span many powers of ten
    "reward": Column("reward", 4, form="g"),
    "return": Column("return", 4, form="g"),
    "length": Column("length", 0),
}


@dataclass(frozen=True)
class LoadedRun:
    """A trained policy and the scenario it was trained on."""

    name: str
    scenario: Scenario
    policy: Policy
    folder: Path | None  # None: it ships with the package


def load_run(run: str | Path, device: torch.device | str = "cpu", overrides: Sequence[str] = ()) -> LoadedRun:
    """Read a run folder, a checkpoint file, or by the scenario's name the checkpoint that ships with it.

    Raises:
        TrafficGradError: none of these, or a damaged or foreign file.
    """
    path = Path(run)
    if path.exists():
        file, folder = find_checkpoint(path), path if path.is_dir() else path.parent
        record = load_checkpoint(file, device)
    else:
        shipped = {
            entry.name.removesuffix(".pt"): entry
            for entry in importlib.resources.files("trafficgrad.scenarios").iterdir()
            if entry.name.endswith(".pt")
        }
        if str(run) not in shipped:
            raise TrafficGradError(
                f"{run}: no such run folder or checkpoint{nearest_name(str(run), shipped)}; "
                f"policies ship for {', '.join(sorted(shipped)) or 'no scenario'}, others come from `trafficgrad train`"
            )
        with importlib.resources.as_file(shipped[str(run)]) as file:
            record, folder = load_checkpoint(file, device), None
    text = record["yaml"]
    if not isinstance(text, str):
        raise TrafficGradError(f"{file}: the scenario in this checkpoint cannot be read")
    scenario = parse_scenario(text, f"{file} (its scenario)", overrides)
    return LoadedRun(str(run), scenario, policy_of(record, file, device), folder)


def evaluate(
    run: LoadedRun,
    seeds: int | None = None,
    console: Console | None = None,
    device: torch.device | str = "cpu",
    controllers: Sequence[str] = (),
) -> dict[str, Episodes]:
    """The run's deterministic policy and the baselines of its scenario on the same held-out traffic.

    Where there is no traffic: the policy, deterministic and with its exploration noise, and random actions.

    Parameters:
        seeds: number of held-out traffic seeds, one world each, or of episodes; None: 20, or without traffic 64, or
            1000 of one decision.
        console: where to print the table. controllers: of traffic, who else drives, by names or import paths; see
            :func:`~trafficgrad.agents.controllers.find_controller`.

    Returns:
        Episodes by controller; with them a run folder gets ``evaluation.csv``, a row per controller and seed.
    """
    if isinstance(run.scenario, TrafficScenario):
        env = held_out_env(run.scenario, device=device)
        table: dict[str, EnvController | None] = {"policy": policy_controller(run.policy), **baselines(env)}
        table |= {name: find_controller(name, env) for name in controllers}
        results = compare(env, table, seeds or TRAFFIC_SEEDS, f"{run.name}: deterministic policy", console)
    else:
        _refuse_controllers(run.scenario, controllers)
        results = compare_played(run.scenario, run.policy, seeds, run.name, console, device)
    if run.folder is not None:
        write_csv(run.folder / "evaluation.csv", results)
    return results


def evaluate_scenario(
    file: str | Path,
    seeds: int | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    device: torch.device | str = "cpu",
    controllers: Sequence[str] = (),
) -> dict[str, Episodes]:
    """The baselines of a scenario without any policy, and other controllers; see :func:`evaluate`."""
    console = console or terminal.console()
    scenario = load_scenario(file, overrides)
    learnable = True
    if isinstance(scenario, TrafficScenario):
        env = held_out_env(scenario, device=device)
        learnable = bool(env.action_labels)
        named = {name: find_controller(name, env) for name in controllers}
        title = f"{scenario.name}: no policy"
        results = compare(env, {**baselines(env), **named}, seeds or TRAFFIC_SEEDS, title, console)
    else:
        _refuse_controllers(scenario, controllers)
        results = compare_played(scenario, None, seeds, f"{scenario.name}: no policy", console, device)
    if learnable:
        told = f"no policy was asked for; `trafficgrad train {file}` trains one"
        console.print(told, highlight=False, soft_wrap=True, markup=False)
    return results


def _refuse_controllers(scenario: Scenario, controllers: Sequence[str]) -> None:
    if controllers:
        raise TrafficGradError(f"scenario {scenario.name!r} has no traffic: controllers of vehicles cannot drive there")


def simulate(
    file: str | Path,
    seeds: int = 20,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    device: torch.device | str = "cpu",
) -> tuple[TrafficEnv, Episodes]:
    """Human-only traffic of a scenario: the controlled vehicles drive like the others and keep their lane.

    Where only signals are controlled, they follow their fixed programme.
    """
    scenario = load_traffic(file, overrides)
    env = held_out_env(scenario, device=device)
    name, controller = next(iter(baselines(env).items()))
    title = f"{scenario.name}: human drivers only" + ("" if controller is None else f", {name} signals")
    results = compare(env, {name: controller}, seeds, title, console, record=True)
    return env, results[name]


def compare(
    env: TrafficEnv,
    controllers: dict[str, EnvController | None],
    seeds: int,
    title: str,
    console: Console | None = None,
    record: bool = False,
) -> dict[str, Episodes]:
    """Run every controller on the same ``seeds`` held-out worlds and print means and standard deviations over them.

    Ctrl-C prints those of the controllers that are through.
    """
    console = console or terminal.console()
    results: dict[str, Episodes] = {}
    try:
        with console.status("warming up traffic ...") as status:
            traffic = held_out_traffic(env, range(seeds))
            for name, controller in controllers.items():
                begun = time.monotonic()

                def told(made: int, name: str = name, begun: float = begun) -> None:
                    passed = time.monotonic() - begun
                    left = f", {duration(passed / made * (env.horizon - made))} left" if made and passed > 2.0 else ""
                    status.update(markup.escape(f"{title}: {name}, {100 * made // env.horizon} %{left}"))

                results[name] = run_episodes(env, controller, traffic, record, told)
    finally:
        if results:
            console.print(table(results, f"{title}; {seeds} held-out traffic seeds, mean ± standard deviation"))
    return results


def compare_played(
    scenario: Scenario,
    policy: Policy | None,
    episodes: int | None,
    title: str,
    console: Console | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Episodes]:
    """Play the environment of a scenario without traffic and print means and standard deviations over the episodes.

    The ``policy``, where there is one, deterministic and with its exploration noise; and actions at random, uniform in
    [-1, 1]. ``episodes`` None: 64, or 1000 of one decision.
    """
    scenario = scenario.judged()
    env = make_env(scenario, device) if policy is None else make_env(scenario, device, dtype_of(policy))
    episodes = episodes or (EPISODES if env.horizon > 1 else SHORT_EPISODES)
    generator = torch.Generator().manual_seed(HELD_OUT)
    controllers: dict[str, Callable[[EnvState], Tensor]] = {}
    if policy is not None:
        controllers["policy"] = policy_controller(policy)
        controllers["policy, exploring"] = policy_controller(policy, generator)
    shape = (episodes, *(() if env.agents is None else (env.agents,)), len(env.action_labels))

    def chance(state: EnvState) -> Tensor:
        drawn = torch.rand(shape, generator=generator, dtype=state.observation.dtype)
        return (2.0 * drawn - 1.0).to(state.observation.device)

    controllers["random actions"] = chance
    results = {name: play(env, controller, episodes) for name, controller in controllers.items()}
    wanted = ("reward", *(("return", "length") if env.horizon > 1 else ()), *env.task_measures)
    columns = {name: played_column(scenario, name) for name in wanted}
    told = f"{title}; {episodes} episodes, mean ± standard deviation"
    (console or terminal.console()).print(table(results, told, columns))
    return results


def played_column(scenario: Scenario, name: str) -> Column:
    """How a measure is shown where there is no traffic."""
    if name == "distance" and isinstance(scenario, FunctionScenario):
        return Column("distance from optimum / bound", 3, form="g")
    return PLAYED.get(name, Column(name.replace("_", " "), 3, form="g"))


def table(results: dict[str, Episodes], title: str, columns: dict[str, Column] | None = None) -> Table:
    """Controllers as rows, measures as columns; ``standing`` only where somebody stands.

    ``columns``: how measures are shown, those that there are; None: ``COLUMNS``.
    """
    measured = next(iter(results.values())).measures
    shown = {name: how for name, how in (columns or COLUMNS).items() if name in measured}
    if "standing" in shown and not any(bool(episodes.measures["standing"].any()) for episodes in results.values()):
        del shown["standing"]
    grid = Table(title=markup.escape(title), title_justify="left")
    grid.add_column("controller", no_wrap=True)
    for column in shown.values():
        grid.add_column(column.title, justify="right")
    for name, episodes in results.items():
        grid.add_row(name, *(_spread(episodes.measures[key], key, how) for key, how in shown.items()))
    return grid


def _spread(values: Tensor, key: str, how: Column) -> str:
    if key == "collisions":
        return f"{int(values.sum())}"
    values, form = values.cpu().double(), f".{how.digits}{how.form}"
    mean = how.factor * float(values.mean())
    deviation = how.factor * float(values.std()) if len(values) > 1 else 0.0
    return f"{mean:{form}} ± {deviation:{form}}"


def write_csv(path: Path, results: dict[str, Episodes]) -> None:
    """One row per controller and seed, atomically."""
    buffer = io.StringIO(newline="")
    names = list(next(iter(results.values())).measures)
    writer = csv.writer(buffer)
    writer.writerow(["controller", "seed", *names])
    for controller, episodes in results.items():
        for seed in range(len(episodes.measures[names[0]])):
            writer.writerow([controller, seed, *(f"{float(episodes.measures[name][seed]):.6g}" for name in names)])
    with complete_file(path) as partial:
        partial.write_text(buffer.getvalue(), encoding="utf-8", newline="")
