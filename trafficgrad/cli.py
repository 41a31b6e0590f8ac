"""The ``trafficgrad`` command: thin, every command imports what it needs when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from trafficgrad import __version__
from trafficgrad.errors import TrafficGradError

if TYPE_CHECKING:
    import torch

    from trafficgrad.network import RoadNetwork
    from trafficgrad.render import Style

app = typer.Typer(
    name="trafficgrad",
    help="Differentiable traffic simulation, and policies learnt with its gradients.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Scenario: a YAML file, the name of a shipped one, or module:Class of an environment of your own.",
    ),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN|FILE", help="A training's folder, a checkpoint, a shipped policy, or a scenario.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting, such as network.length=800.")
]
Network = Annotated[
    str, typer.Argument(metavar="NETWORK", help="A network file (.json, .net.xml, .osm) or a scenario.")
]
Target = Annotated[
    str, typer.Argument(metavar="RUN|FILE", help="A run, a checkpoint, a shipped policy, or a scenario.")
]
Size = Annotated[tuple[int, int], typer.Option(help="Width and height in px.")]
Colour = Annotated[str, typer.Option(help="Of the vehicles: speed, acceleration or time headway.")]
Shown = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Also show this, repeatable: lane changes (default), leaders, trails, gradient, time and space, numbers.",
    ),
]
Follow = Annotated[int | None, typer.Option(metavar="N", help="The camera follows the controlled vehicle N (from 1).")]
_INTERRUPTED = 130  # what some versions of typer return, and others raise, after Ctrl-C
_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__bases__[0])  # typer's own or click's, by version

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of held-out traffic seeds.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trafficgrad {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Differentiable traffic simulation, and policies learnt with its gradients."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def train(
    file: File,
    agent: Annotated[
        str | None,
        typer.Option(
            help="A variant of the file's training, or a kind: trig, gippo, ppo, rp, ...; default: the file's."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the training; default: the file's.")] = None,
    settings: Set = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0, mps; default: the file's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder; default: runs/SCENARIO_AGENT_seedSEED.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
) -> None:
    """Train a policy."""
    from trafficgrad import pictures
    from trafficgrad.agents.checkpoint import CONFIG
    from trafficgrad.agents.experiment import load_experiment
    from trafficgrad.agents.train import train as run_training

    if resume and Path(file).is_dir():  # `trafficgrad train RUN --resume`, with the settings saved there
        output = output or Path(file)
        file = str(Path(file) / CONFIG)
    experiment = load_experiment(file, agent=agent, seed=seed, overrides=settings or (), device=device)
    config = experiment.config
    folder = output or Path("runs") / f"{experiment.scenario.name}_{config.agent.kind}_seed{config.seed}"
    result = run_training(experiment, folder, resume=resume)
    if result.iterations:
        look = "watch" if experiment.scenario.kind in ("traffic", "cartpole", "mujoco") else "evaluate"
        typer.echo(f"{pictures.learning_curve(folder)}; now: trafficgrad {look} {folder}")


@app.command()
def evaluate(
    run: Run,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of held-out traffic seeds, default 20; without traffic, of episodes."),
    ] = None,
    controller: Annotated[
        list[str] | None,
        typer.Option(metavar="WHO", help="Who drives too, repeatable: mpc, acc, ..., or a callable module:object."),
    ] = None,
    settings: Set = None,
    device: Device = "cpu",
) -> None:
    """Judge a trained policy beside human drivers and hand-written controllers, on traffic it has never seen.

    Where there is no traffic: with and without its exploration noise, beside random actions. For a scenario without a
    policy, a file or a shipped one, the others alone.
    """
    from trafficgrad import pictures
    from trafficgrad.agents import evaluation
    from trafficgrad.agents.logging import METRICS
    from trafficgrad.scenario_config import is_scenario

    place = _prepare(device)
    if is_scenario(run) and not pictures.is_run(run):
        evaluation.evaluate_scenario(run, seeds, settings or (), device=place, controllers=controller or ())
        return
    loaded = evaluation.load_run(run, place, settings or ())
    evaluation.evaluate(loaded, seeds, device=place, controllers=controller or ())
    if loaded.scenario.kind == "traffic":
        typer.echo(pictures.overview(pictures.perform(pictures.Drive(run, 0, settings or (), place))))
    if loaded.folder is not None and (loaded.folder / METRICS).is_file():
        typer.echo(pictures.learning_curve(loaded.folder))


@app.command()
def compare(
    scenarios: Annotated[
        list[str] | None, typer.Argument(metavar="SCENARIO...", help="Files or shipped names.")
    ] = None,
    agents: Annotated[
        str | None, typer.Option(metavar="ROW,ROW", help="Rows NAME or NAME:key=value,key=value; default: gippo,ppo.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Training seeds 1 to N; default: 3, or the suite's.")] = None,
    suite: Annotated[str | None, typer.Option(help="Scenarios and rows: functions, pacecar, physics or paper.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two seeds and a fraction of the budget.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; default: one a core.")] = None,
    backend: Annotated[str, typer.Option(help="local (this machine), or joblib's dask or ray (clusters).")] = "local",
    controller: Annotated[
        list[str] | None,
        typer.Option(metavar="WHO", help="A row that is not trained, repeatable: mpc, acc, ..., or module:object."),
    ] = None,
    settings: Set = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; default: runs/compare, runs/compare_quick.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the runs; default: OUTPUT/runs.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Only renew table and plots from what is there.")] = False,
) -> None:
    """Train agents on scenarios with several seeds, side by side, and compare what they reach; resumable."""
    from trafficgrad import pictures
    from trafficgrad.agents import compare as comparison

    folder = output or Path("runs") / ("compare_quick" if quick else "compare")
    code, known = 0, comparison.find_suite(suite)
    if table:
        comparison.renew_table(folder, known)
    else:
        wanted = comparison.grid(scenarios or (), agents, seeds, suite, quick, controller or ())
        code = comparison.compare(
            wanted, folder, settings=settings or (), runs=runs, jobs=jobs, backend=backend
        ).exit_code
    if code != _INTERRUPTED:
        typer.echo((folder / comparison.TABLE).read_text(encoding="utf-8"))
        for path in (folder / comparison.TABLE, *pictures.comparison(folder, known)):
            typer.echo(path)
    raise typer.Exit(code)


@app.command()
def simulate(file: File, seeds: Seeds = 20, settings: Set = None, device: Device = "cpu") -> None:
    """Simulate a scenario with human drivers only, print what happened and draw it."""
    from trafficgrad import pictures
    from trafficgrad.agents import evaluation

    place = _prepare(device)
    env, episodes = evaluation.simulate(file, seeds, settings or (), device=place)
    typer.echo(pictures.overview(pictures.show_of(env, episodes)))


@app.command()
def watch(
    target: Target,
    controller: Annotated[
        str | None,
        typer.Option(
            metavar="WHO",
            help="Who begins to drive: policy, human, a hand-written controller of the scenario, or another run.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the held-out traffic.")] = 0,
    seconds: Annotated[float | None, typer.Option(help="Only the first seconds of the episode.")] = None,
    speed: Annotated[float, typer.Option(help="Simulated seconds per second at the start.")] = 1.0,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Width and height in px; default: two thirds of the screen.")
    ] = None,
    colour: Colour = "speed",
    show: Shown = None,
    follow: Follow = None,
    settings: Set = None,
    device: Device = "cpu",
) -> None:
    """Watch traffic in a window while it is simulated, and take part in it; ? shows the keys."""
    from trafficgrad import pictures

    style = _style(colour, show, follow)
    drive = pictures.Drive(target, seed, settings or (), _prepare(device), seconds, controller)
    pictures.watch(drive, speed, size, style)


@app.command()
def render(
    target: Target,
    controller: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who drives: policy, human, a hand-written one, or another run.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="WHO", help="Another driver of the same traffic, in a panel to the right.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the held-out traffic.")] = 0,
    seconds: Annotated[float | None, typer.Option(help="Only the first seconds of the episode.")] = None,
    speed: Annotated[
        float | None, typer.Option(help="Simulated seconds per second; default: 4, without roads 1.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Pictures per second; default: 25, of a GIF 12.5.")] = None,
    at: Annotated[float | None, typer.Option(help="Of a still: the moment, in seconds; default: the last.")] = None,
    size: Size = (1280, 720),
    colour: Colour = "speed",
    show: Shown = None,
    follow: Follow = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", help="Film (.mp4, .gif), still (.png) or recording (.npz); default: episode.mp4."),
    ] = None,
    settings: Set = None,
    device: Device = "cpu",
) -> None:
    """Write a film of a trained policy, or of a scenario's human drivers; needs no screen."""
    from trafficgrad import pictures

    style = _style(colour, show, follow)
    gradients = pictures.GRADIENT in style.show
    drive = pictures.Drive(target, seed, settings or (), _prepare(device), seconds, controller)
    plain = pictures.without_roads(drive)
    if plain is not None:
        if compare is not None:
            raise TrafficGradError("--compare shows two drivers of the same traffic, and here is none")
        typer.echo(pictures.film_without_roads(drive, *plain, output, 1.0 if speed is None else speed, size, fps, at))
        return
    made = pictures.perform(drive, gradients)
    beside = None if compare is None else pictures.perform(replace(drive, controller=compare), gradients)
    typer.echo(pictures.film(made, output, 4.0 if speed is None else speed, size, fps, beside, style, at))


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A training's folder, a checkpoint, or a shipped policy.")],
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of held-out traffic seeds, default 20; without traffic, of episodes."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Page; default: RUN/report.html.")
    ] = None,
    film: Annotated[bool, typer.Option("--film/--no-film", help="Embed about 20 s of film.")] = True,
    settings: Set = None,
    device: Device = "cpu",
) -> None:
    """Write one HTML page about a policy, which opens offline: what it is and achieves, plots and a film."""
    from trafficgrad import report as reporting

    place = _prepare(device)
    typer.echo(reporting.write_report(run, output, seeds, film=film, overrides=settings or (), device=place))


@app.command()
def bench(
    repetitions: Annotated[int, typer.Option(min=1, help="Measurements of which the median counts.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; default: with one and with two, on the map with one.")
    ] = None,
    on_map: Annotated[bool, typer.Option("--map", help="On the map of the scenario midtown instead of rings.")] = False,
    hour: Annotated[
        bool, typer.Option("--hour", help="Simulate an hour on that map instead, and check that nobody is lost.")
    ] = False,
    training: Annotated[
        bool,
        typer.Option("--training", help="Training iterations of PPO and GI-PPO instead, and what they consist of."),
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="Memory, a million vehicles, and the first result of a process instead.")
    ] = False,
    drawing: Annotated[
        bool, typer.Option("--render", help="Pictures a second of the viewer, and how long a film takes, instead.")
    ] = False,
    fitting: Annotated[
        bool, typer.Option("--calibration", help="Calibration beside SciPy with finite differences instead.")
    ] = False,
    physics: Annotated[
        bool, typer.Option("--physics", help="Hopper, ant and half-cheetah with and without gradients instead.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write what was measured to this JSON file.")] = None,
) -> None:
    """Measure the simulator's speed, and that of peers in the same run."""
    from trafficgrad import benchmark, benchmark_large, benchmark_map, benchmark_training
    from trafficgrad.files import complete_file

    rows: Sequence[object]
    if training:
        rows = benchmark_training.run(repetitions=2 * repetitions, threads=(1, 2) if threads is None else (threads,))
    elif large:
        rows = benchmark_large.run(repetitions, threads or 2)
    elif drawing:
        from trafficgrad import benchmark_render

        _prepare("cpu")
        rows = benchmark_render.run(repetitions)
    elif fitting:
        from trafficgrad import benchmark_calibration

        _prepare("cpu")
        rows = benchmark_calibration.run(repetitions)
    elif physics:
        from trafficgrad import benchmark_physics

        _prepare("cpu")
        rows = benchmark_physics.run(repetitions, (1, 2) if threads is None else (threads,))
    elif on_map or hour:
        rows = benchmark_map.bench(on_map, hour, repetitions, threads or 1)
    else:
        rows = benchmark.run(repetitions=repetitions, threads=(1, 2) if threads is None else (threads,))
    if json is not None:
        with complete_file(json) as partial:
            partial.write_text(benchmark.as_json(rows))


@app.command()
def gradcheck(
    file: File,
    policy: Annotated[str | None, typer.Option(metavar="RUN", help="Who drives; default: a scripted driver.")] = None,
    wrt: Annotated[
        str, typer.Option(help="Gradient by actions, drivers, initial (state) or signals (timing).")
    ] = "actions",
    mode: Annotated[list[str] | None, typer.Option(help="Gradient mode, repeatable; default: all.")] = None,
    widths: Annotated[
        str | None, typer.Option(metavar="M,M,...", help="Transition widths to try with straight_through, m.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V,...", help="The same for another setting of lane_gradient or signal_gradient."),
    ] = None,
    windows: Annotated[int | None, typer.Option(help="Windows; default: 24 to 64, by the scenario's size.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Decisions of a window; default: 32, or two cycles of signals.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Antithetic pairs of the reference for each window.")] = None,
    samples: Annotated[int | None, typer.Option(help="Perturbed gradients for each window and mode.")] = None,
    sd: Annotated[
        float | None, typer.Option(help="Standard deviation of the perturbations; default: 0.1, or 2 s of signals.")
    ] = None,
    block: Annotated[int, typer.Option(help="Decisions that share an offset of the actions.")] = 8,
    per_vehicle: Annotated[bool, typer.Option("--per-vehicle", help="With drivers: each one's own.")] = False,
    discount: Annotated[float, typer.Option(help="Discount of rewards for each decision.")] = 1.0,
    exploration: Annotated[float, typer.Option(help="Noise of the actions where no policy drives.")] = 0.3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of windows and perturbations.")] = 0,
    settings: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a picture (.png, .pdf, .svg).")] = None,
    device: Device = "cpu",
) -> None:
    """Tell how far a scenario's gradients can be trusted, mode by mode."""
    from trafficgrad.gradient_check import command
    from trafficgrad.gradient_check.settings import CheckSettings, checked_wrt

    place = _prepare(device)
    check = CheckSettings(
        wrt=checked_wrt(wrt),
        windows=windows,
        steps=steps,
        pairs=pairs,
        samples=samples,
        sd=sd,
        block=block,
        per_vehicle=per_vehicle,
        discount=discount,
        exploration=exploration,
        seed=seed,
    )
    varied = command.parse_vary(vary or (), widths)
    command.run(file, check, policy, mode or (), varied, settings or (), as_json, plot, place)


@app.command()
def calibrate(
    file: Annotated[str, typer.Argument(metavar="DATA", help="Trajectories: CSV, a row per vehicle and time.")],
    model: Annotated[str, typer.Option(help="Car-following model: idm.")] = "idm",
    lane_change: Annotated[str | None, typer.Option(help="Also fit lane changes: mobil.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="MEANING=NAME", help="Column of the file, such as position=Local_Y; repeatable."),
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(metavar="MEANING=UNIT", help="Unit, such as speed=km/h; repeatable.")
    ] = None,
    dt: Annotated[float | None, typer.Option(help="Time step, s; default: the median distance of samples.")] = None,
    hole: Annotated[float, typer.Option(help="Longest time without samples that is filled, s.")] = 1.0,
    shortest: Annotated[float, typer.Option(help="Shortest record that is used, s.")] = 5.0,
    length: Annotated[float, typer.Option(help="Vehicles' length where it is not in the file, m.")] = 5.0,
    ring: Annotated[float | None, typer.Option(metavar="M", help="Circumference of a closed road, m.")] = None,
    lanes_from: Annotated[str, typer.Option(help="Where lane numbers begin: right or left.")] = "right",
    free: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Parameters to fit; default: all five of IDM.")
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A parameter that is not fitted, or with --free its first start; repeatable."
        ),
    ] = None,
    bounds: Annotated[
        list[str] | None, typer.Option(metavar="NAME=LOW:HIGH", help="Where to look for a parameter; repeatable.")
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="One set of parameters for all drivers.")] = False,
    starts: Annotated[int, typer.Option(min=1, help="Starts of the search; the best counts.")] = 8,
    measure: Annotated[str, typer.Option(help="Error that is made small: gap, speed or both.")] = "gap",
    loss: Annotated[str, typer.Option(help="linear (least squares), soft_l1, huber or cauchy.")] = "soft_l1",
    holdout: Annotated[float, typer.Option(help="Share of each record, its end, kept for the check.")] = 0.3,
    output: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Drivers for scenarios (YAML).")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a picture (.png, .pdf, .svg).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starts.")] = 0,
) -> None:
    """Fit drivers to recorded trajectories, say how well, and write them for scenarios (key `drivers`)."""
    from trafficgrad.calibration import FitSettings, Reading, command
    from trafficgrad.files import check_ending
    from trafficgrad.render.figures import FORMATS

    _prepare("cpu")
    if plot is not None:
        check_ending(plot, FORMATS)
    reading = Reading(
        columns=command.parse_pairs(column or (), "column"),
        units=command.parse_pairs(unit or (), "unit"),
        dt=dt,
        longest_hole=hole,
        length=length,
        circumference=ring,
        lanes_from=lanes_from,
    )
    fixed = command.parse_numbers(fix or (), "fix")
    settings = FitSettings(
        free=command.free_parameters(free, fixed),
        bounds=command.parse_bounds(bounds or ()),
        shared=shared,
        starts=starts,
        measure=measure,  # type: ignore[arg-type]
        loss=loss,  # type: ignore[arg-type]
        holdout=holdout,
        shortest=shortest,
        seed=seed,
    )
    found = command.run(file, model, lane_change, reading, settings, fixed, output)
    if plot is not None:
        from trafficgrad import pictures

        typer.echo(pictures.calibration(found, plot))


@app.command()
def validate(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter runs, a minute or two.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="GROUP", help="Only this group of checks; may be repeated.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for one figure per group.")] = None,
    data: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the table as JSON.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put the table into a document, between its two markers.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Check the simulator: theory, SUMO and experiments beside measurements; exit code 1 if a check fails."""
    from trafficgrad import validation

    outputs = validation.Outputs(plots, data, markdown)
    if not validation.validate(only or (), quick, outputs, device=_prepare(device)).passed:
        raise typer.Exit(1)


@app.command("import")
def import_network(
    file: Annotated[str, typer.Argument(metavar="FILE", help="SUMO (.net.xml) or OpenStreetMap (.osm), also .gz.")],
    output: Annotated[Path | None, typer.Option("--out", help="Network file; default: FILE's name with .json.")] = None,
) -> None:
    """Read a road network of SUMO or OpenStreetMap, say what was left out, and write it for scenarios."""
    from trafficgrad.network import RoadNetwork
    from trafficgrad.network.files import save_network
    from trafficgrad.network.importer import import_network as read

    graph, summary = read(file)
    typer.echo(str(summary))
    network = RoadNetwork.from_graph(graph)
    path = output or Path(Path(file).name.partition(".")[0] + ".json")
    typer.echo(f"{save_network(network, path)}; now: trafficgrad draw {path}")


@app.command()
def export(
    network: Network,
    output: Annotated[Path, typer.Option("--out", help="Folder.")] = Path("."),
) -> None:
    """Write a road network for SUMO, so that one can compare."""
    from trafficgrad.network.sumo_export import write_sumo

    name, roads = _network(network)
    for path in write_sumo(roads, output, name):
        typer.echo(path)


@app.command()
def draw(
    network: Network,
    output: Annotated[Path | None, typer.Option(help="Picture (.png, .svg, .pdf); default: NETWORK.png.")] = None,
    size: Annotated[tuple[int, int], typer.Option(help="Width and height in px.")] = (1600, 1200),
    labels: Annotated[bool, typer.Option("--labels", help="Write the names of the edges.")] = False,
) -> None:
    """Draw a road network: lanes, ways across junctions, who gives way, signals."""
    from trafficgrad.render import draw_network

    name, roads = _network(network)
    typer.echo(draw_network(roads, output or Path(f"{name}.png"), size=size, labels=labels, title=name))


@app.command()
def scenarios() -> None:
    """List the scenarios that ship with the package."""
    from trafficgrad.scenario_config import list_scenarios

    for name, description in list_scenarios():
        typer.echo(f"{name:16s} {description}")


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As tables, docs/settings.md.")] = False,
) -> None:
    """Print the JSON schema of scenario files."""
    from trafficgrad.agents.experiment import TrainingConfig
    from trafficgrad.scenario_config import json_schema
    from trafficgrad.scenario_reference import reference

    typer.echo(reference(TrainingConfig) if markdown else json.dumps(json_schema(TrainingConfig), indent=2))


def _style(colour: str, shown: list[str] | None, follow: int | None) -> Style:
    from trafficgrad.render import Style

    return Style(colour, follow=follow) if shown is None else Style(colour, tuple(shown), follow)


def main() -> None:
    """Run the command line. A user's mistake is one sentence on stderr and exit code 2; Ctrl-C is exit code 130."""
    try:
        code = app(standalone_mode=False)
    except (TrafficGradError, _USAGE_ERROR, OSError) as error:
        sys.exit(_fail(error))
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        typer.echo("interrupted", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _network(name: str) -> tuple[str, RoadNetwork]:
    """A road network and what to call it: that of a scenario, or of a file."""
    from trafficgrad.network import RoadNetwork
    from trafficgrad.network.importer import import_network as read
    from trafficgrad.scenario_config import is_scenario, load_traffic

    if is_scenario(name):
        scenario = load_traffic(name)
        return scenario.name, scenario.build_network()
    graph, _ = read(name)
    return Path(name).name.partition(".")[0], RoadNetwork.from_graph(graph)


def _prepare(name: str) -> torch.device:
    """The device, and one thread: a few worlds make small tensors, where a second thread costs more than it brings."""
    import torch

    from trafficgrad.agents.experiment import TrainingConfig

    torch.set_num_threads(1)
    return TrainingConfig(device=name).resolve_device()


def _fail(error: Exception) -> int:
    text = str(error.format_message() if hasattr(error, "format_message") else error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    typer.echo(f"trafficgrad: {' '.join(text.split())}", err=True)
    return 2


if __name__ == "__main__":
    main()
