"""The report: one page that stands alone, whatever the run is called, and a sentence where something is missing."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from trafficgrad import report, web_page
from trafficgrad.agents import evaluation
from trafficgrad.agents.experiment import load_experiment
from trafficgrad.agents.train import train
from trafficgrad.scenario_config import load_traffic

SHORT = ("simulation.warmup_steps=5", "simulation.horizon_steps=10", "pool_size=4", "driver_rows=16")
TINY = ("training.worlds=2", "training.window=4", "training.decisions=16", "training.evaluation.worlds=1")
NASTY = "<script>alert(1)</script> & \"quotes\" --> [/red] $x$ 'y'"
VOID = {"meta", "img", "br", "hr", "input", "link", "source"}


class Page(HTMLParser):
    """What a page holds; refuses tags that do not fit together."""

    def __init__(self, path):
        super().__init__()
        self.html = Path(path).read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def check(path):
    """A page that needs nothing else: returns what it holds."""
    page = Page(path)
    assert page.html.startswith("<!DOCTYPE html>") and [a["lang"] for a in page.all("html")] == ["en"]
    assert not re.search(r"https?://|@import|url\((?!#)", page.html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("data:image/png;base64,", "data:video/mp4;base64,", "#"))
    for picture in page.all("img"):
        assert len(picture["alt"]) > 20 and base64.b64decode(picture["src"].partition(",")[2])[:4] == b"\x89PNG"
    assert all(len(drawing["aria-label"]) > 20 for drawing in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert any("width=device-width" in a.get("content", "") for a in page.all("meta"))
    assert "prefers-color-scheme: dark" in page.html
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Tiny trainings, on traffic and on a function, whose names and texts are no HTML."""
    folder = tmp_path_factory.mktemp("runs")
    for name, scenario, agent, more in (
        ("ring [/q] <b> $1$", "ring_1lane", "gippo", SHORT),
        ("function", "ackley_1", "ppo", ()),
    ):
        experiment = load_experiment(scenario, agent=agent, seed=7, overrides=[*more, *TINY])
        scenario = experiment.scenario.model_copy(update={"description": NASTY})
        train(
            type(experiment)(experiment.env, experiment.config, scenario, experiment.evaluate),
            folder / name,
            progress=False,
        )
    return folder


def test_report_of_a_run(command, runs):
    run = runs / "ring [/q] <b> $1$"
    before = sorted(file.name for file in run.iterdir())
    code, out, err = command("report", str(run), "--seeds", "2")
    assert (code, out, err.strip()) == (0, f"{run / 'report.html'}\n", "")
    assert sorted(file.name for file in run.iterdir()) == sorted([*before, "report.html"])
    page = check(run / "report.html")
    assert page.text.count(run.name) >= 2 and NASTY in page.text and "<b>" not in page.html
    for words in ("ring_1lane", "gippo", "16 of 16 decisions", "trafficgrad 0.1.0", "Over 2 held-out traffic seeds"):
        assert words in page.text
    assert re.search(r"training seed\s*7\b", page.text)
    assert "horizon_steps: 10" in page.text and page.all("details")

    results = evaluation.evaluate(replace(evaluation.load_run(run), name="plain", folder=None), 2)
    for name, episodes in results.items():
        reward = episodes.measures["reward"]
        assert f"{name}</th><td>{float(reward.mean()):.3f} ± {float(reward.double().std()):.3f}</td>" in page.html
    assert list(results) == ["policy", "human only", "keep lane"]

    pictures = [attributes.get("alt") or attributes["aria-label"] for attributes in page.all("img") + page.all("svg")]
    for words in ("Time-space", "Histograms", "standard deviation", "against density", "Score", "gradient, and what"):
        assert sum(words in text for text in pictures) >= 1
    assert len(pictures) == 6
    (video,) = page.all("video")
    assert b"ftyp" in base64.b64decode(video["src"].partition(",")[2])[:12] and "all 1 s" in page.text


def test_report_of_a_checkpoint_elsewhere(command, runs, monkeypatch):
    monkeypatch.setattr(report, "_traffic_drawings", lambda *_: [])
    shutil.copy(runs / "ring [/q] <b> $1$" / "last.pt", "mine.pt")
    code, out, err = command("report", "mine.pt", "--seeds", "1", "--no-film", "--out", "new/page.HTM")
    assert (code, out, err) == (0, "new/page.HTM\n", "")
    page = check("new/page.HTM")
    assert not page.all("video")
    assert "No metrics.csv lies beside this policy" in page.text and "/mine.pt" in page.text
    assert sorted(str(file) for file in Path("new").iterdir()) == ["new/page.HTM"]


def test_report_of_the_shipped_policy_without_ffmpeg(command, monkeypatch):
    import imageio_ffmpeg

    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    monkeypatch.setattr(report, "_traffic_drawings", lambda *_: [])
    settings = [f"--set={setting}" for setting in SHORT]
    code, out, err = command("report", "ring_4lane", "--seeds", "1", *settings)
    assert (code, out, err.strip()) == (0, "runs/ring_4lane_shipped/report.html\n", "")
    page = check("runs/ring_4lane_shipped/report.html")
    assert "There is no film: an mp4 needs ffmpeg" in page.text and not page.all("video")
    assert "the policy that ships" in page.text and "fan out and align" in page.text


def test_report_of_a_function_has_no_traffic(command, runs):
    code, _, err = command("report", str(runs / "function"), "--seeds", "4", "--out", "page.html")
    assert (code, err) == (0, "")
    page = check("page.html")
    assert "drives no traffic: there is no film" in page.text and not page.all("video")
    assert "Over 4 episodes" in page.text and "random actions" in page.text and "distance from optimum" in page.text
    assert "Nothing is logged of steps along the simulator's gradient" in page.text  # ppo
    assert len(page.all("img") + page.all("svg")) == 1


def test_on_several_roads_only_speeds_are_drawn():
    simulator = load_traffic("merge").build()
    episode = report._Episode("human drivers", simulator, None, False)
    assert [drawing.name for drawing in report._traffic_drawings(episode, episode)] == ["speeds", "deviation"]


def test_an_episode_ends_where_it_fails(runs):
    """The pace car that just drives on is overtaken; what the record holds after that is another episode."""
    settings = ["pool_size=4", "simulation.horizon_steps=400"]
    run = evaluation.load_run(runs / "ring [/q] <b> $1$")
    scenario = load_traffic("pace_car_2lane", settings)
    standing = torch.nn.Identity()
    standing.forward = lambda observation: torch.tensor([-1.0, 0.0]).expand(*observation.shape[:-1], 2)
    run = type(run)("standing", scenario, standing, None)
    before, after = report._drive_both(run, "human only", "cpu")
    assert (
        after.failed
        and 1 < after.trajectory.steps < 400
        and after.trajectory.speed.shape[0] == after.trajectory.steps + 1
    )
    assert f"With the policy a failure ends the episode after {after.seconds:.3g} s." in report._which(before, after)


@pytest.mark.parametrize(("size", "start"), [(100, "<svg"), (3, "<img")])
def test_the_smaller_form_of_a_figure_is_taken(tmp_path, size, start):
    def draw(path):
        if path.suffix == ".png":
            pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
            imageio.imwrite(path, pixels)
        else:
            path.write_text(f'<svg width="72pt" height="72pt" viewBox="0 0 72 72">{"<g/>" * 400}</svg>')
        return path

    for pixels in (False, True):
        picture = report._smallest(report._Drawing("name", draw, "this & that", "caption", pixels), tmp_path)
        assert picture.startswith("<img" if pixels else start) and '="this &amp; that"' in picture


def test_drawings_share_a_page(tmp_path):
    from trafficgrad.render import speed_distribution
    from trafficgrad.scenario_config import load_scenario

    scenario = load_scenario("ring_1lane", SHORT)
    simulator = scenario.build()
    trajectory = simulator.simulate(scenario.initial_state(1, torch.Generator().manual_seed(0)), 3)
    svg = speed_distribution({"--><script>": trajectory}, tmp_path / "a.svg").read_text()
    drawings = [web_page.svg_image(svg, name, "alt") for name in ("one", "two")]
    (tmp_path / "page.html").write_text(web_page.page("title", drawings, "footer"))
    page = Page(tmp_path / "page.html")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 20
    used = {a[name][1:] for _, a in page.tags for name in ("href",) if name in a} | set(
        re.findall(r"url\(#([^)]+)\)", page.html)
    )
    assert used <= set(ids) and len(used) > 5
    for words in ("<!--", "metadata", "xmlns", "xlink", "http", "<script"):
        assert words not in page.html.partition("</head>")[2]


def test_an_interrupted_report_leaves_the_old_one(command, runs, monkeypatch):
    def interrupt(path, text, **_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    Path("page.html").write_text("old")
    monkeypatch.setattr(Path, "write_text", interrupt)
    monkeypatch.setattr(report, "_training", lambda *_: [])
    code, out, err = command("report", str(runs / "function"), "--seeds", "1", "--out", "page.html")
    assert (code, out, err) == (130, "", "interrupted\n")
    assert [file.name for file in Path().iterdir()] == ["page.html"] and Path("page.html").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["missing"], "no such run folder or checkpoint; policies ship for"),
        (["ring_4lan"], "did you mean 'ring_4lane'"),
        (["."], "is no run folder"),
        (["broken.pt"], "cannot be read"),
        (["ring_4lane", "--out", "page.pdf"], "'.pdf' is none of .html, .htm"),
        (["ring_4lane", "--out", "folder.html"], "it is a folder"),
        (["ring_4lane", "--seeds", "0"], "--seeds"),
        (["ring_4lane", "--device", "gpu"], "gpu"),
        (["ring_4lane", "--set", "network.lenght=3"], "did you mean 'length'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(command, arguments, part):
    Path("broken.pt").write_bytes(b"no checkpoint")
    Path("folder.html").mkdir()
    code, out, err = command("report", *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and part in err
