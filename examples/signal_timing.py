"""Signal timing by gradients: green splits and offsets of an arterial, against random search of equal wall time.

Five junctions on a main street, cross streets at each. Every signal has a cycle of 60 s; the main street's green and
the offset of each are to be found, ten numbers. What counts is the time lost per vehicle on the road. Gradient descent
goes through the simulator (``SignalGradient``); random search draws programmes and keeps the best. Both start from
equal splits and no offsets, look at the same traffic, and are judged on traffic that neither has seen.

    python examples/signal_timing.py                # a few minutes; draws signal_timing.png
    python examples/signal_timing.py --minutes 10 --seeds 3 --output docs/results
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor

import trafficgrad as tg
from trafficgrad.demand import Demand, Inflow
from trafficgrad.network import arterial
from trafficgrad.signals import Signals

JUNCTIONS, CYCLE, LOST = 5, 60.0, 10.0  # LOST: yellow and all-red of both phases, s
SHORTEST = 8.0  # s of green
DT, WARM_UP, SECONDS = 0.5, 60.0, 240.0
FREE = 13.9  # m/s
MAIN, BACK, CROSS = (600.0, 400.0, 250.0)  # vehicles/h eastwards, westwards, on each arm of a cross street


def build(worlds: int, seed: int) -> tuple[tg.Simulator, tg.TrafficState]:
    """The arterial with ``worlds`` samples of Poisson traffic, empty at first."""
    network = arterial(JUNCTIONS, 300.0, lanes=1, side_lanes=1, cycle=CYCLE, green=(CYCLE - LOST) / 2)
    streets = [[f"east_{j}" for j in range(JUNCTIONS + 1)], [f"west_{j}" for j in range(JUNCTIONS, -1, -1)]]
    streets += [[f"north_in_{j}", f"south_out_{j}"] for j in range(JUNCTIONS)]
    streets += [[f"south_in_{j}", f"north_out_{j}"] for j in range(JUNCTIONS)]
    network = network.with_routes(streets)
    rates = [MAIN, BACK] + [CROSS] * (2 * JUNCTIONS)
    inflows = [Inflow(network.edge_index(street[0]), (r,), rate=rates[r] / 3600.0) for r, street in enumerate(streets)]
    simulator = tg.Simulator(
        network,
        tg.Fleet(),
        tg.IDM(desired_speed=15.0),
        dt=DT,
        signals=Signals.of(network),
        demand=Demand(inflows),
    )
    slots = 160
    none = torch.zeros(worlds, slots)
    seeds = 10_000 * seed + torch.arange(worlds)
    state = tg.TrafficState(none, none, none.long(), driver=none.long(), active=none.bool(), seed=seeds)
    return simulator, simulator.demand.start(state)


def programme(simulator: tg.Simulator, timing: Tensor) -> tg.Simulator:
    """``timing`` [2, junctions]: offsets and greens of the main street, s."""
    signals = simulator.signals
    green = timing[1].clamp(SHORTEST, CYCLE - LOST - SHORTEST)
    rest = signals.durations.detach()
    durations = torch.stack([green, rest[:, 1], rest[:, 2], CYCLE - LOST - green, rest[:, 4], rest[:, 5]], 1)
    return dataclasses.replace(
        simulator, signals=dataclasses.replace(signals, durations=durations, offset=timing[0] % CYCLE)
    )


def delay(simulator: tg.Simulator, start: tg.TrafficState, timing: Tensor) -> Tensor:
    """Mean time that a vehicle on the road loses in a minute, s, after the warm-up; who waits outside loses it all."""
    chosen = programme(simulator, timing)
    state = chosen.signals.start(start)
    lost, present = torch.zeros(()), torch.zeros(())
    for step in range(round(SECONDS / DT)):
        state = chosen.step(state)
        if step * DT >= WARM_UP:
            waiting = chosen.demand.waiting(state).sum()
            lost = lost + torch.where(state.active, 1.0 - state.speed / FREE, 0.0).sum() + waiting
            present = present + state.active.sum() + waiting
    return 60.0 * lost / present


def descend(simulator: tg.Simulator, state: tg.TrafficState, seconds: float) -> tuple[list[float], Tensor]:
    """Adam on the ten numbers for ``seconds``; the delays seen, and the best programme."""
    timing = initial().requires_grad_()
    optimizer = torch.optim.Adam([timing], lr=2.0, betas=(0.7, 0.95))
    seen: list[float] = []
    best, lowest, begun = timing.detach().clone(), float("inf"), time.monotonic()
    while time.monotonic() - begun < seconds:
        part = (time.monotonic() - begun) / seconds
        optimizer.param_groups[0]["lr"] = 2.0 * (1.0 - part) + 0.3 * part
        optimizer.zero_grad()
        value = delay(simulator, state, timing)
        value.backward()
        seen.append(float(value.detach()))
        if seen[-1] < lowest:
            best, lowest = timing.detach().clone(), seen[-1]
        optimizer.step()
        with torch.no_grad():
            timing[1].clamp_(SHORTEST, CYCLE - LOST - SHORTEST)
        print(f"  gradient {len(seen):3d}: {seen[-1]:.2f} s/min", flush=True)
    return seen, best


@torch.no_grad()
def search(simulator: tg.Simulator, state: tg.TrafficState, seconds: float, seed: int) -> tuple[list[float], Tensor]:
    """Random programmes for ``seconds``, the fixed-time start first; the delays seen, and the best programme."""
    generator = torch.Generator().manual_seed(seed)
    seen: list[float] = []
    best, lowest, begun = initial(), float("inf"), time.monotonic()
    while time.monotonic() - begun < seconds:
        drawn = torch.rand(2, JUNCTIONS, generator=generator)
        timing = torch.stack([CYCLE * drawn[0], SHORTEST + (CYCLE - LOST - 2 * SHORTEST) * drawn[1]])
        timing = timing if seen else initial()
        seen.append(float(delay(simulator, state, timing)))
        if seen[-1] < lowest:
            best, lowest = timing, seen[-1]
    print(f"  random search: {len(seen)} programmes, best {lowest:.2f} s/min", flush=True)
    return seen, best


def initial() -> Tensor:
    """No offsets, equal splits."""
    return torch.stack([torch.zeros(JUNCTIONS), torch.full((JUNCTIONS,), (CYCLE - LOST) / 2)])


def draw(rows: list[dict], output: Path) -> Path:
    """Best delay so far against wall time, and what it is on unseen traffic."""
    from matplotlib.figure import Figure

    figure = Figure((8.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    colours = {"gradient descent": "#c2410c", "random search": "#1d4ed8", "fixed time": "#6b7280"}
    for method, colour in colours.items():
        values = [float(r["delay"]) for r in rows if r["method"] == method and r["kind"] == "unseen"]
        right.plot([method.replace(" ", "\n")] * len(values), values, "o", color=colour)
        for seed in sorted({r["seed"] for r in rows}):
            curve = [r for r in rows if r["method"] == method and r["seed"] == seed and r["kind"] == "seen"]
            lowest, best = float("inf"), []
            for row in curve:
                lowest = min(lowest, float(row["delay"]))
                best.append(lowest)
            left.plot(
                [float(r["minutes"]) for r in curve],
                best,
                color=colour,
                label=method if seed == rows[0]["seed"] else None,
            )
    left.set(xlabel="wall time, minutes", ylabel="best so far: time lost, s per minute on the road")
    left.legend(frameon=False)
    right.set(title="on unseen traffic", ylabel="time lost, s per minute on the road")
    output.mkdir(parents=True, exist_ok=True)
    path = output / "signal_timing.png"
    figure.savefig(path, dpi=150)
    return path


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="wall time of each method and seed")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions with other traffic")
    parser.add_argument("--worlds", type=int, default=8, help="samples of traffic that both look at")
    parser.add_argument("--unseen", type=int, default=32, help="samples of traffic that judge")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder of signal_timing.csv and .png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = []
    for seed in range(options.seeds):
        simulator, state = build(options.worlds, seed)
        found = {}
        for method in ("gradient descent", "random search"):
            print(f"seed {seed}, {method}", flush=True)
            if method == "gradient descent":
                seen, found[method] = descend(simulator, state, 60.0 * options.minutes)
            else:
                seen, found[method] = search(simulator, state, 60.0 * options.minutes, seed)
            each = options.minutes / len(seen)
            rows += [
                {
                    "seed": seed,
                    "method": method,
                    "kind": "seen",
                    "minutes": f"{(i + 1) * each:.4g}",
                    "delay": f"{x:.5g}",
                }
                for i, x in enumerate(seen)
            ]
        judge, fresh = build(options.unseen, 1000 + seed)
        for method, timing in {"fixed time": initial(), **found}.items():
            with torch.no_grad():
                value = float(delay(judge, fresh, timing))
            rows.append({"seed": seed, "method": method, "kind": "unseen", "minutes": "", "delay": f"{value:.5g}"})
            print(f"seed {seed}, unseen traffic, {method}: {value:.2f} s/min", flush=True)
        options.output.mkdir(parents=True, exist_ok=True)
        with (options.output / "signal_timing.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(draw(rows, options.output))


if __name__ == "__main__":
    main()
