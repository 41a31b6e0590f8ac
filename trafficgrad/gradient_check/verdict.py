"""From numbers to words.

The rules, on cosines and sizes whose noise is taken out. The cosine that counts is the smaller one of all windows
taken together, where a few may outweigh the rest, and of the median window:

- direction: right from 0.9 on, mostly right from 0.7, weak from 0.3, wrong below -0.3, unrelated between.
- size: right within a factor 1.5 of the reference, near within 2, else too small or too large.
- a component cannot be judged where the reference's own halves agree by less than 0.3; it is minor, and does not count
  for trust, where it makes up less than a twentieth of the reference and of the gradient.
- trust: direction and size if every component that counts is right in direction and within 2 in size; the direction
  alone if every one is mostly right; else neither, nor where a cosine's standard error is above 0.3.
- windows: the longest horizon up to which no component that counts falls below 0.7. Horizons count from that on whose
  return has at least a twentieth of the whole window's gradient.
- near failures: direction and size over the windows with failures; below half of the reference seen, how much is not.
- heavy tail: the longest sample is at least 20 times the median.
"""

from __future__ import annotations

import dataclasses
import math

from trafficgrad.gradient_check.measures import Agreement
from trafficgrad.gradient_check.report import ALL, EVERYTHING, FAILING, FREE, CheckResult, ModeReport, Table

RIGHT, MOSTLY, WEAK = 0.9, 0.7, 0.3
SIZE_RIGHT, SIZE_NEAR = 1.5, 2.0
MEASURABLE = 0.3
MINOR = 0.05
UNSURE = 0.3
TAIL = 20.0
ADVICE = {
    "actions": "rely on likelihood-ratio terms (ppo; gippo falls back on them by its alpha) or on shorter windows",
    "drivers": "smooth and take differences, or take shorter windows",
    "initial": "smooth and take differences, or take shorter windows",
    "signals": "smooth and take differences, or take shorter windows",
}


def judge(result: CheckResult) -> CheckResult:
    """The result with verdicts filled in."""
    judged = result.judged
    modes = {name: _judge_mode(mode, judged, result.horizons) for name, mode in result.modes.items()}
    return dataclasses.replace(result, modes=modes, verdict=_overall(dataclasses.replace(result, modes=modes)))


def direction(cosine: float) -> str:
    """A cosine in words."""
    for limit, word in ((RIGHT, "right"), (MOSTLY, "mostly right"), (WEAK, "weak"), (-WEAK, "unrelated")):
        if cosine >= limit:
            return word
    return "wrong"


def size(ratio: float) -> str:
    """A ratio of norms in words."""
    if 1 / SIZE_RIGHT <= ratio <= SIZE_RIGHT:
        return "right"
    if 1 / SIZE_NEAR <= ratio <= SIZE_NEAR:
        return "near"
    return "too small" if ratio < 1 else "too large"


def judged_cosine(found: Agreement) -> float:
    """The smaller one of all windows together and the median window."""
    return found.true_cosine if math.isnan(found.median_cosine) else min(found.true_cosine, found.median_cosine)


def measurable(found: Agreement) -> bool:
    """Whether the reference says anything."""
    return found.windows > 0 and found.reference_norm > 0 and found.reference_reliability >= MEASURABLE


def _judge_mode(mode: ModeReport, judged: str, horizons: list[int]) -> ModeReport:
    table = mode.agreement[judged]
    known = _counting(table)
    trust = _trust(known)
    words = "; ".join(_component(name, found, table) for name, found in _components(table).items())
    longest = _longest(mode.horizon, horizons)
    if not known:
        conclusion = "nothing can be told, give more --pairs or another --policy"
    else:
        conclusion = ("do not trust it", "trust its direction, not its size", "trust it")[trust]
        if longest == horizons[-1]:
            conclusion += (
                f" for windows of {longest} decisions" if trust else ", its cosine is uncertain (more --windows)"
            )
        elif longest:
            several = f"{longest} decision{'s' if longest > 1 else ''}"
            conclusion += f", best in windows of up to {several}" if trust else f" beyond windows of {several}"
    sentences = [f"{words}: {conclusion}.", *_near_failures(mode), *_tail(mode, judged)]
    return dataclasses.replace(mode, verdict=" ".join(sentences), trust=trust)


def _components(table: Table) -> Table:
    return {name: found for name, found in table.items() if name != EVERYTHING}


def _minor(found: Agreement, table: Table) -> bool:
    """Small beside the other components, in the reference and in the gradient."""
    total = table[EVERYTHING]
    return found.reference_norm < MINOR * total.reference_norm and found.norm < MINOR * total.norm


def _counting(table: Table) -> list[Agreement]:
    """The components that a verdict rests on."""
    return [found for found in _components(table).values() if measurable(found) and not _minor(found, table)]


def _component(name: str, found: Agreement, table: Table) -> str:
    if not measurable(found):
        return f"{name}: not measurable, the reference is noise"
    minor = " (minor)" if _minor(found, table) else ""
    if found.norm == 0:
        return f"{name}{minor}: no gradient at all"
    if math.isnan(found.true_cosine):
        return f"{name}{minor}: its own mean is noise"
    error = "" if math.isnan(found.true_cosine_error) else f" ± {found.true_cosine_error:.2f}"
    apart = abs(found.median_cosine - found.true_cosine) >= 0.05
    middle = f", median window {found.median_cosine:.2f}" if apart else ""
    return (
        f"{name}{minor}: direction {direction(judged_cosine(found))} ({found.true_cosine:.2f}{error}{middle}), "
        f"size {size(found.norm_ratio)} ({found.norm_ratio:.2g}x)"
    )


def _trust(known: list[Agreement]) -> int:
    def every(cosine: float, factor: float) -> bool:
        return all(judged_cosine(x) >= cosine and 1 / factor <= x.norm_ratio <= factor for x in known)

    if not known or any(x.true_cosine_error > UNSURE for x in known):
        return 0
    return 2 if every(RIGHT, SIZE_NEAR) else 1 if every(MOSTLY, math.inf) else 0


def _longest(tables: list[Table], horizons: list[int]) -> int:
    """The longest horizon before which nothing that counts falls below MOSTLY; 0 if the first does."""
    longest, last = 0, tables[-1]
    for decisions, table in zip(horizons, tables, strict=True):
        known = [
            found
            for name, found in _components(table).items()
            if measurable(found)
            and not _minor(last[name], last)
            and found.reference_norm >= MINOR * last[name].reference_norm
        ]
        if any(not judged_cosine(found) >= MOSTLY for found in known):
            break
        longest = decisions if known else longest
    return longest


def _near_failures(mode: ModeReport) -> list[str]:
    table, parts = mode.agreement[FAILING], []
    for name, found in _components(table).items():
        if measurable(found):
            unseen = 100 * (1 - max(0.0, found.seen))
            hidden = f", {unseen:.0f} % of the gradient not seen" if unseen > 50 else ""
            parts.append(_component(name, found, table) + hidden)
    if not parts:
        return []
    counts = [mode.agreement[kind][EVERYTHING].windows for kind in (FAILING, ALL)]
    return [f"Near failures ({counts[0]} of {counts[1]} windows) {'; '.join(parts)}."]


def _tail(mode: ModeReport, judged: str) -> list[str]:
    if not mode.sample.tail >= TAIL:
        return []
    before, after = (table[judged][EVERYTHING].true_cosine for table in (mode.agreement, mode.clipped))
    known = math.isfinite(before) and math.isfinite(after)
    effect = f" (cosine {before:.2f}, clipped {after:.2f})" if known else ""
    return [f"Heavy tail, the longest sample is {mode.sample.tail:.3g} times the median: clip per sample{effect}."]


def _overall(result: CheckResult) -> str:
    counts = result.reference.windows
    where = {
        FREE: f"Away from failures ({counts[FREE]} of {counts[ALL]} windows)",
        ALL: f"Over all {counts[ALL]} windows",
    }[result.judged]
    known = [mode for mode in result.modes.values() if _counting(mode.agreement[result.judged])]
    if not known:
        return f"{where} the reference is too noisy to judge any gradient: give more --pairs, or another --policy."

    def worst(mode: ModeReport) -> tuple[int, float]:
        found = [judged_cosine(x) for x in _counting(mode.agreement[result.judged])]
        return mode.trust, min(-1.0 if math.isnan(x) else x for x in found)

    best = max(known, key=worst)
    cosine = worst(best)[1]
    if best.trust == 0:
        text = f"{where} no gradient can be trusted, the nearest is {best.name} (worst component {cosine:.2f}): "
        text += ADVICE[result.settings.wrt]
    else:
        what = "direction" if best.trust == 1 else "direction and size"
        text = f"{where} the best gradient is {best.name}: its {what} can be trusted (worst component {cosine:.2f})"
    if counts[FAILING] and result.settings.wrt == "actions":
        text += ". Where failures are near, likelihood-ratio terms stay necessary: no pathwise gradient sees the cliff"
    return text + "."
