"""The simulator against traffic theory: equilibria, stability of rings and platoons, capacity, stopping."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.network import ring, straight
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, Fleet, TrafficState

CARS, BODY = 22, 5.0
V0, T, A, B, S0 = 30.0, 1.0, 1.0, 1.5, 2.0  # the drivers of Flow's ring
FLOW = IDM(V0, T, A, B, S0)
INTEGRATORS = ["ballistic", "semi_implicit_euler", "explicit_euler"]


def equilibrium_gap(v: float, v0: float = V0, headway: float = T, s0: float = S0) -> float:
    return (s0 + v * headway) / math.sqrt(1 - (v / v0) ** 4)


def equilibrium_speed(gap: float, v0: float = V0, headway: float = T, s0: float = S0) -> float:
    low, high = 0.0, v0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if equilibrium_gap(middle, v0, headway, s0) < gap else (low, middle)
    return low


def partials(v: float) -> tuple[float, float, float]:
    """f_s, f_v, f_dv of the IDM at the equilibrium of speed v, closed form (dv = v - v_leader)."""
    s, wished = equilibrium_gap(v), S0 + v * T
    f_s = 2 * A * wished**2 / s**3
    f_v = -A * (4 / V0 * (v / V0) ** 3 + 2 * T * wished / s**2)
    return f_s, f_v, -v / s**2 * wished * math.sqrt(A / B)


def uniform(length: float, speed: float) -> TrafficState:
    position = torch.arange(CARS, dtype=torch.float64) * length / CARS
    return TrafficState(position, torch.full_like(position, speed), torch.zeros(CARS))


def step_jacobian(simulator: Simulator, state: TrafficState, action: Action | None = None) -> np.ndarray:
    """d(position, speed)(t + dt) / d(position, speed)(t) of one world by autograd, [2N, 2N]."""
    count = state.vehicles

    def advance(z: Tensor) -> Tensor:
        moved = TrafficState(z[:count], z[count:], state.lane[0])
        after = simulator.step(moved, action)
        return torch.cat([after.position[0], after.speed[0]])

    here = torch.cat([state.position[0], state.speed[0]])
    return torch.autograd.functional.jacobian(advance, here).numpy()


def discrete_modes(v: float, dt: float, integrator: str) -> np.ndarray:
    """Eigenvalues of the linearised time step on the ring, from the closed form, wave by wave."""
    f_s, f_v, f_dv = partials(v)
    share = {"ballistic": 0.5, "semi_implicit_euler": 1.0, "explicit_euler": 0.0}[integrator]
    modes: list[complex] = []
    for k in range(CARS):
        behind = 1 - cmath.exp(2j * math.pi * k / CARS)  # own minus leader's
        kick = np.array([-f_s * behind, f_v + f_dv * behind]) * dt
        matrix = np.array([[1, dt], [0, 1]]) + np.outer([share * dt, 1], kick)
        modes.extend(np.linalg.eigvals(matrix))
    return np.array(modes)


def growth(modes: np.ndarray, dt: float) -> float:
    """Largest growth rate, 1/s, without the neutral rotation of the whole ring."""
    rest = np.delete(modes, np.argmin(abs(modes - 1)))
    return float(np.log(abs(rest)).max() / dt)


SPEEDS = [(220, 3.000), (230, 3.454), (240, 3.908), (250, 4.362), (260, 4.816), (270, 5.269)]


@pytest.mark.parametrize("length, speed", SPEEDS)
def test_equilibrium_speed_of_22_cars(length: float, speed: float) -> None:
    exact = equilibrium_speed(length / CARS - BODY)
    assert exact == pytest.approx(speed, abs=1e-3)
    simulator = Simulator(ring(length), Fleet(), FLOW)
    with torch.no_grad():
        state = simulator.simulate(uniform(length, exact), 50)
    assert (state.speed - exact).abs().max() < 1e-9
    # nothing else is an equilibrium: a speed off by 1e-3 is pulled back
    for off in (-1e-3, 1e-3):
        after = simulator.step(uniform(length, exact + off))
        assert (off * (after.speed - exact - off) < 0).all()


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_stable_drivers_reach_the_equilibrium_from_standstill(integrator: str) -> None:
    state = uniform(230.0, 0.0)
    state.position[0, 0] += 1.0
    simulator = Simulator(ring(230.0), Fleet(), IDM(30.0, 1.5, 3.0, 1.5, 2.0), integrator=integrator)  # type: ignore[arg-type]
    with torch.no_grad():
        for _ in range(2000):
            state = simulator.step(state)
    exact = equilibrium_speed(230 / CARS - BODY, headway=1.5)
    assert exact == pytest.approx(2.303, abs=1e-3)
    assert (state.speed - exact).abs().max() < 1e-3


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("length", [230.0, 500.0])
def test_jacobian_of_a_step_has_the_closed_form_spectrum(length: float, integrator: str) -> None:
    v, dt = equilibrium_speed(length / CARS - BODY), 0.1
    simulator = Simulator(ring(length), Fleet(), FLOW, dt=dt, integrator=integrator)  # type: ignore[arg-type]
    ours = np.linalg.eigvals(step_jacobian(simulator, uniform(length, v)))
    expected = discrete_modes(v, dt, integrator)
    distance = abs(ours[:, None] - expected[None])
    assert distance.min(0).max() < 1e-9 and distance.min(1).max() < 1e-9


@pytest.mark.parametrize(
    "length, rate", [(220, 0.0245), (230, 0.0235), (260, 0.0202), (300, 0.0156), (400, 0.0041), (500, -0.0081)]
)
def test_growth_rate_of_the_ring(length: float, rate: float) -> None:
    """Autograd's eigenvalues at a small step give the published growth rates of the continuous model."""
    dt = 1e-3
    simulator = Simulator(ring(length), Fleet(), FLOW, dt=dt)
    modes = np.linalg.eigvals(step_jacobian(simulator, uniform(length, equilibrium_speed(length / CARS - BODY))))
    assert growth(modes, dt) == pytest.approx(rate, abs=1e-4)


def test_critical_length_of_the_ring() -> None:
    def rate(length: float) -> float:
        simulator = Simulator(ring(length), Fleet(), FLOW, dt=1e-3)
        state = uniform(length, equilibrium_speed(length / CARS - BODY))
        return growth(np.linalg.eigvals(step_jacobian(simulator, state)), 1e-3)

    assert rate(433.0) > 0 > rate(435.2)


def test_a_small_wave_grows_at_the_predicted_rate() -> None:
    length, dt, steps = 230.0, 0.1, 300
    v = equilibrium_speed(length / CARS - BODY)
    modes = discrete_modes(v, dt, "ballistic")
    fastest = modes[np.argmax(abs(modes))]
    simulator = Simulator(ring(length), Fleet(), FLOW, dt=dt)
    values, vectors = np.linalg.eig(step_jacobian(simulator, uniform(length, v)))
    wave = torch.from_numpy(vectors[:, np.argmin(abs(values - fastest))].real.copy()) * 1e-6
    state = uniform(length, v)
    state = TrafficState(state.position[0] + wave[:CARS] + 1.0, state.speed[0] + wave[CARS:], torch.zeros(CARS))
    start = (state.speed - v).norm()
    with torch.no_grad():
        trajectory = simulator.simulate(state, steps)
    # the wave is standing in the frame of its phase: compare the envelope over one turn of the phase
    turn = round(2 * math.pi / abs(cmath.phase(fastest)))
    norms = (trajectory.speed[:, 0] - v).norm(dim=-1)
    assert start > 0 and turn < steps
    measured = float(torch.log(norms[turn] / norms[0]) / (turn * dt))
    assert measured == pytest.approx(math.log(abs(fastest)) / dt, rel=2e-2)


@pytest.mark.parametrize("v, peak", [(5, 1.0297), (10, 1.0155), (15, 1.0051), (20, 1.0), (25, 1.0)])
def test_platoon_gain_per_car(v: float, peak: float) -> None:
    """Transfer function of the leader's speed through 20 followers, from autograd's Jacobian of a step."""
    cars, dt = 21, 0.002
    gap = equilibrium_gap(v)
    position = 3000.0 - torch.arange(cars, dtype=torch.float64) * (gap + BODY)
    state = TrafficState(position, torch.full_like(position, v), torch.zeros(cars))
    simulator = Simulator(straight(5000.0), Fleet(controlled=[0]), FLOW, dt=dt)
    jacobian = step_jacobian(simulator, state, Action(torch.zeros(1, 1, dtype=torch.float64)))
    push = np.zeros(2 * cars)
    push[0], push[cars] = dt**2 / 2, dt  # the leader's acceleration
    gains = []
    for omega in np.geomspace(1e-3, 3.0, 400):
        response = np.linalg.solve(np.exp(1j * omega * dt) * np.eye(2 * cars) - jacobian, push)
        gains.append(abs(response[2 * cars - 1] / response[cars]))
    assert max(gains) ** (1 / 20) == pytest.approx(peak, abs=3e-4)
    assert (max(gains) > 1.001) == (v < 18.1)


@pytest.mark.parametrize("v", [0.5, 3.454, 10.0, 18.1, 25.0])
def test_partial_derivatives_of_the_model(v: float) -> None:
    x = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (v, equilibrium_gap(v), 0.0)]
    acceleration = FLOW.acceleration(*x)
    assert abs(float(acceleration.detach())) < 1e-12
    f_v, f_s, f_dv = (float(g) for g in torch.autograd.grad(acceleration, x))
    assert (f_s, f_v, f_dv) == pytest.approx(partials(v), rel=1e-10)
    assert f_s > 0 > f_v and f_dv < 0


def test_string_stability_begins_at_18_metres_per_second() -> None:
    def criterion(v: float) -> float:
        f_s, f_v, f_dv = partials(v)
        return f_v**2 / 2 + f_v * f_dv - f_s

    assert criterion(18.0) < 0 < criterion(18.2)


@pytest.mark.parametrize(
    "v0, headway, a, b, flow, density, speed",
    [(30.0, 1.0, 1.0, 1.5, 2452, 37.1, 18.4), (33.3, 1.6, 0.73, 1.67, 1742, 26.1, 18.6)],
)
def test_capacity(v0: float, headway: float, a: float, b: float, flow: float, density: float, speed: float) -> None:
    """The fundamental diagram, found with the model itself: the gap at which it neither speeds up nor slows."""
    v = torch.linspace(10, 28, 1801, dtype=torch.float64)
    low, high = torch.full_like(v, 1.0), torch.full_like(v, 1e4)
    model = IDM(v0, headway, a, b, 2.0)
    for _ in range(100):
        middle = (low + high) / 2
        faster = model.acceleration(v, middle, torch.zeros_like(v)) > 0
        low, high = torch.where(faster, low, middle), torch.where(faster, middle, high)
    flows = v / (low + BODY) * 3600
    best = flows.argmax()
    assert float(flows[best]) == pytest.approx(flow, abs=1)
    assert float(flows[best] / v[best] / 3.6) == pytest.approx(density, abs=0.1)
    assert float(v[best]) == pytest.approx(speed, abs=0.1)


@pytest.mark.parametrize("length", [700.0, 1500.0])
def test_stable_branch_of_the_fundamental_diagram(length: float) -> None:
    generator = torch.Generator().manual_seed(1)
    state = uniform(length, 15.0)
    state.position[0] += 5 * torch.rand(CARS, generator=generator, dtype=torch.float64)
    simulator = Simulator(ring(length, edges=3), Fleet(), FLOW)
    at = state.position[0]
    edge = torch.div(at, length / 3, rounding_mode="floor").long().clamp(max=2)
    order = torch.tensor([simulator.network.lanes.index((e, 0)) for e in range(3)])
    state = TrafficState(at - edge * length / 3, state.speed[0], order[edge])
    with torch.no_grad():
        for _ in range(2000):
            state = simulator.step(state)
    exact = equilibrium_speed(length / CARS - BODY)
    assert float(state.speed.mean()) == pytest.approx(exact, rel=1e-2)


def test_approach_to_a_standing_vehicle() -> None:
    """From 20 m/s: stops min_gap away, never overlaps, brakes at most 1.5 b."""
    speeds, gaps = [], []
    fleet = Fleet(controlled=[0])
    simulator = Simulator(straight(2000.0), fleet, FLOW)
    start = torch.tensor([1000.0, 700.0], dtype=torch.float64)
    state = TrafficState(start, torch.tensor([0.0, 20.0], dtype=torch.float64), torch.zeros(2))
    with torch.no_grad():
        for _ in range(1500):
            state = simulator.step(state, Action(torch.zeros(1, 1, dtype=torch.float64)))
            speeds.append(float(state.speed[0, 1]))
            gaps.append(1000.0 - BODY - float(state.position[0, 1]))
    assert min(gaps) > 0 and min(speeds) >= 0
    assert gaps[-1] == pytest.approx(S0, abs=0.3) and speeds[-1] < 0.05
    assert float(state.position[0, 0]) == 1000.0
    assert max(np.diff(speeds) / -0.1) < 1.5 * B
    assert np.diff(gaps).max() <= 1e-12


def test_free_road() -> None:
    """Alone: dv/dt = a (1 - (v / v0)^4), and v -> v0 from below and above."""
    simulator = Simulator(straight(30000.0), Fleet(), FLOW)
    state = TrafficState(
        torch.tensor([[0.0], [0.0]], dtype=torch.float64),
        torch.tensor([[0.0], [36.0]], dtype=torch.float64),
        torch.zeros(2, 1),
    )
    after = simulator.step(state)
    assert after.speed[:, 0].tolist() == pytest.approx([0.1, 36 + 0.1 * (1 - 1.2**4)], abs=1e-12)
    with torch.no_grad():
        for _ in range(800):
            state = simulator.step(state)
    assert state.speed[:, 0].tolist() == pytest.approx([V0, V0], abs=0.05)
    assert state.speed[0, 0] < V0 < state.speed[1, 0]
