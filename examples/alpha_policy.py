"""The alpha-policy in pictures: what following dA/da does to a policy, and where it stops to be one.

    python examples/alpha_policy.py                     # writes alpha_policy.png
    python examples/alpha_policy.py --output docs/results/alpha_policy.png

Above: De Jong's and Ackley's functions of one variable, a Gaussian policy, and its alpha-policies (Definition 4.1 and
Figure 1 of Son et al., NeurIPS 2023) for shares of the largest alpha that the definition allows. Every action moves by
alpha times the slope at its own place, so probability gathers on the nearest hilltops. Beyond the largest alpha
(dashed) the map turns over: actions pass each other, several may go to one place, and the formula, which knows one of
them, is no density any more. At the tip of Ackley's cone, which has no slope, they do so for any alpha.
Below: the same functions of two variables.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D
from torch import Tensor

from trafficgrad.agents.exact_alpha import alpha_map, largest_alpha
from trafficgrad.envs import Ackley, DeJong
from trafficgrad.envs.functions import FunctionEnv

SHARES = (0.25, 0.5, 0.95, 2.0)  # of the largest alpha
COLOURS = ("#fecc5c", "#fd8d3c", "#f03b20", "#bd0026")


@dataclass(frozen=True)
class Case:
    """A function, and the policy that explores it."""

    title: str
    one: FunctionEnv
    two: FunctionEnv
    mean: float
    std: float
    reach: float  # half the width of the pictures


CASES = (
    Case("De Jong", DeJong(1), DeJong(2), 1.5, 0.8, 4.0),
    Case("Ackley", Ackley(1), Ackley(2), 1.4, 0.7, 4.0),
)


def density(case: Case, action: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Where the actions [K] go, and the formula's density there."""
    moved = alpha_map(case.one.value, action[:, None], alpha)
    log_density = -0.5 * ((action - case.mean) / case.std).square() - math.log(case.std * math.sqrt(2 * math.pi))
    return moved.moved[:, 0], torch.exp(log_density - moved.log_volume)


def draw_policies(axes: plt.Axes, case: Case) -> list[Line2D]:
    """One function of one variable with a policy and its alpha-policies; returns the lines."""
    # The tip of Ackley's cone has no slope; no point of this grid lies on it.
    action = torch.linspace(case.mean - 6 * case.std, case.mean + 6 * case.std, 40_000, dtype=torch.float64)
    bound = float(largest_alpha(case.one.value, action[:, None]))
    x = np.linspace(-case.reach, case.reach, 2001)
    reward = case.one.value(torch.tensor(x)[:, None]).numpy()
    axes.plot(x, reward, color="#222222", linewidth=1.2, label="reward")
    axes.set(title=f"{case.title}: largest alpha {bound:.2g}", xlabel="action", ylabel="reward", xlim=(-4, 4))
    other = axes.twinx()
    place, height = density(case, action, 0.0)
    other.plot(place, height, color="#0072b2", linewidth=2, label="policy")
    print(f"{case.title}: largest alpha {bound:.4g}")
    for share, colour in zip(SHARES, COLOURS, strict=True):
        place, height = density(case, action, share * bound)
        weight = torch.exp(-0.5 * ((action[1:] - case.mean) / case.std).square())
        turned = (weight * (place.diff() < 0)).sum() / weight.sum()
        style = "-" if share < 1 else (0, (3, 1.5))
        other.plot(place, height, color=colour, linewidth=1.2, linestyle=style, label=f"{share:g} of the largest alpha")
        print(f"  alpha = {share:4g} of it: {100 * turned:.1f} % of the actions pass each other")
    other.set(ylabel="density", ylim=(0, 2.4))
    return [*axes.lines, *other.lines]


def draw_landscape(axes: plt.Axes, case: Case) -> None:
    """One function of two variables from above, over its whole box."""
    line = torch.linspace(-1.0, 1.0, 501, dtype=torch.float64) * case.two.bound
    points = torch.cartesian_prod(line, line)
    reward = case.two.value(points).view(len(line), -1).T.numpy()
    picture = axes.contourf(line, line, reward, levels=40, cmap="viridis")
    picture.set_edgecolor("face")
    plt.colorbar(picture, ax=axes, label="reward")
    axes.set(title=f"{case.title} of two variables", xlabel="x1", ylabel="x2", aspect="equal")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("alpha_policy.png"))
    options = parser.parse_args()
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), constrained_layout=True)
    for column, case in enumerate(CASES):
        lines = draw_policies(axes[0, column], case)
        draw_landscape(axes[1, column], case)
    figure.legend(handles=lines, loc="outside upper center", ncol=len(lines), fontsize=9)
    figure.savefig(options.output, dpi=110)
    print(options.output)


if __name__ == "__main__":
    main()
