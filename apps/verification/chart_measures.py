"""What one chart shows about one artifact, beside the float network on the same chart. All in levels of 255."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.charts import EDGE_GREYS, Chart

Image = NDArray[np.uint8]

# A value at the end of the range is called clipped where the float network is more than this many levels away from it.
_CLIP_TOLERANCE = 2
# A fall of this many levels where a ramp climbs is a reversal; one level is rounding.
_REVERSAL = 2


@dataclass(frozen=True, kw_only=True)
class ChartMeasure:
    """Measures of one chart, away from its border. Those that make no sense for its kind are None.

    Attributes:
        shift_levels: mean signed difference to the float network, per channel R, G, B.
        bias_levels, float_bias_levels: the same to the ideal, for the artifact and for the float network.
        max_difference_levels, mean_difference_levels: absolute difference to the float network.
        clipped_percent: values of 0 or 255 where the float network is more than two levels away from that.
        distinct, float_distinct: different levels along a ramp.
        longest_run_px, float_longest_run_px: output pixels along a ramp over which the level does not change.
        reversals_percent, float_reversals_percent: neighbours along a ramp that fall by two levels or more.
        ripple_levels, float_ripple_levels: largest minus smallest value of a channel of a flat, the worst channel.
        spread_levels, float_spread_levels: largest difference between the channels of a pixel that should be grey.
        overshoot_levels, float_overshoot_levels: how far an edge swings past its two greys.
    """

    name: str
    kind: str
    shift_levels: tuple[float, float, float]
    max_difference_levels: int
    mean_difference_levels: float
    clipped_percent: float
    bias_levels: tuple[float, float, float] | None = None
    float_bias_levels: tuple[float, float, float] | None = None
    distinct: int | None = None
    float_distinct: int | None = None
    longest_run_px: int | None = None
    float_longest_run_px: int | None = None
    reversals_percent: float | None = None
    float_reversals_percent: float | None = None
    ripple_levels: int | None = None
    float_ripple_levels: int | None = None
    spread_levels: int | None = None
    float_spread_levels: int | None = None
    overshoot_levels: int | None = None
    float_overshoot_levels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict of the measures that the chart has."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def measure_chart(chart: Chart, own: Image, reference: Image, *, border: int) -> ChartMeasure:
    """Measure an upscaled chart.

    Args:
        chart: the chart.
        own: (scale * h, scale * w, 3) uint8, what the artifact makes of it.
        reference: the same from the float network.
        border: output pixels at each side that are left out: there the network looks past the tile.
    """
    inner = (slice(border, own.shape[0] - border), slice(border, own.shape[1] - border))
    mine, other = own[inner].astype(np.int64), reference[inner].astype(np.int64)
    ends = (mine == 0) | (mine == 255)
    measures: dict[str, Any] = {}
    if chart.ideal is not None:
        ideal = chart.ideal[inner].astype(np.float64)
        measures["bias_levels"], measures["float_bias_levels"] = _per_channel(mine - ideal), _per_channel(other - ideal)
    if chart.axis is not None:
        for prefix, image in (("", mine), ("float_", other)):
            measures |= _ramp_measures(prefix, image, chart)
    for name, applies, measure in (
        ("ripple_levels", chart.kind == "flat", _ripple),
        ("spread_levels", chart.neutral, _spread),
        ("overshoot_levels", chart.kind == "edges", _overshoot),
    ):
        if applies:
            measures[name], measures[f"float_{name}"] = measure(mine), measure(other)
    return ChartMeasure(
        name=chart.name,
        kind=chart.kind,
        shift_levels=_per_channel(mine - other),
        max_difference_levels=int(abs(mine - other).max()),
        mean_difference_levels=float(abs(mine - other).mean()),
        clipped_percent=float((ends & (abs(mine - other) > _CLIP_TOLERANCE)).mean() * 100),
        **measures,
    )


def longest_run(levels: NDArray[np.int64]) -> int:
    """Length of the longest stretch of equal values in (n,)."""
    changes = np.flatnonzero(np.diff(levels)) + 1
    return int(np.diff([0, *changes, len(levels)]).max())


def _ramp_measures(prefix: str, image: NDArray[np.int64], chart: Chart) -> dict[str, Any]:
    carried = image[:, :, list(chart.channels)]
    along = carried if chart.axis == 0 else carried.swapaxes(0, 1)  # (n along, n across, channels)
    # Banding is where whole lines across the ramp stay alike: the median line, one channel after the other.
    profiles = np.median(along, axis=1).astype(np.int64)
    falls = np.diff(along, axis=0) <= -_REVERSAL
    return {
        f"{prefix}distinct": min(len(np.unique(profile)) for profile in profiles.T),
        f"{prefix}longest_run_px": max(longest_run(profile) for profile in profiles.T),
        f"{prefix}reversals_percent": float(falls.mean() * 100),
    }


def _per_channel(difference: NDArray[Any]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in difference.mean(axis=(0, 1)))
    return red, green, blue


def _ripple(image: NDArray[np.int64]) -> int:
    return int((image.max(axis=(0, 1)) - image.min(axis=(0, 1))).max())


def _spread(image: NDArray[np.int64]) -> int:
    return int((image.max(axis=2) - image.min(axis=2)).max())


def _overshoot(image: NDArray[np.int64]) -> int:
    # Where the two edges cross, four corners add up: straight edges only.
    height, width = image.shape[:2]
    beside = np.ones((height, width), dtype=np.bool_)
    beside[height * 3 // 8 : height * 5 // 8, width * 3 // 8 : width * 5 // 8] = False
    image = image[beside]
    return max(int(image.max()) - EDGE_GREYS[1], EDGE_GREYS[0] - int(image.min()), 0)
