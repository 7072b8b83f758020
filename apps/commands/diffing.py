"""``edge-sr diff``: what changed between two artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.artifact_paths import one_artifact_at
from apps.commands.options import MOST_THREADS, Artifact, Data, Json, Sets, save, working


def diff(
    before: Artifact,
    after: Annotated[
        Path, typer.Argument(help="The one to compare with it.", show_default=False, callback=one_artifact_at)
    ],
    data: Data = None,
    sets: Sets = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            help="Run both on at most so many images of each set. Default: two sample photos, or all of --data.",
            min=1,
            show_default=False,
        ),
    ] = None,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Whether to run the artifacts at all.")] = True,
    threads: Annotated[
        int, typer.Option("--threads", help="CPU threads of the runtimes.", min=1, max=MOST_THREADS)
    ] = 1,
    json_file: Json = None,
) -> None:
    """Say what changed between two artifacts.

    Fields, sizes, ops, scales, weights, and what comes out. Exit status as of diff: 0 where both compute the same, 1
    where they differ, 2 in trouble. "The same" is the same graph with the same constants, interface, tile and overlap;
    names, versions, dates and licences do not count.
    """
    from apps.verification.artifact_diff import diff_artifacts
    from apps.verification.artifact_diff_view import print_diff

    with working(json_file) as progress:
        result = diff_artifacts(
            before,
            after,
            data=data,
            sets=sets or None,
            images=images,
            outputs=run,
            threads=threads,
            progress=progress,
        )
    print_diff(result)
    save("diff", result, json_file)
    if result.exit_code:
        raise typer.Exit(result.exit_code)
