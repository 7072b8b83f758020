"""``edge-sr lint``: what accelerators take of artifacts, without a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.commands.options import Artifacts, Json, choice, draw, save, working
from apps.streams import complain

_FOR = "xnnpack, gpu-delegate, hexagon or ane; may be given again. Default: all that read the artifact's format."


def lint(
    artifacts: Artifacts,
    accelerators: Annotated[list[str] | None, choice("--for", known="apps.lint.engine:ACCELERATORS", help=_FOR)] = None,
    fail_on: Annotated[
        str | None,
        choice("--fail-on", known=("error", "warning"), help="error or warning: exit status 3 on findings this bad."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Also draw the operators as strips into this PNG.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--summary", help="Print the summary only.")] = False,
    json_file: Json = None,
) -> None:
    """Ask what accelerators will not take, and why.

    XNNPACK, LiteRT's GPU accelerator and Qualcomm's compiler are asked on this machine, Apple's Neural Engine is a
    forecast from rules that name their sources. No device is needed, and none is measured: do that before you rely on
    it.
    """
    from apps.lint.engine import lint_artifacts
    from apps.lint.lint_view import print_lint, strip_chart

    with working(json_file, figure=figure) as progress:
        report = lint_artifacts(artifacts, accelerators=accelerators, progress=progress)
    print_lint(report, details=not quiet)
    save("lint", report, json_file)
    draw(figure, lambda: strip_chart(report.forecasts))
    if fail_on is not None and report.breaches(fail_on):
        complain(f"{report.breaches(fail_on)} findings of severity {fail_on} or worse")
        raise typer.Exit(3)
