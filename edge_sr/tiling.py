"""Whole images through fixed tiles: every output pixel is computed by exactly one tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from edge_sr.errors import ConfigError, RunnerError, ShapeError
from edge_sr.pixels import Image, Levels
from edge_sr.runner import DeepRunner, Runner, check_lr, is_deep, pad_to
from edge_sr.sizes import format_size, short_size

Progress = Callable[[int, int], None]

DEFAULT_OVERLAP = 16


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile of the plan, in LR pixels: what it reads, and the part of its result that is kept.

    Attributes:
        top, left, height, width: what the tile reads; reaches past the image only where the image is smaller.
        keep_top, keep_bottom, keep_left, keep_right: the kept rows ``keep_top:keep_bottom`` and columns of the image.
    """

    top: int
    left: int
    height: int
    width: int
    keep_top: int
    keep_bottom: int
    keep_left: int
    keep_right: int


def plan_tiles(height: int, width: int, tile: tuple[int, int], overlap: int) -> list[Tile]:
    """Cover an image with tiles of one size.

    Neighbours share at least ``overlap`` pixels and are cut in the middle of what they share, so every kept pixel has
    at least ``overlap // 2`` pixels of its tile around it, except towards the edges of the image. The last tile of a
    row or column is shifted inwards so that it ends where the image ends.

    Args:
        height, width: the image, in LR pixels.
        tile: (height, width) of a tile.
        overlap: LR pixels that neighbours share at least; 0 up to the tile's smaller side - 1.
    Returns:
        tiles row by row; their kept parts cover every pixel exactly once.
    Raises:
        ShapeError: an image or a tile without pixels.
        ConfigError: the overlap is negative or not smaller than the tile.
    """
    if min(height, width) < 1 or min(tile) < 1:
        raise ShapeError(
            f"expected sides of 1 or more, got image {short_size((height, width))} and tile {short_size(tile)}"
        )
    if not 0 <= overlap < min(tile):
        raise ConfigError(
            f"expected an overlap of 0 to {min(tile) - 1} for a tile of {format_size(tile)}, got {overlap}"
        )
    columns = _plan_axis(width, tile[1], overlap)
    return [
        Tile(
            top=top,
            left=left,
            height=tile[0],
            width=tile[1],
            keep_top=keep_top,
            keep_bottom=keep_bottom,
            keep_left=keep_left,
            keep_right=keep_right,
        )
        for top, keep_top, keep_bottom in _plan_axis(height, tile[0], overlap)
        for left, keep_left, keep_right in columns
    ]


def upscale_image(
    runner: Runner, lr: Image, *, overlap: int = DEFAULT_OVERLAP, progress: Progress | None = None
) -> Image:
    """Upscale an image of any size with a runner that may take only one tile size.

    An image smaller than the tile is mirrored at the bottom and right. Tiles are cut in the middle of their overlap,
    not blended: with an overlap of twice the network's reach the result equals the whole image's, but for float
    rounding and for statistics over the whole input.

    Args:
        runner: takes ``runner.tile``, or any size where that is None (then the whole image goes in at once).
        lr: (h, w, 3) uint8 RGB.
        overlap: LR pixels that neighbouring tiles share at least; ignored without tiles.
        progress: called with (tiles done, tiles in all) after each tile.
    Returns:
        (scale * h, scale * w, 3) uint8 RGB.
    Raises:
        ShapeError: not an RGB image.
        ConfigError: the overlap does not fit the tile.
        RunnerError: the runner failed or returned another shape.
    """
    check_lr(lr, None)
    scale = runner.scale
    sr = np.empty((scale * lr.shape[0], scale * lr.shape[1], 3), dtype=lr.dtype)
    for band in upscale_bands(runner, lr, overlap=overlap, progress=progress):
        sr[scale * band.top : scale * band.bottom] = band.rows
    return sr


@dataclass(frozen=True, kw_only=True)
class Band:
    """Finished rows of a result: LR rows ``top:bottom`` as (scale * (bottom - top), scale * w, 3) ``rows``."""

    top: int
    bottom: int
    rows: Levels


def upscale_bands(
    runner: Runner, lr: Levels, *, overlap: int = DEFAULT_OVERLAP, progress: Progress | None = None
) -> Iterator[Band]:
    """As :func:`upscale_image`, one row of tiles after another, so that the whole result is never in memory.

    Args:
        runner, overlap, progress: as there.
        lr: (h, w, 3) RGB, uint8 or, for a runner that is deep, uint16.
    Yields:
        bands from top to bottom, of the type of ``lr``; each row of the result is in exactly one.
    Raises:
        ShapeError, ConfigError, RunnerError: as there; ShapeError also for uint16 where the runner is not deep.
    """
    check_lr(lr, None)
    if lr.dtype == np.uint16 and not is_deep(runner):
        raise ShapeError(f"expected a uint8 image for {runner.name}, which has no 16 bits to give, got uint16")
    height, width = lr.shape[:2]
    scale = runner.scale
    if runner.tile is None:
        rows = _run_checked(runner, lr)
        if progress is not None:
            progress(1, 1)
        yield Band(top=0, bottom=height, rows=rows)
        return
    tiles = plan_tiles(height, width, runner.tile, overlap)
    padded = pad_to(lr, *runner.tile)
    done = 0
    for (top, bottom), row in groupby(tiles, key=lambda tile: (tile.keep_top, tile.keep_bottom)):
        rows = np.empty((scale * (bottom - top), scale * width, 3), dtype=lr.dtype)
        for tile in row:
            read = padded[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
            result = _run_checked(runner, np.ascontiguousarray(read))
            columns = slice(scale * tile.keep_left, scale * tile.keep_right)
            kept = slice(scale * (top - tile.top), scale * (bottom - tile.top))
            rows[:, columns] = result[kept, _shifted(columns, scale * tile.left)]
            done += 1
            if progress is not None:
                progress(done, len(tiles))
        yield Band(top=top, bottom=bottom, rows=rows)


def _plan_axis(size: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """(start, first kept, end of kept) of every tile along one axis."""
    last = max(0, size - tile)
    starts = [*range(0, last, tile - overlap), last]
    cuts = [(left + tile + right) // 2 for left, right in pairwise(starts)]
    return list(zip(starts, [0, *cuts], [*cuts, size], strict=True))


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)


def _run_checked(runner: Runner, lr: Levels) -> Levels:
    sr: Levels
    if lr.dtype == np.uint8:
        sr = runner.run(lr.view(np.uint8))
    else:
        assert isinstance(runner, DeepRunner)
        sr = runner.run_deep(lr.view(np.uint16))
    expected = (runner.scale * lr.shape[0], runner.scale * lr.shape[1], 3)
    if sr.shape != expected or sr.dtype != lr.dtype:
        raise RunnerError(f"expected {expected} {lr.dtype} from {runner.name}, got {sr.shape} {sr.dtype}")
    return sr
