"""``edge-sr sensitivity``: which parts of a network pay for int8."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from apps.commands.options import (
    MOST_THREADS,
    Checkpoint,
    Data,
    Json,
    Model,
    Scale,
    Scheme,
    Sets,
    read_tile,
    save,
    working,
)


def sensitivity(
    model: Model = "idsa_net_mobile",
    scale: Scale = 4,
    checkpoint: Checkpoint = None,
    scheme: Scheme = "w8a8",
    data: Data = None,
    sets: Sets = None,
    images: Annotated[int, typer.Option("--images", help="Photos to measure on, at most.", min=1)] = 24,
    side: Annotated[int, typer.Option("--side", help="LR pixels per side, cut from each photo's middle.", min=8)] = 64,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Photos for the ranges. Default: sample photos.", show_default=False),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Search ranges after min/max, as export does.")
    ] = True,
    variants: Annotated[
        bool, typer.Option("--variants", help="Also quantize with one kind of operator left in float at a time.")
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency", help="Also time each part in float and int8 (TFLite); wants a quiet machine.")
    ] = False,
    tile: Annotated[str, typer.Option("--tile", help="--latency: LR input as WIDTHxHEIGHT.")] = "128x128",
    threads: Annotated[int, typer.Option("--threads", help="--latency: CPU threads.", min=1, max=MOST_THREADS)] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for a page and a chart.", show_default=False, metavar="DIR"),
    ] = None,
    json_file: Json = None,
) -> None:
    """Say which parts of a network pay for int8.

    One part is quantized at a time, and all but one. Parts are kinds of operators, blocks, and the same layer of all
    blocks. The float weights are quantized after training, as export does. Parts are ranked by the error they bring
    into the float network's picture: PSNR against photos is given beside it, and is far noisier.
    """
    from apps.sensitivity import analyse_sensitivity, centre_crops
    from apps.sensitivity_view import print_sensitivity, write_report
    from apps.terminal import say

    with working(json_file, folder=out) as progress:
        report = analyse_sensitivity(
            centre_crops(data, sets or None, scale=scale, side=side, most=images),
            data="the sample photos" if data is None else data.name,
            model=model,
            scale=scale,
            checkpoint=checkpoint,
            scheme=scheme,
            calibration=calibration,
            search=search,
            variants=variants,
            latency_tile=read_tile(tile) if latency else None,
            threads=threads,
            progress=progress,
        )
    print_sensitivity(report)
    save("sensitivity", report, json_file)
    if out is not None:
        page = write_report(out, report, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        say(f"page: {page}")
