"""ARM numerics on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from apps.terminal import add_row, new_table, say, show
from apps.verification.arm import ArmCheck


def print_arm(checks: Sequence[ArmCheck]) -> None:
    """One row per file and CPU."""
    heads = ("artifact", "file", "emulated CPU", "stored bytes", "difference", "levels", "verdict")
    table = new_table(*heads, right=(4, 5), names=(0, 1))
    for check in checks:
        add_row(
            table,
            check.artifact_name,
            check.file,
            check.cpu,
            "identical" if check.identical else "differ",
            f"{check.max_difference:.3g}",
            str(check.max_levels),
            "ok" if check.passed else "FAILED",
        )
    show(table)
    say("numerics only, in an emulator: it says nothing about speed")
