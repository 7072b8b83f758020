"""Luma against the numbers of the standard."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sr.color import rgb_to_y
from edge_sr.errors import ShapeError


@pytest.mark.parametrize(
    ("rgb", "luma"),
    [
        ((0, 0, 0), 16.0),
        ((255, 255, 255), 235.0),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
        ((51, 102, 204), 16 + 13.0962 + 51.4212 + 19.9728),
    ],
)
def test_luma_is_bt601_studio_range(rgb: tuple[int, int, int], luma: float) -> None:
    y = rgb_to_y(np.array([[rgb]], np.uint8))
    assert y.shape == (1, 1)
    assert y.dtype == np.float64
    assert y[0, 0] == pytest.approx(luma, abs=1e-9)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_only_rgb_uint8_has_luma(image: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"expected a \(height, width, 3\) uint8 image, got"):
        rgb_to_y(image)
