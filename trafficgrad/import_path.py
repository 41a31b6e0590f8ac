"""Import paths such as ``my_module:MyEnv``: how users name what they wrote themselves."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from trafficgrad.errors import TrafficGradError, nearest_name

IMPORT_PATH = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


def is_import_path(text: str) -> bool:
    """Whether ``text`` has the form ``module:Name``; nothing is imported."""
    return re.match(IMPORT_PATH, text, re.ASCII) is not None


def import_name(path: str) -> Any:
    """What ``module:Name`` names. Modules of the working folder are found, as with ``python -m``.

    The module is executed as every import is; what it names is returned, not called.

    Raises:
        TrafficGradError: another form, no such module, no such name in it, or a module that fails while it is imported.
    """
    if not is_import_path(path):
        raise TrafficGradError(f"expected an import path such as my_module:MyClass, got {path!r}")
    module_name, _, name = path.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise TrafficGradError(
                f"there is no module {error.name!r}: expected {error.name}.py in the working folder ({folder}) or an "
                "installed package"
            ) from None
        raise TrafficGradError(f"module {module_name!r} cannot be imported: {error}") from error
    except Exception as error:  # whatever the user's module does wrong
        raise TrafficGradError(f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise TrafficGradError(f"module {module_name!r} has no {name!r}{nearest_name(name, public)}")
    return getattr(module, name)
