"""The tile of an image where an artifact does most harm, with its pixels, so that a person can look."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.results import plain
from edge_sr.color import rgb_to_y
from edge_sr.datasets import ImagePair
from edge_sr.errors import ConfigError
from edge_sr.metrics import psnr_drop_db
from edge_sr.runner import Runner
from edge_sr.tiling import Tile, plan_tiles, upscale_image

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class WorstTile:
    """One tile's kept part: what the float network and the artifact made of it.

    Attributes:
        set_name, image: which image.
        top, left, height, width: the part of the LR image, in LR pixels.
        squared_error_increase: sum over its HR pixels of the artifact's squared luma error less the float network's;
            the border that PSNR ignores counts nothing.
        float_psnr_y_db, artifact_psnr_y_db: of this part alone.
        max_levels: largest difference between the two results, any channel.
        lr, hr, float_sr, artifact_sr: the pixels, (h, w, 3) uint8; not part of the JSON.
    """

    set_name: str
    image: str
    top: int
    left: int
    height: int
    width: int
    squared_error_increase: float
    float_psnr_y_db: float
    artifact_psnr_y_db: float
    max_levels: int
    lr: Image = field(repr=False, compare=False)
    hr: Image = field(repr=False, compare=False)
    float_sr: Image = field(repr=False, compare=False)
    artifact_sr: Image = field(repr=False, compare=False)

    @property
    def drop_db(self) -> float:
        """What the artifact loses here against the float network in the same tiles."""
        return psnr_drop_db(self.float_psnr_y_db, self.artifact_psnr_y_db)

    @property
    def label(self) -> str:
        return f"{self.set_name}/{self.image} at {self.top},{self.left}"

    def to_json(self) -> dict[str, Any]:
        pixels = ("lr", "hr", "float_sr", "artifact_sr")
        facts = {name: value for name, value in vars(self).items() if name not in pixels}
        content: dict[str, Any] = plain({**facts, "drop_db": self.drop_db})
        return content


def find_worst_tile(pair: ImagePair, reference: Runner, artifact: Runner, *, overlap: int, set_name: str) -> WorstTile:
    """Run both on one image and take the tile in which the artifact's squared error grows most over the reference's.

    Args:
        pair: the image.
        reference: the float network, with the artifact's tile.
        artifact: the artifact's runner.
        overlap: LR pixels between tiles, the same for both.
        set_name: for the report.
    Raises:
        ConfigError: the runners' tiles or scales differ.
        RunnerError: one of them failed.
    """
    tile, scale = artifact.tile, artifact.scale
    if tile is None or reference.tile != tile or reference.scale != scale:
        raise ConfigError(f"expected a reference x{scale} with tile {tile}, got x{reference.scale}, {reference.tile}")
    results = [upscale_image(runner, pair.lr, overlap=overlap) for runner in (reference, artifact)]
    errors = [_squared_luma_error(result, pair.hr, border=scale) for result in results]
    height, width = pair.lr.shape[:2]
    parts = plan_tiles(height, width, tile, overlap)
    increases = [float((errors[1] - errors[0])[_kept(part, scale)].sum()) for part in parts]
    worst = int(np.argmax(increases))
    part, place = parts[worst], _kept(parts[worst], scale)
    counted = np.zeros(pair.hr.shape[:2], dtype=bool)
    counted[scale:-scale, scale:-scale] = True
    pixels = max(int(counted[place].sum()), 1)
    psnr = [_psnr(float(error[place].sum()) / pixels) for error in errors]
    shown = [np.ascontiguousarray(result[place]) for result in results]
    return WorstTile(
        set_name=set_name,
        image=pair.name,
        top=part.keep_top,
        left=part.keep_left,
        height=part.keep_bottom - part.keep_top,
        width=part.keep_right - part.keep_left,
        squared_error_increase=increases[worst],
        float_psnr_y_db=psnr[0],
        artifact_psnr_y_db=psnr[1],
        max_levels=int(np.abs(shown[0].astype(np.int16) - shown[1].astype(np.int16)).max()),
        lr=np.ascontiguousarray(pair.lr[_kept(part, 1)]),
        hr=np.ascontiguousarray(pair.hr[place]),
        float_sr=shown[0],
        artifact_sr=shown[1],
    )


def _squared_luma_error(sr: Image, hr: Image, *, border: int) -> NDArray[np.float64]:
    """(H, W) squared differences of luma rounded to whole levels, as PSNR-Y takes them; 0 in the border."""
    left, right = (np.floor(rgb_to_y(image) + 0.5) for image in (sr, hr))
    squares: NDArray[np.float64] = np.square(left - right)
    inner: NDArray[np.float64] = np.zeros_like(squares)
    inner[border:-border, border:-border] = squares[border:-border, border:-border]
    return inner


def _kept(part: Tile, scale: int) -> tuple[slice, slice]:
    return (
        slice(scale * part.keep_top, scale * part.keep_bottom),
        slice(scale * part.keep_left, scale * part.keep_right),
    )


def _psnr(mse: float) -> float:
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)
