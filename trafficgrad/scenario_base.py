"""What scenarios of every kind have in common: a name, a training section, and YAML that remembers its lines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, PrivateAttr

from trafficgrad.config import Document, M, StrictModel
from trafficgrad.errors import TrafficGradError

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class BaseScenario(StrictModel):
    """What every scenario file holds. A kind adds its own sections."""

    kind: str = Field(description="what is simulated")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names runs and pictures")
    description: str = Field(default="", description="what happens and what to look for")
    training: dict[str, Any] = Field(
        default_factory=dict, description="settings of the training; checked by `trafficgrad train`"
    )

    _document: Document = PrivateAttr(default_factory=lambda: Document({}, "the scenario"))

    def to_yaml(self) -> str:
        """Every setting written out, defaults too, as YAML that loads to an equal scenario."""
        data = self.model_dump(mode="json")
        data["training"] = data.pop("training")  # last, as in the files
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)

    def judged(self) -> Self:
        """The scenario that policies are judged on: where a training relaxes it, as it is; else the same."""
        return self

    def overridden(self, section: tuple[str, ...]) -> set[str]:
        """Keys of a section that an override set, and not the file."""
        return self._document.overridden(section)

    def error_at(self, path: tuple[str, ...], message: str) -> TrafficGradError:
        """What to raise about a key of the file where it is more than its form that is wrong, with file and line."""
        return TrafficGradError(f"{self._document.origin(path)}: {'.'.join(path)}: {message}")

    def validate_training(self, model: type[M]) -> M:
        """Check the ``training`` section with ``model``; an error names the file and line it came from.

        Raises:
            TrafficGradError: one sentence.
        """
        return replace(self._document, data={"training": self.training}).validate(model, ("training",))
