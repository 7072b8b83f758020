"""Scores of image sets: means, worst image, JSON, and the published bicubic baselines."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sr.datasets import ImageSet, load_image_sets
from edge_sr.errors import DataError, ShapeError
from edge_sr.evaluation import ImageScore, SetScore, evaluate_set, mean_drop
from edge_sr.images import write_image
from edge_sr.resize import bicubic_resize

Image = NDArray[np.uint8]

# Bicubic enlargement of the LR images. Set5 in the literature: 33.66 / 0.9299, 30.39 / 0.8682, 28.42 / 0.8104, within
# 0.02 dB of these. Set14 reads 0.08 dB more than in the literature, which scores its grey image on raw grey levels.
BASELINES = {
    ("Set5", 2): (33.64, 0.9292),
    ("Set5", 3): (30.39, 0.8678),
    ("Set5", 4): (28.42, 0.8101),
    ("Set14", 2): (30.31, 0.8691),
    ("Set14", 3): (27.62, 0.7751),
    ("Set14", 4): (26.08, 0.7041),
}


@pytest.fixture(scope="session")
def benchmarks(project_root: Path) -> Path:
    named = os.environ.get("EDGE_SR_BENCHMARKS")
    folder = Path(named) if named else project_root.parent / "shared" / "data" / "benchmarks"
    if not (folder / "Set5" / "HR").is_dir():
        pytest.skip("the environment variable EDGE_SR_BENCHMARKS names no folder with Set5/HR")
    return folder


@pytest.fixture
def greys(tmp_path: Path) -> ImageSet:
    """Two constant HR images, grey 100 and grey 0, whose LR images are constant as well."""
    for name, level in (("a", 100), ("b", 0)):
        write_image(tmp_path / f"{name}.png", np.full((40, 32, 3), level, np.uint8))
    return load_image_sets(tmp_path, None, 2)[0]


def _score(psnr: float, ssim: float | None, name: str = "x") -> ImageScore:
    return ImageScore(name=name, psnr_y_db=psnr, ssim=ssim)


def test_a_set_is_scored_image_by_image(greys: ImageSet) -> None:
    calls: list[tuple[int, int]] = []
    score = evaluate_set(
        lambda lr: (lr + np.uint8(10)).repeat(2, axis=0).repeat(2, axis=1),
        greys,
        progress=lambda *call: calls.append(call),
    )
    # Grey 100 -> 110: luma 102 -> 110. Grey 0 -> 10: luma 16 -> 24.6 -> 25.
    expected = [10 * math.log10(255**2 / 64), 10 * math.log10(255**2 / 81)]
    assert [image.psnr_y_db for image in score.images] == pytest.approx(expected, abs=1e-9)
    assert score.psnr_y_db == pytest.approx(sum(expected) / 2, abs=1e-9)
    assert score.worst.name == "b"
    assert calls == [(1, 2), (2, 2)]
    assert (score.scale, score.ssim is not None) == (2, True)


def test_the_border_of_scale_pixels_is_ignored(greys: ImageSet) -> None:
    def frame(lr: Image) -> Image:
        sr = lr.repeat(2, axis=0).repeat(2, axis=1)
        sr[:2], sr[-2:], sr[:, :2], sr[:, -2:] = 255, 255, 255, 255
        return sr

    assert [image.psnr_y_db for image in evaluate_set(frame, greys).images] == [math.inf, math.inf]


def test_ssim_can_be_left_out(greys: ImageSet) -> None:
    score = evaluate_set(lambda lr: lr.repeat(2, axis=0).repeat(2, axis=1), greys, with_ssim=False)
    assert score.ssim is None
    assert {image.ssim for image in score.images} == {None}


def test_a_result_of_another_size_is_refused(greys: ImageSet) -> None:
    with pytest.raises(ShapeError, match="one shape"):
        evaluate_set(lambda lr: lr, greys)


def test_means_and_worst_are_over_images() -> None:
    images = (_score(30, 0.9, "a"), _score(20, 0.5, "b"), _score(40, 0.7, "c"))
    score = SetScore(set_name="s", scale=4, images=images)
    assert score.psnr_y_db == pytest.approx(30)
    assert score.ssim == pytest.approx(0.7)
    assert score.worst.name == "b"


def test_a_perfect_image_counts_as_100_db_and_is_said() -> None:
    score = SetScore(set_name="s", scale=2, images=(_score(math.inf, 1.0, "a"), _score(25.0, 0.5, "b")))
    assert json.loads(json.dumps(score.to_json(), allow_nan=False)) == {
        "set": "s",
        "scale": 2,
        "psnr_y_db": 62.5,
        "ssim": 0.75,
        "worst": "b",
        "capped": ["a"],
        "left_out": [],
        "images": [
            {"name": "a", "psnr_y_db": "inf", "ssim": 1.0},
            {"name": "b", "psnr_y_db": 25.0, "ssim": 0.5},
        ],
    }


def test_one_perfect_image_does_not_hide_what_a_photo_loses() -> None:
    def drop(flat_before: float, flat_after: float) -> float:
        before, after = (
            SetScore(set_name="s", scale=4, images=(_score(flat, None, "flat"), _score(photo, None, "photo")))
            for flat, photo in ((flat_before, 31.0), (flat_after, 30.0))
        )
        return mean_drop(before, after)

    # An error of one level everywhere is 48.13 dB; what is better than that is the same picture to eight bits.
    for before, after in ((math.inf, 57.0), (81.0, math.inf), (math.inf, math.inf), (57.0, 49.0)):
        assert drop(before, after) == pytest.approx(0.5)
    # A flat picture that is visibly wrong still counts.
    assert drop(math.inf, 28.13) == pytest.approx((20 + 1) / 2, abs=0.01)
    assert math.isnan(drop(math.nan, 30.0))


def test_an_image_too_small_to_be_scored_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "icon.png", np.zeros((12, 40, 3), np.uint8))
    (image_set,) = load_image_sets(tmp_path, None, 2)
    with pytest.raises(DataError, match=r"at least 15 pixels along each side in .*: icon;"):
        evaluate_set(lambda lr: lr, image_set)
    score = evaluate_set(lambda lr: lr.repeat(2, axis=0).repeat(2, axis=1), image_set, with_ssim=False)
    assert [image.name for image in score.images] == ["icon"]


def test_a_set_without_images_has_no_score() -> None:
    with pytest.raises(DataError, match="at least one image in s, got none"):
        SetScore(set_name="s", scale=2, images=())


@pytest.mark.parametrize(("name", "scale"), BASELINES)
def test_bicubic_scores_as_published(benchmarks: Path, name: str, scale: int) -> None:
    (image_set,) = load_image_sets(benchmarks, [name], scale)
    score = evaluate_set(lambda lr: bicubic_resize(lr, lr.shape[0] * scale, lr.shape[1] * scale), image_set)
    psnr_y_db, ssim = BASELINES[name, scale]
    # The table has two and four decimals: half a unit of the last one, and float noise.
    assert score.psnr_y_db == pytest.approx(psnr_y_db, abs=0.00501)
    assert score.ssim == pytest.approx(ssim, abs=0.0000501)
