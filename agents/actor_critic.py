"""The networks: a Gaussian policy on each vehicle's local observation, and a critic on all of them together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trafficgrad.agents.losses import gaussian_log_prob
from trafficgrad.agents.normalizer import ObservationNormalizer
from trafficgrad.config import StrictModel
from trafficgrad.errors import TrafficGradError


class Tanh(nn.Module):
    """Hyperbolic tangent, as 2 sigmoid(2 x) - 1: PyTorch's own takes several times as long on some CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return torch.sigmoid(x * 2.0) * 2.0 - 1.0


ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": Tanh, "elu": nn.ELU, "relu": nn.ReLU}
LOG_STD_BOUNDS = (-5.0, 1.0)
Activation = Literal["tanh", "elu", "relu"]
Units = list[Annotated[int, Field(ge=1)]]


class PolicyConfig(StrictModel):
    """``training.policy``: the actor."""

    hidden: Units = Field(default=[64, 64], description="units of each hidden layer")
    activation: Activation = Field(default="tanh", description="activation of the hidden layers")
    output_gain: float = Field(
        default=0.01, gt=0, description="gain of the orthogonal initialisation of the last layer"
    )
    log_std: float | list[float] = Field(
        default=-0.5,
        description="log standard deviation at the start, in units of the action's scale; a list: per action",
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
) -> nn.Sequential:
    """Linear layers of the given sizes with activations between them, each followed by a LayerNorm if asked for.

    Orthogonal weights (gain sqrt(2), the last ``output_gain``) drawn from ``generator``, zero biases. The global random
    state is not touched.
    """
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        last = i == len(sizes) - 2
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
        nn.init.orthogonal_(layer.weight, output_gain if last else math.sqrt(2.0), generator=generator)
        nn.init.zeros_(layer.bias)
        layers.append(layer)
        if not last:
            layers.append(ACTIVATIONS[activation]())
            if layer_norm:
                layers.append(nn.LayerNorm(outputs))
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """Gaussian policy: mean from a network, log standard deviation free of the state, one per action dimension.

    Actions are in units of the environment's scale, unbounded: the environment clips, or gets the tanh (``squash``);
    likelihoods and gradients are those of the unsquashed Gaussian. With ``shared`` the same network
    acts on each vehicle's own observation [..., C, O], for any C; otherwise one network maps all C * O numbers to all
    C * A. The log standard deviation is kept within ``LOG_STD_BOUNDS`` by projection after each optimiser step: a
    clamp inside the forward pass would have no slope outside and could never come back.
    """

    free: Tensor
    log_std: Tensor

    def __init__(self, spec: PolicySpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        config = spec.config
        copies = 1 if config.shared or spec.agents is None else spec.agents
        self.spec = spec
        self.copies = copies
        self.network = mlp(
            [spec.observation_size * copies, *config.hidden, spec.action_size * copies],
            config.activation,
            config.output_gain,
            generator,
            config.layer_norm,
        )
        start = config.log_std if isinstance(config.log_std, list) else [config.log_std] * spec.action_size
        if len(start) != spec.action_size:
            raise TrafficGradError(
                f"training.policy.log_std has {len(start)} entries, expected one number or {spec.action_size}, "
                "one for each action"
            )
        low, high = LOG_STD_BOUNDS
        if not all(low <= x <= high for x in start):
            raise TrafficGradError(f"training.policy.log_std is {config.log_std}, expected values in [{low}, {high}]")
        if config.learn_std:
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

    def forward(self, observation: Tensor) -> Tensor:
        """Mean action, [..., A] for a normalised observation [..., O] ([..., C, A] for [..., C, O])."""
        if self.copies > 1:
            mean = self.network(observation.flatten(-2)).unflatten(-1, (self.copies, self.spec.action_size))
        else:
            mean = self.network(observation)
        return mean * self.free if self.spec.frozen else mean

    def squash(self, action: Tensor) -> Tensor:
        """What the environment gets of the Gaussian's ``action``."""
        return action.tanh() if self.spec.config.squash == "tanh" else action

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Log-likelihood per vehicle of ``action`` [..., A] at a normalised ``observation`` [..., O]."""
        return gaussian_log_prob(action, self(observation), self.log_std, self.free_or_none)

    @torch.no_grad()
    def project(self) -> None:
        """Bring the log standard deviation back into its bounds."""
        self.log_std.clamp_(*LOG_STD_BOUNDS)


class Critic(nn.Module):
    """State value from the observations of all controlled vehicles together."""

    def __init__(self, inputs: int, config: CriticConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.network = mlp([inputs, *config.hidden, 1], config.activation, 1.0, generator, config.layer_norm)

    def forward(self, flat_observation: Tensor) -> Tensor:
        """Value [...] of a normalised, flattened observation [..., C * O]."""
        return self.network(flat_observation).squeeze(-1)


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
        return self.actor.squash(self._mean(observation))

    def sample(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Like calling the policy, with its exploration noise, drawn from ``generator``."""
        mean = self._mean(observation)
        place = mean.device if generator is None else generator.device
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=place).to(mean.device)
        return self.actor.squash(mean + self.actor.log_std.detach().exp() * noise * self.actor.free)

    @torch.no_grad()
    def _mean(self, observation: Tensor) -> Tensor:
        spec = self.spec
        expected = (spec.observation_size,) if self.actor.copies == 1 else (self.actor.copies, spec.observation_size)
        if tuple(observation.shape[-len(expected) :]) != expected:
            raise TrafficGradError(
                f"the policy was trained on observations [..., {', '.join(map(str, expected))}], "
                f"got {list(observation.shape)}: evaluate it on the scenario it was trained on"
            )
        return self.actor(self.normalizer(observation))
