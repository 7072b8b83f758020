"""The agreement matrix as a table and a heat map."""

from __future__ import annotations

import math
from dataclasses import dataclass

from apps.formatting import format_db
from apps.terminal import add_row, new_table, say, show
from apps.verification.agreement import ALLOWED_LEVELS, AgreementMatrix
from apps.verification.agreement_limits import rounds_its_own_way

# Differences from here on are as warm as can be.
WARMEST_LEVELS = 4.0


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
    ran = {participant.name: participant.runtime for participant in matrix.participants}
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
        expected = any(rounds_its_own_way(ran[name]) for name in (pair.first, pair.second))
        add_row(pairs, *cells, style="yellow" if pair.max_levels > ALLOWED_LEVELS and not expected else None)
    show(pairs)
    for divergence in matrix.divergences:
        say(divergence.sentence())
    for name, reason in matrix.divergence_reasons:
        say(f"{name}: no search for the first diverging layer: {reason}")


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """How far two participants are apart on any tile, and how warm that is: from 0 (equal) to 1."""

    max_levels: int
    mean_levels: float
    warmth: float


def draw_agreement(matrix: AgreementMatrix) -> list[tuple[str, list[HeatCell | None]]]:
    """A row of cells for each participant that ran, None beside itself; nothing for fewer than two participants."""
    names = [participant.name for participant in matrix.participants if participant.reason is None]
    if len(names) < 2:
        return []
    return [(name, [_cell(matrix, name, other) for other in names]) for name in names]


def _cell(matrix: AgreementMatrix, name: str, other: str) -> HeatCell | None:
    pair = None if name == other else matrix.pair(name, other)
    if pair is None:
        return None
    warmth = min(pair.max_levels / WARMEST_LEVELS, 1.0)
    return HeatCell(max_levels=pair.max_levels, mean_levels=pair.mean_levels, warmth=warmth)
