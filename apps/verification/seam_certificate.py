"""What the seam certificate says; see :mod:`apps.verification.seams` for how it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.verification.seam_probe import INVISIBLE_LEVELS, SeamDifference
from edge_sr.reach import Reach

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class WorstSeam:
    """The place of the largest difference at one overlap: crops of at most 96x96 output pixels, (H, W, 3) uint8."""

    picture: str
    overlap: int
    max_levels: int
    top: int
    left: int
    tiled: Image
    reference: Image

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, without the pixels."""
        return {name: getattr(self, name) for name in ("picture", "overlap", "max_levels", "top", "left")}


@dataclass(frozen=True, kw_only=True)
class SeamRow:
    """All pictures at one overlap. ``cost_factor``: pixels computed per pixel kept on a picture of many tiles."""

    overlap: int
    cost_factor: float
    differences: tuple[SeamDifference, ...]
    worst: WorstSeam

    @property
    def seam_max_levels(self) -> int:
        return max(difference.seam_max_levels for difference in self.differences)

    @property
    def seam_mean_levels(self) -> float:
        return sum(difference.seam_mean_levels for difference in self.differences) / len(self.differences)

    @property
    def photo_max_levels(self) -> int:
        """The largest along the seams of photos alone."""
        return max((entry.seam_max_levels for entry in self.differences if entry.photo), default=0)

    @property
    def elsewhere_max_levels(self) -> int:
        return max(difference.elsewhere_max_levels for difference in self.differences)

    @property
    def elsewhere_mean_levels(self) -> float:
        return sum(difference.elsewhere_mean_levels for difference in self.differences) / len(self.differences)

    @property
    def invisible(self) -> bool:
        return self.seam_max_levels <= INVISIBLE_LEVELS

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict with the maxima over the pictures, and each picture."""
        summary = [
            *("seam_max_levels", "seam_mean_levels", "photo_max_levels"),
            *("elsewhere_max_levels", "elsewhere_mean_levels", "invisible"),
        ]
        return {
            "overlap": self.overlap,
            "cost_factor": self.cost_factor,
            **{name: getattr(self, name) for name in summary},
            "worst": self.worst.to_json(),
            "pictures": [difference.to_json() for difference in self.differences],
        }


@dataclass(frozen=True, kw_only=True)
class SeamCertificate:
    """What tiling does to one artifact, by overlap.

    Attributes:
        artifact: name of the artifact's folder; ``runtime``: what executed it.
        tile, overlap: the artifact's own.
        reach: of the network behind it.
        declared_context: what the network itself says it reaches.
        band: LR pixels on each side of a cut that count as the seam.
        rows: by growing overlap; the artifact's own is among them.
        reference_overlap: overlap of the reference; ``reference_exact``: it is twice the reach, so the whole image's.
        disagreement_levels: largest difference between the reference and the same through a shifted grid.
        cross_check: the network in PyTorch, tiled against the whole image.
    """

    artifact: str
    model: str
    scale: int
    scheme: str
    target: str
    runtime: str
    tile: tuple[int, int]
    overlap: int
    reach: Reach
    declared_context: int
    band: int
    rows: tuple[SeamRow, ...]
    reference_overlap: int
    reference_exact: bool
    disagreement_levels: int
    cross_check: tuple[SeamDifference, ...]

    @property
    def certified_overlap(self) -> int | None:
        """The smallest overlap from which on no seam differs by more than one level; None where none was found."""
        smallest: int | None = None
        for row in reversed(self.rows):
            if not row.invisible:
                break
            smallest = row.overlap
        # The reference is at most as good as two of its kind agree, and it is no evidence of itself.
        own_reference = not self.reference_exact and smallest == self.reference_overlap
        return None if own_reference or self.disagreement_levels > INVISIBLE_LEVELS else smallest

    @property
    def own_row(self) -> SeamRow:
        """The row of the artifact's own overlap."""
        return next(row for row in self.rows if row.overlap == self.overlap)

    @property
    def worst(self) -> WorstSeam | None:
        """The worst place at the artifact's own overlap, or else at the largest one at which a seam shows."""
        visible = [row for row in self.rows if not row.invisible]
        if not self.own_row.invisible:
            return self.own_row.worst
        return visible[-1].worst if visible else None

    @property
    def verdict(self) -> str:
        """One line: what is certain about this artifact's tiles."""
        exact = self.reach.exact_overlap
        if exact is None:
            own = self.own_row.seam_max_levels
            layers = _listed(self.reach.whole_input or self.reach.phased)
            return (
                f"never exact, for the view depends on the tile in {layers}; at overlap {self.overlap} seams are "
                f"within {own} levels of tiles that overlap by {self.reference_overlap}"
            )
        line = f"overlap {exact} is exact: a result reaches {self.reach.reach_px} pixels"
        certified = self.certified_overlap
        return line if certified is None else f"{line}; from {certified} on no seam shows"

    @property
    def failures(self) -> tuple[str, ...]:
        """One line where the artifact's overlap lets a seam show although a larger one would not."""
        own, certified = self.own_row, self.certified_overlap
        lines = []
        if self.reference_exact and self.disagreement_levels > INVISIBLE_LEVELS:
            lines.append(
                f"expected tiles of exact overlap to agree within {INVISIBLE_LEVELS} level, "
                f"got {self.disagreement_levels} levels through a shifted grid; its runtime depends on the position"
            )
        if not own.invisible and certified is not None:
            lines.append(
                f"expected at most {INVISIBLE_LEVELS} level along seams at overlap {self.overlap}, "
                f"got {own.seam_max_levels} on {own.worst.picture}; export with --overlap {certified}"
            )
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, without pixels."""
        names = [
            *("artifact", "model", "scale", "scheme", "target", "runtime", "overlap", "declared_context", "band"),
            *("reference_overlap", "reference_exact", "disagreement_levels", "certified_overlap", "verdict"),
        ]
        worst = self.worst
        return {
            **{name: getattr(self, name) for name in names},
            "tile": list(self.tile),
            "reach": self.reach.to_json(),
            "beyond_own_overlap": list(self.reach.beyond(self.overlap)),
            "rows": [row.to_json() for row in self.rows],
            "cross_check": [entry.to_json() for entry in self.cross_check],
            "worst": None if worst is None else worst.to_json(),
            "failures": list(self.failures),
        }


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:2])
    return shown if len(names) <= 2 else f"{shown} and {len(names) - 2} more layers"
