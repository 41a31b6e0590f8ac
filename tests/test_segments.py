"""Gradients segment by segment equal those of one simulation, and need the memory of one segment."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import trafficgrad as tg
from trafficgrad.segments import accumulate

STEPS = 60


def two_lane_ring(noise: float = 0.0) -> tuple[tg.Simulator, tg.TrafficState, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    speed = (20.0 + 10.0 * torch.rand(12, generator=generator, dtype=torch.float64)).requires_grad_()
    mobil = tg.MOBIL(politeness=torch.tensor(0.2, dtype=torch.float64, requires_grad=True))
    fleet = tg.Fleet(controlled=[0, 5], follow_limit=True, acceleration_noise=noise)
    simulator = tg.Simulator(tg.ring(240.0, 2), fleet, tg.IDM(desired_speed=speed), mobil)
    i = torch.arange(12)
    place = ((i // 2) * 40.0 + torch.rand(12, generator=generator)).double().requires_grad_()
    return simulator, tg.TrafficState(place, torch.full((12,), 8.0).double(), i % 2), place


def wanted(simulator: tg.Simulator, place: torch.Tensor) -> list[torch.Tensor]:
    return [place, simulator.car_following.desired_speed, simulator.lane_change.politeness]


def measure(part: tg.Trajectory) -> torch.Tensor:
    return part.speed[1:].square().mean(-1).sum(0)


@pytest.mark.parametrize("segment", [1, 7, 60, 100])
def test_sums_and_gradients_are_those_of_one_simulation(each_backend, segment):
    simulator, state, place = two_lane_ring()
    plan = (0.3 * torch.randn(STEPS, 1, 2, generator=torch.Generator().manual_seed(1))).double().requires_grad_()
    whole = simulator.simulate(state, STEPS, actions=tg.Action(plan))
    assert (whole.lane[-1] != whole.lane[0]).any()  # lane changes are among what is differentiated
    expected = torch.autograd.grad(measure(whole).sum() + whole.position[-1].sum(), [plan, *wanted(simulator, place)])
    last, total = accumulate(simulator, state, STEPS, measure, segment=segment, actions=tg.Action(plan))
    torch.testing.assert_close(total, measure(whole))
    torch.testing.assert_close(last.position, whole.position[-1])
    assert torch.equal(last.lane, whole.lane[-1])
    found = torch.autograd.grad(total.sum() + last.position.sum(), [plan, *wanted(simulator, place)])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_noise_is_the_same_both_times():
    simulator, state, place = two_lane_ring(noise=0.5)
    whole = simulator.simulate(state, STEPS, generator=torch.Generator().manual_seed(3))
    expected = torch.autograd.grad(measure(whole).sum(), wanted(simulator, place))
    generator = torch.Generator().manual_seed(3)
    _, total = accumulate(simulator, state, STEPS, measure, segment=20, generator=generator)
    torch.testing.assert_close(total, measure(whole))
    for a, b in zip(torch.autograd.grad(total.sum(), wanted(simulator, place)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_a_controllers_parameters_get_their_gradient():
    simulator, state, _ = two_lane_ring()
    gain = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def cruise(now: tg.TrafficState) -> tg.Action:
        return tg.Action(gain * (9.0 - now.speed[:, simulator.fleet.slots]))

    whole = simulator.simulate(state, STEPS, cruise)
    (expected,) = torch.autograd.grad(measure(whole).sum(), gain)
    _, total = accumulate(simulator, state, STEPS, measure, segment=25, controller=cruise, parameters=[gain])
    (found,) = torch.autograd.grad(total.sum(), gain)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_without_gradients_it_only_simulates():
    simulator, state, _ = two_lane_ring()
    with torch.no_grad():
        _, total = accumulate(simulator, state, STEPS, measure, segment=25)
    assert not total.requires_grad


def test_no_steps_are_refused():
    simulator, state, _ = two_lane_ring()
    with pytest.raises(tg.TrafficGradError, match="at least 1 step"):
        accumulate(simulator, state, 0, measure)


PROGRAM = """
import pathlib, re, resource, sys, torch, trafficgrad as tg
from trafficgrad.segments import accumulate
torch.set_num_threads(1)
backend, steps, segment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
headway = torch.tensor(1.0, requires_grad=True)
simulator = tg.Simulator(tg.ring(4600.0), tg.Fleet(), tg.IDM(time_headway=headway), backend=backend)
state = tg.TrafficState(torch.arange(440) * 10.0, torch.zeros(440), torch.zeros(440, dtype=torch.int64))
def peak():  # MiB; what getrusage tells may be that of the process which started this one
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text()).group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def gradient(steps):
    _, total = accumulate(simulator, state, steps, lambda part: part.speed[1:].mean(-1).sum(0), segment=segment)
    total.sum().backward()
gradient(segment if segment < steps else 10)
before = peak()
gradient(steps)
print(peak() - before)
"""


@pytest.mark.parametrize(("backend", "steps", "segment"), [("auto", 8_000, 100), ("reference", 120, 10)])
def test_memory_is_that_of_one_segment(backend, steps, segment):
    def needed(segment: int) -> float:
        command = [sys.executable, "-c", PROGRAM, backend, str(steps), str(segment)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert needed(segment) < 0.3 * needed(steps)
