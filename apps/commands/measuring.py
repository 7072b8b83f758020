"""``edge-sr verify`` and ``edge-sr profile``: commands that measure artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.commands.making import fail_on
from apps.commands.options import Artifacts, Data, Json, Sets, save, working


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
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Float checkpoint to compare with. Default: bundled.", show_default=False),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads of the runtimes.", min=1)] = 1,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into each artifact.json.")] = False,
    json_file: Json = None,
) -> None:
    """Score the artifacts themselves, and split what they lose into tiling and quantization."""
    from apps.tables import print_verify
    from apps.verification.accuracy import check_gate, verify_artifacts

    with working(json_file) as progress:
        report = verify_artifacts(
            artifacts,
            data=data,
            sets=sets or None,
            max_drop_db=max_drop,
            checkpoint=checkpoint,
            threads=threads,
            record=record,
            progress=progress,
        )
    save("verify", report, json_file)
    for line in report.gate_failures:
        typer.echo(f"gate: {line}")
    print_verify(report)
    check_gate(report)
    fail_on(sorted({f"{row.label}: {row.reason}" for row in report.rows if row.failed}))


def profile(
    artifacts: Artifacts,
    device: Annotated[str, typer.Option("--device", help="Where to run; host is this machine.")] = "host",
    threads: Annotated[
        list[int] | None, typer.Option("--threads", help="CPU threads; may be given again. Default: 1.", min=1)
    ] = None,
    runs: Annotated[int, typer.Option("--runs", help="Timed runs per measurement, at least.", min=1)] = 50,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Stop one measurement after this long.")] = 20.0,
    json_file: Json = None,
) -> None:
    """Measure latency: one tile per run, one process per artifact and thread count; raw samples go into --json.

    Runs are added until the median's 95% confidence interval is at most 3% of it wide, or --max-seconds are over; "~"
    marks a median that stayed less certain. "!" marks an IQR above 10% of the median: the machine was busy.
    """
    from apps.machine import describe_machine
    from apps.profiling.host import profile_artifacts
    from apps.tables import print_profile, say

    with working(json_file) as progress:
        report = profile_artifacts(
            artifacts,
            device=device,
            threads=threads or (1,),
            runs=runs,
            max_seconds=max_seconds,
            progress=progress,
        )
    save("profile", report, json_file)
    print_profile(report)
    cores = describe_machine().logical_cores
    if max(threads or (1,)) > cores:
        say(f"only {cores} logical core{'s' if cores > 1 else ''} may be used here: more threads than that share them")
    fail_on(sorted({f"{row.label}: {row.reason}" for row in report.rows if row.failed}))
