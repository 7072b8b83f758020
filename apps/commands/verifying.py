"""``edge-sr verify``: can artifacts be believed."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.commands.history import HistoryFile, NoHistory, open_history
from apps.commands.making import fail_on
from apps.commands.options import MOST_THREADS, Artifacts, Data, Json, Sets, choice, save, working

if TYPE_CHECKING:
    from apps.verification.accuracy import VerifyReport
    from apps.verification.gate import GateCheck, GateLimits


def verify(
    artifacts: Artifacts,
    data: Data = None,
    sets: Sets = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="Gate: most dB an artifact may lose on any set against the float network on whole images. "
            "Exit status 3 when it fails.",
            show_default=False,
        ),
    ] = None,
    max_image_drop: Annotated[
        float | None,
        typer.Option("--max-image-drop", help="Gate: most dB that any single image may lose.", show_default=False),
    ] = None,
    min_psnr: Annotated[
        float | None, typer.Option("--min-psnr", help="Gate: least mean PSNR of a set, in dB.", show_default=False)
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Everything: also the waterfall, agreement between runtimes, seams, the colour card and ARM numerics, "
            "as a page. Exit status 3 when any of it fails.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.json of --full.")] = Path(
        "out/verify"
    ),
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            help="Checkpoint behind the artifacts, float or quantized; may be given again. Default: bundled.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="--full: folder of photos that post-training ranges came from. Default: sample photos.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", help="CPU threads of the runtimes.", min=1, max=MOST_THREADS)
    ] = 1,
    jobs: Annotated[
        int, typer.Option("--jobs", help="--full: artifacts looked at side by side.", min=1, max=MOST_THREADS)
    ] = 2,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into each artifact.json.")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write the checks as JUnit XML.", show_default=False, metavar="FILE")
    ] = None,
    annotations: Annotated[
        str | None,
        choice("--annotations", known=("github",), help="github: print workflow annotations, write the step summary."),
    ] = None,
    history_file: HistoryFile = None,
    no_history: NoHistory = False,
    json_file: Json = None,
) -> None:
    """Score artifacts, and say where what they lose is lost.

    Every score goes into the history. Core ML packages are executed by an evaluator of our own, on any system, and on
    macOS by Core ML as well.
    """
    from apps.terminal import say
    from apps.verification.gate import GateLimits, enforce, passed_line
    from apps.verification.gate_view import check_junit_target

    limits = GateLimits(max_drop_db=max_drop, max_image_drop_db=max_image_drop, min_psnr_y_db=min_psnr)
    if junit is not None:
        check_junit_target(junit)
    kept = open_history(history_file, no_history)
    if full:
        checks = _verify_fully(
            *(artifacts, data, sets or None, limits, checkpoint or (), calibration, threads, jobs, record),
            *(out, kept, json_file),
        )
        _tell(checks, junit, annotations)
        enforce(checks)
        say(passed_line(checks))
        return
    checks, failed = _verify(artifacts, data, sets or None, limits, checkpoint or (), threads, record, kept, json_file)
    _tell(checks, junit, annotations)
    if limits.ask:
        enforce(checks)
        say(passed_line(checks))
    fail_on(failed)


def _verify(
    artifacts: Sequence[Path],
    data: Path | None,
    sets: Sequence[str] | None,
    limits: GateLimits,
    checkpoints: Sequence[Path],
    threads: int,
    record: bool,
    kept: Path | None,
    json_file: Path | None,
) -> tuple[Sequence[GateCheck], list[str]]:
    from apps.tables import print_verify
    from apps.terminal import say
    from apps.verification.accuracy import verify_artifacts

    with working(json_file) as progress:
        report = verify_artifacts(
            artifacts,
            data=data,
            sets=sets,
            limits=limits,
            checkpoints=checkpoints,
            threads=threads,
            record=record,
            progress=progress,
        )
    if limits.ask:
        for line in report.gate_failures:
            say(f"gate: {line}")
    print_verify(report)
    for line in report.notices:
        say(f"note: {line}")
    _keep(report, kept)
    save("verify", report, json_file)
    return report.checks, sorted({f"{row.label}: {row.reason}" for row in report.rows if row.failed})


def _verify_fully(
    artifacts: Sequence[Path],
    data: Path | None,
    sets: Sequence[str] | None,
    limits: GateLimits,
    checkpoints: Sequence[Path],
    calibration: Path | None,
    threads: int,
    jobs: int,
    record: bool,
    out: Path,
    kept: Path | None,
    json_file: Path | None,
) -> Sequence[GateCheck]:
    from apps.terminal import say
    from apps.verification.full import verify_fully
    from apps.verification.full_view import claim_folder, print_full, write_full

    claim_folder(out)
    with working(json_file) as progress:
        report = verify_fully(
            artifacts,
            data=data,
            sets=sets,
            limits=limits,
            checkpoints=checkpoints,
            calibration=calibration,
            threads=threads,
            jobs=jobs,
            record=record,
            progress=progress,
        )
    print_full(report)
    _keep(report.verify, kept)
    save("verify-full", report, json_file)
    page = write_full(out, report, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    say(f"report: {page} and {page.with_suffix('.json')}, {sum(report.seconds.values()):.0f} s in all")
    return report.checks


def _keep(report: VerifyReport, kept: Path | None) -> None:
    if kept is not None:
        from apps.history.collect import append_verify

        append_verify(report, kept)


def _tell(checks: Sequence[GateCheck], junit: Path | None, annotations: str | None) -> None:
    """Write what CI systems read."""
    from apps.verification.gate_view import append_step_summary, github_annotations, markdown_summary, write_junit

    if junit is not None:
        write_junit(junit, checks)
    if annotations is None:
        return
    from apps.terminal import say

    for line in github_annotations(checks):
        say(line)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        append_step_summary(Path(summary), markdown_summary(checks))
