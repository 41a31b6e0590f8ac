"""The alpha-policy as Definition 4.1 has it, exact, for advantages that are known functions of the action.

Learning never needs it: it has samples of dA/da and fits the alpha-policy by regression. It is what that regression is
held to, and what shows where the definition ends (Son et al., NeurIPS 2023, section 4.1 and Figure 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Advantage = Callable[[Tensor], Tensor]  # [..., A] -> [...], twice differentiable; every sample by itself


@dataclass(frozen=True)
class AlphaMap:
    """Where actions go, ``f(a) = a + alpha dA/da``, and by how much the map stretches space there."""

    moved: Tensor  # [..., A], f(a)
    log_volume: Tensor  # [...], log |det(I + alpha d2A/da2)|


def alpha_map(advantage: Advantage, action: Tensor, alpha: float) -> AlphaMap:
    """The map of the alpha-policy at ``action`` [..., A].

    The alpha-policy's log-density at ``moved`` is that of the policy at ``action`` minus ``log_volume``, as long as no
    two actions go to the same place (:func:`largest_alpha`).
    """
    gradient, hessian = _slopes(advantage, action)
    identity = torch.eye(action.shape[-1], dtype=action.dtype, device=action.device)
    return AlphaMap(action + alpha * gradient, torch.linalg.slogdet(identity + alpha * hessian).logabsdet)


def largest_alpha(advantage: Advantage, action: Tensor) -> Tensor:
    """The bound below which the alpha-policy is one, [], if ``action`` [..., A] covers what the policy does.

    ``1 / max |lambda_1|``, with the smallest eigenvalue lambda_1 of the advantage's Hessian at every action (Definition
    4.1): beyond it ``I + alpha d2A/da2`` is singular somewhere, and f folds.
    """
    _, hessian = _slopes(advantage, action)
    return 1.0 / torch.linalg.eigvalsh(hessian)[..., 0].abs().max()


def _slopes(advantage: Advantage, action: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient [..., A] and Hessian [..., A, A] of every sample."""
    flat = action.flatten(0, -2)
    gradient = torch.func.vmap(torch.func.grad(advantage))(flat)
    hessian = torch.func.vmap(torch.func.hessian(advantage))(flat)
    return gradient.view_as(action), hessian.view(*action.shape, action.shape[-1])
