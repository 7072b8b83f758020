"""How sure a ratio of two medians is.

Runs of one process share its luck with memory, clocks and scheduling, so they say less than their number. Where a side
has several launches, launches are drawn before runs (a cluster bootstrap) and the interval holds that luck too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.profiling.certainty import CONFIDENCE

SLOWER, FASTER, UNDECIDED, UNKNOWN = "slower", "faster", "no difference shown", "not comparable"
# A difference smaller than this is not called one: a second launch of the same file differs by as much.
TOLERANCE_PERCENT = 3.0
# Below this many runs on a side an interval would be invention.
_FEWEST = 6
_RESAMPLES = 2000
_SEED = 20260101

Samples = NDArray[np.float64]


def ratio_of_medians(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]
) -> tuple[float, tuple[float, float] | None]:
    """Median of ``after`` over median of ``before``, and its 95% bootstrap interval.

    Args:
        before, after: the timed runs of each launch.
    Returns:
        (ratio, (low, high)); no interval where a side has fewer than 6 runs.
    Source: percentile bootstrap, Efron and Tibshirani, "An Introduction to the Bootstrap", chapters 8 and 13.
    """
    first, second = [[np.asarray(launch, np.float64) for launch in side] for side in (before, after)]
    ratio = float(np.median(np.concatenate(second)) / np.median(np.concatenate(first)))
    if min(sum(map(len, before)), sum(map(len, after))) < _FEWEST:
        return ratio, None
    if len(first) == len(second) == 1:
        return ratio, _scipy_interval(first[0], second[0])
    generator = np.random.default_rng(_SEED)
    drawn = [_draw_medians(side, generator) for side in (first, second)]
    low, high = np.quantile(drawn[1] / drawn[0], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return ratio, (float(low), float(high))


def _scipy_interval(before: Samples, after: Samples) -> tuple[float, float]:
    from scipy.stats import bootstrap

    def statistic(one: Samples, other: Samples, axis: int = -1) -> Any:
        return np.median(other, axis=axis) / np.median(one, axis=axis)

    result = bootstrap(
        (before, after),
        statistic,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _draw_medians(launches: Sequence[Samples], generator: np.random.Generator) -> Samples:
    """Medians of resamples: launches are drawn first, then runs within each (scipy has no bootstrap of clusters)."""
    medians = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        chosen = generator.integers(len(launches), size=len(launches))
        runs = [
            launches[index][generator.integers(len(launches[index]), size=len(launches[index]))] for index in chosen
        ]
        medians[number] = np.median(np.concatenate(runs))
    return medians


def verdict_of(interval: tuple[float, float] | None, tolerance_percent: float) -> str:
    """What an interval of the ratio B over A shows, differences below the tolerance aside."""
    if interval is None:
        return UNKNOWN
    share = tolerance_percent / 100.0
    if interval[0] > 1.0 + share:
        return SLOWER
    return FASTER if interval[1] < 1.0 / (1.0 + share) else UNDECIDED
