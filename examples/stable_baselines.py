"""PPO of Stable-Baselines3, as it comes, on one vehicle that shall dissolve a stop-and-go wave.

    python examples/stable_baselines.py --steps 50000

Needs ``pip install "trafficgrad[rl]"``.
"""

from __future__ import annotations

import argparse
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from trafficgrad.envs.stable_baselines_adapter import TrafficVecEnv


def main() -> None:
    """Train, and print the return per episode before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", default="ring_1lane", help="file or shipped name")
    parser.add_argument("--steps", type=int, default=10_000, help="decisions, over all worlds")
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--window", type=int, default=256, help="decisions of each world between two updates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a scenario's setting")
    given = parser.parse_args()
    torch.set_num_threads(1)  # small networks: more threads only wait for each other

    envs = VecMonitor(TrafficVecEnv(given.scenario, given.worlds, given.set))
    model = PPO("MlpPolicy", envs, n_steps=given.window, seed=given.seed, device="cpu")
    before, _ = evaluate_policy(model, envs, n_eval_episodes=given.worlds)
    begun = time.perf_counter()
    model.learn(given.steps)
    seconds = time.perf_counter() - begun
    after, _ = evaluate_policy(model, envs, n_eval_episodes=given.worlds)
    print(f"{model.num_timesteps:,} decisions in {seconds:.1f} s; return per episode {before:.1f} -> {after:.1f}")


if __name__ == "__main__":
    main()
