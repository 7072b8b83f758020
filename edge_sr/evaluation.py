"""Scores of anything that upscales, on image sets. The same code judges networks and exported artifacts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.datasets import ImageSet
from edge_sr.errors import DataError
from edge_sr.json_values import plain
from edge_sr.metrics import PSNR_CAP_DB, mean_psnr_db, psnr_drop_db, psnr_y, ssim_y
from edge_sr.resize import bicubic_resize
from edge_sr.scorable import check_size

Image = NDArray[np.uint8]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image's score. ``psnr_y_db`` is ``inf`` for a perfect result; ``ssim`` is None where it was not asked for."""

    name: str
    psnr_y_db: float
    ssim: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; see :func:`edge_sr.json_values.plain` for an infinite PSNR."""
        return {"name": self.name, "psnr_y_db": plain(self.psnr_y_db), "ssim": plain(self.ssim)}


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """Scores of one image set, in the set's order; the set's score is the mean over its images.

    ``left_out`` are names of images of the set that are too small to be scored.
    """

    set_name: str
    scale: int
    images: tuple[ImageScore, ...]
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError(f"expected at least one image in {self.set_name}, got none")

    @property
    def psnr_y_db(self) -> float:
        """Mean of the images' PSNR, in dB; each counts up to :data:`edge_sr.metrics.PSNR_CAP_DB`."""
        return mean_psnr_db(image.psnr_y_db for image in self.images)

    @property
    def capped(self) -> tuple[str, ...]:
        """Names of the images that count as :data:`edge_sr.metrics.PSNR_CAP_DB`: identical ones, or all but."""
        return tuple(image.name for image in self.images if image.psnr_y_db >= PSNR_CAP_DB)

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
            "psnr_y_db": plain(self.psnr_y_db),
            "ssim": plain(self.ssim),
            "worst": self.worst.name,
            "capped": list(self.capped),
            "left_out": list(self.left_out),
            "images": [image.to_json() for image in self.images],
        }


def image_drops(before: SetScore, after: SetScore) -> dict[str, float]:
    """Image -> what it loses from one score of a set to another: :func:`edge_sr.metrics.psnr_drop_db` of each."""
    pairs = zip(before.images, after.images, strict=True)
    return {own.name: psnr_drop_db(whole.psnr_y_db, own.psnr_y_db) for whole, own in pairs}


def mean_drop(before: SetScore, after: SetScore) -> float:
    """Mean of the images' drops, in dB: the difference of the means where no image is so good that a cap counts."""
    pairs = zip(before.images, after.images, strict=True)
    return statistics.fmean(psnr_drop_db(whole.psnr_y_db, own.psnr_y_db) for whole, own in pairs)


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
        DataError: an image of the set cannot be read, or is too small to be scored: :func:`edge_sr.scorable.scorable`
            gives a set without such images.
    """
    scores: list[ImageScore] = []
    border = image_set.scale
    for pair in image_set:
        check_size(pair, image_set.name, image_set.scale, with_ssim=with_ssim)
        sr = upscale(pair.lr)
        psnr = psnr_y(sr, pair.hr, crop_border=border)
        ssim = ssim_y(sr, pair.hr, crop_border=border) if with_ssim else None
        scores.append(ImageScore(name=pair.name, psnr_y_db=psnr, ssim=ssim))
        if progress is not None:
            progress(len(scores), len(image_set))
    return SetScore(set_name=image_set.name, scale=image_set.scale, images=tuple(scores), left_out=image_set.left_out)


def score_bicubic(image_set: ImageSet) -> SetScore:
    """What bicubic enlarging scores on a set: the least that a network must beat. See :func:`evaluate_set`."""

    def upscale(lr: Image) -> Image:
        return bicubic_resize(lr, lr.shape[0] * image_set.scale, lr.shape[1] * image_set.scale)

    return evaluate_set(upscale, image_set)
