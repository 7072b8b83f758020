"""``edge-sr export`` and ``demo``: commands that make artifacts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from apps.commands.options import (
    Checkpoint,
    Data,
    Json,
    Model,
    Overwrite,
    Scale,
    Sets,
    Targets,
    choice,
    read_tile,
    save,
    working,
)
from apps.streams import complain


def export(
    out: Annotated[Path, typer.Option("--out", help="Folder that gets one folder per artifact.", show_default=False)],
    model: Model = "idsa_net_mobile",
    scale: Scale = 4,
    scheme: Annotated[
        list[str] | None,
        choice(
            "--scheme",
            known="quantization.schemes:SCHEMES",
            help="fp32, fp16, w8a8, w8a8_mixed or w8a16; may be given again. Default: w8a8.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        choice(
            "--target",
            known="converters.targets:TYPED_TARGETS",
            help="tflite, executorch, coreml, qnn or npu; may be given again. Default: the first three.",
        ),
    ] = None,
    soc: Annotated[
        list[str] | None,
        typer.Option(
            "--soc",
            metavar="NAME",
            help="For qnn and npu: chip to compile for, as SM8750; may be given again. Default: one of today.",
            show_default=False,
        ),
    ] = None,
    vendor: Annotated[
        str | None,
        choice("--vendor", known="converters.vendors:VENDORS", help="For npu: mediatek, google_tensor or samsung."),
    ] = None,
    backend: Annotated[
        str | None,
        choice(
            "--backend",
            known="converters.targets:BACKENDS",
            help="Of target executorch: xnnpack for CPUs, vgf for Arm's neural accelerators. Default: xnnpack.",
        ),
    ] = None,
    tile: Annotated[str, typer.Option("--tile", help="LR input as WIDTHxHEIGHT.")] = "128x128",
    checkpoint: Checkpoint = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="Folder of photos for quantizing a float checkpoint. Default: sample photos.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            "--overlap", help="LR pixels shared by neighbouring tiles. Default: the fewest at which no seam shows."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Make artifacts, one folder per scheme and target.

    Each holds the model file and artifact.json, which says how to use it, what it was made of and what it hashes to.
    """
    from apps.exporting import export_artifacts, typed_targets
    from apps.formatting import format_licence
    from apps.tables import print_export
    from apps.terminal import say

    size, targets = read_tile(tile), typed_targets(target, backend=backend, vendor=vendor)
    with working(json_file, folder=out) as progress:
        report = export_artifacts(
            model=model,
            scale=scale,
            schemes=scheme or ("w8a8",),
            targets=targets,
            socs=soc or (),
            tile=size,
            out_dir=out,
            checkpoint=checkpoint,
            calibration=calibration,
            overlap=overlap,
            overwrite=overwrite,
            progress=progress,
        )
    print_export(report)
    for name in report.licences:
        say(format_licence(name))
    save("export", report, json_file)
    fail_on([f"{row.target} {row.scheme}: {row.error}" for row in report.failures])


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for artifacts and report.")] = Path("out/demo"),
    model: Model = "idsa_net_mobile",
    scale: Scale = 4,
    tile: Annotated[str, typer.Option("--tile", help="LR input as WIDTHxHEIGHT.")] = "128x128",
    checkpoint: Checkpoint = None,
    target: Targets = None,
    npu: Annotated[
        bool, typer.Option("--npu", help="Also compile for two Snapdragons and verify in Hexagon's emulator.")
    ] = False,
    data: Data = None,
    sets: Sets = None,
    runs: Annotated[int, typer.Option("--runs", help="Timed runs per measurement.", min=1)] = 50,
    json_file: Json = None,
) -> None:
    """Export, verify, profile and report, all at once.

    fp32 and w8a8 for each target, scored on photos, timed at 1 and 2 threads. Everything goes into --out: artifacts/,
    report.html and report.json.
    """
    from apps.demo import run_demo
    from apps.formatting import format_licence
    from apps.next_steps import next_lines
    from apps.tables import print_summary
    from apps.terminal import say

    size, threads = read_tile(tile), (1, 2)
    with working(json_file, folder=out) as progress:
        report = run_demo(
            out,
            model=model,
            scale=scale,
            targets=target or None,
            npu=npu,
            tile=size,
            checkpoint=checkpoint,
            data=data,
            sets=sets or None,
            threads=threads,
            runs=runs,
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            progress=progress,
        )
    print_summary(report, threads)
    for name in report.export.licences:
        say(format_licence(name))
    say(f"report: {report.html} and {report.json}, {report.seconds:.0f} s in all")
    for line in next_lines(report.artifacts):
        say(line)
    save("demo", report, json_file)
    fail_on([f"{row.target} {row.scheme}: {row.error}" for row in report.export.failures])


def fail_on(lines: list[str]) -> None:
    """Print each line on stderr and leave with 2, where there is one."""
    for line in lines:
        complain(line)
    if lines:
        raise typer.Exit(2)
