"""Resizing against literal kernels, exact rational arithmetic, another library and the published LR files."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from edge_sr.errors import ConfigError, ShapeError
from edge_sr.images import read_image
from edge_sr.resize import bicubic_resize, crop_to_multiple, make_lr

Image = NDArray[np.uint8]

# cubic(a=-0.5) at 1/4, 3/4, 5/4, 7/4 is 111, 29, -9, -3 over 128: worked out by hand.
SHRINK_BY_TWO = [-3, -9, 29, 111, 111, 29, -9, -3]  # over 256
ENLARGE_BY_TWO = [[-3, 29, 111, -9], [-9, 111, 29, -3]]  # over 128; even and odd outputs


@pytest.fixture(scope="session")
def benchmarks(project_root: Path) -> Path:
    named = os.environ.get("EDGE_SR_BENCHMARKS")
    folder = Path(named) if named else project_root.parent / "shared" / "data" / "benchmarks"
    if not (folder / "Set5" / "HR").is_dir():
        pytest.skip("the environment variable EDGE_SR_BENCHMARKS names no folder with Set5/HR")
    return folder


def _column(values: list[int]) -> Image:
    return np.array(values, dtype=np.uint8)[:, None, None]


def _round(value: Fraction) -> int:
    return min(255, max(0, (value + Fraction(1, 2)).__floor__()))


def _cubic(x: Fraction) -> Fraction:
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    return -(x**3) / 2 + Fraction(5, 2) * x**2 - 4 * x + 2 if x <= 2 else Fraction(0)


def _exact(values: list[int], size: int) -> list[Fraction]:
    """imresize of one column, not rounded, in exact arithmetic; walks over taps one by one."""
    count = len(values)
    shrink = min(Fraction(size, count), Fraction(1))
    results = []
    for index in range(size):
        centre = (index + Fraction(1, 2)) * Fraction(count, size) - Fraction(1, 2)
        reach = int(2 / shrink) + 2
        weighted, total = Fraction(0), Fraction(0)
        for tap in range(int(centre) - reach, int(centre) + reach + 1):
            weight = _cubic((centre - tap) * shrink)
            source = tap
            while not 0 <= source < count:
                source = -1 - source if source < 0 else 2 * count - 1 - source
            weighted += weight * values[source]
            total += weight
        results.append(weighted / total)
    return results


def test_shrinking_an_impulse_by_two_shows_the_kernel() -> None:
    impulse = [0] * 32
    impulse[16] = 255
    # Output i has its taps at inputs 2i-3 .. 2i+4, so input 16 is tap 19-2i: 7 (i=6), 5, 3, 1.
    expected = [_round(Fraction(255 * SHRINK_BY_TWO[tap], 256)) for tap in (7, 5, 3, 1)]
    assert expected == [0, 29, 111, 0]
    assert bicubic_resize(_column(impulse), 16, 1)[:, 0, 0].tolist() == [0] * 6 + expected + [0] * 6


def test_shrinking_a_short_ramp_mirrors_its_edges() -> None:
    # The first output reads 30 20 10 | 10 20 30 40 | 40, that is
    # (-90 - 180 + 290 + 1110 + 2220 + 870 - 360 - 120) / 256 = 14.6;
    # the second is its mirror image, 50 - 14.6 = 35.4.
    assert bicubic_resize(_column([10, 20, 30, 40]), 2, 1)[:, 0, 0].tolist() == [15, 35]


def test_enlarging_a_step_by_two_overshoots_as_the_kernel_says() -> None:
    step = [100, 100, 100, 200, 200, 200]
    mirrored = [*step[::-1], *step, *step[::-1]]
    expected = []
    for index in range(12):
        first = 6 + (index - 1) // 2 - 1  # leftmost of the four taps
        taps = mirrored[first : first + 4]
        weights = ENLARGE_BY_TWO[index % 2]
        expected.append(_round(Fraction(sum(w * v for w, v in zip(weights, taps, strict=True)), 128)))
    assert max(expected) > 200
    assert min(expected) < 100
    assert bicubic_resize(_column(step), 12, 1)[:, 0, 0].tolist() == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=12), st.integers(1, 16))
def test_any_factor_agrees_with_exact_arithmetic(values: list[int], size: int) -> None:
    got = bicubic_resize(_column(values), size, 1)[:, 0, 0].tolist()
    for level, exact in zip(got, _exact(values, size), strict=True):
        # Half a level is rounded up; a float sum may miss an exact half by an ulp, and only then either side is right.
        allowed = {_round(exact)} if abs((exact % 1) - Fraction(1, 2)) > Fraction(1, 10**9) else {_round(exact) - 1}
        assert level in allowed | {_round(exact)}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 255), *(st.integers(1, 20) for _ in range(4)))
def test_a_constant_image_stays_constant(level: int, height: int, width: int, new_height: int, new_width: int) -> None:
    resized = bicubic_resize(np.full((height, width, 3), level, np.uint8), new_height, new_width)
    assert resized.shape == (new_height, new_width, 3)
    assert (resized == level).all()


def test_columns_are_filtered_and_rounded_before_rows() -> None:
    image = np.random.default_rng(1).integers(0, 256, (12, 12), dtype=np.uint8)

    def down(columns: list[list[int]]) -> list[list[int]]:
        return [[_round(value) for value in _exact(column, 6)] for column in columns]

    def both(matrix: list[list[int]]) -> list[list[int]]:
        halved = down([list(column) for column in zip(*matrix, strict=True)])
        return down([list(row) for row in zip(*halved, strict=True)])

    vertical_first = both(image.tolist())
    horizontal_first = [list(row) for row in zip(*both(image.T.tolist()), strict=True)]
    assert vertical_first != horizontal_first, "the image must tell the two orders apart"
    assert bicubic_resize(image[:, :, None], 6, 6)[:, :, 0].tolist() == vertical_first


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_interior_agrees_with_pillow_within_one_level(scale: int) -> None:
    # Pillow uses the same kernel, but rows first, rounded fixed-point weights and another edge rule.
    hr = np.random.default_rng(2).integers(60, 200, (96, 72, 3), dtype=np.uint8)
    pillow = np.asarray(PillowImage.fromarray(hr).resize((72 // scale, 96 // scale), PillowImage.Resampling.BICUBIC))
    inner = slice(2, -2)
    difference = make_lr(hr, scale)[inner, inner].astype(int) - pillow[inner, inner]
    assert abs(difference).max() <= 1


def test_channels_do_not_mix() -> None:
    image = np.random.default_rng(3).integers(0, 256, (17, 11, 3), dtype=np.uint8)
    whole = bicubic_resize(image, 9, 20)
    for channel in range(3):
        assert (whole[:, :, channel : channel + 1] == bicubic_resize(image[:, :, channel : channel + 1], 9, 20)).all()


def test_the_same_size_is_the_same_image() -> None:
    image = np.random.default_rng(4).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert (bicubic_resize(image, 9, 7) == image).all()


@pytest.mark.parametrize("size", [(4, 4), (1, 4), (4, 1), (1, 1)])
def test_the_result_never_shares_memory_with_the_input(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    bicubic_resize(image, *size)[:] = 9
    assert (image == 0).all()


def test_make_lr_uses_the_top_left_multiple_of_the_scale() -> None:
    hr = np.random.default_rng(5).integers(0, 256, (14, 11, 3), dtype=np.uint8)
    assert (make_lr(hr, 3) == bicubic_resize(hr[:12, :9].copy(), 4, 3)).all()
    assert crop_to_multiple(hr, 4).shape == (12, 8, 3)


def test_bad_input_is_named() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ConfigError, match="scale of 2, 3 or 4, got 5"):
        make_lr(image, 5)
    with pytest.raises(ShapeError, match="at least 4x4 pixels, got 8 wide, 3 high"):
        make_lr(image[:3], 4)
    with pytest.raises(ShapeError, match=r"uint8 image, got .* float64"):
        bicubic_resize(image.astype(np.float64), 4, 4)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"uint8 image, got \(8, 8\)"):
        bicubic_resize(image[:, :, 0], 4, 4)
    with pytest.raises(ShapeError, match="at least 1x1, got 4 wide, 0 high"):
        bicubic_resize(image, 0, 4)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_make_lr_reproduces_published_lr_files_exactly(benchmarks: Path, name: str, scale: int) -> None:
    lr_files = sorted((benchmarks / name / f"LRx{scale}").iterdir())
    assert len(lr_files) == {"Set5": 5, "Set14": 14}[name]
    for lr_file in lr_files:
        hr = read_image(benchmarks / name / "HR" / lr_file.name)
        assert (make_lr(hr, scale) == read_image(lr_file)).all(), lr_file.name
