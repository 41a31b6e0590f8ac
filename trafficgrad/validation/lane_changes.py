"""Lane changes: MOBIL beside the band of SUMO's LC2013, same roads, same drivers, same start.

Two MOBILs drive. ``usual`` has the parameters of the shipped scenarios. It accepts gaps that LC2013 does not, so it
changes lane several times as often, and its numbers are shown and not judged. ``careful`` asks of a new follower what
LC2013 asks, and is judged: LC2013 wants the follower's own desired gap s* behind the change
(MSCFModel_IDM::getSecureGap), so that it brakes by at most a (v / v0)^4, which for these drivers is 0.5 m/s2 on
average. The number of lane changes is shown only: the two models decide by different rules.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from trafficgrad.car_following import IDM
from trafficgrad.lane_change import MOBIL
from trafficgrad.network import ring
from trafficgrad.render import validation_plots
from trafficgrad.simulator import Simulator
from trafficgrad.state import Fleet, TrafficState
from trafficgrad.validation.lane_reference import LaneCase, lane_statistics, load_cases, starting_places
from trafficgrad.validation.report import Check
from trafficgrad.validation.runs import Results, Run, drive, to_numpy

# The defaults of scenario files; on two lanes the right-lane bias of Kesting, Treiber & Helbing (TRR 1999 (2007) 86)
# stands for LC2013's keep-right motive. The four lanes are those of ring_4lane.
USUAL = {
    "truck": MOBIL(threshold=0.1, safe_deceleration=4.0, right_bias=0.3, sides="alternate"),
    "ring": MOBIL(threshold=0.1, safe_deceleration=3.0, sides="alternate"),
}
CAREFUL = 0.5  # m/s2
SHOWN = ("lane changes",)
SOURCE = "SUMO 1.28, LC2013"


def lane_changes(run: Run) -> Results:
    """Means over the seeds, beside the lowest and highest of SUMO's runs."""
    drawn = []
    for name, case in load_cases().items():
        if run.quick and name == "ring":
            break
        models = {"careful": replace(USUAL[name], safe_deceleration=CAREFUL)}
        if not run.quick:
            models["usual"] = USUAL[name]
        found = {}
        for kind, model in models.items():
            worlds = simulate_case(run, case, model, len(case.drivers["length"]))
            found[kind] = {key: float(np.mean([own[key] for own in worlds])) for key in worlds[0]}
            for statistic, measured in found[kind].items():
                yield Check(
                    f"{name}, {kind}: {statistic}", case.reference(statistic), measured, *case.band(statistic),
                    _unit(statistic), 2 if _unit(statistic) == "m/s" else 3,
                    kind == "careful" and statistic not in SHOWN, SOURCE,
                )  # fmt: skip
        drawn.append((case.title, case.runs, found, {key: case.band(key) for key in case.runs}))
    yield partial(validation_plots.draw_lane_changes, drawn)


def simulate_case(run: Run, case: LaneCase, model: MOBIL | None, seeds: int) -> list[dict[str, float]]:
    """Statistics of our traffic with the drivers of the first ``seeds`` seeds, one world each."""

    def of(name: str) -> Tensor:
        return run.tensor(case.drivers[name][:seeds])

    length = of("length")
    following = IDM(
        of("desired_speed"), of("time_headway"), of("max_acceleration"), of("comfortable_deceleration"), of("min_gap")
    )
    simulator = Simulator(
        ring(case.length, case.lanes), Fleet(length=length), following, model, dt=case.dt, max_braking=9.0
    )
    place, lane = starting_places(length.shape[1], case.lanes, case.length)
    position = run.tensor(place).expand(seeds, -1)
    speed = torch.full_like(position, case.start_speed)
    state = TrafficState(position, speed, torch.as_tensor(lane, device=run.device).expand(seeds, -1))
    warm_up, seconds = (120.0, 60.0) if run.quick else (case.warm_up, case.seconds)
    # Nobody changes lane twice within the cool-down, so records this far apart miss no change.
    record = drive(run, simulator, state, warm_up + seconds, what=f"{case.title}, MOBIL", every=0.5)
    counted = slice(round(warm_up / record.dt), None)
    speeds, lanes = to_numpy(record.speed[counted]), record.lane[counted].cpu().numpy()
    cars = slice(case.first_car, None)
    return [lane_statistics(speeds[:, b, cars], lanes[:, b, cars], record.dt, case.lanes) for b in range(seeds)]


def _unit(statistic: str) -> str:
    if statistic == "lane changes":
        return "1/min"
    return "" if statistic.startswith("share") else "m/s"
