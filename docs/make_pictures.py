"""Makes the pictures of the README and of docs/viewer.md anew: ``python docs/make_pictures.py``, from the root."""

from __future__ import annotations

from pathlib import Path

from trafficgrad import pictures
from trafficgrad.pictures import Drive
from trafficgrad.render import Style

HERE = Path(__file__).parent


def main() -> None:
    """Write all of them; about a minute and a half."""
    ring = pictures.perform(Drive("ring_4lane", seconds=80.0))
    print(pictures.film(ring, HERE / "ring_4lane.gif", speed=8.0, size=(720, 406)))
    shown = Style(show=("gradient", "lane changes", "time and space", "numbers"), follow=3)
    judged = pictures.perform(Drive("ring_4lane", seconds=40.0), gradients=True)
    print(pictures.film(judged, HERE / "viewer_gradient.png", style=shown, at=18.0))
    shown = Style(show=("trails", "lane changes", "gradient"), follow=1)
    sweep = pictures.perform(Drive("pace_car_10lane", seconds=16.0), gradients=True)
    print(pictures.film(sweep, HERE / "viewer_pace_car.png", style=shown, at=12.0))
    human = pictures.perform(Drive("ring_4lane", seconds=80.0, controller="human"))
    print(pictures.film(ring, HERE / "viewer_compare.png", beside=human, at=60.0))


if __name__ == "__main__":
    main()
