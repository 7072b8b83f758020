"""The colour card for the eye: a table, and a sheet of all charts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from apps.figures import Panel
from apps.terminal import add_row, new_table, show, styled
from apps.verification.chart_measures import ChartMeasure
from apps.verification.colour_card import ChartPictures, ColourCard, broken_limits
from apps.verification.seam_probe import level_difference

Image = NDArray[np.uint8]

_HEADS = (
    *("chart", "shift R", "shift G", "shift B", "max diff", "clipped", "levels (float)", "run px (float)", "falls"),
    *("ripple (float)", "spread (float)", "overshoot (float)", "verdict"),
)
# A difference of one level must be seen on the sheet; above 16 levels it is as bright as can be.
_AMPLIFICATION = 16


def print_colour_card(card: ColourCard, *, out: Console | None = None) -> None:
    """One row per chart; the gate names the limits that those which fail break."""
    table = new_table(*_HEADS, right=range(1, len(_HEADS) - 1), title=card.artifact)
    for measure in card.measures:
        broken = broken_limits(measure, card.limits)
        add_row(table, *_cells(measure), styled("fails", "red") if broken else "ok")
    show(table, out)


def _cells(measure: ChartMeasure) -> list[str]:
    reversals = measure.reversals_percent
    return [
        measure.name,
        *(f"{shift:+.2f}" for shift in measure.shift_levels),
        str(measure.max_difference_levels),
        f"{measure.clipped_percent:.1f}%",
        _beside(measure.distinct, measure.float_distinct),
        _beside(measure.longest_run_px, measure.float_longest_run_px),
        "" if reversals is None else f"{reversals:.1f}%",
        _beside(measure.ripple_levels, measure.float_ripple_levels),
        _beside(measure.spread_levels, measure.float_spread_levels),
        _beside(measure.overshoot_levels, measure.float_overshoot_levels),
    ]


def _beside(own: int | None, other: int | None) -> str:
    return "" if own is None else f"{own} ({other})"


def colour_sheet(card: ColourCard, *, side: int = 112) -> tuple[tuple[Panel, ...], ...]:
    """Per chart four pictures: as it went in, from the float network, from the artifact, and their difference.

    Args:
        card: from :func:`apps.verification.colour_card.run_colour_card`.
        side: pixels per picture at most: its middle, at full size.
    Returns:
        a row of panels per chart. Differences are amplified 16 times.
    """
    return tuple(_panels(pictures, side) for pictures in card.pictures)


def _panels(pictures: ChartPictures, side: int) -> tuple[Panel, ...]:
    difference = level_difference(pictures.own, pictures.reference)
    amplified = np.minimum(difference.astype(np.uint16) * _AMPLIFICATION, 255).astype(np.uint8)
    shown = (
        (pictures.name, pictures.lr),
        ("float", pictures.reference),
        ("artifact", pictures.own),
        (f"diff. x{_AMPLIFICATION}", amplified),
    )
    return tuple(Panel(label=label, image=_middle(image, side)) for label, image in shown)


def _middle(image: Image, side: int) -> Image:
    # Outputs are larger than their place on the sheet: the middle at full size, or every band would be smoothed away.
    top, left = (max(size - side, 0) // 2 for size in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])
