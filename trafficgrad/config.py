"""What configuration files share: strict pydantic models, YAML that remembers its lines, errors of one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from trafficgrad.errors import TrafficGradError, nearest_name

KeyPath = tuple[str | int, ...]
_OVERRIDE = "--set "  # begins the origin of a key that did not come from a file


class StrictModel(BaseModel):
    """Base of every configuration model: immutable, no unknown keys, no silent conversion of types, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        """Refuse an unknown key here, where the valid names are known, so that the message can name the nearest one."""
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                context = {
                    "key": key,
                    "nearest": nearest_name(str(key), cls.model_fields),
                    "valid": ", ".join(cls.model_fields),
                }
                raise PydanticCustomError("unknown_key", "unknown key{nearest}; valid keys are {valid}", context)
        return data


def name_kind(data: Any) -> Any:
    """Before-validator of a union on ``kind``: a missing kind becomes "", so that the error lists the valid ones."""
    return {"kind": "", **data} if isinstance(data, dict) and "kind" not in data else data


def default_kind(kind: str) -> Callable[[Any], Any]:
    """Before-validator of a union on ``kind`` that may be left out."""
    return lambda data: {"kind": kind, **data} if isinstance(data, dict) and "kind" not in data else data


def error_at(path: str, message: str) -> PydanticCustomError:
    """An error that a validator of a whole section raises about one key below it, such as ``"placement.rows"``."""
    return PydanticCustomError("error_at", "{message}", {"path": path, "message": message})


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A YAML mapping together with the place every key came from.

    Attributes:
        data: The mapping, as plain Python data.
        source: What to call the whole in a message, a file name.
        origins: Key path -> ``"file:line"`` or the override that set it.

    Any two documents are equal: where a configuration came from is no part of what it says.
    """

    data: dict[str, Any] = field(compare=False)
    source: str = field(compare=False)
    origins: Mapping[KeyPath, str] = field(default_factory=dict, compare=False)

    def origin(self, path: KeyPath) -> str:
        """The place of ``path`` or, where it is not written out, of the nearest key above it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return self.source

    def overridden(self, section: KeyPath) -> set[str]:
        """Keys of a section that an override set."""
        return {
            str(path[-1])
            for path, place in self.origins.items()
            if path[:-1] == section and place.startswith(_OVERRIDE)
        }

    def put(self, path: tuple[str, ...], value: Any, origin: str) -> Document:
        """The document with ``value`` at ``path``, which comes from ``origin``; not where an override set it."""
        if any(self.origins.get(path[:end], "").startswith(_OVERRIDE) for end in range(1, len(path) + 1)):
            return self
        data = place = dict(self.data)
        for key in path[:-1]:
            below = place.get(key)
            place[key] = place = dict(below) if isinstance(below, dict) else {}
        place[path[-1]] = value
        origins = {known: at for known, at in self.origins.items() if known[: len(path)] != path}
        return Document(data, self.source, origins | {path: origin})

    def validate(self, model: type[M], section: KeyPath = ()) -> M:
        """Build ``model`` from the part of the document at ``section`` (a missing section reads as an empty one).

        Raises:
            TrafficGradError: one sentence with place, key, what came, what was expected and the nearest valid name.
        """
        data: Any = self.data
        for key in section:
            data = data.get(key, {})
        try:
            return model.model_validate(data)
        except ValidationError as error:
            details = error.errors()
            raise TrafficGradError(_sentence(self, section, details[0], len(details))) from None


def load_document(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read the YAML mapping in ``path`` and apply dotted ``key=value`` overrides to it.

    Raises:
        TrafficGradError: the file cannot be read, is no YAML mapping, uses tags or aliases, repeats a key, or an
            override is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TrafficGradError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except UnicodeDecodeError:
        raise TrafficGradError(f"{path}: is not a text file, expected YAML in UTF-8") from None
    return parse_document(text, str(path), overrides)


def parse_document(text: str, source: str, overrides: Sequence[str] = ()) -> Document:
    """Like :func:`load_document`, from text; ``source`` is what messages call it."""
    origins: dict[KeyPath, str] = {}
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            _record(root, (), source, origins)
        data = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise TrafficGradError(f"{source}:{line}: is not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise TrafficGradError(f"{source}: is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise TrafficGradError(f"{source}: is nested too deeply") from None
    except ValueError as error:  # such as the date 2026-13-40, or what _record refuses
        if isinstance(error, TrafficGradError):
            raise
        raise TrafficGradError(f"{source}: is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise TrafficGradError(f"{source}: expected a YAML mapping of keys to values, got {_shown(data)}")
    for override in overrides:
        _apply(data, override, origins)
    return Document(data, source, origins)


def flat_keys(tree: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists count as values."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: value
        for name, sub in tree.items()
        for key, value in flat_keys(sub, f"{path}.{name}" if path else str(name)).items()
    }


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted ``key=value`` in ``data``, in place.

    Raises:
        TrafficGradError: it is malformed.
    """
    _apply(data, override, {})


class _Loader(yaml.SafeLoader):
    """Safe loader that reads ``5e-4`` as a number, as YAML 1.2 does, and refuses aliases (expansion bombs, cycles)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not supported", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _record(node: yaml.Node, path: KeyPath, source: str, origins: dict[KeyPath, str]) -> None:
    """Note the line of every key below ``node``; refuse keys that are no plain text or occur twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = f"{source}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise TrafficGradError(f"{place}: expected a name as key, got {shown}")
            here = (*path, key.value)
            if here in origins:
                raise TrafficGradError(f"{place}: key {_dotted(here)!r} is given twice, first at {origins[here]}")
            origins[here] = place
            _record(value, here, source, origins)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            origins[(*path, number)] = f"{source}:{value.start_mark.line + 1}"
            _record(value, (*path, number), source, origins)


def _apply(data: dict[str, Any], override: str, origins: dict[KeyPath, str]) -> None:
    """Set one dotted ``key=value`` in ``data``; sections that were left to their defaults are opened on the way."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise TrafficGradError(f"--set {override!r}: expected key=value with a dotted key, such as simulation.dt=0.05")
    try:
        value = _Loader(text).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError):
        raise TrafficGradError(
            f"--set {override!r}: {text!r} is not a YAML value (a number, a word or a list such as [1, 2])"
        ) from None
    place: Any = data
    path: KeyPath = ()
    for depth, key in enumerate(keys, start=1):
        step: str | int = key
        if isinstance(place, list):
            if not key.isdecimal() or int(key) >= len(place):
                raise TrafficGradError(
                    f"--set {override!r}: {_dotted(path)} has {len(place)} entries, numbered from 0, got {key!r}"
                )
            step = int(key)
        path = (*path, step)
        below = place.get(step) if isinstance(place, dict) else place[int(step)]
        if depth == len(keys) or not isinstance(below, dict | list):
            for known in [known for known in origins if known[: len(path)] == path]:
                del origins[known]  # the lines of the file no longer say where this value came from
            origins[path] = f"{_OVERRIDE}{override!r}"
            below = value if depth == len(keys) else {}
            place[step] = below
        place = below


def _sentence(document: Document, section: KeyPath, error: ErrorDetails, count: int) -> str:
    """The first error of a validation as one sentence."""
    path, value = _path_in(document, section, error)
    context = error.get("ctx", {})
    kind = error["type"]
    if kind == "unknown_key":
        path, text = (*path, str(context["key"])), error["msg"]
    elif kind == "extra_forbidden":
        text = "unknown key"
    elif kind == "missing":
        text = "this key is missing"
    elif kind in ("literal_error", "union_tag_invalid"):
        if kind == "union_tag_invalid":
            path, value = (*path, "kind"), context["tag"]
        names = re.findall(r"'([^']*)'", str(context.get("expected", context.get("expected_tags", ""))))
        came = f"unknown value {value!r}{nearest_name(str(value), names)}" if value != "" else "this key is missing"
        text = f"{came}; valid values are {', '.join(names)}"
    elif kind == "error_at":
        path, text = (*path, *str(context["path"]).split(".")), error["msg"]
    elif kind == "value_error":
        text = str(context.get("error", error["msg"]))
    elif kind in ("model_type", "model_attributes_type", "dict_type", "union_tag_not_found"):
        text = f"expected a mapping of keys to values, got {_shown(value)}"
    else:
        text = f"{error['msg'].removeprefix('Input ')}, got {_shown(value)}"
    more = f" (and {count - 1} more)" if count > 1 else ""
    key = f"{_dotted(path)}: " if path else ""
    return f"{document.origin(path)}: {key}{text}{more}"


def _path_in(document: Document, section: KeyPath, error: ErrorDetails) -> tuple[KeyPath, Any]:
    """Key path of an error within the document, and the value there.

    pydantic's location also names the chosen branches of unions, which are no keys of the document: they are left out.
    """
    place: Any = document.data
    path: KeyPath = ()
    steps = (*section, *error["loc"])
    for number, step in enumerate(steps):
        known = (
            step in place
            if isinstance(place, dict)
            else isinstance(place, list) and isinstance(step, int) and step < len(place)
        )
        if known:
            place = place[step]
            path = (*path, step)
        elif number == len(steps) - 1 and error["type"] == "missing":
            path = (*path, step)
    return path, error["input"]


def _dotted(path: KeyPath) -> str:
    return ".".join(str(step) for step in path)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
