"""Pictures of a calibration: what was recorded, and what the fitted drivers do behind the same leaders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trafficgrad.files import check_ending
from trafficgrad.render.figures import FORMATS, GRID, INK, new_figure, save_figure
from trafficgrad.render.style import Array

_RECORDED, _FITTED, _LEADER, _HELD_OUT = "#30343b", "#d1495b", "#9aa1ab", "#eef1f5"
MOST_RECORDS = 6  # records in a picture


@dataclass(frozen=True)
class FollowedRecord:
    """One record and its prediction; all arrays [T]."""

    name: str
    time: Array  # s
    gap: Array  # m, recorded; inf where nobody is ahead
    speed: Array  # m/s, recorded
    leader_speed: Array  # m/s
    fitted_gap: Array  # m, predicted
    fitted_speed: Array  # m/s
    held_out_from: float | None = None  # s: later is predicted, not fitted
    caption: str = ""  # parameters or errors


def calibration_figure(path: str | Path, records: Sequence[FollowedRecord], *, title: str = "") -> Path:
    """Draw gap and speed of up to six records over time, recorded and predicted.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``; written completely or not at all. records: at least one.

    Raises:
        TrafficGradError: another ending.
    """
    path = Path(path)
    check_ending(path, FORMATS)
    shown = list(records[:MOST_RECORDS])
    figure = new_figure(11.0, 1.0 + 2.3 * len(shown))
    panels = figure.subplots(len(shown), 2, squeeze=False, sharex="row")
    for row, record in enumerate(shown):
        gaps, speeds = panels[row]
        for axes in (gaps, speeds):
            if record.held_out_from is not None:
                axes.axvspan(record.held_out_from, record.time[-1], color=_HELD_OUT, zorder=0, label="held out")
            axes.grid(color=GRID, linewidth=0.6)
            axes.margins(x=0.0)
            axes.tick_params(labelsize=8)
        gaps.plot(record.time, record.gap, color=_RECORDED, linewidth=1.8, label="recorded")
        gaps.plot(record.time, record.fitted_gap, color=_FITTED, linewidth=1.2, label="fitted driver")
        speeds.plot(record.time, record.leader_speed, color=_LEADER, linewidth=1.0, label="leader")
        speeds.plot(record.time, record.speed, color=_RECORDED, linewidth=1.8, label="recorded")
        speeds.plot(record.time, record.fitted_speed, color=_FITTED, linewidth=1.2, label="fitted driver")
        gaps.set_ylim(bottom=0.0)
        speeds.set_ylim(bottom=0.0)
        gaps.set_ylabel(f"driver {record.name}\ngap m", fontsize=9)
        speeds.set_ylabel("speed m/s", fontsize=9)
        speeds.set_title(record.caption, loc="right", fontsize=8, color=INK)
    for axes in panels[-1]:
        axes.set_xlabel("time s")
    if title:
        panels[0][0].set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    panels[0][1].legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.02), ncols=4)
    return save_figure(figure, path)
