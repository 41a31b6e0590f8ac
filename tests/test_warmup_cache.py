"""Warmed-up traffic from files: the same bits and the same random numbers afterwards, or no file at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from small_networks import scenario_text
from small_scenario import SMALL

from trafficgrad import warmup_cache
from trafficgrad.car_following import IDM
from trafficgrad.scenario_config import TrafficScenario, parse_scenario
from trafficgrad.simulator import Simulator
from trafficgrad.state import TrafficState

NOISY = ["simulation.warmup_steps=20", "driver_rows=32", "vehicles.human.acceleration_noise=0.6"]
WORLDS = 3


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache that keeps even the shortest warm-up."""
    monkeypatch.setenv("TRAFFICGRAD_CACHE", str(tmp_path))
    monkeypatch.setattr(warmup_cache, "WORTHWHILE", 1)
    return tmp_path / "warm_up"


@pytest.fixture
def drives(monkeypatch) -> list[int]:
    """Steps of each warm-up that was really driven."""
    driven = []
    real = warmup_cache._drive

    def watched(simulator, state, generators, steps):
        driven.append(steps)
        return real(simulator, state, generators, steps)

    monkeypatch.setattr(warmup_cache, "_drive", watched)
    return driven


def scenario(*overrides: str) -> TrafficScenario:
    return parse_scenario(SMALL, "small.yaml", [*NOISY, *overrides])


def warm(own: TrafficScenario | None = None, seed: int = 0, simulator: Simulator | None = None, **more):
    """Warmed-up traffic, and the state of its generator afterwards."""
    generator = torch.Generator().manual_seed(seed)
    state = (own or scenario()).initial_state(WORLDS, generator, simulator=simulator, **more)
    return state, generator.get_state()


def equal(a: TrafficState, b: TrafficState) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_gives_the_same_bits_and_leaves_the_same_generator(folder, drives, monkeypatch, dtype):
    kept, after_kept = warm(dtype=dtype)
    recalled, after_recalled = warm(dtype=dtype)
    assert drives == [20] and len(files(folder)) == 1
    monkeypatch.setenv("TRAFFICGRAD_CACHE", "off")
    computed, after_computed = warm(dtype=dtype)
    assert drives == [20, 20]
    assert equal(kept, computed) and equal(recalled, computed)
    assert torch.equal(after_kept, after_computed) and torch.equal(after_recalled, after_computed)
    assert recalled.position.dtype == dtype and not recalled.position.requires_grad
    assert not torch.equal(computed.position, scenario().place(WORLDS, torch.Generator().manual_seed(0)).position)


def test_every_world_may_have_a_generator_of_its_own(folder, drives):
    def draw(seeds: tuple[int, ...]) -> tuple[TrafficState, list[list[float]]]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        state = scenario().initial_state(WORLDS, generators)
        return state, [torch.randn(3, generator=own).tolist() for own in generators]

    first, following = draw((4, 5, 6))
    again, following_again = draw((4, 5, 6))
    assert drives == [20] and equal(first, again) and following == following_again
    other, _ = draw((4, 5, 7))
    assert drives == [20, 20] and not torch.equal(other.position[2], first.position[2])
    assert torch.equal(other.position[:2], first.position[:2])
    warm()  # one generator for three worlds is another draw
    assert len(drives) == 3


@pytest.mark.parametrize(
    "change",
    [
        "vehicles.human.time_headway=1.01",
        "vehicles.human.desired_speed.uniform=[15, 35.01]",
        "vehicles.controlled.control=lane",
        "simulation.warmup_steps=21",
        "simulation.dt=0.11",
        "simulation.integrator=semi_implicit_euler",
        "simulation.max_braking=9",
        "car_following.exponent=3.9",
        "lane_change={kind: mobil}",
        "network.length=200.5",
        "network.edges=2",
        "network.speed_limit=30",
        "initial.jitter=0.1",
        "vehicles.human.count=10",
    ],
)
def test_whatever_decides_the_result_misses(folder, drives, change):
    warm()
    warm(scenario(change))
    assert len(drives) == 2 and len(files(folder)) == 2


NETWORK = """\
network: {kind: figure_eight}
vehicles: {human: {count: 3}}
routes:
  - {name: first, edges: [left, right, upper_ring, top, bottom, lower_ring], loop: true}
  - {name: second, edges: [left, right]}
demand: [{from: left, routes: {first: 1, second: 1}, rate: 300}]
"""


@pytest.mark.parametrize(
    "change",
    [
        "demand.0.rate=301",
        "demand.0.routes.first=2",
        "demand.0.kind=constant",
        "demand.0.lanes=[0]",
        "routes.0.loop=false",
        "routes.1.edges=[left, right, upper_ring]",
        "network.right_of_way=all_way_stop",
        "network.radius=30.1",
        "network.speed_limit=29",
        "right_of_way.time_gap=1.1",
        "vehicles.classes={truck: {share: 0.5, length: 9}}",
        "vehicles.slots=30",
    ],
)
def test_roads_and_demand_decide_the_result(folder, drives, change):
    first, second = (parse_scenario(scenario_text(NETWORK), "x.yaml", [*NOISY, *more]) for more in ([], [change]))
    warm(first)
    warm(first)
    assert len(drives) == 1 and len(files(folder)) == 1
    warm(second)
    assert len(drives) == 2 and len(files(folder)) == 2


def test_a_programme_of_signals_decides_the_result(folder, drives):
    text = scenario_text("network: {kind: intersection}\nvehicles: {human: {count: 4}}")
    for more in ("network.offset=1", "network.green=29", "signals.control=actuated", "network.lane_width=3.4"):
        warm(parse_scenario(text, "x.yaml", NOISY))
        warm(parse_scenario(text, "x.yaml", [*NOISY, more]))
    assert len(drives) == 5
    kept, _ = warm(parse_scenario(text, "x.yaml", NOISY))
    assert len(drives) == 5 and kept.time.tolist() == pytest.approx([2.0] * WORLDS, abs=1e-5)


def test_another_seed_of_traffic_or_of_drivers_misses(folder, drives):
    warm(simulator=scenario().build(seed=0))
    warm(seed=1, simulator=scenario().build(seed=0))
    warm(simulator=scenario().build(seed=1))
    assert len(drives) == 3
    warm(simulator=scenario().build(seed=1))
    assert len(drives) == 3


def test_the_same_vehicles_with_other_noise_miss(folder, drives):
    own = scenario()
    simulator, start = own.build(), own.place(WORLDS, torch.Generator().manual_seed(0))
    states = [warmup_cache.warm_up(simulator, start, [torch.Generator().manual_seed(s)], 20) for s in (0, 1)]
    assert len(drives) == 2 and not torch.equal(states[0].position, states[1].position)


@pytest.mark.parametrize("change", ["reward.0.target=9", "simulation.horizon_steps=40", "training.worlds=3"])
def test_what_only_the_task_needs_does_not(folder, drives, change):
    warm()
    warm(scenario(change))
    assert len(drives) == 1


def test_other_code_or_another_number_of_threads_misses(folder, drives, monkeypatch):
    warm()
    monkeypatch.setattr(warmup_cache, "_code", lambda: "other")
    warm()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    warm()
    assert len(drives) == 3


def test_all_code_that_simulates_is_part_of_the_key():
    own = "(m.__file__ for name, m in sys.modules.items() if name.startswith('trafficgrad'))"
    code = f"import sys, trafficgrad; print(*{own})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    package = Path(warmup_cache.__file__).parent
    covered = {(package / folder).resolve() for folder in warmup_cache._CODE}
    needed = {Path(file).resolve().parent for file in run.stdout.split()}
    assert package.resolve() in needed and needed <= covered


def test_drivers_that_carry_gradient_are_known_by_their_values(folder, drives):
    own = scenario()
    simulator = own.build()
    headway = torch.tensor(1.0, requires_grad=True)
    plain, _ = warm(own, simulator=replace(simulator, car_following=replace(simulator.car_following, time_headway=1.0)))
    tensors = [headway, headway.detach().clone(), torch.tensor(1.1, requires_grad=True)]
    states = [
        warm(own, simulator=replace(simulator, car_following=replace(simulator.car_following, time_headway=x)))[0]
        for x in tensors
    ]
    assert drives == [20, 20, 20]  # a number, a tensor of the same value, another value
    assert equal(states[0], states[1]) and not equal(states[0], states[2])
    torch.testing.assert_close(states[0].position, plain.position)
    assert not states[0].position.requires_grad and not states[1].position.requires_grad


@dataclass(frozen=True)
class OwnModel(IDM):
    """A user's model, whose code the key cannot know."""


def test_a_model_of_ones_own_is_not_kept(folder, drives):
    own = scenario()
    simulator = own.build()
    values = {field.name: getattr(simulator.car_following, field.name) for field in fields(IDM)}
    for _ in range(2):
        warm(own, simulator=replace(simulator, car_following=OwnModel(**values)))
    assert len(drives) == 2 and files(folder) == []


def test_without_a_generator_nothing_is_kept(folder, drives):
    for _ in range(2):
        scenario().initial_state(WORLDS)
    assert len(drives) == 2 and files(folder) == []


def test_short_warm_ups_are_not_kept(folder, drives, monkeypatch):
    monkeypatch.setattr(warmup_cache, "WORTHWHILE", WORLDS * 11 * 20 + 1)
    warm()
    assert files(folder) == []
    monkeypatch.setattr(warmup_cache, "WORTHWHILE", WORLDS * 11 * 20)
    warm()
    assert len(drives) == 2 and len(files(folder)) == 1


def flipped(content: bytes) -> bytes:
    """The file with one bit of a stored position changed: a tensor of the right shape with a wrong number."""
    position = torch.load(io.BytesIO(content), weights_only=True)["fields"]["position"]
    at = content.index(position.numpy().tobytes())
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def foreign(content: bytes) -> bytes:
    """What was kept under another key."""
    return _changed(content, key="0" * 64)


def shortened(content: bytes) -> bytes:
    """A state without its last world."""
    state = torch.load(io.BytesIO(content), weights_only=True)["fields"]
    return _changed(content, fields={name: x[:-1] for name, x in state.items()})


def _changed(content: bytes, **parts) -> bytes:
    record = torch.load(io.BytesIO(content), weights_only=True) | parts
    record["checksum"] = warmup_cache._checksum(record["fields"], record["generators"])
    buffer = io.BytesIO()
    torch.save(record, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"no checkpoint",
        lambda content: content[: len(content) // 2],
        flipped,
        foreign,
        shortened,
        lambda content: _changed(content, generators=[torch.zeros(5056, dtype=torch.uint8)]),
        lambda content: _changed(content, generators=[]),
    ],
)
def test_a_damaged_or_foreign_file_is_computed_anew(folder, drives, damage):
    expected, after = warm()
    (file,) = files(folder)
    whole = file.read_bytes()
    broken = damage(whole)
    assert broken != whole
    file.write_bytes(broken)
    again, after_again = warm()
    assert len(drives) == 2 and equal(again, expected) and torch.equal(after_again, after)
    warm()
    assert len(drives) == 2  # the file is whole again


@pytest.mark.parametrize("word", ["off", "OFF", "0"])
def test_off(folder, drives, monkeypatch, word):
    monkeypatch.setenv("TRAFFICGRAD_CACHE", word)
    monkeypatch.chdir(folder.parent)
    warm()
    warm()
    assert len(drives) == 2 and list(folder.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error(folder, drives, monkeypatch):
    occupied = folder.parent / "file"
    occupied.write_text("")
    monkeypatch.setenv("TRAFFICGRAD_CACHE", str(occupied))
    first, _ = warm()
    second, _ = warm()
    assert len(drives) == 2 and equal(first, second)


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAFFICGRAD_CACHE", str(tmp_path / "mine"))
    assert warmup_cache.cache_folder() == tmp_path / "mine" / "warm_up"
    monkeypatch.delenv("TRAFFICGRAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert warmup_cache.cache_folder() == tmp_path / "xdg" / "trafficgrad" / "warm_up"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert warmup_cache.cache_folder() == tmp_path / "home" / ".cache" / "trafficgrad" / "warm_up"


def test_what_was_not_used_for_longest_makes_room(folder, drives, monkeypatch):
    names = []
    for seed in range(3):
        warm(seed=seed)
        (new,) = {file.name for file in files(folder)} - set(names)
        names.append(new)
        os.utime(folder / new, (seed + 1, seed + 1))
    (folder / "mine.pt").write_bytes(b"a file of the user's own")
    warm(seed=0)  # used again: now the newest of the three
    assert len(drives) == 3
    monkeypatch.setattr(warmup_cache, "LARGEST", 3 * (folder / names[0]).stat().st_size + 100)
    warm(seed=3)
    left = {file.name for file in files(folder)}
    assert names[1] not in left and {names[0], names[2], "mine.pt"} < left and len(left) == 4
    monkeypatch.setattr(warmup_cache, "LARGEST", 10)
    warm(seed=4)
    assert {file.name for file in files(folder)} == {"mine.pt"}
