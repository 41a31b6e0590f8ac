"""Rows and suites of ``trafficgrad compare``: what is trained, and what was published about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SEED = "{seed}"  # in a row's overrides: the training seed


@dataclass(frozen=True)
class Row:
    """One line of a comparison: an agent, and how it is set up; or a controller, which is not trained."""

    label: str  # without commas, so that `--agents` can name it
    agent: str  # kind, or a variant that the scenario names
    overrides: tuple[str, ...] = ()  # dotted key=value; `{seed}` stands for the training seed
    controller: str | None = None  # name or import path; then `agent` is empty

    def overrides_of(self, seed: int) -> tuple[str, ...]:
        """The overrides of one training."""
        return tuple(text.replace(SEED, str(seed)) for text in self.overrides)


@dataclass(frozen=True)
class Group:
    """Scenarios that the same rows are trained on. Tables and pictures show each group by itself."""

    name: str  # heading of its tables, part of its pictures' names
    scenarios: tuple[str, ...]  # files or shipped names
    rows: tuple[Row, ...]
    quick: float  # factor on training.decisions with --quick
    seeds: int = 5
    quick_scenarios: tuple[str, ...] | None = None  # what --quick trains where no scenario is named; None: all


@dataclass(frozen=True)
class Suite:
    """A grid with a name.

    ``reference`` holds published values of the statistic ``paper``, means over seeds: scenario -> algorithm -> value.
    ``milestones`` are returns whose first time the tables tell.
    """

    groups: tuple[Group, ...]
    reference: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, str]  # scenario -> what to know about its reference
    milestones: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by scenario

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Of all groups."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.scenarios))


def _published(columns: tuple[str, ...], rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {scenario: dict(zip(columns, values, strict=True)) for scenario, values in rows.items()}


_ALGORITHMS = ("LR", "RP", "PPO", "LR+RP", "GI-PPO")
# Functions: the paper's agents with its settings, and ours; then the same where the optimum is not at 0.
_AGENTS = ("lr", "rp", "ppo", "lr_rp", "gippo", "trig")
_SHIFTED = ("optimum.kind=shifted", f"optimum.seed={SEED}")
_FUNCTION_ROWS = tuple(Row(name, name) for name in _AGENTS)
_SHIFTED_ROWS = tuple(Row(f"{name} shifted", name, _SHIFTED) for name in _AGENTS)
# Pace cars: all as in the paper; then all agents with the same networks, observation and action; then lanes in place
# of steering, without LR and LR+RP.
_WORLD, _BLOCKED = "observation={kind: world}", "lane_gradient.mode=blocked"
_LANES = ("control.command=lanes", "control.speed=[0.0, 30.0]", "training.noise_memory=4")
_HEADING = ("control.command=heading_and_speed", "training.noise_memory=10")
_WITHOUT = ("training.agent.use_gradient=false",)
_PUBLISHED_ROWS = tuple(Row(f"{name} paper", f"{name}_paper", (_WORLD, _BLOCKED)) for name in _AGENTS[:5])
_PACE_CAR_ROWS = (*(Row(name, name) for name in _AGENTS), Row("trig no gradient", "trig", _WITHOUT))
_LANES_ROWS = (
    *(Row(f"{name} lanes", name, _LANES) for name in ("rp", "ppo", "gippo", "trig")),
    Row("trig no gradient lanes", "trig", (*_LANES, *_WITHOUT)),
)
# A hand-written sweep, alone and as what actions are added to, found by examples/sweep_search.py with the noise of the
# rows, which is little: the best sweeps pass others closely.
_SWEEPS = {
    "pace_car_3lane": dict(
        heading_gain=2.3, lateral_gain=0.501, inset=0.674, lookahead=0.382, hysteresis=2.86,
        speed=15.4, lead=7.87, speed_gain=0.39, speed_weight=2.69, distance_weight=1.09,
    ),
    "pace_car_4lane": dict(
        heading_gain=3.34, lateral_gain=0.4, inset=1.09, lookahead=0.262, hysteresis=2.48,
        speed=16.8, lead=11.2, speed_gain=0.432, speed_weight=2.77, distance_weight=3.05,
    ),
    "pace_car_10lane": dict(
        heading_gain=2.37, lateral_gain=0.556, inset=0.641, lookahead=0.373, hysteresis=0.921,
        speed=17.0, lead=19.8, speed_gain=0.671, speed_weight=2.95, distance_weight=1.33,
    ),
}  # fmt: skip
_SWEEP_KEYS = ("speed", "lead", "speed_gain", "speed_weight", "distance_weight")
_ALONE = ("training.agent.epochs=0", "training.agent.critic_epochs=0", "training.policy.output_gain=1.0e-6")


def _sweep_rows(numbers: Mapping[str, float]) -> tuple[Row, ...]:
    places = {"heading_gain": "control"} | {name: "control.lanes.sweep" for name in _SWEEP_KEYS}
    sweep = tuple(f"{places.get(name, 'control.lanes')}.{name}={value}" for name, value in numbers.items())
    shared = ("control.command=lanes", *sweep, "training.policy.log_std=-3.5", "training.noise_memory=0.0")
    return (
        Row("sweep alone", "ppo", (*shared, *_ALONE)),
        *(Row(f"{name} on sweep", name, shared) for name in ("ppo", "trig")),
    )


# What observation, gradient and action do, what each part of TRIG does, and what lost beside it.
_PARTS = (
    *(Row(f"{name} world", name, (_WORLD,)) for name in ("ppo", "trig")),
    *(Row(f"{name} blocked", name, (_BLOCKED,)) for name in ("rp", "gippo", "trig")),
    *(Row(f"{name} heading", name, _HEADING) for name in ("ppo", "trig")),
    Row("trig without likelihood ratio", "trig", ("training.agent.likelihood_ratio=false",)),
    Row("trig damped", "trig", ("training.agent.gradient_lambda=null",)),
    Row("trig then ppo", "trig", ("training.agent.epochs=5",)),
    Row("trig without memory", "trig", ("training.noise_memory=0.0",)),
    Row("trig steady memory", "trig", ("training.noise_memory_schedule=constant",)),
)

# Table 1, with the digits of the stored results.
_FUNCTIONS = _published(
    _ALGORITHMS,
    {
        "dejong_1": (-1.246e-6, -1.419e-8, -5.207e-5, -6.358e-8, -3.838e-10),
        "dejong_64": (-7.378e-4, -9.283e-7, -1.0768e-3, -3.053e-6, -1.0404e-6),
        "ackley_1": (-1.27721, -0.48215, -0.24889, -1.22554, -5.239e-4),
        "ackley_64": (-0.63782, -8.945e-3, -0.13761, -0.032602, -3.600e-3),
    },
)
# The paper shows curves; this is the same statistic of the stored results behind them.
_PACE_CAR = _published(
    _ALGORITHMS,
    {
        "pace_car_1lane": (945.31, 947.40, 946.34, 947.18, 943.47),
        "pace_car_2lane": (434.73, 545.19, 489.50, 679.54, 873.69),
        "pace_car_3lane": (116.37, 102.99, 181.28, 152.92, 157.45),
        "pace_car_4lane": (125.91, 131.17, 131.82, 127.78, 137.13),
        "pace_car_10lane": (22.29, 22.75, 32.54, 27.97, 44.38),
    },
)
# Means of the stored results; hopper and ant are those of another simulator, so nothing is set beside them.
_PHYSICS = _published(("LR", "RP", "PPO", "PE", "GI-PPO"), {"cartpole": (-1350.8, -495.8, -1093.6, -1275.0, -509.3)})
_OTHER_PHYSICS = (
    "the first statistic is of the training's reward, the others are gymnasium's returns; the paper's numbers are of "
    "another simulator"
)
_PHYSICS_MILESTONES = {"cartpole": (-500.0,), "hopper": (2000.0, 3000.0, 3500.0), "ant": (1000.0, 2000.0)}
_NOTES = {"pace_car_3lane": "not in the paper: its authors ran three lanes and left them out; numbers of their results"}

_FUNCTION_GROUPS = (
    Group("origin", tuple(_FUNCTIONS), _FUNCTION_ROWS, quick=0.2),
    Group("shifted", tuple(_FUNCTIONS), _SHIFTED_ROWS, quick=0.2, quick_scenarios=()),
)
# Learning to hold lanes takes its time: a fraction of the budget tells something on two lanes only.
_PACE_CAR_GROUPS = (
    Group("published", tuple(_PACE_CAR), _PUBLISHED_ROWS, quick=0.2, quick_scenarios=("pace_car_2lane",)),
    Group("steering", tuple(_PACE_CAR), _PACE_CAR_ROWS, quick=0.2, quick_scenarios=("pace_car_2lane",)),
)
_LANES_GROUP = Group("lanes", tuple(_SWEEPS), _LANES_ROWS, quick=0.2, quick_scenarios=())
_SWEEP_GROUPS = tuple(
    Group("sweep", (name,), _sweep_rows(numbers), quick=0.2, quick_scenarios=()) for name, numbers in _SWEEPS.items()
)
_PARTS_GROUP = Group("parts", ("pace_car_2lane", "pace_car_4lane"), _PARTS, quick=0.2, quick_scenarios=(), seeds=3)
# Physics: the same agents, with PE in place of LR+RP, which the paper leaves out there. On the hopper PPO gets TRIG's
# wall time too, and both get more; on the ant PPO gets that of those with gradients, and GI-PPO its limit of ratios out
# of range and none.
_PHYSICS_ROWS = tuple(Row(name, name) for name in ("lr", "rp", "ppo", "pe", "gippo", "trig"))
_HOPPER_ROWS = (
    *_PHYSICS_ROWS,
    Row("ppo as long", "ppo", ("training.decisions=1075200",)),
    Row("ppo longer", "ppo", ("training.decisions=3072000",)),
    Row("trig longer", "trig", ("training.decisions=1228800",)),
)
_ANT_ROWS = (
    *_PHYSICS_ROWS,
    Row("ppo longer", "ppo", ("training.decisions=2048000",)),
    Row("gippo unbound", "gippo", ("training.agent.max_oorr=1.0",)),
)
_PHYSICS_GROUPS = (
    Group("swing-up", ("cartpole",), _PHYSICS_ROWS, quick=0.3),
    Group("hopper", ("hopper",), _HOPPER_ROWS, quick=0.1, seeds=3),
    Group("ant", ("ant",), _ANT_ROWS, quick=0.1, quick_scenarios=(), seeds=3),
)
SUITES = {
    "functions": Suite(_FUNCTION_GROUPS, _FUNCTIONS, {}),
    "pacecar": Suite((*_PACE_CAR_GROUPS, _LANES_GROUP, *_SWEEP_GROUPS, _PARTS_GROUP), _PACE_CAR, _NOTES),
    "physics": Suite(_PHYSICS_GROUPS, _PHYSICS, dict.fromkeys(("hopper", "ant"), _OTHER_PHYSICS), _PHYSICS_MILESTONES),
    "paper": Suite((*_FUNCTION_GROUPS, *_PACE_CAR_GROUPS), {**_FUNCTIONS, **_PACE_CAR}, _NOTES),
}


def sections(suite: Suite | None, scenario: str, rows: Iterable[str]) -> dict[str, list[str]]:
    """Labels of a scenario's rows by the group of the suite that has them, in its order; all in one without a suite."""
    left, found = list(dict.fromkeys(rows)), {}
    for group in suite.groups if suite is not None else ():
        own = [row.label for row in group.rows if row.label in left and scenario in group.scenarios]
        if own:
            found[group.name] = own
            left = [label for label in left if label not in own]
    if left:
        found["others" if found else ""] = left
    return found
