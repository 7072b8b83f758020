"""PSNR and SSIM against hand-computed values, a spelled-out SSIM and the published bicubic baselines."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sr.errors import MissingToolError, ShapeError
from edge_sr.metrics import psnr_y, ssim_y

Image = NDArray[np.uint8]


def _grey(level: int, height: int = 16, width: int = 16) -> Image:
    return np.full((height, width, 3), level, np.uint8)


def _noise(seed: int, height: int = 24, width: int = 20) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_psnr_y_matches_hand_computed_values() -> None:
    # Grey 100 has luma 16 + 219 * 100 / 255 = 101.88 -> 102, grey 110 has 110.47 -> 110: eight levels apart.
    assert psnr_y(_grey(100), _grey(110), crop_border=2) == pytest.approx(10 * math.log10(255**2 / 8**2), abs=1e-12)
    # Black 16 and white 235.
    assert psnr_y(_grey(0), _grey(255), crop_border=0) == pytest.approx(20 * math.log10(255 / 219), abs=1e-12)


def test_psnr_y_averages_squared_errors_over_pixels() -> None:
    sr = _grey(100, 4, 4)
    sr[1, 2] = 110
    expected = 10 * math.log10(255**2 / (8**2 / 16))
    assert psnr_y(sr, _grey(100, 4, 4), crop_border=0) == pytest.approx(expected, abs=1e-12)


def test_psnr_y_of_identical_images_is_infinite() -> None:
    assert psnr_y(_noise(0), _noise(0), crop_border=4) == math.inf


@pytest.mark.parametrize("edge", [(0, 0), (3, 10), (10, 3), (23, 19), (10, 16), (20, 10)])
def test_the_border_does_not_count(edge: tuple[int, int]) -> None:
    sr = _noise(1)
    sr[edge] = 255 - sr[edge]
    assert psnr_y(sr, _noise(1), crop_border=4) == math.inf
    assert psnr_y(sr, _noise(1), crop_border=0) < 60
    assert ssim_y(sr, _noise(1), crop_border=4) == 1


@pytest.mark.parametrize("inner", [(4, 4), (19, 15)])
def test_the_first_pixel_inside_the_border_counts(inner: tuple[int, int]) -> None:
    sr = _noise(1)
    sr[inner] = 255 - sr[inner]
    assert psnr_y(sr, _noise(1), crop_border=4) < 60


def test_chroma_alone_does_not_change_the_score() -> None:
    # One level of blue weighs 24.966 / 255 = 0.098 levels of luma.
    sr, hr = _grey(100), _grey(100)
    sr[:, :, 2] = 101  # 101.88 -> 101.98: both round to 102
    assert psnr_y(sr, hr, crop_border=0) == math.inf


def test_ssim_y_of_constant_images_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    expected = (2 * 102 * 110 + c1) / (102**2 + 110**2 + c1)
    assert ssim_y(_grey(100), _grey(110), crop_border=2) == pytest.approx(expected, abs=1e-12)


def test_ssim_y_agrees_with_the_formula_spelled_out() -> None:
    sr, hr = _noise(2, 15, 14), _noise(3, 15, 14)
    left, right = (
        np.floor(image @ [65.481 / 255, 128.553 / 255, 24.966 / 255] + 16.5)[1:-1, 1:-1] for image in (sr, hr)
    )
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(left.shape[0] - 10):
        for start in range(left.shape[1] - 10):
            a, b = (plane[top : top + 11, start : start + 11] for plane in (left, right))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            values.append(luminance * (2 * covariance + c2) / (var_a + var_b + c2))
    assert len(values) == 3 * 2
    assert ssim_y(sr, hr, crop_border=1) == pytest.approx(float(np.mean(values)), abs=1e-9)


def test_different_shapes_are_refused() -> None:
    for metric in (psnr_y, ssim_y):
        with pytest.raises(ShapeError, match="one shape"):
            metric(_grey(0, 16, 16), _grey(0, 16, 15), crop_border=0)


def test_a_border_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ShapeError, match="leaves pixels"):
        psnr_y(_grey(0, 8, 8), _grey(0, 8, 8), crop_border=4)
    with pytest.raises(ShapeError, match="leaves pixels"):
        psnr_y(_grey(0, 8, 8), _grey(0, 8, 8), crop_border=-1)
    with pytest.raises(ShapeError, match="11x11 pixels inside the border"):
        ssim_y(_grey(0, 16, 16), _grey(0, 16, 16), crop_border=3)


def test_ssim_y_names_the_package_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(MissingToolError, match="pip install scikit-image"):
        ssim_y(_grey(0), _grey(0), crop_border=0)
