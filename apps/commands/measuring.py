"""``edge-sr profile``: how fast artifacts are."""

from __future__ import annotations

from typing import Annotated

import typer

from apps.commands.making import fail_on
from apps.commands.options import Artifacts, Json, save, working


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
