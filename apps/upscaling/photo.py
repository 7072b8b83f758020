"""One photo through fixed tiles: colour by the network, alpha by bicubic, the rest of the file as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.results import plain
from apps.upscaling.runners import Upscaler
from edge_sr.errors import ImageError
from edge_sr.photos.colour import fill_hidden, lay_on, to_eight_bits, to_grey, upscale_alpha
from edge_sr.photos.formats import FORMATS, fitted, writes_grey
from edge_sr.photos.metadata import Metadata, resized
from edge_sr.photos.reading import MAX_MEGAPIXELS, Photo, read_header, read_photo, read_photos
from edge_sr.photos.writing import write_frames, writing_photo
from edge_sr.pixels import Levels
from edge_sr.runner import is_deep
from edge_sr.tiling import Band, plan_tiles, upscale_bands

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
_GIF_MS = 10


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """How photos are made larger.

    Attributes:
        overlap: LR pixels shared by neighbouring tiles; None for what the artifact or network asks for.
        frames: all pictures of an animation or a document, not the first alone.
        strip_metadata: leave out EXIF, XMP, resolution and comments; what colours mean (profile, gamma) stays.
        background: colour under transparency in formats that have none.
        max_megapixels: largest picture that is read.
    """

    overlap: int | None = None
    frames: bool = False
    strip_metadata: bool = False
    background: Colour = WHITE
    max_megapixels: float = MAX_MEGAPIXELS


@dataclass(frozen=True, kw_only=True)
class UpscaleResult:
    """A photo made larger.

    Attributes:
        source, output: files.
        lr_size, sr_size: (height, width) of the first picture.
        frames: pictures written.
        tiles: tiles run.
        bits, grey, alpha: of the written pixels.
        notes: what the new file does not hold of the old one, one phrase each.
        seconds: reading and writing included.
    """

    source: Path
    output: Path
    lr_size: tuple[int, int]
    sr_size: tuple[int, int]
    frames: int
    tiles: int
    bits: int
    grey: bool
    alpha: bool
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def count_tiles(upscaler: Upscaler, height: int, width: int, overlap: int | None) -> int:
    """Tiles of an LR picture."""
    tile = upscaler.runner.tile
    used = upscaler.overlap if overlap is None else overlap
    return 1 if tile is None else len(plan_tiles(height, width, tile, used))


def upscale_photo(
    source: Path,
    output: Path,
    upscaler: Upscaler,
    options: PhotoOptions | None = None,
    *,
    tile_done: Callable[[], None] = lambda: None,
) -> UpscaleResult:
    """Make one photo larger.

    Args:
        source: image file of any size and kind.
        output: its suffix names the format; a file that is there is replaced when the new one is whole.
        upscaler: what runs the tiles.
        options: defaults of :class:`PhotoOptions`.
        tile_done: called after each tile.
    Raises:
        ImageError: the source cannot be read, or the output not be written.
        ConfigError: the overlap does not fit the tile.
        RunnerError: a tile failed; no output is left.
    """
    start = time.perf_counter()
    chosen = options or PhotoOptions()
    header = read_header(source)
    held = header.frames
    if chosen.frames and held > 1:
        photos = read_photos(source, max_megapixels=chosen.max_megapixels)
        frames = [_Enlarged(photo, output, upscaler, chosen, tile_done) for photo in photos]
        if header.default_picture:
            held -= 1
            del frames[0]
        _write_all(output, frames, header.loop)
        first, count = frames[0], len(frames)
        notes = [note for frame in frames for note in frame.notes] + _of_frames(output, frames)
        if header.default_picture:
            notes.append("the picture in place of the animation was left out")
    else:
        photo = read_photo(source, max_megapixels=chosen.max_megapixels)
        first, count = _Enlarged(photo, output, upscaler, chosen, tile_done), 1
        del photo
        height, width = first.sr_size
        with writing_photo(
            output, height=height, width=width, channels=first.channels, bits=first.bits, metadata=first.metadata
        ) as writer:
            for rows in first.bands():
                writer.write(rows)
        notes = list(first.notes)
    if held > count:
        notes.insert(0, f"first of {held} pictures: --frames upscales all")
    return UpscaleResult(
        source=source,
        output=output,
        lr_size=first.lr_size,
        sr_size=first.sr_size,
        frames=count,
        tiles=count * count_tiles(upscaler, *first.lr_size, chosen.overlap),
        bits=first.bits,
        grey=first.channels < 3,
        alpha=first.channels in (2, 4),
        notes=tuple(dict.fromkeys(notes)),
        seconds=time.perf_counter() - start,
    )


class _Enlarged:
    """What becomes of one picture in one format: decided at once, computed band by band."""

    def __init__(
        self, photo: Photo, output: Path, upscaler: Upscaler, options: PhotoOptions, tile_done: Callable[[], None]
    ) -> None:
        target = FORMATS[output.suffix.lower()]
        runner = upscaler.runner
        self._runner, self._tile_done = runner, tile_done
        self._overlap = upscaler.overlap if options.overlap is None else options.overlap
        self._background = options.background
        self.duration_ms = photo.duration_ms
        self.lr_size = (photo.pixels.shape[0], photo.pixels.shape[1])
        self.sr_size = (runner.scale * self.lr_size[0], runner.scale * self.lr_size[1])
        notes = list(photo.notes)
        pixels, alpha = photo.pixels, photo.alpha
        if photo.bits == 16 and not (target.deep and is_deep(runner)):
            blame = f"{target.name} holds no more" if not target.deep else f"{runner.name} computes in 8 bits"
            notes.append(f"16 bits a channel became 8: {blame}")
            pixels, alpha = to_eight_bits(pixels), None if alpha is None else to_eight_bits(alpha)
        if alpha is not None:
            pixels = fill_hidden(pixels, alpha)
            if not target.alpha:
                notes.append("transparency was laid on #{:02x}{:02x}{:02x}".format(*options.background))
        if target.palette:
            notes.append("GIF holds 256 colours a picture")
        self._pixels, self._alpha = pixels, alpha
        self.bits = 8 * pixels.itemsize
        # Networks tint grey by a few levels, and screens of dots by many.
        self._grey = photo.grey or _is_colourless(pixels)
        self._lays = alpha is not None and not target.alpha
        keeps_alpha = alpha is not None and target.alpha
        one = photo.grey and writes_grey(output, photo.metadata, alpha=keeps_alpha, bits=self.bits)
        if self._lays and len(set(options.background)) > 1:
            one = False
        self.channels = (1 if one else 3) + keeps_alpha
        metadata = photo.metadata
        if options.strip_metadata:
            metadata = Metadata(icc=metadata.icc, gamma=metadata.gamma, chromaticities=metadata.chromaticities)
        fit, lost = fitted(output, resized(metadata, *self.sr_size), grey=one)
        self.metadata = fit
        if lost:
            notes.append(f"{target.name} does not hold the photo's {', '.join(lost)}")
        self.notes = tuple(notes)

    def bands(self) -> Iterator[Levels]:
        """Rows of the result, top to bottom, (n, W, channels)."""
        for band in upscale_bands(
            self._runner, self._pixels, overlap=self._overlap, progress=lambda done, total: self._tile_done()
        ):
            yield self._finished(band)

    def _finished(self, band: Band) -> Levels:
        rows = to_grey(band.rows) if self._grey else band.rows
        alpha = None
        if self._alpha is not None:
            alpha = upscale_alpha(self._alpha, self._runner.scale, band.top, band.bottom)
        if rows.shape[2] == 1 and self.channels > 2:
            rows = np.asarray(np.repeat(rows, 3, axis=2))
        if alpha is None:
            return rows
        if self._lays:
            return lay_on(rows, alpha, self._background[: rows.shape[2]])
        return np.concatenate([rows, alpha[:, :, None]], axis=2)


def _of_frames(output: Path, frames: list[_Enlarged]) -> list[str]:
    """What of several pictures a format does not hold: times, metadata of their own."""
    target = FORMATS[output.suffix.lower()]
    notes = []
    times = {frame.duration_ms for frame in frames}
    if target.frames == "pages" and any(times):
        notes.append(f"{target.name} holds no times of frames")
    if target.palette and any(time % _GIF_MS for time in times):
        notes.append(f"times became whole {_GIF_MS} ms: {target.name} counts those")
    if target.frames == "frames" and any(frame.metadata != frames[0].metadata for frame in frames):
        notes.append(f"of {len(frames)} pictures {target.name} holds the metadata of the first alone")
    return notes


def _write_all(output: Path, frames: list[_Enlarged], loop: int | None) -> None:
    sizes = {frame.sr_size for frame in frames}
    if FORMATS[output.suffix.lower()].frames == "frames" and len(sizes) > 1:
        raise ImageError(f"expected pictures of one size for {output.name}, got {len(sizes)} sizes; write .tif")
    pictures: list[Levels] = [np.concatenate(list(frame.bands())) for frame in frames]
    if FORMATS[output.suffix.lower()].frames == "frames":
        # An animation has one kind of pixel: frames with holes decide.
        most = max(picture.shape[2] for picture in pictures)
        pictures = [_with_channels(picture, most) for picture in pictures]
    write_frames(
        output,
        pictures,
        durations_ms=[frame.duration_ms for frame in frames],
        loop=loop,
        metadata=[frame.metadata for frame in frames],
    )


def _with_channels(picture: Levels, channels: int) -> Levels:
    """Grey or RGB brought to RGB or RGBA, opaque."""
    if picture.shape[2] < 3 <= channels:
        grey, rest = picture[:, :, :1], picture[:, :, 1:]
        picture = np.concatenate([grey, grey, grey, rest], axis=2)
    if picture.shape[2] < channels:
        opaque = np.full((*picture.shape[:2], 1), np.iinfo(picture.dtype).max, dtype=picture.dtype)
        picture = np.concatenate([picture, opaque], axis=2)
    return picture


def _is_colourless(pixels: Levels) -> bool:
    """Whether all pixels have three equal channels; looks at a few rows first, since most photos have colour."""
    few = pixels[:: max(1, len(pixels) // 8)]
    return all(
        bool((part == part[..., :1]).all()) for part in (few, *np.array_split(pixels, max(1, len(pixels) // 256)))
    )
