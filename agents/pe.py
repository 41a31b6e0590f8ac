"""Policy enhancement (PE): the actor looks one step through the simulator, and asks the critic for the rest.

After Qiao et al., "Efficient Differentiable Simulation of Articulated Bodies" (ICML 2021): where an actor-critic would
follow the slope of its critic at the policy's action, the first step of that value is expanded by the simulator,

    maximise  r(s_t, a_t) + gamma V(s_{t+1}),   s_{t+1} = f(s_t, a_t),

with s_t held fixed. That is the window gradient (:mod:`trafficgrad.agents.rp`) with its cotangents cut between
decisions: dA_t/da_t for lambda = 0.

What is uncertain: the authors published no learning code, and the GI-PPO paper's numbers for PE come from an
unpublished one whose settings were those of its SHAC. So this is a reconstruction, with a state value in place of
their Q function and the policy's own noise; the critic's targets keep ``training.gae_lambda``.
"""

from __future__ import annotations

from typing import Literal

from trafficgrad.agents.rp import PathwiseConfig


class PEConfig(PathwiseConfig):
    """``training.agent`` of kind ``pe``, for :class:`~trafficgrad.agents.rp.RP` on rollouts with one-step gradients."""

    kind: Literal["pe"] = "pe"
