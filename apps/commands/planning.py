"""``edge-sr plan``: which tile for which picture."""

from __future__ import annotations

from typing import Annotated

import typer

from apps.commands.options import MOST_THREADS, Artifacts, Json, save, working


def plan(
    artifacts: Artifacts,
    image: Annotated[str, typer.Option("--image", help="The picture to upscale, as WIDTHxHEIGHT.", show_default=False)],
    ram: Annotated[
        str | None,
        typer.Option("--ram", help="Memory for model and pictures: 512MB, say. Default: any.", show_default=False),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", help="LR pixels shared by neighbouring tiles. Default: each artifact's.", min=0),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", help="CPU threads; may be given again. Default: 1.", min=1, max=MOST_THREADS),
    ] = None,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Stop one measurement after this long.")] = 5.0,
    json_file: Json = None,
) -> None:
    """Say which tile upscales a picture fastest in the memory.

    Artifacts of different tiles are measured here. Export the tiles to choose from first: edge-sr export --tile 64x64
    ..., --tile 128x128 ..., --tile 256x256 ....
    """
    from apps.planning.planner import costs_of, parse_memory, plan_picture
    from apps.planning.planner_view import print_plan
    from apps.profiling.host import profile_artifacts
    from edge_sr.sizes import parse_size

    height, width = parse_size(image, "picture", "4000x3000")
    limit = None if ram is None else parse_memory(ram)
    with working(json_file) as progress:
        report = profile_artifacts(
            artifacts, threads=threads or (1,), runs=10, max_seconds=max_seconds, progress=progress
        )
    result = plan_picture(height, width, costs_of(report), ram_bytes=limit, overlap=overlap)
    print_plan(result)
    save("plan", result, json_file)
