"""PPO in one file on a gymnasium vector environment, in the manner of CleanRL: everything can be read top to bottom.

    python examples/clean_ppo.py --steps 50000

It learns from rewards alone; `trafficgrad train --agent ppo` is faster, and other agents use the simulator's gradients.
"""

from __future__ import annotations

import argparse
import time

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

GAMMA, GAE_LAMBDA = 0.99, 0.95
LEARNING_RATE, EPOCHS, MINIBATCHES, CLIP, VALUE_WEIGHT, LARGEST_GRADIENT = 3e-4, 10, 8, 0.2, 0.5, 0.5


class ActorCritic(nn.Module):
    """A Gaussian policy and a value, each from two hidden layers."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, actions)
        )
        self.value = nn.Sequential(
            nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten(0)
        )
        self.log_std = nn.Parameter(torch.full((actions,), -0.5))

    def policy(self, observation: Tensor) -> Normal:
        """Distribution of the action [B, A]."""
        return Normal(self.mean(observation), self.log_std.exp())


def main() -> None:
    """Train, and print the mean reward of every window."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", default="ring_1lane", help="file or shipped name")
    parser.add_argument("--steps", type=int, default=10_000, help="decisions, over all worlds")
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--window", type=int, default=128, help="decisions of each world between two updates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a scenario's setting")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    torch.set_num_threads(1)  # small networks: more threads only wait for each other

    name = "trafficgrad.envs:trafficgrad/Ring1Lane-v0"
    envs = gymnasium.make_vec(name, given.worlds, scenario=given.scenario, overrides=given.set)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    observations, actions = (int(np.prod(x.shape)) for x in (envs.single_observation_space, envs.single_action_space))
    network = ActorCritic(observations, actions)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, eps=1e-5)

    seen = torch.as_tensor(envs.reset(seed=given.seed)[0])
    begun = time.perf_counter()
    for update in range(-(-given.steps // (given.worlds * given.window))):
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(given.window):
            with torch.no_grad():
                policy = network.policy(seen)
                action = policy.sample()
                log_prob, value = policy.log_prob(action).sum(-1), network.value(seen)
            told, reward, terminated, truncated, info = envs.step(action.clamp(-1.0, 1.0).numpy())
            # Finished worlds restart in the same step: what follows their last observation is worth what the critic
            # says of it, unless the task ended.
            following = told.copy()
            for world in np.flatnonzero(info.get("_final_obs", [])):
                following[world] = info["final_obs"][world]
            with torch.no_grad():
                next_value = network.value(torch.as_tensor(following)) * torch.as_tensor(~terminated)
            done = torch.as_tensor(terminated | truncated)
            rows.append((seen, action, log_prob, value, next_value, torch.as_tensor(reward).float(), done))
            seen = torch.as_tensor(told)
        window, action, log_prob, value, next_value, reward, done = (torch.stack(x) for x in zip(*rows, strict=True))

        advantage, later = torch.zeros_like(reward), torch.zeros(given.worlds)
        for t in reversed(range(given.window)):
            later = reward[t] + GAMMA * next_value[t] - value[t] + GAMMA * GAE_LAMBDA * later * ~done[t]
            advantage[t] = later
        batch = [x.flatten(0, 1) for x in (window, action, log_prob, advantage, advantage + value)]

        for _ in range(EPOCHS):
            for picked in torch.randperm(len(batch[0])).chunk(MINIBATCHES):
                o, a, old, gain, target = (x[picked] for x in batch)
                ratio = (network.policy(o).log_prob(a).sum(-1) - old).exp()
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                policy_loss = -torch.min(ratio * gain, ratio.clamp(1.0 - CLIP, 1.0 + CLIP) * gain).mean()
                loss = policy_loss + VALUE_WEIGHT * (network.value(o) - target).square().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
                optimizer.step()
        decisions, seconds = (update + 1) * given.worlds * given.window, time.perf_counter() - begun
        returns = f"{np.mean(envs.return_queue):.1f}" if envs.return_queue else "-"
        print(f"{decisions:,} decisions, {seconds:.1f} s: mean reward {reward.mean():.3f}, return {returns}")
    envs.close()


if __name__ == "__main__":
    main()
