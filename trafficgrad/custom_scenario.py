"""The scenario of a user's own environment: which class, and what it is built with."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trafficgrad.import_path import IMPORT_PATH
from trafficgrad.scenario_base import BaseScenario


class CustomScenario(BaseScenario):
    """An environment of one's own: a class derived from `trafficgrad.envs.DifferentiableEnv`, named by import path.

    Its parameters `device` and `dtype`, where it has them and `arguments` do not set them, are those of the training.
    """

    kind: Literal["custom"] = Field(description="what is simulated")
    environment: str = Field(
        pattern=IMPORT_PATH,
        description="import path of the class, such as my_module:MyEnv; modules of the working folder are found",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="what the class is called with, by name")
