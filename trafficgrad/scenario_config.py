"""Scenario files: one YAML describes a task and its training; here it is found, read and checked.

``load_scenario("ring_4lane").build()`` gives a :class:`~trafficgrad.simulator.Simulator`.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from trafficgrad.config import Document, load_document, parse_document
from trafficgrad.custom_scenario import CustomScenario
from trafficgrad.drivers_file import with_drivers
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.function_scenario import FunctionScenario
from trafficgrad.import_path import is_import_path
from trafficgrad.physics_scenario import CartpoleScenario, MujocoScenario
from trafficgrad.scenario_roads import PATHS, absolute_path
from trafficgrad.traffic_scenario import TrafficScenario

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python >= 3.11

__all__ = [
    "SCENARIO_KINDS",
    "CartpoleScenario",
    "CustomScenario",
    "FunctionScenario",
    "MujocoScenario",
    "Scenario",
    "TrafficScenario",
    "is_scenario",
    "json_schema",
    "list_scenarios",
    "load_scenario",
    "load_traffic",
    "parse_scenario",
    "require_traffic",
]

Scenario = TrafficScenario | FunctionScenario | CartpoleScenario | MujocoScenario | CustomScenario
SCENARIO_KINDS: dict[str, type[Scenario]] = {
    "traffic": TrafficScenario,
    "function": FunctionScenario,
    "cartpole": CartpoleScenario,
    "mujoco": MujocoScenario,
    "custom": CustomScenario,
}


def load_scenario(file: str | Path, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario from a YAML file.

    Parameters:
        file: path of the file or, where there is none, the name of a scenario that ships with the package:
            ``ring_4lane``, ``ring_4lane.yaml`` and ``scenarios/ring_4lane.yaml`` mean the same. Or the import path of
            an environment of one's own, ``my_module:MyEnv``: a scenario of kind ``custom`` without further settings.
        overrides: dotted settings such as ``"network.length=800"`` that replace those of the file.

    Files that a scenario names, such as maps, are looked for beside it, in the working folder and among those that ship
    with the package, and are known by their absolute paths from then on.

    Raises:
        TrafficGradError: one sentence with file, line, key, what was expected and the nearest valid name.
    """
    path = Path(file)
    return _check(_find(file, overrides), path.parent if path.is_file() else None)


def load_traffic(file: str | Path, overrides: Sequence[str] = ()) -> TrafficScenario:
    """Like :func:`load_scenario`, for what needs roads and vehicles.

    Raises:
        TrafficGradError: also where the scenario is of another kind, whatever else is wrong with it.
    """
    data = _find(file, overrides).data
    kind = data.get("kind")
    if isinstance(kind, str) and kind != "traffic" and kind in SCENARIO_KINDS:
        raise _no_traffic(str(data.get("name", file)), kind)
    return require_traffic(load_scenario(file, overrides))


def require_traffic(scenario: Scenario) -> TrafficScenario:
    """The scenario, if it is one of traffic.

    Raises:
        TrafficGradError: it is of another kind.
    """
    if isinstance(scenario, TrafficScenario):
        return scenario
    raise _no_traffic(scenario.name, scenario.kind)


def parse_scenario(text: str, source: str, overrides: Sequence[str] = ()) -> Scenario:
    """Like :func:`load_scenario`, from YAML text, such as that of a checkpoint; ``source`` is what messages call it."""
    return _check(parse_document(text, source, overrides))


def is_scenario(file: str | Path) -> bool:
    """Whether :func:`load_scenario` would find a file, by its ending .yaml, a shipped scenario, or an import path.

    Nothing is read or imported.
    """
    path = Path(file)
    if path.is_file():
        return path.suffix in (".yaml", ".yml")
    if is_import_path(str(file)):
        return True
    return path.parent.as_posix() in (".", "scenarios") and path.name.removesuffix(".yaml") in _shipped()


def list_scenarios(kind: str | None = None) -> list[tuple[str, str]]:
    """Name and first sentence of the description of every scenario that ships with the package, or those of a kind."""
    rows = []
    for name, file in sorted(_shipped().items()):
        data = parse_document(file.read_text(encoding="utf-8"), file.name).data
        description = str(data.get("description", ""))
        if kind in (None, data.get("kind")):
            rows.append((name, " ".join(description.split()).partition(". ")[0].rstrip(".") + "."))
    return rows


def json_schema(training: type[BaseModel] | None = None) -> dict[str, Any]:
    """JSON schema of scenario files, for editors that complete and check YAML.

    Parameters:
        training: model of the ``training`` section, which is checked above this layer.
    """
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    anything: TypeAdapter[Scenario] = TypeAdapter(Annotated[Scenario, Field(discriminator="kind")])
    schema = dialect | {"title": "trafficgrad scenario"} | anything.json_schema()
    if training is not None:
        section = training.model_json_schema()
        parts = section.pop("$defs", {})
        schema["$defs"] |= parts | {training.__name__: section}
        for model in SCENARIO_KINDS.values():
            schema["$defs"][model.__name__]["properties"]["training"] = {"$ref": f"#/$defs/{training.__name__}"}
    return schema


def _check(document: Document, beside: Path | None = None) -> Scenario:
    document = with_drivers(_with_absolute_paths(document, beside))
    kind = document.data.get("kind")
    if not isinstance(kind, str) or kind not in SCENARIO_KINDS:
        valid = f"valid values are {', '.join(SCENARIO_KINDS)}"
        came = (
            "this key is missing"
            if kind is None
            else f"unknown value {kind!r}{nearest_name(str(kind), SCENARIO_KINDS)}"
        )
        raise TrafficGradError(f"{document.origin(('kind',))}: kind: {came}; {valid}")
    scenario = document.validate(SCENARIO_KINDS[kind])
    scenario._document = document
    return scenario


def _no_traffic(name: str, kind: str) -> TrafficGradError:
    return TrafficGradError(
        f"scenario {name!r} is of kind {kind}, but this needs one of kind traffic, with roads and vehicles: "
        "`trafficgrad train` and `trafficgrad evaluate` take every kind"
    )


def _with_absolute_paths(document: Document, beside: Path | None) -> Document:
    """The document with every path of a file found; ``beside``: the folder of the scenario."""
    data = dict(document.data)
    for path in PATHS:
        place = data
        for key in path[:-1]:
            below = place.get(key)
            if not isinstance(below, dict):
                break
            place[key] = place = dict(below)
        else:
            value = place.get(path[-1])
            names = value if isinstance(value, list) else [value]
            if not names or not all(isinstance(name, str) for name in names):
                continue  # the check of the section says what is wrong, if anything is
            try:
                found = [absolute_path(str(name), beside) for name in names]
            except TrafficGradError as error:
                raise TrafficGradError(f"{document.origin(path)}: {'.'.join(path)}: {error}") from None
            place[path[-1]] = found if isinstance(value, list) else found[0]
    return replace(document, data=data)


def _find(file: str | Path, overrides: Sequence[str]) -> Document:
    path = Path(file)
    if path.is_file():
        return load_document(path, overrides)
    shipped = _shipped()
    folder, name = path.parent.as_posix(), path.name.removesuffix(".yaml")
    if folder in (".", "scenarios") and name in shipped:
        return parse_document(shipped[name].read_text(encoding="utf-8"), f"scenarios/{name}.yaml", overrides)
    if is_import_path(str(file)):
        name = str(file).partition(":")[2].strip("_") or "environment"
        document = parse_document("{}", str(file), overrides)
        return replace(document, data={"kind": "custom", "name": name, "environment": str(file), **document.data})
    if path.is_dir():
        raise TrafficGradError(
            f"{file}: is a folder, expected a scenario file (YAML) or the name of a shipped scenario"
        )
    names = ", ".join(sorted(shipped))
    raise TrafficGradError(
        f"{file}: no such file, nor one of the shipped scenarios {names}{nearest_name(name, shipped)}"
    )


def _shipped() -> dict[str, Traversable]:
    folder = importlib.resources.files("trafficgrad.scenarios")
    return {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
