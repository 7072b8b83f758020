"""Image sets to score on: benchmark folders, plain folders of photos, or photos that are installed anyway."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sr.choices import did_you_mean
from edge_sr.dataset_layouts import SetFolder, canonical_name, find_set_folders, read_set_folder
from edge_sr.errors import ConfigError, DataError, MissingToolError, ShapeError
from edge_sr.image_folders import describe_suffixes, other_files
from edge_sr.images import read_image
from edge_sr.resize import SCALES, crop_to_multiple, make_lr
from edge_sr.sizes import format_size

Image = NDArray[np.uint8]

SAMPLES = "samples"
LR_FROM_FILE, LR_MADE_HERE = "file", "made here"

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
        name: of the image; None for the HR file's stem.
    """

    hr: Path
    lr: Path | None = None
    largest_side: int | None = None
    name: str | None = None

    @property
    def title(self) -> str:
        """The image's name."""
        return self.name or self.hr.stem


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A named list of image pairs; each pair is read when the iteration reaches it.

    Attributes:
        name, scale, sources: what it is.
        layout: which layout of files it was found in, such as "HR + LRx4".
        notices: lines that a reader of its scores should see.
        left_out: names of images that were found and cannot be scored; see :func:`edge_sr.scorable.scorable`.
    """

    name: str
    scale: int
    sources: tuple[ImageSource, ...]
    layout: str = ""
    notices: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(f"expected a scale of 2, 3 or 4, got {self.scale}")
        if not self.sources:
            raise DataError(f"expected at least one image in {self.name}, got none")

    @property
    def lr_origin(self) -> str:
        """``LR_FROM_FILE`` where LR images come from files, ``LR_MADE_HERE`` where they are made from HR."""
        return LR_FROM_FILE if any(source.lr is not None for source in self.sources) else LR_MADE_HERE

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[ImagePair]:
        for source in self.sources:
            yield self.pair(source, self.read_photo(source))

    def first(self, count: int) -> ImageSet:
        """The same set with at most ``count`` images; ConfigError unless ``count`` is 1 or more."""
        if count < 1:
            raise ConfigError(f"expected a count of 1 or more images, got {count}")
        return replace(self, sources=self.sources[:count])

    def read_photo(self, source: ImageSource) -> Image:
        """The HR file of one image as it is, (H, W, 3) uint8, within the source's ``largest_side``.

        Raises:
            ImageError: it cannot be read.
        """
        photo = read_image(source.hr)
        return photo if source.largest_side is None else _centre_crop(photo, source.largest_side)

    def pair(self, source: ImageSource, photo: Image) -> ImagePair:
        """The LR and HR image of one source, whose photo :meth:`read_photo` has read.

        Raises:
            DataError: the photo is smaller than one LR pixel, or the LR file belongs to another size.
            ImageError: the LR file cannot be read.
        """
        try:
            hr = np.ascontiguousarray(crop_to_multiple(photo, self.scale))
        except ShapeError as error:
            raise DataError(f"expected a usable HR image, got {source.hr}: {error}") from error
        lr = make_lr(hr, self.scale) if source.lr is None else read_image(source.lr)
        if (lr.shape[0] * self.scale, lr.shape[1] * self.scale) != hr.shape[:2]:
            raise DataError(
                f"expected an LR image of {format_size((hr.shape[0] // self.scale, hr.shape[1] // self.scale))}, "
                f"got {format_size(lr.shape[:2])} in {source.lr}: another "
                f"image's or another scale's; remove its folder to have LR images made"
            )
        return ImagePair(name=source.title, lr=lr, hr=hr)


def load_image_sets(data: Path | None, names: Sequence[str] | None, scale: int) -> list[ImageSet]:
    """Find image sets; images are read later, one by one.

    Layouts, all of which may stand side by side under ``data``, or one folder further down (``data/benchmark/Set5``):

    - ``Set5/HR/*`` with ``Set5/LRx4/*`` or ``Set5/LR_bicubic/X4/*`` (same file names, or with ``x4`` behind the stem).
    - ``Set5/GTmod12/*`` with ``Set5/LRbicx4/*``; ``Set5/GTmod4/*``; ``Set5/original/*``.
    - ``Set5/image_SRF_4/img_001_SRF_4_HR.png`` with ``..._LR.png``; other methods' results beside them are ignored.
    - ``Set5_HR/*`` with ``Set5_LR_bicubic/X4/*`` beside it.
    - ``Photos/*`` or ``data/*``: a plain folder of HR images is one set, called like the folder. Where nothing else is
      found, the images of all folders below ``data`` are one set; the set's ``notices`` say what was not read.

    ``data`` may also be the folder of one set. Names and folders match in any case of letters; ``B100`` and ``BSDS100``
    are ``BSD100``. Where there are no LR images, they are made from HR by :func:`make_lr`.

    Args:
        data: folder to look in; None for the photos inside scikit-image, as one set called "samples".
        names: sets to return, in that order; None for all, by name.
        scale: 2, 3 or 4.
    Raises:
        ConfigError: another scale.
        DataError: the folder is missing, holds no images, lacks a set that was named, or has two folders for one set.
        MissingToolError: no ``data`` given and scikit-image is not installed.
    """
    if scale not in SCALES:
        raise ConfigError(f"expected a scale of 2, 3 or 4, got {scale}")
    if data is None:
        if names is not None:
            _check_known(names, [SAMPLES], "give a data folder for others")
        return [_sample_set(scale) for _ in names or (SAMPLES,)]
    folders = _folders_under(Path(data))
    found = dict.fromkeys(entry.name for entry in folders)
    if names is None:
        return [_set_in(_choose(folders, name), scale) for name in found]
    spelled = {name: _spelling(name, folders) for name in names}
    _check_known(names, list(found), f"look into {data}", known=[name for name in names if spelled[name] is not None])
    return [_set_in(_choose(folders, name), scale) for name in names]


def _check_known(names: Sequence[str], found: Sequence[str], cure: str, *, known: Sequence[str] | None = None) -> None:
    unknown = [name for name in names if name not in (found if known is None else known)]
    if unknown or not names:
        meant = did_you_mean(unknown[0], found) if unknown else ""
        raise DataError(f"expected sets among {', '.join(found)}, got {', '.join(unknown) or 'no name'}; {cure}{meant}")


def _folders_under(data: Path) -> list[SetFolder]:
    if not data.is_dir():
        raise DataError(f"expected a folder of images, got {data}; check the path")
    folders = find_set_folders(data)
    if not folders:
        seen = describe_suffixes(other_files(data, below=True))
        raise DataError(
            f"expected images, or folders such as Set5/HR, in {data}, got {seen or 'none'}; "
            + ("convert them to PNG, or check the path" if seen else "check the path")
        )
    return folders


def _spelling(name: str, folders: Sequence[SetFolder]) -> str | None:
    """The name of the set that ``name`` means, or None: as it is, as a benchmark's alias, or in other letters."""
    found = [entry.name for entry in folders]
    for spelling in (name, canonical_name(name)):
        if spelling in found or any(spelling == entry.path.name for entry in folders):
            return spelling
    alike = sorted({entry for entry in found if entry.casefold() == name.casefold()})
    return alike[0] if len(alike) == 1 else None


def _choose(folders: Sequence[SetFolder], name: str) -> SetFolder:
    """The folder that ``name`` means: one of exactly that name, else the one nearest to the data folder."""
    spelled = _spelling(name, folders)
    exact = [entry for entry in folders if entry.path.name == spelled]
    matching = exact or [entry for entry in folders if entry.name == spelled]
    nearest = [entry for entry in matching if entry.depth == min(entry.depth for entry in matching)]
    if len(nearest) != 1:
        raise DataError(
            f"expected one folder for {spelled}, got {' and '.join(str(entry.path) for entry in nearest)}; "
            f"move or remove one"
        )
    return nearest[0]


def _set_in(folder: SetFolder, scale: int) -> ImageSet:
    files = read_set_folder(folder, scale)
    sources = tuple(ImageSource(hr=pair.hr, lr=pair.lr, name=pair.name) for pair in files.pairs)
    return ImageSet(name=folder.name, scale=scale, sources=sources, layout=files.layout, notices=files.notices)


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
