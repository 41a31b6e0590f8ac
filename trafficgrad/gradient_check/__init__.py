"""How far can a gradient be trusted? Every gradient mode of a scenario beside references, and a verdict in words.

>>> from trafficgrad import load_scenario
>>> from trafficgrad.envs import TrafficEnv
>>> result = check_gradients(TrafficEnv(load_scenario("ring_4lane"), dtype=torch.float64))  # doctest: +SKIP
>>> result.modes["straight_through"].agreement["all"]["lane_request"].true_cosine  # doctest: +SKIP

``trafficgrad gradcheck`` is this package on the command line; docs/gradcheck.md says what the numbers mean.
"""

from trafficgrad.gradient_check.estimators import PathwiseSamples, pathwise_gradients
from trafficgrad.gradient_check.lane_gate import LaneGate, Quadrature, likelihood_ratio
from trafficgrad.gradient_check.measures import Agreement, LocalAgreement, SampleStatistics, agreement
from trafficgrad.gradient_check.objective import Outcome, WindowObjective
from trafficgrad.gradient_check.parameters import (
    ActionOffsets,
    DriverParameters,
    InitialState,
    Parameters,
)
from trafficgrad.gradient_check.references import (
    LocalReference,
    SmoothedReference,
    central_differences,
    evolution_strategies,
)
from trafficgrad.gradient_check.report import CheckResult, ModeReport, ReferenceReport
from trafficgrad.gradient_check.settings import CheckSettings, gradient_variants
from trafficgrad.gradient_check.signal_timing import SignalTiming
from trafficgrad.gradient_check.study import check_gradients, parameters_of
from trafficgrad.gradient_check.windows import Driver, Windows, collect_windows, policy_driver, untrained_driver

__all__ = [
    "ActionOffsets",
    "Agreement",
    "CheckResult",
    "CheckSettings",
    "Driver",
    "DriverParameters",
    "InitialState",
    "LaneGate",
    "LocalAgreement",
    "LocalReference",
    "ModeReport",
    "Outcome",
    "Parameters",
    "PathwiseSamples",
    "Quadrature",
    "ReferenceReport",
    "SampleStatistics",
    "SignalTiming",
    "SmoothedReference",
    "WindowObjective",
    "Windows",
    "agreement",
    "central_differences",
    "check_gradients",
    "collect_windows",
    "evolution_strategies",
    "gradient_variants",
    "likelihood_ratio",
    "parameters_of",
    "pathwise_gradients",
    "policy_driver",
    "untrained_driver",
]
