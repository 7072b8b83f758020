"""Colour under transparency, alpha and grey: what a network that sees RGB alone has to be told, and what it left."""

from __future__ import annotations

import numpy as np

from edge_sr.pixels import Levels
from edge_sr.resize import bicubic_resize

# LR pixels around a band of alpha that bicubic enlargement looks at (two), and one to spare.
_ALPHA_MARGIN = 3
# Rec. 601, as the Y of the metrics and of Pillow's "L".
_LUMA = np.array([299, 587, 114], dtype=np.int64)


def fill_hidden(pixels: Levels, alpha: Levels) -> Levels:
    """Give pixels of alpha 0 the colour of the nearest pixel that shows.

    What is stored there is junk that a network would spread over the edge; with no edge in the colour, alpha alone
    draws it.

    Args:
        pixels: (H, W, 3).
        alpha: (H, W); where nothing shows at all, the pixels become black.
    """
    hidden = alpha == 0
    if not hidden.any():
        return pixels
    if hidden.all():
        return np.zeros_like(pixels)
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    filled: Levels = pixels[rows, columns]
    return filled


def upscale_alpha(alpha: Levels, scale: int, top: int, bottom: int) -> Levels:
    """Enlarge rows ``top:bottom`` of (H, W) alpha by bicubic; equal to those rows of the whole enlarged.

    Returns:
        (scale * (bottom - top), scale * W) of the same type.
    """
    first, last = max(0, top - _ALPHA_MARGIN), min(len(alpha), bottom + _ALPHA_MARGIN)
    part = alpha[first:last, :, None]
    large = bicubic_resize(part, scale * part.shape[0], scale * part.shape[1])
    return large[scale * (top - first) : scale * (bottom - first), :, 0]


def to_grey(pixels: Levels) -> Levels:
    """(H, W, 3) RGB -> (H, W, 1) luma of the same type (Rec. 601, rounded half up)."""
    luma = (pixels @ _LUMA + 500) // 1000
    return np.asarray(luma[:, :, None], dtype=pixels.dtype)


def lay_on(pixels: Levels, alpha: Levels, background: tuple[int, ...]) -> Levels:
    """Blend (H, W, channels) with (H, W) alpha over one colour of 0 to 255 a channel, in the pixels' own encoding."""
    white = int(np.iinfo(pixels.dtype).max)
    cover = alpha.astype(np.float32)[:, :, None] / white
    under = np.asarray(background, dtype=np.float32) * (white // 255)
    return np.asarray(np.floor(pixels * cover + under * (1 - cover) + 0.5), dtype=pixels.dtype)


def to_eight_bits(levels: Levels) -> Levels:
    """16 bits to 8, rounded; 8 bits as they are."""
    if levels.dtype == np.uint8:
        return levels
    return np.asarray((levels.astype(np.uint32) + 128) // 257, dtype=np.uint8)
