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
        if not isinstance(index, dict) or index.get("format") != POOL_FORMAT:
            raise DataError(
                f"expected a pool of format {POOL_FORMAT}, got another file {folder}/index.json; pack again"
            )
        self.folder = folder
        self.scale = int(index["scale"])
        self.sha256 = str(index["sha256"])
        self.images = tuple(PooledImage(**entry) for entry in index["images"])
        self._lr = np.memmap(folder / "lr.bin", dtype=np.uint8, mode="r")
        self._hr = np.memmap(folder / "hr.bin", dtype=np.uint8, mode="r")
        if any(self._lr.size < i.lr_offset + i.height * i.width * 3 for i in self.images) or any(
            self._hr.size < i.hr_offset + i.height * i.width * 3 * self.scale**2 for i in self.images
        ):
            raise DataError(f"expected whole pixel files in {folder}, got shorter ones; delete it and pack again")
        self._on: dict[torch.device, tuple[Tensor, ...]] = {}

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

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """All LR and all HR pixels, (pixels, 3) uint8: mapped from the files on the CPU, copied to any other device."""
        if device not in self._on:
            cpu = torch.device("cpu")
            self._on[device] = (
                (_mapped(self.folder / "lr.bin"), _mapped(self.folder / "hr.bin"))
                if device == cpu
                else tuple(pixels.to(device) for pixels in self.on(cpu))
            )
        lr, hr = self._on[device]
        return lr, hr

    @property
    def size_bytes(self) -> int:
        """What the pixels take."""
        return int(self._lr.size + self._hr.size)

    def sampler(self, patch: int, device: torch.device | None = None) -> CropSampler:
        """A sampler of ``patch`` x ``patch`` LR crops, photos weighted by their area, on the CPU if not told."""
        return CropSampler(self, patch, device or torch.device("cpu"))


class CropSampler:
    """Cuts random crops with random flips and quarter turns, where the pixels are."""

    def __init__(self, pool: CropPool, patch: int, device: torch.device) -> None:
        self.pool, self.patch, self.device = pool, patch, device
        images = [image for image in pool.train_images if min(image.height, image.width) >= patch]
        if not images:
            raise DataError(
                f"expected training images of at least {patch}x{patch} LR pixels, got none; use a smaller patch"
            )
        self._sizes = np.array([(image.height, image.width) for image in images], dtype=np.int64)
        # First pixel of each image in LR and HR.
        self._first = np.array([(image.lr_offset // 3, image.hr_offset // 3) for image in images], dtype=np.int64)
        areas = self._sizes.prod(axis=1).astype(np.float64)
        self._shares = np.cumsum(areas / areas.sum())
        self._lr, self._hr = pool.on(device)
        self._along_lr = torch.arange(patch, device=device)
        self._along_hr = torch.arange(patch * pool.scale, device=device)

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
        """Where a step's crops lie and how they are turned: (size, 2, 3) int64, on the CPU.

        For LR and HR the pixel that becomes the crop's first, and how many pixels on are the one below it and the one
        to its right: flips and turns are nothing but other ways through the photo.
        """
        rng = np.random.default_rng([seed, step])
        chosen = np.minimum(np.searchsorted(self._shares, rng.random(size), side="right"), len(self._sizes) - 1)
        height, width = self._sizes[chosen].T
        top = (rng.random(size) * (height - self.patch + 1)).astype(np.int64)
        left = (rng.random(size) * (width - self.patch + 1)).astype(np.int64)
        turns, flip = rng.integers(4, size=size), rng.integers(2, size=size)
        ways = []
        for first, s in zip(self._first[chosen].T, (1, self.pool.scale), strict=True):
            row, last = width * s, self.patch * s - 1
            # Corner, step down and step right as (row, column), after each number of quarter turns to the left.
            corner = np.array([(0, 0), (0, last), (last, last), (last, 0)])[turns]
            down = np.array([(1, 0), (0, -1), (-1, 0), (0, 1)])[turns]
            right = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])[turns]
            for pairs, offset in ((corner, last), (down, 0), (right, 0)):
                pairs[:, 1] = np.where(flip, offset - pairs[:, 1], pairs[:, 1])
            corner += np.stack([top * s, left * s], axis=1)
            ways.append([first + corner[:, 0] * row + corner[:, 1], *(p[:, 0] * row + p[:, 1] for p in (down, right))])
        return torch.from_numpy(np.array(ways).transpose(2, 0, 1).copy())

    def cut(self, places: Tensor) -> Batch:
        """The crops at :meth:`places`, which are on the sampler's device, as floats."""
        return Batch(
            lr=_gathered(self._lr, places[:, 0], self._along_lr), hr=_gathered(self._hr, places[:, 1], self._along_hr)
        )


def _gathered(pixels: Tensor, ways: Tensor, along: Tensor) -> Tensor:
    first, down, right = (way[:, None, None] for way in ways.unbind(1))
    index = first + down * along[:, None] + right * along
    return pixels[index].permute(0, 3, 1, 2).float().div_(255.0)


def _mapped(file: Path) -> Tensor:
    return torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8).view(-1, 3)
