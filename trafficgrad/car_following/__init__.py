"""Car-following models: one a file, one table."""

from trafficgrad.car_following.base import CarFollowing
from trafficgrad.car_following.idm import IDM

CAR_FOLLOWING: dict[str, type[CarFollowing]] = {"idm": IDM}

__all__ = ["CAR_FOLLOWING", "IDM", "CarFollowing"]
