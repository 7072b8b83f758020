"""``edge-sr models`` and ``edge-sr doctor``: commands that only look."""

from __future__ import annotations

from typing import Annotated

import typer

from apps.commands.options import Json, claim, save, working
from apps.streams import say_aside


def models(json_file: Json = None) -> None:
    """List the networks and the weights that come with them."""
    from apps.catalogue import list_models
    from apps.tables import print_models

    with working(json_file):
        report = list_models()
    print_models(report)
    save("models", report, json_file)


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Look at versions only; try nothing.")] = False,
    json_file: Json = None,
) -> None:
    """Say what works here, and the cure for what does not.

    Packages, weights and devices at once; then each target converts and runs one convolution in a process of its own.
    Exit status 1 when something is broken.
    """
    from apps.doctor import examine
    from apps.tables import DoctorPrinter

    claim(json_file)
    report = examine(quick=quick, found=DoctorPrinter(), trying=lambda what: say_aside(f"... {what}"))
    save("doctor", report, json_file)
    if report.broken:
        raise typer.Exit(1)
