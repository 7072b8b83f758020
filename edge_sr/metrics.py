"""PSNR and SSIM on luma, as the super-resolution literature reports them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edge_sr.color import rgb_to_y
from edge_sr.errors import MissingToolError, ShapeError

# Side of the SSIM window, in pixels.
SSIM_WINDOW = 11
# What one picture counts at most in a mean, in dB: an identical picture's PSNR is infinite, and one such picture would
# be the mean. libvpx, libaom and SVT-AV1 stop at the same figure (MAX_PSNR in their psnr.h).
PSNR_CAP_DB = 100.0
# PSNR of a luma that is one level off at every pixel, 48.13 dB. What is better differs by less than 8 bits can show, so
# the decibels beyond this are no loss: a white page at 81 dB and at 57 dB is the same white page.
ONE_LEVEL_DB = 20 * math.log10(255)


def mean_psnr_db(scores_db: Iterable[float]) -> float:
    """Mean of at least one PSNR in dB, each counted up to :data:`PSNR_CAP_DB`; NaN where one of them is NaN."""
    return statistics.fmean(min(score, PSNR_CAP_DB) for score in scores_db)


def psnr_drop_db(before_db: float, after_db: float) -> float:
    """What is lost from one PSNR to another of the same picture, in dB; each counts up to :data:`ONE_LEVEL_DB`.

    Finite unless one of them is NaN. Negative where ``after_db`` is the better one.
    """
    return min(before_db, ONE_LEVEL_DB) - min(after_db, ONE_LEVEL_DB)


def least_side(crop_border: int, *, with_ssim: bool) -> int:
    """Pixels that a picture needs along each side to be scored inside a border."""
    return 2 * crop_border + (SSIM_WINDOW if with_ssim else 1)


def psnr_y(sr: NDArray[np.uint8], hr: NDArray[np.uint8], *, crop_border: int) -> float:
    """PSNR on luma (Y), in dB.

    Args:
        sr: (H, W, 3) uint8 RGB.
        hr: same shape.
        crop_border: HR pixels ignored on each edge; usually the scale.
    Returns:
        dB; ``inf`` where the luma is identical.
    Raises:
        ShapeError: the shapes differ, or nothing is left inside the border.
    Source: BT.601 studio range rounded to whole levels (MATLAB ``rgb2ycbcr`` on uint8), peak 255; the protocol of
        Set5/Set14/BSD100/Urban100 in the literature. Leaving luma unrounded reads up to 0.03 dB higher.
    """
    left, right = _cropped_luma(sr, hr, crop_border)
    mse = float(np.mean(np.square(left - right)))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ssim_y(sr: NDArray[np.uint8], hr: NDArray[np.uint8], *, crop_border: int) -> float:
    """Mean SSIM on luma (Y).

    Args:
        sr: (H, W, 3) uint8 RGB.
        hr: same shape; at least 11x11 pixels must be left inside the border.
        crop_border: HR pixels ignored on each edge; usually the scale.
    Returns:
        at most 1, reached by identical images.
    Raises:
        ShapeError: the shapes differ or too little is left inside the border.
        MissingToolError: scikit-image is not installed.
    Source: Wang et al. 2004: 11x11 Gaussian window of sigma 1.5, population covariance, data range 255, mean over the
        positions where the window lies inside the image. Luma is rounded as in :func:`psnr_y`.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingToolError("SSIM expects scikit-image, got none; pip install scikit-image") from error
    left, right = _cropped_luma(sr, hr, crop_border)
    if min(left.shape) < SSIM_WINDOW:
        raise ShapeError(f"SSIM expects {SSIM_WINDOW}x{SSIM_WINDOW} pixels inside the border, got {left.shape}")
    return float(
        structural_similarity(
            left, right, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
    )


def _cropped_luma(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], crop_border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if sr.shape != hr.shape:
        raise ShapeError(f"expected images of one shape, got {sr.shape} and {hr.shape}")
    if crop_border < 0 or min(sr.shape[:2]) <= 2 * crop_border:
        raise ShapeError(f"expected a border that leaves pixels of {sr.shape[:2]}, got {crop_border} on each edge")
    inner = slice(crop_border, -crop_border or None)
    left, right = (np.floor(rgb_to_y(image)[inner, inner] + 0.5) for image in (sr, hr))
    return left, right
