"""``trafficgrad validate`` as a whole: what passes, that a wrong simulator fails, what is printed and written."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from trafficgrad import cli, validation
from trafficgrad.car_following import IDM
from trafficgrad.errors import TrafficGradError
from trafficgrad.scenario_config import list_scenarios, load_scenario
from trafficgrad.validation import GROUPS, Check, Group, Outputs, Report, outputs
from trafficgrad.validation.report import COLUMNS, cells, near, none_of, table, within
from trafficgrad.validation.runs import Run
from trafficgrad.validation.safety import kinds_of_runs

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "validation.md"
REDO = "trafficgrad validate --plots docs/validation --markdown docs/validation.md"
TITLES = {name: group.title for name, group in GROUPS.items()}


def module(name: str):
    """A group's module: in the package its name stands for the function."""
    return importlib.import_module(f"trafficgrad.validation.{name}")


def strict(text: str) -> dict:
    """JSON without the numbers that JSON does not have."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def rows(text: str) -> dict[str, list[list[str]]]:
    """Title of a group -> cells of its table's rows, of what stands between the markers."""
    found: dict[str, list[list[str]]] = {}
    between = text.partition(outputs.BEGIN)[2].partition(outputs.END)[0]
    for line in between.splitlines():
        if line.startswith("### "):
            found[line[4:]] = []
        elif line.startswith("| ") and not line.startswith("| check |"):
            found[list(found)[-1]].append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


# ---------------------------------------------------------------------- the quick version


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[int, str, Path]:
    """Exit code, output and folder of the quick version with everything that it can write."""
    folder = tmp_path_factory.mktemp("validation")
    files = ["--plots", str(folder), "--json", str(folder / "report.json"), "--markdown", str(folder / "table.md")]
    result = CliRunner().invoke(cli.app, ["validate", "--quick", *files])
    return result.exit_code, result.output, folder


def test_the_quick_version_passes(quick):
    code, printed, folder = quick
    assert code == 0, printed
    data = strict((folder / "report.json").read_text())
    assert data["passed"] is True and data["quick"] is True and data["missing"] == []
    verdicts = [row["verdict"] for row in data["checks"]]
    assert set(verdicts) <= {"pass", "shown", "outside"}
    assert f"all {verdicts.count('pass')} checks passed" in printed
    assert data["torch"] == str(torch.__version__) and data["threads"] == 1
    assert list(data["cpu_seconds"]) == list(GROUPS) and min(data["cpu_seconds"].values()) > 0


def test_every_group_judges_and_is_printed(quick):
    _, printed, folder = quick
    data = strict((folder / "report.json").read_text())
    for name, group in GROUPS.items():
        judged = [row["name"] for row in data["checks"] if row["group"] == name and row["verdict"] == "pass"]
        assert judged, name
        assert f"│ {group.title} (" in printed
    names = [(row["group"], row["name"]) for row in data["checks"]]
    assert len(set(names)) == len(names)


def test_a_figure_per_group(quick):
    _, printed, folder = quick
    assert {path.stem for path in folder.glob("*.png")} == set(GROUPS)
    for name in GROUPS:
        assert str(folder / f"{name}.png") in printed
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(10**7)) > 20


def test_the_table_as_markdown_has_what_json_has(quick):
    _, _, folder = quick
    data, found = strict((folder / "report.json").read_text()), rows((folder / "table.md").read_text())
    assert list(found) == list(TITLES.values())
    for name, title in TITLES.items():
        assert [cell[0] for cell in found[title]] == [row["name"] for row in data["checks"] if row["group"] == name]
        assert all(len(cell) == len(COLUMNS) for cell in found[title])


# ---------------------------------------------------------------------- the document


def test_the_document_has_the_full_table(quick):
    """As cheap as it gets: the groups, every check that the quick version has too, and all scenarios."""
    text = DOCUMENT.read_text()
    documented, current = rows(text), rows((quick[2] / "table.md").read_text())
    assert "Full version, torch" in text and "not finished" not in text
    assert list(documented) == list(current), f"run: {REDO}"
    for title, checks in current.items():
        names = [cell[0] for cell in documented[title]]
        assert len(set(names)) == len(names)
        assert {cell[0] for cell in checks} - set(names) == set(), f"run: {REDO}"
        assert {cell[5] for cell in documented[title]} <= {"pass", "shown", "outside"}
    for name, _ in list_scenarios("traffic"):
        for kind in kinds_of_runs(load_scenario(name)):
            assert f"| {name}, {kind}: violations | 0 | 0 |" in text, f"run: {REDO}"
    assert REDO in text


def test_the_documents_figures_are_there_and_small():
    shown = re.findall(r"\]\(validation/(\w+)\.png\)", DOCUMENT.read_text())
    assert len(shown) >= 3 and set(shown) <= set(GROUPS)
    assert {path.stem for path in (ROOT / "docs" / "validation").iterdir()} == set(GROUPS)
    for path in (ROOT / "docs" / "validation").iterdir():
        assert path.suffix == ".png" and path.stat().st_size < 150_000


def test_the_document_explains_every_group():
    text = DOCUMENT.read_text()
    before = text.partition(outputs.BEGIN)[0]
    for name in GROUPS:
        assert f"`{name}`" in before, name


# ---------------------------------------------------------------------- a wrong simulator


def wrong_drivers(monkeypatch, group: str, **factors: float) -> None:
    """Let a group simulate other drivers than the theory has."""
    right = module(group).idm

    def idm(drivers):
        wrong = {name: getattr(drivers, name) * factor for name, factor in factors.items()}
        return right(dataclasses.replace(drivers, **wrong))

    monkeypatch.setattr(module(group), "idm", idm)


def test_a_wrong_simulator_fails(command, monkeypatch):
    wrong_drivers(monkeypatch, "equilibrium", time_headway=1.02)
    code, printed, _ = command("validate", "--quick", "--only", "equilibrium", "--json", "report.json")
    assert code == 1
    assert printed.count("│ FAIL ") == 6 and "6 of 6 checks failed" in printed
    data = strict(Path("report.json").read_text())
    assert data["passed"] is False and [row["verdict"] for row in data["checks"]] == ["FAIL"] * 6


@pytest.mark.parametrize(
    "group, factors",
    [
        ("ring_stability", {"max_acceleration": 1.02}),
        ("platoon", {"comfortable_deceleration": 1.05}),
        ("fundamental_diagram", {"min_gap": 1.02}),
        ("jam", {"time_headway": 1.005}),
    ],
)
def test_groups_notice_small_errors_of_the_drivers(group, factors, monkeypatch):
    wrong_drivers(monkeypatch, group, **factors)
    assert any(not result.passed for result in GROUPS[group].run(Run(quick=True)) if isinstance(result, Check))


def test_drivers_who_never_change_lane_fail(monkeypatch):
    lanes = module("lane_changes")
    simulate = lanes.simulate_case
    monkeypatch.setattr(lanes, "simulate_case", lambda run, case, model, seeds: simulate(run, case, None, 4))
    checks = [result for result in GROUPS["lane_changes"].run(Run(quick=True)) if isinstance(result, Check)]
    assert sum(not check.passed for check in checks) >= 5
    assert [check.verdict for check in checks if check.name.endswith("lane changes")] == ["outside"]


def test_drivers_who_do_not_brake_fail(monkeypatch):
    monkeypatch.setattr(module("safety"), "list_scenarios", lambda kind: [("ring_1lane", "")])

    def heedless(self, speed, gap, closing_speed):
        return torch.linspace(0.0, 3.0, speed.shape[1]).expand_as(speed)

    monkeypatch.setattr(IDM, "acceleration", heedless)
    monkeypatch.setenv("TRAFFICGRAD_BACKEND", "reference")  # the kernel has a formula of its own
    checks = [result for result in GROUPS["safety"].run(Run(quick=True)) if isinstance(result, Check)]
    failed = [check.name for check in checks if not check.passed]
    assert "ring_1lane, human only: smallest gap" in failed
    assert any(re.fullmatch(r"ring_1lane, human only: violations \(.*\d+ overlap.*\)", name) for name in failed)


# ---------------------------------------------------------------------- checks and reports


@pytest.mark.parametrize(
    "low, high, measured, passed",
    [
        (1.0, 2.0, 1.0, True),
        (1.0, 2.0, 2.0, True),
        (1.0, 2.0, 0.999999, False),
        (1.0, 2.0, 2.000001, False),
        (-math.inf, 2.0, -1e300, True),
        (1.0, math.inf, 0.0, False),
        (-math.inf, math.inf, math.nan, False),
        (1.0, math.inf, math.nan, False),
        (1.0, 2.0, math.inf, False),
    ],
)
def test_a_check_passes_in_its_bounds(low, high, measured, passed):
    judged = Check("x", None, measured, low, high)
    shown = Check("x", None, measured, low, high, judged=False)
    assert (judged.passed, judged.verdict) == (passed, "pass" if passed else "FAIL")
    assert (shown.passed, shown.verdict) == (True, "shown" if passed else "outside")


def test_the_three_kinds_of_checks():
    assert (near("x", 2.0, 2.4, 0.5).low, near("x", 2.0, 2.4, 0.5).high) == (1.5, 2.5)
    assert near("x", 2.0, 2.6, 0.5).verdict == "FAIL" and near("x", 2.0, 1.4, 0.5).verdict == "FAIL"
    assert within("x", 1.0, math.inf, 0.9).verdict == "FAIL" and within("x", 1.0, math.inf, 1.1).verdict == "pass"
    assert none_of("x", 0).verdict == "pass" and none_of("x", 1).verdict == "FAIL"
    assert near("x", 0.0, math.nan, 1.0).verdict == "FAIL" and none_of("x", math.nan).verdict == "FAIL"


@pytest.mark.parametrize(
    "check, limit",
    [
        (near("x", 2.0, 2.0, 0.5), "± 0.5"),
        (near("x", 0.1 + 0.2, 0.3, 2e-5), "± 2e-05"),
        (within("x", 1.0, 2.5, 2.0), "1.000 … 2.500"),
        (Check("x", 2.0, 2.0, 1.0, 2.5), "1.000 … 2.500"),
        (within("x", -math.inf, 2.5, 2.0, digits=1), "<= 2.5"),
        (within("x", 1.0, math.inf, 2.0, digits=0), ">= 1"),
        (within("x", -math.inf, math.inf, 2.0), ""),
        (none_of("x", 0), "= 0"),
    ],
)
def test_a_limit_as_text(check, limit):
    assert check.limit == limit


def test_when_a_report_passes():
    good, bad = near("x", 0.0, 0.0, 1.0), near("x", 0.0, 2.0, 1.0)
    shown = Check("x", None, 5.0, 0.0, 1.0, judged=False)
    assert Report(checks=[good, shown]).passed
    assert Report(checks=[good, bad]).failed == [bad] and not Report(checks=[good, bad]).passed
    assert not Report(checks=[good], missing=("jam",)).passed
    assert not Report().passed and not Report(checks=[shown]).passed
    assert Report(checks=[good, shown], seconds=3.2, cpu_seconds={"a": 0.9, "b": 1.2}).summary() == (
        "all 1 checks passed, 1 more are shown and not judged; 3 s, 2 s of CPU time."
    )
    assert Report(checks=[good, bad]).summary() == "1 of 2 checks failed; 0 s, 0 s of CPU time."
    assert Report(checks=[shown]).summary().startswith("nothing was judged, 1 more")
    assert "not finished: jam, control" in Report(checks=[good], missing=("jam", "control")).summary()


def test_a_report_as_data_holds_no_infinity():
    report = Report(checks=[within("x", -math.inf, math.inf, math.nan, "m"), near("y", 1.0, math.inf, 0.5)])
    data = strict(json.dumps(report.as_data(), allow_nan=False))
    first, second = data["checks"]
    assert (first["low"], first["high"], first["measured"], first["reference"]) == (None, None, None, None)
    assert first["verdict"] == second["verdict"] == "FAIL" and second["measured"] is None
    assert (second["reference"], second["low"], second["high"]) == (1.0, 0.5, 1.5)


def test_a_table_has_a_row_per_check():
    checks = [Check(f"c{i}", None, 1.0, 0.0, 2.0, group=group) for i, group in enumerate("aba")]
    grid = table(Report(checks=checks, cpu_seconds={"a": 3.4}), {"a": "Group A", "b": "Group B"})
    assert list(grid.columns[0].cells) == [
        "[bold]Group A[/bold] (3 s of CPU)", "  c0", "  c2", "[bold]Group B[/bold] (not finished)", "  c1",
    ]  # fmt: skip
    assert cells(near("x", 2.0, 2.4, 0.5, "m", 1, "theory")) == ("x", "2.0", "2.4", "± 0.5", "m", "pass", "theory")


# ---------------------------------------------------------------------- the command


@pytest.fixture
def groups(monkeypatch):
    """Put groups of given results in place of the real ones; an exception among them is raised."""

    def install(**results: list) -> None:
        def run(of: list, _: Run):
            for result in of:
                if isinstance(result, BaseException):
                    raise result
                yield result

        made = {name: Group(f"Title of {name}", functools.partial(run, of)) for name, of in results.items()}
        monkeypatch.setattr(validation, "GROUPS", made)

    return install


GOOD, BAD = near("good one", 1.0, 1.0, 0.1), near("bad one", 1.0, 1.3, 0.1)


def draw(path: Path) -> Path:
    path.write_bytes(b"a figure")
    return path


def test_a_failed_check_is_exit_code_1(command, groups):
    groups(a=[GOOD, draw], b=[GOOD, BAD, draw])
    code, printed, _ = command("validate", "--plots", "here/plots")
    assert code == 1 and "1 of 3 checks failed" in printed
    assert [line for line in printed.splitlines() if "FAIL" in line and "bad one" in line]
    assert sorted(path.name for path in Path("here/plots").iterdir()) == ["a.png", "b.png"]
    assert command("validate", "--only", "a")[0] == 0
    assert command("validate", "--only", "b")[0] == 1


def test_a_group_that_judges_nothing_does_not_pass(command, groups):
    groups(a=[])
    code, printed, _ = command("validate")
    assert code == 1 and "nothing was judged" in printed


def test_groups_run_in_their_own_order(command, groups):
    groups(a=[GOOD], b=[BAD], c=[GOOD])
    code, printed, _ = command("validate", "--only", "c", "--only", "a", "--json", "x/report.json")
    assert code == 0 and printed.index("Title of a") < printed.index("Title of c") and "Title of b" not in printed
    assert list(strict(Path("x/report.json").read_text())["cpu_seconds"]) == ["a", "c"]


def test_an_unknown_group_is_one_sentence(command):
    code, out, err = command("validate", "--only", "jamm")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "'jamm'" in err and "did you mean 'jam'?" in err and "lane_changes" in err


@pytest.mark.parametrize("stop, code", [(KeyboardInterrupt(), 130), (TrafficGradError("no road"), 2)])
def test_what_was_computed_before_an_interruption_is_kept(command, groups, stop, code):
    groups(a=[GOOD], b=[BAD, stop, GOOD], c=[GOOD])
    Path("document.md").write_text(f"{outputs.BEGIN}\nold\n{outputs.END}\n")
    found, printed, err = command("validate", "--json", "report.json", "--markdown", "document.md")
    assert found == code and err.strip() in ("interrupted", "trafficgrad: no road")
    assert "good one" in printed and "bad one" in printed and "not finished: b, c" in printed
    data = strict(Path("report.json").read_text())
    assert data["passed"] is False and data["missing"] == ["b", "c"] and len(data["checks"]) == 2
    assert list(data["cpu_seconds"]) == ["a"]
    assert "old" in Path("document.md").read_text()


def test_a_document_keeps_what_is_around_the_table(command, groups):
    groups(a=[GOOD, near("x | y", 1.0, 1.0, 0.1)], b=[within("z", 0.0, math.inf, math.nan)])
    document = Path("document.md")
    document.write_text(f"# Mine\n\n{outputs.BEGIN}\nold\n{outputs.END}\n\nThe end.\n")
    assert command("validate", "--markdown", "document.md")[0] == 1
    text = document.read_text()
    assert text.startswith(f"# Mine\n\n{outputs.BEGIN}\nFull version, torch ")
    assert text.endswith(f"{outputs.END}\n\nThe end.\n") and "old" not in text
    assert "### Title of a\n`--only a`, 0 s of CPU time\n\n| check |" in text
    assert "| good one | 1.000 | 1.000 | ± 0.1 |  | pass |  |\n| x \\| y | 1.000 |" in text
    assert "| z |  | nan | >= 0.000 |  | FAIL |  |" in text
    again = text
    assert command("validate", "--markdown", "document.md")[0] == 1
    assert document.read_text() == again


def test_a_new_document_is_the_table(command, groups):
    groups(a=[GOOD])
    assert command("validate", "--markdown", "new/table.md")[0] == 0
    text = Path("new/table.md").read_text()
    assert text.startswith(outputs.BEGIN) and text.endswith(f"{outputs.END}\n") and "good one" in text


@pytest.mark.parametrize(
    "option, target",
    [("--markdown", "plain.md"), ("--plots", "plain.md"), ("--json", "plain.md/x.json"), ("--markdown", "turned.md")],
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(command, groups, option, target):
    groups(a=[AssertionError("began to work")])
    Path("plain.md").write_text("nothing here\n")
    Path("turned.md").write_text(f"{outputs.END}\n{outputs.BEGIN}\n")
    code, out, err = command("validate", option, target)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert target.partition("/")[0] in err
    assert Path("plain.md").read_text() == "nothing here\n"


def test_from_python(groups, tmp_path):
    groups(a=[GOOD])
    report = validation.validate(quick=True, outputs=Outputs(data=tmp_path / "report.json"))
    assert report.passed and report.quick and [check.group for check in report.checks] == ["a"]
    assert strict((tmp_path / "report.json").read_text())["quick"] is True
    with pytest.raises(TrafficGradError, match="unknown group"):
        validation.validate(only=["b"])
