"""Many small least-squares problems, each solved by SciPy, whose functions are evaluated together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares

Reals = NDArray[np.float64]
Evaluate = Callable[[Sequence[int], Sequence[Reals]], Sequence[tuple[Reals, Reals]]]
_AT_ONCE = 256  # problems, each in a thread
_INSIDE = 0.9999  # share of the range in which a search begins


def solve_together(
    starts: Sequence[Reals],
    evaluate: Evaluate,
    bounds: Reals,
    progress: Callable[[int], None] | None = None,
    side_by_side: bool = True,
    **options: Any,
) -> list[OptimizeResult]:
    """:func:`scipy.optimize.least_squares` of every problem; residuals and Jacobians are asked for in batches.

    A solver waits until all that still run have asked: a batch is one call of ``evaluate``, whose cost hardly depends
    on how many there are.

    Parameters:
        starts: first guess of each problem. evaluate: numbers of problems and their points -> residuals and Jacobian of
            each, at least as many as parameters. bounds: [2, P], lowest and highest values. progress: told how many
            problems are solved. side_by_side: False: one after the other, where a batch costs what its problems cost.
            options: of ``least_squares``, the same for all.
    """
    results: list[OptimizeResult] = []
    if not side_by_side:
        alone = lambda problem, point: evaluate([problem], [point])[0]  # noqa: E731
        for problem, start in enumerate(starts):
            results.append(_solve(partial(alone, problem), start, bounds, options))
            if progress is not None:
                progress(len(results))
        return results
    for first in range(0, len(starts), _AT_ONCE):

        def told(done: int, before: int = first) -> None:
            if progress is not None:
                progress(before + done)

        group = range(first, min(first + _AT_ONCE, len(starts)))
        results += _Lockstep(evaluate, bounds).solve(group, starts, options, told)
    return results


def _solve(
    both: Callable[[Reals], tuple[Reals, Reals]], start: Reals, bounds: Reals, options: dict[str, Any]
) -> OptimizeResult:
    """Levenberg and Marquardt's method in MINPACK, which knows no bounds: ``x = middle + half sin(u)`` keeps them.

    It asks for residuals first, and for the Jacobian at the same point where it likes them.
    """
    middle, half = 0.5 * (bounds[0] + bounds[1]), 0.5 * (bounds[1] - bounds[0])
    last: list[tuple[Reals, Reals, Reals]] = []

    def at(u: Reals) -> tuple[Reals, Reals, Reals]:
        if not last or not np.array_equal(last[0][0], u):
            residual, jacobian = both(middle + half * np.sin(u))
            last[:] = [(u.copy(), residual, jacobian * (half * np.cos(u)))]
        return last[0]

    # On a bound the slope by u is 0: nothing would ever leave it.
    first = np.arcsin(np.clip((start - middle) / half, -_INSIDE, _INSIDE))
    result = least_squares(lambda u: at(u)[1], first, jac=lambda u: at(u)[2], method="lm", **options)
    result.x = middle + half * np.sin(result.x)
    return result


class _Stopped(Exception):
    """The other side gave up."""


class _Lockstep:
    def __init__(self, evaluate: Evaluate, bounds: Reals) -> None:
        self._evaluate, self._bounds = evaluate, bounds
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
        try:
            result = _solve(partial(self._ask, problem), start, self._bounds, options)
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
