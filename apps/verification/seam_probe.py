"""What seams are measured with: pictures that show them, tiles that are run once, and differences along the cuts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.datasets import ImagePair, load_image_sets
from edge_sr.errors import ConfigError, ShapeError
from edge_sr.runner import Runner, pad_to
from edge_sr.sizes import format_size
from edge_sr.tiling import Tile

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# At most this many levels of 255 between tiled and whole: nobody sees one level.
INVISIBLE_LEVELS = 1
# LR pixels per side of the squares in the picture of steps.
_STEP = 4


@dataclass(frozen=True, kw_only=True)
class SeamPicture:
    """A picture to look for seams on: (h, w, 3) uint8, the network's input. ``photo`` is False for made-up ones."""

    name: str
    pixels: Image
    photo: bool


@dataclass(frozen=True, kw_only=True)
class SeamDifference:
    """How far a tiled picture is from its reference, in levels of 255.

    ``seam`` is a band on both sides of every cut, ``elsewhere`` the rest; the largest over pixels and channels, and the
    mean over both. ``seam_pixels_over`` counts output pixels of the band that are more than one level off.
    """

    picture: str
    photo: bool
    overlap: int
    seam_max_levels: int
    seam_mean_levels: float
    seam_pixels_over: int
    elsewhere_max_levels: int
    elsewhere_mean_levels: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


class CachingRunner:
    """A runner that computes each tile once: plans of different overlaps share their corner tiles.

    ``computed`` is called after each with how many there are by now.
    """

    def __init__(self, runner: Runner, computed: Callable[[int], None] | None = None) -> None:
        self._runner, self._computed = runner, computed
        self._results: dict[bytes, Image] = {}
        self.name, self.scale, self.tile = runner.name, runner.scale, runner.tile

    def run(self, lr: Image) -> Image:
        """See :meth:`edge_sr.runner.Runner.run`."""
        key = hashlib.sha256(repr(lr.shape).encode() + lr.tobytes()).digest()
        if key not in self._results:
            self._results[key] = self._runner.run(lr)
            if self._computed is not None:
                self._computed(len(self._results))
        return self._results[key]


def synthetic_pictures(height: int, width: int) -> tuple[SeamPicture, ...]:
    """Noise, and random squares in saturated colours: photos can hide a seam, these hide nothing.

    The same ones every time; (height, width, 3) uint8 each.
    """
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    squares = rng.integers(0, 2, (-(-height // _STEP), -(-width // _STEP), 3), dtype=np.uint8) * np.uint8(255)
    steps = np.ascontiguousarray(squares.repeat(_STEP, 0).repeat(_STEP, 1)[:height, :width])
    return (
        SeamPicture(name="noise", pixels=noise, photo=False),
        SeamPicture(name="steps", pixels=steps, photo=False),
    )


def photo_pictures(
    height: int, width: int, *, scale: int, data: Path | None, sets: Sequence[str] | None, per_set: int
) -> tuple[SeamPicture, ...]:
    """Photos of exactly (height, width), the first ``per_set`` of each set.

    An LR image is used where it is large enough. Most benchmark LR images are no larger than one tile and would show no
    seam at all: then the middle of the HR image is the input, mirrored where even that is smaller.
    """
    pictures = []
    for image_set in load_image_sets(data, sets, scale):
        for pair in image_set.first(per_set):
            name = f"{image_set.name}/{pair.name}"
            pictures.append(SeamPicture(name=name, pixels=_of_size(pair, height, width), photo=True))
    return tuple(pictures)


def _of_size(pair: ImagePair, height: int, width: int) -> Image:
    source = pair.lr if pair.lr.shape[0] >= height and pair.lr.shape[1] >= width else pair.hr
    source = pad_to(source, height, width)
    top, left = (source.shape[0] - height) // 2, (source.shape[1] - width) // 2
    return np.ascontiguousarray(source[top : top + height, left : left + width])


def seam_mask(tiles: Sequence[Tile], *, scale: int, band: int) -> Mask:
    """Which output pixels lie along a cut.

    Args:
        tiles: from :func:`edge_sr.tiling.plan_tiles`.
        scale: upscaling factor.
        band: LR pixels on each side of a cut.
    Returns:
        (scale * h, scale * w) bool.
    """
    height, width = max(tile.keep_bottom for tile in tiles), max(tile.keep_right for tile in tiles)
    mask = np.zeros((scale * height, scale * width), dtype=np.bool_)
    for cut in {tile.keep_top for tile in tiles} - {0}:
        mask[scale * max(cut - band, 0) : scale * (cut + band)] = True
    for cut in {tile.keep_left for tile in tiles} - {0}:
        mask[:, scale * max(cut - band, 0) : scale * (cut + band)] = True
    return mask


def level_difference(first: Image, second: Image) -> NDArray[np.uint8]:
    """Absolute difference of two images of one shape, (H, W, 3) uint8."""
    if first.shape != second.shape:
        raise ShapeError(f"expected two images of one shape, got {first.shape} and {second.shape}")
    difference: NDArray[np.uint8] = np.maximum(first, second) - np.minimum(first, second)
    return difference


def compare_along_seams(
    tiled: Image, reference: Image, mask: Mask, *, picture: SeamPicture, overlap: int
) -> SeamDifference:
    """Differences along the seams and elsewhere; ``mask`` from :func:`seam_mask`."""
    difference = level_difference(tiled, reference)
    seam, elsewhere = difference[mask], difference[~mask]
    return SeamDifference(
        picture=picture.name,
        photo=picture.photo,
        overlap=overlap,
        seam_max_levels=int(seam.max(initial=0)),
        seam_mean_levels=_mean(seam),
        seam_pixels_over=int((seam.max(axis=1, initial=0) > INVISIBLE_LEVELS).sum()),
        elsewhere_max_levels=int(elsewhere.max(initial=0)),
        elsewhere_mean_levels=_mean(elsewhere),
    )


def cost_factor(tile: tuple[int, int], overlap: int) -> float:
    """Pixels computed per pixel kept, on a picture of many tiles: 1 without overlap.

    Raises:
        ConfigError: the overlap does not fit the tile.
    """
    if not 0 <= overlap < min(tile):
        raise ConfigError(f"expected an overlap of 0 to {min(tile) - 1} for tile {format_size(tile)}, got {overlap}")
    return (tile[0] / (tile[0] - overlap)) * (tile[1] / (tile[1] - overlap))


def largest_overlap(tile: tuple[int, int]) -> int:
    """The largest overlap worth its price: half of the tile, where every pixel is computed four times; even."""
    return min(tile) // 2 // 2 * 2


def _mean(values: NDArray[np.uint8]) -> float:
    return float(values.mean()) if values.size else 0.0
