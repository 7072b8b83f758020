"""Image files of every kind come in as RGB uint8; files go out whole or not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from edge_sr import atomic
from edge_sr.errors import ImageError
from edge_sr.images import check_writable, read_image, write_image


def _photo(height: int = 5, width: int = 7) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _png_of_16_bit_rgb(path: Path, pixel: tuple[int, int, int]) -> None:
    """A 1x1 PNG of 16 bits per channel, written by hand: Pillow cannot write one."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    rows = b"\0" + struct.pack(">3H", *pixel)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_lossless_formats_come_back_as_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    write_image(path, _photo())
    again = read_image(path)
    assert again.dtype == np.uint8
    assert again.flags.c_contiguous
    assert again.flags.writeable
    assert (again == _photo()).all()


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg_keeps_colour_edges_within_a_few_levels(tmp_path: Path, suffix: str) -> None:
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, :7] = (200, 40, 40)  # an odd column: chroma sampled in pairs would straddle the edge
    halves[:, 7:] = (40, 40, 200)
    path = tmp_path / f"photo{suffix}"
    write_image(path, halves)
    # Quality 95 quantizes by a few levels; subsampled chroma would smear the edge by dozens.
    assert abs(read_image(path).astype(int) - halves).max() <= 12


def test_a_single_pixel_is_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "dot.png", np.array([[[1, 2, 3]]], np.uint8))
    assert read_image(tmp_path / "dot.png").tolist() == [[[1, 2, 3]]]


def test_grey_gets_three_equal_channels(tmp_path: Path) -> None:
    PillowImage.fromarray(np.array([[0, 77], [128, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").tolist() == [[[0] * 3, [77] * 3], [[128] * 3, [255] * 3]]


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    PillowImage.fromarray(np.array([[False, True]])).save(tmp_path / "bits.png")
    assert read_image(tmp_path / "bits.png").tolist() == [[[0] * 3, [255] * 3]]


def test_alpha_is_dropped_and_the_colours_under_it_stay(tmp_path: Path) -> None:
    PillowImage.fromarray(np.array([[[10, 20, 30, 0], [40, 50, 60, 128]]], np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    PillowImage.merge("LA", [PillowImage.new("L", (1, 1), 90), PillowImage.new("L", (1, 1), 3)]).save(
        tmp_path / "b.png"
    )
    assert read_image(tmp_path / "b.png").tolist() == [[[90, 90, 90]]]


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80"])
def test_palette_entries_are_looked_up(tmp_path: Path, transparency: int | bytes | None) -> None:
    indexed = PillowImage.fromarray(np.array([[0, 1, 1]], np.uint8)).convert("P")
    indexed.putpalette([5, 6, 7, 200, 100, 50])
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    indexed.save(tmp_path / "p.png", **options)
    with PillowImage.open(tmp_path / "p.png") as saved:
        assert saved.mode == "P"
    assert read_image(tmp_path / "p.png").tolist() == [[[5, 6, 7], [200, 100, 50], [200, 100, 50]]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 257, 128, 129, 32768, 65535]], np.uint16)
    PillowImage.fromarray(deep).save(tmp_path / f"deep{suffix}")
    # 65535 / 255 = 257, so one level is 257: 128 / 257 = 0.498 -> 0, 129 / 257 = 0.502 -> 1, 32768 / 257 = 127.5019.
    assert read_image(tmp_path / f"deep{suffix}")[0, :, 0].tolist() == [0, 1, 0, 1, 128, 255]


def test_16_bit_rgb_is_rounded_to_8_bits(tmp_path: Path) -> None:
    _png_of_16_bit_rgb(tmp_path / "deep.png", (0x12FF, 0x8000, 0xFFFF))
    # 0x12ff = 4863 = 18.92 levels of 257, nearer to 19 than to the upper byte, 18; 0x8000 = 127.502 levels.
    assert read_image(tmp_path / "deep.png").tolist() == [[[19, 128, 255]]]


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 2)), (6, (0, 1)), (8, (2, 0))])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0] = 255  # top left as stored; 6 turns it by 90 degrees clockwise: top right of a 3x2 image
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    PillowImage.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.shape == ((2, 3, 3) if orientation in (1, 3) else (3, 2, 3))
    assert np.argwhere(upright[:, :, 0] == 255).tolist() == [list(corner)]


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [PillowImage.new("RGB", (2, 2), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "moving.gif") == (255, 0, 0)).all()


def test_cmyk_is_converted(tmp_path: Path) -> None:
    PillowImage.new("CMYK", (2, 2), (0, 0, 0, 255)).save(tmp_path / "ink.tif")
    assert (read_image(tmp_path / "ink.tif") == 0).all()


def test_what_is_not_a_whole_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"got .*absent\.png, which does not exist"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="which is a folder"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("no pixels here")
    with pytest.raises(ImageError, match=r"expected a readable image, got .*text\.png"):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="expected a readable image"):
        read_image(tmp_path / "empty.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"photo{suffix}"
    write_image(path, _photo(64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ImageError, match="expected a readable image"):
        read_image(path)


def test_float_images_are_refused(tmp_path: Path) -> None:
    PillowImage.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match=r"8 or 16 bits per channel, got .* mode F"):
        read_image(tmp_path / "float.tif")


def test_an_existing_file_is_only_replaced_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    write_image(path, _photo())
    before = path.read_bytes()
    with pytest.raises(ImageError, match="which exists"):
        write_image(path, 255 - _photo())
    assert path.read_bytes() == before
    write_image(path, 255 - _photo(), overwrite=True)
    assert (read_image(path) == 255 - _photo()).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [("photo.gif", "ending in .png"), ("photo", "ending in .png"), ("no/photo.png", "existing folder")],
)
def test_a_name_that_cannot_be_written_is_refused_early(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_writable(tmp_path / name)
    with pytest.raises(ImageError, match=message):
        write_image(tmp_path / name, _photo())


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_only_rgb_uint8_arrays_are_written(tmp_path: Path, image: Any) -> None:
    with pytest.raises(ImageError, match="uint8 image to write"):
        write_image(tmp_path / "photo.png", image)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    write_image(path, _photo())

    def refuse(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "replace", refuse)
    with pytest.raises(ImageError, match="disk full"):
        write_image(path, 255 - _photo(), overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]
    assert (read_image(path) == _photo()).all()


def test_a_size_the_format_cannot_hold_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="at most 16,383 pixels a side"):
        write_image(tmp_path / "wide.webp", np.zeros((1, 16384, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
