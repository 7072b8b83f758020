"""Image files in and out: always (H, W, 3) uint8 RGB in memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps

from edge_sr.atomic import atomic_path
from edge_sr.errors import ImageError

Image = NDArray[np.uint8]

# Suffix -> Pillow format and options. JPEG keeps full chroma resolution; PNG and WebP lose nothing.
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
}
IMAGE_SUFFIXES = (*_FORMATS, ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_SIXTEEN_BIT_MODES = {"I;16", "I;16L", "I;16B", "I;16N"}
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, PillowImage.DecompressionBombError)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read an image file as RGB.

    Grey images get three equal channels, palettes are looked up, CMYK is converted. Alpha is dropped, not composited:
    the colours stored under transparent pixels become visible. EXIF orientation is applied. Of an animation the first
    frame is read. 16-bit grey is divided by 257 and rounded; 16-bit RGB keeps the upper eight bits (Pillow offers no
    more).

    Args:
        path: any format that Pillow reads.
    Returns:
        (H, W, 3) uint8 RGB, writable and contiguous.
    Raises:
        ImageError: missing, not an image, truncated, or of an unsupported kind (32-bit integer, float, LAB).
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"expected an image file, got {path}, which {_what_is(path)}; check the path")
    try:
        with PillowImage.open(path) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except _READ_ERRORS as error:
        raise ImageError(f"expected a readable image, got {path} ({error}); convert it or fetch it again") from error
    return _to_rgb(upright, path)


def write_image(path: str | os.PathLike[str], image: Image, *, overwrite: bool = False) -> None:
    """Write an image; the file appears whole or not at all.

    Args:
        path: ``.png`` or ``.webp`` (both lossless), ``.jpg`` or ``.jpeg`` (quality 95, 4:4:4).
        image: (H, W, 3) uint8 RGB.
        overwrite: replace an existing file.
    Raises:
        ImageError: another suffix or array, an existing file without ``overwrite``, or a place that cannot be written.
    """
    path = Path(path)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(f"expected a (height, width, 3) uint8 image to write, got {image.shape} {image.dtype}")
    check_writable(path, overwrite=overwrite)
    format_name, options = _FORMATS[path.suffix.lower()]
    try:
        with atomic_path(path) as temporary:
            PillowImage.fromarray(np.ascontiguousarray(image)).save(temporary, format=format_name, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"expected to write {path}, got: {error}; try another format or folder") from error


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """Raise ImageError where :func:`write_image` would refuse ``path``; lets long work fail before it starts."""
    if path.suffix.lower() not in _FORMATS:
        raise ImageError(f"expected an image name ending in {', '.join(_FORMATS)}, got {path.name}")
    if not path.parent.is_dir():
        raise ImageError(f"expected an existing folder for {path.name}, got {path.parent}; create it first")
    if path.is_dir():
        raise ImageError(f"expected a file name, got {path}, which is a folder")
    if path.exists() and not overwrite:
        raise ImageError(f"expected a new file, got {path}, which exists; choose another name or allow overwriting")


def _what_is(path: Path) -> str:
    return "is a folder" if path.is_dir() else "does not exist"


def _to_rgb(opened: PillowImage.Image, path: Path) -> Image:
    if opened.mode in _SIXTEEN_BIT_MODES:
        deep = np.asarray(opened).astype(np.uint32)
        grey = ((deep + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if opened.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"expected 8 or 16 bits per channel, got {path} of mode {opened.mode}; convert it to PNG")
    if opened.mode in {"P", "PA", "La", "RGBa"}:
        # Pillow can take these to RGB only by way of RGBA (or warns about transparency on the direct way).
        opened = opened.convert("LA" if opened.mode == "La" else "RGBA")
    return np.array(opened.convert("RGB"))
