"""Plots of traffic, gradients and trainings: what is drawn is what was measured, and what cannot be drawn is said."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import imageio.v3 as imageio
import matplotlib
import numpy as np
import pytest
import torch

from trafficgrad import metrics, render
from trafficgrad.car_following import IDM
from trafficgrad.errors import TrafficGradError
from trafficgrad.network import ring, straight
from trafficgrad.render import (
    before_after,
    deviation_over_time,
    fundamental_diagram,
    gradient_heat_map,
    measure_cells,
    speed_distribution,
    training_traces,
)
from trafficgrad.render.layout import RoadLayout
from trafficgrad.scenario_config import load_traffic
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.trajectory import Trajectory

DT = 0.1


def moved(positions, speeds, lanes, dt=DT, active=None):
    """A trajectory of one world from rows of positions, speeds and lanes, ``[T+1][N]``."""
    active = [[True] * len(positions[0])] * len(positions) if active is None else active
    states = [
        TrafficState(
            position=torch.tensor([p], dtype=torch.float64),
            speed=torch.tensor([v], dtype=torch.float64),
            lane=torch.tensor([lane]),
            active=torch.tensor([there]),
            time=torch.tensor([k * dt], dtype=torch.float64),
        )
        for k, (p, v, lane, there) in enumerate(zip(positions, speeds, lanes, active, strict=True))
    ]
    return Trajectory.of(states, None, dt)


def constant(start, speeds, lanes, steps, wrap=None):
    """Everybody drives at constant speed."""
    rows = [[x + v * k * DT for x, v in zip(start, speeds, strict=True)] for k in range(steps + 1)]
    rows = [[x % wrap for x in row] for row in rows] if wrap else rows
    return moved(rows, [speeds] * (steps + 1), [lanes] * (steps + 1))


@pytest.fixture(scope="module")
def drive():
    """Four vehicles in two lanes for 3 s, slot 1 controlled: a simulator and its trajectory."""
    fleet = Fleet(length=5.0, width=1.8, controlled=(1,))
    simulator = Simulator(ring(200.0, lanes=2), fleet, IDM(15.0, 1.0, 1.0, 1.5, 2.0))
    start = TrafficState(
        torch.tensor([20.0, 70.0, 120.0, 199.0]).double(),
        torch.tensor([5.0, 8.0, 2.0, 10.0]).double(),
        torch.tensor([0, 0, 1, 1]),
    )
    return simulator, simulator.simulate(start, 30)


@pytest.fixture
def kept(monkeypatch):
    """The figures that are saved, in order."""
    figures = []
    for module in ("fundamental", "heat_map", "traffic_plots", "training_plots"):
        place = sys.modules[f"trafficgrad.render.{module}"]

        def keep(figure, path, *more, save=place.save_figure):
            figures.append(figure)
            return save(figure, path, *more)

        monkeypatch.setattr(place, "save_figure", keep)
    return figures


# ---------------------------------------------------------------- cells of space and time


def test_cells_of_one_vehicle_in_closed_form():
    trajectory = constant([50.0], [10.0], [0], 100)  # from 50 m to 150 m in 10 s
    cells = measure_cells(trajectory, straight(1000.0), cell_length=100.0, cell_duration=5.0)
    assert cells.flow.shape == (1, 2, 10)
    assert cells.time.tolist() == [0.0, 5.0, 10.0] and cells.distance.tolist() == [100.0 * i for i in range(11)]
    expected = np.zeros((2, 10))
    expected[0, 0] = expected[1, 1] = 50.0 / (100.0 * 5.0)  # 50 m in a cell of 100 m x 5 s
    assert np.allclose(cells.flow[0], expected)
    assert np.allclose(cells.density[0], expected / 10.0)
    assert np.allclose(cells.speed[0], np.where(expected > 0, 10.0, np.nan), equal_nan=True)


def test_cells_that_fit_neither_steps_nor_the_ring():
    speeds, length = [8.0, 8.0, 8.0, 3.0, 0.0], 200.0
    trajectory = constant([0.0, 60.0, 199.9, 120.0, 30.0], speeds, [0, 0, 1, 1, 0], 50, wrap=length)
    for edges in (1, 4):
        network = ring(length, lanes=2, edges=edges)
        record = trajectory
        if edges > 1:
            edge = (trajectory.position // 50.0).long()
            record = replace(trajectory, position=trajectory.position % 50.0, lane=trajectory.lane + 2 * edge)
        cells = measure_cells(record, network, cell_length=27.0, cell_duration=0.73)
        assert cells.flow.shape == (1, 7, 7)
        room = np.diff(cells.time)[:, None] * np.diff(cells.distance)
        # The whole recording is one large cell: what it holds is what the parts hold.
        assert np.isclose((cells.density[0] * room).sum() / room.sum(), float(metrics.density(record, network)[0, 0]))
        assert np.isclose((cells.flow[0] * room).sum() / room.sum(), float(metrics.flow(record, network)[0, 0]))


def test_cells_against_many_small_steps(drive):
    simulator, trajectory = drive
    cells = measure_cells(trajectory, simulator.network, cell_length=11.0, cell_duration=1.0, per_lane=True)
    parts, fine = len(cells.distance) - 1, 400
    spent = np.zeros((2, 3, parts))
    position, lane = trajectory.position[:, 0].numpy(), trajectory.lane[:, 0].numpy()
    for k in range(trajectory.steps):
        advance = (position[k + 1] - position[k]) % 200.0
        for n in range(4):
            places = (position[k, n] + advance[n] * (np.arange(fine) + 0.5) / fine) % 200.0
            np.add.at(spent[lane[k, n], k // 10], (places * parts / 200.0).astype(int), DT / fine)
    assert np.allclose(cells.density * 200.0 / parts, spent, atol=1.1 * DT / fine)


def test_cells_by_lane_follow_a_lane_change():
    lanes = [[0]] * 6 + [[2]] * 5  # the change happens at the end of step 5
    trajectory = moved([[10.0 + k] for k in range(11)], [[10.0]] * 11, lanes)
    network = ring(90.0, lanes=3)
    cells = measure_cells(trajectory, network, cell_length=90.0, cell_duration=1.0, per_lane=True)
    assert np.allclose(cells.density[:, 0, 0] * 90.0, [0.6, 0.0, 0.4])
    assert np.allclose(cells.flow[:, 0, 0] * 90.0, [6.0, 0.0, 4.0])
    together = measure_cells(trajectory, network, cell_length=90.0, cell_duration=1.0)
    assert np.allclose(cells.flow.mean(0), together.flow[0])


def test_cells_of_a_standing_and_of_a_vanished_vehicle():
    active = [[True, k < 5] for k in range(11)]
    trajectory = moved([[30.0, 5.0 + k] for k in range(11)], [[0.0, 10.0]] * 11, [[0, 0]] * 11, active=active)
    cells = measure_cells(trajectory, straight(40.0), cell_length=20.0, cell_duration=1.0)
    assert np.allclose(cells.density[0, 0] * 20.0, [0.4, 1.0])  # four steps between five records
    assert np.allclose(cells.flow[0, 0] * 20.0, [4.0, 0.0]) and cells.speed[0, 0, 1] == 0.0


def test_roads_are_measured_apart():
    scenario = load_traffic("merge", ["initial.kind=empty"])
    network = scenario.build_network()
    layout = RoadLayout.of(network)
    road = int(np.argmax([r.length for r in layout.roads]))
    lane = int(layout.lanes_of[layout.roads[road].edges[0]][0])
    trajectory = constant([1.0], [10.0], [lane], 10)
    elsewhere = (road + 1) % len(layout.roads)
    assert np.nansum(measure_cells(trajectory, network, road=road).flow) > 0
    assert np.nansum(measure_cells(trajectory, network, road=elsewhere).flow) == 0
    with pytest.raises(TrafficGradError, match=f"has {len(layout.roads)} roads; choose one: road=0 to"):
        measure_cells(trajectory, network)
    with pytest.raises(TrafficGradError, match=f"no road {len(layout.roads)} in this network"):
        measure_cells(trajectory, network, road=len(layout.roads))


def test_fundamental_diagram_shows_the_cells(drive, kept, tmp_path):
    simulator, trajectory = drive
    network = simulator.network
    density, speed = np.linspace(0.01, 0.1, 5), np.linspace(14.0, 1.0, 5)
    path = fundamental_diagram(trajectory, network, tmp_path / "a.svg", equilibrium=(density, speed), title="two lanes")
    cells = measure_cells(trajectory, network)
    there = np.isfinite(cells.speed)
    left, right = kept[0].axes
    for axes, curve, dots in ((left, density * speed * 3600, cells.flow * 3600), (right, speed, cells.speed)):
        line, points = axes.lines
        assert np.allclose(line.get_xydata(), np.stack([density * 1000, curve], -1))
        assert np.allclose(points.get_xydata(), np.stack([cells.density[there] * 1000, dots[there]], -1))
    text = path.read_text()
    for words in ("density in vehicles per km and lane", "flow in vehicles per hour and lane", "speed in m/s"):
        assert f"<!-- {words} -->" in text
    assert "equilibrium" in text and "measured" in text and "two lanes" in text

    fundamental_diagram({"x": trajectory, r"$\frac$": trajectory}, network, tmp_path / "b.svg")
    assert r"<!-- $\frac$ -->" in (tmp_path / "b.svg").read_text()  # no formula
    fundamental_diagram(trajectory, network, tmp_path / "c.png", per_lane=True)
    names = [text.get_text() for text in kept[2].axes[1].get_legend().get_texts()]
    assert names == ["lane 0 (right)", "lane 1 (left)"]


# ---------------------------------------------------------------- speeds


def shares(axes, colour):
    """Heights of the outline in a colour, and its edges."""
    wanted = matplotlib.colors.to_rgba(colour)
    (step,) = (p for p in axes.patches if not p.get_fill() and p.get_edgecolor() == wanted)
    return step.get_data().values, step.get_data().edges


def test_speed_distribution_counts_vehicles_and_moments(kept, tmp_path):
    before = constant([0.0, 20.0, 40.0, 60.0], [4.2, 4.9, 12.2, 6.5], [0, 0, 0, 0], 7)
    speed_distribution(before, tmp_path / "a.png", controlled=[2], width=1.0)
    (axes,) = kept[0].axes
    for colour, expected in (
        ("#30343b", {4: 50.0, 6: 25.0, 12: 25.0}),
        ("#0072b2", {4: 200 / 3, 6: 100 / 3}),
        ("#d7191c", {12: 100.0}),
    ):
        values, edges = shares(axes, colour)
        assert np.allclose(values, [expected.get(round(edge), 0.0) for edge in edges[:-1]])
    assert axes.get_ylabel() == "share in % per 1 m/s"
    means = sorted(float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()))
    assert np.allclose(means, sorted([(4.2 + 4.9 + 12.2 + 6.5) / 4, (4.2 + 4.9 + 6.5) / 3, 12.2]))

    after = replace(before, speed=before.speed + 1.0)
    speed_distribution({"before": before, "after": after}, tmp_path / "b.png", controlled=[2], width=1.0)
    panels = kept[1].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["all vehicles", "not controlled", "controlled"]
    for axes, (first, second) in zip(panels, [(50.0, 50.0), (200 / 3, 200 / 3), (0.0, 0.0)], strict=True):
        for colour, bin_, expected in (("#0072b2", 4, first), ("#d55e00", 5, second)):
            values, edges = shares(axes, colour)
            assert values[list(np.round(edges)).index(bin_)] == pytest.approx(expected)
    speed_distribution({"before": before, "after": after}, tmp_path / "c.svg", title="all")
    assert len(kept[2].axes) == 1
    text = (tmp_path / "c.svg").read_text()
    assert all(f"<!-- {words} -->" in text for words in ("before", "after", "mean", "all"))


def test_deviation_over_time_is_that_of_the_metrics(drive, kept, tmp_path):
    speeds = [[2.0, 6.0, 4.0], [4.0, 4.0, 4.0], [1.0, 7.0, 99.0], [0.0, 0.0, 0.0]]
    active = [[True] * 3, [True] * 3, [True, True, False], [False] * 3]
    trajectory = moved([[0.0, 30.0, 60.0]] * 4, speeds, [[0] * 3] * 4, active=active)
    deviation_over_time(trajectory, tmp_path / "a.png")
    mean, deviation = (axes.lines[0].get_ydata() for axes in kept[0].axes)
    assert np.allclose(kept[0].axes[0].lines[0].get_xdata(), [0.0, 0.1, 0.2, 0.3])
    assert np.allclose(mean, [4.0, 4.0, 4.0, np.nan], equal_nan=True)
    assert np.allclose(deviation, [(8 / 3) ** 0.5, 0.0, 3.0, np.nan], equal_nan=True)
    deviation_over_time(trajectory, tmp_path / "b.png", vehicles=[1])
    assert np.allclose(kept[1].axes[0].lines[0].get_ydata(), [6.0, 4.0, 7.0, np.nan], equal_nan=True)

    two = replace(
        trajectory,
        **{
            name: torch.cat([getattr(trajectory, name), value], 1)
            for name, value in (
                ("speed", trajectory.speed + 2.0),
                ("active", trajectory.active),
                ("time", trajectory.time),
            )
        },
    )
    deviation_over_time({"a": two, "b": trajectory}, tmp_path / "c.svg", title="worlds")
    axes = kept[2].axes[0]
    assert np.allclose(axes.lines[0].get_ydata()[:3], 5.0) and np.allclose(axes.lines[1].get_ydata()[:3], 4.0)
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 4.0 and band[:, 1].max() == 6.0
    assert "<!-- worlds -->" in (tmp_path / "c.svg").read_text()
    deviation_over_time(two, tmp_path / "d.png", world=1)
    assert np.allclose(kept[3].axes[0].lines[0].get_ydata()[:3], 6.0) and not kept[3].axes[0].collections


def test_before_and_after_have_the_same_limits(drive, kept, tmp_path):
    simulator, before = drive
    after = replace(before, speed=0.5 * before.speed)
    shorter = replace(
        after, **{name: getattr(after, name)[:21] for name in vars(after) if name not in ("actions", "dt")}
    )
    path = before_after(
        before, shorter, simulator.network, tmp_path / "a.png", controlled=[1], labels=("old", "new"), title="both"
    )
    axes = kept[0].axes
    maps = [each for each in axes if each.collections and each.get_xlabel() != "speed in m/s"][:4]
    assert len({(each.get_xlim(), each.get_ylim()) for each in maps}) == 1
    assert maps[0].get_xlim() == pytest.approx((0.0, 3.0)) and maps[0].get_ylim() == (0.0, 200.0)
    limits = {
        (line.norm.vmin, line.norm.vmax) for each in maps for line in each.collections if line.get_array() is not None
    }
    assert len(limits) == 1
    assert [each.get_title(loc="left") for each in axes[:2]] == ["old", "new"]
    (lower,) = (each for each in axes if each.get_ylabel() == "standard deviation\nof speed in m/s")
    others = torch.tensor([True, False, True, True])
    assert np.allclose(lower.lines[0].get_ydata(), metrics.speed_deviation(before, others)[:, 0])
    assert np.allclose(lower.lines[1].get_ydata(), metrics.speed_deviation(shorter, others)[:, 0])
    picture = imageio.imread(path)[..., :3].astype(int)
    assert ((picture[..., 0] > 180) & (picture[..., 1:].max(-1) < 80)).sum() > 100  # the controlled vehicle's red
    text = before_after(before, after, simulator.network, tmp_path / "a.svg").read_text()
    assert all(f"<!-- {words} -->" in text for words in ("human drivers", "policy", "all vehicles"))
    assert len(text) < 1_500_000 and "controlled vehicle -->" not in text


def test_open_roads_are_shown_where_somebody_drives(kept, tmp_path):
    trajectory = constant([300.0, 340.0], [10.0, 10.0], [0, 0], 20)
    before_after(trajectory, replace(trajectory), straight(1000.0), tmp_path / "a.png", labels=("a", "b"))
    low, high = kept[0].axes[0].get_ylim()
    assert 290.0 < low < 300.0 and 360.0 < high < 370.0


# ---------------------------------------------------------------- gradients


def test_heat_map_values_and_colours(kept, tmp_path):
    generator = np.random.default_rng(0)
    gradient = generator.normal(size=(40, 6))
    gradient[3, 2], gradient[5, 4] = 1000.0, np.nan
    share = 0.5 * gradient
    time = 0.2 * np.arange(40)
    path = gradient_heat_map(
        torch.from_numpy(gradient), torch.from_numpy(time), tmp_path / "a.svg", label="d(flow)/d(speed) in 1/m",
        controlled=torch.tensor([1, 4]), lane_share=share, title="who and when",
    )  # fmt: skip
    whole, part, _ = kept[0].axes
    for axes, values in ((whole, gradient), (part, share)):
        (mesh,) = axes.collections
        assert np.allclose(mesh.get_array().filled(np.nan), values.T, equal_nan=True)
        sizes = np.abs(np.concatenate([gradient, share]))
        limit = np.quantile(sizes[np.isfinite(sizes)], 0.99)
        assert (mesh.norm.vmin, mesh.norm.vmax) == (-limit, limit) and limit < 10.0
        assert np.ptp(mesh.cmap(mesh.norm(0.0))[:3]) < 0.01 < np.ptp(mesh.cmap(mesh.norm(0.3 * limit))[:3])
        assert axes.get_xlim() == (0.0, pytest.approx(8.0))
        (marks,) = axes.lines
        assert marks.get_ydata().tolist() == [1, 4]
        bold = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_fontweight() == "bold"]
        assert bold == ["1", "4"]
    assert part.get_title(loc="left") == "share through lane changes (biased)"
    text = path.read_text()
    assert "<!-- d(flow)/d(speed) in 1/m -->" in text and "<!-- who and when -->" in text and "<!-- vehicle -->" in text

    signs = np.array([[-1.0, 1.0], [-1.0, 1.0]])
    picture = imageio.imread(gradient_heat_map(signs, [0.0, 1.0], tmp_path / "b.png", label="g"))[..., :3].astype(int)
    bar_left = int(0.8 * picture.shape[1])
    upper, lower = (picture[rows, :bar_left] for rows in (slice(60, 90), slice(-150, -110)))
    assert ((upper[..., 0] - upper[..., 2]) > 60).mean() > 0.5  # vehicle 1, above: red
    assert ((lower[..., 2] - lower[..., 0]) > 60).mean() > 0.5  # vehicle 0, below: blue
    assert kept[1].axes[1].get_ylabel() == "g"


def test_heat_map_of_many_vehicles_names_some(kept, tmp_path):
    gradient_heat_map(np.zeros((3, 100)), [0.0, 1.0, 2.0], tmp_path / "a.png", label="g", controlled=[17, 18])
    axes = kept[0].axes[0]
    rows = axes.get_yticks().tolist()
    assert {17, 18} <= set(rows) and len(rows) <= 14 and min(np.diff(rows)) >= 1
    assert (axes.collections[0].norm.vmin, axes.collections[0].norm.vmax) == (-1.0, 1.0)  # nothing to scale


# ---------------------------------------------------------------- trainings


def write_csv(path, columns):
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(str(x) for x in row) for row in rows)]))
    return path


def test_training_traces(kept, tmp_path):
    decisions = list(range(100, 3100, 100))
    gippo = write_csv(
        tmp_path / "gippo.csv",
        {
            "decisions": decisions,
            "reward": decisions,
            "alpha": [0 if i % 3 else 10.0 ** (-i / 10) for i in range(30)],
            "oorr": [0.001 * 2 ** (i / 4) for i in range(30)],
            "surrogate_improvement": [i - 15 for i in range(30)],
            "gradient_variance": ["" if i % 2 else 10.0**i for i in range(30)],
        },
    )
    training_traces(gippo, tmp_path / "a.svg", title="a run")
    panels = {axes.get_title(loc="left"): axes for axes in kept[0].axes}
    assert list(panels) == [
        "step α along the gradient", "out-of-range ratio", "bias: surrogate improvement", "variance of the gradient",
    ]  # fmt: skip
    assert [axes.get_yscale() for axes in panels.values()] == ["log", "linear", "linear", "log"]
    line = panels["step α along the gradient"].lines[0]
    assert line.get_xdata().tolist() == decisions[::3]  # without the updates that did not ask for the gradient
    assert np.allclose(line.get_ydata(), [10.0 ** (-i / 10) for i in range(0, 30, 3)])
    assert "<!-- a run -->" in (tmp_path / "a.svg").read_text()

    trig = {name: [0.5, 0.7] for name in ("trust", "scale", "k_rp", "kl_reached", "step")}
    write_csv(tmp_path / "trig.csv", {"iteration": [1, 2], **trig})
    training_traces({"one": tmp_path / "trig.csv", "two": gippo}, tmp_path / "b.png", progress="iteration")
    assert len(kept[1].axes) == 9 and {axes.get_yscale() for axes in kept[1].axes[1:6]} == {"linear"}
    names = [text.get_text() for axes in kept[1].axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert set(names) <= {"one", "two"}

    ppo = write_csv(tmp_path / "ppo.csv", {"decisions": [1, 2], "reward": [0.1, 0.2], "kl": [0.1, 0.1]})
    with pytest.raises(TrafficGradError, match="nothing is logged of steps along the simulator's gradient"):
        training_traces(ppo, tmp_path / "c.png")


# ---------------------------------------------------------------- what cannot be drawn is said


def test_refusals(drive, tmp_path):
    simulator, trajectory = drive
    network = simulator.network
    nothing = replace(trajectory, active=torch.zeros_like(trajectory.active))
    broken = replace(trajectory, speed=trajectory.speed.clone().index_fill_(2, torch.tensor([2]), float("nan")))
    start = replace(
        trajectory, **{n: getattr(trajectory, n)[:1] for n in vars(trajectory) if n not in ("actions", "dt")}
    )
    apart = load_traffic("merge").build_network()
    good, path = np.ones((5, 4)), tmp_path / "a.png"
    heat = {"time": np.arange(5), "path": path, "label": "g"}
    for call, words in [
        (lambda: measure_cells(start, network), "at least one step"),
        (lambda: measure_cells(trajectory, network, world=1), "no world 1"),
        (lambda: measure_cells(trajectory, network, cell_length=0.0), "cell_length must be a number > 0, got 0.0"),
        (lambda: measure_cells(trajectory, network, cell_duration=float("nan")), "cell_duration must be .* got nan"),
        (lambda: measure_cells(trajectory, network, road=1), "no road 1 in this network; expected 0 to 0"),
        (lambda: fundamental_diagram(trajectory, network, tmp_path / "a.jpg"), "'.jpg' is none of"),
        (lambda: fundamental_diagram({}, network, path), "no trajectory to draw"),
        (lambda: fundamental_diagram(nothing, network, path), "nobody drives on this road"),
        (lambda: fundamental_diagram(trajectory, network, path, equilibrium=([1.0], [1.0, 2.0])), r"\[1\] and \[2\]"),
        (
            lambda: fundamental_diagram({"a": trajectory, "b": trajectory}, network, path, per_lane=True),
            "one trajectory, got 2: a, b",
        ),
        (lambda: speed_distribution(trajectory, tmp_path / "a"), "no ending"),
        (lambda: speed_distribution({}, path), "no trajectory to draw"),
        (lambda: speed_distribution(trajectory, path, controlled=[4]), r"0 to 3, got \[4\]"),
        (lambda: speed_distribution(trajectory, path, width=-1.0), "width must be a number > 0, got -1.0"),
        (lambda: speed_distribution({"x": broken}, path), "trajectory 'x' cannot be drawn: it has speeds that are not"),
        (lambda: speed_distribution(nothing, path), "nobody drives in the trajectory"),
        (lambda: deviation_over_time(trajectory, path, world=3), "no world 3"),
        (lambda: deviation_over_time(trajectory, path, vehicles=[]), "none of the vehicles that count"),
        (lambda: deviation_over_time({"x": nothing}, path), "nobody drives in the trajectory 'x'"),
        (lambda: before_after(trajectory, trajectory, apart, path), "needs one road, this network has"),
        (lambda: before_after(start, start, network, path), "at least one step"),
        (
            lambda: before_after(trajectory, trajectory, network, path, labels=("a", "a")),
            "different labels, both are 'a'",
        ),
        (lambda: gradient_heat_map([["much"]], **heat), "gradient is no array of numbers"),
        (lambda: fundamental_diagram(trajectory, network, path, equilibrium=[1.0]), "two arrays of numbers"),
        (lambda: gradient_heat_map([1.0, 2.0], **heat), r"shape \[2\]; expected \[times, vehicles\]"),
        (
            lambda: gradient_heat_map(np.ones((4, 4)), **heat),
            r"time has shape \[5\]; expected one for each row .*\(4\)",
        ),
        (lambda: gradient_heat_map(good, **heat | {"time": [0, 1, 1, 2, 3]}), "increase"),
        (
            lambda: gradient_heat_map(good, **heat, lane_share=np.ones((5, 3))),
            r"\[5, 3\]; expected that of .* \[5, 4\]",
        ),
        (lambda: gradient_heat_map(good, **heat, controlled=[-1]), r"rows from 0 to 3, got \[-1\]"),
        (lambda: gradient_heat_map(good * np.nan, **heat), "no finite number"),
        (lambda: gradient_heat_map(good, **heat, limit=0.0), "limit must be a number > 0"),
        (lambda: gradient_heat_map(good, **heat, quantile=0.0), "quantile must be above 0"),
        (lambda: training_traces(tmp_path / "none.csv", path), "no metrics file"),
        (lambda: training_traces({}, path), "no run to draw"),
    ]:
        with pytest.raises(TrafficGradError, match=words) as told:
            call()
        assert "\n" not in str(told.value)
    assert os.listdir(tmp_path) == []


def test_plots_change_no_global_state(drive, tmp_path):
    simulator, trajectory = drive
    had, settings = "matplotlib.pyplot" in sys.modules, dict(matplotlib.rcParams)
    own = trajectory.speed.clone()
    speed_distribution(trajectory, tmp_path / "a.pdf", controlled=simulator.fleet.controlled)
    gradient_heat_map(np.eye(3), [0.0, 1.0, 2.0], tmp_path / "b.pdf", label="g")
    assert ("matplotlib.pyplot" in sys.modules) == had and dict(matplotlib.rcParams) == settings
    assert torch.equal(own, trajectory.speed)
    assert sorted(os.listdir(tmp_path)) == ["a.pdf", "b.pdf"]
    assert {"before_after", "gradient_heat_map", "training_traces", "measure_cells"} <= set(render.__all__)
