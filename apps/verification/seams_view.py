"""The seam certificate for the eye: a table, the differences by overlap, and the worst seam itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from apps.figures import GRID, INK, MUTED, SCHEME_COLOURS, Panel, compose_row, figure_png
from apps.terminal import add_row, new_table, say, show
from apps.verification.seam_certificate import SeamCertificate
from apps.verification.seam_probe import INVISIBLE_LEVELS, level_difference

Image = NDArray[np.uint8]

_HEADS = (
    *("overlap", "work", "along seams: max", "along seams: photos", "along seams: mean"),
    *("elsewhere: max", "elsewhere: mean", "layers beyond", "this is"),
)
_LINES = (
    ("along seams, largest", "seam_max_levels", SCHEME_COLOURS["w8a8"], "-"),
    ("on photos alone", "photo_max_levels", SCHEME_COLOURS["fp16"], "-"),
    ("along seams, mean", "seam_mean_levels", SCHEME_COLOURS["fp32"], "--"),
)


def print_seams(certificate: SeamCertificate, *, out: Console | None = None) -> None:
    """One row per overlap, then what is certain."""
    table = new_table(*_HEADS, right=range(len(_HEADS) - 1), prose=(len(_HEADS) - 1,), title=certificate.artifact)
    for row in certificate.rows:
        marks = []
        if row.overlap == certificate.certified_overlap:
            marks.append("smallest without a visible seam")
        if row.overlap == certificate.overlap:
            marks.append("the artifact's")
        if row.overlap == certificate.reach.exact_overlap:
            marks.append("exact")
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
            ", ".join(marks),
        )
    show(table, out)
    for line in _statements(certificate):
        say(line, out)


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


def print_seam_failures(certificate: SeamCertificate) -> None:
    """The failures, one line each."""
    for line in certificate.failures:
        say(line)


def seam_chart(certificate: SeamCertificate) -> bytes:
    """Differences along seams by overlap, as a PNG; the axis is logarithmic above one level and holds zero."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), dpi=160, layout="constrained")
    axes: Any = figure.subplots()
    overlaps = [row.overlap for row in certificate.rows]
    for label, name, colour, style in _LINES:
        values = [getattr(row, name) for row in certificate.rows]
        axes.plot(overlaps, values, style, color=colour, marker="o", ms=3.5, lw=1.6, label=label)
    axes.axhline(INVISIBLE_LEVELS, color=MUTED, lw=0.8, ls=":")
    axes.axvline(certificate.overlap, color=INK, lw=0.8, ls=":")
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    ticks = [0, 1, 3, 10, 30, 100, 255]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_ylim(-0.08, 300)
    axes.minorticks_off()
    axes.set_xticks(overlaps, [f"{row.overlap}\nx{row.cost_factor:.2f}" for row in certificate.rows])
    axes.set_xlabel("overlap in LR pixels, and the work it takes", color=MUTED, size=8.5)
    axes.set_ylabel("difference, levels of 255", color=MUTED, size=8.5)
    axes.text(certificate.overlap, 200, " the artifact's", color=INK, size=8)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure_png(figure)


def seam_picture(certificate: SeamCertificate, *, side: int = 256) -> Image | None:
    """The worst seam: tiled, the reference, and their difference amplified; None where no seam shows."""
    worst = certificate.worst
    if worst is None:
        return None
    difference = level_difference(worst.tiled, worst.reference)
    factor = max(255 // max(worst.max_levels, 1), 1)
    return compose_row(
        (
            Panel(label=f"tiled, overlap {worst.overlap}", note=worst.picture, image=worst.tiled),
            Panel(label="reference", note=f"overlap {certificate.reference_overlap}", image=worst.reference),
            Panel(
                label=f"difference x{factor}",
                note=f"at most {worst.max_levels} levels",
                image=difference * np.uint8(factor),
            ),
        ),
        side=side,
    )
