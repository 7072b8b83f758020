"""Photos out: rows go to the file as they are finished, which appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image as PillowImage

from edge_sr.atomic import atomic_path
from edge_sr.errors import ImageError
from edge_sr.photos.formats import Format, check_size, format_of
from edge_sr.photos.metadata import Metadata
from edge_sr.photos.png import PngWriter, text_chunks
from edge_sr.photos.tiff import TiffWriter
from edge_sr.pixels import Image, Levels

# JPEG keeps full chroma resolution, WebP loses nothing (but colour under alpha 0, which does not show).
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "PNG": {},
    "GIF": {},
}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class PhotoWriter(Protocol):
    """Takes rows from top to bottom."""

    def write(self, rows: Levels) -> None:
        """Append (n, width, channels) rows."""
        ...


@contextmanager
def writing_photo(
    path: Path, *, height: int, width: int, channels: int, bits: int = 8, metadata: Metadata | None = None
) -> Iterator[PhotoWriter]:
    """Write one picture by rows.

    PNG and TIFF are in memory for a few rows, JPEG and WebP as a whole, once.

    Args:
        path: its suffix names the format. An existing file is replaced when the block ends well.
        height, width: of the whole picture.
        channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), as far as the format has them.
        bits: 8, or 16 where the format has them.
        metadata: what the format carries; see :func:`edge_sr.photos.formats.fitted`.
    Raises:
        ImageError: the format has no such picture, or the file cannot be written.
    """
    target = format_of(path)
    check_size(path, height, width)
    refused = (bits > 8 and not target.deep, channels in (2, 4) and not target.alpha, channels < 3 and not target.grey)
    if any(refused):
        raise ImageError(f"expected a picture that {target.name} can hold, got {channels} channels of {bits} bits")
    carried = metadata or Metadata()
    with _replacing(path) as temporary:
        if not target.by_rows:
            whole = _WholeWriter(height, width, channels)
            yield whole
            whole.image.save(temporary, format=target.name, **_OPTIONS[target.name], **_saved(target, carried))
            return
        with temporary.open("w+b") as stream:
            if target.name == "PNG":
                png = PngWriter(stream, height=height, width=width, channels=channels, bits=bits, metadata=carried)
                yield png
                png.close()
            else:
                tiff = TiffWriter(stream)
                tiff.begin(height=height, width=width, channels=channels, bits=bits, metadata=carried)
                yield tiff
                tiff.end()


def write_frames(
    path: Path, frames: list[Levels], *, durations_ms: list[float], loop: int | None, metadata: list[Metadata]
) -> None:
    """Write an animation (GIF, WebP, PNG) or the pages of a TIFF file.

    Args:
        path: its suffix names the format.
        frames: (H, W, channels) each; of one size and 8 bits but in TIFF.
        durations_ms: how long each is shown.
        loop: how often, 0 for ever; None to say nothing.
        metadata: of each; an animation carries that of the first.
    Raises:
        ImageError: a format of one picture, or the file cannot be written.
    """
    target = format_of(path, frames=True)
    with _replacing(path) as temporary:
        if target.frames == "pages":
            with temporary.open("w+b") as stream:
                tiff = TiffWriter(stream)
                for frame, carried in zip(frames, metadata, strict=True):
                    height, width, channels = frame.shape
                    tiff.begin(height=height, width=width, channels=channels, bits=8 * frame.itemsize, metadata=carried)
                    tiff.write(frame)
                    tiff.end()
            return
        first, *rest = (_as_pillow(frame) for frame in frames)
        first.save(
            temporary,
            format=target.name,
            save_all=True,
            append_images=rest,
            duration=durations_ms,
            **({} if loop is None else {"loop": loop}),
            **_OPTIONS[target.name],
            **_saved(target, metadata[0]),
        )


class _WholeWriter:
    """A picture in memory, once: Pillow's own, which its encoders read."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.image = PillowImage.new(_MODES[channels], (width, height))
        self._top = 0

    def write(self, rows: Levels) -> None:
        self.image.paste(_as_pillow(rows), (0, self._top))
        self._top += len(rows)


def _as_pillow(rows: Levels) -> PillowImage.Image:
    picture: Image = np.ascontiguousarray(rows, dtype=np.uint8)
    return PillowImage.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def _saved(target: Format, metadata: Metadata) -> dict[str, Any]:
    """Pillow's names of what a format carries."""
    options: dict[str, Any] = {}
    if metadata.icc is not None:
        options["icc_profile"] = metadata.icc
    if metadata.exif is not None:
        options["exif"] = b"Exif\0\0" + metadata.exif
    if target.name == "PNG":
        options["pnginfo"] = text_chunks(metadata)
    elif metadata.xmp is not None:
        options["xmp"] = metadata.xmp
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if metadata.comments and target.name in {"JPEG", "GIF"}:
        options["comment"] = "\n".join(metadata.comments.values())
    return options


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except (OSError, RuntimeError, ValueError) as error:
        raise ImageError(f"expected to write {path}, got: {error}; try another format or folder") from error
