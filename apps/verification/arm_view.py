"""ARM numerics on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from apps.tables import console, say
from apps.verification.arm import ArmCheck


def print_arm(checks: Sequence[ArmCheck]) -> None:
    """One row per file and CPU."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, head in enumerate(("artifact", "file", "emulated CPU", "stored bytes", "difference", "levels", "")):
        table.add_column(head, justify="right" if index in (4, 5) else "left", overflow="fold")
    for check in checks:
        table.add_row(
            escape(check.artifact_name),
            escape(check.file),
            check.cpu,
            "identical" if check.identical else "differ",
            f"{check.max_difference:.3g}",
            str(check.max_levels),
            "ok" if check.passed else "FAILED",
        )
    console().print(table)
    say("numerics only, in an emulator: it says nothing about speed")
