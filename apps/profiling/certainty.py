"""How well a median is known from the runs that were made."""

from __future__ import annotations

from collections.abc import Sequence

# Half of what the interval leaves out lies on either side.
CONFIDENCE = 0.95
# A median is called settled when its interval is at most this share of it.
SETTLED_PERCENT = 3.0


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Confidence interval of the median, whatever the distribution: two of the samples themselves.

    The number of samples below the true median is binomial with p = 1/2, so the k-th smallest and the k-th largest
    enclose it with a probability that depends on k alone. Samples are taken as independent; where they drift (a
    processor that heats up), the truth is less certain than this says.

    Args:
        samples: at least one.
        confidence: above 0 and below 1.
    Returns:
        (low, high), or None where there are too few samples for any such interval (fewer than 6 at 95%).
    Source: the sign test's interval, e.g. W. J. Conover, "Practical Nonparametric Statistics", 3rd ed., section 3.2.
    """
    ordered, count = sorted(samples), len(samples)
    # Exact integers: the tail of the binomial, times 2**count.
    allowed = (1.0 - confidence) / 2.0 * 2.0 ** min(count, 1000)
    scale = max(count - 1000, 0)  # beyond the range of floats both sides are shifted alike
    tail, ways, rank = 0, 1, 0
    while rank < count and (tail + ways) >> scale <= allowed:
        tail += ways
        ways = ways * (count - rank) // (rank + 1)
        rank += 1
    if rank == 0:
        return None
    return ordered[rank - 1], ordered[count - rank]


def is_settled(samples: Sequence[float], percent: float = SETTLED_PERCENT) -> bool:
    """Whether the median's interval is at most ``percent`` % of the median wide."""
    interval = median_interval(samples)
    if interval is None:
        return False
    ordered, half = sorted(samples), len(samples) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return interval[1] - interval[0] <= percent / 100.0 * median
