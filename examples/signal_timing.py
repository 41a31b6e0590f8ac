"""Signal timing by gradients: green splits and offsets of an arterial, against random search of equal wall time.

Ten junctions on a main street, uneven distances between them, cross streets with more or less traffic. Every signal has
a cycle of 60 s; the main street's green and the offset of each are to be found, twenty numbers. What counts is the time
lost per vehicle on the road. Gradient descent goes through the simulator (``SignalGradient``); random search draws
programmes and keeps the best. Both start from equal splits and no offsets, look at the same traffic, get equal wall
time (they take turns, so that a busy machine delays both alike), and are judged on traffic that neither has seen.

    python examples/signal_timing.py --minutes 2    # a first impression; draws signal_timing.png
    python examples/signal_timing.py --minutes 5 --seeds 3 --output docs/results --resume
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import trafficgrad as tg
from trafficgrad.demand import Demand, Inflow
from trafficgrad.files import complete_file
from trafficgrad.network import arterial
from trafficgrad.signals import Signals

JUNCTIONS, CYCLE, LOST = 10, 60.0, 10.0  # LOST: yellow and all-red of both phases, s
SPACING = [300.0, 220.0, 380.0, 260.0, 340.0, 240.0, 360.0, 280.0, 320.0]  # m
SHORTEST = 8.0  # s of green
DT, FREE = 0.5, 13.9  # s, m/s
MAIN, BACK = 600.0, 400.0  # vehicles/h eastwards and westwards
CROSS = [250.0, 150.0, 350.0, 200.0, 300.0, 150.0, 250.0, 350.0, 200.0, 300.0]  # vehicles/h on each arm, by junction
SLOTS = 260
FILL = 240.0  # s, the road is filled under the fixed-time programme before anybody looks
SETTLE, COUNTED = 20.0, 100.0  # s, of every programme that is tried: not counted, counted
LONG_SETTLE, LONG_COUNTED = 60.0, 240.0  # s, the same of the judgement on unseen traffic
FASTEST, SLOWEST = 4.0, 0.5  # s, step sizes of the descent at the beginning and at the end
FIXED, DESCENT, SEARCH = "fixed time", "gradient descent", "random search"
Evaluate = Callable[[Tensor], Tensor]
Tried = tuple[Tensor, float]  # timing [2, junctions] s, time lost in s per minute


def build(worlds: int, seed: int) -> tuple[tg.Simulator, tg.TrafficState]:
    """The arterial with ``worlds`` samples of Poisson traffic, filled under the fixed-time programme."""
    network = arterial(JUNCTIONS, SPACING, lanes=1, side_lanes=1, cycle=CYCLE, green=(CYCLE - LOST) / 2)
    streets = [[f"east_{j}" for j in range(JUNCTIONS + 1)], [f"west_{j}" for j in range(JUNCTIONS, -1, -1)]]
    streets += [[f"north_in_{j}", f"south_out_{j}"] for j in range(JUNCTIONS)]
    streets += [[f"south_in_{j}", f"north_out_{j}"] for j in range(JUNCTIONS)]
    network = network.with_routes(streets)
    rates = [MAIN, BACK, *CROSS, *CROSS]
    inflows = [Inflow(network.edge_index(street[0]), (r,), rate=rates[r] / 3600.0) for r, street in enumerate(streets)]
    simulator = tg.Simulator(
        network,
        tg.Fleet(),
        tg.IDM(desired_speed=15.0),
        dt=DT,
        signals=Signals.of(network),
        demand=Demand(inflows),
    )
    none = torch.zeros(worlds, SLOTS)
    seeds = 10_000 * seed + torch.arange(worlds)
    state = tg.TrafficState(none, none, none.long(), driver=none.long(), active=none.bool(), seed=seeds)
    filled = programme(simulator, initial())
    state = filled.signals.start(simulator.demand.start(state))
    with torch.no_grad():
        for _ in range(round(FILL / DT)):
            state = filled.step(state)
    return simulator, state


def initial() -> Tensor:
    """The fixed-time start: no offsets, equal splits."""
    return torch.stack([torch.zeros(JUNCTIONS), torch.full((JUNCTIONS,), (CYCLE - LOST) / 2)])


def programme(simulator: tg.Simulator, timing: Tensor) -> tg.Simulator:
    """``timing`` [2, junctions]: offsets and greens of the main street, s."""
    signals = simulator.signals
    green = timing[1].clamp(SHORTEST, CYCLE - LOST - SHORTEST)
    rest = signals.durations.detach()
    durations = torch.stack([green, rest[:, 1], rest[:, 2], CYCLE - LOST - green, rest[:, 4], rest[:, 5]], 1)
    return dataclasses.replace(
        simulator, signals=dataclasses.replace(signals, durations=durations, offset=timing[0] % CYCLE)
    )


def delay(simulator: tg.Simulator, start: tg.TrafficState, timing: Tensor, settle: float, counted: float) -> Tensor:
    """Mean time that a vehicle loses in a minute, s, after ``settle`` s; who waits outside loses it all."""
    chosen = programme(simulator, timing)
    state = chosen.signals.start(start)
    lost, present = torch.zeros(()), torch.zeros(())
    for step in range(round((settle + counted) / DT)):
        state = chosen.step(state)
        if step * DT >= settle:
            waiting = chosen.demand.waiting(state).sum()
            lost = lost + torch.where(state.active, 1.0 - state.speed / FREE, 0.0).sum() + waiting
            present = present + state.active.sum() + waiting
    return 60.0 * lost / present


def descend(evaluate: Evaluate, spent: Callable[[], float]) -> Iterator[Tried]:
    """Adam on all numbers at once; its steps become smaller with the share of the time that is spent."""
    timing = initial().requires_grad_()
    optimizer = torch.optim.Adam([timing], betas=(0.8, 0.9))
    while True:
        optimizer.param_groups[0]["lr"] = FASTEST * (SLOWEST / FASTEST) ** min(1.0, spent())
        optimizer.zero_grad()
        value = evaluate(timing)
        value.backward()
        yield timing.detach().clone(), float(value.detach())
        optimizer.step()
        with torch.no_grad():
            timing[1].clamp_(SHORTEST, CYCLE - LOST - SHORTEST)


def search(evaluate: Evaluate, generator: torch.Generator) -> Iterator[Tried]:
    """The fixed-time start, then programmes drawn at random."""
    timing = initial()
    while True:
        with torch.no_grad():
            value = float(evaluate(timing))
        yield timing, value
        drawn = torch.rand(2, JUNCTIONS, generator=generator)
        timing = torch.stack([CYCLE * drawn[0], SHORTEST + (CYCLE - LOST - 2 * SHORTEST) * drawn[1]])


def compete(evaluate: Evaluate, seed: int, seconds: float) -> dict[str, list[tuple[float, Tried]]]:
    """Both methods for ``seconds`` of wall time each: what they tried, and when. Whoever has used less goes on."""
    used, tried = dict.fromkeys((DESCENT, SEARCH), 0.0), {DESCENT: [], SEARCH: []}
    methods = {
        DESCENT: descend(evaluate, lambda: used[DESCENT] / seconds),
        SEARCH: search(evaluate, torch.Generator().manual_seed(seed)),
    }
    while min(used.values()) < seconds:
        method = min(used, key=used.__getitem__)
        begun = time.monotonic()
        found = next(methods[method])
        used[method] += time.monotonic() - begun
        tried[method].append((used[method], found))
        print(f"  {method} {len(tried[method])}: {found[1]:.2f} s/min after {used[method]:.0f} s", flush=True)
    return tried


def answers(tried: dict[str, list[tuple[float, Tried]]]) -> dict[str, Tensor]:
    """What each method would have one use: the mean of the descent's last quarter, the best that the search drew."""
    last = tried[DESCENT][-max(1, len(tried[DESCENT]) // 4) :]
    best = min((found for _, found in tried[SEARCH]), key=lambda found: found[1])
    return {FIXED: initial(), DESCENT: torch.stack([timing for _, (timing, _) in last]).mean(0), SEARCH: best[0]}


def study(seed: int, options: argparse.Namespace) -> list[dict[str, str]]:
    """The rows of one seed."""
    simulator, state = build(options.worlds, seed)
    print(f"seed {seed}", flush=True)
    tried = compete(lambda timing: delay(simulator, state, timing, SETTLE, COUNTED), seed, 60.0 * options.minutes)
    rows = [
        _row(seed, method, "seen", value, minutes=f"{seconds / 60.0:.4g}")
        for method, found in tried.items()
        for seconds, (_, value) in found
    ]
    simulator, state = build(options.unseen, 1000 + seed)
    for method, timing in answers(tried).items():
        with torch.no_grad():
            value = float(delay(simulator, state, timing, LONG_SETTLE, LONG_COUNTED))
        print(f"seed {seed}, unseen traffic, {method}: {value:.2f} s/min", flush=True)
        rows.append(_row(seed, method, "unseen", value, timing=" ".join(f"{x:.1f}" for x in timing.flatten().tolist())))
    return rows


def _row(seed: int, method: str, kind: str, value: float, minutes: str = "", timing: str = "") -> dict[str, str]:
    values = (str(seed), method, kind, minutes, f"{value:.5g}", timing)
    return dict(zip(("seed", "method", "kind", "minutes", "delay", "timing"), values, strict=True))


def draw(rows: list[dict[str, str]], path: Path) -> Path:
    """Best delay so far against wall time, and what the answers are worth on unseen traffic."""
    from matplotlib.figure import Figure

    figure = Figure((8.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    colours = {FIXED: "#6b7280", DESCENT: "#c2410c", SEARCH: "#1d4ed8"}
    for method, colour in colours.items():
        values = [float(r["delay"]) for r in rows if r["method"] == method and r["kind"] == "unseen"]
        right.plot([method.replace(" ", "\n")] * len(values), values, "o", color=colour, alpha=0.7)
        for seed in sorted({r["seed"] for r in rows}):
            curve = [r for r in rows if (r["method"], r["seed"], r["kind"]) == (method, seed, "seen")]
            best = [min(float(r["delay"]) for r in curve[: i + 1]) for i in range(len(curve))]
            label = method if seed == rows[0]["seed"] and curve else None
            left.step([float(r["minutes"]) for r in curve], best, where="post", color=colour, label=label)
    left.set(xlabel="wall time of each method, minutes", ylabel="time lost, s per minute on the road")
    left.set_title("best so far, on the traffic that both look at", fontsize=10)
    left.legend(frameon=False)
    right.set_title("on unseen traffic", fontsize=10)
    right.margins(x=0.2)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=150)
    return path


def table(rows: list[dict[str, str]]) -> str:
    """The judgement as a Markdown table."""
    seeds = sorted({row["seed"] for row in rows}, key=int)
    lines = ["| seed | " + " | ".join((FIXED, DESCENT, SEARCH)) + " |", "|---|---|---|---|"]
    value = {(row["seed"], row["method"]): float(row["delay"]) for row in rows if row["kind"] == "unseen"}
    tries = {key: sum((row["seed"], row["method"], row["kind"]) == (*key, "seen") for row in rows) for key in value}
    for seed in seeds:
        cells = [
            f"{value[seed, m]:.2f}" + (f" ({n} tried)" if (n := tries[seed, m]) else "")
            for m in (FIXED, DESCENT, SEARCH)
        ]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    means = [sum(value[seed, m] for seed in seeds) / len(seeds) for m in (FIXED, DESCENT, SEARCH)]
    return "\n".join([*lines, "| mean | " + " | ".join(f"{mean:.2f}" for mean in means) + " |"])


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="wall time of each method and seed")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions with other traffic: 1, 2, ...")
    parser.add_argument("--worlds", type=int, default=8, help="samples of traffic that both look at")
    parser.add_argument("--unseen", type=int, default=16, help="samples of traffic that judge")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder of signal_timing.csv and .png")
    parser.add_argument("--resume", action="store_true", help="keep the seeds that signal_timing.csv has already")
    parser.add_argument(
        "--table", action="store_true", help="run nothing, print the table of signal_timing.csv and draw"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    file, rows = options.output / "signal_timing.csv", []
    if (options.resume or options.table) and file.exists():
        with file.open(newline="", encoding="utf-8") as source:
            rows = list(csv.DictReader(source))
    for seed in () if options.table else range(1, options.seeds + 1):
        if str(seed) in {row["seed"] for row in rows}:
            continue
        rows += study(seed, options)
        with complete_file(file) as partial, partial.open("w", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(table(rows))
    print(draw(rows, file.with_suffix(".png")))


if __name__ == "__main__":
    main()
