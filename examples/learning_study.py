"""Train and compare on shipped scenarios; writes docs/results/*.csv. Resumable: finished trainings are not repeated.

    python examples/learning_study.py ring_4lane --jobs 2  # half an hour on 2 cores; --rows gippo --seeds 1 2 3: a part
    python examples/learning_study.py pace_car_2lane       # an hour
    python examples/learning_study.py merge                # on networks: about 10 minutes a training
    python examples/learning_study.py ring_4lane --table   # print the table of what has been computed so far

Every row is trained with several seeds. On the rings the best policy (by validation traffic) is evaluated, on the pace
car the last one, deterministic and with its exploration noise: on held-out traffic seeds. One thread a training, so
that several run side by side without disturbing each other.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from trafficgrad.agents.actor_critic import Policy
from trafficgrad.agents.controllers import baselines
from trafficgrad.agents.episodes import EnvController, held_out_env, held_out_traffic, policy_controller, run_episodes
from trafficgrad.agents.evaluation import load_run
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.agents.train import train
from trafficgrad.envs import TrafficEnv
from trafficgrad.files import complete_file
from trafficgrad.gradients import MODES
from trafficgrad.render import learning_curve
from trafficgrad.scenario_config import Scenario, load_scenario

_RINGS: dict[str, tuple[str, tuple[str, ...]]] = {  # row -> agent, overrides
    "gippo": ("gippo", ()),
    "gippo, dA/da = 0": ("gippo", ("training.agent.use_gradient=false",)),
    "ppo": ("ppo", ()),
}
_HEADING = "control.command=heading_and_speed"


def _mode(agent: str, mode: str, *overrides: str) -> tuple[str, tuple[str, ...]]:
    fixed = (
        "training.decisions=409600",
        "training.noise_memory=0.0",
        "observation={kind: world}",
        f"lane_gradient.mode={mode}",
    )
    return agent, (*fixed, *overrides)


_PACE_CAR = {
    **{f"{agent}, {mode}": _mode(agent, mode) for agent in ("rp", "gippo") for mode in MODES},
    **{
        f"{agent}, straight_through, width {width}": _mode(
            agent, "straight_through", f"lane_gradient.transition_width={width}"
        )
        for agent, widths in (("rp", (0.1, 0.25, 1.0)), ("gippo", (0.1,)))
        for width in widths
    },
    "rp, straight_through, samples not clipped": _mode(
        "rp", "straight_through", "training.agent.gradient_clip_quantile=1.0"
    ),
    **{f"rp, {mode}, damped": _mode("rp", mode, "training.agent.gae_lambda=null") for mode in MODES[:2]},
    "ppo": _mode("ppo", "blocked"),
    **{f"{agent}, {mode}, heading": _mode(agent, mode, _HEADING) for agent in ("rp", "gippo") for mode in MODES[:2]},
    "ppo, heading": _mode("ppo", "blocked", _HEADING),
}


@dataclass(frozen=True)
class Study:
    """What is trained on a scenario, and how it is judged."""

    rows: dict[str, tuple[str, tuple[str, ...]]]
    measures: tuple[str, ...]
    curves: tuple[str, ...]  # rows whose learning curves are drawn
    best: bool = True  # judge the best policy of a training by its validation traffic, or the last one
    episodes: int = 20  # held-out traffic seeds
    settings: tuple[tuple[str, tuple[str, ...]], ...] = ()  # row, overrides; nobody is trained there


_TRAFFIC = (
    "reward", "late_speed_error", "mean_speed", "late_mean_speed", "speed_deviation", "late_speed_deviation",
    "lane_changes", "collisions",
)  # fmt: skip
_ROADS = ("reward", "mean_speed", "late_mean_speed", "speed_deviation", "standing", "flow", "collisions")
_METERED = tuple(
    (f"human only, meter of {rate} veh/h", (f"network.meter={{rate: {rate}, green: 1.5}}",))
    for rate in (1700, 1800, 1900, 2000)
)
_TRUCKS = (
    (
        "people drive the trucks too",
        (
            "demand=[{from: highway_0, rate: 1200, vehicles: human}, "
            "{from: highway_0, rate: 300, vehicles: truck, lanes: [0]}]",
        ),
    ),
)
STUDIES = {
    "ring_4lane": Study(
        {**_RINGS, "gippo, no lane head": ("gippo", ("training.frozen_actions=[lane_request]",))},
        _TRAFFIC,
        ("gippo", "ppo"),
    ),
    "ring_1lane": Study(_RINGS, _TRAFFIC, ("gippo", "ppo")),
    "pace_car_2lane": Study(
        _PACE_CAR,
        ("return", "length", "stochastic_return", "stochastic_length"),
        ("rp, straight_through", "rp, blocked"),
        best=False,
        episodes=64,
    ),
    **{name: Study({"gippo": ("gippo", ())}, _ROADS, ()) for name in ("figure_eight", "merge", "roundabout")},
    "highway_truck": Study({"gippo": ("gippo", ())}, _ROADS, (), settings=_TRUCKS),
    **{name: Study({"ppo": ("ppo", ())}, _ROADS, ()) for name in ("intersection", "grid_3x3")},
    "bottleneck": Study({}, _ROADS, (), settings=_METERED),
}
UNTRAINED = "untrained"
RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
GATE = (0.75, 1.5)  # reward, late speed error: what counts as having learnt ring_4lane


def run_name(row: str, seed: int) -> str:
    """Folder of one training."""
    return "".join(c if c.isalnum() else "_" for c in row).strip("_") + f"_seed{seed}"


class Found(NamedTuple):
    """What a training found."""

    record: dict[str, object]  # line of the results
    points: list[dict[str, object]]  # lines of the learning curves


def work(job: tuple[str, str, int, str, tuple[str, ...]]) -> Found | None:
    """One training with its evaluation; goes on where an interrupted one stopped. None: interrupted again."""
    scenario, row, seed, folder, overrides = job
    study = STUDIES[scenario]
    agent, own = study.rows[row]
    experiment = load_experiment(
        scenario, agent, seed, ("training.threads=1", "training.simulator_threads=1", *own, *overrides)
    )
    output = Path(folder) / scenario / run_name(row, seed)
    result = train(experiment, output, resume=(output / "last.pt").is_file(), progress=False)
    if result.interrupted:
        return None
    torch.set_num_threads(1)
    run = load_run(output if study.best else output / "last.pt")
    record: dict[str, object] = {"row": row, "seed": seed, "decisions": result.decisions}
    record["minutes"] = round(result.seconds / 60, 2)
    with (output / "metrics.csv").open(newline="", encoding="utf-8") as file:
        judged = [line for line in csv.DictReader(file) if line.get("score")]
    passed = [line for line in judged if reaches_gate(line)]
    if scenario == "ring_4lane":
        record["decisions_to_gate"] = passed[0]["decisions"] if passed else ""
    record |= measure(study, run.scenario, run.policy)
    record["machine"] = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    names = ("late_speed_error", "late_mean_speed", "late_speed_deviation")
    points: list[dict[str, object]] = [
        {"row": row, "seed": seed, "decisions": line["decisions"], "score": line["score"]}
        | {name: line.get(f"evaluation/{name}", "") for name in names}
        for line in judged
    ]
    return Found(record, points)


def keep_found(scenario: str, found: Found) -> None:
    """Write down what a training found, and say it."""
    keep(RESULTS / f"{scenario}.csv", found.record, ("row", "seed"))
    for point in found.points:
        keep(RESULTS / f"{scenario}_curves.csv", point, ("row", "seed", "decisions"))
    record = found.record
    shown = ", ".join(f"{name} {record[name]}" for name in STUDIES[scenario].measures[:3])
    print(f"{record['row']}, seed {record['seed']}: {shown}, {record['minutes']} min", flush=True)


def measure(study: Study, scenario: Scenario, policy: Policy) -> dict[str, str]:
    """The study's measures of a policy, means over held-out episodes; `stochastic_...` with its exploration noise."""
    env = held_out_env(scenario)
    traffic = held_out_traffic(env, range(study.episodes))
    means = {k: float(v.mean()) for k, v in run_episodes(env, policy_controller(policy), traffic).measures.items()}
    if any(name.startswith("stochastic_") for name in study.measures):
        noisy = run_episodes(env, policy_controller(policy, torch.Generator().manual_seed(0)), traffic)
        means |= {f"stochastic_{k}": float(v.mean()) for k, v in noisy.measures.items()}
    return {name: f"{means[name]:.4f}" for name in study.measures if name in means}


def reaches_gate(line: dict[str, str]) -> bool:
    """Whether an evaluation during training passed the gate of ring_4lane."""
    late = line.get("evaluation/late_speed_error")
    return bool(late) and float(line["score"]) >= GATE[0] and float(late) <= GATE[1]


def keep(path: Path, record: dict[str, object], key: tuple[str, ...]) -> None:
    """Add or replace one line of a CSV file, atomically."""
    lines: list[dict[str, object]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    lines = [line for line in lines if any(str(line[k]) != str(record[k]) for k in key)] + [record]
    lines.sort(key=lambda line: tuple(int(line[k]) if str(line[k]).isdigit() else str(line[k]) for k in key))
    columns = list(dict.fromkeys(name for line in lines for name in line))
    with complete_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)


def evaluate_fixed(scenario: str) -> None:
    """Baselines, and networks as they are before any training (three seeds)."""
    torch.set_num_threads(1)
    study, loaded = STUDIES[scenario], load_scenario(scenario)
    env = held_out_env(loaded)
    path = RESULTS / f"{scenario}.csv"
    cases: list[tuple[str, TrafficEnv, EnvController | None]] = [(n, env, c) for n, c in baselines(env).items()]
    for name, overrides in study.settings:
        cases.append((name, held_out_env(load_scenario(scenario, overrides)), None))
    for name, one, controller in cases:
        episodes = run_episodes(one, controller, held_out_traffic(one, range(study.episodes)))
        means = {k: f"{float(v.mean()):.4f}" for k, v in episodes.measures.items() if k in study.measures}
        keep(path, {"row": name, "seed": "", "decisions": 0, **means}, ("row", "seed"))
    for seed in (1, 2, 3):
        policy = load_experiment(scenario, seed=seed).build_networks().policy()
        keep(path, {"row": UNTRAINED, "seed": seed, "decisions": 0, **measure(study, loaded, policy)}, ("row", "seed"))


def print_table(scenario: str) -> None:
    """What the CSV holds: mean over training seeds, lowest and highest seed."""
    with (RESULTS / f"{scenario}.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    study = STUDIES[scenario]
    shown = [name for name in study.measures if any(line.get(name) for line in lines)]
    grid = Table(
        title=f"{scenario}: {study.episodes} held-out traffic seeds; mean over training seeds \\[lowest, highest]",
        title_justify="left",
    )
    gated = any(line.get("decisions_to_gate") for line in lines)
    for name in ("row", "seeds", *shown, *(("decisions to gate",) if gated else ()), "minutes"):
        grid.add_column(name.replace("_", " "), justify="left" if name == "row" else "right")
    rows: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        rows.setdefault(line["row"], []).append(line)
    digits = 3 if study.best else 0
    for row, group in rows.items():
        cells = []
        for name in shown:
            values = [float(line[name]) for line in group if line.get(name)]
            mean = sum(values) / len(values) if values else math.nan
            spread = f" [{min(values):.{digits}f}, {max(values):.{digits}f}]" if len(values) > 1 else ""
            cells.append(f"{mean:.{digits}f}{spread}" if values else "")
        gates = ", ".join(
            f"{int(line['decisions_to_gate']) // 1000}k" if line.get("decisions_to_gate") else "-" for line in group
        )
        times = [float(line["minutes"]) for line in group if line.get("minutes")]
        grid.add_row(
            row,
            str(len(group)) if group[0]["seed"] else "-",
            *cells,
            *((gates,) if gated else ()),
            f"{sum(times) / len(times):.1f}" if times else "",
        )
    Console(width=200).print(grid)


def draw_curves(scenario: str, folder: Path) -> None:
    """Score on validation traffic against decisions, as docs/results/SCENARIO.png."""
    names = {f"{row}, seed {seed}": run_name(row, seed) for row in STUDIES[scenario].curves for seed in (1, 2, 3)}
    files = {label: folder / scenario / name / "metrics.csv" for label, name in names.items()}
    files = {label: file for label, file in files.items() if file.is_file()}
    if files:
        title = f"{scenario}: reward per decision on validation traffic"
        learning_curve(files, RESULTS / f"{scenario}.png", columns=["score"], title=title)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=list(STUDIES))
    parser.add_argument("--rows", nargs="*", default=None, metavar="ROW", help="default: all of the scenario's")
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--runs", default="runs/study", help="folder of the trainings")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for all rows")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    known = STUDIES[options.scenario].rows
    unknown = [row for row in options.rows or () if row not in known]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; valid are {'; '.join(known)}")
    if not options.table:
        jobs = [
            (options.scenario, row, seed, options.runs, tuple(options.set))
            for seed in options.seeds
            for row in options.rows or known
        ]
        evaluate_fixed(options.scenario)
        with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
            for found in pool.imap_unordered(work, jobs):
                if found is not None:
                    keep_found(options.scenario, found)
        draw_curves(options.scenario, Path(options.runs))
    print_table(options.scenario)


if __name__ == "__main__":
    main()
