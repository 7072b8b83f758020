"""Photos whole: depth, alpha, frames, profile and EXIF come in, are named where a format has no room, and go out."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from PIL import ImageCms, ImageOps

from edge_sr.errors import ImageError, MissingToolError
from edge_sr.photos.colour import fill_hidden, lay_on, to_grey, upscale_alpha
from edge_sr.photos.formats import fitted, writes_grey
from edge_sr.photos.metadata import Metadata, load_exif, resized
from edge_sr.photos.reading import read_header, read_photo, read_photos
from edge_sr.photos.writing import write_frames, writing_photo
from edge_sr.resize import bicubic_resize

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (9, 7, 4)).astype(np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _png(path: Path, pixels: np.ndarray, colour_type: int, extra: bytes = b"") -> Path:
    """A 16-bit PNG by hand, unfiltered: another writer than the one under test."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def _exif(orientation: int = 6) -> PillowImage.Exif:
    exif = PillowImage.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    inner[0x9003], inner[0xA002], inner[0xA003] = "2020:01:02 03:04:05", 7, 5
    place[1], place[2] = "N", (48.0, 8.0, 0.0)
    return exif


# ------------------------------------------------------------------------------------------------------------ reading
@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (0, 1), (4, 2)])
def test_all_16_bits_of_a_png_are_read(tmp_path: Path, colour_type: int, channels: int) -> None:
    pixels = DEEP[..., :channels]
    photo = read_photo(_png(tmp_path / "deep.png", pixels, colour_type))
    assert photo.bits == 16
    assert photo.grey == (channels < 3)
    expected = pixels[..., :3] if channels > 2 else pixels[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(photo.pixels, expected)
    if channels in (2, 4):
        assert photo.alpha is not None
        np.testing.assert_array_equal(photo.alpha, pixels[..., -1])
    else:
        assert photo.alpha is None


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_16_bits_of_a_tiff_are_read(tmp_path: Path, byteorder: Any, compression: Any, channels: int) -> None:
    pixels = DEEP[..., :channels]
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(
        tmp_path / "deep.tif",
        pixels if channels > 1 else pixels[..., 0],
        photometric="rgb" if channels > 1 else "minisblack",
        compression=compression,
        byteorder=byteorder,
        **extra,
    )
    photo = read_photo(tmp_path / "deep.tif")
    np.testing.assert_array_equal(photo.pixels, pixels[..., :3] if channels > 1 else pixels.repeat(3, axis=2))
    assert (photo.alpha is not None) == (channels == 4)


def test_16_bit_planes_apart_are_refused_rather_than_misread(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "planes.tif", DEEP[..., :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
    )
    with pytest.raises(ImageError, match="planes apart"):
        read_photo(tmp_path / "planes.tif")


def test_one_transparent_level_of_16_bit_grey_is_alpha(tmp_path: Path) -> None:
    body = b"tRNS" + struct.pack(">H", int(DEEP[2, 3, 0]))
    extra = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    photo = read_photo(_png(tmp_path / "key.png", DEEP[..., :1], 0, extra))
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.alpha == 0, DEEP[..., 0] == DEEP[2, 3, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_every_orientation_is_set_upright_with_its_alpha(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = PillowImage.fromarray(RNG.integers(1, 256, (5, 7, 4), dtype=np.uint8))
    stored.save(tmp_path / f"t{suffix}", exif=_exif(orientation), **({"lossless": True} if suffix == ".webp" else {}))
    stored.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    photo = read_photo(tmp_path / f"t{suffix}")
    np.testing.assert_array_equal(photo.pixels, expected[..., :3])
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.alpha, expected[..., 3])
    assert photo.metadata.exif is None or 0x0112 not in load_exif(photo.metadata.exif)
    if suffix == ".webp":
        header = read_header(tmp_path / f"t{suffix}")
        assert (header.height, header.width) == expected.shape[:2]


def test_every_mode_with_transparency_gives_its_alpha(tmp_path: Path) -> None:
    palette = PillowImage.fromarray(np.array([[0, 1, 1]], np.uint8)).convert("P")
    palette.putpalette([5, 6, 7, 200, 100, 50])
    palette.save(tmp_path / "p.png", transparency=0)
    photo = read_photo(tmp_path / "p.png")
    assert photo.pixels.tolist() == [[[5, 6, 7], [200, 100, 50], [200, 100, 50]]]
    assert photo.alpha is not None
    assert photo.alpha.tolist() == [[0, 255, 255]]
    PillowImage.fromarray(np.array([[3, 9]], np.uint8)).save(tmp_path / "l.png", transparency=9)
    photo = read_photo(tmp_path / "l.png")
    assert photo.alpha is not None
    assert (photo.alpha.tolist(), photo.grey) == ([[255, 0]], True)
    PillowImage.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(
        tmp_path / "rgb.png", transparency=(4, 5, 6)
    )
    photo = read_photo(tmp_path / "rgb.png")
    assert photo.alpha is not None
    assert photo.alpha.tolist() == [[255, 0]]
    PillowImage.fromarray(np.full((2, 2, 4), 255, np.uint8)).save(tmp_path / "opaque.png")
    assert read_photo(tmp_path / "opaque.png").alpha is None


def test_all_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [PillowImage.new("RGB", (4, 3), colour) for colour in colours]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        options: dict[str, Any] = {} if name == "a.tif" else {"duration": 70, "loop": 0}
        options |= {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        photos = list(read_photos(tmp_path / name))
        assert [tuple(photo.pixels[0, 0].tolist()) for photo in photos] == colours, name
        assert read_header(tmp_path / name).frames == 3
        if name != "a.tif":
            assert photos[1].duration_ms == 70


def test_cmyk_is_converted_by_its_profile_and_says_so(tmp_path: Path) -> None:
    ink = PillowImage.new("CMYK", (2, 2), (0, 0, 0, 255))
    ink.save(tmp_path / "plain.jpg")
    photo = read_photo(tmp_path / "plain.jpg")
    assert "plain arithmetic" in photo.notes[0]
    assert photo.metadata.icc is None
    ink.save(tmp_path / "broken.jpg", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
    assert "CMYK" in read_photo(tmp_path / "broken.jpg").notes[0]


def test_metadata_comes_in_without_what_the_pixels_do_not_need_any_more(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
    PillowImage.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(
        tmp_path / "p.jpg", exif=_exif(), icc_profile=SRGB, dpi=(300, 240), xmp=xmp, comment=b"hello"
    )
    metadata = read_photo(tmp_path / "p.jpg").metadata
    assert (metadata.icc, metadata.dpi, metadata.comments) == (SRGB, (300.0, 240.0), {"Comment": "hello"})
    assert metadata.xmp is not None
    assert b"Orientation" not in metadata.xmp
    assert b'dc:title="t"' in metadata.xmp
    assert metadata.exif is not None
    exif = load_exif(metadata.exif)
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8825)[2] == (48.0, 8.0, 0.0)
    larger = resized(metadata, 20, 28)
    assert larger.exif is not None
    inner = load_exif(larger.exif).get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003], inner[0x9003]) == (28, 20, "2020:01:02 03:04:05")


def test_damaged_exif_costs_the_exif_and_not_the_photo(tmp_path: Path) -> None:
    PillowImage.new("RGB", (3, 2), (9, 9, 9)).save(tmp_path / "p.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    photo = read_photo(tmp_path / "p.jpg")
    assert photo.pixels.shape == (2, 3, 3)
    assert photo.metadata.exif is None


def test_a_picture_larger_than_allowed_is_refused_in_our_words_before_its_pixels_are_read(tmp_path: Path) -> None:
    PillowImage.new("1", (20000, 10000)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match=r"at most 100 megapixels.*200 megapixels.*--max-megapixels 200"):
        read_photo(tmp_path / "large.png", max_megapixels=100)
    limit = PillowImage.MAX_IMAGE_PIXELS
    assert read_header(tmp_path / "large.png").megapixels == 200  # no warning of Pillow's either: warnings are errors
    assert limit == PillowImage.MAX_IMAGE_PIXELS, "other users of Pillow keep their limit"


def test_heic_is_read_with_pillow_heif_and_named_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    picture = PillowImage.fromarray(
        np.kron(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    )
    pillow_heif.from_pillow(picture).save(tmp_path / "p.heic", quality=-1)
    got = read_photo(tmp_path / "p.heic").pixels
    # Lossless but for the way to YCbCr and back.
    assert np.abs(got.astype(int) - np.asarray(picture)).max() <= 8
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingToolError, match=r"edge-sr\[heif\]"):
        read_photo(tmp_path / "p.heic")


def test_16_bit_white_is_zero_is_not_read_as_a_negative(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "w.tif", DEEP[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_photo(tmp_path / "w.tif").pixels[..., 0], 65535 - DEEP[..., 0])


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_16_bit_premultiplied_colour_is_divided_as_a_whole(tmp_path: Path, byteorder: Any) -> None:
    stored = np.tile(np.array([9000, 6000, 3000, 128 * 257], np.uint16), (4, 5, 1))
    tifffile.imwrite(tmp_path / "p.tif", stored, photometric="rgb", extrasamples=["assocalpha"], byteorder=byteorder)
    photo = read_photo(tmp_path / "p.tif")
    # 9000 * 65535 / (128 * 257) = 17929.69
    assert photo.pixels[0, 0].tolist() == [17930, 11953, 5977]
    assert photo.alpha is not None
    assert (photo.alpha == 128 * 257).all()


def test_16_bit_cmyk_says_that_it_became_8(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "c.tif", DEEP, photometric="separated")
    assert "16 bits a channel became 8" in read_photo(tmp_path / "c.tif").notes


def test_pages_have_their_own_profile_and_resolution(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "own.tif") as writer:
        writer.write(np.zeros((3, 4, 3), np.uint8), photometric="rgb")
        writer.write(np.zeros((3, 4, 3), np.uint8), photometric="rgb", iccprofile=SRGB)
        writer.write(np.zeros((3, 4, 3), np.uint8), photometric="rgb", resolution=(300, 300), resolutionunit=2)
    held = [photo.metadata for photo in read_photos(tmp_path / "own.tif")]
    assert [metadata.icc is not None for metadata in held] == [False, True, False]
    assert held[2].dpi == (300.0, 300.0)
    assert held[0].exif is None or b"shape" not in held[0].exif, "what tifffile says of its array is no description"


def test_colour_spaces_told_by_numbers_are_named(tmp_path: Path) -> None:
    def cicp(primaries: int, transfer: int) -> bytes:
        body = b"cICP" + bytes([primaries, transfer, 0, 1])
        return struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))

    photo = read_photo(_png(tmp_path / "pq.png", DEEP[..., :3], 2, cicp(9, 16)))
    assert photo.notes == ("the colour space was left out (primaries 9, transfer 16 of H.273)",)
    assert read_photo(_png(tmp_path / "srgb.png", DEEP[..., :3], 2, cicp(1, 13))).notes == ()


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "e.jpg").touch()
    with pytest.raises(ImageError, match="an empty file; fetch it again"):
        read_photo(tmp_path / "e.jpg")


# ------------------------------------------------------------------------------------------------------------ writing
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_rows_in_any_portions_make_the_picture(tmp_path: Path, suffix: str, bits: int, channels: int) -> None:
    pixels = DEEP.repeat(5, axis=0).repeat(30, axis=1)[..., :channels]
    pixels = pixels if bits == 16 else (pixels >> 8).astype(np.uint8)
    path = tmp_path / f"p{suffix}"
    with writing_photo(path, height=45, width=210, channels=channels, bits=bits) as writer:
        for top in (0, 1, 4, 30):
            bottom = {0: 1, 1: 4, 4: 30, 30: 45}[top]
            writer.write(pixels[top:bottom])
    if suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(path).reshape(pixels.shape), pixels)
    if (suffix, bits, channels) == (".tif", 16, 2):
        assert not writes_grey(path, Metadata(), alpha=True, bits=16), "Pillow reads none of these"
        return
    photo = read_photo(path)
    assert photo.bits == bits
    np.testing.assert_array_equal(
        photo.pixels[..., : min(3, channels) if channels > 2 else 1], pixels[..., : 3 if channels > 2 else 1]
    )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_each_format_holds_what_it_says_it_holds(tmp_path: Path, suffix: str) -> None:
    exif = _exif()
    del exif[0x0112]
    whole = Metadata(
        icc=SRGB,
        exif=exif.tobytes().removeprefix(b"Exif\0\0"),
        xmp=b"<x:xmpmeta>t</x:xmpmeta>",
        dpi=(300.0, 240.0),
        gamma=0.45455,
        chromaticities=(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
        comments={"Comment": "hello"},
    )
    path = tmp_path / f"p{suffix}"
    kept, lost = fitted(path, whole, grey=False)
    with writing_photo(path, height=4, width=6, channels=3, metadata=kept) as writer:
        writer.write(np.zeros((4, 6, 3), np.uint8))
    found = read_photo(path).metadata
    assert {name for name, there in found.held.items() if there} == set(whole.held) - set(lost)
    assert (found.icc, found.xmp) == (SRGB, whole.xmp)
    if found.dpi is not None:
        assert found.dpi == pytest.approx((300, 240), abs=0.01)  # PNG counts whole pixels per metre
    assert found.exif is not None
    with PillowImage.open(path) as opened:
        assert opened.getexif().get_ifd(0x8825)[2] == (48.0, 8.0, 0.0)


def test_a_profile_of_another_kind_than_the_pixels_is_named(tmp_path: Path) -> None:
    assert fitted(tmp_path / "p.png", Metadata(icc=SRGB), grey=True)[1] == ("ICC profile",)
    assert not writes_grey(tmp_path / "p.png", Metadata(icc=SRGB), alpha=False, bits=8), "the profile decides"
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    assert fitted(tmp_path / "p.png", Metadata(icc=grey), grey=True)[1] == ()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_frames_come_back_as_written(tmp_path: Path, name: str) -> None:
    frames = [np.full((4, 5, 3), level, np.uint8) for level in (10, 120, 240)]
    write_frames(tmp_path / name, list(frames), durations_ms=[50, 60, 70], loop=0, metadata=[Metadata()] * 3)
    photos = list(read_photos(tmp_path / name))
    assert [int(photo.pixels[0, 0, 0]) for photo in photos] == [10, 120, 240]
    if name != "a.tif":
        assert [photo.duration_ms for photo in photos] == [50, 60, 70]


def test_pages_may_differ_in_size_and_depth(tmp_path: Path) -> None:
    pages = [DEEP[..., :3], (DEEP[:4, :4, :1] >> 8).astype(np.uint8)]
    write_frames(tmp_path / "p.tif", list(pages), durations_ms=[0, 0], loop=None, metadata=[Metadata()] * 2)
    first, second = read_photos(tmp_path / "p.tif")
    np.testing.assert_array_equal(first.pixels, pages[0])
    np.testing.assert_array_equal(second.pixels[..., :1], pages[1])


def test_one_picture_goes_into_no_gif_and_several_into_no_jpeg(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="ending in"), writing_photo(tmp_path / "a.gif", height=1, width=1, channels=3):
        pass
    with pytest.raises(ImageError, match="several pictures"):
        write_frames(tmp_path / "a.jpg", [], durations_ms=[], loop=None, metadata=[])


# ------------------------------------------------------------------------------------------------------------- colour
def test_hidden_pixels_take_the_colour_of_the_nearest_that_shows() -> None:
    pixels = np.array([[[1, 2, 3], [255, 0, 255], [255, 0, 255], [255, 0, 255], [7, 8, 9]]], np.uint8)
    alpha = np.array([[9, 0, 0, 0, 255]], np.uint8)
    filled = fill_hidden(pixels, alpha)
    assert filled[0, 1].tolist() == [1, 2, 3]
    assert filled[0, 3].tolist() == [7, 8, 9]
    assert filled[0, [0, 4]].tolist() == [[1, 2, 3], [7, 8, 9]]
    assert (fill_hidden(pixels, np.zeros_like(alpha)) == 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_in_bands_is_the_alpha_of_the_whole(dtype: Any) -> None:
    alpha = RNG.integers(0, np.iinfo(dtype).max + 1, (23, 11)).astype(dtype)
    whole = bicubic_resize(alpha[:, :, None], 92, 44)[:, :, 0]
    for top, bottom in ((0, 5), (5, 6), (6, 23)):
        np.testing.assert_array_equal(upscale_alpha(alpha, 4, top, bottom), whole[4 * top : 4 * bottom])


def test_grey_is_the_luma_of_rec_601_and_equal_channels_keep_their_level() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(to_grey(levels[:, :, None].repeat(3, axis=2))[..., 0], levels)
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert to_grey(np.array([[[200, 100, 50]]], np.uint8)).item() == 124
    deep = levels.astype(np.uint16)[:, :, None].repeat(3, axis=2) * 257
    np.testing.assert_array_equal(to_grey(deep)[..., 0], levels.astype(np.uint16) * 257)


def test_laying_on_a_background_is_a_weighted_mean() -> None:
    pixels, alpha = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 51, 255]], np.uint8)
    # 51 / 255 = 0.2: 0.2 * 100 + 0.8 * 200 = 180
    assert lay_on(pixels, alpha, (200, 200, 200))[0, :, 0].tolist() == [200, 180, 100]


def test_pngs_written_here_are_read_by_others(tmp_path: Path) -> None:
    with writing_photo(tmp_path / "p.png", height=9, width=7, channels=4, bits=8) as writer:
        writer.write((DEEP >> 8).astype(np.uint8))
    with PillowImage.open(io.BytesIO((tmp_path / "p.png").read_bytes())) as opened:
        opened.verify()
