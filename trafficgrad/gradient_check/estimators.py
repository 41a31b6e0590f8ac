"""Pathwise gradients of windows, averaged over the perturbations that the reference smooths with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.gradient_check.objective import Outcome, WindowObjective
from trafficgrad.gradient_check.references import Progress


@dataclass(frozen=True)
class PathwiseSamples:
    """Gradients of ``K`` perturbed copies of ``W`` windows, for ``H`` horizons."""

    gradients: Tensor  # [W, K, H, D]; 0 where it was not finite
    finite: Tensor  # [W, K] bool
    fine: Tensor  # [W, H, T', V', F], means over the copies; H is 1, the last, where T' is time
    outcome: Outcome  # of the copies, [W * K]


def pathwise_gradients(
    objective: WindowObjective,
    theta: Tensor,
    worlds: int = 512,
    progress: Progress = lambda text: None,
) -> PathwiseSamples:
    """dJ_h/dtheta by reverse mode at the points ``theta`` [W, K, D].

    With theta = sd eps, eps standard normal, the mean over K estimates E[dJ/dtheta (sd eps)], which is the gradient of
    the smoothed return E[J(sd eps)] wherever J has no jump: what evolution strategies estimate. A single backward pass
    from each horizon's return serves all windows, as they do not influence each other.
    """
    count, copies, _ = theta.shape
    parameters, env = objective.parameters, objective.env
    rows = torch.arange(count, device=theta.device).repeat_interleave(copies)
    points = theta.flatten(0, 1)
    all_gradients, all_finite, outcomes = [], [], []
    over_time = len(parameters.time_of) > 1
    kept = 1 if over_time else len(objective.horizons)
    fine_sum: Tensor | None = None
    for first in range(0, len(rows), worlds):
        progress(f"{first} of {len(rows)} windows ...")
        here = rows[first : first + worlds]
        with torch.enable_grad():
            fine = parameters.spread(points[first : first + worlds].to(env.dtype)).requires_grad_()
            outcome = objective.run(fine, here)
            gradients = torch.stack(_by_horizon(outcome.returns, fine), 1).detach().double()  # [S, H, T', V', F]
        finite = gradients.isfinite().flatten(1).all(1)
        gradients = torch.where(finite.view(-1, 1, 1, 1, 1), gradients, 0.0)
        last = gradients[:, -kept:] / copies
        if fine_sum is None:
            fine_sum = last.new_zeros((count, *last.shape[1:]))
        fine_sum.index_add_(0, here, last)
        all_gradients.append(parameters.gather(gradients))
        all_finite.append(finite)
        outcomes.append(tree.detach(outcome))
    assert fine_sum is not None
    return PathwiseSamples(
        torch.cat(all_gradients).unflatten(0, (count, copies)),
        torch.cat(all_finite).view(count, copies),
        fine_sum,
        tree.concatenate(outcomes),
    )


def _by_horizon(returns: Tensor, fine: Tensor) -> list[Tensor]:
    """Gradients of the columns of ``returns`` [S, H]; each backward pass reaches only as far back as its horizon."""
    found, last = [], returns.shape[1] - 1
    for h in range(last + 1):
        total = returns[:, h].sum()
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(
                total, fine, retain_graph=h < last, allow_unused=True, materialize_grads=True
            )
        else:
            gradient = torch.zeros_like(fine)
        found.append(gradient)
    return found
