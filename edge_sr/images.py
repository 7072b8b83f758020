"""Image files as evaluation and training see them: always (H, W, 3) uint8 RGB. Photos whole: :mod:`edge_sr.photos`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from edge_sr.atomic import try_writing
from edge_sr.errors import ImageError
from edge_sr.photos.colour import to_eight_bits
from edge_sr.photos.formats import check_size, format_of
from edge_sr.photos.reading import MAX_MEGAPIXELS, read_photo
from edge_sr.photos.writing import writing_photo
from edge_sr.pixels import Image

# MPO comes out of Pillow's reader of JPEG, HEIC out of pillow-heif's.
_OPENED_BY_OTHERS = {".mpo", ".heic", ".heif"}


def _readable_suffixes() -> frozenset[str]:
    PillowImage.init()
    readers = {suffix for suffix, name in PillowImage.EXTENSION.items() if name in PillowImage.OPEN}
    # Formats that Pillow reads but in which no photo lies: documents, video, drawings.
    return frozenset(
        readers - {".pdf", ".mpg", ".mpeg", ".eps", ".ps", ".wmf", ".emf", ".bufr", ".grib", ".h5", ".hdf"}
        | _OPENED_BY_OTHERS
    )


IMAGE_SUFFIXES = _readable_suffixes()
"""Lower-case suffixes of what :func:`read_image` reads, HEIC (with pillow-heif) included."""


def read_image(path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS) -> Image:
    """Read an image file as RGB, as evaluation and training need it.

    Grey images get three equal channels, palettes are looked up, CMYK is converted, 16 bits become 8 (divided by 257
    and rounded). EXIF orientation is applied. Alpha is dropped, not composited: the colours stored under transparent
    pixels become visible. Colour profiles are not applied. Of an animation the first frame is read.
    :func:`edge_sr.photos.reading.read_photo` drops none of these.

    Args:
        path: any format that Pillow reads, or HEIC.
        max_megapixels: refuse larger pictures before any pixel is read.
    Returns:
        (H, W, 3) uint8 RGB, writable and contiguous.
    Raises:
        ImageError: missing, not an image, truncated, too large, or of an unsupported kind (32-bit integer, float, LAB).
        MissingToolError: HEIC without pillow-heif.
    """
    levels: Image = to_eight_bits(read_photo(path, max_megapixels=max_megapixels).pixels).view(np.uint8)
    return levels


def write_image(path: str | os.PathLike[str], image: Image, *, overwrite: bool = False) -> None:
    """Write an image; the file appears whole or not at all.

    Args:
        path: ``.png``, ``.tif`` or ``.webp`` (lossless), ``.jpg`` or ``.jpeg`` (quality 95, 4:4:4).
        image: (H, W, 3) uint8 RGB.
        overwrite: replace an existing file.
    Raises:
        ImageError: another suffix or array, an existing file without ``overwrite``, or a place that cannot be written.
    """
    path = Path(path)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(f"expected a (height, width, 3) uint8 image to write, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    _check_place(path, size=(height, width), frames=False, overwrite=overwrite)
    with writing_photo(path, height=height, width=width, channels=3) as writer:
        writer.write(image)


def check_writable(
    path: Path, *, size: tuple[int, int] | None = None, frames: bool = False, overwrite: bool = False
) -> None:
    """Raise ImageError where no picture can be written to ``path``; lets long work fail before it starts.

    Args:
        path: file to write.
        size: (height, width) of the picture, which the format has to hold.
        frames: several pictures go into it.
        overwrite: an existing file may be replaced.
    """
    _check_place(path, size=size, frames=frames, overwrite=overwrite)
    try:
        try_writing(path.parent, path.name)
    except OSError as error:
        raise ImageError(
            f"expected to write {path}, got: {error.strerror}; choose another folder, or mend its permissions"
        ) from None


def _check_place(path: Path, *, size: tuple[int, int] | None, frames: bool, overwrite: bool) -> None:
    """What can be told without writing."""
    format_of(path, frames=frames)
    if size is not None:
        check_size(path, *size)
    if not path.parent.is_dir():
        raise ImageError(f"expected an existing folder for {path.name}, got {path.parent}; create it first")
    if path.is_dir():
        raise ImageError(f"expected a file name, got {path}, which is a folder")
    if path.exists() and not overwrite:
        raise ImageError(f"expected a new file, got {path}, which exists; choose another name or use --overwrite")
