"""The ``trafficgrad`` command: thin, every command imports what it needs when it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from trafficgrad import __version__
from trafficgrad.errors import TrafficGradError

app = typer.Typer(
    name="trafficgrad",
    help="Differentiable traffic simulation, and policies learnt with its gradients.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[str, typer.Argument(metavar="FILE", help="Scenario: a YAML file or the name of a shipped one.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training, or a checkpoint in it.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting, such as network.length=800.")
]
_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__bases__[0])  # typer's own or click's, by version

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0, mps.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the traffic.")]


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
    agent: Annotated[str | None, typer.Option(help="gippo or ppo; default: the file's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the training; default: the file's.")] = None,
    settings: Set = None,
    device: Device = None,
    output: Annotated[Path | None, typer.Option(help="Folder; default: runs/SCENARIO_AGENT_seedSEED.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
) -> None:
    """Train a policy."""
    from trafficgrad.agents.checkpoint import CONFIG
    from trafficgrad.agents.experiment import load_experiment
    from trafficgrad.agents.train import train as run_training

    if resume and Path(file).is_dir():  # `trafficgrad train RUN --resume`, with the settings saved there
        output = output or Path(file)
        file = str(Path(file) / CONFIG)
    experiment = load_experiment(file, agent=agent, seed=seed, overrides=settings or (), device=device)
    config = experiment.config
    folder = output or Path("runs") / f"{experiment.scenario.name}_{config.agent.kind}_seed{config.seed}"
    run_training(experiment, folder, resume=resume)


@app.command()
def scenarios() -> None:
    """List the scenarios that ship with the package."""
    from trafficgrad.scenario_config import list_scenarios

    for name, description in list_scenarios():
        typer.echo(f"{name:12s} {description}")


@app.command()
def schema() -> None:
    """Print the JSON schema of scenario files."""
    from trafficgrad.scenario_config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Run the command line. A user's mistake is one sentence on stderr and exit code 2; Ctrl-C is exit code 130."""
    try:
        code = app(standalone_mode=False)
    except (TrafficGradError, _USAGE_ERROR, OSError) as error:
        sys.exit(_fail(error))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception) -> int:
    text = str(error.format_message() if hasattr(error, "format_message") else error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    typer.echo(f"trafficgrad: {' '.join(text.split())}", err=True)
    return 2


if __name__ == "__main__":
    main()
