"""How fast the simulator is on a map with signals and routes: ``trafficgrad bench --map`` and ``bench --hour``.

Both drive a scenario, ``midtown`` by default. ``run`` measures vehicle-steps per second from one state, beside SUMO
with the same vehicles at the same places of the same map; ``run_hour`` simulates an hour and counts every vehicle.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import torch
from rich.console import Console
from rich.table import Table

from trafficgrad import terminal
from trafficgrad.bodies import touching
from trafficgrad.car_following.base import look_up
from trafficgrad.errors import TrafficGradError
from trafficgrad.kernels.library import library
from trafficgrad.network import RoadNetwork
from trafficgrad.network.sumo_export import sumo_ids, write_sumo
from trafficgrad.scenario_config import TrafficScenario, load_traffic
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState

MAP = "midtown"
STEPS = 32  # per rollout, forward and backward
WORLDS = 4  # of the row with several of them
SETTLING = 20  # steps of SUMO that are not timed: vehicles enter, and loading is over
CHECKED = 20  # every how many steps of the hour bodies are compared
_SUMO = "SUMO (libsumo), IDM, LC2013"


@dataclass(frozen=True)
class MapRow:
    """One measured line; vehicle-steps per second, medians over the repetitions."""

    name: str
    present: float  # vehicles on the road, in all worlds, mean over the steps
    forward: float
    both: float | None  # forward + backward; None where the peer has no gradients


@dataclass(frozen=True)
class Hour:
    """What happened in a long run of one world, after the warm-up."""

    seconds: float  # simulated
    wall: float  # s
    vehicle_steps: int
    fewest: int  # vehicles on the road
    most: int
    entered: int
    left: int
    waiting: int  # outside at the end
    mean_speed: float  # m/s, over vehicles and time
    standing: float  # share of vehicles, over time, slower than 1 m/s
    unbalanced: int  # steps after which the vehicles did not add up
    compared: int  # steps after which bodies were compared
    touching: int  # pairs of them that touched


def bench(speed: bool, hour: bool, repetitions: int, threads: int) -> list[MapRow]:
    """What the command line asks for."""
    rows = run(repetitions, threads) if speed else []
    if hour:
        run_hour(threads=threads)
    return rows


# ---------------------------------------------------------------------- speed


def run(
    repetitions: int = 5,
    threads: int = 1,
    scenario: TrafficScenario | None = None,
    worlds: int = WORLDS,
    console: Console | None = None,
) -> list[MapRow]:
    """Measure and print; every repetition times all candidates in turn, so that drift hits them alike.

    Parameters:
        scenario: with demand and routes, which are needed to tell SUMO where everybody goes; default: ``midtown``.
        worlds: of the row with several of them; each is the same state.
    """
    console = console or terminal.console()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with console.status("warming up and measuring ..."):
            scenario = load_traffic(MAP) if scenario is None else scenario
            simulator = scenario.build()
            rows = _measure(simulator, warmed_up(scenario, simulator), repetitions, worlds)
    finally:
        torch.set_num_threads(before)
    console.print(_table(scenario.name, simulator, rows, threads))
    if not _has_sumo():
        console.print('SUMO was not measured: it is not installed (pip install "trafficgrad[peers]").')
    return rows


def warmed_up(scenario: TrafficScenario, simulator: Simulator) -> TrafficState:
    """The state that is measured from, one world; the same on every call."""
    return scenario.initial_state(1, torch.Generator().manual_seed(0), simulator=simulator)


def _measure(simulator: Simulator, state: TrafficState, repetitions: int, worlds: int) -> list[MapRow]:
    several = state.index([0] * worlds)
    candidates: dict[str, Callable[[bool], int]] = {
        "reference, one world": partial(_rollout, replace(simulator, backend="reference"), state)
    }
    if library().missing is None:
        candidates |= {
            "fused, one world": partial(_rollout, simulator, state),
            "fused, one world, rollout": partial(_at_once, simulator, state),
            f"fused, {worlds} worlds, rollout": partial(_at_once, simulator, several),
        }
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in candidates}
    present = dict.fromkeys(candidates, 0.0)
    sumo: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = sumo_files(simulator, state, Path(folder)) if _has_sumo() else None
        for repetition in range(repetitions + 1):
            for name, rollout in candidates.items():
                for backward, record in zip((False, True), rates[name], strict=True):
                    begun = time.perf_counter()
                    count = rollout(backward)
                    if repetition:  # the first warms up
                        record.append(count / (time.perf_counter() - begun))
                    present[name] = count / STEPS
            if repetition and files is not None:
                sumo.append(_sumo_rate(files, float(state.time), simulator.dt))
    rows = [
        MapRow(name, present[name], statistics.median(forward), statistics.median(both))
        for name, (forward, both) in rates.items()
    ]
    if sumo:
        there, speed = (statistics.median(values) for values in zip(*sumo, strict=True))
        rows.append(MapRow(_SUMO, there, speed, None))
    return rows


def _rollout(simulator: Simulator, state: TrafficState, backward: bool) -> int:
    """Vehicle-steps of a rollout; backward: the gradient of the last speeds by all first speeds."""
    generator = torch.Generator().manual_seed(1)
    start = replace(state, speed=state.speed.detach().clone().requires_grad_(backward))
    count = torch.zeros((), dtype=torch.int64)
    with torch.set_grad_enabled(backward):
        end = start
        for _ in range(STEPS):
            end = simulator.step(end, None, simulator.sample_noise(end, generator))
            count += end.active.sum()
        if backward:
            end.speed.mean().backward()
    return int(count)


def _at_once(simulator: Simulator, state: TrafficState, backward: bool) -> int:
    """The same in one call."""
    start = replace(state, speed=state.speed.detach().clone().requires_grad_(backward))
    with torch.set_grad_enabled(backward):
        record = simulator.simulate(start, STEPS, generator=torch.Generator().manual_seed(1))
        if backward:
            record.speed[-1].mean().backward()
    return int(record.active[1:].sum())


# ---------------------------------------------------------------------- SUMO


def _has_sumo() -> bool:
    return importlib.util.find_spec("libsumo") is not None


def sumo_files(simulator: Simulator, state: TrafficState, folder: Path) -> tuple[str, str]:
    """Network and routes for SUMO: every vehicle of the first world at its place, with the rest of its route.

    Whoever is on a junction begins on the edge behind it. Drivers are IDM's with the scenario's mean parameters.

    Raises:
        TrafficGradError: netconvert is not on the PATH, or refuses the map.
    """
    network = simulator.network
    written = write_sumo(network, folder, "map")
    net = folder / "map.net.xml"
    if net not in written:
        raise TrafficGradError('SUMO\'s netconvert is not on the PATH: pip install "trafficgrad[peers]" brings it')
    names = list(sumo_ids(network.to_graph())[1].values())
    root = ElementTree.Element("routes")
    ElementTree.SubElement(root, "vType", {"id": "car", "carFollowModel": "IDM", **_driver(simulator, state)})
    for slot in state.active[0].nonzero()[:, 0].tolist():
        lane, place = int(state.lane[0, slot]), float(state.position[0, slot])
        edges = route_ahead(network, state, slot)
        values = {"id": str(slot), "type": "car", "depart": f"{float(state.time):g}"}
        if bool(network.is_junction[lane]):
            values |= {"departLane": "best", "departPos": "base"}
        else:
            values |= {"departLane": str(int(network.number[lane])), "departPos": f"{place:.3f}"}
            values["departSpeed"] = f"{float(state.speed[0, slot]):.3f}"
        vehicle = ElementTree.SubElement(root, "vehicle", {**values, "insertionChecks": "collision"})
        ElementTree.SubElement(vehicle, "route", edges=" ".join(names[edge] for edge in edges))
    routes = folder / "map.rou.xml"
    ElementTree.ElementTree(root).write(routes, encoding="utf-8", xml_declaration=True)
    return str(net), str(routes)


def route_ahead(network: RoadNetwork, state: TrafficState, slot: int) -> list[int]:
    """Edges that a vehicle of the first world has still to drive, from its own on; on a junction from the next one."""
    lane = int(state.lane[0, slot])
    place = int(state.route_index[0, slot]) + int(network.is_junction[lane])
    return [edge for edge in network.routes[int(state.route[0, slot])].tolist()[place:] if edge >= 0]


def _driver(simulator: Simulator, state: TrafficState) -> dict[str, str]:
    """SUMO's attributes of the mean driver."""
    model, fleet = simulator.car_following, simulator.fleet
    values = {
        "accel": model.max_acceleration,
        "decel": model.comfortable_deceleration,
        "tau": model.time_headway,
        "minGap": model.min_gap,
        "maxSpeed": model.desired_speed,
        "length": fleet.length,
        "width": fleet.width,
        "speedFactor": fleet.speed_factor,
    }
    means = {name: torch.as_tensor(look_up(value, state.driver)).double() for name, value in values.items()}
    return {name: f"{float(value.mean()):.4g}" for name, value in means.items()}


def _sumo_rate(files: tuple[str, str], begin: float, dt: float) -> tuple[float, float]:
    """Vehicles present, mean over the timed steps, and vehicle-steps per second."""
    import libsumo

    libsumo.start(
        ["sumo", "-n", files[0], "-r", files[1], "--begin", f"{begin:g}", "--step-length", f"{dt:g}",
         "--step-method.ballistic", "--no-step-log", "--no-warnings", "--collision.action", "warn",
         "--time-to-teleport", "-1"]
    )  # fmt: skip
    try:
        for _ in range(SETTLING):
            libsumo.simulationStep()
        driven, begun = 0, time.perf_counter()
        for _ in range(STEPS):
            libsumo.simulationStep()
            driven += libsumo.vehicle.getIDCount()
        return driven / STEPS, driven / (time.perf_counter() - begun)
    finally:
        libsumo.close()


# ---------------------------------------------------------------------- an hour


@torch.no_grad()
def run_hour(
    seconds: float = 3600.0,
    scenario: TrafficScenario | None = None,
    threads: int = 1,
    console: Console | None = None,
) -> Hour:
    """Simulate one world of a scenario for an hour after its warm-up, check it step by step, and print what happened.

    After every step vehicles must add up: those there at first and those who entered are on the road or have left it,
    each identity once, and nobody waits outside who has not come. Every ``CHECKED`` steps all bodies are compared.
    """
    console = console or terminal.console()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with console.status("an hour of traffic, this takes minutes ..."):
            scenario = load_traffic(MAP) if scenario is None else scenario
            simulator = scenario.build()
            hour = _drive(simulator, warmed_up(scenario, simulator), round(seconds / simulator.dt))
    finally:
        torch.set_num_threads(before)
    console.print(_hour_table(scenario.name, simulator, hour, threads))
    return hour


def _drive(simulator: Simulator, state: TrafficState, steps: int) -> Hour:
    generator = torch.Generator().manual_seed(1)
    start, driven, wall = state, 0, 0.0
    present, speed, standing, unbalanced, compared, touched = [], 0.0, 0, 0, 0, 0
    for step in range(steps):
        noise = simulator.sample_noise(state, generator)
        begun = time.perf_counter()
        state = simulator.step(state, None, noise)
        wall += time.perf_counter() - begun  # the checks are not part of it
        there = state.active[0]
        present.append(int(there.sum()))
        driven += present[-1]
        speed += float(state.speed[0, there].double().sum())
        standing += int((state.speed[0, there] < 1.0).sum())
        unbalanced += not adds_up(simulator, start, state)
        if (step + 1) % CHECKED == 0:
            length, width = (look_up(x, state.driver) for x in (simulator.fleet.length, simulator.fleet.width))
            compared += 1
            touched += len(touching(state, simulator.network, length, width))
    waiting = 0 if simulator.demand is None else int(simulator.demand.waiting(state).sum())
    return Hour(
        seconds=steps * simulator.dt,
        wall=wall,
        vehicle_steps=driven,
        fewest=min(present),
        most=max(present),
        entered=int((state.inserted - start.inserted).sum()),
        left=int((state.left - start.left).sum()),
        waiting=waiting,
        mean_speed=speed / driven,
        standing=standing / driven,
        unbalanced=unbalanced,
        compared=compared,
        touching=touched,
    )


def adds_up(simulator: Simulator, start: TrafficState, state: TrafficState) -> bool:
    """Whether no vehicle of any world is lost, doubled or made up between two states."""
    entered, left = (state.inserted - start.inserted).sum(1), state.left - start.left
    balanced = torch.equal(start.active.sum(1) + entered, state.active.sum(1) + left)
    ids = [world[there] for world, there in zip(state.vehicle_id, state.active, strict=True)]
    single = all(len(world.unique()) == len(world) for world in ids)
    waits = simulator.demand is None or bool((simulator.demand.waiting(state) >= 0).all())
    return balanced and single and waits


# ---------------------------------------------------------------------- tables


def _where(threads: int) -> str:
    return f"{threads} thread(s), float32, torch {torch.__version__}"


def _table(name: str, simulator: Simulator, rows: list[MapRow], threads: int) -> Table:
    network = simulator.network
    grid = Table(
        title=f"{name}: {len(network.edges)} edges, {len(network.lanes)} lanes (those of junctions included), "
        f"{len(network.signals)} signals, steps of {simulator.dt:g} s; thousand vehicle-steps per second; "
        f"{_where(threads)}; forward + backward over {STEPS} steps",
        title_justify="left",
    )
    grid.add_column("what", no_wrap=True)
    for column in ("vehicles", "ms per step", "forward", "forward + backward", "forward / SUMO"):
        grid.add_column(column, justify="right")
    peer = next((row.forward for row in rows if row.name == _SUMO), None)
    for row in rows:
        grid.add_row(
            row.name,
            f"{row.present:.0f}",
            f"{1e3 * row.present / row.forward:.1f}",
            f"{row.forward / 1e3:.1f}",
            "no gradients" if row.both is None else f"{row.both / 1e3:.1f}",
            "-" if peer is None else f"{row.forward / peer:.3f}",
        )
    return grid


def _hour_table(name: str, simulator: Simulator, hour: Hour, threads: int) -> Table:
    grid = Table(title=f"{name}: {hour.seconds:g} s of traffic; {_where(threads)}", title_justify="left")
    grid.add_column("what", no_wrap=True)
    grid.add_column("value", justify="right", no_wrap=True)
    steps = round(hour.seconds / simulator.dt)
    rows = [
        ("steps", f"{steps} of {simulator.dt:g} s"),
        ("vehicles on the road: fewest, mean, most", f"{hour.fewest}, {hour.vehicle_steps / steps:.0f}, {hour.most}"),
        ("entered", f"{hour.entered}"),
        ("left at the end of their routes", f"{hour.left}"),
        ("waiting outside at the end", f"{hour.waiting}"),
        ("mean speed", f"{hour.mean_speed:.2f} m/s"),
        ("standing (slower than 1 m/s), of all vehicles and times", f"{hour.standing:.1%}"),
        ("steps after which the vehicles did not add up", f"{hour.unbalanced} of {steps}"),
        (f"pairs of bodies that touched, in every {CHECKED}th step", f"{hour.touching}"),
        ("wall time of the steps", f"{hour.wall:.0f} s, {hour.seconds / hour.wall:.1f} times as fast as real time"),
        ("thousand vehicle-steps per second", f"{hour.vehicle_steps / hour.wall / 1e3:.1f}"),
    ]
    for row in rows:
        grid.add_row(*row)
    return grid
