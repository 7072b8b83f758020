"""Image sets to score on: benchmark folders, plain folders of photos, or photos that are installed anyway."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sr.errors import ConfigError, DataError, MissingToolError, ShapeError
from edge_sr.images import IMAGE_SUFFIXES, read_image
from edge_sr.resize import SCALES, crop_to_multiple, make_lr

Image = NDArray[np.uint8]

SAMPLES = "samples"

# Photos inside scikit-image's wheel (0.25 and 0.26); its other pictures would be downloaded on use, so none of those.
_SAMPLE_FILES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
_SAMPLE_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """One image to score on: ``lr`` (h, w, 3) and ``hr`` (scale * h, scale * w, 3), both uint8 RGB."""

    name: str
    lr: Image
    hr: Image


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where one pair comes from.

    Attributes:
        hr: file of the HR image, of any size; its top-left multiple of the scale is used.
        lr: file of the LR image, or None to make it from ``hr``.
        largest_side: cut a larger HR image to this many pixels per side, around its centre; None for no limit.
    """

    hr: Path
    lr: Path | None = None
    largest_side: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A named list of image pairs; each pair is read when the iteration reaches it."""

    name: str
    scale: int
    sources: tuple[ImageSource, ...]

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(f"expected a scale of 2, 3 or 4, got {self.scale}")
        if not self.sources:
            raise DataError(f"expected at least one image in {self.name}, got none")

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[ImagePair]:
        for source in self.sources:
            yield self._load(source)

    def first(self, count: int) -> ImageSet:
        """The same set with at most ``count`` images; ConfigError unless ``count`` is 1 or more."""
        if count < 1:
            raise ConfigError(f"expected a count of 1 or more images, got {count}")
        return replace(self, sources=self.sources[:count])

    def _load(self, source: ImageSource) -> ImagePair:
        photo = read_image(source.hr)
        if source.largest_side is not None:
            photo = _centre_crop(photo, source.largest_side)
        try:
            hr = np.ascontiguousarray(crop_to_multiple(photo, self.scale))
        except ShapeError as error:
            raise DataError(f"expected a usable HR image, got {source.hr}: {error}") from error
        lr = make_lr(hr, self.scale) if source.lr is None else read_image(source.lr)
        if (lr.shape[0] * self.scale, lr.shape[1] * self.scale) != hr.shape[:2]:
            raise DataError(
                f"expected an LR image of {hr.shape[0] // self.scale}x{hr.shape[1] // self.scale}, "
                f"got {lr.shape[0]}x{lr.shape[1]} in {source.lr}; remove its folder to have LR images made"
            )
        return ImagePair(name=source.hr.stem, lr=lr, hr=hr)


def load_image_sets(data: Path | None, names: Sequence[str] | None, scale: int) -> list[ImageSet]:
    """Find image sets; images are read later, one by one.

    Layouts, all of which may stand side by side under ``data``:

    - ``data/Set5/HR/*`` with ``data/Set5/LRx4/*`` (same file names, or with ``x4`` behind the stem); where the LR
      folder is missing, LR images are made from HR by :func:`make_lr`. ``data`` may also be ``Set5`` itself.
    - ``data/Photos/*`` or ``data/*``: a plain folder of HR images is one set, called like the folder.

    Args:
        data: folder to look in; None for the photos inside scikit-image, as one set called "samples".
        names: sets to return, in that order; None for all, by name.
        scale: 2, 3 or 4.
    Raises:
        ConfigError: another scale.
        DataError: the folder is missing, holds no images, or lacks a set that was named.
        MissingToolError: no ``data`` given and scikit-image is not installed.
    """
    if scale not in SCALES:
        raise ConfigError(f"expected a scale of 2, 3 or 4, got {scale}")
    found = {SAMPLES: _sample_set(scale)} if data is None else _sets_under(Path(data), scale)
    if names is None:
        return list(found.values())
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        cure = "give a data folder for others" if data is None else f"look into {data}"
        raise DataError(f"expected sets among {', '.join(found)}, got {', '.join(unknown) or 'no name'}; {cure}")
    return [found[name] for name in names]


def _sets_under(data: Path, scale: int) -> dict[str, ImageSet]:
    if not data.is_dir():
        raise DataError(f"expected a folder of images, got {data}; check the path")
    itself = _set_in(data, scale)
    folders = [] if (data / "HR").is_dir() else sorted(folder for folder in data.iterdir() if folder.is_dir())
    candidates = [itself, *(_set_in(folder, scale) for folder in folders)]
    found = {candidate.name: candidate for candidate in candidates if candidate is not None}
    if not found:
        raise DataError(f"expected images, or folders such as Set5/HR, in {data}, got none; check the path")
    return found


def _set_in(folder: Path, scale: int) -> ImageSet | None:
    """The set that one folder is, or None where it holds no images."""
    hr_folder = folder / "HR"
    hr_files = _image_files(hr_folder if hr_folder.is_dir() else folder)
    if not hr_files:
        return None
    lr_folder = folder / f"LRx{scale}"
    if not hr_folder.is_dir() or not lr_folder.is_dir():
        sources = tuple(ImageSource(hr=file) for file in hr_files)
    else:
        sources = tuple(ImageSource(hr=file, lr=_lr_file(lr_folder, file, scale)) for file in hr_files)
    return ImageSet(name=folder.resolve().name, scale=scale, sources=sources)


def _lr_file(lr_folder: Path, hr_file: Path, scale: int) -> Path:
    stems = (hr_file.stem, f"{hr_file.stem}x{scale}")
    matches = [file for file in _image_files(lr_folder) if file.stem in stems]
    if len(matches) != 1:
        raise DataError(
            f"expected one LR image called {stems[0]} or {stems[1]} in {lr_folder}, got {len(matches)}; "
            f"complete the folder, or remove it to have LR images made"
        )
    return matches[0]


def _image_files(folder: Path) -> list[Path]:
    """Image files of a folder by name, hidden ones left out."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def sample_photo_files() -> tuple[Path, ...]:
    """The photos that come inside scikit-image's wheel.

    Raises:
        MissingToolError: scikit-image is not installed.
        DataError: its release lacks one of them.
    """
    # find_spec only locates the package: scikit-image's own loaders may try to download.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingToolError("sample photos expect scikit-image, got none; pip install scikit-image or give a folder")
    folder = Path(spec.origin).parent / "data"
    files = tuple(folder / name for name in _SAMPLE_FILES)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"expected sample photos in {folder}, got none called {', '.join(missing)}; give a data folder")
    return files


def _sample_set(scale: int) -> ImageSet:
    sources = tuple(ImageSource(hr=file, largest_side=_SAMPLE_SIDE) for file in sample_photo_files())
    return ImageSet(name=SAMPLES, scale=scale, sources=sources)


def _centre_crop(image: Image, side: int) -> Image:
    top, left = (max(0, size - side) // 2 for size in image.shape[:2])
    return image[top : top + side, left : left + side]
