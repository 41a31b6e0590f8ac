"""What a training is: the environment, the ``training:`` section of its scenario, and how a policy is judged."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import yaml
from pydantic import Field

from trafficgrad.agents.actor_critic import ActorCritic, CriticConfig, Policy, PolicyConfig, PolicySpec
from trafficgrad.agents.base import Agent
from trafficgrad.agents.gippo import GIPPOConfig, gippo
from trafficgrad.agents.lr import LR, LRConfig
from trafficgrad.agents.lr_rp import LRRP, LRRPConfig
from trafficgrad.agents.pe import PEConfig
from trafficgrad.agents.ppo import PPO, PPOConfig, UpdateConfig
from trafficgrad.agents.rollout import RolloutSettings
from trafficgrad.agents.rp import RP, RPConfig
from trafficgrad.agents.single_step import SingleStepConfig
from trafficgrad.agents.trig import TRIG, TRIGConfig
from trafficgrad.config import StrictModel, apply_override
from trafficgrad.envs.base import DifferentiableEnv
from trafficgrad.errors import TrafficGradError, nearest_name


class AgentEntry(NamedTuple):
    """A row of the table of agents."""

    config: type[StrictModel]
    build: Callable[[Any, ActorCritic, torch.Generator], Agent]


AGENTS: dict[str, AgentEntry] = {
    "gippo": AgentEntry(GIPPOConfig, gippo),
    "trig": AgentEntry(TRIGConfig, TRIG),
    "ppo": AgentEntry(PPOConfig, PPO),
    "lr": AgentEntry(LRConfig, LR),
    "rp": AgentEntry(RPConfig, RP),
    "lr_rp": AgentEntry(LRRPConfig, LRRP),
    "pe": AgentEntry(PEConfig, RP),
}
AgentConfig = Annotated[
    GIPPOConfig | TRIGConfig | PPOConfig | LRConfig | RPConfig | LRRPConfig | PEConfig, Field(discriminator="kind")
]
FAMILIES = (UpdateConfig, SingleStepConfig)  # agents of one family have settings in common that mean the same


class EvaluationConfig(StrictModel):
    """``training.evaluation``: judging the deterministic policy while it is trained."""

    every: int = Field(default=65536, ge=1, description="decisions between two evaluations")
    worlds: int = Field(default=20, ge=1, description="held-out traffic seeds")


class TrainingConfig(StrictModel):
    """The ``training:`` section. A decision is one environment step of one world."""

    decisions: int = Field(default=1_000_000, ge=1, description="budget of decisions, over all worlds")
    worlds: int = Field(default=256, ge=1, description="worlds side by side")
    window: int = Field(default=32, ge=1, description="decisions of each world between two updates")
    seed: int = Field(default=0, ge=0, description="of networks, exploration and traffic")
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per decision")
    gae_lambda: float = Field(default=0.95, ge=0, le=1, description="decay of the generalised advantage estimate")
    reward_offset: float = Field(default=0.0, description="subtracted from every reward before learning")
    noise_memory: float = Field(
        default=0.0,
        ge=0,
        description="decisions over which exploration noise fades, where an effect needs several like actions in a "
        "row; 0: every decision draws its own. Likelihoods stay those of single decisions",
    )
    noise_memory_schedule: Literal["constant", "linear"] = Field(
        default="constant", description="linear: noise_memory falls to 0 over the budget"
    )
    normalize_observations: bool = Field(default=True, description="standardise observations by running statistics")
    frozen_actions: list[str] = Field(default=[], description="labels of actions that are held at 0 and not learnt")
    policy: PolicyConfig = PolicyConfig()
    critic: CriticConfig = CriticConfig()
    agent: AgentConfig = GIPPOConfig()
    variants: dict[str, dict[str, Any]] = Field(
        default={},
        description="other trainings of the same scenario by name, for `--agent NAME`: what differs from this section; "
        "`agent` is replaced as a whole, `policy`, `critic` and `evaluation` key by key",
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    threads: int | None = Field(default=None, ge=1, description="PyTorch threads; null = PyTorch's choice")
    simulator_threads: int | None = Field(
        default=None, ge=1, description="threads of the fused kernel; null = one for every core"
    )
    device: str = Field(default="cpu", description="cpu, cuda, cuda:0, mps")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="floating point type of simulator and networks"
    )

    @property
    def iterations(self) -> int:
        """Rollouts of the whole training: the budget, rounded up."""
        return math.ceil(self.decisions / (self.worlds * self.window))

    @property
    def rollout(self) -> RolloutSettings:
        """What the first rollout needs to know."""
        return self.rollout_at(0.0)

    def rollout_at(self, progress: float) -> RolloutSettings:
        """What a rollout needs to know when the share ``progress`` of the budget is spent."""
        agent = self.agent
        decay = agent.gae_lambda if isinstance(agent, RPConfig) else None
        gradient = agent.gradient_lambda if isinstance(agent, GIPPOConfig | TRIGConfig) else None
        return RolloutSettings(
            self.window,
            self.gamma,
            self.gae_lambda if decay is None else decay,
            self.reward_offset,
            self.noise_memory * (1.0 - progress if self.noise_memory_schedule == "linear" else 1.0),
            gradient_lambda=0.0 if isinstance(agent, PEConfig) else gradient,
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch knows it."""
        return torch.float32 if self.dtype == "float32" else torch.float64

    def resolve_device(self) -> torch.device:
        """``device`` as torch knows it.

        Raises:
            TrafficGradError: no such device here.
        """
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise TrafficGradError(f"device {self.device!r} cannot be used here; cpu always can") from None
        return device


@dataclass(frozen=True)
class Experiment:
    """All that :func:`trafficgrad.agents.train` needs.

    ``evaluate`` judges a deterministic policy: it returns named numbers, and a larger ``score`` decides which policy is
    the best. Without it the return of the training episodes decides.

    ``agent`` makes an agent of one's own from networks and generator; it takes the place of the one that
    ``config.agent`` describes, which then only says what an advantage is.
    """

    env: DifferentiableEnv
    config: TrainingConfig
    scenario: Any = None  # a trafficgrad.scenario_config.Scenario, saved with the run
    evaluate: Callable[[Policy], dict[str, float]] | None = None
    agent: Callable[[ActorCritic, torch.Generator], Agent] | None = None

    def __post_init__(self) -> None:
        env, config = self.env, self.config
        env.require_control()
        for label in config.frozen_actions:
            if label not in env.action_labels:
                raise TrafficGradError(
                    f"training.frozen_actions: unknown action {label!r}{nearest_name(label, env.action_labels)}; "
                    f"valid are {', '.join(env.action_labels)}"
                )
        if len(set(config.frozen_actions)) == len(env.action_labels):
            raise TrafficGradError("training.frozen_actions freezes every action: nothing is left to learn")

    def spec(self) -> PolicySpec:
        """Sizes of the policy."""
        env, config = self.env, self.config
        frozen = tuple(sorted(env.action_labels.index(x) for x in set(config.frozen_actions)))
        return PolicySpec(len(env.observation_labels), len(env.action_labels), env.agents, frozen, config.policy)

    def build_networks(self) -> ActorCritic:
        """Networks with initial weights from ``seed``, the same on every device."""
        generator = torch.Generator().manual_seed(self.config.seed)
        networks = ActorCritic(self.spec(), self.config.critic, generator, self.config.normalize_observations)
        return networks.to(device=self.config.resolve_device(), dtype=self.config.torch_dtype)

    def build_agent(self, networks: ActorCritic, generator: torch.Generator) -> Agent:
        """The agent that ``agent`` makes or else ``training.agent`` describes.

        Raises:
            TrafficGradError: it needs gradients that the environment does not have.
        """
        config = self.config.agent
        if self.agent is not None:
            agent, name = self.agent(networks, generator), "of your own"
        else:
            agent, name = AGENTS[config.kind].build(config, networks, generator), repr(config.kind)
        if agent.needs_gradient and not self.env.differentiable:
            raise TrafficGradError(f"agent {name} needs a differentiable environment, this one is not: use agent 'ppo'")
        return agent

    def to_yaml(self) -> str:
        """The resolved configuration: the scenario with every setting of the training written out."""
        data = {} if self.scenario is None else yaml.safe_load(self.scenario.to_yaml())
        data["training"] = self.config.model_dump(mode="json")
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def switch_agent(training: dict[str, Any], kind: str, chosen: Collection[str] = ()) -> dict[str, Any]:
    """A ``training`` section with an agent of another kind.

    Agents of one family, such as those that share PPO's update, keep its settings. A rate that suits PPO's many steps
    says nothing about an agent of another family: that one gets its own defaults, but for the keys in ``chosen``.

    Args:
        training: the section. kind: of the new agent.
        chosen: keys of ``training.agent`` that were set for the new agent, too, such as those of ``--set``.

    Raises:
        TrafficGradError: no such agent.
    """
    if kind not in AGENTS:
        raise TrafficGradError(f"unknown agent {kind!r}{nearest_name(kind, AGENTS)}; valid are {', '.join(AGENTS)}")
    section = training.get("agent", {})
    if not isinstance(section, dict):
        return training  # the validation says what is wrong with it
    before, after = AGENTS.get(str(section.get("kind"))), AGENTS[kind]
    if before is None or before is after:
        return {**training, "agent": {**section, "kind": kind}}
    related = any(issubclass(before.config, f) and issubclass(after.config, f) for f in FAMILIES)
    kept = set(after.config.model_fields) if related else set(chosen)
    # Only what the old agent knew is dropped: a misspelt key must still be refused.
    dropped = set(before.config.model_fields) - kept
    return {**training, "agent": {**{k: v for k, v in section.items() if k not in dropped}, "kind": kind}}


def choose_variant(training: dict[str, Any], name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A ``training`` section with what its variant ``name`` changes.

    Args:
        training: the section, with ``variants``.
        name: of the variant.
        overrides: settings of the command line; those of the training win over the variant's.
    """
    changed = {key: value for key, value in training.items() if key != "variants"}
    for key, value in training["variants"][name].items():
        merged = key != "agent" and isinstance(value, dict) and isinstance(changed.get(key), dict)
        changed[key] = changed[key] | value if merged else value
    whole = copy.deepcopy({"training": changed})
    for override in overrides:
        if override.strip().startswith("training."):
            apply_override(whole, override)
    return whole["training"]


def choose_agent(
    training: dict[str, Any], name: str, chosen: Collection[str] = (), overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """A ``training`` section for ``--agent NAME``: a variant that the section names, or else a kind of agent.

    Raises:
        TrafficGradError: neither.
    """
    variants = training.get("variants", {})
    if isinstance(variants, dict) and isinstance(variants.get(name), dict):
        return choose_variant(training, name, overrides)
    if name not in AGENTS and isinstance(variants, dict) and variants:
        valid = [*variants, *(kind for kind in AGENTS if kind not in variants)]
        raise TrafficGradError(f"unknown agent {name!r}{nearest_name(name, valid)}; valid are {', '.join(valid)}")
    return switch_agent(training, name, chosen)


def load_experiment(
    file: str | Path,
    agent: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> Experiment:
    """Read a scenario and build what its training needs.

    Args:
        file: a YAML file, or the name of a shipped scenario.
        agent: train with this agent instead of the file's: a variant that its training names, or a kind.
        seed: instead of the file's ``training.seed``.
        overrides: dotted ``key=value`` settings, such as ``training.worlds=64``.
        device: instead of the file's ``training.device``.

    Raises:
        TrafficGradError: one sentence with file, line, key, what was expected and the nearest valid name.
    """
    from trafficgrad.agents.episodes import validation
    from trafficgrad.envs import make_env
    from trafficgrad.scenario_config import load_scenario

    scenario = load_scenario(file, overrides)
    training = dict(scenario.training)
    if agent is not None:
        training = choose_agent(training, agent, scenario.overridden(("training", "agent")), overrides)
    training |= {k: v for k, v in (("seed", seed), ("device", device)) if v is not None}
    training.pop("variants", None)  # chosen; a run's own configuration is one training
    changed = scenario.model_copy(update={"training": training})
    config = changed.validate_training(TrainingConfig)
    device_ = config.resolve_device()
    env = make_env(changed, device=device_, dtype=config.torch_dtype)
    return Experiment(env, config, changed, validation(changed, config.evaluation.worlds, device_))
