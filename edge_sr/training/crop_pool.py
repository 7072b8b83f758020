"""Training photos, packed once into one file of pixels, from which random crops are cut.

A pool holds HR pixels alone: the LR side of a crop is made when it is cut, by the rule of
:func:`~edge_sr.resize.make_lr`, so a crop may begin at any HR pixel and not only where the whole photo's LR pixels do.
Crops are a pure function of (seed, step), so a run that was cut goes on with the very crops it would have seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_sr.errors import DataError, reason_of, refuse_damaged
from edge_sr.foreign_files import parse_json
from edge_sr.resize import make_lr, shrinking_matrix

POOL_FORMAT = 2

# LR pixels of an HR crop's surroundings that its LR side is made of as well: the filter reaches no further.
_MARGIN = 2


@dataclass(frozen=True, kw_only=True)
class PooledImage:
    """One image inside the packed file; ``reduction`` is how many times smaller it is than its photo.

    Sizes in HR pixels, multiples of the scale; ``offset`` counts the HR pixels before it.
    """

    name: str
    held_out: bool
    reduction: float
    height: int
    width: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """LR (B, 3, h, w) and HR (B, 3, s*h, s*w), float32 in [0, 1], channels last."""

    lr: Tensor
    hr: Tensor


class CropPool:
    """Reads a packed pool made by :func:`~edge_sr.training.packing.build_pool`.

    Args:
        folder: the pool's folder.
    Raises:
        DataError: no pool there, a half-written one, or one of another format.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = parse_json((folder / "index.json").read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(
                f"expected a packed pool in {folder}, got none ({reason_of(error)}); build it again"
            ) from error
        if not isinstance(index, dict) or index.get("format") != POOL_FORMAT:
            raise DataError(
                f"expected a pool of format {POOL_FORMAT}, got another file {folder}/index.json; pack again"
            )
        self.folder = folder
        with refuse_damaged(f"a packed pool in {folder}", DataError, "pack again"):
            self.scale = int(index["scale"])
            self.sha256 = str(index["sha256"])
            self.images = tuple(PooledImage(**entry) for entry in index["images"])
            pixels = max((image.offset + image.height * image.width for image in self.images), default=0)
            if any(min(image.offset, image.height - 1, image.width - 1) < 0 for image in self.images):
                raise ValueError("an image of no size")
        try:
            self._hr = np.memmap(folder / "hr.bin", dtype=np.uint8, mode="r", shape=(pixels, 3))
        except (OSError, ValueError) as error:
            raise DataError(
                f"expected {pixels} whole pixels in {folder}, got: {reason_of(error)}; delete it and pack again"
            ) from error
        self._on: dict[torch.device, Tensor] = {}

    @property
    def train_images(self) -> tuple[PooledImage, ...]:
        """Images that crops are cut from."""
        return tuple(image for image in self.images if not image.held_out)

    @property
    def train_files(self) -> int:
        """How many files crops are cut from; each is packed at several sizes."""
        return sum(image.reduction == 1 for image in self.train_images)

    @property
    def held_out_images(self) -> tuple[PooledImage, ...]:
        """Images kept for choosing checkpoints, none of them reduced."""
        return tuple(image for image in self.images if image.held_out and image.reduction == 1)

    def pixels(self, image: PooledImage) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """LR (h, w, 3), made here, and a view of HR (s*h, s*w, 3) pixels."""
        h, w = image.height, image.width
        hr = self._hr[image.offset : image.offset + h * w].reshape(h, w, 3)
        return make_lr(hr, self.scale), hr

    def on(self, device: torch.device) -> Tensor:
        """All HR pixels, (pixels, 3) uint8: mapped from the file on the CPU, copied to any other device."""
        if device not in self._on:
            cpu = torch.device("cpu")
            self._on[device] = (
                _mapped(self.folder / "hr.bin", self._hr.shape) if device == cpu else self.on(cpu).to(device)
            )
        return self._on[device]

    @property
    def size_bytes(self) -> int:
        """What the pixels take."""
        return int(self._hr.size)

    def sampler(self, patch: int, device: torch.device | None = None, *, reduced: bool = False) -> CropSampler:
        """A sampler of ``patch`` x ``patch`` LR crops, photos weighted by their area.

        Args:
            patch: LR pixels.
            device: where crops are cut, the CPU if not told.
            reduced: take photos at all their sizes, which is for float training alone: reduced ones are sharper than
                what a phone sees, and int8 ranges wide enough for them cost photos accuracy.
        """
        return CropSampler(self, patch, device or torch.device("cpu"), reduced=reduced)


class CropSampler:
    """Cuts random crops with random flips and quarter turns, where the pixels are."""

    def __init__(self, pool: CropPool, patch: int, device: torch.device, *, reduced: bool) -> None:
        self.pool, self.patch, self.device = pool, patch, device
        self._side, self._margin = patch * pool.scale, _MARGIN * pool.scale
        images = [image for image in pool.train_images if reduced or image.reduction == 1]
        images = [image for image in images if min(image.height, image.width) >= self._side]
        if not images:
            raise DataError(
                f"expected training images of at least {patch}x{patch} LR pixels, got none; use a smaller patch"
            )
        self._images = np.array([(image.offset, image.height, image.width) for image in images], dtype=np.int64)
        areas = self._images[:, 1:].prod(axis=1).astype(np.float64)
        self._shares = np.cumsum(areas / areas.sum())
        self._pixels = pool.on(device)
        self._along = torch.arange(self._side + 2 * self._margin, device=device)
        self._shrinking = torch.from_numpy(shrinking_matrix(patch, pool.scale, _MARGIN)).to(device)

    def batch(self, size: int, *, seed: int, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """A step's batch, or the part of it that one of several processes trains on.

        Args:
            size: crops of all processes together, a multiple of ``world_size``.
            seed, step: what the crops are a function of; how many processes share them changes nothing.
            rank, world_size: which part of how many.
        """
        places = self.places(size, seed=seed, step=step)[rank * size // world_size : (rank + 1) * size // world_size]
        return self.cut(places.to(self.device))

    def places(self, size: int, *, seed: int, step: int) -> Tensor:
        """Where a step's crops lie and how they are turned: (size, 8) int64, on the CPU.

        Of each: its image's first pixel, height and width; the crop's top row and left column, in HR pixels; whether
        it is mirrored up and down, left and right, and along the diagonal.
        """
        rng = np.random.default_rng([seed, step])
        chosen = np.minimum(np.searchsorted(self._shares, rng.random(size), side="right"), len(self._images) - 1)
        image = self._images[chosen]
        corner = (rng.random((size, 2)) * (image[:, 1:] - self._side + 1)).astype(np.int64)
        return torch.from_numpy(np.hstack([image, corner, rng.integers(2, size=(size, 3))]))

    def cut(self, places: Tensor) -> Batch:
        """The crops at :meth:`places`, which are on the sampler's device, as floats."""
        first, height, width, top, left, upturned, mirrored, swapped = (c[:, None] for c in places.unbind(1))
        rows = self._positions(top, height, upturned) * width
        columns = self._positions(left, width, mirrored)
        down, right = torch.where(swapped == 1, columns, rows), torch.where(swapped == 1, rows, columns)
        pixels = self._pixels[first[:, :, None] + down[:, :, None] + right[:, None]]
        inside = slice(self._margin, self._margin + self._side)
        return Batch(lr=_as_floats(self._shrunk(pixels)), hr=_as_floats(pixels[:, inside, inside]))

    def _positions(self, start: Tensor, size: Tensor, backwards: Tensor) -> Tensor:
        """(B, side + 2 * margin) rows or columns of a crop and its surroundings, mirrored at the photo's edges."""
        along = torch.where(backwards == 1, len(self._along) - 1 - self._along, self._along)
        there_and_back = (start - self._margin + along) % (2 * size)
        return torch.minimum(there_and_back, 2 * size - 1 - there_and_back)

    def _shrunk(self, pixels: Tensor) -> Tensor:
        """(B, side + 2 * margin, the same, 3) uint8 -> (B, patch, patch, 3), rounded as make_lr does, in double."""
        tall = _rounded(self._shrinking @ pixels.flatten(2).double())
        return _rounded(self._shrinking @ tall.view(len(pixels), self.patch, -1, 3))


def _rounded(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)


def _as_floats(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float().div_(255.0)


def _mapped(file: Path, shape: tuple[int, ...]) -> Tensor:
    return torch.from_file(str(file), shared=False, size=math.prod(shape), dtype=torch.uint8).view(shape)
