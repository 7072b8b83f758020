"""One page of everything that was measured: table, photos, charts, crops, files, machine, versions, command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from apps.bars import BarChart, LatencyBar, latency_chart, waterfall_chart
from apps.exporting import ExportReport
from apps.figures import Panel, crop_panels, most_different_window
from apps.formatting import format_ops, format_subject
from apps.next_steps import model_files, next_steps
from apps.pages import JPEG_QUALITY, write_page
from apps.profiling.sampled import NOISY_IQR_PERCENT
from apps.results import ProfileReport, Timing, plain
from apps.verification.accuracy import VerifyReport
from apps.verification.rows import VerifyRow
from converters.artifact import Artifact
from converters.coreml_evaluator import NOTE as EVALUATOR_NOTE
from converters.runners import RUNTIMES
from converters.targets import TARGETS
from edge_sr.datasets import ImagePair
from edge_sr.evaluation import SetScore
from edge_sr.resize import bicubic_resize

Image = NDArray[np.uint8]
Scored = TypeVar("Scored")

CROP_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One artifact in one runtime in the main table, everything joined by its path.

    ``runtime`` is empty where nothing was verified. ``drop_db`` and ``psnr_y_db`` are means over the sets' means where
    there are several sets. ``timings`` maps a number of threads to its timing, in the row of the first runtime.
    ``reason`` says why accuracy or latency is missing. ``artifact_path`` is None where the export failed.
    """

    artifact_name: str
    artifact_path: Path | None
    target: str
    scheme: str
    runtime: str
    tile: tuple[int, int]
    weights: str
    size_bytes: int | None
    psnr_y_db: float | None
    ssim: float | None
    drop_db: float | None
    tiling_drop_db: float | None
    quantization_drop_db: float | None
    timings: Mapping[int, Timing]
    delegates: int | None
    ops_outside: Mapping[str, int] | None
    notes: tuple[str, ...]
    reason: str | None

    @property
    def target_title(self) -> str:
        return TARGETS[self.target].title

    @property
    def runs_in(self) -> str:
        """The runtime, where a target has several that phones compute like; else nothing."""
        known = RUNTIMES.get(self.runtime)
        return "" if known is None or known.stand_in or known.name == self.target else known.title

    @property
    def outside(self) -> str:
        """Ops left outside of the delegates, for people."""
        return format_ops(self.ops_outside, self.delegates)

    def to_json(self) -> dict[str, Any]:
        short = ("median_ms", "iqr_ms", "iqr_percent", "p95_ms", "noisy", "load_ms", "first_ms", "peak_rss_bytes")
        timings = {count: timing.to_json() for count, timing in self.timings.items()}
        fields = asdict(self) | {
            "timings": {count: {name: full[name] for name in short} for count, full in timings.items()}
        }
        return plain(fields)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """The picture of the report: the image on which an int8 artifact differs most from the float network."""

    image_name: str
    set_name: str
    artifact_name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A whole photo enlarged by bicubic and by an artifact, (H, W, 3) uint8 each, with the PSNR of both."""

    image_name: str
    set_name: str
    artifact_name: str
    bicubic: Image
    bicubic_psnr_y_db: float
    own: Image
    own_psnr_y_db: float


def summarize(export: ExportReport, verify: VerifyReport, profile: ProfileReport) -> tuple[SummaryRow, ...]:
    """Join what was exported, verified and profiled: one row per exported artifact and runtime, or failed artifact."""
    rows = []
    for made in export.rows:
        verified = [row for row in verify.rows if row.artifact_path == made.path]
        timed = [row for row in profile.rows if made.path is not None and row.artifact_path == made.path]
        for own in _by_runtime(verified):
            reasons = [made.error, *(row.reason for row in own), *(row.reason for row in timed)]
            rows.append(
                SummaryRow(
                    artifact_name="" if made.path is None else made.path.name,
                    artifact_path=made.path,
                    target=made.target,
                    scheme=made.scheme,
                    runtime=own[0].runtime if own else "",
                    tile=made.tile,
                    weights=made.weights,
                    size_bytes=made.size_bytes,
                    psnr_y_db=_mean(own, lambda row: None if row.artifact is None else row.artifact.psnr_y_db),
                    ssim=_mean(own, lambda row: None if row.artifact is None else row.artifact.ssim),
                    drop_db=_mean(own, lambda row: row.drop_db),
                    tiling_drop_db=_mean(own, lambda row: row.tiling_drop_db),
                    quantization_drop_db=_mean(own, lambda row: row.quantization_drop_db),
                    timings={row.threads: row.timing for row in timed if row.timing is not None},
                    delegates=made.delegates,
                    ops_outside=made.ops_outside,
                    notes=(*made.notes, *_runtime_notes(own)),
                    reason=next((reason for reason in reasons if reason), None),
                )
            )
            timed = [row for row in timed if row.timing is None]  # a latency is of the first runtime
    return tuple(rows)


def make_showcase(
    pair: ImagePair, *, set_name: str, artifact_name: str, scale: int, float_sr: Image, int8_sr: Image
) -> Showcase:
    """Cut the square where the int8 artifact and the float network differ most out of LR, bicubic, float, int8, HR."""
    height, width = pair.hr.shape[:2]
    half = CROP_SIDE // 2
    # The worst spot comes to the middle; on the LR grid, so that the LR crop shows the same scene.
    corner = most_different_window(float_sr, int8_sr, half)
    top, left = (
        max(min(start - half // 2, side - CROP_SIDE), 0) // scale * scale
        for start, side in zip(corner, (height, width), strict=True)
    )
    panels = (
        Panel(label="LR", image=pair.lr),
        Panel(label="bicubic", image=bicubic_resize(pair.lr, height, width)),
        Panel(label="float", image=float_sr),
        Panel(label="int8", image=int8_sr),
        Panel(label="HR", image=pair.hr),
    )
    return Showcase(
        image_name=pair.name,
        set_name=set_name,
        artifact_name=artifact_name,
        panels=crop_panels(panels, window=(top, left), size=CROP_SIDE),
    )


def write_report(
    path: Path,
    *,
    title: str,
    export: ExportReport,
    verify: VerifyReport,
    profile: ProfileReport,
    bicubic: Sequence[SetScore] = (),
    artifacts: Sequence[Artifact] = (),
    comparisons: Sequence[Comparison] = (),
    showcases: Sequence[Showcase] = (),
    command: str,
) -> Path:
    """Write the page; an existing file of that name is replaced, whole or not at all.

    Args:
        path: the .html file; its folder must exist.
        title: heading of the page.
        export, verify, profile: what was measured.
        bicubic: what bicubic enlarging scores on the sets of ``verify``.
        artifacts: whose files are listed, with what to do with them next.
        comparisons: whole photos to show.
        showcases: crops to show.
        command: the words that made the numbers, printed for whoever repeats them.
    """
    summary = summarize(export, verify, profile)
    facts = {
        "summary": summary,
        "threads": sorted({row.threads for row in profile.rows}),
        "verify_rows": verify.rows,
        "notices": verify.notices,
        "subject": format_subject,
        "profile": profile,
        "bicubic_db": mean_psnr(bicubic),
        "bicubic_ssim": _mean(bicubic, lambda score: score.ssim),
        "bicubic_by_set": {score.set_name: score.psnr_y_db for score in bicubic},
        "model_files": list(model_files(artifacts)),
        "next_steps": next_steps(artifacts),
        "latency": _latency(summary),
        "waterfalls": _waterfalls(verify.rows),
        "comparisons": comparisons,
        "jpeg_quality": JPEG_QUALITY,
        "showcases": showcases,
        "noisy_percent": NOISY_IQR_PERCENT,
    }
    return write_page(path, "report.html.j2", title=title, command=command, facts=facts)


def mean_psnr(scores: Sequence[SetScore]) -> float | None:
    """Mean over the sets' means, in dB; None where there is no set."""
    return _mean(scores, lambda score: score.psnr_y_db)


def _by_runtime(rows: Sequence[VerifyRow]) -> list[list[VerifyRow]]:
    """Rows of each runtime, the most telling first; a stand-in's only where it is alone. One empty list of none."""
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    wanted = [name for name in runtimes if not RUNTIMES[name].stand_in] or runtimes
    return [[row for row in rows if row.runtime == name] for name in wanted] or [[]]


def _runtime_notes(rows: Sequence[VerifyRow]) -> tuple[str, ...]:
    evaluated = any(row.runtime == "coreml_evaluator" and row.artifact is not None for row in rows)
    return (EVALUATOR_NOTE,) if evaluated else ()


def _mean(rows: Sequence[Scored], value: Callable[[Scored], float | None]) -> float | None:
    values = [value(row) for row in rows]
    known = [number for number in values if number is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _latency(summary: Sequence[SummaryRow]) -> BarChart | None:
    bars = [
        LatencyBar(
            label=f"{row.target_title} {row.scheme}, {count} thread{'s' if count > 1 else ''}",
            scheme=row.scheme,
            median_ms=timing.median_ms,
            quartiles_ms=timing.quartiles_ms,
        )
        for row in sorted(summary, key=lambda row: list(TARGETS).index(row.target))
        for count, timing in sorted(row.timings.items())
    ]
    return latency_chart(bars, title="Latency of each artifact at each number of threads") if bars else None


def _waterfalls(rows: Sequence[VerifyRow]) -> list[tuple[str, BarChart]]:
    charts = []
    for row in rows:
        if row.artifact is None or row.quantization_drop_db is None or row.scheme == "fp32":
            continue
        steps = [
            ("tiling", row.tiling_drop_db),
            ("int8" if "8" in row.scheme else row.scheme, row.quantization_drop_db),
        ]
        name = f"{format_subject(row.target, row.scheme, row.runtime)} on {row.set_name}"
        chart = waterfall_chart(
            steps,
            title=f"PSNR from the float network to {name}",
            start_label="float, whole images",
            start_db=row.float_whole.psnr_y_db,
            end_label="artifact",
        )
        charts.append((name, chart))
    return charts
