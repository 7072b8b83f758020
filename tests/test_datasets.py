"""Folders become image sets; what is missing is named."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from apps.sensitivity import centre_crops
from edge_sr.datasets import ImageSet, load_image_sets
from edge_sr.errors import ConfigError, DataError, MissingToolError
from edge_sr.images import read_image, write_image
from edge_sr.lr_check import check_lr_matches
from edge_sr.resize import make_lr
from edge_sr.scorable import load_scorable_sets

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
    with pytest.raises(DataError, match=r"LR image of 13 wide, 9 high, got 12 wide, 9 high in .*a\.png"):
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


# ------------------------------------------------------------------------------------------ layouts of common downloads
# A marked LR image shows that the file was read, as nothing made from HR looks like it.
MARK = np.full((4, 6, 3), 77, np.uint8)
HR = _photo(0, 16, 24)


def _layout(root: Path, hr: str, lr: str | None = None) -> None:
    """One image of 16x24 pixels, with a marked x4 LR file where ``lr`` says."""
    _write(root / hr, HR)
    if lr is not None:
        _write(root / lr, MARK)


PAIRED_LAYOUTS = {
    "ours": ("Set5/HR/baby.png", "Set5/LRx4/baby.png"),
    "BasicSR": ("Set5/GTmod12/baby.png", "Set5/LRbicx4/baby.png"),
    "GTmod4": ("Set5/GTmod4/baby.png", "Set5/LRbicx4/baby.png"),
    "SelfExSR": ("Set5/image_SRF_4/img_001_SRF_4_HR.png", "Set5/image_SRF_4/img_001_SRF_4_LR.png"),
    "SelfExSR in one folder": ("Set5/img_001_SRF_4_HR.png", "Set5/img_001_SRF_4_LR.png"),
    "siblings, as DIV2K": ("Set5_HR/baby.png", "Set5_LR_bicubic/X4/babyx4.png"),
    "siblings without a folder of scales": ("set5_hr/baby.png", "set5_LRx4/baby.png"),
    "EDSR": ("benchmark/Set5/HR/baby.png", "benchmark/Set5/LR_bicubic/X4/babyx4.png"),
    "suffixes in names": ("Set5/HR/baby_HR.png", "Set5/LR_bicubic/X4/baby_LR.png"),
    "RCAN's names": ("Set5/HR/baby_HR_x4.png", "Set5/LRBI/x4/baby_LRBI_x4.png"),
    "small letters": ("set5/hr/Baby.PNG", "set5/lrX4/baby.png"),
}


@pytest.mark.parametrize("layout", PAIRED_LAYOUTS)
def test_hr_and_lr_files_of_common_downloads_are_paired(tmp_path: Path, layout: str) -> None:
    hr, lr = PAIRED_LAYOUTS[layout]
    _layout(tmp_path, hr, lr)
    (image_set,) = load_image_sets(tmp_path, ["Set5"], 4)
    (pair,) = image_set
    assert (image_set.name, image_set.lr_origin) == ("Set5", "file")
    assert (pair.hr == HR).all()
    assert (pair.lr == MARK).all()
    assert pair.name.lower() in ("baby", "img_001")
    assert [s.name for s in load_image_sets(tmp_path, None, 4)] == ["Set5"], "LR folders are no sets"


LONE_LAYOUTS = ("Set5/GTmod12/baby.png", "Set5/GTmod4/baby.png", "Set5/original/baby.png", "Set5/GT/baby.png")
LONE_LAYOUTS += ("Set5_HR/baby.png", "data/set5/baby.png", "Set5/image_SRF_4/img_001_SRF_4_HR.png")


@pytest.mark.parametrize("hr", LONE_LAYOUTS)
def test_hr_alone_gets_lr_images_made(tmp_path: Path, hr: str) -> None:
    _layout(tmp_path, hr)
    (image_set,) = load_image_sets(tmp_path, ["Set5"], 2)
    (pair,) = image_set
    assert image_set.lr_origin == "made here"
    assert (pair.lr == make_lr(HR, 2)).all()


@pytest.mark.parametrize(
    ("inside", "given"),
    [
        ("Set5/image_SRF_4/img_001_SRF_4_HR.png", "Set5/image_SRF_4"),
        ("Set5/GTmod12/a.png", "Set5"),
        ("Set5_HR/a.png", "Set5_HR"),
        ("down/load/Set5/HR/a.png", "down"),
    ],
)
def test_the_data_folder_may_be_a_set_or_lie_around_the_sets(tmp_path: Path, inside: str, given: str) -> None:
    _layout(tmp_path, inside)
    assert [(s.name, len(s)) for s in load_image_sets(tmp_path / given, None, 2)] == [("Set5", 1)]


def test_results_of_other_methods_beside_the_images_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "Set5/image_SRF_4"
    for method in ("HR", "LR", "bicubic", "SRCNN", "A+", "ScSR"):
        _write(folder / f"img_001_SRF_4_{method}.png", MARK if method == "LR" else HR)
    (pair,) = load_image_sets(tmp_path, None, 4)[0]
    assert (pair.name, (pair.hr == HR).all(), (pair.lr == MARK).all()) == ("img_001", True, True)


@pytest.mark.parametrize("folder", ["B100", "BSDS100", "bsd100", "BSD_100", "CBSD100"])
@pytest.mark.parametrize("asked", ["BSD100", "b100", "bsds100"])
def test_spellings_of_bsd100_are_one_set(tmp_path: Path, folder: str, asked: str) -> None:
    _layout(tmp_path, f"{folder}/HR/a.png")
    assert [s.name for s in load_image_sets(tmp_path, [asked], 4)] == ["BSD100"]


def test_names_match_in_any_case_of_letters(tmp_path: Path) -> None:
    _layout(tmp_path, "Holiday/a.png")
    _layout(tmp_path, "URBAN100/HR/a.png")
    assert [s.name for s in load_image_sets(tmp_path, ["holiday", "urban100"], 4)] == ["Holiday", "Urban100"]


def test_the_nearest_of_two_folders_is_taken_and_equals_are_refused(tmp_path: Path) -> None:
    _layout(tmp_path, "benchmark/Set5/HR/far.png")
    _layout(tmp_path, "Set5/HR/near.png")
    (image_set,) = load_image_sets(tmp_path, ["set5"], 4)
    assert [pair.name for pair in image_set] == ["near"]
    _layout(tmp_path, "B100/HR/a.png")
    _layout(tmp_path, "BSDS100/HR/b.png")
    with pytest.raises(DataError, match=r"one folder for BSD100, got .*B100 and .*BSDS100; move or remove one"):
        load_image_sets(tmp_path, ["BSD100"], 4)
    (image_set,) = load_image_sets(tmp_path, ["B100"], 4)
    assert [pair.name for pair in image_set] == ["a"], "an exact folder name decides"


def test_of_several_hr_folders_the_one_with_its_own_lr_is_taken(tmp_path: Path) -> None:
    whole = _photo(3, 19, 26)
    _write(tmp_path / "Set5/original/a.png", whole)
    _layout(tmp_path, "Set5/GTmod12/a.png", "Set5/LRbicx4/a.png")
    (image_set,) = load_image_sets(tmp_path, None, 4)
    assert (image_set.layout, image_set.lr_origin) == ("GTmod12 + LRbicx4", "file")
    assert (next(iter(image_set)).hr == HR).all()


def test_hr_cropped_for_another_scale_is_said(tmp_path: Path) -> None:
    _layout(tmp_path, "Set5/GTmod4/a.png")
    assert load_image_sets(tmp_path, None, 4)[0].notices == ()
    (notice,) = load_image_sets(tmp_path, None, 3)[0].notices
    assert "cropped to multiples of 4" in notice


def test_what_is_no_image_is_no_image(tmp_path: Path) -> None:
    _layout(tmp_path, "Set5/HR/a.png")
    for junk in ("Thumbs.db", "a.mat", ".DS_Store", "._a.png", "readme.txt", "desktop.ini"):
        (tmp_path / "Set5/HR" / junk).write_bytes(b"junk")
        (tmp_path / junk).write_bytes(b"junk")
    (tmp_path / "Set5/HR/folder.png").mkdir()
    _write(tmp_path / "__MACOSX/Set5/HR/._b.png.png", HR)
    _write(tmp_path / ".cache/Set5/HR/b.png", HR)
    assert [[pair.name for pair in s] for s in load_image_sets(tmp_path, None, 4)] == [["a"]]


def test_photographers_folders_stay_plain_folders(tmp_path: Path) -> None:
    _layout(tmp_path, "original/a.png")
    _layout(tmp_path, "edited/a.png")
    assert [s.name for s in load_image_sets(tmp_path, None, 4)] == ["edited", "original"]


def test_a_folder_of_lr_images_alone_is_no_set(tmp_path: Path) -> None:
    _write(tmp_path / "Set5_LR_bicubic/X4/a.png", MARK)
    _write(tmp_path / "LRx4/a.png", MARK)
    with pytest.raises(DataError, match="expected images"):
        load_image_sets(tmp_path, None, 4)


def test_half_size_hr_of_a_known_faulty_download_is_replaced_and_said(tmp_path: Path) -> None:
    whole, half = _photo(1, 40, 64), _photo(2, 20, 32)
    for scale, photo in ((4, whole), (2, half)):
        folder = tmp_path / f"Urban100/image_SRF_{scale}"
        _write(folder / f"img_001_SRF_{scale}_HR.png", photo)
        _write(folder / f"img_001_SRF_{scale}_LR.png", _photo(3, 10, 16))
    (image_set,) = load_image_sets(tmp_path, ["Urban100"], 2)
    (pair,) = image_set
    assert (pair.hr == whole).all()
    assert (pair.lr == make_lr(whole, 2)).all()
    assert "half size" in image_set.notices[0]


def test_half_size_hr_alone_is_refused_with_the_cure(tmp_path: Path) -> None:
    _write(tmp_path / "Urban100/image_SRF_2/img_001_SRF_2_HR.png", _photo(2, 20, 512))
    _write(tmp_path / "Urban100/image_SRF_2/img_001_SRF_2_LR.png", _photo(2, 10, 256))
    _layout(tmp_path, "Set5/HR/a.png")
    with pytest.raises(DataError, match=r"known fault of image_SRF_2.*fetch image_SRF_4"):
        load_image_sets(tmp_path, ["Urban100"], 2)
    assert load_image_sets(tmp_path, ["Set5"], 2)[0].name == "Set5", "other sets stay usable"


def test_incomplete_lr_files_of_selfexsr_are_named(tmp_path: Path) -> None:
    for name in ("img_001", "img_002"):
        _write(tmp_path / f"Set5/image_SRF_4/{name}_SRF_4_HR.png", HR)
    _write(tmp_path / "Set5/image_SRF_4/img_001_SRF_4_LR.png", MARK)
    with pytest.raises(DataError, match="img_002_SRF_4_LR"):
        load_image_sets(tmp_path, None, 4)


# ---------------------------------------------------------------------------------------------------- plain folders
def test_files_of_one_stem_are_two_images_that_can_be_told_apart(tmp_path: Path) -> None:
    for name in ("a.png", "A.jpg", "b.png"):
        _write(tmp_path / name, _photo(0))
    (image_set,) = load_image_sets(tmp_path, None, 2)
    assert [pair.name for pair in image_set] == ["A.jpg", "a.png", "b"]


def test_images_in_folders_of_folders_are_one_set(tmp_path: Path) -> None:
    for name in ("2024/may/a.png", "2024/june/a.png", "2023/b.png", "2024/LR_x4/c.png", ".cache/d.png"):
        _write(tmp_path / "album/photos" / name, _photo(0))
    (image_set,) = load_image_sets(tmp_path / "album", None, 2)
    assert (image_set.name, image_set.layout) == ("album", "folders of images")
    names = [pair.name for pair in image_set]
    assert names == ["photos/2023/b", "photos/2024/june/a", "photos/2024/may/a"]


def test_every_format_that_can_be_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_sr.image_folders.IMAGE_SUFFIXES", frozenset({".png", ".jfif"}))
    _write(tmp_path / "a.jpg", _photo(0))
    (tmp_path / "a.jpg").rename(tmp_path / "a.JFIF")
    (tmp_path / "b.heic").write_bytes(b"a format without a reader")
    (image_set,) = load_image_sets(tmp_path, None, 2)
    assert [pair.name for pair in image_set] == ["a"]
    (notice,) = image_set.notices
    assert "1 file (1 .heic) not read" in notice


def test_images_that_are_not_read_are_counted(tmp_path: Path) -> None:
    for name in ("photos/a.png", "photos/old/b.png", "photos/old/c.jpg"):
        _write(tmp_path / name, _photo(0))
    (image_set,) = load_image_sets(tmp_path, None, 2)
    assert [pair.name for pair in image_set] == ["a"]
    (notice,) = image_set.notices
    assert "2 files (1 .png, 1 .jpg) in folders inside it not read" in notice


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.cr3", "deep/b.CR3", "deep/c.mov", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"got 3 files \(2 \.cr3, 1 \.mov\); convert them"):
        load_image_sets(tmp_path, None, 4)


# -------------------------------------------------------------------------------------------------- what can be scored
def test_images_too_small_for_border_and_window_are_left_out_and_named(tmp_path: Path) -> None:
    # x4: 4 pixels of border on each side and a window of 11 make 19, and sides are cut to multiples of 4.
    for name, side in (("icon", 10), ("just_not", 19), ("just", 20)):
        _write(tmp_path / "set" / f"{name}.png", _photo(0, side, 40))
    (image_set,) = load_scorable_sets(tmp_path / "set", None, 4)
    assert ([pair.name for pair in image_set], image_set.left_out) == (["just"], ("icon", "just_not"))
    (notice,) = image_set.notices
    assert "at least 19 pixels" in notice
    assert "icon, just_not" in notice


def test_a_set_of_small_images_alone_is_one_line_that_names_them(tmp_path: Path) -> None:
    for name, side in (("a", 3), ("b", 18)):
        _write(tmp_path / "set" / f"{name}.png", _photo(0, side, 40))
    with pytest.raises(DataError, match=r"at least 19 pixels .* got smaller ones: a, b; use larger"):
        load_scorable_sets(tmp_path / "set", None, 4)


def test_all_broken_files_of_a_set_are_named_at_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        _write(tmp_path / f"Set5/HR/{name}.png", _textured())
        _write(tmp_path / f"Set5/LRx4/{name}.png", make_lr(_textured(), 4))
    whole = (tmp_path / "Set5/HR/a.png").read_bytes()
    (tmp_path / "Set5/HR/a.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "Set5/LRx4/c.png").write_text("no picture")
    (tmp_path / "Set5/LRx4/d.png").unlink()
    _write(tmp_path / "Set5/LRx4/d.png", _photo(0))
    with pytest.raises(DataError, match="in Set5, got 3 that cannot be used") as raised:
        load_scorable_sets(tmp_path, None, 4)
    said = str(raised.value)
    for name in ("HR/a.png", "LRx4/c.png", "LRx4/d.png"):
        assert f"Set5/{name} (" in said
    assert "b.png" not in said


def test_a_file_whose_reader_is_missing_is_named_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Image:
        if path.suffix == ".tif":
            raise MissingToolError("expected a reader of it, got none; install one")
        return read_image(path)

    monkeypatch.setattr("edge_sr.datasets.read_image", read)
    _write(tmp_path / "a.png", _textured())
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "c.tif").write_bytes(b"x")
    with pytest.raises(DataError, match=r"got 2 that cannot be used: .*b\.png .*c\.tif \(.*install one"):
        load_scorable_sets(tmp_path, None, 4)


def test_what_measures_single_images_names_one_that_is_too_small(tmp_path: Path) -> None:
    _write(tmp_path / "set" / "dot.png", _photo(0, 8, 40))
    with pytest.raises(DataError, match="at least 9 pixels along each side in set, got smaller ones: dot;"):
        centre_crops(tmp_path / "set", None, scale=4)


# ------------------------------------------------------------------------------------------------ LR of another making
def _textured(height: int = 64, width: int = 96) -> Image:
    down, right = np.mgrid[:height, :width]
    plane = 127 + 100 * np.sin(down / 3) * np.cos(right / 4)
    return np.stack([plane, plane[::-1], plane[:, ::-1]], axis=2).astype(np.uint8)


def test_lr_files_of_matlabs_bicubic_pass_whatever_their_edges(tmp_path: Path) -> None:
    lr = make_lr(_textured(), 4)
    lr[:2], lr[:, -2:] = 0, 255
    _write(tmp_path / "Set5/HR/a.png", _textured())
    _write(tmp_path / "Set5/LRx4/a.png", lr)
    check = check_lr_matches(load_image_sets(tmp_path, None, 4)[0])
    assert (check.images, check.max_difference_levels, check.matches, check.notices) == (1, 0, True, ())


def test_lr_files_of_another_filter_are_noticed(tmp_path: Path) -> None:
    from PIL import Image as PillowImage

    # Nearest: what a careless script writes. The middle of three is right, so a mean would not tell.
    careless = np.asarray(PillowImage.fromarray(_textured()).resize((24, 16), PillowImage.Resampling.NEAREST))
    for name, lr in (("a", make_lr(_textured(), 4)), ("b", careless)):
        _write(tmp_path / f"Set5/HR/{name}.png", _textured())
        _write(tmp_path / f"Set5/LRx4/{name}.png", lr)
    (image_set,) = load_image_sets(tmp_path, None, 4)
    check = check_lr_matches(image_set)
    expected = np.abs(make_lr(_textured(), 4)[2:-2, 2:-2].astype(int) - careless[2:-2, 2:-2]).max()
    assert (check.worst, check.max_difference_levels, check.matches) == ("b", expected, False)
    (notice,) = check.notices
    assert notice.startswith("Set5: its LR files differ")
    assert check.foreign == (), "a careless filter still shows the same picture"


def test_the_lr_file_of_another_picture_is_named_wherever_it_stands(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e")
    for name in names:
        hr = np.roll(_textured(), 7 * names.index(name), axis=0)
        _write(tmp_path / f"Set5/HR/{name}.png", hr)
        # The fourth of five: a sample of the first few would not meet it.
        _write(tmp_path / f"Set5/LRx4/{name}.png", make_lr(255 - hr if name == "d" else hr, 4))
    check = check_lr_matches(load_image_sets(tmp_path, None, 4)[0])
    assert (check.images, check.foreign, check.worst) == (5, ("d",), "d")
    assert check.notices[0].startswith("warning: Set5: the LR file of d shows another picture")


def test_lr_images_made_here_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("broken, and never read")
    check = check_lr_matches(load_image_sets(tmp_path, None, 4)[0])
    assert (check.images, check.origin, check.notices) == (0, "made here", ())
    assert check.to_json()["matches"] is True
