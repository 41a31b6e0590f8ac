"""The sweep that policies add to on the pace car: ten numbers of a hand-written controller, found by search.

The command ``lanes`` of a steered vehicle knows a hand-written urgency of lanes (``control.lanes.sweep``); action 0 is
that controller. The cross-entropy method searches its numbers for the highest mean return while every action has the
noise of exploration: without noise the best ones pass other vehicles so closely that no policy can explore around them.

    python examples/sweep_search.py pace_car_4lane --jobs 2   # 960 candidates, a second or two each

It prints settings for ``--set``. Ctrl-C ends the search early and prints those of its centre.
"""

from __future__ import annotations

import argparse
import math
import sys

import joblib
import torch

import trafficgrad as tg
from trafficgrad.agents.episodes import HELD_OUT, held_out_env, held_out_traffic, run_episodes

SEARCHED_ON = 4_000_000  # start of the seeds of traffic: neither training's nor the held-out ones
RANGES: dict[str, tuple[float, float]] = {  # the numbers by their place in a scenario
    "control.heading_gain": (0.3, 5.0),
    "control.lanes.lateral_gain": (0.1, 1.0),
    "control.lanes.inset": (0.0, 1.8),
    "control.lanes.lookahead": (0.0, 0.4),
    "control.lanes.hysteresis": (0.0, 6.0),
    "control.lanes.sweep.speed": (10.0, 25.0),
    "control.lanes.sweep.lead": (2.0, 20.0),
    "control.lanes.sweep.speed_gain": (0.0, 1.0),
    "control.lanes.sweep.speed_weight": (0.0, 3.0),
    "control.lanes.sweep.distance_weight": (0.0, 5.0),
}
LOW, HIGH = (torch.tensor(bound, dtype=torch.float64) for bound in zip(*RANGES.values(), strict=True))


def settings(point: torch.Tensor) -> list[str]:
    """``point`` of the unit cube as overrides of a scenario."""
    numbers = (LOW + point * (HIGH - LOW)).tolist()
    return ["control.command=lanes", *(f"{name}={number:.3g}" for name, number in zip(RANGES, numbers, strict=True))]


def returns(scenario: str, overrides: list[str], std: float, worlds: int, seed: int, first: int) -> torch.Tensor:
    """Returns [worlds] of action 0 with normal noise of deviation ``std``, traffic of seeds from ``first`` on."""
    torch.set_num_threads(1)
    env = held_out_env(tg.load_scenario(scenario, overrides), first)
    noise = torch.Generator().manual_seed(seed)
    shape = (worlds, len(env.action_labels))
    traffic = held_out_traffic(env, range(worlds), first)
    return run_episodes(env, lambda _: (std * torch.randn(shape, generator=noise)).tanh(), traffic).measures["return"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", default="pace_car_4lane")
    parser.add_argument("--log-std", type=float, default=-2.3, help="logarithm of the noise's deviation")
    parser.add_argument("--generations", type=int, default=30)
    parser.add_argument("--population", type=int, default=32)
    parser.add_argument("--worlds", type=int, default=16, help="episodes that judge one candidate")
    parser.add_argument("--held-out", type=int, default=64, help="episodes that judge the end of the search")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    std, elite = math.exp(options.log_std), max(2, options.population // 5)
    mean, spread = torch.full_like(LOW, 0.5), torch.full_like(LOW, 0.3)
    try:
        with joblib.Parallel(n_jobs=options.jobs) as parallel:
            for generation in range(options.generations):
                drawn = torch.randn(options.population, len(RANGES), generator=generator, dtype=torch.float64)
                points = (mean + spread * drawn).clamp(0.0, 1.0)
                points[0] = mean
                judged = parallel(
                    joblib.delayed(returns)(
                        options.scenario,
                        settings(point),
                        std,
                        options.worlds,
                        generation,
                        SEARCHED_ON + 1000 * generation,
                    )
                    for point in points
                )
                value = torch.stack([x.mean() for x in judged])
                chosen = points[value.argsort(descending=True)[:elite]]
                # The spread may shrink by a tenth in one generation: few candidates agree by chance.
                mean, spread = chosen.mean(0), torch.maximum(chosen.std(0), 0.9 * spread)
                print(
                    f"{generation + 1:3d} of {options.generations}: centre {value[0]:.1f}, best {value.max():.1f}",
                    flush=True,
                )
    except KeyboardInterrupt:
        print("stopped; the centre of the search so far:", file=sys.stderr)
    found = settings(mean)
    for label, own in (("with that noise", std), ("without noise", 0.0)):
        reached = returns(options.scenario, found, own, options.held_out, options.seed, HELD_OUT)
        error = reached.std() / math.sqrt(options.held_out)
        print(f"return {label}, {options.held_out} held-out episodes: {reached.mean():.1f} +- {error:.1f}")
    print(" ".join(f"--set {text}" for text in found))


if __name__ == "__main__":
    main()
