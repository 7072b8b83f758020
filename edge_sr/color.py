"""Luma of RGB images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sr.errors import ShapeError

# 8-bit studio range: black 16, white 235. Coefficients for R, G, B in 0..255.
_LUMA = np.array([65.481, 128.553, 24.966]) / 255


def rgb_to_y(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Luma (Y) of an RGB image, not rounded.

    Args:
        image: (H, W, 3) uint8 RGB.
    Returns:
        (H, W) float64 in 16..235.
    Raises:
        ShapeError: another shape or type.
    Source: ITU-R BT.601, studio range, as MATLAB's ``rgb2ycbcr`` before it rounds.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"expected a (height, width, 3) uint8 image, got {image.shape} {image.dtype}")
    y: NDArray[np.float64] = image @ _LUMA
    y += 16
    return y
