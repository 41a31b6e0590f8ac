"""Users' own environments, found by import path and built with the arguments of their scenario."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from trafficgrad.custom_scenario import CustomScenario
from trafficgrad.envs.base import DifferentiableEnv
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.import_path import import_name


def environment_class(path: str) -> type[DifferentiableEnv]:
    """The class that ``module:Class`` names. A scenario is data, so nothing but an environment is ever called.

    Raises:
        TrafficGradError: it cannot be imported, is no class derived from :class:`DifferentiableEnv`, or is abstract.
    """
    found = import_name(path)
    if not (isinstance(found, type) and issubclass(found, DifferentiableEnv)):
        what = f"class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise TrafficGradError(f"{path} is {what}, expected a class derived from trafficgrad.envs.DifferentiableEnv")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise TrafficGradError(f"{path} is abstract, expected a class that also defines {missing}")
    return found


def custom_env(
    scenario: CustomScenario,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DifferentiableEnv:
    """The environment of a scenario.

    ``seed``, ``device`` and ``dtype`` are given to it where its constructor has parameters of these names and the
    scenario's ``arguments`` do not set them.

    Raises:
        TrafficGradError: with the place in the file, if there is no such class, the arguments are not those of its
            constructor, the constructor refuses them, or it cannot compute on ``device``.
    """
    try:
        found = environment_class(scenario.environment)
    except TrafficGradError as error:
        raise scenario.error_at(("environment",), str(error)) from error
    known = inspect.signature(found).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name in scenario.arguments:
        if name not in known and not takes_any:
            raise scenario.error_at(
                ("arguments", name),
                f"{found.__name__} has no such parameter{nearest_name(name, known)}; {_told(known)}",
            )
    if torch.device(device).type != "cpu" and "device" not in known:
        raise scenario.error_at(
            ("environment",), f"{found.__name__} has no parameter 'device', so it runs with training.device: cpu only"
        )
    offered = {"seed": seed, "device": device, "dtype": dtype}
    arguments: dict[str, Any] = {name: value for name, value in offered.items() if name in known} | scenario.arguments
    try:
        return found(**arguments)
    except TrafficGradError as error:
        raise scenario.error_at(("arguments",), str(error)) from error
    except (TypeError, ValueError) as error:
        raise scenario.error_at(
            ("arguments",), f"{found.__name__} cannot be built with them: {error}; {_told(known)}"
        ) from error


def _told(parameters: Any) -> str:
    return (
        f"it takes {', '.join(str(parameter) for parameter in parameters.values())}" if parameters else "it takes none"
    )
