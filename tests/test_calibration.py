"""Drivers from recorded trajectories: tables, exact slopes, known drivers found again, and what is not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_trajectories import NAMES, behind_profile, drawn, idm, records_of

import trafficgrad as tg
from trafficgrad import tree
from trafficgrad.calibration import (
    FitSettings,
    FollowingRecords,
    calibrate,
    follow,
)
from trafficgrad.calibration.car_following_fit import condensed
from trafficgrad.calibration.lockstep import solve_together

# ---------------------------------------------------------------------- following


def test_followers_drive_as_in_the_simulator(ten_drivers, each_backend):
    values, record = ten_drivers
    found = follow(tg.IDM(), NAMES, values, records_of(record), torch.arange(10), slopes=False)
    torch.testing.assert_close(found.position, record.position[..., 1], rtol=0, atol=1e-8)
    torch.testing.assert_close(found.speed, record.speed[..., 1], rtol=0, atol=1e-9)


def test_slopes_are_the_central_differences(ten_drivers, each_backend):
    values, record = ten_drivers
    records, rows = records_of(record), torch.tensor([3, 0, 3])
    guess = 0.9 * values[rows] + 0.1 * drawn(3, seed=5)
    found = follow(tg.IDM(), NAMES, guess, records, rows)
    for p in range(5):
        h = 1e-6 * guess[:, p].mean()
        step = torch.zeros_like(guess)
        step[:, p] = h
        more, less = (follow(tg.IDM(), NAMES, guess + s * step, records, rows, slopes=False) for s in (1, -1))
        torch.testing.assert_close(
            found.position_slope[..., p], (more.position - less.position) / (2 * h), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(found.speed_slope[..., p], (more.speed - less.speed) / (2 * h), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("integrator", ["ballistic", "semi_implicit_euler", "explicit_euler"])
@pytest.mark.parametrize("model", [tg.IDM(), tg.IDM(exponent=3.5), tg.IDM(desired_gap="paper")])
def test_the_kernel_follows_as_the_reference_does(ten_drivers, monkeypatch, integrator, model):
    """Free parameters, fixed ones, drivers behind nobody, standstill: all that a record may hold."""
    records = records_of(ten_drivers[1])
    rear = records.leader_rear.clone()
    rear[600:700, 4] = torch.inf
    records, rows = replace(records, leader_rear=rear), torch.tensor([4, 1, 4, 9])
    names = (*NAMES, "exponent") if model.exponent != 4.0 else NAMES[::-1][:4]
    drivers = ten_drivers[0][rows]
    values = torch.stack([drivers[:, NAMES.index(n)] if n in NAMES else 0.0 * rows + 3.5 for n in names], 1).double()
    found = []
    for backend in ("reference", "fused"):
        monkeypatch.setenv("TRAFFICGRAD_BACKEND", backend)
        found.append(follow(model, names, values, records, rows, integrator))
    assert (found[0].speed == 0.0).any()
    for name in ("position", "speed", "position_slope", "speed_slope"):
        torch.testing.assert_close(getattr(found[1], name), getattr(found[0], name), rtol=1e-7, atol=1e-7)


def test_a_driver_behind_nobody_reaches_its_desired_speed():
    free = FollowingRecords(
        ids=("a",),
        driver=torch.tensor([0]),
        position=torch.zeros(900, 1, dtype=torch.float64),
        speed=torch.zeros(900, 1, dtype=torch.float64),
        leader_rear=torch.full((900, 1), torch.inf, dtype=torch.float64),
        leader_speed=torch.zeros(900, 1, dtype=torch.float64),
        samples=torch.tensor([900]),
        start=torch.zeros(1, dtype=torch.float64),
        dt=0.1,
    )
    found = follow(tg.IDM(), ("desired_speed",), torch.tensor([[20.0]], dtype=torch.float64), free, torch.tensor([0]))
    assert float(found.speed[-1, 0]) == pytest.approx(20.0, abs=0.01)
    assert float(found.speed_slope[-1, 0, 0]) == pytest.approx(1.0, abs=0.02)
    assert torch.isfinite(found.position_slope).all()


# ---------------------------------------------------------------------- the fit


def test_ten_drivers_are_found_again_from_one_common_start(ten_drivers):
    values, record = ten_drivers
    found = calibrate(records_of(record), settings=FitSettings(starts=1))
    assert np.abs(found.values / values.numpy() - 1.0).max() < 0.01
    assert found.held_out.gap.max() < 0.01 < found.before.gap.min()
    assert not any(found.doubts(driver) for driver in range(10))


def test_parameters_that_the_data_do_not_show_are_said(ten_drivers):
    """Behind a leader that never lets anybody go fast nobody's desired speed shows."""
    records = records_of(ten_drivers[1])
    slow = records.part(torch.full((10,), 360), torch.full((10,), 60), torch.arange(10))  # pulling away from standstill
    found = calibrate(slow, settings=FitSettings(starts=1, holdout=0.0, shortest=1.0))
    said = [" ".join(found.doubts(driver)) for driver in range(10)]
    assert all("comfortable deceleration" in doubt or "desired speed" in doubt for doubt in said)


def test_a_bound_in_the_way_is_said(ten_drivers):
    two = tree.tree_map(lambda x: x[:, :2], ten_drivers[1])
    settings = FitSettings(free=("time_headway",), starts=1, bounds={"time_headway": (2.0, 5.0)})
    found = calibrate(records_of(two), settings=settings)
    assert all("at its lowest: time headway" in "; ".join(found.doubts(driver)) for driver in range(2))
    assert found.values.min() >= 2.0 - 1e-9


def test_what_is_fixed_stays(ten_drivers):
    free = ("time_headway", "min_gap")
    found = calibrate(records_of(ten_drivers[1]), tg.IDM(desired_speed=31.0), FitSettings(free=free, starts=1))
    assert found.names == free and found.values.shape == (10, 2)
    assert found.drivers().desired_speed == 31.0
    assert found.drivers().time_headway.shape == (10,)


def test_shared_parameters_are_one_set_for_all():
    values = drawn(1).expand(3, 5)
    record = behind_profile(values)
    found = calibrate(records_of(record), settings=FitSettings(shared=True, starts=1))
    assert found.values.shape == (1, 5)
    np.testing.assert_allclose(found.values[0], values[0].numpy(), rtol=0.01)


def test_few_bad_samples_do_not_pull_a_robust_fit(ten_drivers):
    values, record = ten_drivers
    records = records_of(record)
    spoilt = records.position.clone()
    spoilt[200::211] += 30.0  # one sample of 211 is 30 m off
    spoilt = replace(records, position=spoilt)
    robust = calibrate(spoilt, settings=FitSettings(loss="cauchy", loss_scale=0.3, starts=1, holdout=0.0))
    squares = calibrate(spoilt, settings=FitSettings(loss="linear", starts=1, holdout=0.0))
    error = lambda found: np.abs(found.values / values.numpy() - 1.0).mean()  # noqa: E731
    assert error(robust) < 0.3 * error(squares)


def test_noise_leaves_the_fit_near_the_truth_and_its_errors_told(ten_drivers):
    values, record = ten_drivers
    records = records_of(record)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(records.position.shape, generator=generator, dtype=torch.float64)
    found = calibrate(replace(records, position=records.position + 0.3 * noise), settings=FitSettings(starts=2))
    assert found.fit.gap == pytest.approx(np.full(10, 0.3), rel=0.1)  # what the noise is
    missed = np.abs(found.values / values.numpy() - 1.0)
    assert np.median(missed) < 0.02
    assert ((missed < 4.0 * found.standard_error) | (missed < 0.02)).mean() > 0.9


@pytest.mark.parametrize("loss", ["linear", "soft_l1", "huber", "cauchy"])
def test_condensed_residuals_are_scipys_robust_problem(loss):
    """Sum of squares and gradient as least_squares itself finds them, and the weights of J are those of sqrt(loss)."""
    from scipy.optimize import least_squares

    generator = np.random.default_rng(0)
    line, offset = generator.standard_normal((50, 3)), 4.0 * generator.standard_normal(50)
    offset[7], point, scale = 0.0, np.zeros(3), 1.5
    short, jacobian = condensed(line @ point + offset, line, loss, scale)
    assert short.shape == (4,) and jacobian.shape == (4, 3)
    judged = least_squares(lambda x: line @ x + offset, point, jac=lambda x: line, loss=loss, f_scale=scale, max_nfev=1)
    assert 0.5 * short @ short == pytest.approx(judged.cost, rel=1e-12)
    np.testing.assert_allclose(short @ jacobian, judged.grad, rtol=1e-10, atol=1e-12)

    def roots(x):
        z = ((line @ x + offset) / scale) ** 2
        rho = {"linear": z, "soft_l1": 2 * (np.sqrt(1 + z) - 1), "cauchy": np.log1p(z)}
        rho["huber"] = np.where(z <= 1, z, 2 * np.sqrt(z) - 1)
        return np.sign(line @ x + offset) * scale * np.sqrt(rho[loss])

    rows = np.arange(50) != 7  # where the error is 0 differences of roots lose their digits
    slopes = np.stack([(roots(1e-6 * e) - roots(-1e-6 * e))[rows] / 2e-6 for e in np.eye(3)], 1)
    whole = slopes.T @ slopes + np.outer(line[7], line[7])
    np.testing.assert_allclose(jacobian.T @ jacobian, whole, rtol=1e-6)


def test_condensed_residuals_that_are_no_numbers_are_far_off():
    line = np.array([[1.0], [2.0], [3.0], [1e200]])
    short, jacobian = condensed(np.array([1.0, np.nan, np.inf, 2.0]), line, "linear", 1.0)
    assert short @ short == pytest.approx(2e12) and short @ jacobian == pytest.approx([1.0])


@pytest.mark.parametrize("side_by_side", [True, False])
def test_problems_are_solved_within_bounds(side_by_side):
    goals = np.linspace(0.5, 3.0, 300)  # more than are solved at a time

    def one(goal, x):
        return np.array([x[0] ** 2 - goal, 0.0]), np.array([[2 * x[0]], [0.0]])

    sizes, told = [], []

    def together(problems, points):
        sizes.append(len(problems))
        return [one(goals[p], x) for p, x in zip(problems, points, strict=True)]

    bounds = np.array([[0.2], [1.5]])
    found = solve_together([np.array([1.5])] * 300, together, bounds, told.append, side_by_side=side_by_side)
    np.testing.assert_allclose(
        [result.x for result in found], np.minimum(np.sqrt(goals), 1.5)[:, None], rtol=0, atol=1e-5
    )
    assert max(sizes) == (256 if side_by_side else 1) and told[-1] == 300
    assert all(0.2 <= result.x[0] <= 1.5 for result in found)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_an_error_in_the_batch_reaches_who_asked(side_by_side):
    def broken(problems, points):
        raise FloatingPointError("no number")

    with pytest.raises(FloatingPointError, match="no number"):
        solve_together([np.array([1.0])] * 3, broken, np.array([[0.0], [2.0]]), side_by_side=side_by_side)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"free": ("headway",)}, "unknown parameter 'headway' .did you mean 'time_headway'"),
        ({"free": ()}, "names of different free parameters"),
        ({"bounds": {"min_gap": (3.0, 2.0)}}, "bounds of min_gap must be"),
        ({"measure": "distance"}, "unknown measure"),
        ({"loss": "l2"}, "unknown loss"),
        ({"starts": 0}, "at least 1 start"),
        ({"holdout": 1.0}, "holdout must be"),
    ],
)
def test_settings_that_make_no_sense_get_one_sentence(settings, message):
    with pytest.raises(tg.TrafficGradError, match=message):
        FitSettings(**settings)


def test_a_model_of_many_drivers_is_no_start(ten_drivers):
    values, record = ten_drivers
    with pytest.raises(tg.TrafficGradError, match="must be one number to start from"):
        calibrate(records_of(record), idm(values))
