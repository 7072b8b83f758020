"""Charts of bars that a page draws with its own HTML and CSS: they follow its width, its colours and the dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from apps.formatting import format_drop

# Less would make a cliff of a hundredth of a decibel, which nobody sees.
LEAST_SPAN_DB = 0.5
# Steps smaller than this are called so: in a chart of half a decibel they are hairlines.
_HAIRLINE_DB = 0.01
_MOST_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar.

    Attributes:
        label: in front of it; ``text``: behind it, its figure.
        start, end: where it begins and ends, as shares of the axis from 0 to 1.
        kind: its colour: the name of a scheme, ``loss``, ``gain`` or ``ink``.
        whisker: where a thin line over it begins and ends.
    """

    label: str
    text: str
    start: float
    end: float
    kind: str
    whisker: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Bars from top to bottom.

    Attributes:
        title: for whoever cannot see it.
        ticks: place as a share of the axis, and what is written there.
        axis: what the axis counts, and where it does not begin at zero.
    """

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    axis: str


@dataclass(frozen=True, kw_only=True)
class LatencyBar:
    """One bar of the latency chart. ``quartiles_ms`` are the first and the third."""

    label: str
    scheme: str
    median_ms: float
    quartiles_ms: tuple[float, float]


def latency_chart(bars: Sequence[LatencyBar], *, title: str) -> BarChart:
    """Medians from zero on, with whiskers from quartile to quartile."""
    axis = _Axis.around(0.0, max((bar.quartiles_ms[1] for bar in bars), default=1.0))
    return BarChart(
        title=title,
        bars=tuple(
            Bar(
                label=bar.label,
                text=f"{bar.median_ms:.1f} ms",
                start=0.0,
                end=axis.share(bar.median_ms),
                kind=bar.scheme,
                whisker=(axis.share(bar.quartiles_ms[0]), axis.share(bar.quartiles_ms[1])),
            )
            for bar in bars
        ),
        ticks=axis.ticks(),
        axis="median of one tile, ms; thin line: from the first to the third quartile",
    )


def waterfall_chart(
    steps: Sequence[tuple[str, float]], *, title: str, start_label: str, start_db: float, end_label: str
) -> BarChart:
    """PSNR from the float network on whole images down to the artifact.

    Args:
        steps: (label, drop in dB) in order; a negative drop is a gain.
        title: for whoever cannot see it.
        start_label, start_db: the first bar.
        end_label: name of the last bar, which is what the steps leave.
    Returns:
        a chart whose axis spans at least :data:`LEAST_SPAN_DB`, and which says where it begins.
    """
    levels = [start_db]
    for _, drop in steps:
        levels.append(levels[-1] - drop)
    # Above the highest bar a tenth is left, below the lowest the rest.
    span = max(LEAST_SPAN_DB, 2 * (max(levels) - min(levels)))
    axis = _Axis.around(max(levels) - 0.9 * span, max(levels) + 0.1 * span)
    bars = [Bar(label=start_label, text=f"{start_db:.3f} dB", start=0.0, end=axis.share(start_db), kind="fp32")]
    for before, after, (label, drop) in zip(levels, levels[1:], steps, strict=False):
        low, high = sorted((axis.share(before), axis.share(after)))
        kind = "gain" if drop < 0 else "loss"
        bars.append(Bar(label=label, text=f"{format_drop(-drop)} dB", start=low, end=high, kind=kind))
    bars.append(Bar(label=end_label, text=f"{levels[-1]:.3f} dB", start=0.0, end=axis.share(levels[-1]), kind="ink"))
    small = all(abs(drop) < _HAIRLINE_DB for _, drop in steps)
    words = f"PSNR-Y in dB, from {axis.low:.1f} on and not from zero"
    return BarChart(
        title=title,
        bars=tuple(bars),
        ticks=axis.ticks(),
        axis=f"{words}; every step is thousandths of a decibel, which nobody sees" if small else words,
    )


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """From one round number to another, in round steps."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, low: float, high: float) -> _Axis:
        rough = max(high - low, 1e-9) / _MOST_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
        return cls(low=math.floor(low / step + 1e-9) * step, high=math.ceil(high / step - 1e-9) * step, step=step)

    def share(self, value: float) -> float:
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        digits = max(-math.floor(math.log10(self.step)), 0)
        count = round((self.high - self.low) / self.step)
        values = [self.low + number * self.step for number in range(count + 1)]
        return tuple((self.share(value), f"{value:.{digits}f}") for value in values)
