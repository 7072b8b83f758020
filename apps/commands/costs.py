"""``edge-sr layers`` and ``edge-sr roofline``: where an artifact's time goes here, and how far it could go."""

from __future__ import annotations

from typing import Annotated

import typer

from apps.commands.making import fail_on
from apps.commands.options import MOST_THREADS, Artifact, Artifacts, Checkpoint, Figure, Json, draw, save, working

Threads = Annotated[int, typer.Option("--threads", help="CPU threads of the runtime.", min=1, max=MOST_THREADS)]


def layers(
    artifact: Artifact,
    checkpoint: Checkpoint = None,
    threads: Threads = 1,
    runs: Annotated[int, typer.Option("--runs", help="Timed runs of the whole.", min=1)] = 50,
    figure: Figure = None,
    json_file: Json = None,
) -> None:
    """Time every layer of an artifact on this machine.

    TFLite: LiteRT's operator profile of the very file. ExecuTorch, which is built without a profiler: the network cut
    after each convolution, lowered again and timed in turns with the artifact, which takes minutes.
    """
    from apps.profiling.layers import profile_layers
    from apps.profiling.layers_view import layers_chart, print_layers

    with working(json_file, figure=figure) as progress:
        result = profile_layers(artifact, checkpoint=checkpoint, threads=threads, runs=runs, progress=progress)
    print_layers(result)
    save("layers", result, json_file)
    draw(figure, lambda: layers_chart(result))


def roofline(
    artifacts: Artifacts,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", help="CPU threads; may be given again. Default: 1.", min=1, max=MOST_THREADS),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of artifact and peak.", min=1)] = 3,
    figure: Figure = None,
    json_file: Json = None,
) -> None:
    """Compare artifacts with the most this machine reaches.

    The most is dense convolutions in the same runtime, scheme and threads. Both are timed in turns. Percent of peak
    says how far from the machine's limit an artifact is.
    """
    from apps.profiling.roofline import measure_roofline
    from apps.profiling.roofline_view import print_roofline, roofline_chart

    with working(json_file, figure=figure) as progress:
        report = measure_roofline(artifacts, threads=tuple(threads or (1,)), rounds=rounds, progress=progress)
    print_roofline(report)
    save("roofline", report, json_file)
    draw(figure, lambda: roofline_chart(report))
    if all(row.reason is not None for row in report.rows):
        fail_on(sorted({f"{row.label}: {row.reason}" for row in report.rows}))
