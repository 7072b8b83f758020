"""The waterfall as a table, a chart, and pictures of the worst tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apps.bars import BarChart, waterfall_chart
from apps.figures import Panel, crop_panels, most_different_window
from apps.formatting import format_db, format_drop, format_subject
from apps.terminal import add_row, new_table, say, show
from apps.verification.waterfall import WaterfallReport, WaterfallRow
from apps.verification.worst_tile import WorstTile
from edge_sr.evaluation import SetScore

Image = NDArray[np.uint8]

# Quantization moves pixels by one to three levels; this makes them visible and clips at 16.
AMPLIFICATION = 16
# HR pixels per side of the pictures of a worst tile.
WINDOW = 128


def print_waterfall(report: WaterfallReport) -> None:
    """One line per artifact and set: the four scores, the drop and its parts, the culprit, the worst image and tile."""
    scores = ("float, whole", "float, tiled", "fake-quant", "artifact, tiled")
    drops = ("drop", "= tiling", "+ quant.", "+ conv.")
    heads = ("artifact", "set", *scores, *drops, "culprit", "loses most", "lowest", "worst tile")
    table = new_table(*heads, right=range(2, 10), names=(0,))
    for row in report.rows:
        add_row(table, *_cells(row))
    show(table)
    for line in dict.fromkeys(f"{row.label}: {reason}" for row in report.rows for reason in row.reasons):
        say(line)


def _cells(row: WaterfallRow) -> list[str]:
    scores = (row.float_whole, row.float_tiled, row.fake_quant, row.artifact)
    drops = (row.drop_db, row.tiling_drop_db, row.quantization_drop_db, row.conversion_drop_db)
    most, lowest, worst = row.largest_drop, row.lowest, row.worst_tile
    return [
        row.label,
        row.set_name,
        *(format_db(_psnr(score)) for score in scores),
        *(format_drop(drop) for drop in drops),
        row.culprit or "–",
        "–" if most is None else f"{most.name} ({most.drop_db:+.3f})",
        "–" if lowest is None else f"{lowest.name} ({lowest.psnr_y_db:.2f})",
        "–" if worst is None else f"{worst.image} at {worst.top},{worst.left} ({worst.drop_db:+.3f})",
    ]


def draw_waterfall(row: WaterfallRow) -> BarChart | None:
    """The row's steps as a chart; None where a score is missing."""
    tiling, conversion = row.tiling_drop_db, row.conversion_drop_db
    if row.float_whole is None or tiling is None or conversion is None:
        return None
    steps = [("tiling", tiling)]
    if row.quantization_drop_db is not None:
        steps.append(("quantization", row.quantization_drop_db))
    steps.append(("conversion", conversion))
    return waterfall_chart(
        steps,
        title=f"PSNR from the float network to {row.label} on {row.set_name}",
        start_label="float, whole images",
        start_db=row.float_whole.psnr_y_db,
        end_label=row.target,
    )


def draw_worst_tiles(rows: Sequence[WaterfallRow], *, window: int = WINDOW) -> list[tuple[Panel, ...]]:
    """One line of pictures per row: LR, HR, float, artifact, amplified difference.

    Args:
        rows: those without a worst tile are left out.
        window: HR pixels per side that are shown: where float and artifact differ most within the tile.
    """
    return [_panels(row.worst_tile, row, window) for row in rows if row.worst_tile is not None]


def amplified_difference(first: Image, second: Image, factor: int = AMPLIFICATION) -> Image:
    """``second`` less ``first``, times ``factor``, around middle grey: (H, W, 3) uint8, clipped."""
    difference = (second.astype(np.int32) - first.astype(np.int32)) * factor + 128
    return np.clip(difference, 0, 255).astype(np.uint8)


def _panels(worst: WorstTile, row: WaterfallRow, window: int) -> tuple[Panel, ...]:
    found = most_different_window(worst.float_sr, worst.artifact_sr, window)
    top, left = (start // row.scale * row.scale for start in found)  # cut the LR picture between its pixels
    panels = (
        Panel(
            label=f"LR, {worst.image}",
            note=f"at {worst.top + top // row.scale},{worst.left + left // row.scale}",
            image=worst.lr,
        ),
        Panel(label="HR", note=worst.set_name, image=worst.hr),
        Panel(label="float", note=f"{worst.float_psnr_y_db:.2f} dB", image=worst.float_sr),
        Panel(
            label=format_subject(row.target, row.scheme, row.runtime),
            note=f"{worst.artifact_psnr_y_db:.2f} dB",
            image=worst.artifact_sr,
        ),
        Panel(
            label=f"difference x{AMPLIFICATION}",
            note=f"up to {worst.max_levels} levels",
            image=amplified_difference(worst.float_sr, worst.artifact_sr),
        ),
    )
    return crop_panels(panels, window=(top, left), size=window)


def _psnr(score: SetScore | None) -> float | None:
    return None if score is None else score.psnr_y_db
