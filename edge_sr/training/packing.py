"""Packs training photos into the one file of pixels that :class:`~edge_sr.training.crop_pool.CropPool` reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from edge_sr.datasets import sample_photo_files
from edge_sr.errors import DataError, reason_of
from edge_sr.image_folders import describe_suffixes, other_files
from edge_sr.images import IMAGE_SUFFIXES, read_image
from edge_sr.resize import crop_to_multiple
from edge_sr.training.crop_pool import POOL_FORMAT, CropPool, PooledImage
from edge_sr.training.held_out import FLAT_LIMIT, check_enough, choose_held_out, flatness, photo_of
from edge_sr.training.run_folder import RunLock
from edge_sr.training.snapshots import to_stderr

# Part of a pool's key: pools that an earlier choice of held-out photos made are packed again.
_PACKING = 3
# Every photo is packed at these sizes, one over the number: smaller ones show the same things finer and sharper, which
# keeps a network from learning its photos by heart.
_REDUCTIONS = (1.0, 4 / 3, 2.0)
_MOST_NAMES = 10

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A file to pack, and its name: the path inside the data folder without suffix, ``/`` as ``_``.

    So a folder of folders and its flat copy (``folder_name``) make one and the same pool.
    """

    name: str
    file: Path


def open_pool(
    data: Path | None,
    *,
    scale: int,
    cache: Path,
    hold_out: int = 20,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] = to_stderr,
) -> CropPool:
    """Open the pool of a data folder, building it on first use and whenever a file's content has changed.

    Args:
        data: folder of images, searched recursively but for hidden ones (``.name``), or the folder of a pool that was
            packed before (it travels well to a machine that trains only); None takes scikit-image's sample photos.
        scale: upscaling factor, 2, 3 or 4.
        cache: folder for packed pools.
        hold_out: photos kept out of training, see :func:`~edge_sr.training.held_out.choose_held_out`.
        workers: threads that read, decode and reduce; None for one per core.
        progress: called with (images done, images in all).
        warn: told in one line of photos that cannot be read, and of another run that packs the same ones.
    Raises:
        DataError: missing or empty folder, only broken photos, fewer photos than are held out, or a full disk.
        CheckpointError: the cache cannot be written.
    """
    if data is not None and (data / "index.json").is_file() and (data / "hr.bin").is_file():
        pool = CropPool(data)
        if pool.scale != scale:
            raise DataError(f"expected a pool of scale {scale}, got {data} of scale {pool.scale}; pack it again")
        return pool
    workers = workers or _cores()
    photos = find_photos(data)
    check_enough([photo.name for photo in photos], hold_out)  # before minutes of decoding
    folder = cache / f"pool_x{scale}_{_key(photos, scale, hold_out, workers)[:12]}"
    if not folder.is_dir():
        build_pool(photos, folder, scale=scale, hold_out=hold_out, workers=workers, progress=progress, warn=warn)
    return CropPool(folder)


def find_photos(data: Path | None) -> list[Photo]:
    """The images of a folder and the folders in it, ordered by name; scikit-image's sample photos for None.

    Raises:
        DataError: no such folder, or no image in it.
    """
    if data is None:
        return [Photo(name=file.stem, file=file) for file in sample_photo_files()]
    if not data.is_dir():
        raise DataError(f"expected a folder of training images, got {data}; check --data")
    inside = [file.relative_to(data) for file in data.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
    shown = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    if not shown:
        seen = describe_suffixes(other_files(data, below=True)) or "none"
        raise DataError(f"expected images in {data}, got {seen}; put PNG, JPEG or WebP files there")
    photos = [Photo(name="_".join(path.with_suffix("").parts), file=data / path) for path in shown]
    return sorted(photos, key=lambda photo: (photo.name, photo.file.suffix))


def build_pool(
    photos: Sequence[Photo],
    folder: Path,
    *,
    scale: int,
    hold_out: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] = to_stderr,
) -> None:
    """Pack images into ``folder``, which appears whole or not at all; where another run does that, wait for it.

    Raises:
        DataError: only broken photos, fewer whole ones than are held out, or a full disk.
        CheckpointError: the place cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    with RunLock(folder.parent, f".{folder.name}.lock", wait=warn):
        if folder.is_dir():
            return
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed: nobody else holds the lock
            temporary.mkdir()
            packed = _pack(photos, temporary, scale, workers or _cores(), progress)
            _warn_of_broken(packed.broken, len(photos), warn)
            index = {"format": POOL_FORMAT, "scale": scale, "sha256": packed.sha256}
            images = _with_held_out(packed, hold_out, warn)
            (temporary / "index.json").write_text(json.dumps(index | {"images": [asdict(image) for image in images]}))
            os.replace(temporary, folder)
        except OSError as error:
            raise DataError(
                f"expected to pack photos into {folder}, got: {error.strerror or error}; make room there or choose "
                "another --cache"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@dataclass(kw_only=True)
class _Packed:
    """What was written: the images, each photo's largest flatness, broken files and why, SHA-256 of HR pixels."""

    images: list[PooledImage] = field(default_factory=list)
    flatness: dict[str, float] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)
    sha256: str = ""


def _pack(
    photos: Sequence[Photo], folder: Path, scale: int, workers: int, progress: Callable[[int, int], None] | None
) -> _Packed:
    packed, digest = _Packed(), hashlib.sha256()
    with (folder / "hr.bin").open("wb") as file:
        for number, (photo, decoded) in enumerate(_decoded(photos, scale, workers)):
            if isinstance(decoded, str):
                packed.broken.append((photo.name, decoded))
            else:
                sizes, flat = decoded
                for reduction, hr in sizes.items():
                    packed.images.append(
                        PooledImage(
                            name=photo.name,
                            held_out=False,
                            reduction=reduction,
                            height=hr.shape[0],
                            width=hr.shape[1],
                            offset=file.tell() // 3,
                        )
                    )
                    file.write(hr.data)
                    digest.update(hr.data)
                whole = photo_of(photo.name)
                packed.flatness[whole] = max(flat, packed.flatness.get(whole, 0.0))
            if progress is not None:
                progress(number + 1, len(photos))
    packed.sha256 = digest.hexdigest()
    return packed


def _decoded(
    photos: Sequence[Photo], scale: int, workers: int
) -> Iterator[tuple[Photo, tuple[dict[float, Image], float] | str]]:
    """Photos in their order with what :func:`_decode` makes of them; a few are decoded ahead: memory stays small.

    Threads, because Pillow and numpy let others run: two are as fast as two processes, which would inherit locks and
    GPU handles.
    """
    waiting: deque[tuple[Photo, Future[tuple[dict[float, Image], float] | str]]] = deque()
    with ThreadPoolExecutor(workers) as executor:
        for photo in photos:
            waiting.append((photo, executor.submit(_decode, photo.file, scale)))
            if len(waiting) > 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _decode(file: Path, scale: int) -> tuple[dict[float, Image], float] | str:
    """HR pixels by reduction, and flatness; of a broken file what is wrong."""
    try:
        whole = crop_to_multiple(read_image(file), scale)
        possible = [reduction for reduction in _REDUCTIONS if round(min(whole.shape[:2]) / reduction) >= scale]
        sizes = {reduction: _reduced(whole, reduction, scale) for reduction in possible}
        return sizes, flatness(sizes[1.0])
    except Exception as error:  # noqa: BLE001  (decoders raise whatever a damaged file leads them to)
        return reason_of(error)


def _reduced(image: Image, reduction: float, scale: int) -> Image:
    """The image so many times smaller, cut at the right and bottom to multiples of the scale."""
    if reduction != 1:
        size = [round(side / reduction) for side in image.shape[1::-1]]
        image = np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC))
    return np.ascontiguousarray(crop_to_multiple(image, scale))


def _warn_of_broken(broken: Sequence[tuple[str, str]], total: int, warn: Callable[[str], None]) -> None:
    if not broken:
        return
    more = f" and {len(broken) - _MOST_NAMES} more" if len(broken) > _MOST_NAMES else ""
    names = f"{', '.join(name for name, _ in broken[:_MOST_NAMES])}{more} (the first: {broken[0][1]})"
    if len(broken) == total:
        raise DataError(f"expected photos, got {total} files of which none can be read: {names}")
    warn(f"left out {len(broken)} of {total} photos, which cannot be read: {names}")


def _with_held_out(packed: _Packed, hold_out: int, warn: Callable[[str], None]) -> list[PooledImage]:
    names = [image.name for image in packed.images]
    chosen = choose_held_out(names, hold_out, packed.flatness)
    drawings = sum(packed.flatness[photo] > FLAT_LIMIT for photo in chosen)
    if drawings:
        warn(
            f"of {hold_out} held-out photos {drawings} look like drawings or screenshots, on which scores say little "
            "of photographs; add photos or hold fewer out"
        )
    return [replace(image, held_out=photo_of(image.name) in chosen) for image in packed.images]


def _key(photos: Sequence[Photo], scale: int, hold_out: int, workers: int) -> str:
    """A name for the pool of these photos: their names and contents, and how they are packed."""
    digest = hashlib.sha256(repr((POOL_FORMAT, _PACKING, _REDUCTIONS, scale, hold_out)).encode())
    with ThreadPoolExecutor(workers) as executor:
        for photo, content in zip(photos, executor.map(_content, photos), strict=True):
            digest.update(f"{photo.name}:{photo.file.suffix}:{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _content(photo: Photo) -> str:
    try:
        with photo.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"  # it is named with the broken ones when the pool is built


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
