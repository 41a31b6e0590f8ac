"""The package as a whole: what is built, what is linked, and who may import whom."""

from __future__ import annotations

import ast
import fnmatch
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("agents", "render", "scenarios")

# A module may import from the layers named after its own, and from its own. Longest prefix wins.
CORE = ("foundation", "data")
LAYERS: dict[str, str] = {
    "trafficgrad": "package",
    "trafficgrad.errors": "foundation",
    "trafficgrad.files": "foundation",
    "trafficgrad.import_path": "foundation",
    "trafficgrad.tree": "foundation",
    "trafficgrad.config": "foundation",
    "trafficgrad.terminal": "foundation",
    "trafficgrad.drivers_file": "foundation",
    "trafficgrad.state": "data",
    "trafficgrad.network": "data",
    "trafficgrad.gradients": "data",
    "trafficgrad.randomness": "foundation",
    "trafficgrad.bodies": "models",
    "trafficgrad.demand": "models",
    "trafficgrad.entrances": "models",
    "trafficgrad.merge_order": "models",
    "trafficgrad.neighbors": "models",
    "trafficgrad.paths": "models",
    "trafficgrad.route_following": "models",
    "trafficgrad.signals": "models",
    "trafficgrad.car_following": "models",
    "trafficgrad.lane_change": "models",
    "trafficgrad.dynamics": "models",
    "trafficgrad.kernels": "simulator",
    "trafficgrad.lane_stages": "simulator",
    "trafficgrad.right_of_way": "simulator",
    "trafficgrad.signal_gradients": "simulator",
    "trafficgrad.trajectory": "record",
    "trafficgrad.recording": "record",
    "trafficgrad.metrics": "record",
    "trafficgrad.segments": "simulator",
    "trafficgrad.simulator": "simulator",
    "trafficgrad.scenarios": "scenario",
    "trafficgrad.scenario_sections": "scenario",
    "trafficgrad.scenario_roads": "scenario",
    "trafficgrad.scenario_routes": "scenario",
    "trafficgrad.scenario_drivers": "scenario",
    "trafficgrad.scenario_demand": "scenario",
    "trafficgrad.placement": "scenario",
    "trafficgrad.warmup_cache": "scenario",
    "trafficgrad.scenario_base": "scenario",
    "trafficgrad.traffic_scenario": "scenario",
    "trafficgrad.custom_scenario": "scenario",
    "trafficgrad.function_scenario": "scenario",
    "trafficgrad.physics_scenario": "scenario",
    "trafficgrad.scenario_config": "scenario",
    "trafficgrad.scenario_reference": "scenario",
    "trafficgrad.control": "control",
    "trafficgrad.calibration": "control",
    "trafficgrad.calibration.command": "studies",
    "trafficgrad.rewards": "envs",
    "trafficgrad.observations": "envs",
    "trafficgrad.failures": "envs",
    "trafficgrad.envs": "envs",
    "trafficgrad.agents": "agents",
    "trafficgrad.render": "render",
    "trafficgrad.benchmark": "studies",
    "trafficgrad.benchmark_calibration": "studies",
    "trafficgrad.benchmark_large": "studies",
    "trafficgrad.benchmark_map": "studies",
    "trafficgrad.benchmark_physics": "studies",
    "trafficgrad.benchmark_training": "studies",
    "trafficgrad.benchmark_render": "studies",
    "trafficgrad.episode_pictures": "studies",
    "trafficgrad.gradient_check": "studies",
    "trafficgrad.live": "studies",
    "trafficgrad.pictures": "studies",
    "trafficgrad.report": "studies",
    "trafficgrad.web_page": "studies",
    "trafficgrad.validation": "studies",
    "trafficgrad.cli": "cli",
    "trafficgrad.__main__": "cli",
}
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "foundation": (),
    "data": ("foundation",),
    "models": CORE,
    "record": (*CORE, "models"),
    "simulator": (*CORE, "models", "record"),
    "scenario": (*CORE, "models", "record", "simulator"),
    "package": (*CORE, "models", "record", "simulator", "scenario"),
    "control": (*CORE, "models", "record", "simulator"),
    "envs": (*CORE, "models", "record", "simulator", "scenario"),
    "agents": (*CORE, "models", "record", "simulator", "scenario", "control", "envs"),
    "render": (*CORE, "record"),
    "studies": tuple(set(LAYERS.values()) - {"cli"}),
    "cli": tuple(LAYERS.values()),
}
# Outside packages that only some layers may load.
RESERVED = {
    "pygame": {"render"},
    "matplotlib": {"render"},
    "imageio": {"render"},
    "gymnasium": {"envs"},
    "mujoco": {"envs"},
    "scipy": {"control", "studies"},
    "joblib": {"agents"},
    "pettingzoo": {"envs"},
    "stable_baselines3": {"envs"},
    "tensordict": {"envs"},
    "torchrl": {"envs"},
    "typer": {"cli"},
    "rich": {"foundation", "agents", "studies"},  # foundation: trafficgrad.terminal alone
    "libsumo": {"studies"},
    "sumolib": {"data"},
    "osmnx": {"data"},
    "shapely": {"data"},
}
# (package, layer): imported lazily all the same; test_import_is_light is what holds the first two.
EXCEPTIONS = {
    ("trafficgrad", "envs"),  # names of __all__ that are loaded when first asked for
    ("trafficgrad", "agents"),
    ("trafficgrad.envs", "render"),  # inside render()
}


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _folders() -> dict[str, Path]:
    """Every package on disk: import name -> folder."""
    found = {}
    for top in ("trafficgrad", *LINKS):
        for init in (ROOT / top).rglob("__init__.py"):
            folder = init.parent
            if not any(part.is_symlink() for part in (folder, *folder.parents) if part != ROOT):
                name = ".".join(folder.relative_to(ROOT).parts)
                found[name if top == "trafficgrad" else f"trafficgrad.{name}"] = folder
    return found


@functools.lru_cache
def _modules() -> dict[str, Path]:
    """Every module on disk: import name -> file."""
    found = {}
    for package, folder in _folders().items():
        for file in folder.glob("*.py"):
            found[package if file.stem == "__init__" else f"{package}.{file.stem}"] = file
    return found


def _layer(module: str) -> str | None:
    """Layer of a module, or None where only the package itself would match."""
    name = module
    while name not in LAYERS:
        name = name.rpartition(".")[0]
    return None if name == "trafficgrad" and module != "trafficgrad" else LAYERS[name]


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of everything that a file imports anywhere, with the line."""
    modules = _modules()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in modules else str(node.module)), node.lineno


def _violations(module: str, file: Path) -> Iterator[str]:
    """Imports of a file that its layer forbids."""
    own = _layer(module)
    package = ".".join(module.split(".")[:2])
    for name, line in _imports(file):
        top = name.partition(".")[0]
        if top != "trafficgrad":
            allowed = own in RESERVED.get(top, {own})
        elif name == "trafficgrad":  # `from trafficgrad import __version__`
            allowed = own in ("agents", "studies", "cli")
        else:
            layer = _layer(name)
            allowed = layer == own or layer in MAY_IMPORT.get(str(own), ()) or (package, layer) in EXCEPTIONS
        if not allowed:
            yield f"{module}:{line} ({own}) imports {name}"


def test_package_list_equals_the_folders():
    project = _project()["tool"]["setuptools"]
    assert sorted(project["packages"]) == sorted(_folders())
    for name in LINKS:
        assert project["package-dir"][f"trafficgrad.{name}"] == name


def test_every_file_of_a_package_is_shipped():
    patterns = _project()["tool"]["setuptools"]["package-data"]
    for package, folder in _folders().items():
        for file in folder.iterdir():
            if file.is_file() and file.suffix != ".py" and not file.name.startswith("libfused."):  # what was built
                shipped = any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns.get(package, ()))
                assert shipped, f"{file} is not in package-data"


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative(name):
    link = ROOT / "trafficgrad" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_every_module_has_a_layer():
    assert [module for module in _modules() if _layer(module) is None] == []


def test_layers_import_downwards_only():
    wrong = [violation for module, file in _modules().items() for violation in _violations(module, file)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("trafficgrad.simulator", "from trafficgrad.envs import make_env"),
        ("trafficgrad.agents.train", "import trafficgrad.render.viewer"),
        ("trafficgrad.agents.ppo", "import pygame"),
        ("trafficgrad.neighbors", "from trafficgrad import __version__"),
    ],
)
def test_the_layer_test_can_fail(module, line, tmp_path):
    file = tmp_path / "module.py"
    file.write_text(f"def later():\n    {line}\n")
    assert len(list(_violations(module, file))) == 1


def test_the_top_level_folders_are_imported_by_their_full_names():
    for module, file in _modules().items():
        for name, line in _imports(file):
            assert name.partition(".")[0] not in ("agents", "render", "scenarios", "tests"), f"{module}:{line}"


def test_import_is_light():
    code = "import sys, trafficgrad; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    heavy = ["pygame", "gymnasium", "matplotlib", "imageio", "typer", "trafficgrad.agents", "trafficgrad.render"]
    run = subprocess.run(
        [sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "[]"


def test_environments_need_none_of_the_libraries_that_they_can_be_plugged_into():
    code = "import sys, trafficgrad.envs, trafficgrad.agents; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    others = ["pettingzoo", "torchrl", "tensordict", "stable_baselines3"]
    run = subprocess.run(
        [sys.executable, "-c", code, *others], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "[]"


def test_constraints_pin_every_dependency():
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    project = _project()["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["maps"], *extras["rl"]]  # dev brings both along
    names = {requirement.partition(">")[0].partition("[")[0].lower() for requirement in wanted}
    assert names - pinned == {"trafficgrad"}


def test_citation_has_the_version():
    from trafficgrad import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
