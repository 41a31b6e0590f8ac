"""Files of drivers: settings that calibration found, and that scenarios take over with their key ``drivers``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trafficgrad.config import Document, load_document
from trafficgrad.errors import TrafficGradError, nearest_name
from trafficgrad.files import complete_file

SECTIONS: tuple[tuple[str, ...], ...] = (("vehicles", "human"), ("car_following",), ("lane_change",))
_NAMES = tuple(".".join(section) for section in SECTIONS)


def with_drivers(document: Document) -> Document:
    """The document with the settings of the file that its key ``drivers`` names; the key itself is gone then.

    They go before what the document says, but not before its overrides.

    Raises:
        TrafficGradError: the file cannot be read, or holds other sections.
    """
    path = document.data.get("drivers")
    if not isinstance(path, str):
        return document
    file = load_document(Path(path))
    document = Document({k: v for k, v in document.data.items() if k != "drivers"}, document.source, document.origins)
    _refuse_others(file)
    for section in SECTIONS:
        settings: Any = file.data
        for key in section:
            settings = settings.get(key, {})
        for key, value in settings.items():
            place = (*section, key)
            document = document.put(place, value, file.origin(place))
    return document


def write_drivers(path: Path, sections: Mapping[str, Mapping[str, Any]], comment: str) -> Path:
    """Write settings by dotted section for :func:`with_drivers`, atomically; ``comment`` stands at the top."""
    data: dict[str, Any] = {}
    for section, settings in sections.items():
        assert section in _NAMES, section
        place = data
        for key in section.split("."):
            place = place.setdefault(key, {})
        place.update(settings)
    text = "".join(f"# {line}\n" for line in comment.splitlines())
    text += yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _refuse_others(file: Document) -> None:
    """Raise about whatever is in none of the sections."""
    whole = {".".join(section): section for section in SECTIONS}
    for name, value in file.data.items():
        below = [".".join((name, key)) for key in value] if name == "vehicles" and isinstance(value, dict) else [name]
        for found in below:
            if found not in whole:
                raise TrafficGradError(
                    f"{file.origin(tuple(found.split('.')))}: {found}: a file of drivers has the sections "
                    f"{', '.join(_NAMES)}{nearest_name(found, whole)}"
                )
    for name, section in whole.items():
        value = file.data
        for key in section:
            value = value.get(key, {}) if isinstance(value, dict) else None
        if not isinstance(value, dict):
            raise TrafficGradError(f"{file.origin(section)}: {name}: expected a mapping of settings to values")
