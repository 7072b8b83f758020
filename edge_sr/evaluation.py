"""Scores of anything that upscales, on image sets. The same code judges networks and exported artifacts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.datasets import ImageSet
from edge_sr.errors import DataError
from edge_sr.metrics import psnr_y, ssim_y

Image = NDArray[np.uint8]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image's score. ``psnr_y_db`` is ``inf`` for a perfect result; ``ssim`` is None where it was not asked for."""

    name: str
    psnr_y_db: float
    ssim: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; an infinite PSNR becomes null, as JSON has no infinity."""
        return {"name": self.name, "psnr_y_db": _finite(self.psnr_y_db), "ssim": self.ssim}


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """Scores of one image set, in the set's order; the set's score is the mean over its images."""

    set_name: str
    scale: int
    images: tuple[ImageScore, ...]

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError(f"expected at least one image in {self.set_name}, got none")

    @property
    def psnr_y_db(self) -> float:
        """Mean of the images' PSNR, in dB."""
        return statistics.fmean(image.psnr_y_db for image in self.images)

    @property
    def ssim(self) -> float | None:
        """Mean of the images' SSIM; None where it was not asked for."""
        values = [image.ssim for image in self.images if image.ssim is not None]
        return statistics.fmean(values) if len(values) == len(self.images) else None

    @property
    def worst(self) -> ImageScore:
        """The image of lowest PSNR."""
        return min(self.images, key=lambda image: image.psnr_y_db)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict with the means, the worst image's name and every image's score."""
        return {
            "set": self.set_name,
            "scale": self.scale,
            "psnr_y_db": _finite(self.psnr_y_db),
            "ssim": self.ssim,
            "worst": self.worst.name,
            "images": [image.to_json() for image in self.images],
        }


def evaluate_set(
    upscale: Callable[[Image], Image],
    image_set: ImageSet,
    *,
    with_ssim: bool = True,
    progress: Progress | None = None,
) -> SetScore:
    """Upscale every LR image of a set and compare with its HR image, ignoring ``scale`` pixels on each edge.

    Args:
        upscale: (h, w, 3) uint8 -> (scale * h, scale * w, 3) uint8, such as ``partial(upscale_image, runner)``.
        image_set: what to score on.
        with_ssim: also compute SSIM (needs scikit-image).
        progress: called with (images done, images in all) after each image.
    Returns:
        the score of each image.
    Raises:
        ShapeError: ``upscale`` returned another size.
        DataError: an image of the set cannot be used.
    """
    scores: list[ImageScore] = []
    border = image_set.scale
    for pair in image_set:
        sr = upscale(pair.lr)
        psnr = psnr_y(sr, pair.hr, crop_border=border)
        ssim = ssim_y(sr, pair.hr, crop_border=border) if with_ssim else None
        scores.append(ImageScore(name=pair.name, psnr_y_db=psnr, ssim=ssim))
        if progress is not None:
            progress(len(scores), len(image_set))
    return SetScore(set_name=image_set.name, scale=image_set.scale, images=tuple(scores))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
