"""The reference of scenario files as Markdown, printed by ``trafficgrad schema --markdown``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trafficgrad.scenario_base import BaseScenario
from trafficgrad.scenario_config import SCENARIO_KINDS
from trafficgrad.scenario_sections.numbers import Listed, Uniform

_PLAIN = {float: "number", int: "integer", bool: "true or false", str: "text", NoneType: "null", dict: "mapping"}


def reference(training: type[BaseModel]) -> str:
    """A table for every section of a scenario file: keys, what they take, defaults, meaning and units.

    Parameters:
        training: model of the ``training`` section, which is checked above this layer.
    """
    title = "# Settings of a scenario file\n\nPrinted by `trafficgrad schema --markdown`. Every scenario has\n"
    shared = BaseScenario.model_fields
    kinds = {"kind": ", ".join(SCENARIO_KINDS)}
    lines = [title, *_table(shared, kinds)]
    for kind, model in SCENARIO_KINDS.items():
        own = {name: field for name, field in model.model_fields.items() if name not in shared}
        lines += [f"## kind: {kind}\n\n{_text(model)}\n", *_table(own), *_below(own, "")]
    lines += [f"## training\n\n{_text(training)}\n", *_table(training.model_fields)]
    return "\n".join([*lines, *_below(training.model_fields, "training")]).rstrip()


def _text(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(fields: Mapping[str, FieldInfo], takes: Mapping[str, str] | None = None) -> Iterator[str]:
    """The keys of a section; ``takes``: what those take whose annotation does not say it."""
    yield "| key | takes | default | meaning |\n|---|---|---|---|"
    for name, field in fields.items():
        taken = (takes or {}).get(name) or _takes(field.annotation)
        yield f"| `{name}` | {taken} | {_default(field)} | {_meaning(name, field)} |"
    yield ""


def _below(fields: Mapping[str, FieldInfo], title: str) -> Iterator[str]:
    """The sections that keys of the section ``title`` hold."""
    for name, field in fields.items():
        parts = _models(field.annotation)
        for part in parts:
            kind = f" (kind: {get_args(part.model_fields['kind'].annotation)[0]})" if len(parts) > 1 else ""
            path = f"{title}.{name}".lstrip(".")
            yield f"### {path}{kind}\n\n{_text(part)}\n"
            yield from _table(part.model_fields)
            yield from _below(part.model_fields, path)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if annotation in (Uniform, Listed) else [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    return [model for part in get_args(annotation) for model in _models(part)]


def _takes(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _takes(parts[0])
    if origin is Literal:
        return ", ".join(str(part) for part in parts)
    if origin is list or parts[-1:] == (Ellipsis,):
        return f"list: {_takes(parts[0])}"
    if origin is tuple:
        return "[lowest, highest]"
    if annotation is Uniform:
        return "{uniform: [lowest, highest]}"
    if annotation is Listed:
        return "{values: [one, another, ...]}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if origin in _PLAIN or annotation in _PLAIN:
        return _PLAIN[origin or annotation]
    return " or ".join(dict.fromkeys(_takes(part) for part in parts))


def _meaning(name: str, field: FieldInfo) -> str:
    if name == "kind" and field.description is None:
        return "what this section describes"
    return field.description or "see below"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value in ({}, ()):
        return ""
    return value if isinstance(value, str) and value else json.dumps(value)
