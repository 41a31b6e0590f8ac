"""What was to be seen before: frames on an even grid of times, for everything that draws the past."""

from __future__ import annotations

import time as clock
from collections import OrderedDict

import numpy as np

from trafficgrad.render.moment import Frame, FrameSource

_MOST = 4096  # frames that are kept


class History:
    """Frames of a source at multiples of ``step`` s after its start; each is made once.

    Making many takes time, so a caller may say how much of it there is: what is missing comes with the next picture.
    """

    def __init__(self, source: FrameSource, step: float) -> None:
        self.source, self.step = source, max(step, source.step)
        self._frames: OrderedDict[int, Frame] = OrderedDict()

    def until(self, time: float, seconds: float, budget: float = float("inf")) -> list[Frame]:
        """Those of the last ``seconds`` before ``time`` (s), the oldest first.

        Args:
            budget: s of computing; the latest frames are made first, then others are left out.
        """
        begun = clock.perf_counter()
        start = self.source.start
        last = int(np.floor((time - start) / self.step + 1e-6))
        first = max(0, int(np.ceil((time - seconds - start) / self.step - 1e-6)))
        found = []
        for i in range(last, first - 1, -1):
            frame = self._frames.get(i)
            if frame is None:
                if clock.perf_counter() - begun > budget:
                    continue
                frame = self._frames[i] = self.source.frame(start + i * self.step)
                if len(self._frames) > _MOST:
                    self._frames.popitem(last=False)
            found.append(frame)
        return found[::-1]

    def forget(self, time: float) -> None:
        """What came after ``time`` (s) will be another."""
        kept = int(np.floor((time - self.source.start) / self.step + 1e-6))
        self._frames = OrderedDict((i, frame) for i, frame in self._frames.items() if i <= kept)
