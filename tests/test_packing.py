"""Packing photos: what is held out, what a pool's name depends on, and what broken photos and full disks do."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_disk
from PIL import Image

from edge_sr.errors import CheckpointError, ConfigError, DataError
from edge_sr.images import read_image
from edge_sr.training.crop_pool import CropPool
from edge_sr.training.held_out import FLAT_LIMIT, choose_held_out, flatness, photo_of
from edge_sr.training.packing import build_pool, find_photos, open_pool


def write_noise(file: Path, seed: int, side: int = 16) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_photos(folder: Path, names: Iterable[str]) -> Path:
    for seed, name in enumerate(names):
        write_noise(folder / name, seed)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", ("one.png", "two.png", "three.png"))


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., CropPool]:
    """Packs a folder, in silence unless something is to be said."""

    def pack(data: Path, said: list[str] | None = None, hold_out: int = 1, cache: str = "cache") -> CropPool:
        lines: list[str] = [] if said is None else said
        pool = open_pool(data, scale=2, cache=tmp_path / cache, hold_out=hold_out, warn=lines.append)
        assert said is not None or lines == []
        return pool

    return pack


def test_packed_pixels_are_those_of_the_files(photos: Path, packed: Callable[..., CropPool]) -> None:
    pool = packed(photos)
    assert [image.name for image in pool.images if image.reduction == 1] == ["one", "three", "two"]
    for image in pool.images:
        if image.reduction == 1:
            assert np.array_equal(pool.pixels(image)[1], read_image(photos / f"{image.name}.png"))
    assert pool.sha256 == hashlib.sha256((pool.folder / "hr.bin").read_bytes()).hexdigest()
    assert len(pool.held_out_images) == 1


def test_photos_are_packed_smaller_as_well_and_held_out_at_every_size(
    photos: Path, packed: Callable[..., CropPool]
) -> None:
    Image.fromarray(np.zeros((26, 1, 3), np.uint8)).resize((26, 41)).save(photos / "two.png")
    pool = packed(photos)
    sizes = {image.reduction: (image.height, image.width) for image in pool.images if image.name == "two"}
    assert sizes == {1.0: (40, 26), 4 / 3: (30, 20), 2.0: (20, 12)}
    (held_out,) = pool.held_out_images
    assert held_out.reduction == 1
    assert [image.held_out for image in pool.images] == [image.name == held_out.name for image in pool.images]


def test_any_number_of_workers_packs_the_same_and_reports_every_photo(tmp_path: Path, photos: Path) -> None:
    seen: list[tuple[int, int]] = []
    pools = [
        open_pool(
            photos,
            scale=2,
            cache=tmp_path / str(workers),
            hold_out=1,
            workers=workers,
            progress=lambda *done: seen.append(done),
        )
        for workers in (1, 7)
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2
    contents = [[(pool.folder / name).read_bytes() for name in ("index.json", "hr.bin")] for pool in pools]
    assert contents[0] == contents[1]
    assert pools[0].folder.name == pools[1].folder.name


def test_two_runs_that_pack_the_same_photos_at_once_both_get_the_pool(tmp_path: Path, photos: Path) -> None:
    waits, lines, pools = threading.Event(), [], []

    def told(line: str) -> None:
        lines.append(line)
        waits.set()

    def second() -> None:
        pools.append(open_pool(photos, scale=2, cache=tmp_path / "cache", hold_out=1, warn=told))

    other = threading.Thread(target=second)

    def begin_the_other(done: int, total: int) -> None:
        if done == 1:
            other.start()
            assert waits.wait(30)

    pools.append(open_pool(photos, scale=2, cache=tmp_path / "cache", hold_out=1, progress=begin_the_other))
    other.join(30)
    assert len(pools) == 2
    assert pools[0].folder == pools[1].folder
    assert len(lines) == 1
    assert "waiting for process" in lines[0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [pools[0].folder.name]


def test_what_a_killed_run_left_is_removed(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "cache" / "pool"
    left = folder.with_name(".pool.part")
    left.mkdir(parents=True)
    (left / "hr.bin").write_bytes(b"half")
    (left / "other").write_bytes(b"half")
    build_pool(find_photos(photos), folder, scale=2, hold_out=1)
    assert len({image.name for image in CropPool(folder).images}) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["hr.bin", "index.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["pool"]


def write_broken(folder: Path) -> list[str]:
    """Broken photos of every kind; their names in order."""
    write_noise(folder / "whole.png", 9, side=64)
    whole = (folder / "whole.png").read_bytes()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "whole.jpg")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "whole.webp", lossless=True)
    (folder / "a_empty.png").write_bytes(b"")
    (folder / "b_text.jpg").write_text("not a picture")
    (folder / "c_cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "d_cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:400])
    (folder / "e_cut.webp").write_bytes((folder / "whole.webp").read_bytes()[:30])
    middle = len(whole) // 2
    (folder / "f_deflate.png").write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    write_noise(folder / "g_small.png", 1, side=1)
    (folder / "h_folder.png").mkdir()
    (folder / "i_other.tiff").write_bytes(b"II*\0" + bytes(range(256)))
    for name in ("whole.png", "whole.jpg", "whole.webp"):
        (folder / name).unlink()
    return sorted(path.stem for path in folder.iterdir() if path.stem[1] == "_")


def test_broken_photos_are_named_all_at_once_and_the_run_goes_on(photos: Path, packed: Callable[..., CropPool]) -> None:
    whole = packed(photos)
    broken = write_broken(photos)
    assert len(broken) == 9
    said: list[str] = []
    pool = packed(photos, said)
    (line,) = said
    assert line.startswith(f"left out 9 of 12 photos, which cannot be read: {', '.join(broken)} (the first: expected ")
    assert pool.sha256 == whole.sha256
    assert pool.folder != whole.folder
    for extra in ("j", "k", "l"):
        (photos / f"z{extra}.png").write_bytes(b"")
    said.clear()
    packed(photos, said)
    assert f"{', '.join([*broken, 'zj'])} and 2 more (" in said[0]


def test_a_folder_of_broken_photos_only_is_refused(tmp_path: Path, packed: Callable[..., CropPool]) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    write_broken(folder)
    with pytest.raises(
        DataError, match=r"expected photos, got 9 files of which none can be read: a_empty, b_"
    ) as caught:
        packed(folder)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_too_few_whole_photos_are_refused_and_so_are_too_few_files_before_any_is_read(
    photos: Path, tmp_path: Path, packed: Callable[..., CropPool]
) -> None:
    with pytest.raises(DataError, match="hold 3 out, got 3"):
        packed(photos, hold_out=3)
    assert not (tmp_path / "cache").exists()
    (photos / "four.png").write_bytes(b"")
    with pytest.raises(DataError, match="hold 3 out, got 3"):
        packed(photos, [], hold_out=3)
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(
    photos: Path, tmp_path: Path, packed: Callable[..., CropPool]
) -> None:
    write_noise(photos / "large.png", 5, side=200)
    with full_disk(100_000), pytest.raises(DataError, match=r"expected to pack photos into .*make room") as caught:
        packed(photos)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())
    assert len({image.name for image in packed(photos).images}) == 4


def test_a_cache_that_cannot_be_written_is_one_line(photos: Path) -> None:
    with pytest.raises(CheckpointError, match="expected to lock") as caught:
        open_pool(photos, scale=2, cache=photos / "one.png", hold_out=1)
    assert "\n" not in str(caught.value)


def test_a_pool_is_packed_again_for_other_pixels_and_not_for_another_date(
    photos: Path, packed: Callable[..., CropPool]
) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(photos / "one.bmp")
    first = packed(photos)
    os.utime(photos / "one.bmp", (1, 1))
    assert packed(photos).folder == first.folder
    size = (photos / "one.bmp").stat().st_size
    Image.fromarray(np.ones((16, 16, 3), np.uint8)).save(photos / "one.bmp")
    assert (photos / "one.bmp").stat().st_size == size
    os.utime(photos / "one.bmp", (1, 1))
    other = packed(photos)
    assert other.folder != first.folder
    assert other.sha256 != first.sha256


def test_a_flat_copy_of_a_folder_of_folders_makes_the_same_pool(
    tmp_path: Path, packed: Callable[..., CropPool]
) -> None:
    names = [f"{folder}/{name}.png" for folder in ("a", "a-b", "wide_name") for name in ("x_r0c0", "x_r0c1", "y")]
    tree = write_photos(tmp_path / "tree", names)
    (tmp_path / "flat").mkdir()
    for name in names:
        shutil.copyfile(tree / name, tmp_path / "flat" / name.replace("/", "_"))
    pools = [packed(tree, hold_out=4, cache="one"), packed(tmp_path / "flat", hold_out=4, cache="two")]
    assert pools[0].folder.name == pools[1].folder.name
    assert pools[0].images == pools[1].images
    assert pools[0].sha256 == pools[1].sha256


def test_photos_of_one_name_in_two_folders_are_two_photos(tmp_path: Path, packed: Callable[..., CropPool]) -> None:
    folder = write_photos(tmp_path / "data", ("a/img_r0c0.png", "a/img_r0c1.png", "b/img_r0c0.png"))
    pool = packed(folder)
    assert {photo_of(image.name) for image in pool.images} == {"a_img", "b_img"}
    (held_out,) = {photo_of(image.name) for image in pool.held_out_images}
    assert {photo_of(image.name) for image in pool.train_images} == {"a_img", "b_img"} - {held_out}


def test_hidden_files_are_not_taken(photos: Path, packed: Callable[..., CropPool]) -> None:
    write_noise(photos / ".cache" / "four.png", 4)
    (photos / "._one.png").write_bytes(b"macOS leaves such files on foreign disks")
    assert len({image.name for image in packed(photos).images}) == 3


def test_held_out_photos_come_from_as_many_groups_as_there_are() -> None:
    names = [f"large_{i}" for i in range(100)] + [f"small{i}_{j}" for i in range(9) for j in range(2)]
    held_out = choose_held_out(names, 10)
    assert len({name.partition("_")[0] for name in held_out}) == 10
    again = choose_held_out(names, 12)
    assert held_out < again
    assert {name.partition("_")[0] for name in again} == {name.partition("_")[0] for name in held_out}
    # Names without groups are a group each: the lowest hashes, as anyone can compute them.
    plain = [f"{i:04}" for i in range(50)]
    lowest = sorted(plain, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:5]
    assert choose_held_out(plain, 5) == set(lowest)


def test_adding_photos_changes_little_of_what_is_held_out() -> None:
    names = [f"folder{i % 8}_photo{i}_r{tile}c0" for i in range(60) for tile in range(2)]
    held_out = choose_held_out(names, 6)
    assert choose_held_out(names[::-1], 6) == held_out
    for extra in range(40):
        more = choose_held_out([*names, f"folder{extra % 9}_new{extra}"], 6)
        assert len(more & held_out) >= 5
    with pytest.raises(ConfigError, match="0 or more"):
        choose_held_out(names, -1)


def test_drawings_are_held_out_only_where_photographs_do_not_suffice() -> None:
    names = [f"a{i}" for i in range(6)]
    flat = dict.fromkeys(names[:4], FLAT_LIMIT + 0.01) | dict.fromkeys(names[4:], FLAT_LIMIT)
    assert choose_held_out(names, 2, flat) == set(names[4:])
    assert choose_held_out(names, 3, flat) > set(names[4:])


def test_plain_colours_are_flat_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert flatness(noise) == 0.0
    half = noise.copy()
    half[:, :32] = 255  # of 16 columns four pixels apart, 7 of 15 pairs lie in the plain half
    assert flatness(half) == pytest.approx(7 / 15)
    grey = np.repeat(noise[:, :, :1], 3, axis=2)
    assert flatness(grey) < 0.02  # 1/256 of noise's neighbours are equal by chance
    assert flatness(noise[:, :4]) == 0.0


def test_a_drawing_stays_in_training_and_held_out_drawings_are_mentioned(
    photos: Path, packed: Callable[..., CropPool]
) -> None:
    names = []
    for index in range(8):
        file = photos / f"drawing{index}.png"
        Image.fromarray(np.full((16, 16, 3), index, np.uint8)).save(file)
        names.append(file.stem)
    held_out = {image.name for image in packed(photos, hold_out=3).held_out_images}
    assert held_out == {"one", "two", "three"}
    said: list[str] = []
    assert len(packed(photos, said, hold_out=5).held_out_images) == 5
    assert said[0].startswith("of 5 held-out photos 2 look like drawings or screenshots")


def test_a_folder_without_photos_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.cr3").write_bytes(b"x")
    with pytest.raises(DataError, match=r"got 1 file \(1 \.cr3\); put PNG"):
        find_photos(tmp_path)
    (tmp_path / "a.cr3").unlink()
    with pytest.raises(DataError, match="got none; put PNG"):
        find_photos(tmp_path)
