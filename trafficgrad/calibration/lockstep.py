"""Many small least-squares problems, each solved by SciPy, whose functions are evaluated together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares

Reals = NDArray[np.float64]
Evaluate = Callable[[Sequence[int], Sequence[Reals]], Sequence[tuple[Reals, Reals]]]
_AT_ONCE = 256  # problems, each in a thread


def solve_together(
    starts: Sequence[Reals],
    evaluate: Evaluate,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> list[OptimizeResult]:
    """:func:`scipy.optimize.least_squares` of every problem; residuals and Jacobians are asked for in batches.

    A solver waits until all that still run have asked: a batch is one call of ``evaluate``, whose cost hardly depends
    on how many there are.

    Parameters:
        starts: first guess of each problem. evaluate: numbers of problems and their points -> residuals and Jacobian of
            each. progress: told how many problems are solved. options: of ``least_squares``, the same for all.
    """
    results: list[OptimizeResult] = []
    for first in range(0, len(starts), _AT_ONCE):

        def told(done: int, before: int = first) -> None:
            if progress is not None:
                progress(before + done)

        group = range(first, min(first + _AT_ONCE, len(starts)))
        results += _Lockstep(evaluate).solve(group, starts, options, told)
    return results


class _Stopped(Exception):
    """The other side gave up."""


class _Lockstep:
    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._condition = threading.Condition()
        self._asked: dict[int, Reals] = {}
        self._told: dict[int, tuple[Reals, Reals]] = {}
        self._results: dict[int, OptimizeResult] = {}
        self._running = 0
        self._failure: BaseException | None = None

    def solve(
        self, problems: range, starts: Sequence[Reals], options: dict[str, Any], progress: Callable[[int], object]
    ) -> list[OptimizeResult]:
        threads = [
            threading.Thread(target=self._work, args=(problem, starts[problem], options), daemon=True)
            for problem in problems
        ]
        self._running = len(threads)
        for thread in threads:
            thread.start()
        try:
            self._serve(progress)
        except BaseException as error:
            with self._condition:
                self._failure = self._failure or error
                self._condition.notify_all()
            raise
        finally:
            for thread in threads:
                thread.join()
        return [self._results[problem] for problem in problems]

    def _serve(self, progress: Callable[[int], object]) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._failure or len(self._asked) == self._running)
                if self._failure is not None:
                    raise self._failure
                if not self._running:
                    progress(len(self._results))
                    return
                asked, self._asked = self._asked, {}
            told = self._evaluate(list(asked), list(asked.values()))
            with self._condition:
                self._told.update(zip(asked, told, strict=True))
                self._condition.notify_all()
            progress(len(self._results))

    def _ask(self, problem: int, point: Reals) -> tuple[Reals, Reals]:
        with self._condition:
            self._asked[problem] = point
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._failure is not None or problem in self._told)
            if self._failure is not None:
                raise _Stopped
            return self._told.pop(problem)

    def _work(self, problem: int, start: Reals, options: dict[str, Any]) -> None:
        last: list[tuple[Reals, tuple[Reals, Reals]]] = []

        def both(point: Reals) -> tuple[Reals, Reals]:
            if not last or not np.array_equal(last[0][0], point):
                last[:] = [(point.copy(), self._ask(problem, point.copy()))]
            return last[0][1]

        try:
            result = least_squares(lambda x: both(x)[0], start, jac=lambda x: both(x)[1], **options)
            with self._condition:
                self._results[problem] = result
        except _Stopped:
            pass
        except BaseException as error:
            with self._condition:
                self._failure = self._failure or error
        finally:
            with self._condition:
                self._running -= 1
                self._condition.notify_all()
