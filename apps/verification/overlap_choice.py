"""Which overlap an export writes into ``artifact.json``: the smallest at which no seam shows, found in seconds.

The search runs the very network that is exported, in PyTorch, on a few small pictures. It compares what two tiles
compute on their side of the point where they meet with a picture that has no edge there. The full evidence, on the
artifact itself, is :func:`apps.verification.seams.certify_seams`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apps.progress import Progress, quiet
from apps.verification.seam_probe import (
    INVISIBLE_LEVELS,
    SeamPicture,
    cost_factor,
    largest_overlap,
    level_difference,
    photo_pictures,
    synthetic_pictures,
)
from apps.verification.seams import reach_of
from edge_sr.runner import TorchRunner

Image = NDArray[np.uint8]

_STEP = 4
# LR pixels of a trial picture around the seam, beyond the reach on both sides.
_ROOM = 8
# Largest share of a tile, 1 / this, for a network that has no exact overlap: more costs over 1.8 times the work.
_DEAREST_SHARE = 4
_PHOTOS = 3

# ((top, bottom), (left, right)) in LR pixels.
_Area = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class OverlapChoice:
    """An overlap, and why.

    Attributes:
        overlap: LR pixels; ``cost_factor``: pixels computed per pixel kept at it.
        max_levels: largest difference along a seam at it, over the pictures; at the next smaller overlap that was tried
            (``smaller_overlap``) it was ``smaller_max_levels``. Those are None where nothing smaller was tried.
        exact_overlap: at which tiles give the whole image; None where the network sees its whole input.
        note: one line for a reader of the artifact where a seam may show; empty otherwise.
    """

    overlap: int
    cost_factor: float
    max_levels: int
    smaller_overlap: int | None
    smaller_max_levels: int | None
    exact_overlap: int | None
    pictures: tuple[str, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, without the note."""
        values = asdict(self)
        del values["note"]
        return {**values, "cost_factor": round(self.cost_factor, 3), "pictures": list(self.pictures)}


def choose_overlap(network: nn.Module, tile: tuple[int, int], *, progress: Progress = quiet) -> OverlapChoice:
    """The smallest overlap at which tiles differ by at most one level along their seams.

    Overlaps are tried downwards, from twice the network's reach (where tiles are exact) in steps of four, until a seam
    shows. Where half of the tile is less than that, half of the tile is the most. A network that sees its whole input
    is tried on whole tiles, upwards from its ``context`` to a quarter of the tile; where a seam shows even there, the
    smallest overlap is taken that is within a level of the best one. Both cases leave a note.

    Args:
        network: deployed float network or ``QuantizedNetwork``, as it is exported.
        tile: (height, width) of the artifact's tile.
        progress: called after each overlap.
    """
    reach = reach_of(network)
    exact = reach.exact_overlap
    if exact is None:
        return _never_exact(network, tile, reach.whole_input or reach.phased, progress)
    most = min(exact, largest_overlap(tile))
    cheap = int(network.tile_multiple) == 1  # type: ignore[arg-type]
    trial = _Trial(network, None if cheap else tile, 2 * (exact // 2 + most // 2 + _ROOM))
    tried: list[tuple[int, int]] = []
    candidates = sorted({most, *range(0, most, _STEP)}, reverse=True)
    for overlap in candidates:
        tried.append((overlap, trial.max_levels(overlap, give_up_above=INVISIBLE_LEVELS if tried else None)))
        progress("choose overlap", len(tried), len(candidates))
        if tried[-1][1] > INVISIBLE_LEVELS:
            break
    progress("choose overlap", len(candidates), len(candidates))
    shown = tried[-1] if tried[-1][1] > INVISIBLE_LEVELS and len(tried) > 1 else None
    overlap, levels = tried[-2] if shown is not None else tried[-1]
    note = ""
    if levels > INVISIBLE_LEVELS:
        note = (
            f"overlap {overlap} is half of the tile and leaves seams of up to {levels} levels; "
            f"tiles of {2 * exact} or more pixels can do without, at overlap {exact} at most"
        )
    return OverlapChoice(
        overlap=overlap,
        cost_factor=cost_factor(tile, overlap),
        max_levels=levels,
        smaller_overlap=None if shown is None else shown[0],
        smaller_max_levels=None if shown is None else shown[1],
        exact_overlap=exact,
        pictures=trial.names,
        note=note,
    )


def _never_exact(network: nn.Module, tile: tuple[int, int], layers: Sequence[str], progress: Progress) -> OverlapChoice:
    trial = _Trial(network, tile, 0)
    step = max(min(tile) // 16 // 2 * 2, 2)
    dearest = min(tile) // _DEAREST_SHARE
    candidates = list(range(min(int(network.context), dearest), dearest + 1, step))  # type: ignore[arg-type]
    tried: list[tuple[int, int]] = []
    for overlap in candidates:
        tried.append((overlap, trial.max_levels(overlap, give_up_above=None)))
        progress("choose overlap", len(tried), len(candidates))
        if tried[-1][1] <= INVISIBLE_LEVELS:
            break
    progress("choose overlap", len(candidates), len(candidates))
    best = min(levels for _, levels in tried)
    wanted = INVISIBLE_LEVELS if best <= INVISIBLE_LEVELS else best + 1
    index = next(index for index, (_, levels) in enumerate(tried) if levels <= wanted)
    overlap, levels = tried[index]
    seeing = f"{len(layers)} layers see" if len(layers) > 1 else f"{len(layers)} layer sees"
    seam = "" if levels <= INVISIBLE_LEVELS else f"; at overlap {overlap} seams differ by up to {levels} levels"
    return OverlapChoice(
        overlap=overlap,
        cost_factor=cost_factor(tile, overlap),
        max_levels=levels,
        smaller_overlap=tried[index - 1][0] if index else None,
        smaller_max_levels=tried[index - 1][1] if index else None,
        exact_overlap=None,
        pictures=trial.names,
        note=f"no overlap makes tiles equal the whole image: {seeing} the whole tile{seam}",
    )


class _Trial:
    """Two tiles that meet in the middle of a picture, at a corner, against a picture without an edge there.

    With a ``tile`` the tiles are whole ones and the picture without an edge is a tile around the corner: the best that
    an artifact can do there. Without, tiles end where the picture does; for a network whose reach is smaller than that
    it is the same and cheaper.
    """

    def __init__(self, network: nn.Module, tile: tuple[int, int] | None, side: int) -> None:
        self._runner = TorchRunner(network)
        self._tile = tile
        height, width = (side, side) if tile is None else (2 * tile[0], 2 * tile[1])
        scale = self._runner.scale
        photos = photo_pictures(height, width, scale=scale, data=None, sets=None, per_set=_PHOTOS)
        # Whole tiles of a large network take a second each: one photo has to do.
        self._pictures = (*synthetic_pictures(height, width), *(photos if tile is None else photos[:1]))
        self._references: dict[str, Image] = {}
        self.names = tuple(picture.name for picture in self._pictures)

    def max_levels(self, overlap: int, *, give_up_above: int | None) -> int:
        """The largest difference over the pictures; stops at the first above ``give_up_above``."""
        largest = 0
        for picture in self._pictures:
            largest = max(largest, self._difference(picture, overlap))
            if give_up_above is not None and largest > give_up_above:
                break
        return largest

    def _difference(self, picture: SeamPicture, overlap: int) -> int:
        axes = [self._spans(axis, picture.pixels.shape[axis], overlap // 2) for axis in (0, 1)]
        without_edge = (axes[0].without_edge, axes[1].without_edge)
        if picture.name not in self._references:
            self._references[picture.name] = self._upscale(picture, without_edge)
        reference = self._references[picture.name]
        largest = 0
        for tile, kept in (
            ((axes[0].first, axes[1].first), (axes[0].kept_of_first, axes[1].kept_of_first)),
            ((axes[0].second, axes[1].second), (axes[0].kept_of_second, axes[1].kept_of_second)),
        ):
            tiled = self._cut(self._upscale(picture, tile), tile, kept)
            largest = max(largest, int(level_difference(tiled, self._cut(reference, without_edge, kept)).max()))
        return largest

    def _spans(self, axis: int, size: int, half: int) -> _Spans:
        middle = size // 2
        if self._tile is None:
            return _Spans(middle=middle, without_edge=(0, size), first=(0, middle + half), second=(middle - half, size))
        side = self._tile[axis]
        begin = middle - side // 2
        return _Spans(
            middle=middle,
            without_edge=(begin, begin + side),
            first=(middle + half - side, middle + half),
            second=(middle - half, middle - half + side),
        )

    def _upscale(self, picture: SeamPicture, spans: _Area) -> Image:
        (top, bottom), (left, right) = spans
        return self._runner.run(np.ascontiguousarray(picture.pixels[top:bottom, left:right]))

    def _cut(self, sr: Image, spans: _Area, kept: _Area) -> Image:
        """The part of an upscaled area that shows the ``kept`` LR pixels."""
        rows, columns = (
            slice(self._runner.scale * (part[0] - span[0]), self._runner.scale * (part[1] - span[0]))
            for span, part in zip(spans, kept, strict=True)
        )
        return sr[rows, columns]


@dataclass(frozen=True, kw_only=True)
class _Spans:
    """Along one axis, in LR pixels (begin, end): where the cut is, and what the picture and the two tiles read."""

    middle: int
    without_edge: tuple[int, int]
    first: tuple[int, int]
    second: tuple[int, int]

    @property
    def kept_of_first(self) -> tuple[int, int]:
        return max(self.first[0], self.without_edge[0]), self.middle

    @property
    def kept_of_second(self) -> tuple[int, int]:
        return self.middle, min(self.second[1], self.without_edge[1])
