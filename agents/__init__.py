"""Learning to control: seven agents on differentiable environments, one rollout, one training loop.

``train(load_experiment("ring_4lane"), "runs/first")`` trains; ``load_policy("runs/first")`` gives the policy back.
"""

from trafficgrad.agents.actor_critic import ActorCritic, Policy
from trafficgrad.agents.advantages import generalized_advantage
from trafficgrad.agents.base import Agent
from trafficgrad.agents.checkpoint import load_policy
from trafficgrad.agents.experiment import AGENTS, Experiment, TrainingConfig, load_experiment
from trafficgrad.agents.gippo import GIPPO, GIPPOConfig
from trafficgrad.agents.lr import LR, LRConfig
from trafficgrad.agents.lr_rp import LRRP, LRRPConfig
from trafficgrad.agents.pe import PEConfig
from trafficgrad.agents.ppo import PPO, PPOConfig
from trafficgrad.agents.rollout import NonFiniteError, Rollout, collect
from trafficgrad.agents.rp import RP, RPConfig
from trafficgrad.agents.train import TrainResult, train
from trafficgrad.agents.trig import TRIG, TRIGConfig

__all__ = [
    "AGENTS",
    "GIPPO",
    "LR",
    "LRRP",
    "PPO",
    "RP",
    "TRIG",
    "ActorCritic",
    "Agent",
    "Experiment",
    "GIPPOConfig",
    "LRConfig",
    "LRRPConfig",
    "NonFiniteError",
    "PEConfig",
    "PPOConfig",
    "Policy",
    "RPConfig",
    "Rollout",
    "TRIGConfig",
    "TrainResult",
    "TrainingConfig",
    "collect",
    "generalized_advantage",
    "load_experiment",
    "load_policy",
    "train",
]
