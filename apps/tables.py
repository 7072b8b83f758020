"""The results as tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.formatting import format_bytes, format_db, format_drop, format_ops, format_timing
from apps.profiling.sampled import NOISY_IQR_PERCENT
from apps.terminal import add_row, console, new_table, say, show, styled
from converters.runners import RUNTIMES
from converters.targets import TARGETS
from quantization.schemes import SCHEMES

if TYPE_CHECKING:
    from apps.catalogue import BundledWeights, ModelsReport
    from apps.demo import DemoReport
    from apps.doctor import Check
    from apps.exporting import ExportReport
    from apps.results import ProfileReport
    from apps.verification.accuracy import VerifyReport

_FLOAT_SCHEMES = tuple(scheme.name for scheme in SCHEMES.values() if not scheme.quantized)
# Of text that is no table: what a person reads, on however wide a terminal.
_PAGE_WIDTH = 80
_STATUS_STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def print_export(report: ExportReport) -> None:
    """Target, scheme, size, delegates, ops outside, where it is."""
    table = new_table(
        *("target", "scheme", "weights", "size", "delegates", "ops outside", "seconds", "artifact"),
        right=(3, 4, 6),
        names=(7,),
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
            str(row.path) if row.error is None else "–",
        )
    show(table)


def print_verify(report: VerifyReport) -> None:
    """PSNR and SSIM per artifact and set, the image of the lowest PSNR, and the drop split in two."""
    several = any(row.runtime != row.target for row in report.rows)
    table = new_table(
        *("artifact", *(("runs in",) if several else ()), "set", "images", "float, whole", "float, tiled", "PSNR-Y"),
        *("SSIM", "drop", "= tiling", "+ quant.", "lowest image"),
        right=range(3 + several, 10 + several),
        names=(0,),
        prose=(10 + several,),
    )
    for row in report.rows:
        cells = [row.artifact_path.name, *([RUNTIMES[row.runtime].title] if several else []), row.set_name, row.counted]
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
        names=(0,),
        prose=(9,),
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
            (f"{row.target} {row.scheme}", row.runs_in) if row.runs_in else f"{row.target} {row.scheme}",
            format_bytes(row.size_bytes),
            format_db(row.psnr_y_db),
            format_drop(row.drop_db),
            *(format_timing(row.timings.get(count)) for count in threads),
            row.outside,
        )
    show(table)
    if any(timing.noisy for row in report.summary for timing in row.timings.values()):
        say(f"!  IQR above {NOISY_IQR_PERCENT:g}% of the median: measure again on a quiet machine")
    for line in dict.fromkeys(f"{row.target} {row.scheme}: {row.reason}" for row in report.summary if row.reason):
        say(line)


class DoctorPrinter:
    """Prints what the doctor finds as it comes: name, status and finding, and the cure on a line of its own."""

    def __init__(self) -> None:
        self._group = ""

    def __call__(self, check: Check) -> None:
        out = console()
        if check.group != self._group:
            say(check.group, out)
            self._group = check.group
        begin = f"  {check.name:<20}{check.status:<8}"
        width = min(out.width, _PAGE_WIDTH) - len(begin)
        cure = (
            textwrap.wrap(f"cure: {check.cure}", width, break_on_hyphens=False, break_long_words=False)
            if check.cure
            else []
        )
        first, *more = textwrap.wrap(check.detail, width, break_on_hyphens=False, break_long_words=False) or [""]
        status = styled(f"{check.status:<8}", _STATUS_STYLES[check.status])
        out.print(styled(f"  {check.name:<20}"), status, styled(first), sep="", soft_wrap=True)
        for line in (*more, *cure):
            say(" " * len(begin) + line, out)


def print_models(report: ModelsReport) -> None:
    """Networks by scale, what is bundled of each and under which licence; then what networks and schemes are."""
    table = new_table("network", "scale", "params", "bundled", "float", "int8", "licence", right=(2, 4, 5))
    for model in report.models:
        for scale, count in model.deployed_parameters.items():
            own = [weights for weights in model.bundled if weights.scale == scale]
            add_row(
                table,
                model.name,
                f"x{scale}",
                f"{count:,}",
                " ".join(weights.scheme for weights in own) or "none",
                format_db(_score(own, quantized=False), 2),
                format_db(_score(own, quantized=True), 2),
                tuple(dict.fromkeys(weights.license or "not recorded" for weights in own)) or "–",
            )
        table.add_section()
    show(table)
    say("params: as deployed; float, int8: PSNR-Y in dB on photos held out of each")
    say("network's own training, so not comparable between networks")
    say("none bundled: train your own (edge-sr train --help) and give it as --checkpoint")
    kinds = new_table("name", "what it is", "targets")
    for model in report.models:
        add_row(kinds, model.name, model.summary, "all")
    for scheme in SCHEMES.values():
        targets = [target.name for target in TARGETS.values() if scheme.name in target.schemes]
        add_row(kinds, scheme.name, scheme.summary, "all" if len(targets) == len(TARGETS) else ", ".join(targets))
    show(kinds)
    say(f"targets: {', '.join(TARGETS)}")


def _score(bundled: Sequence[BundledWeights], *, quantized: bool) -> float | None:
    # Quantization scored the float network as it is deployed, which training's own score may be thousandths away from.
    deployed = (own.metadata.get("float_psnr_y_db") for own in bundled if own.scheme not in _FLOAT_SCHEMES)
    if not quantized and isinstance(found := next(deployed, None), float):
        return found
    return next((own.psnr_y_db for own in bundled if (own.scheme not in _FLOAT_SCHEMES) is quantized), None)
