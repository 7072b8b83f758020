"""Packs training photos into the one file of pixels that :class:`~edge_sr.training.crop_pool.CropPool` reads."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.datasets import sample_photo_files
from edge_sr.errors import ConfigError, DataError
from edge_sr.images import read_image
from edge_sr.resize import make_lr
from edge_sr.training.crop_pool import POOL_FORMAT, CropPool, PooledImage

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
# Tiles cut from one photo end in _rROWcCOLUMN: they are kept out, or let in, together.
_TILE_SUFFIX = re.compile(r"_r\d+c\d+$")


def open_pool(
    data: Path | None,
    *,
    scale: int,
    cache: Path,
    hold_out: int = 20,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> CropPool:
    """Open the pool of a data folder, building it on first use.

    Args:
        data: folder of images, searched recursively, or the folder of a pool that was packed before (it travels well to
            a machine that trains only); None takes scikit-image's sample photos.
        scale: upscaling factor, 2, 3 or 4.
        cache: folder for packed pools.
        hold_out: photos kept out of training.
        workers: processes that decode and shrink.
        progress: called with (images done, images in all).
    Raises:
        DataError: missing or empty folder, or fewer photos than are held out.
    """
    if data is not None and (data / "index.json").is_file():
        pool = CropPool(data)
        if pool.scale != scale:
            raise DataError(f"expected a pool of scale {scale}, got {data} of scale {pool.scale}; pack it again")
        return pool
    files = _image_files(data)
    digest = hashlib.sha256(repr((POOL_FORMAT, scale, hold_out)).encode())
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
    folder = cache / f"pool_x{scale}_{digest.hexdigest()[:12]}"
    if not folder.is_dir():
        build_pool(files, folder, scale=scale, hold_out=hold_out, workers=workers, progress=progress)
    return CropPool(folder)


def build_pool(
    files: Sequence[Path],
    folder: Path,
    *,
    scale: int,
    hold_out: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Pack images into ``folder``, which appears whole or not at all."""
    held_out = choose_held_out([file.stem for file in files], hold_out)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    lr_offset = hr_offset = 0
    try:
        with (
            (temporary / "lr.bin").open("wb") as lr_file,
            (temporary / "hr.bin").open("wb") as hr_file,
            ProcessPoolExecutor(workers) as executor,
        ):
            decoded = executor.map(_decode, files, [scale] * len(files), chunksize=4)
            for number, (file, (lr, hr)) in enumerate(zip(files, decoded, strict=True)):
                entries.append(
                    asdict(
                        PooledImage(
                            name=file.stem,
                            held_out=_photo(file.stem) in held_out,
                            height=lr.shape[0],
                            width=lr.shape[1],
                            lr_offset=lr_offset,
                            hr_offset=hr_offset,
                        )
                    )
                )
                lr_offset += lr_file.write(lr.tobytes())
                pixels = hr.tobytes()
                hr_offset += hr_file.write(pixels)
                digest.update(pixels)
                if progress is not None:
                    progress(number + 1, len(files))
        index = {"format": POOL_FORMAT, "scale": scale, "sha256": digest.hexdigest(), "images": entries}
        (temporary / "index.json").write_text(json.dumps(index))
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def choose_held_out(names: Sequence[str], count: int) -> frozenset[str]:
    """Photos kept for validation: those whose names hash lowest, so that adding photos changes little.

    Args:
        names: image names; tiles of one photo (``_rRcC``) count once.
        count: photos to keep out.
    Raises:
        ConfigError: a negative count.
        DataError: fewer than ``count + 1`` photos.
    """
    if count < 0:
        raise ConfigError(f"held-out photos must be 0 or more, got {count}")
    photos = {_photo(name) for name in names}
    if len(photos) <= count:
        raise DataError(f"expected more than {count} photos to hold {count} out, got {len(photos)}; add photos")
    return frozenset(sorted(photos, key=lambda photo: hashlib.sha256(photo.encode()).digest())[:count])


def _photo(name: str) -> str:
    return _TILE_SUFFIX.sub("", name)


def _decode(file: Path, scale: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    hr = read_image(file)
    hr = np.ascontiguousarray(hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale])
    return make_lr(hr, scale), hr


def _image_files(data: Path | None) -> list[Path]:
    if data is None:
        return list(sample_photo_files())
    if not data.is_dir():
        raise DataError(f"expected a folder of training images, got {data}; check --data")
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"expected images in {data}, got none; put PNG, JPEG or WebP files there")
    return files
