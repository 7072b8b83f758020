"""A few tiles that stand for whole image sets: the most detailed, the flattest, some of other images, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.color import rgb_to_y
from edge_sr.datasets import ImageSet
from edge_sr.errors import ConfigError
from edge_sr.metrics import psnr_y
from edge_sr.runner import pad_to
from edge_sr.tiling import plan_tiles

Image = NDArray[np.uint8]

NOISE = "noise"
NOISE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class SampleTile:
    """One LR tile.

    Attributes:
        kind: "most detailed", "flattest", "spread" or "noise".
        set_name, image: where it was cut; empty for noise.
        top, left: of its first pixel in the LR image.
        detail: mean absolute difference of neighbouring luma values, in levels.
        lr: (h, w, 3) uint8, the artifact's tile; mirrored at the bottom and right where the image is smaller.
        hr: the same part of the HR image, without what was mirrored; None for noise.
    """

    kind: str
    set_name: str
    image: str
    top: int
    left: int
    detail: float
    lr: Image
    hr: Image | None

    @property
    def label(self) -> str:
        """One line that finds the tile again."""
        return NOISE if self.hr is None else f"{self.set_name}/{self.image} at {self.top},{self.left} ({self.kind})"

    def psnr_y_db(self, sr: Image, scale: int) -> float | None:
        """PSNR-Y of a result against the ground truth in dB, ``scale`` HR pixels ignored on each edge of the tile.

        None for noise, and where the border leaves nothing.
        """
        if self.hr is None or min(self.hr.shape[:2]) <= 2 * scale:
            return None
        height, width = self.hr.shape[:2]
        return psnr_y(sr[:height, :width], self.hr, crop_border=scale)

    def to_json(self) -> dict[str, Any]:
        """Where the tile is; no pixels."""
        names = ("kind", "set_name", "image", "top", "left", "detail")
        return {name: getattr(self, name) for name in names}


def pick_tiles(image_sets: Sequence[ImageSet], tile: tuple[int, int], count: int) -> tuple[SampleTile, ...]:
    """Choose tiles of LR images, the same ones every time.

    The first is the most detailed of all, the second the flattest. The others but for the last one go round the images,
    evenly spaced over the list of all, each the tile of median detail of its image. The last is noise: uniform random
    pixels, which reach values that photos do not.

    Args:
        image_sets: where to cut; all images are read once.
        tile: (height, width) in LR pixels.
        count: how many in all, at least 3. Fewer come back where the images do not have as many different ones.
    Raises:
        ConfigError: ``count`` is below 3, or there is no image set.
    """
    if count < 3 or not image_sets:
        raise ConfigError(f"expected 3 or more tiles of at least one image set, got {count} of {len(image_sets)} sets")
    extremes: list[SampleTile | None] = [None, None]
    medians: list[SampleTile] = []
    for image_set in image_sets:
        for pair in image_set:
            own = sorted(_cut(image_set.name, pair.name, pair.lr, pair.hr, image_set.scale, tile), key=_detail)
            if extremes[0] is None or own[-1].detail > extremes[0].detail:
                extremes[0] = own[-1]
            if extremes[1] is None or own[0].detail < extremes[1].detail:
                extremes[1] = own[0]
            medians.append(own[len(own) // 2])
    chosen = [_renamed(found, kind) for found, kind in zip(extremes, ("most detailed", "flattest"), strict=True)]
    taken = {_place(found) for found in chosen}
    free = [found for found in medians if _place(found) not in taken]
    wanted = min(count - 3, len(free))
    chosen += [free[(2 * index + 1) * len(free) // (2 * wanted)] for index in range(wanted)]
    unique = {_place(found): found for found in chosen}
    return (*unique.values(), _noise(tile))


def _cut(set_name: str, image: str, lr: Image, hr: Image, scale: int, tile: tuple[int, int]) -> list[SampleTile]:
    height, width = tile
    padded = pad_to(lr, height, width)
    tiles = []
    for plan in plan_tiles(lr.shape[0], lr.shape[1], tile, 0):
        rows, columns = slice(plan.top, plan.top + height), slice(plan.left, plan.left + width)
        own = np.ascontiguousarray(padded[rows, columns])
        truth = hr[scale * rows.start : scale * rows.stop, scale * columns.start : scale * columns.stop]
        tiles.append(
            SampleTile(
                kind="spread",
                set_name=set_name,
                image=image,
                top=plan.top,
                left=plan.left,
                detail=measure_detail(own),
                lr=own,
                hr=np.ascontiguousarray(truth),
            )
        )
    return tiles


def measure_detail(image: Image) -> float:
    """Mean absolute difference of horizontally and of vertically neighbouring luma values, in levels."""
    luma = rgb_to_y(image)
    steps = [np.abs(np.diff(luma, axis=axis)) for axis in (0, 1)]
    total = sum(step.size for step in steps)
    return float(sum(step.sum() for step in steps) / total) if total else 0.0


def _noise(tile: tuple[int, int]) -> SampleTile:
    pixels = np.random.default_rng(NOISE_SEED).integers(0, 256, (*tile, 3), dtype=np.uint8)
    return SampleTile(
        kind=NOISE, set_name="", image="", top=0, left=0, detail=measure_detail(pixels), lr=pixels, hr=None
    )


def _renamed(found: SampleTile | None, kind: str) -> SampleTile:
    if found is None:
        raise ConfigError("expected at least one image to cut tiles from, got none")
    return replace(found, kind=kind)


def _place(found: SampleTile) -> tuple[str, str, int, int]:
    return (found.set_name, found.image, found.top, found.left)


def _detail(found: SampleTile) -> float:
    return found.detail
