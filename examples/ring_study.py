"""Train and compare on the shipped rings; writes docs/results/*.csv. Resumable: finished trainings are not repeated.

    python examples/ring_study.py ring_4lane --jobs 2      # hours on 2 cores; --rows gippo --seeds 1 2 3 for a part
    python examples/ring_study.py ring_4lane --table       # print the table of what has been computed so far

Every row is trained with several seeds and its best policy (by validation traffic) is evaluated on 20 held-out traffic
seeds. One thread a training, so that several run side by side without disturbing each other.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from trafficgrad.agents.episodes import baselines, held_out_env, held_out_traffic, policy_controller, run_episodes
from trafficgrad.agents.evaluation import load_run
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.agents.train import train
from trafficgrad.files import complete_file
from trafficgrad.render import learning_curve
from trafficgrad.scenario_config import load_scenario

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {  # name -> agent, overrides
    "gippo": ("gippo", ()),
    "gippo, dA/da = 0": ("gippo", ("training.agent.use_gradient=false",)),
    "ppo": ("ppo", ()),
    "gippo, no lane head": ("gippo", ("training.frozen_actions=[lane_request]",)),
}
UNTRAINED = "untrained"
SEEDS = 20  # held-out traffic
RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
MEASURES = (
    "reward", "late_speed_error", "mean_speed", "late_mean_speed", "speed_deviation", "late_speed_deviation",
    "lane_changes", "collisions",
)  # fmt: skip
GATE = (0.75, 1.5)  # reward, late speed error: what counts as having learnt ring_4lane


def run_name(row: str, seed: int) -> str:
    """Folder of one training."""
    return "".join(c if c.isalnum() else "_" for c in row).strip("_") + f"_seed{seed}"


def work(job: tuple[str, str, int, str, tuple[str, ...]]) -> None:
    """One training with its evaluation; goes on where an interrupted one stopped."""
    scenario, row, seed, folder, overrides = job
    agent, own = ROWS[row]
    experiment = load_experiment(scenario, agent, seed, ("training.threads=1", *own, *overrides))
    output = Path(folder) / scenario / run_name(row, seed)
    result = train(experiment, output, resume=(output / "last.pt").is_file(), progress=False)
    if result.interrupted:
        return
    torch.set_num_threads(1)
    run = load_run(output)
    env = held_out_env(run.scenario)
    episodes = run_episodes(env, policy_controller(run.policy), held_out_traffic(env, range(SEEDS)))
    record = {"row": row, "seed": seed, "decisions": result.decisions, "minutes": round(result.seconds / 60, 2)}
    with (output / "metrics.csv").open(newline="", encoding="utf-8") as file:
        judged = [line for line in csv.DictReader(file) if line.get("score")]
    passed = [line for line in judged if reaches_gate(line)]
    record["decisions_to_gate"] = passed[0]["decisions"] if passed else ""
    record |= {name: f"{float(value.mean()):.4f}" for name, value in episodes.measures.items() if name in MEASURES}
    record["machine"] = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    keep(RESULTS / f"{scenario}.csv", record, ("row", "seed"))
    for line in judged:
        point = {"row": row, "seed": seed, "decisions": line["decisions"], "reward": line["score"]}
        point |= {
            name: line.get(f"evaluation/{name}", "")
            for name in ("late_speed_error", "late_mean_speed", "late_speed_deviation")
        }
        keep(RESULTS / f"{scenario}_curves.csv", point, ("row", "seed", "decisions"))
    print(f"{row}, seed {seed}: reward {record['reward']}, {record['minutes']} min", flush=True)


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
    loaded = load_scenario(scenario)
    env = held_out_env(loaded)
    traffic = held_out_traffic(env, range(SEEDS))
    controllers = {(name, ""): controller for name, controller in baselines(env).items()}
    for seed in (1, 2, 3):
        policy = load_experiment(scenario, seed=seed).build_networks().policy()
        controllers[UNTRAINED, str(seed)] = policy_controller(policy)
    for (name, number), controller in controllers.items():
        episodes = run_episodes(env, controller, traffic)
        record: dict[str, object] = {"row": name, "seed": number, "decisions": 0}
        record |= {k: f"{float(v.mean()):.4f}" for k, v in episodes.measures.items() if k in MEASURES}
        keep(RESULTS / f"{scenario}.csv", record, ("row", "seed"))


def print_table(scenario: str) -> None:
    """What the CSV holds: mean over training seeds, lowest and highest seed."""
    with (RESULTS / f"{scenario}.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    shown = [name for name in MEASURES if any(line.get(name) for line in lines)]
    grid = Table(
        title=f"{scenario}: {SEEDS} held-out traffic seeds; mean over training seeds [lowest, highest]",
        title_justify="left",
    )
    for name in ("row", "seeds", *shown, "decisions to gate", "minutes"):
        grid.add_column(name.replace("_", " "), justify="left" if name == "row" else "right")
    rows: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        rows.setdefault(line["row"], []).append(line)
    for row, group in rows.items():
        cells = []
        for name in shown:
            values = [float(line[name]) for line in group]
            mean = sum(values) / len(values)
            cells.append(f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} [{min(values):.3f}, {max(values):.3f}]")
        gates = ", ".join(
            f"{int(line['decisions_to_gate']) // 1000}k" if line.get("decisions_to_gate") else "-" for line in group
        )
        times = [float(line["minutes"]) for line in group if line.get("minutes")]
        grid.add_row(
            row,
            str(len(group)) if group[0]["seed"] else "-",
            *cells,
            gates,
            f"{sum(times) / len(times):.1f}" if times else "",
        )
    Console(width=200).print(grid)


def draw_curves(scenario: str, folder: Path) -> None:
    """Reward on validation traffic against decisions, GI-PPO and PPO, as docs/results/SCENARIO.png."""
    names = {f"{row}, seed {seed}": run_name(row, seed) for row in ("gippo", "ppo") for seed in (1, 2, 3)}
    files = {label: folder / scenario / name / "metrics.csv" for label, name in names.items()}
    files = {label: file for label, file in files.items() if file.is_file()}
    if files:
        title = f"{scenario}: reward per decision on validation traffic"
        learning_curve(files, RESULTS / f"{scenario}.png", columns=["score"], title=title)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=("ring_4lane", "ring_1lane"))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=None, help="default: all that make sense")
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--runs", default="runs/study", help="folder of the trainings")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for all rows")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.table:
        rows = options.rows or [row for row in ROWS if options.scenario == "ring_4lane" or "lane head" not in row]
        jobs = [
            (options.scenario, row, seed, options.runs, tuple(options.set)) for row in rows for seed in options.seeds
        ]
        evaluate_fixed(options.scenario)
        with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
            for _ in pool.imap_unordered(work, jobs):
                pass
        draw_curves(options.scenario, Path(options.runs))
    print_table(options.scenario)


if __name__ == "__main__":
    main()
