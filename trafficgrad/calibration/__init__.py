"""Drivers' parameters from recorded trajectories."""

from trafficgrad.calibration.car_following_fit import Calibration, FitSettings, calibrate
from trafficgrad.calibration.following import Followed, FollowingRecords, follow, following_records
from trafficgrad.calibration.trajectories import Reading, Trajectories, read_trajectories

__all__ = [
    "Calibration",
    "FitSettings",
    "Followed",
    "FollowingRecords",
    "Reading",
    "Trajectories",
    "calibrate",
    "follow",
    "following_records",
    "read_trajectories",
]
