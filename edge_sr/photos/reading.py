"""Photos in: upright RGB in 8 or 16 bits, alpha apart, and what the file held besides."""

from __future__ import annotations

import math
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
from PIL import ExifTags, ImageCms, UnidentifiedImageError
from PIL import Image as PillowImage

from edge_sr.errors import ImageError, MissingToolError, reason_of
from edge_sr.photos.metadata import Metadata, read_metadata
from edge_sr.photos.samples import OTHER_ORDER, byte_order, lower_bytes, split
from edge_sr.pixels import Levels
from edge_sr.quiet import quiet_native

# What reading allows unless told otherwise: twice the x4 result of a phone's 12 megapixels.
MAX_MEGAPIXELS = 400.0

_GREY_MODES = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"}
_COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    PillowImage.DecompressionBombError,
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TURNS: dict[int, Callable[[Levels], Levels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One picture of a file.

    Attributes:
        pixels: (H, W, 3) uint8 or uint16 RGB, upright; grey has three equal channels.
        alpha: (H, W) of the same type, or None where everything is opaque.
        grey: the file holds one channel of light.
        metadata: what came with the pixels.
        duration_ms: how long an animation shows this picture; 0 for a still or a page.
        notes: what reading could not keep, one phrase each.
    """

    pixels: Levels
    alpha: Levels | None
    grey: bool
    metadata: Metadata
    duration_ms: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """8 or 16."""
        return 8 * self.pixels.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class PhotoHeader:
    """What a file says before its pixels are read.

    Attributes:
        height, width: of the first picture, upright.
        frames: pictures in the file.
        format: Pillow's name.
        bits: 8 or 16 a channel.
        alpha: whether anything may be transparent.
        default_picture: the first picture is what programs without animation show, and no frame.
        loop: how often an animation repeats, 0 for ever; None where the file does not say.
    """

    height: int
    width: int
    frames: int = 1
    format: str = ""
    bits: int = 8
    alpha: bool = False
    default_picture: bool = False
    loop: int | None = None

    @property
    def megapixels(self) -> float:
        return self.height * self.width / 1e6


def read_header(path: str | os.PathLike[str]) -> PhotoHeader:
    """Look at a file's size and number of pictures without reading pixels.

    Raises:
        ImageError, MissingToolError: as :func:`read_photos`.
    """
    with _opened(Path(path)) as opened:
        height, width = opened.height, opened.width
        with _one_line_errors(Path(path)):
            # Pillow turns TIFF files by itself, and reads a PNG file to its end for EXIF that stands there.
            knows = opened.format != "TIFF" and (opened.format != "PNG" or "exif" in opened.info)
            if knows and opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
                height, width = width, height
            frames = getattr(opened, "n_frames", 1)
        return PhotoHeader(
            height=height,
            width=width,
            frames=frames,
            format=opened.format or "",
            bits=16 if opened.mode.startswith("I;16") or byte_order(opened) in OTHER_ORDER else 8,
            default_picture=bool(getattr(opened, "default_image", False)),
            alpha=opened.mode.upper().endswith("A") or "transparency" in opened.info,
            loop=opened.info.get("loop"),
        )


def read_photo(path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Read a file's first picture; see :func:`read_photos`."""
    return next(read_photos(path, max_megapixels=max_megapixels))


def read_photos(path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[Photo]:
    """Read all pictures of a file: one of a photo, the frames of an animation, the pages of a document.

    Args:
        path: any format that Pillow reads; HEIC where pillow-heif is installed.
        max_megapixels: refuse larger pictures before any pixel is read; a file of a few bytes can claim any size.
    Yields:
        the pictures in order; each is upright, palettes are looked up, premultiplied alpha is divided out, CMYK is
        converted by its profile.
    Raises:
        ImageError: missing, no image, truncated, larger than allowed, or of an unsupported kind (32-bit integer, float,
            16-bit planes stored apart).
        MissingToolError: HEIC without pillow-heif.
    """
    path = Path(path)
    with _opened(path) as opened:
        for index in count():
            with _one_line_errors(path):
                if index and opened.format == "TIFF":
                    opened.info.clear()  # Pillow 13.0 leaves a page what the pages looked at before it had
                try:
                    opened.seek(index)
                except EOFError:
                    return
            check_megapixels(path, opened.height, opened.width, max_megapixels)
            yield _read_frame(opened, path)


@contextmanager
def _opened(path: Path) -> Iterator[PillowImage.Image]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ImageError(f"expected an image file, got {path}, which {what}; check the path")
    with ExitStack() as stack:
        with _one_line_errors(path):
            _register_heif(path)
            # A stream, not a path: Pillow 13.0 maps uncompressed files that it knows by path into memory, and gets the
            # rows of turned TIFF files wrong.
            opened = stack.enter_context(PillowImage.open(stack.enter_context(path.open("rb"))))
        yield opened


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Whatever Pillow raises as one line; its warnings, and its own limit of size, do not apply here."""
    limit = PillowImage.MAX_IMAGE_PIXELS
    PillowImage.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError as error:
        what = "an empty file" if path.stat().st_size == 0 else "of no format or kind that is read here"
        cure = "fetch it again" if path.stat().st_size == 0 else "convert it to PNG"
        raise ImageError(f"expected a readable image, got {path}, {what}; {cure}") from error
    except _READ_ERRORS as error:
        raise ImageError(
            f"expected a readable image, got {path} ({reason_of(error)}); convert it or fetch it again"
        ) from error
    finally:
        PillowImage.MAX_IMAGE_PIXELS = limit


def _register_heif(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(32)
    if head[4:8] != b"ftyp" or not any(brand in head[8:] for brand in _HEIF_BRANDS) or b"avi" in head[8:]:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise MissingToolError(
            f"expected pillow-heif to read {path.name}, a HEIC photo, got none; pip install 'edge-sr[heif]'"
        ) from None
    register_heif_opener(thumbnails=False)


def check_megapixels(path: Path, height: int, width: int, most: float) -> None:
    """Raise ImageError where a picture has more than ``most`` megapixels."""
    megapixels = width * height / 1e6
    if megapixels > most:
        raise ImageError(
            f"expected at most {most:g} megapixels, got {path} of {width}x{height} ({megapixels:.3g} "
            f"megapixels); cut it into parts, or allow more (upscale: --max-megapixels {math.ceil(megapixels)})"
        )


def _read_frame(opened: PillowImage.Image, path: Path) -> Photo:
    with _one_line_errors(path):
        if opened.format == "TIFF":  # see read_metadata
            metadata, orientation, notes = read_metadata(opened)
        lower = lower_bytes(opened, path)
        halved = opened.mode == "CMYK" and byte_order(opened) in OTHER_ORDER
        inverted = opened.format == "TIFF" and opened.tag_v2.get(262) == 0  # type: ignore[attr-defined]
        with quiet_native() if opened.format == "TIFF" else nullcontext():  # libtiff comments on what it decodes
            opened.load()
        if opened.format != "TIFF":
            metadata, orientation, notes = read_metadata(opened)
        if opened.mode not in _GREY_MODES | _COLOUR_MODES:
            raise ImageError(
                f"expected grey, RGB or CMYK of 8 or 16 bits per channel, got {path} of mode {opened.mode}; convert it"
            )
        if opened.mode == "CMYK":
            image, metadata, note = _from_cmyk(opened, metadata)
            pixels, alpha, grey, notes = np.asarray(image), None, False, (*notes, note)
        else:
            pixels, alpha, grey = split(opened, lower)
            if inverted and opened.mode.startswith("I;16"):  # white is zero, which Pillow 13.0 minds in 8 bits only
                pixels = np.asarray(65535 - pixels, dtype=np.uint16)
        notes = (*notes, *(["16 bits a channel became 8"] if halved else []), *_lost_colour(opened, path))
        if depth := _hidden_depth(opened, path):
            notes = (*notes, f"{depth} bits a channel became 8")
        duration = float(opened.info.get("duration") or 0)
    if orientation in _TURNS:
        pixels = _TURNS[orientation](pixels)
        alpha = None if alpha is None else _TURNS[orientation](alpha)
    if alpha is not None and (alpha == np.iinfo(alpha.dtype).max).all():
        alpha = None
    pixels = _three_channels(pixels)
    return Photo(pixels=pixels, alpha=alpha, grey=grey, metadata=metadata, duration_ms=duration, notes=notes)


def _three_channels(pixels: Levels) -> Levels:
    """(H, W, 3), writable and contiguous; a copy only where it is not already."""
    if pixels.ndim == 2:
        return np.asarray(np.repeat(pixels[:, :, None], 3, axis=2))
    return np.require(pixels, requirements=["C", "W"])


def _from_cmyk(opened: PillowImage.Image, metadata: Metadata) -> tuple[PillowImage.Image, Metadata, str]:
    without = replace(metadata, icc=None)
    if metadata.icc_space != "CMYK":
        return opened.convert("RGB"), without, "CMYK without a profile became RGB by plain arithmetic"
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(metadata.icc or b""))
        converted = ImageCms.profileToProfile(opened, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None
        return converted, without, "CMYK became sRGB by its profile"
    except ImageCms.PyCMSError:
        return opened.convert("RGB"), without, "CMYK with a damaged profile became RGB by plain arithmetic"


def _lost_colour(opened: PillowImage.Image, path: Path) -> list[str]:
    """Colour spaces that are told by numbers in place of a profile, and that Pillow does not hand on.

    Source: Rec. ITU-T H.273, tables 2 and 3: 1 is Rec. 709, whose primaries sRGB has; 16 and 18 are PQ and HLG.
    """
    if opened.info.get("icc_profile") or opened.format not in {"PNG", "AVIF", "HEIF"}:
        return []
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    if opened.format == "PNG":
        _, found, rest = head.partition(b"IDAT")[0].partition(b"cICP")
        primaries, transfer = (rest[0], rest[1]) if found and len(rest) > 1 else (1, 1)
    else:
        _, found, rest = head.partition(b"colrnclx")
        primaries, transfer = struct.unpack(">HH", rest[:4]) if found and len(rest) > 3 else (1, 1)
    if primaries in (1, 2) and transfer not in (16, 18):
        return []
    return [f"the colour space was left out (primaries {primaries}, transfer {transfer} of H.273)"]


def _hidden_depth(opened: PillowImage.Image, path: Path) -> int | None:
    """Bits a channel of AVIF and HEIC files that hold more than 8, of which Pillow gives the upper 8."""
    if opened.format not in {"AVIF", "HEIF"}:
        return None
    with path.open("rb") as stream:
        _, found, rest = stream.read(1 << 16).partition(b"pixi")  # ISO/IEC 23008-12, 6.5.6: PixelInformationProperty
    depth = max(rest[5 : 5 + rest[4]], default=8) if found and len(rest) > 8 else 8
    return depth if depth > 8 else None
