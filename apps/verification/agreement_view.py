"""The agreement matrix as a table and a heat map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from apps.figures import GRID, INK, MUTED, SCHEME_COLOURS, figure_png
from apps.formatting import format_db
from apps.terminal import add_row, new_table, say, show
from apps.verification.agreement import ALLOWED_LEVELS, Agreement, AgreementMatrix


def print_agreement(matrix: AgreementMatrix) -> None:
    """Who took part, every pair, and the first diverging layer of each that is too far off."""
    say(f"{matrix.title}: {len(matrix.tiles)} tiles ({', '.join(tile.label for tile in matrix.tiles)})")
    who = new_table("participant", "ran in", "PSNR-Y of the tiles", right=(2,), names=(0,), prose=(1,))
    for participant in matrix.participants:
        where = participant.runner if participant.reason is None else f"did not run: {participant.reason}"
        add_row(who, participant.name, where, format_db(participant.psnr_y_db))
    show(who)
    heads = ("pair", "max", "on photos", "mean", "equal", "over 1", "over 2", "PSNR between")
    pairs = new_table(*heads, right=range(1, 8), names=(0,))
    for pair in matrix.pairs:
        cells = (
            f"{pair.first} – {pair.second}",
            str(pair.max_levels),
            str(matrix.photo_max_levels(pair)),
            f"{pair.mean_levels:.5f}",
            f"{pair.share_equal:.4%}",
            f"{pair.share_over_1:.4%}",
            f"{pair.share_over_2:.4%}",
            "identical" if math.isinf(pair.psnr_db) else f"{pair.psnr_db:.2f}",
        )
        add_row(pairs, *cells, style="yellow" if pair.max_levels > ALLOWED_LEVELS else None)
    show(pairs)
    for divergence in matrix.divergences:
        say(divergence.sentence())
    for name, reason in matrix.divergence_reasons:
        say(f"{name}: no search for the first diverging layer: {reason}")


def draw_agreement(matrix: AgreementMatrix) -> bytes | None:
    """Largest and mean differences of every pair as two heat maps, PNG; None for fewer than two participants."""
    names = [participant.name for participant in matrix.participants if participant.reason is None]
    if len(names) < 2:
        return None
    from matplotlib.figure import Figure

    size = 1.1 + 0.72 * len(names)
    figure = Figure(figsize=(2 * size + 1.2, size), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    _heat(left, matrix, names, "largest difference, levels", lambda pair: pair.max_levels, "{:.0f}", top=4.0)
    _heat(right, matrix, names, "mean difference, levels", lambda pair: pair.mean_levels, "{:.2g}", top=0.5)
    return figure_png(figure)


def _heat(
    axes: Any,
    matrix: AgreementMatrix,
    names: list[str],
    title: str,
    value: Callable[[Agreement], float],
    text: str,
    *,
    top: float,
) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    values = np.zeros((len(names), len(names)))
    for row, first in enumerate(names):
        for column, second in enumerate(names):
            pair = matrix.pair(first, second) if row != column else None
            values[row, column] = 0.0 if pair is None else value(pair)
    colours = LinearSegmentedColormap.from_list("agreement", ["#ffffff", SCHEME_COLOURS["w8a8"]])
    # The scale ends at what matters, or at the largest value: two matrices of good agreement look alike and pale.
    axes.imshow(values, cmap=colours, vmin=0.0, vmax=max(top, float(values.max())))
    for row in range(len(names)):
        for column in range(len(names)):
            shown = "–" if row == column else text.format(values[row, column])
            axes.text(column, row, shown, ha="center", va="center", color=MUTED if row == column else INK, size=8)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title, color=INK, size=9)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_color(GRID)
