"""The results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.formatting import format_bytes, format_db, format_drop, format_ops, format_timing
from apps.profiling.sampled import NOISY_IQR_PERCENT
from apps.terminal import add_row, new_table, say, show, styled
from converters.targets import TARGETS
from quantization.schemes import SCHEMES

if TYPE_CHECKING:
    from apps.catalogue import ModelsReport
    from apps.demo import DemoReport
    from apps.doctor import DoctorReport
    from apps.exporting import ExportReport
    from apps.results import ProfileReport
    from apps.verification.accuracy import VerifyReport

_STATUS_STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def print_export(report: ExportReport) -> None:
    """Target, scheme, size, delegates, ops outside, where it is."""
    table = new_table(
        "target", "scheme", "weights", "size", "delegates", "ops outside", "seconds", "artifact", right=(3, 4, 6)
    )
    for row in report.rows:
        add_row(
            table,
            row.target,
            row.scheme,
            row.weights,
            format_bytes(row.size_bytes),
            "–" if row.delegates is None else str(row.delegates),
            format_ops(row.ops_outside, row.delegates),
            f"{row.seconds:.0f}",
            str(row.path) if row.error is None else f"failed: {row.error}",
        )
    show(table)


def print_verify(report: VerifyReport) -> None:
    """PSNR and SSIM per artifact and set, the worst image, and the drop split in two."""
    table = new_table(
        *("artifact", "set", "images", "float, whole", "float, tiled", "PSNR-Y", "SSIM", "drop", "= tiling"),
        *("+ quant.", "worst image"),
        right=range(3, 10),
    )
    for row in report.rows:
        cells = [row.label, row.set_name, row.counted]
        cells += [format_db(row.float_whole.psnr_y_db), format_db(row.float_tiled.psnr_y_db)]
        if row.artifact is None:
            cells += ["–", "–", "–", format_drop(row.tiling_drop_db), "–", row.reason or ""]
        else:
            worst = row.artifact.worst
            cells += [format_db(row.artifact.psnr_y_db), format_db(row.artifact.ssim, 4), format_drop(row.drop_db)]
            cells += [format_drop(row.tiling_drop_db), format_drop(row.quantization_drop_db)]
            cells += [f"{worst.name} ({worst.psnr_y_db:.2f} dB)"]
        add_row(table, *cells)
    show(table)


def print_profile(report: ProfileReport) -> None:
    """Load, first run, median, IQR, p95 and memory per artifact and thread count."""
    table = new_table(
        *("artifact", "threads", "load ms", "first ms", "median ms", "IQR ms", "p95 ms", "runs", "peak RSS"),
        "runtime",
        right=range(1, 9),
    )
    for row in report.rows:
        timing = row.timing
        if timing is None:
            add_row(table, row.label, str(row.threads), *["–"] * 7, row.reason or "")
            continue
        add_row(
            table,
            row.label,
            str(row.threads),
            f"{timing.load_ms:.1f}",
            f"{timing.first_ms:.1f}",
            f"{timing.median_ms:.2f}" + ("" if timing.settled else " ~"),
            f"{timing.iqr_ms:.2f}" + (f" ! {timing.iqr_percent:.0f}%" if timing.noisy else ""),
            f"{timing.p95_ms:.2f}",
            str(len(timing.samples_ms)),
            f"{timing.peak_rss_bytes / 1e6:.0f} MB",
            f"{timing.runtime} {timing.runtime_version}",
        )
    show(table)
    if any(row.timing is not None and row.timing.noisy for row in report.rows):
        say("!  IQR above 10% of the median: something else used the processor; measure again on a quiet machine")
    if any(row.timing is not None and not row.timing.settled for row in report.rows):
        say("~  the median is known to no better than 3%: allow more time with --max-seconds, or quiet the machine")


def print_summary(report: DemoReport, threads: Sequence[int]) -> None:
    """The demo's table within 80 columns: bicubic, then accuracy, latency and delegation of every artifact."""
    heads = ["artifact", "size", "PSNR-Y", "drop", *(f"ms, {count} thr" for count in threads)]
    table = new_table(*heads, "outside", right=range(1, 4 + len(threads)))
    add_row(table, "bicubic", "–", format_db(report.bicubic_psnr_y_db), "–", *("–" for _ in threads), "–")
    for row in report.summary:
        add_row(
            table,
            f"{row.target} {row.scheme}",
            format_bytes(row.size_bytes),
            format_db(row.psnr_y_db),
            format_drop(row.drop_db),
            *(format_timing(row.timings.get(count)) for count in threads),
            row.outside,
        )
    show(table)
    if any(timing.noisy for row in report.summary for timing in row.timings.values()):
        say(f"!  IQR above {NOISY_IQR_PERCENT:g}% of the median: measure again on a quiet machine")
    for row in report.summary:
        if row.reason is not None:
            say(f"{row.target} {row.scheme}: {row.reason}")


def print_doctor(report: DoctorReport) -> None:
    """What was found, and what to do about it."""
    table = new_table("", "what", "status", "found", "cure")
    group = ""
    for check in report.checks:
        if group and check.group != group:
            table.add_section()
        style = _STATUS_STYLES[check.status]
        heading = check.group if check.group != group else ""
        add_row(table, heading, check.name, styled(check.status, style), check.detail, check.cure)
        group = check.group
    show(table)


def print_models(report: ModelsReport) -> None:
    """Networks, their sizes, and what is recorded with their weights."""
    table = new_table("model", "scale", "parameters", "deployed", "bundled weights", "recorded", right=(2, 3))
    for model in report.models:
        for scale, count in model.parameters.items():
            own = [weights for weights in model.bundled if weights.scale == scale]
            add_row(
                table,
                model.name if scale == min(model.parameters) else "",
                f"x{scale}",
                f"{count:,}",
                f"{model.deployed_parameters[scale]:,}",
                tuple(weights.scheme for weights in own) or "–",
                tuple(_recorded(weights.metadata) for weights in own),
            )
        table.add_section()
    show(table)
    for model in report.models:
        say(f"{model.name}: {model.summary}")
    for scheme in SCHEMES.values():
        targets = [target.name for target in TARGETS.values() if scheme.name in target.schemes]
        say(f"{scheme.name}: {scheme.summary} ({', '.join(targets)})")


def _recorded(metadata: dict[str, object]) -> str:
    # Short values only: whole histories are in --json.
    short = {key: value for key, value in metadata.items() if isinstance(value, str | int | float) and value != ""}
    return ", ".join(f"{key} {value}" for key, value in short.items() if len(str(value)) <= 40)[:110]
