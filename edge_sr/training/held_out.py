"""Which photos are held out: photographs from everywhere in the data, the same whoever chooses and when."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sr.errors import ConfigError, DataError

# Tiles cut from one photo end in _rROWcCOLUMN: they are kept out, or let in, together.
_TILE_SUFFIX = re.compile(r"_r\d+c\d+$")
_FLAT_STEP = 4
# Of 1,259 pictures 37 were charts, drawings or text, all above 0.42; so were 3% of the photographs' tiles, with large
# white or black parts. The median photograph has 0.06.
FLAT_LIMIT = 0.3


def choose_held_out(names: Sequence[str], count: int, flat: Mapping[str, float] | None = None) -> frozenset[str]:
    """Photos kept for validation: photographs before drawings, spread over groups of names, by lowest hash.

    The group is a name up to its first ``_``: all that a flat copy (``folder_name``) surely tells of a folder. The hash
    is of the name alone, so that adding photos changes little.

    Args:
        names: image names; tiles of one photo (``_rRcC``) count once.
        count: photos to keep out.
        flat: photo -> :func:`flatness`; a photo above ``FLAT_LIMIT`` is taken only where others do not suffice.
    Returns:
        names of photos, see :func:`photo_of`.
    Raises:
        ConfigError: a negative count.
        DataError: fewer than ``count + 1`` photos.
    """
    photos = check_enough(names, count)
    drawn = {photo for photo in photos if flat is not None and flat.get(photo, 0.0) > FLAT_LIMIT}
    groups: Counter[str] = Counter()
    turns: dict[str, int] = {}  # how many photos of its group come before a photo
    for photo in sorted(photos - drawn, key=_hash):
        group = photo.partition("_")[0]
        turns[photo] = groups[group]
        groups[group] += 1
    ordered = sorted(turns, key=lambda photo: (turns[photo], _hash(photo))) + sorted(drawn, key=_hash)
    return frozenset(ordered[:count])


def check_enough(names: Sequence[str], count: int) -> set[str]:
    """The photos that these images are of; raises as :func:`choose_held_out` does."""
    if count < 0:
        raise ConfigError(f"held-out photos must be 0 or more, got {count}")
    photos = {photo_of(name) for name in names}
    if len(photos) <= count:
        raise DataError(f"expected more than {count} photos to hold {count} out, got {len(photos)}; add photos")
    return photos


def photo_of(name: str) -> str:
    """Name of the photo that an image is, or is a tile of."""
    return _TILE_SUFFIX.sub("", name)


def flatness(image: NDArray[np.uint8]) -> float:
    """Share of places in an (H, W, 3) image whose colour is exactly that of the place four pixels to the right.

    Drawings, charts and text stand on plain colours, which compression keeps plain; photographs are noisy everywhere.
    """
    coarse = image[::_FLAT_STEP, ::_FLAT_STEP]
    if coarse.shape[1] < 2:
        return 0.0
    return float((coarse[:, 1:] == coarse[:, :-1]).all(axis=2).mean())


def _hash(photo: str) -> bytes:
    return hashlib.sha256(photo.encode(errors="surrogateescape")).digest()
