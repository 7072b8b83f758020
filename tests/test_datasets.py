"""Folders become image sets; what is missing is named."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sr.datasets import ImageSet, load_image_sets
from edge_sr.errors import ConfigError, DataError
from edge_sr.images import write_image
from edge_sr.resize import make_lr

Image = NDArray[np.uint8]


def _photo(seed: int, height: int = 19, width: int = 26) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _write(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


def test_a_benchmark_folder_pairs_hr_with_lr_files(tmp_path: Path) -> None:
    for seed, name in enumerate(("b", "a")):
        _write(tmp_path / "Set5/HR" / f"{name}.png", _photo(seed))
    marked = np.full((4, 6, 3), 7, np.uint8)
    _write(tmp_path / "Set5/LRx4/a.png", marked)
    _write(tmp_path / "Set5/LRx4/bx4.webp", marked + 1)
    (image_set,) = load_image_sets(tmp_path, None, 4)
    assert (image_set.name, image_set.scale, len(image_set)) == ("Set5", 4, 2)
    first, second = image_set
    assert (first.name, second.name) == ("a", "b")
    assert (first.lr == marked).all()
    assert (second.lr == marked + 1).all()
    assert (first.hr == _photo(1)[:16, :24]).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_missing_lr_folders_are_made_from_hr(tmp_path: Path, scale: int) -> None:
    _write(tmp_path / "Set5/HR/a.png", _photo(0))
    (pair,) = load_image_sets(tmp_path, None, scale)[0]
    assert pair.hr.shape == (scale * pair.lr.shape[0], scale * pair.lr.shape[1], 3)
    assert (pair.lr == make_lr(_photo(0), scale)).all()


def test_the_folder_of_one_benchmark_set_can_be_given_itself(tmp_path: Path) -> None:
    _write(tmp_path / "Set5/HR/a.png", _photo(0))
    _write(tmp_path / "Set5/LRx2/a.png", make_lr(_photo(0), 2))
    assert [(s.name, len(s)) for s in load_image_sets(tmp_path / "Set5", None, 2)] == [("Set5", 1)]


def test_a_plain_folder_is_one_set_of_its_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png"):
        _write(tmp_path / "holiday" / name, _photo(0))
    (tmp_path / "holiday/notes.txt").write_text("not an image")
    (image_set,) = load_image_sets(tmp_path / "holiday", None, 2)
    assert image_set.name == "holiday"
    assert [pair.name for pair in image_set] == ["a", "b"]


def test_sets_are_returned_in_the_order_asked_for(tmp_path: Path) -> None:
    for name in ("Set5", "Set14", "Other"):
        _write(tmp_path / name / "HR/a.png", _photo(0))
    assert [s.name for s in load_image_sets(tmp_path, ["Set5", "Other"], 2)] == ["Set5", "Other"]
    assert [s.name for s in load_image_sets(tmp_path, None, 2)] == ["Other", "Set14", "Set5"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a folder of images, got .*absent"):
        load_image_sets(tmp_path / "absent", None, 2)
    with pytest.raises(DataError, match="expected images"):
        load_image_sets(tmp_path, None, 2)
    _write(tmp_path / "Set5/HR/a.png", _photo(0))
    with pytest.raises(DataError, match="expected sets among Set5, got Set6"):
        load_image_sets(tmp_path, ["Set5", "Set6"], 2)
    with pytest.raises(DataError, match="got no name"):
        load_image_sets(tmp_path, [], 2)
    with pytest.raises(ConfigError, match="scale of 2, 3 or 4, got 8"):
        load_image_sets(tmp_path, None, 8)


def test_an_incomplete_lr_folder_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / f"Set5/HR/{name}.png", _photo(0))
    _write(tmp_path / "Set5/LRx2/a.png", make_lr(_photo(0), 2))
    with pytest.raises(DataError, match=r"one LR image called b or bx2 in .*LRx2, got 0"):
        load_image_sets(tmp_path, None, 2)


def test_an_lr_image_of_another_size_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "Set5/HR/a.png", _photo(0))
    _write(tmp_path / "Set5/LRx2/a.png", _photo(0, 9, 12))
    (image_set,) = load_image_sets(tmp_path, None, 2)
    with pytest.raises(DataError, match=r"LR image of 9x13, got 9x12 in .*a\.png"):
        list(image_set)


def test_an_image_smaller_than_one_lr_pixel_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "dot.png", _photo(0, 3, 3))
    with pytest.raises(DataError, match=r"usable HR image, got .*dot\.png"):
        list(load_image_sets(tmp_path, None, 4)[0])


def test_images_are_read_only_when_reached(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", _photo(0))
    (tmp_path / "b.png").write_text("broken")
    pairs = iter(load_image_sets(tmp_path, None, 2)[0])
    assert next(pairs).name == "a"


def test_first_limits_a_set(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _write(tmp_path / f"{name}.png", _photo(0))
    (image_set,) = load_image_sets(tmp_path, None, 2)
    assert [pair.name for pair in image_set.first(2)] == ["a", "b"]
    assert len(image_set.first(9)) == 3
    with pytest.raises(ConfigError, match="1 or more images, got 0"):
        image_set.first(0)
    with pytest.raises(DataError, match="at least one image in empty"):
        ImageSet(name="empty", scale=2, sources=())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_sample_photos_need_no_network(scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("sample photos must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (samples,) = load_image_sets(None, None, scale)
    assert samples.name == "samples"
    assert [pair.name for pair in samples] == ["astronaut", "chelsea", "coffee", "motorcycle_left", "rocket"]
    for pair in samples:
        assert pair.hr.shape == (scale * pair.lr.shape[0], scale * pair.lr.shape[1], 3)
        assert 290 < min(pair.hr.shape[:2]) <= max(pair.hr.shape[:2]) <= 512
        assert pair.hr.std() > 20, "a photo, not a flat picture"


def test_large_samples_are_cut_around_their_centre() -> None:
    # scikit-image's own loader, on a photo that its wheel holds: 400 x 600, so 44 columns go on each side.
    from skimage.data import coffee

    (pair,) = (pair for pair in load_image_sets(None, None, 2)[0] if pair.name == "coffee")
    assert (pair.hr == coffee()[:, 44:556]).all()


def test_only_the_samples_are_known_without_a_folder() -> None:
    assert load_image_sets(None, ["samples"], 2)[0].name == "samples"
    with pytest.raises(DataError, match="expected sets among samples, got Set5; give a data folder"):
        load_image_sets(None, ["Set5"], 2)
