"""``trafficgrad gradcheck``: runs the check on a scenario, prints tables or JSON and draws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from trafficgrad import render, terminal
from trafficgrad.agents.episodes import HELD_OUT
from trafficgrad.agents.evaluation import load_run
from trafficgrad.envs.traffic import TrafficEnv
from trafficgrad.errors import TrafficGradError
from trafficgrad.gradient_check.measures import Agreement
from trafficgrad.gradient_check.report import ALL, EVERYTHING, FAILING, FREE, CheckResult
from trafficgrad.gradient_check.settings import CheckSettings, gradient_variants
from trafficgrad.gradient_check.study import check_gradients
from trafficgrad.gradient_check.verdict import measurable
from trafficgrad.scenario_config import load_traffic

TITLES = {ALL: "all windows", FREE: "failure-free", FAILING: "with failures"}


def run(
    file: str | Path,
    settings: CheckSettings,
    policy: str | Path | None = None,
    modes: Sequence[str] = (),
    vary: Mapping[str, Sequence[float]] | None = None,
    overrides: Sequence[str] = (),
    as_json: bool = False,
    plot: Path | None = None,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> CheckResult:
    """Check a scenario's gradients and tell what was found.

    Parameters:
        file: scenario. policy: a run that drives in it. modes, vary: as of :func:`gradient_variants`.
        overrides: dotted settings. as_json: print one JSON object and nothing else. plot: picture to draw.

    Raises:
        TrafficGradError: one sentence about what does not fit.
    """
    env = TrafficEnv(load_traffic(file, overrides), HELD_OUT + settings.seed, device, torch.float64)
    variants = gradient_variants(env, modes, vary, settings.wrt)
    loaded = None if policy is None else load_run(policy, device).policy
    # Progress goes to standard error: standard output may be parsed.
    with Console(stderr=True).status("...") as status:
        result = check_gradients(env, settings, loaded, variants, str(policy), status.update)
    console = console or terminal.console()
    if as_json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        show(result, console)
    if plot is not None:
        path = draw(result, plot)
        if not as_json:
            console.print(str(path))
    return result


def parse_vary(settings: Sequence[str], widths: str | None = None) -> dict[str, list[float]]:
    """Settings and values of ``KEY=VALUE,VALUE``; ``widths`` are those of ``transition_width``.

    Raises:
        TrafficGradError: another form, or values that are not numbers above 0.
    """
    found: dict[str, list[float]] = {}
    for text in (*(() if widths is None else (f"transition_width={widths}",)), *settings):
        key, _, listed = text.partition("=")
        try:
            values = [float(part) for part in listed.replace(",", " ").split()]
        except ValueError:
            values = []
        if not values or not all(math.isfinite(x) and x > 0 for x in values):
            raise TrafficGradError(
                f"expected numbers above 0 such as {key or 'transition_width'}=0.1,0.25,0.5, got {text!r}"
            )
        found.setdefault(key.strip(), []).extend(values)
    return found


def show(result: CheckResult, console: Console) -> None:
    """Print the tables and verdicts."""
    settings, reference = result.settings, result.reference
    sizes = settings.sizes
    counts = reference.windows
    console.print(
        f"{result.scenario}, gradient by {settings.wrt}: {counts[ALL]} windows of {sizes.steps} decisions, "
        f"{result.dimension} numbers each; driven by {result.driver}\n"
        f"reference: {sizes.pairs} antithetic pairs, sd {sizes.sd:g}, standard error "
        f"{_share(reference.relative_error)} of its length; {_share(reference.failed)} of the samples fail "
        f"({counts[FAILING]} windows have such), {_share(reference.changed)} have a lane change, "
        f"{_share(reference.differs)} differ from the unperturbed window in a lane, a leader or the end",
        highlight=False,
        soft_wrap=True,
    )
    sets = [ALL] if 0 in counts.values() else [FREE, FAILING, ALL]
    beside = [sets] if console.width >= 150 else [[kind] for kind in sets]
    for table in (*(_agreement_table(result, some) for some in beside), _sample_table(result), _horizon_table(result)):
        console.print(table)
    for mode in result.modes.values():
        console.print(f"{mode.name}: {mode.verdict}", highlight=False, soft_wrap=True)
    console.print(f"Verdict: {result.verdict}", highlight=False, soft_wrap=True)


def draw(result: CheckResult, path: Path) -> Path:
    """The picture of a result."""
    sets = [kind for kind in (FREE, FAILING) if result.reference.windows[kind]]
    sets = sets if len(sets) > 1 else [ALL]
    bars = {
        (component, TITLES[kind]): {name: _bar(mode.agreement[kind][component]) for name, mode in result.modes.items()}
        for component in result.components
        for kind in sets
    }
    norms = {name: [table[EVERYTHING].norm for table in mode.horizon] for name, mode in result.modes.items()}
    reference = [table[EVERYTHING].reference_norm for table in next(iter(result.modes.values())).horizon]
    over_time, steps = result.settings.wrt == "actions", result.settings.sizes.steps
    return render.gradient_check_figure(
        path,
        cosines=bars,
        horizons=result.horizons,
        norms={"reference (evolution strategies)": reference, **norms},
        by_vehicle={name: mode.norms for name, mode in result.modes.items()},
        rows=list(range(steps)) if over_time else result.horizons,
        row_label="decision" if over_time else "return of the first ... decisions",
        title=f"{result.scenario}: gradient by {result.settings.wrt}, windows of {steps} decisions",
    )


def _rows(result: CheckResult) -> tuple[str, ...]:
    return (*result.components, EVERYTHING) if len(result.components) > 1 else result.components


def _bar(found: Agreement) -> tuple[float, float]:
    return (found.true_cosine, found.true_cosine_error) if measurable(found) else (math.nan, math.nan)


def _agreement_table(result: CheckResult, sets: Sequence[str]) -> Table:
    counts = result.reference.windows
    grid = _grid("Beside the reference; noise is taken out")
    grid.add_column("of", no_wrap=True)
    for kind in sets:
        for line in (f"{TITLES[kind]}\n{counts[kind]}\ncosine", "\n\nmedian", "\n\nsize", "\n\nbias"):
            grid.add_column(line, justify="right", no_wrap=True)
    for name, mode in result.modes.items():
        for i, part in enumerate(_rows(result)):
            cells = [cell for kind in sets for cell in _cells(mode.agreement[kind][part])]
            grid.add_row(name if i == 0 else "", part, *cells)
    table = next(iter(result.modes.values())).agreement
    for i, part in enumerate(_rows(result)):
        cells = [x for kind in sets for x in (_number(table[kind][part].reference_reliability), "", "", "")]
        grid.add_row("reference, its two halves" if i == 0 else "", part, *cells)
    return grid


def _grid(title: str) -> Table:
    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("gradient", no_wrap=True)
    return grid


def _cells(found: Agreement) -> list[str]:
    return [
        "-" if math.isnan(found.true_cosine) else f"{found.true_cosine:.2f} ± {_number(found.true_cosine_error)}",
        _number(found.median_cosine),
        _times(found.norm_ratio),
        _number(found.relative_bias, 1) if found.relative_bias >= 10 else _times(found.relative_bias),
    ]


def _sample_table(result: CheckResult) -> Table:
    grid = _grid("Single samples; autograd beside central differences")
    free = next(iter(result.modes.values())).local.switch_free_windows
    for heading in (
        "signal /\nnoise",
        "\nvariance",
        "longest /\nmedian",
        "cosine,\nclipped",
        "with lane\nchange",
        "other\nhistory",
        "not\nfinite",
        "differences\ncosine",
        "largest\nerror",
        "\nof numbers",
        f"no switch ({free})\ncosine",
        "\nbias",
    ):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, mode in result.modes.items():
        sample, local = mode.sample, mode.local
        grid.add_row(
            name,
            _number(sample.signal_to_noise),
            f"{sample.variance:.3g}",
            "-" if math.isnan(sample.tail) else f"{sample.tail:.3g}",
            _number(mode.clipped[result.judged][EVERYTHING].true_cosine),
            _share(sample.changed),
            _share(sample.differs),
            _share(sample.nonfinite),
            _number(local.cosine, 4),
            "-" if math.isnan(local.largest_error) else f"{local.largest_error:.1e}",
            f"{local.valid} / {local.tried}",
            _number(local.switch_free_cosine, 4),
            "-" if math.isnan(local.switch_free_bias) else f"{local.switch_free_bias:.1e}",
        )
    return grid


def _horizon_table(result: CheckResult) -> Table:
    grid = _grid(f"Return of the first h decisions ({TITLES[result.judged]}): norm of its gradient (cosine)")
    for decisions in result.horizons:
        grid.add_column(f"h = {decisions}", justify="right")
    first = next(iter(result.modes.values())).horizon
    grid.add_row("reference", *(f"{table[EVERYTHING].reference_norm:.3g}" for table in first))
    for name, mode in result.modes.items():
        cells = (f"{t[EVERYTHING].norm:.3g} ({_number(t[EVERYTHING].true_cosine)})" for t in mode.horizon)
        grid.add_row(name, *cells)
    return grid


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _times(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.3g} %"
