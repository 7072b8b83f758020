"""The seam certificate for the eye: a table, the differences by overlap, and the worst seam itself."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console

from apps.bars import Bar, BarChart
from apps.figures import Panel
from apps.terminal import add_row, new_table, say, show
from apps.verification.seam_certificate import SeamCertificate, SeamRow
from apps.verification.seam_probe import INVISIBLE_LEVELS, level_difference

_HEADS = (
    *("overlap", "work", "along seams: max", "along seams: photos", "along seams: mean"),
    *("elsewhere: max", "elsewhere: mean", "layers beyond", "this is"),
)
# Where the axis has marks, in levels; it is logarithmic and holds zero.
_MARKS = (0, 1, 3, 10, 30, 100, 255)


def print_seams(certificate: SeamCertificate, *, out: Console | None = None) -> None:
    """One row per overlap, then what is certain."""
    table = new_table(*_HEADS, right=range(len(_HEADS) - 1), prose=(len(_HEADS) - 1,), title=certificate.artifact)
    for row in certificate.rows:
        add_row(
            table,
            str(row.overlap),
            f"x{row.cost_factor:.2f}",
            str(row.seam_max_levels),
            str(row.photo_max_levels),
            f"{row.seam_mean_levels:.4f}",
            str(row.elsewhere_max_levels),
            f"{row.elsewhere_mean_levels:.4f}",
            str(len(certificate.reach.beyond(row.overlap))),
            ", ".join(_remarks(certificate, row)),
        )
    show(table, out)
    for line in _statements(certificate):
        say(line, out)


def _remarks(certificate: SeamCertificate, row: SeamRow) -> list[str]:
    remarks = {
        "smallest without a visible seam": certificate.certified_overlap,
        "the artifact's": certificate.overlap,
        "exact": certificate.reach.exact_overlap,
    }
    return [remark for remark, overlap in remarks.items() if overlap == row.overlap]


def _statements(certificate: SeamCertificate) -> list[str]:
    exact = "the whole image's" if certificate.reference_exact else "the best this tile allows, not the whole image's"
    reference = (
        f"reference: overlap {certificate.reference_overlap}, {exact}; through a shifted grid it differs by at most "
        f"{certificate.disagreement_levels} levels"
    )
    lines = [certificate.verdict, reference]
    beyond = certificate.reach.beyond(certificate.overlap)
    if beyond:
        shown = ", ".join(beyond[:4]) + (f" and {len(beyond) - 4} more" if len(beyond) > 4 else "")
        lines.append(f"look beyond the artifact's overlap of {certificate.overlap}: {shown}")
    lines += [
        f"in PyTorch, {entry.picture} tiled with overlap {entry.overlap} against the whole image: at most "
        f"{max(entry.seam_max_levels, entry.elsewhere_max_levels)} levels"
        for entry in certificate.cross_check
    ]
    return lines


def seam_chart(certificate: SeamCertificate) -> BarChart:
    """Largest difference along seams, one bar per overlap; green where nobody can see it."""
    bars = []
    for row in certificate.rows:
        levels = f"{row.seam_max_levels} level{'' if row.seam_max_levels == 1 else 's'}"
        bars.append(
            Bar(
                label=", ".join([f"{row.overlap}, work x{row.cost_factor:.2f}", *_remarks(certificate, row)]),
                text=f"{levels}, photos {row.photo_max_levels}",
                start=0.0,
                end=_share(row.seam_max_levels),
                kind="gain" if row.seam_max_levels <= INVISIBLE_LEVELS else "loss",
            )
        )
    return BarChart(
        title=f"Largest difference along the seams of {certificate.artifact} by overlap",
        bars=tuple(bars),
        ticks=tuple((_share(levels), str(levels)) for levels in _MARKS),
        axis="overlap in LR pixels; largest difference along seams in levels of 255, on a logarithmic axis",
    )


def _share(levels: float) -> float:
    return math.log1p(levels) / math.log1p(_MARKS[-1])


def seam_panels(certificate: SeamCertificate) -> tuple[Panel, ...]:
    """The worst seam: tiled, the reference, and their difference amplified; none where no seam shows."""
    worst = certificate.worst
    if worst is None:
        return ()
    difference = level_difference(worst.tiled, worst.reference)
    factor = max(255 // max(worst.max_levels, 1), 1)
    return (
        Panel(label=f"tiled, overlap {worst.overlap}", note=worst.picture, image=worst.tiled),
        Panel(label="reference", note=f"overlap {certificate.reference_overlap}", image=worst.reference),
        Panel(
            label=f"difference x{factor}",
            note=f"at most {worst.max_levels} levels",
            image=difference * np.uint8(factor),
        ),
    )
