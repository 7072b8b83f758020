"""The colour and banding card: what a mean over photos hides.

PSNR forgives a tint of half a level, a sky in twelve steps, or white that is 250: each costs hundredths of a decibel on
photos and is the first thing a person sees. The card runs charts (:mod:`edge_sr.charts`), each of exactly one tile, so
that tiling has no part in it, through the artifact and through the float network, and judges what the artifact adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.progress import Progress, quiet
from apps.verification.chart_measures import ChartMeasure, measure_chart
from apps.verification.references import References
from apps.verification.scoring import closing_runner
from converters.artifact import Artifact
from converters.runners import accuracy_runtimes, open_runner
from edge_sr.charts import Chart, chart_border, make_charts
from edge_sr.errors import ConfigError
from edge_sr.runner import TorchRunner

Image = NDArray[np.uint8]

SMOOTH_KINDS = ("flat", "ramp", "shallow")


@dataclass(frozen=True, kw_only=True)
class ColourLimits:
    """What an artifact may add to the float network's own errors, in levels of 255 unless named otherwise.

    Chosen between what int8 does when all is well (in parentheses: the bundled idsa_net_mobile at x4 in w8a8, trained
    for it, then merely calibrated) and the smallest damage worth a name. Flats and ramps are judged strictly, since
    every network reproduces them; on 1-pixel patterns two good networks differ by up to 255 levels in single pixels, so
    only their mean colour is judged.

    Attributes:
        smooth_shift_levels: mean difference of a channel to the float network on flats and ramps (0.3, 0.3). A tint
            is seen from about one level on.
        textured_shift_levels: the same on all other charts (2.4, 1.9).
        smooth_difference_levels: largest difference of any value on flats and ramps (2, 2).
        ripple_levels: how much less flat a flat may be (1, 2).
        spread_levels: how much less neutral a grey on flats and ramps may be (2, 3).
        distinct_share: levels along a ramp, as a share of the float network's (0.82, 0.81); seven bits
            leave half.
        longest_run_px: output pixels by which the longest stretch of one level may grow (3, 2).
        reversals_percent: neighbours on a ramp that fall by two levels, percentage points more (0.2, 2.0).
        clipped_percent: values on flats and ramps that end at 0 or 255 and should not (0, 0).
        overshoot_levels: how much further an edge may swing (0, 0).
    """

    smooth_shift_levels: float = 1.0
    textured_shift_levels: float = 5.0
    smooth_difference_levels: int = 6
    ripple_levels: int = 3
    spread_levels: int = 4
    distinct_share: float = 0.7
    longest_run_px: int = 6
    reversals_percent: float = 3.0
    clipped_percent: float = 0.5
    overshoot_levels: int = 8

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value >= 0:
                raise ConfigError(f"{entry.name} must be 0 or more, got {value}")
        if self.distinct_share > 1:
            raise ConfigError(f"distinct_share must be from 0 to 1, got {self.distinct_share}")


@dataclass(frozen=True, kw_only=True)
class ChartPictures:
    """One chart as it went in and came out, for the eye: (H, W, 3) uint8; ``lr`` is the smaller one."""

    name: str
    lr: Image
    reference: Image
    own: Image


@dataclass(frozen=True, kw_only=True)
class ColourCard:
    """Measures of every chart, the limits, and what breaks them. ``pictures`` are not part of the JSON."""

    artifact: str
    model: str
    scale: int
    scheme: str
    target: str
    runtime: str
    tile: tuple[int, int]
    limits: ColourLimits
    measures: tuple[ChartMeasure, ...]
    pictures: tuple[ChartPictures, ...] = field(repr=False, compare=False)

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each limit that a chart breaks, the chart in front; empty where the artifact passes."""
        return tuple(
            f"{measure.name}: {line}" for measure in self.measures for line in broken_limits(measure, self.limits)
        )

    def worst(self, name: str, kinds: Sequence[str] = SMOOTH_KINDS) -> tuple[float, str]:
        """The largest of one measure (of the largest channel) over charts of some kinds, and the chart's name."""
        found = [
            (max(map(abs, value)) if isinstance(value, tuple) else float(value), measure.name)
            for measure in self.measures
            if measure.kind in kinds and (value := getattr(measure, name)) is not None
        ]
        if not found:
            raise ConfigError(f"expected a measure of {', '.join(kinds)}, got {name}")
        return max(found)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, without pictures."""
        names = ("artifact", "model", "scale", "scheme", "target", "runtime")
        return {
            **{name: getattr(self, name) for name in names},
            "tile": list(self.tile),
            "limits": asdict(self.limits),
            "charts": [measure.to_json() for measure in self.measures],
            "failures": list(self.failures),
        }


def run_colour_card(
    artifact: Artifact,
    *,
    checkpoint: Path | None = None,
    references: References | None = None,
    limits: ColourLimits | None = None,
    threads: int = 1,
    isolated: bool = True,
    runtime: str | None = None,
    progress: Progress = quiet,
) -> ColourCard:
    """Run all charts through an artifact and through the float network that it descends from.

    Args:
        artifact: as ``load_artifact`` gave it; its tile must have 16 or more pixels per side.
        checkpoint: float checkpoint; default the bundled one.
        references: networks already loaded, in place of ``checkpoint``.
        limits: default :class:`ColourLimits`.
        threads: CPU threads of the runtime.
        isolated: run the artifact in a child process.
        runtime: what executes the artifact; default the first of ``accuracy_runtimes``.
        progress: called after each of the 27 charts, which take one tile each.
    Raises:
        CheckpointError: the float network is not the one the artifact descends from.
        RunnerError, MissingToolError: nothing here executes the artifact.
        ShapeError: the tile is too small.
    """
    meta = artifact.meta
    if references is None:
        references = References([] if checkpoint is None else [checkpoint], progress=progress)
    reference = TorchRunner(references.float_network(meta), name="float", tile=meta.tile)
    charts = make_charts(meta.tile, meta.scale)
    border = meta.scale * chart_border(meta.tile)
    if runtime is None:
        runtime = accuracy_runtimes(meta)[0]
    measures: list[ChartMeasure] = []
    pictures: list[ChartPictures] = []
    runner = open_runner(artifact, threads=threads, isolated=isolated, runtime=runtime)
    with closing_runner(runner):
        for chart in charts:
            own, other = runner.run(chart.lr), reference.run(chart.lr)
            measures.append(measure_chart(chart, own, other, border=border))
            pictures.append(_picture(chart, other, own))
            progress(f"colour card of {artifact.path.name}", len(measures), len(charts))
    return ColourCard(
        artifact=artifact.path.name,
        model=meta.model,
        scale=meta.scale,
        scheme=meta.scheme,
        target=meta.target,
        runtime=runtime,
        tile=meta.tile,
        limits=ColourLimits() if limits is None else limits,
        measures=tuple(measures),
        pictures=tuple(pictures),
    )


def broken_limits(measure: ChartMeasure, limits: ColourLimits) -> tuple[str, ...]:
    """One line ``expected ..., got ...`` for each limit that a chart breaks."""
    smooth = measure.kind in SMOOTH_KINDS
    lines = []
    shift_limit = limits.smooth_shift_levels if smooth else limits.textured_shift_levels
    for channel, shift in zip(("red", "green", "blue"), measure.shift_levels, strict=True):
        if not abs(shift) <= shift_limit:
            lines.append(f"expected {channel} within {shift_limit:g} levels of the float network, got {shift:+.2f}")
    if smooth:
        if measure.max_difference_levels > limits.smooth_difference_levels:
            lines.append(
                f"expected every value within {limits.smooth_difference_levels} levels of the float network, "
                f"got {measure.max_difference_levels}"
            )
        if measure.clipped_percent > limits.clipped_percent:
            lines.append(
                f"expected at most {limits.clipped_percent:g}% of values clipped, got {measure.clipped_percent:.2f}%"
            )
    return (*lines, *_broken_additions(measure, limits, smooth=smooth), *_broken_banding(measure, limits))


def _broken_additions(measure: ChartMeasure, limits: ColourLimits, *, smooth: bool) -> list[str]:
    """What may grow by so many levels over the float network's own."""
    lines = []
    for name, what, allowed in (
        ("ripple_levels", "a flat that varies by", limits.ripple_levels),
        ("spread_levels", "greys whose channels differ by", limits.spread_levels if smooth else None),
        ("overshoot_levels", "edges that overshoot by", limits.overshoot_levels),
    ):
        own, other = getattr(measure, name), getattr(measure, f"float_{name}")
        if own is not None and allowed is not None and own > other + allowed:
            lines.append(f"expected {what} at most {other + allowed} levels (float {other}), got {own}")
    return lines


def _broken_banding(measure: ChartMeasure, limits: ColourLimits) -> list[str]:
    lines = []
    if measure.distinct is not None and measure.float_distinct is not None:
        least = limits.distinct_share * measure.float_distinct
        if measure.distinct < least:
            lines.append(
                f"expected at least {least:.0f} levels along the ramp (float {measure.float_distinct}), "
                f"got {measure.distinct}"
            )
    if measure.longest_run_px is not None and measure.float_longest_run_px is not None:
        most = measure.float_longest_run_px + limits.longest_run_px
        if measure.longest_run_px > most:
            lines.append(
                f"expected bands of at most {most} pixels (float {measure.float_longest_run_px}), "
                f"got {measure.longest_run_px}"
            )
    if measure.reversals_percent is not None and measure.float_reversals_percent is not None:
        allowed = measure.float_reversals_percent + limits.reversals_percent
        if measure.reversals_percent > allowed:
            lines.append(
                f"expected at most {allowed:.2f}% of a ramp's steps to fall, got {measure.reversals_percent:.2f}%"
            )
    return lines


def _picture(chart: Chart, reference: Image, own: Image) -> ChartPictures:
    return ChartPictures(name=chart.name, lr=chart.lr, reference=reference, own=own)
