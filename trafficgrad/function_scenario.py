"""The scenario of a function to be optimised: which one, of how many variables, and where its optimum lies."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from trafficgrad.config import StrictModel, name_kind
from trafficgrad.scenario_base import BaseScenario

FunctionName = Literal["de_jong", "ackley"]


class OriginOptimum(StrictModel):
    """In the middle of the box."""

    kind: Literal["origin"] = "origin"


class ShiftedOptimum(StrictModel):
    """Somewhere else: every coordinate is drawn once, uniformly around the middle of the box."""

    kind: Literal["shifted"]
    within: float = Field(
        default=0.5, gt=0, le=1, description="how far from the middle it may lie, as a share of the bound"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the draw")


OptimumConfig = Annotated[OriginOptimum | ShiftedOptimum, Field(discriminator="kind"), BeforeValidator(name_kind)]


class FunctionScenario(BaseScenario):
    """A function that is to be made as large as possible, in one decision: its optimum has the reward 0."""

    kind: Literal["function"] = Field(description="what is simulated")
    function: FunctionName = Field(
        description="de_jong: minus the sum of squares, in a box of +-5.12; ackley: a cone in a plain of many local "
        "optima, in a box of +-32.768"
    )
    dimension: int = Field(ge=1, description="number of variables")
    optimum: OptimumConfig = Field(default=OriginOptimum(), description="see below; default: origin")

    @property
    def horizon(self) -> int:
        """Decisions of an episode: one."""
        return 1

    def place_of_optimum(self) -> Tensor:
        """[dimension] float64, where the optimum lies, in units of the bound; the same at every call."""
        if isinstance(self.optimum, OriginOptimum):
            return torch.zeros(self.dimension, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self.optimum.seed)
        drawn = torch.rand(self.dimension, generator=generator, dtype=torch.float64)
        return self.optimum.within * (2.0 * drawn - 1.0)
