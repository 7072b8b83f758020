"""Test charts: small made-up pictures on which colour errors, banding and clipping cannot hide behind a mean.

All are one tile large, the same ones every time, and need no file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from edge_sr.errors import ConfigError, ShapeError
from edge_sr.sizes import format_size

Image = NDArray[np.uint8]
Ideal = NDArray[np.float32]

KINDS = ("flat", "ramp", "shallow", "colours", "edges", "lines", "checks", "noise", "text")
SMALLEST_SIDE = 16
# Levels that a shallow ramp climbs over the whole tile: a sky.
SHALLOW_LEVELS = 32
# The two greys of the edges: far enough from black and white for ringing to show instead of being clipped.
EDGE_GREYS = (64, 192)
_SHALLOW_STARTS = {"dark": 0, "middle": 112, "bright": 256 - SHALLOW_LEVELS}
_BORDER = 16
_FLATS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey 64": (64, 64, 64),
    "grey 128": (128, 128, 128),
    "grey 192": (192, 192, 192),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "yellow": (255, 255, 0),
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        name: unique; ``kind``: one of :data:`KINDS`.
        lr: (h, w, 3) uint8, what the network is given.
        ideal: (scale * h, scale * w, 3) float32 in levels of 255, what a perfect network makes of it; None where
            nobody can say (text, noise).
        axis: 0 or 1 where the chart climbs downwards or to the right, else None.
        channels: those that carry the ramp, else all three.
        neutral: every pixel is grey.
    """

    name: str
    kind: str
    lr: Image
    ideal: Ideal | None = None
    axis: int | None = None
    channels: tuple[int, ...] = (0, 1, 2)
    neutral: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind of a chart must be one of {', '.join(KINDS)}, got {self.kind!r}")


def chart_border(tile: tuple[int, int]) -> int:
    """LR pixels at each side of a chart that are not to be judged: there a network looks past the tile.

    Ramps rest at their end levels there, so that what is judged holds every level.
    """
    return min(_BORDER, min(tile) // 4)


def make_charts(tile: tuple[int, int], scale: int) -> tuple[Chart, ...]:
    """All charts at the size of a tile.

    Args:
        tile: (height, width) in LR pixels.
        scale: upscaling factor, for the ideals.
    Raises:
        ShapeError: the tile is smaller than 16 pixels, on which a chart shows nothing.
    """
    if min(tile) < SMALLEST_SIDE:
        raise ShapeError(
            f"charts need tiles of {SMALLEST_SIDE} or more pixels, got {format_size(tile)}; use larger ones"
        )
    return (
        *(_flat(name, colour, tile, scale) for name, colour in _FLATS.items()),
        _ramp("grey ramp", tile, scale, axis=1, channels=(0, 1, 2)),
        _ramp("grey ramp down", tile, scale, axis=0, channels=(0, 1, 2)),
        *(_ramp(f"{name} ramp", tile, scale, axis=1, channels=(c,)) for c, name in enumerate(("red", "green", "blue"))),
        *(_shallow(f"shallow {name}", start, tile, scale) for name, start in _SHALLOW_STARTS.items()),
        Chart(name="colours", kind="colours", lr=_colours(tile)),
        Chart(name="edges", kind="edges", lr=_edges(tile), neutral=True),
        Chart(name="white lines", kind="lines", lr=_lines(tile, 0, 255), neutral=True),
        Chart(name="black lines", kind="lines", lr=_lines(tile, 255, 0), neutral=True),
        Chart(name="checks", kind="checks", lr=_checks(tile)),
        Chart(name="noise", kind="noise", lr=_noise(tile)),
        Chart(name="text", kind="text", lr=_text(tile, (255, 255, 255), (0, 0, 0)), neutral=True),
        Chart(name="coloured text", kind="text", lr=_text(tile, (0, 0, 192), (255, 224, 0))),
    )


def _flat(name: str, colour: tuple[int, int, int], tile: tuple[int, int], scale: int) -> Chart:
    return Chart(
        name=name,
        kind="flat",
        lr=np.full((*tile, 3), colour, dtype=np.uint8),
        ideal=np.full((scale * tile[0], scale * tile[1], 3), colour, dtype=np.float32),
        neutral=len(set(colour)) == 1,
    )


def _ramp(name: str, tile: tuple[int, int], scale: int, *, axis: int, channels: tuple[int, ...]) -> Chart:
    return _climbing(name, "ramp", tile, scale, axis=axis, channels=channels, first=0.0, last=255.0)


def _shallow(name: str, start: int, tile: tuple[int, int], scale: int) -> Chart:
    last = float(start + SHALLOW_LEVELS - 1)
    return _climbing(name, "shallow", tile, scale, axis=1, channels=(0, 1, 2), first=float(start), last=last)


def _climbing(
    name: str,
    kind: str,
    tile: tuple[int, int],
    scale: int,
    *,
    axis: int,
    channels: tuple[int, ...],
    first: float,
    last: float,
) -> Chart:
    """A straight line between the borders, from one LR pixel's middle to another's, and the same at output pixels."""
    count, border = tile[axis], chart_border(tile)
    slope = (last - first) / (count - 2 * border - 1)
    at = (np.arange(scale * count) + 0.5) / scale - 0.5
    fine = np.clip(first + slope * (at - border), first, last)
    coarse = np.floor(np.clip(first + slope * (np.arange(count) - border), first, last) + 0.5)
    shape = (-1, 1) if axis == 0 else (1, -1)
    lr = np.zeros((*tile, 3), dtype=np.uint8)
    ideal = np.zeros((scale * tile[0], scale * tile[1], 3), dtype=np.float32)
    for channel in channels:
        lr[:, :, channel] = coarse.reshape(shape).astype(np.uint8)
        ideal[:, :, channel] = fine.reshape(shape)
    return Chart(name=name, kind=kind, lr=lr, ideal=ideal, axis=axis, channels=channels, neutral=channels == (0, 1, 2))


def _colours(tile: tuple[int, int]) -> Image:
    """Sixteen saturated colours in a 4x4 mosaic; opposites lie side by side."""
    palette = [
        *((255, 0, 0), (0, 255, 255), (255, 128, 0), (0, 128, 255)),
        *((0, 255, 0), (255, 0, 255), (0, 255, 128), (255, 0, 128)),
        *((0, 0, 255), (255, 255, 0), (128, 0, 255), (128, 255, 0)),
        *((128, 0, 0), (0, 128, 128), (0, 128, 0), (128, 0, 128)),
    ]
    rows, columns = (np.arange(side) * 4 // side for side in tile)
    mosaic: Image = np.array(palette, dtype=np.uint8)[4 * rows[:, None] + columns[None, :]]
    return mosaic


def _quadrants(tile: tuple[int, int]) -> NDArray[np.int64]:
    """(h, w): 0 1 / 2 3."""
    rows, columns = (np.arange(side) * 2 // side for side in tile)
    return np.asarray(2 * rows[:, None] + columns[None, :], dtype=np.int64)


def _edges(tile: tuple[int, int]) -> Image:
    chosen = np.isin(_quadrants(tile), (1, 2))
    return np.where(chosen[:, :, None], np.uint8(EDGE_GREYS[1]), np.uint8(EDGE_GREYS[0])).repeat(3, axis=2)


def _lines(tile: tuple[int, int], ground: int, line: int) -> Image:
    """Lines of one pixel, eight apart: across, down, and both diagonals, a quarter each."""
    rows, columns = np.arange(tile[0])[:, None], np.arange(tile[1])[None, :]
    drawn = np.choose(
        _quadrants(tile),
        [
            np.broadcast_to(rows % 8 == 4, tile),
            np.broadcast_to(columns % 8 == 4, tile),
            (rows + columns) % 8 == 4,
            (rows - columns) % 8 == 4,
        ],
    )
    return np.where(drawn[:, :, None], np.uint8(line), np.uint8(ground)).repeat(3, axis=2)


def _checks(tile: tuple[int, int]) -> Image:
    """Squares of one, two and four pixels in black and white, and of one pixel in red and cyan."""
    rows, columns = np.arange(tile[0])[:, None], np.arange(tile[1])[None, :]
    quadrants = _quadrants(tile)
    light = np.choose(quadrants, [(rows // size + columns // size) % 2 for size in (1, 2, 4, 1)]).astype(bool)
    image = np.where(light[:, :, None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    coloured = quadrants == 3
    image[coloured & light] = (255, 0, 0)
    image[coloured & ~light] = (0, 255, 255)
    return image


def _noise(tile: tuple[int, int]) -> Image:
    """Left half in colour, right half grey."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*tile, 3), dtype=np.uint8)
    half = tile[1] // 2
    image[:, half:] = image[:, half:, :1]
    return image


def _text(tile: tuple[int, int], ground: tuple[int, int, int], ink: tuple[int, int, int]) -> Image:
    canvas = PillowImage.new("RGB", (tile[1], tile[0]), ground)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()
    line = "Sphinx of black quartz, judge my vow 0123456789 "
    for row, top in enumerate(range(1, tile[0], 11)):
        start = 7 * row % len(line)
        draw.text((1, top), line[start:] + line[:start], fill=ink, font=font)
    return np.asarray(canvas, dtype=np.uint8).copy()
