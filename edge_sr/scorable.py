"""Which images of a set can be scored: all files are read once, before the first is upscaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_sr.datasets import ImagePair, ImageSet, ImageSource, load_image_sets
from edge_sr.errors import DataError, ImageError, MissingToolError, reason_of
from edge_sr.metrics import least_side


def load_scorable_sets(data: Path | None, names: Sequence[str] | None, scale: int) -> list[ImageSet]:
    """:func:`edge_sr.datasets.load_image_sets`, each set without the images that cannot be scored.

    Raises:
        DataError: as there, and as :func:`scorable`.
    """
    return [scorable(found) for found in load_image_sets(data, names, scale)]


def scorable(image_set: ImageSet, *, with_ssim: bool = True) -> ImageSet:
    """The set without images that are too small for the border and the SSIM window; ``left_out`` names those.

    Args:
        image_set: every file of it is read.
        with_ssim: whether SSIM will be asked for, which needs the larger image.
    Raises:
        DataError: files that cannot be read, all of them named, or no image is large enough.
    """
    least = least_side(image_set.scale, with_ssim=with_ssim)
    kept: list[ImageSource] = []
    small: list[str] = []
    broken: list[str] = []
    for source in image_set.sources:
        path = source.hr
        try:
            photo = image_set.read_photo(source)
            if min(photo.shape[:2]) // image_set.scale * image_set.scale < least:
                small.append(source.title)
                continue
            if source.lr is not None:
                path = source.lr
                image_set.pair(source, photo)
            kept.append(source)
        except ImageError as error:
            broken.append(f"{path} ({reason_of(error.__cause__ or error)})")
        except (DataError, MissingToolError) as error:
            broken.append(f"{path} ({error})")
    if broken:
        raise DataError(
            f"expected readable images in {image_set.name}, got {len(broken)} that cannot be used: "
            f"{', '.join(broken)}; fetch them again or move them away"
        )
    if not kept:
        raise DataError(too_small(small, image_set.name, least))
    notices = (f"left out: {too_small(small, image_set.name, least)}",) if small else ()
    return replace(image_set, sources=tuple(kept), left_out=tuple(small), notices=(*image_set.notices, *notices))


def check_size(pair: ImagePair, set_name: str, scale: int, *, with_ssim: bool) -> None:
    """Raise DataError, with the image's name, where :func:`scorable` would leave the image out."""
    least = least_side(scale, with_ssim=with_ssim)
    if min(pair.hr.shape[:2]) < least:
        raise DataError(too_small([pair.name], set_name, least))


def too_small(names: Sequence[str], set_name: str, least: int) -> str:
    """One line about images that cannot be scored."""
    return (
        f"expected images of at least {least} pixels along each side in {set_name}, got smaller ones: "
        f"{', '.join(names)}; use larger ones"
    )
