"""Two sets of measurements side by side: is one slower, and how sure is that?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.artifact_paths import one_artifact_at
from apps.history.measurement import ACCURACY, LATENCY, Measurement
from apps.history.ratio import SLOWER, TOLERANCE_PERCENT, ratio_of_medians, verdict_of
from apps.history.store import Filter, read
from apps.profiling.certainty import CONFIDENCE, median_interval
from apps.results import plain
from converters.artifact import META_FILE, load_artifact
from edge_sr.errors import ConfigError, DataError

_ALONE = "one launch: what a second one would differ by is not in the interval"
_FEW = "few launches: the interval is rather too narrow"
_MANY_LAUNCHES = 5


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: ``launches`` measurements with ``samples`` timed runs in all."""

    label: str
    launches: int
    samples: int
    median_ms: float
    interval_ms: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class LatencyComparison:
    """B against A on one device with one number of threads.

    ``ratio`` is the median of B over that of A; ``verdict`` speaks of B. ``note`` says what the interval leaves out.
    """

    artifact: str
    device: str
    runtime: str
    threads: int
    before: Side
    after: Side
    ratio: float
    ratio_interval: tuple[float, float] | None
    verdict: str
    note: str


@dataclass(frozen=True, kw_only=True)
class AccuracyComparison:
    """The newest score of either side on one image set; ``change_db`` is B less A."""

    artifact: str
    set_name: str
    runtime: str
    before_db: float
    after_db: float

    @property
    def change_db(self) -> float:
        return 0.0 if self.before_db == self.after_db else self.after_db - self.before_db


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """All that A and B share; ``unmatched`` names what only one of them has."""

    a: str
    b: str
    tolerance_percent: float
    confidence: float
    latency: tuple[LatencyComparison, ...]
    accuracy: tuple[AccuracyComparison, ...]
    unmatched: tuple[str, ...]
    measurements: tuple[tuple[str, Measurement], ...]

    @property
    def slower(self) -> int:
        """Rows where B is slower."""
        return sum(row.verdict == SLOWER for row in self.latency)

    def to_json(self) -> dict[str, Any]:
        return plain(  # type: ignore[no-any-return]
            {
                "a": self.a,
                "b": self.b,
                "tolerance_percent": self.tolerance_percent,
                "confidence": self.confidence,
                "latency": [asdict(row) for row in self.latency],
                "accuracy": [{**asdict(row), "change_db": row.change_db} for row in self.accuracy],
                "unmatched": list(self.unmatched),
            }
        )


def compare(
    a: str,
    b: str,
    path: Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    tolerance_percent: float = TOLERANCE_PERCENT,
) -> CompareReport:
    """Compare what the history holds of ``a`` and of ``b``.

    Args:
        a, b: each an artifact's folder, its name, the first digits of its hash, or a span of time
            (``2026-01-01..2026-01-31``, either end may be missing); ``NAME@SPAN`` is both.
        path: history file.
        device, threads: only these.
        tolerance_percent: the smallest difference that is called one.
    Raises:
        ConfigError: a or b is none of these, or the tolerance is negative.
        DataError: no history, or nothing in it fits.
    """
    if tolerance_percent < 0:
        raise ConfigError(f"tolerance must be at least 0 percent, got {tolerance_percent}")
    sides = []
    for text in (a, b):
        wanted = parse_selector(text)
        wanted = Filter(**{**asdict(wanted), "device": device, "threads": threads})
        found = read(path, wanted)
        if not found:
            raise DataError(f"expected measurements of {text} in {path}, got none: see edge-sr history for what it has")
        sides.append(found)
    by_name = any(len({measurement.artifact_name for measurement in side}) > 1 for side in sides)
    latency, unmatched = _compare_latency(sides[0], sides[1], by_name, tolerance_percent)
    accuracy, more = _compare_accuracy(sides[0], sides[1], by_name)
    if not latency and not accuracy:
        raise DataError(
            f"expected {a} and {b} to share a device with equal threads, or an image set, got nothing in common: "
            f"{'; '.join((*unmatched, *more))}"
        )
    return CompareReport(
        a=a,
        b=b,
        tolerance_percent=tolerance_percent,
        confidence=CONFIDENCE,
        latency=latency,
        accuracy=accuracy,
        unmatched=(*unmatched, *more),
        measurements=tuple((label, m) for label, side in zip("AB", sides, strict=True) for m in side),
    )


def parse_selector(text: str) -> Filter:
    """What ``a`` or ``b`` of :func:`compare` means."""
    what, mark, span = text.rpartition("@")
    if not mark:
        what, span = ("", text) if _is_span(text) else (text, "")
    if span and not _is_span(span):
        raise ConfigError(f"expected a span such as 2026-01-01..2026-01-31 after @, got {span!r} in {text!r}")
    since, _, until = span.partition("..")
    artifact = what or None
    folder = one_artifact_at(Path(what)) if what else None
    if folder is not None and (folder / META_FILE).is_file():
        from apps.history.collect import artifact_digest

        artifact = artifact_digest(load_artifact(folder).meta)
    if artifact is None and not span:
        raise ConfigError(f"expected an artifact or a span of time, got {text!r}")
    return Filter(artifact=artifact, since=since or None, until=until or None)


def _compare_latency(
    a: Sequence[Measurement], b: Sequence[Measurement], by_name: bool, tolerance: float
) -> tuple[tuple[LatencyComparison, ...], tuple[str, ...]]:
    def key(measurement: Measurement) -> tuple[str, ...]:
        name = measurement.artifact_name if by_name else ""
        device = f"{measurement.device_kind}: {measurement.device}"
        runtime = f"{measurement.runtime} {measurement.backend}".strip()
        return name, device, runtime if measurement.backend else "", f"{measurement.threads}"

    groups = [_grouped([m for m in side if m.kind == LATENCY], key) for side in (a, b)]
    rows = [_latency_row(groups[0][k], groups[1][k], tolerance) for k in sorted(groups[0].keys() & groups[1].keys())]
    return tuple(rows), _only_one(groups[0], groups[1])


def _latency_row(a: list[Measurement], b: list[Measurement], tolerance: float) -> LatencyComparison:
    launches = [[list(m.samples_ms) for m in side if m.samples_ms] for side in (a, b)]
    if all(launches):
        ratio, interval = ratio_of_medians(launches[0], launches[1])
        fewest = min(map(len, launches))
        note = _ALONE if fewest == 1 else (_FEW if fewest < _MANY_LAUNCHES else "")
    else:  # a tool that prints statistics only
        ratio, interval = _printed_median(b) / _printed_median(a), None
        note = "statistics without samples: no interval"
    names = sorted({m.artifact_name for m in (*a, *b)})
    runtimes = sorted({f"{m.runtime} {m.runtime_version} {m.backend}".strip() for m in (*a, *b)})
    return LatencyComparison(
        artifact=" / ".join(names),
        device=a[0].device,
        runtime=" / ".join(runtimes),
        threads=a[0].threads,
        before=_side("A", a),
        after=_side("B", b),
        ratio=ratio,
        ratio_interval=interval,
        verdict=verdict_of(interval, tolerance),
        note=note,
    )


def _side(label: str, measurements: list[Measurement]) -> Side:
    samples = [value for measurement in measurements for value in measurement.samples_ms]
    return Side(
        label=label,
        launches=len(measurements),
        samples=len(samples),
        median_ms=float(np.median(samples)) if samples else _printed_median(measurements),
        interval_ms=median_interval(samples) if samples else None,
    )


def _printed_median(measurements: list[Measurement]) -> float:
    values = [
        float(np.median(m.samples_ms)) if m.samples_ms else float(m.statistics["median_ms"]) for m in measurements
    ]
    return float(np.median(values))


def _compare_accuracy(
    a: Sequence[Measurement], b: Sequence[Measurement], by_name: bool
) -> tuple[tuple[AccuracyComparison, ...], tuple[str, ...]]:
    def key(measurement: Measurement) -> tuple[str, ...]:
        return measurement.artifact_name if by_name else "", str(measurement.set_name), measurement.runtime

    groups = [_grouped([m for m in side if m.kind == ACCURACY], key) for side in (a, b)]
    if not by_name:  # two formats run in two runtimes: the set is what they share
        groups = [{("", k[1], ""): v for k, v in group.items()} for group in groups]
    rows = []
    for shared in sorted(groups[0].keys() & groups[1].keys()):
        before, after = groups[0][shared][-1], groups[1][shared][-1]
        rows.append(
            AccuracyComparison(
                artifact=" / ".join(dict.fromkeys((before.artifact_name, after.artifact_name))),
                set_name=shared[1],
                runtime=" / ".join(dict.fromkeys((before.runtime, after.runtime))),
                before_db=float(before.psnr_y_db or 0.0),
                after_db=float(after.psnr_y_db or 0.0),
            )
        )
    return tuple(rows), _only_one(groups[0], groups[1])


def _grouped(
    measurements: Sequence[Measurement], key: Callable[[Measurement], tuple[str, ...]]
) -> dict[tuple[str, ...], list[Measurement]]:
    groups: dict[tuple[str, ...], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(key(measurement), []).append(measurement)
    return groups


def _only_one(a: dict[tuple[str, ...], Any], b: dict[tuple[str, ...], Any]) -> tuple[str, ...]:
    def spell(key: tuple[str, ...]) -> str:
        return ", ".join(part for part in key if part)

    return (
        *(f"only A has {spell(key)}" for key in sorted(a.keys() - b.keys())),
        *(f"only B has {spell(key)}" for key in sorted(b.keys() - a.keys())),
    )


def _is_span(text: str) -> bool:
    # A path holds dots too: a span has a digit or nothing on either side of "..".
    before, dots, after = text.partition("..")
    return bool(dots) and "/" not in text and all(not part or part[0].isdigit() for part in (before, after))
