"""The networks: a Gaussian policy on each vehicle's local observation, and a critic on all of them together."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trafficgrad.agents.losses import gaussian_log_prob, value_loss
from trafficgrad.agents.normalizer import EPSILON, ObservationNormalizer
from trafficgrad.config import StrictModel
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_sections.numbers import Interval


class Tanh(nn.Module):
    """Hyperbolic tangent, as 2 sigmoid(2 x) - 1: PyTorch's own takes several times as long on some CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return torch.sigmoid(x * 2.0) * 2.0 - 1.0


ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": Tanh, "elu": nn.ELU, "relu": nn.ReLU}
Activation = Literal["tanh", "elu", "relu"]
Units = list[Annotated[int, Field(ge=1)]]


class PolicyConfig(StrictModel):
    """``training.policy``: the actor."""

    hidden: Units = Field(default=[64, 64], description="units of each hidden layer")
    activation: Activation = Field(default="tanh", description="activation of the hidden layers")
    initialization: Literal["orthogonal", "default"] = Field(
        default="orthogonal", description="of the weights; default: PyTorch's own, as in the GI-PPO paper"
    )
    output_gain: float = Field(
        default=0.01, gt=0, description="gain of the orthogonal initialisation of the last layer"
    )
    std: Literal["global", "state"] = Field(
        default="global",
        description="global: one standard deviation for each action; state: the network tells it, beside the mean",
    )
    log_std: float | list[float] = Field(
        default=-0.5,
        description="log standard deviation at the start, in units of the action's scale; a list: per action; with "
        "std: state, added to what the network tells",
    )
    log_std_bounds: Interval = Field(
        default=(-5.0, 1.0), description="log_std never leaves them (std: state: what the network tells is cut to them)"
    )
    learn_std: bool = Field(
        default=True,
        description="false: log_std stays as it is; for tasks where learnt noise fades before everything is found",
    )
    shared: bool = Field(default=True, description="one network for every controlled vehicle; false: one joint network")
    layer_norm: bool = Field(default=False, description="normalise each hidden layer's output")
    squash: Literal["none", "tanh"] = Field(
        default="none",
        description="what the environment gets of the Gaussian's action: itself, or its tanh (bounds keep their slope)",
    )


class CriticConfig(StrictModel):
    """``training.critic``: the value network."""

    hidden: Units = Field(default=[64, 64], description="units of each hidden layer")
    activation: Activation = Field(default="tanh", description="activation of the hidden layers")
    layer_norm: bool = Field(default=False, description="normalise each hidden layer's output")
    target_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="values are those of a target network that keeps this share of itself at every update; 0 = none",
    )
    normalize_value: bool = Field(
        default=False, description="the network tells values in units of the running spread of their targets"
    )


@dataclass(frozen=True)
class PolicySpec:
    """Everything needed to rebuild a policy without its environment."""

    observation_size: int  # O
    action_size: int  # A
    agents: int | None  # C in training; None: observations [B, O]
    frozen: tuple[int, ...]  # action dimensions that are always 0
    config: PolicyConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "agents": self.agents,
            "frozen": list(self.frozen),
            "config": self.config.model_dump(),
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> PolicySpec:
        """Inverse of :meth:`to_dict`."""
        return PolicySpec(
            int(data["observation_size"]),
            int(data["action_size"]),
            None if data["agents"] is None else int(data["agents"]),
            tuple(int(i) for i in data["frozen"]),
            PolicyConfig.model_validate(data["config"]),
        )


def mlp(
    sizes: Sequence[int],
    activation: str,
    output_gain: float,
    generator: torch.Generator | None = None,
    layer_norm: bool = False,
    initialization: str = "orthogonal",
) -> nn.Sequential:
    """Linear layers of the given sizes with activations between them, each followed by a LayerNorm if asked for.

    ``orthogonal``: weights with gain sqrt(2), the last ``output_gain``, zero biases; ``default``: weights and biases
    uniform in +-1 / sqrt(inputs), as PyTorch's ``nn.Linear`` has them. All drawn from ``generator``: the global random
    state is not touched.
    """
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        last = i == len(sizes) - 2
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
        if initialization == "orthogonal":
            nn.init.orthogonal_(layer.weight, output_gain if last else math.sqrt(2.0), generator=generator)
            nn.init.zeros_(layer.bias)
        else:
            bound = 1.0 / math.sqrt(inputs)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        layers.append(layer)
        if not last:
            layers.append(ACTIVATIONS[activation]())
            if layer_norm:
                layers.append(nn.LayerNorm(outputs))
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """Gaussian policy: mean from a network; log standard deviation free of the state, or told by the network too.

    Actions are in units of the environment's scale, unbounded: the environment clips, or gets the tanh (``squash``);
    likelihoods and gradients are those of the unsquashed Gaussian. With ``shared`` the same network
    acts on each vehicle's own observation [..., C, O], for any C; otherwise one network maps all C * O numbers to all
    C * A. A free log standard deviation is kept within ``log_std_bounds`` by projection after each optimiser step: a
    clamp inside the forward pass would have no slope outside and could never come back. One that the network tells is
    cut to them with slope 1, for the same reason.
    """

    free: Tensor
    log_std: Tensor  # [A]; with std: state, what is added to the network's

    def __init__(self, spec: PolicySpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        config = spec.config
        copies = 1 if config.shared or spec.agents is None else spec.agents
        self.spec = spec
        self.copies = copies
        self.tells_std = config.std == "state"
        self.network = mlp(
            [spec.observation_size * copies, *config.hidden, spec.action_size * copies * (2 if self.tells_std else 1)],
            config.activation,
            config.output_gain,
            generator,
            config.layer_norm,
            config.initialization,
        )
        start = config.log_std if isinstance(config.log_std, list) else [config.log_std] * spec.action_size
        if len(start) != spec.action_size:
            raise TrafficGradError(
                f"training.policy.log_std has {len(start)} entries, expected one number or {spec.action_size}, "
                "one for each action"
            )
        low, high = config.log_std_bounds
        if not all(low <= x <= high for x in start):
            raise TrafficGradError(f"training.policy.log_std is {config.log_std}, expected values in [{low}, {high}]")
        if self.tells_std and not config.learn_std:
            raise TrafficGradError("training.policy.learn_std: a std that the network tells is learnt; use std: global")
        if config.learn_std and not self.tells_std:
            self.log_std = nn.Parameter(torch.tensor(start))
        else:
            self.register_buffer("log_std", torch.tensor(start))
        free = torch.ones(spec.action_size)
        free[list(spec.frozen)] = 0.0
        self.register_buffer("free", free)

    @property
    def free_or_none(self) -> Tensor | None:
        """Mask [A] of the chosen action dimensions, None where all are chosen."""
        return self.free if self.spec.frozen else None

    @property
    def learns_std(self) -> bool:
        """Whether the standard deviation is learnt."""
        return self.spec.config.learn_std

    def forward(self, observation: Tensor) -> Tensor:
        """Mean action, [..., A] for a normalised observation [..., O] ([..., C, A] for [..., C, O])."""
        return self.distribution(observation)[0]

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [..., A], and log standard deviation: [A], or [..., A] where the network tells it."""
        if self.copies > 1:
            told = self.network(observation.flatten(-2)).unflatten(-1, (self.copies, -1))
        else:
            told = self.network(observation)
        mean, log_std = told, self.log_std
        if self.tells_std:
            mean, spread = told.chunk(2, -1)
            log_std = spread + log_std
            low, high = self.spec.config.log_std_bounds
            log_std = log_std + (log_std.clamp(low, high) - log_std).detach()
        return (mean * self.free if self.spec.frozen else mean), log_std

    def squash(self, action: Tensor) -> Tensor:
        """What the environment gets of the Gaussian's ``action``."""
        return action.tanh() if self.spec.config.squash == "tanh" else action

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Log-likelihood per vehicle of ``action`` [..., A] at a normalised ``observation`` [..., O]."""
        return gaussian_log_prob(action, *self.distribution(observation), self.free_or_none)

    @torch.no_grad()
    def project(self) -> None:
        """Bring a free log standard deviation back into its bounds."""
        if not self.tells_std:
            self.log_std.clamp_(*self.spec.config.log_std_bounds)


class Critic(nn.Module):
    """State value from the observations of all controlled vehicles together."""

    def __init__(self, inputs: int, config: CriticConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.network = mlp([inputs, *config.hidden, 1], config.activation, 1.0, generator, config.layer_norm)
        self.scale = ObservationNormalizer(1) if config.normalize_value else None

    def forward(self, flat_observation: Tensor) -> Tensor:
        """Value [...] of a normalised, flattened observation [..., C * O]."""
        told = self.network(flat_observation).squeeze(-1)
        return told if self.scale is None else told * self._unit(self.scale) + self.scale.mean

    def loss(self, flat_observation: Tensor, target: Tensor) -> Tensor:
        """Mean squared error to ``target`` [...], in the network's own unit."""
        told = self.network(flat_observation).squeeze(-1)
        if self.scale is not None:
            target = (target - self.scale.mean) / self._unit(self.scale)
        return value_loss(told, target)

    @staticmethod
    def _unit(scale: ObservationNormalizer) -> Tensor:
        return (scale.variance + EPSILON).sqrt()

    def update_scale(self, target: Tensor) -> None:
        """Take targets [...] into the running mean and spread, unless they are not normalised."""
        if self.scale is not None:
            self.scale.update(target.reshape(-1, 1))


class ActorCritic(nn.Module):
    """Actor, critic and the normaliser in front of both: all that is learnt."""

    def __init__(
        self, spec: PolicySpec, critic: CriticConfig, generator: torch.Generator | None = None, normalize: bool = True
    ) -> None:
        super().__init__()
        self.spec = spec
        self.normalize = normalize
        self.normalizer = ObservationNormalizer(spec.observation_size)
        self.actor = Actor(spec, generator)
        self.critic = Critic(spec.observation_size * (spec.agents or 1), critic, generator)
        self.target_share = critic.target_share
        self.target = copy.deepcopy(self.critic).requires_grad_(False) if critic.target_share > 0 else None

    @property
    def vehicles(self) -> bool:
        """Observations have a vehicle dimension, [..., C, O]."""
        return self.spec.agents is not None

    def flatten(self, observation: Tensor) -> Tensor:
        """What the critic reads: [..., C * O] for [..., C, O]; [..., O] as it is."""
        return observation.flatten(-2) if self.vehicles else observation

    def update_normalizer(self, observation: Tensor) -> None:
        """Take raw observations [..., O] into the statistics, unless normalisation is off."""
        if self.normalize:
            self.normalizer.update(observation)

    def value(self, observation: Tensor) -> Tensor:
        """Value [...] of a normalised observation, as rollouts use it: the target network's where there is one."""
        return (self.critic if self.target is None else self.target)(self.flatten(observation))

    @torch.no_grad()
    def follow(self) -> None:
        """Move the target network, where there is one, towards the critic."""
        if self.target is not None:
            for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                old.lerp_(new, 1.0 - self.target_share)
            for kept, latest in zip(self.target.buffers(), self.critic.buffers(), strict=True):
                kept.copy_(latest)

    def policy(self) -> Policy:
        """The deterministic policy; it shares the networks, so it follows further training."""
        return Policy(self.actor, self.normalizer)


class Policy(nn.Module):
    """Policy for evaluation: raw observation in, action out; deterministic unless :meth:`sample` is asked.

    A shared policy accepts any number of vehicles: [..., O] gives [..., A].
    """

    def __init__(self, actor: Actor, normalizer: ObservationNormalizer) -> None:
        super().__init__()
        self.actor = actor
        self.normalizer = normalizer

    @property
    def spec(self) -> PolicySpec:
        """Sizes and configuration."""
        return self.actor.spec

    def forward(self, observation: Tensor) -> Tensor:
        """Mean action [..., A] in units of the environment's action scale.

        Raises:
            TrafficGradError: the observation's size is not the one that the policy was trained on.
        """
        return self.actor.squash(self._distribution(observation)[0])

    def sample(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Like calling the policy, with its exploration noise, drawn from ``generator``."""
        mean, log_std = self._distribution(observation)
        place = mean.device if generator is None else generator.device
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=place).to(mean.device)
        return self.actor.squash(mean + log_std.exp() * noise * self.actor.free)

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean action, squashed where the policy does that, and standard deviation of the Gaussian, [..., A] each."""
        mean, log_std = self._distribution(observation)
        return self.actor.squash(mean), log_std.exp().expand_as(mean)

    @torch.no_grad()
    def _distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        spec = self.spec
        expected = (spec.observation_size,) if self.actor.copies == 1 else (self.actor.copies, spec.observation_size)
        if tuple(observation.shape[-len(expected) :]) != expected:
            raise TrafficGradError(
                f"the policy was trained on observations [..., {', '.join(map(str, expected))}], "
                f"got {list(observation.shape)}: evaluate it on the scenario it was trained on"
            )
        return self.actor.distribution(self.normalizer(observation))
