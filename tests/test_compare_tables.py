"""Tables and pictures of the command `compare`."""

from __future__ import annotations

import re

import numpy as np
import pytest

from trafficgrad import pictures
from trafficgrad.agents.compare_run import read_metrics
from trafficgrad.agents.compare_tables import COLUMNS, markdown, read_lines
from trafficgrad.agents.suites import SUITES, Group, Row, Suite, sections
from trafficgrad.errors import TrafficGradError
from trafficgrad.render import comparison_figure


def result(scenario: str, row: str, seed: int, value: float, **more: str) -> dict[str, str]:
    line = dict.fromkeys(COLUMNS, "")
    line |= {"scenario": scenario, "row": row, "seed": str(seed), "status": "finished", "decisions": "1000"}
    line |= {"paper": str(value), "final_stochastic": str(value), "deterministic": str(2 * value)}
    return line | more


def test_the_table_shows_statistics_costs_and_published_numbers():
    lines = []
    for scenario in ("pace_car_2lane", "pace_car_3lane"):
        for row, cost, base in (("ppo", "0.25", 100.0), ("gippo", "0.5", 200.0)):
            values = [base, base + 1, base + 2, base + 3, base + 50]
            lines += [result(scenario, row, i, x, cpu_per_update=cost, seconds=10 * i) for i, x in enumerate(values, 1)]
    lines.append(result("pace_car_2lane", "rp", 1, 0.0, status="failed", message="a | b", paper=""))
    text = markdown(lines, SUITES["pacecar"])
    assert "| ppo | 5 | 111.2 [100, 150] | 111.2 [100, 150] | 222.4 [200, 300] |" in text
    assert "| PPO (paper) |  | 489.5 |  |  |" in text and "| GI-PPO (paper) |  | 873.7 |" in text
    assert "not in the paper" in text.split("## pace_car_3lane")[1] and "| GI-PPO (paper) |  | 157.4 |" in text
    assert "not in the paper" not in text.split("## pace_car_3lane")[0]
    middle = next(line for line in text.splitlines() if line.startswith("| gippo | 202 ["))
    assert middle.endswith("| 0.5 |  | 30 | 2 |")
    assert "Failed: rp, seed 1: a | b" in text and "Quick" not in text
    assert "## All scenarios" in text and "| rp |" not in text.split("## All scenarios")[1]
    assert "(paper)" not in markdown(lines)


def test_functions_are_compared_by_their_distance_to_the_optimum():
    """1e-2 is the worst, 1e-6 the best: 1e-4 lies in the middle."""
    lines = [
        result(scenario, row, 1, value)
        for scenario in ("dejong_1", "ackley_1")
        for row, value in (("lr", -1e-2), ("ppo", -1e-4), ("gippo", -1e-6))
    ]
    together = markdown(lines).split("## All scenarios")[1]
    assert "| lr | 0.000 [0.000, 0.000] |" in together and "| gippo | 1.000 [1.000, 1.000] |" in together
    assert "| ppo | 0.500 [0.500, 0.500] |" in together


def test_tables_and_pictures_by_group(tmp_path):
    rows = ["theirs", "own", "ours", "part"]
    groups = (Group("first", ("a", "b"), (Row("ours", "x"), Row("theirs", "x")), 0.1),
              Group("second", ("b",), (Row("part", "x"),), 0.1))  # fmt: skip
    suite = Suite(groups, {"b": {"GI-PPO": 0.5}}, {})
    assert sections(None, "b", rows) == {"": rows}
    assert sections(suite, "b", rows) == {"first": ["ours", "theirs"], "second": ["part"], "others": ["own"]}
    assert sections(suite, "c", rows[:1]) == {"": ["theirs"]}
    lines = [result("b", row, 1, 0.25) for row in rows]
    text = markdown(lines, suite)
    assert re.findall("^#+ .*", text, re.M)[1:] == ["## b", "### first", "### second", "### others"]
    first, second = text.split("### first")[1].split("### second")
    assert "| GI-PPO (paper) |" in first and "(paper)" not in second and "| part | 1 |" in second
    curve = "".join(f"b,{row},1,{8 * k},{k},{k}\n" for row in rows for k in (1, 2))
    (tmp_path / "curves.csv").write_text(
        f"scenario,row,seed,decisions,seconds,moving_mean\n{curve}a,ours,1,8,1,1\na,ours,1,16,2,2\n"
    )
    assert [path.name for path in pictures.comparison(tmp_path, suite)] == [
        "b_first.png", "b_second.png", "b_others.png", "a_first.png"
    ]  # fmt: skip
    assert "### first" in markdown([result("a", "ours", 1, 0.25)], suite)


def test_milestones_are_told_by_decisions_and_seconds():
    """Two of three trainings come to 2, after 20 and 30 decisions; one has no mean yet where others have one."""
    suite = Suite((Group("all", ("a",), (Row("x", "ppo"), Row("y", "ppo")), 0.1),), {}, {}, {"a": (2.0, 9.0)})
    lines = [result("a", row, seed, 1.0) for row, seed in (("x", 1), ("x", 2), ("x", 3), ("y", 1))]
    means = {
        ("x", 1): ("", "2", "3"),
        ("x", 2): ("1", "1.9", "2.5"),
        ("x", 3): ("0", "1", "1"),
        ("y", 1): ("3", "", ""),
    }
    curve = [
        {"scenario": "a", "row": row, "seed": str(seed), "decisions": str(10 * k), "seconds": str(k), "moving_mean": x}
        for (row, seed), values in means.items()
        for k, x in enumerate(values, 1)
    ]
    told = markdown(lines, suite, curve).split("First time")[1]
    assert "| row | 2 | 9 |" in told and "| x | 2 of 3, 25 [20, 30], 2 [2, 3] | 0 of 3 |" in told
    assert "| y | 1 of 1, 10, 1 | 0 of 1 |" in told
    assert "First time" not in markdown(lines, Suite(suite.groups, {}, {}), curve)


def curves(value: float, **columns: list[float]) -> dict[str, np.ndarray]:
    run = {"decisions": [100.0, 200.0, 300.0], "seconds": [1.0, 2.0, 3.0], "moving_mean": [np.nan, value, 2 * value]}
    return {name: np.array(values) for name, values in {**run, **columns}.items()}


def test_pictures(tmp_path):
    from matplotlib.figure import Figure

    panels, figures = [], []
    save = Figure.savefig

    def watch(figure, *arguments, **options):
        panels.append([(axes.get_ylabel(), axes.get_yscale(), len(axes.get_lines())) for axes in figure.axes])
        return save(figure, *arguments, **options)

    rows = {
        "ppo": [curves(-1.0), curves(-2.0)],
        "gippo": [curves(-0.5, alpha=[0.1, 0.2, 0.3], determinant=[1.0, np.nan, 1.1])],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", watch)
        comparison_figure(tmp_path / "a.png", rows, title="a")
        comparison_figure(tmp_path / "b.png", rows, distance=True)
    both = [("return, moving mean", "linear", 2)] * 2
    below = [("step α along the gradient", "log", 1), ("determinant estimate", "linear", 1)]
    assert panels[0] == [*both, *below]
    assert panels[1] == [("distance to 0, −return", "log", 2)] * 2 + below
    # At the optimum itself a line stays where double precision ends.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure) or path.touch())
        comparison_figure(tmp_path / "c.svg", {"trig": [curves(-1e-200)]}, distance=True)
    assert {float(y) for y in figures[0].axes[0].get_lines()[0].get_ydata() if np.isfinite(y)} == {1e-32}
    with pytest.raises(TrafficGradError, match="no run has a return"):
        comparison_figure(tmp_path / "c.png", {"ppo": [curves(np.nan)]})
    with pytest.raises(TrafficGradError, match="png"):
        comparison_figure(tmp_path / "c.jpg", rows)
    (tmp_path / "curves.csv").write_text("scenario,row,seed,decisions,seconds,moving_mean\nring,ppo,1,8,1,\n")
    assert pictures.comparison(tmp_path) == []


def test_files_that_are_none(tmp_path):
    path = tmp_path / "metrics.csv"
    for text in ("", "iteration,decisions\n1,8\n", "decisions,seconds\n1,fast\n"):
        path.write_text(text)
        with pytest.raises(TrafficGradError, match="metrics"):
            read_metrics(path)
    path.write_text("decisions,seconds\n8,1.5\n")
    assert read_metrics(path)["episodes"].tolist() == [0.0]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(TrafficGradError, match="no file of `trafficgrad compare`"):
        read_lines(path)
