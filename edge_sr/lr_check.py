"""Whether the LR files of a set belong to its HR files, and were made from them as published figures want it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.color import rgb_to_y
from edge_sr.datasets import LR_FROM_FILE, ImageSet
from edge_sr.resize import make_lr

# MATLAB's own rounding, ported, is exact; a level or two leaves room for other ports of it.
LR_TOLERANCE_LEVELS = 2
# Correlation of an LR file's luma with that of LR made from HR. Another filter, half a pixel of shift or JPEG leave
# photos 0.9 and more; two photos have 0.5 only by chance.
LR_LEAST_CORRELATION = 0.5


@dataclass(frozen=True, kw_only=True)
class LrCheck:
    """How the LR files of a set compare with MATLAB's bicubic of its HR files.

    Attributes:
        set_name, scale: the set.
        origin: the set's ``lr_origin``.
        images: how many were compared; 0 where the LR images are made here, and so are right.
        max_difference_levels: the largest difference in the interior, 0 to 255.
        worst: the image it was found in; None where nothing was compared.
        foreign: images whose LR file shows something else than their HR file.
    """

    set_name: str
    scale: int
    origin: str
    images: int
    max_difference_levels: int
    worst: str | None
    foreign: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        return self.max_difference_levels <= LR_TOLERANCE_LEVELS

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines for a report: one per image whose LR file is another picture's, one about the filter of all."""
        if self.matches:
            return ()
        filtered = (
            f"{self.set_name}: its LR files differ from MATLAB's bicubic of HR by up to {self.max_difference_levels} "
            f"levels ({self.worst}): published x{self.scale} figures do not apply; remove them to have LR images made"
        )
        return (*(self._foreign_line(name) for name in self.foreign), filtered)

    def _foreign_line(self, name: str) -> str:
        return (
            f"warning: {self.set_name}: the LR file of {name} shows another picture than its HR file: its score "
            f"says nothing; put the right file there, or remove the LR files to have LR images made"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "matches": self.matches}


def check_lr_matches(image_set: ImageSet) -> LrCheck:
    """Compare LR files with :func:`make_lr` of their HR files, away from the edges.

    Published figures hold for MATLAB's bicubic; LR files of another filter or a lossy format have the same size and
    move PSNR by up to whole decibels. Two LR pixels along each edge are left out: one well-known download (SelfExSR)
    used another edge rule there, up to 11 levels away, which costs a score next to nothing.

    Args:
        image_set: any set; one whose LR images are made here is not read.
    Raises:
        DataError, ImageError: an image cannot be used.
    """
    worst, largest, compared, foreign = None, 0, 0, []
    for pair in image_set if image_set.lr_origin == LR_FROM_FILE else ():
        inside = tuple(slice(edge, size - edge) for size in pair.lr.shape[:2] for edge in (min(2, (size - 1) // 2),))
        made, given = make_lr(pair.hr, image_set.scale)[inside], pair.lr[inside]
        difference = int(np.abs(made.astype(np.int16) - given).max())
        compared += 1
        if difference > LR_TOLERANCE_LEVELS and _correlation(made, given) < LR_LEAST_CORRELATION:
            foreign.append(pair.name)
        if worst is None or difference > largest:
            worst, largest = pair.name, difference
    return LrCheck(
        set_name=image_set.name,
        scale=image_set.scale,
        origin=image_set.lr_origin,
        images=compared,
        max_difference_levels=largest,
        worst=worst,
        foreign=tuple(foreign),
    )


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Of the lumas of two pictures of one size, -1 to 1; 0 where one of them is flat and the other is not."""
    first, second = (luma - luma.mean() for luma in (rgb_to_y(one), rgb_to_y(other)))
    spread = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    return float((first * second).sum()) / spread if spread else float(not first.any() and not second.any())
