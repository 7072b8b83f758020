"""Training photos, packed once into one file of pixels, from which random crops are cut.

A pool holds every photo's HR pixels and their bicubic LR image. Crops are a pure function of (seed, step), so a
run that was cut goes on with the very crops it would have seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_sr.errors import DataError

POOL_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PooledImage:
    """One image inside the packed files; offsets in bytes, sizes in LR pixels."""

    name: str
    held_out: bool
    height: int
    width: int
    lr_offset: int
    hr_offset: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """LR (B, 3, h, w) and HR (B, 3, s*h, s*w), float32 in [0, 1], channels last."""

    lr: Tensor
    hr: Tensor


@dataclass(frozen=True, kw_only=True)
class Crops:
    """A batch as it is stored, LR (B, h, w, 3) and HR (B, s*h, s*w, 3) uint8: a quarter of the bytes to a device."""

    lr: Tensor
    hr: Tensor

    def pinned(self) -> Crops:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        return Crops(lr=self.lr.pin_memory(), hr=self.hr.pin_memory())

    def on(self, device: torch.device) -> Batch:
        """The batch on a device, where its pixels become floats."""
        return Batch(lr=_to_planes(self.lr, device), hr=_to_planes(self.hr, device))


class CropPool:
    """Reads a packed pool made by :func:`~edge_sr.training.packing.build_pool`.

    Args:
        folder: the pool's folder.
    Raises:
        DataError: no pool there, a half-written one, or one of another format.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"expected a packed pool in {folder}, got none ({error}); build it again") from error
        if index.get("format") != POOL_FORMAT:
            raise DataError(f"expected pool format {POOL_FORMAT}, got {index.get('format')} in {folder}; delete it")
        self.folder = folder
        self.scale = int(index["scale"])
        self.sha256 = str(index["sha256"])
        self.images = tuple(PooledImage(**entry) for entry in index["images"])
        self._lr = np.memmap(folder / "lr.bin", dtype=np.uint8, mode="r")
        self._hr = np.memmap(folder / "hr.bin", dtype=np.uint8, mode="r")

    @property
    def train_images(self) -> tuple[PooledImage, ...]:
        """Images that crops are cut from."""
        return tuple(image for image in self.images if not image.held_out)

    @property
    def held_out_images(self) -> tuple[PooledImage, ...]:
        """Images kept for choosing checkpoints."""
        return tuple(image for image in self.images if image.held_out)

    def pixels(self, image: PooledImage) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Views of an image's LR (h, w, 3) and HR (s*h, s*w, 3) pixels."""
        h, w, s = image.height, image.width, self.scale
        lr = self._lr[image.lr_offset : image.lr_offset + h * w * 3].reshape(h, w, 3)
        hr = self._hr[image.hr_offset : image.hr_offset + h * w * s * s * 3].reshape(h * s, w * s, 3)
        return lr, hr

    def sampler(self, patch: int) -> CropSampler:
        """A sampler of ``patch`` x ``patch`` LR crops, photos weighted by their area."""
        return CropSampler(self, patch)


class CropSampler:
    """Cuts random crops with random flips and quarter turns."""

    def __init__(self, pool: CropPool, patch: int) -> None:
        self.pool, self.patch = pool, patch
        self.images = [image for image in pool.train_images if min(image.height, image.width) >= patch]
        if not self.images:
            raise DataError(
                f"expected training images of at least {patch}x{patch} LR pixels, got none; use a smaller patch"
            )
        areas = np.array([image.height * image.width for image in self.images], dtype=np.float64)
        self.probabilities = areas / areas.sum()

    def batch(self, size: int, *, seed: int, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """:meth:`crops` as floats, on the CPU."""
        return self.crops(size, seed=seed, step=step, rank=rank, world_size=world_size).on(torch.device("cpu"))

    def crops(self, size: int, *, seed: int, step: int, rank: int = 0, world_size: int = 1) -> Crops:
        """A step's batch, or the part of it that one of several processes trains on.

        Args:
            size: crops of all processes together, a multiple of ``world_size``.
            seed, step: what the crops are a function of; how many processes share them changes nothing.
            rank, world_size: which part of how many.
        """
        rng = np.random.default_rng([seed, step])
        # Drawn for all processes, so that the stream of random numbers does not depend on their number.
        pairs = [self._crop(rng, self.images[i]) for i in rng.choice(len(self.images), size, p=self.probabilities)]
        pairs = pairs[rank * size // world_size : (rank + 1) * size // world_size]
        return Crops(
            lr=torch.from_numpy(np.stack([lr for lr, _ in pairs])),
            hr=torch.from_numpy(np.stack([hr for _, hr in pairs])),
        )

    def _crop(self, rng: np.random.Generator, image: PooledImage) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        lr, hr = self.pool.pixels(image)
        p, s = self.patch, self.pool.scale
        top, left = rng.integers(image.height - p + 1), rng.integers(image.width - p + 1)
        lr, hr = lr[top : top + p, left : left + p], hr[top * s : (top + p) * s, left * s : (left + p) * s]
        turns, flip = int(rng.integers(4)), rng.integers(2)
        if flip:
            lr, hr = lr[:, ::-1], hr[:, ::-1]
        return np.rot90(lr, turns), np.rot90(hr, turns)


def _to_planes(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255.0)
