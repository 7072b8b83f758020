"""Samples of an opened file: 8 or 16 bits, colour and alpha apart.

Pillow keeps the upper byte of 16-bit colour. Asked for the samples in the other byte order it keeps the lower one, so a
file is decoded twice and the halves are joined (Pillow 13.0).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile

from edge_sr.errors import ImageError
from edge_sr.pixels import Levels
from edge_sr.quiet import quiet_native

_ROWS = 256
_SWAPPED = "B" if sys.byteorder == "little" else "L"
OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": f"16{_SWAPPED}"}


def split(opened: PillowImage.Image, lower: LowerBytes | None) -> tuple[Levels, Levels | None, bool]:
    """Take a loaded picture apart.

    Args:
        opened: after ``load``, of one of Pillow's modes of grey, palette or colour.
        lower: what :func:`lower_bytes` gave before it.
    Returns:
        (H, W) or (H, W, 3) colour; (H, W) alpha of the same type, or None; whether it is grey. Not turned yet.
    """
    transparent = opened.info.get("transparency")
    values: Levels
    if opened.mode.startswith("I;16"):
        values = np.asarray(opened).astype(np.uint16)
    elif lower is not None and lower.premultiplied:
        stored = lower.samples.view(np.uint16)
        return _divided(stored[..., :3], stored[..., 3]), stored[..., 3], False
    elif lower is not None and lower.grey_with_alpha:
        grey, alpha = (_joined(lower.samples[..., at], lower.samples[..., at + 1]) for at in (0, 2))
        return grey, alpha, True
    elif lower is not None:
        values = _joined(np.asarray(opened), lower.samples)
    else:
        return _split_eight_bits(opened, transparent)
    if values.ndim == 3 and values.shape[2] == 4:
        return values[..., :3], values[..., 3], False
    if transparent is None:
        return values, None, values.ndim == 2
    same = values == np.asarray(transparent, dtype=np.int64)
    hidden = same if values.ndim == 2 else same.all(axis=2)
    return values, np.where(hidden, 0, 65535).astype(np.uint16), values.ndim == 2


def _split_eight_bits(opened: PillowImage.Image, transparent: object) -> tuple[Levels, Levels | None, bool]:
    mode = opened.mode
    if mode in {"1", "L"}:
        grey = _array(opened, "L")
        if not isinstance(transparent, int):
            return grey, None, True
        key = 255 if mode == "1" and transparent else transparent
        return grey, np.where(grey == key, 0, 255).astype(np.uint8), True
    if mode in {"LA", "La"}:
        both = _array(opened, "LA")
        return both[..., 0], both[..., 1], True
    if mode in {"PA", "RGBA", "RGBa"} or (transparent is not None and mode in {"P", "RGB"}):
        # Pillow takes premultiplied colour to RGBA only by dividing, palettes by looking up.
        four = _array(opened, "RGBA")
        return four[..., :3], four[..., 3], False
    return _array(opened, "RGB"), None, False


def _array(opened: PillowImage.Image, mode: str) -> NDArray[np.uint8]:
    """A picture converted to ``mode``, some rows at a time: Pillow converts, and hands out, copies of the whole."""
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    whole = np.empty((opened.height, opened.width, *channels), np.uint8)
    for top in range(0, opened.height, _ROWS):
        bottom = min(top + _ROWS, opened.height)
        part = opened.crop((0, top, opened.width, bottom))
        if "transparency" in opened.info:
            part.info["transparency"] = opened.info["transparency"]
        whole[top:bottom] = np.asarray(part if part.mode == mode else part.convert(mode))
    return whole


@dataclass(frozen=True, kw_only=True)
class LowerBytes:
    """(H, W, channels) lower bytes of 16-bit samples.

    Of grey with alpha all four bytes, upper ones first; of colour that is multiplied with alpha the samples as a whole,
    uint16, because Pillow divides each half by itself.
    """

    samples: NDArray[Any]
    grey_with_alpha: bool = False
    premultiplied: bool = False


def lower_bytes(opened: PillowImage.Image, path: Path) -> LowerBytes | None:
    """What Pillow drops of 16-bit samples. None where they have 8 bits, or where Pillow has a mode for 16 (grey).

    Args:
        opened: before ``load``.
        path: the same file, which is read again.
    Raises:
        ImageError: planes of 16 bits that are stored apart, which Pillow misreads.
    """
    if opened.mode.startswith("I;16"):
        return None
    rawmode, order = _rawmode(opened), byte_order(opened)
    if order not in OTHER_ORDER:
        if opened.format == "TIFF" and 16 in opened.tag_v2.get(258, ()):  # type: ignore[attr-defined]
            raise ImageError(f"expected 16-bit pixels stored together, got {path} with its planes apart; convert it")
        return None
    if rawmode.startswith("CMYK"):
        return None
    frame = opened.tell()
    if rawmode.startswith("RGBa"):
        halves = [_decoded(path, frame, f"RGBA;{one}") for one in (order, OTHER_ORDER[order])]
        return LowerBytes(samples=_joined(*halves), premultiplied=True)
    if rawmode == "LA;16B":
        return LowerBytes(samples=_decoded(path, frame, "RGBA"), grey_with_alpha=True)
    return LowerBytes(samples=_decoded(path, frame, rawmode.removesuffix(order) + OTHER_ORDER[order]))


def _decoded(path: Path, frame: int, rawmode: str) -> NDArray[np.uint8]:
    """A picture of a file with its stored samples taken for ``rawmode``."""
    with path.open("rb") as stream, PillowImage.open(stream) as again:
        again.seek(frame)
        assert isinstance(again, ImageFile.ImageFile)
        again.tile = [tile._replace(args=_with_rawmode(tile.args, rawmode)) for tile in again.tile]
        with quiet_native():
            again.load()
        return np.asarray(again)


def _divided(colour: Levels, alpha: Levels) -> Levels:
    """16-bit colour that was multiplied with alpha, as it was before; nothing where alpha is 0."""
    cover = np.maximum(alpha, 1).astype(np.uint32)[..., None]
    return np.asarray(np.minimum((colour.astype(np.uint32) * 65535 + cover // 2) // cover, 65535), dtype=np.uint16)


def byte_order(opened: PillowImage.Image) -> str:
    """ "16B", "16L" or "16N" where Pillow is about to drop half of each sample; anything else where not."""
    return _rawmode(opened).rpartition(";")[2]


def _rawmode(opened: PillowImage.Image) -> str:
    if not isinstance(opened, ImageFile.ImageFile) or not opened.tile:
        return ""
    args = opened.tile[0].args
    return args if isinstance(args, str) else str(args[0]) if isinstance(args, tuple) and args else ""


def _with_rawmode(args: tuple[Any, ...] | str | None, rawmode: str) -> tuple[Any, ...] | str:
    return (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode


def _joined(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint16]:
    joined: NDArray[np.uint16] = np.left_shift(upper, 8, dtype=np.uint16) | lower
    return joined
