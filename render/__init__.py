"""Looking at traffic: a window, films, stills and plots. No simulation knows that it is looked at.

A trajectory becomes a film in two lines::

    source = TrajectoryFrames.of(trajectory, simulator, captions={"reward": rewards})
    show(source) if can_open_window() else record(source, "film.mp4")
"""

import os
import warnings

from trafficgrad.errors import TrafficGradError

# pygame greets on standard output, where it would end up in what others parse.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pygame's own use of pkg_resources
        import pygame  # noqa: F401
except ImportError as error:
    raise TrafficGradError(f"drawing needs pygame, which cannot be imported ({error}): pip install pygame") from error

from trafficgrad.render.calibration_plots import MOST_RECORDS, FollowedRecord, calibration_figure
from trafficgrad.render.camera import Camera
from trafficgrad.render.cartpole import draw_cartpole
from trafficgrad.render.compare_plots import comparison_figure
from trafficgrad.render.frames import Traffic, TrajectoryFrames
from trafficgrad.render.fundamental import Cells, fundamental_diagram, measure_cells
from trafficgrad.render.gradient_plots import gradient_check_figure
from trafficgrad.render.heat_map import gradient_heat_map
from trafficgrad.render.map import draw_network
from trafficgrad.render.moment import Frame, FrameSource, caption_text
from trafficgrad.render.picture_source import PictureSource, film_pictures, show_pictures
from trafficgrad.render.plots import time_space_diagram
from trafficgrad.render.record import NotebookFilm, frame_times, notebook_film, record, snapshot
from trafficgrad.render.scene import Scene, draw_state
from trafficgrad.render.stage import Stage, Style
from trafficgrad.render.traffic_plots import before_after, deviation_over_time, speed_distribution
from trafficgrad.render.training_plots import learning_curve, training_traces
from trafficgrad.render.viewer import Drivable, Viewer, Wheel
from trafficgrad.render.window import PictureWindow, can_open_window, show

__all__ = [
    "MOST_RECORDS",
    "Camera",
    "Cells",
    "Drivable",
    "FollowedRecord",
    "Frame",
    "FrameSource",
    "NotebookFilm",
    "PictureSource",
    "PictureWindow",
    "Scene",
    "Stage",
    "Style",
    "Traffic",
    "TrajectoryFrames",
    "Viewer",
    "Wheel",
    "before_after",
    "calibration_figure",
    "can_open_window",
    "caption_text",
    "comparison_figure",
    "deviation_over_time",
    "draw_cartpole",
    "draw_network",
    "draw_state",
    "film_pictures",
    "frame_times",
    "fundamental_diagram",
    "gradient_check_figure",
    "gradient_heat_map",
    "learning_curve",
    "measure_cells",
    "notebook_film",
    "record",
    "show",
    "show_pictures",
    "snapshot",
    "speed_distribution",
    "time_space_diagram",
    "training_traces",
]
