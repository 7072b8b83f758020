"""TIFF by rows: strips as they come, then the directory that names them; several pages one after another.

Pillow writes whole pictures from memory and has no colour of 16 bits; its directory of tags is used here.
Source: TIFF 6.0, sections 2 to 8, 14 (predictor) and 18 (alpha); Adobe Photoshop TIFF technical notes (deflate).
"""

from __future__ import annotations

import struct
import zlib
from typing import IO

import numpy as np
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from edge_sr.errors import ImageError
from edge_sr.photos.metadata import DIRECTORIES, Metadata, load_exif
from edge_sr.pixels import Levels

_HEADER = b"II*\0"
_DEFLATE, _HORIZONTAL = 8, 2
_BLACK_IS_ZERO, _RGB = 1, 2
_UNASSOCIATED_ALPHA = 2
_STRIP_OFFSETS, _STRIP_LENGTHS = 273, 279
_BYTE, _LONG, _UNDEFINED = 1, 4, 7
_COMPRESSION = 2
_MOST_BYTES = 2**32 - 1
_STRIP_BYTES = 1 << 20


class TiffWriter:
    """Writes pages: :meth:`begin`, rows by :meth:`write`, :meth:`end`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        stream.write(_HEADER + bytes(4))
        self._link = len(_HEADER)  # where the offset of the next directory belongs
        self._tags: ImageFileDirectory_v2 | None = None

    def begin(self, *, height: int, width: int, channels: int, bits: int, metadata: Metadata) -> None:
        """Start a page; arguments as :class:`edge_sr.photos.png.PngWriter`. Gamma and comments are not kept."""
        tags = ImageFileDirectory_v2(_HEADER + bytes(4))
        tags[256], tags[257] = width, height
        tags[258] = (bits,) * channels
        tags[259] = _DEFLATE
        tags[262] = _RGB if channels > 2 else _BLACK_IS_ZERO
        tags[277] = channels
        self._rows = max(1, _STRIP_BYTES // (width * channels * bits // 8))
        tags[278] = self._rows
        tags[284] = 1
        tags[317] = _HORIZONTAL
        if channels in (2, 4):
            tags[338] = _UNASSOCIATED_ALPHA
        _add_metadata(tags, metadata)
        self._tags = tags
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        self._waiting: list[Levels] = []

    def write(self, rows: Levels) -> None:
        """Append (n, width, channels) rows of the promised depth."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) < self._rows:
            return
        lines = np.concatenate(self._waiting) if len(self._waiting) > 1 else rows
        whole = len(lines) // self._rows * self._rows
        for top in range(0, whole, self._rows):
            self._strip(lines[top : top + self._rows])
        self._waiting = [lines[whole:].copy()] if whole < len(lines) else []

    def end(self) -> None:
        """Write the page's last strip and its directory, and link it to the page before."""
        assert self._tags is not None
        if self._waiting:
            self._strip(np.concatenate(self._waiting))
        for tag, values in ((_STRIP_OFFSETS, self._offsets), (_STRIP_LENGTHS, self._lengths)):
            self._tags.tagtype[tag] = _LONG
            self._tags[tag] = tuple(values)
        place = self._stream.seek(0, 2)
        place += self._stream.write(bytes(place % 2))
        directory = _serialized(self._tags, place, tuple(self._offsets))
        self._check_room(len(directory))
        self._stream.write(directory)
        self._stream.seek(self._link)
        self._stream.write(struct.pack("<I", place))
        self._stream.seek(0, 2)
        self._link = place + 2 + 12 * len(self._tags)

    def close(self) -> None:
        """Nothing is left to write; for one interface with the others."""

    def _strip(self, lines: Levels) -> None:
        difference = lines.copy()
        difference[:, 1:] -= lines[:, :-1]
        stored = zlib.compress(np.ascontiguousarray(difference).astype(f"<u{lines.itemsize}").tobytes(), _COMPRESSION)
        self._check_room(len(stored))
        self._offsets.append(self._stream.tell())
        self._lengths.append(len(stored))
        self._stream.write(stored)

    def _check_room(self, size: int) -> None:
        if self._stream.tell() + size > _MOST_BYTES:
            raise ImageError("expected at most 4 GiB in a TIFF file, got more; write a .png file instead")


def _add_metadata(tags: ImageFileDirectory_v2, metadata: Metadata) -> None:
    if metadata.exif is not None:
        exif = load_exif(metadata.exif)
        for tag, value in exif.items():
            if tag not in DIRECTORIES:
                tags[tag] = value
        for directory in DIRECTORIES:
            if values := exif.get_ifd(directory):
                tags[directory] = dict(values)
    if metadata.dpi is not None:
        tags[282], tags[283] = (IFDRational(round(dpi * 1000), 1000) for dpi in metadata.dpi)
        tags[296] = 2  # inches
    if metadata.xmp is not None:
        tags.tagtype[700] = _BYTE
        tags[700] = metadata.xmp
    if metadata.icc is not None:
        tags.tagtype[34675] = _UNDEFINED
        tags[34675] = metadata.icc


def _serialized(tags: ImageFileDirectory_v2, place: int, offsets: tuple[int, ...]) -> bytes:
    """The directory's bytes for ``place`` in the file, with the strips where they are.

    Pillow counts strips from the directory's end, because it writes pixels after it (13.0); so they are set here.
    """
    data = bytearray(tags.tobytes(place))
    for entry in range(2, 2 + 12 * len(tags), 12):
        tag, _, count, value = struct.unpack_from("<HHII", data, entry)
        if tag == _STRIP_OFFSETS:
            struct.pack_into(f"<{count}I", data, entry + 8 if count == 1 else value - place, *offsets)
    return bytes(data)
