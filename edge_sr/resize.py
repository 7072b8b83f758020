"""Bicubic resizing as MATLAB's ``imresize`` does it: the rule behind every published super-resolution number.

Other libraries' bicubic filters differ (another cubic, no antialiasing, other edges), which moves PSNR by whole
decibels; low-resolution images must therefore come from here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_sr.errors import ConfigError, ShapeError
from edge_sr.pixels import Image, Levels, Pixels
from edge_sr.sizes import format_size

SCALES = (2, 3, 4)

# Rows of one block of the vertical pass: its accumulator then stays in a core's cache.
_BLOCK_BYTES = 1 << 18


def bicubic_resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize with the cubic a = -0.5, antialiased when shrinking, edges mirrored.

    Columns are filtered first (vertical pass), then rows; each pass is rounded (half up) to whole levels.

    Args:
        image: (H, W, C) uint8 or uint16, H and W at least 1.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.
    Returns:
        (height, width, C) of the same type.
    Raises:
        ShapeError: the image is not (H, W, C) uint8 or uint16, or a side is smaller than 1.
    Source: MATLAB ``imresize(image, [height width], 'bicubic')`` on uint8. MATLAB starts with the axis that shrinks
        most; here the vertical pass is always first, which is the same whenever both axes have one factor.
    """
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16) or 0 in image.shape:
        raise ShapeError(f"expected a (height, width, channels) uint8 image, got {image.shape} {image.dtype}")
    if height < 1 or width < 1:
        raise ShapeError(
            f"expected a result of at least 1x1, got {format_size((height, width))}; give sides of 1 or more"
        )
    rows, _, channels = image.shape
    tall = _filter_rows(np.ascontiguousarray(image).reshape(rows, -1), height).reshape(height, -1, channels)
    turned = np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(tall.shape[1], -1)
    wide = _filter_rows(turned, width).reshape(width, height, channels)
    return cast(Pixels, np.ascontiguousarray(wide.transpose(1, 0, 2)))


def make_lr(hr: Image, scale: int) -> Image:
    """The low-resolution image of the super-resolution protocol: crop to a multiple of ``scale``, shrink by ``scale``.

    Args:
        hr: (H, W, C) uint8; the top-left ``H // scale * scale`` by ``W // scale * scale`` pixels are used.
        scale: 2, 3 or 4.
    Returns:
        (H // scale, W // scale, C) uint8.
    Raises:
        ConfigError: another scale.
        ShapeError: the image is smaller than one low-resolution pixel, or not (H, W, C) uint8.
    """
    cropped = crop_to_multiple(hr, scale)
    return bicubic_resize(cropped, cropped.shape[0] // scale, cropped.shape[1] // scale)


def shrinking_matrix(size: int, scale: int, margin: int) -> NDArray[np.float64]:
    """What :func:`make_lr` does along one axis away from edges, as a matrix, for crops with their surroundings.

    Args:
        size: low-resolution pixels.
        scale: 2, 3 or 4.
        margin: low-resolution pixels of surroundings on each side, 2 or more.
    Returns:
        (size, scale * (size + 2 * margin)).
    """
    long = size + 2 * margin
    indices, weights = _taps(scale * long, long)
    matrix = np.zeros((long, scale * long))
    np.put_along_axis(matrix, indices, weights, axis=1)
    return matrix[margin : margin + size]


def crop_to_multiple(hr: Image, scale: int) -> Image:
    """The top-left part of (H, W, C) ``hr`` whose sides are multiples of ``scale`` (a view, not a copy)."""
    if scale not in SCALES:
        raise ConfigError(f"expected a scale of 2, 3 or 4, got {scale}")
    _check_image(hr)
    height, width = hr.shape[0] // scale * scale, hr.shape[1] // scale * scale
    if height == 0 or width == 0:
        raise ShapeError(f"expected an image of at least {scale}x{scale} pixels, got {format_size(hr.shape[:2])}")
    return hr[:height, :width]


def _check_image(image: Image) -> None:
    if image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ShapeError(f"expected a (height, width, channels) uint8 image, got {image.shape} {image.dtype}")


def _filter_rows(image: Levels, size: int) -> Levels:
    """Resample axis 0 of a (rows, values) image to ``size`` rows, rounded to whole levels."""
    rows, values = image.shape
    if size == rows:
        return image.copy()
    indices, weights = _taps(rows, size)
    result = np.empty((size, values), dtype=image.dtype)
    white = np.iinfo(image.dtype).max
    block = max(1, _BLOCK_BYTES // (8 * values))
    for top in range(0, size, block):
        part = slice(top, min(top + block, size))
        total = np.full((part.stop - top, values), 0.5)
        for tap in range(indices.shape[1]):
            total += image[indices[part, tap]] * weights[part, tap, None]
        result[part] = np.clip(np.floor(total, out=total), 0, white, out=total)
    return result


@lru_cache(maxsize=256)
def _taps(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Source index and weight of every tap of every output position: two (size_out, taps) arrays."""
    factor = size_out / size_in
    shrink = min(factor, 1.0)
    support = 4.0 / shrink
    # Centre of every output pixel in input pixels (both counted from 0).
    centre = (np.arange(size_out) + 0.5) / factor - 0.5
    first = np.floor(centre - support / 2).astype(np.intp)
    indices = first[:, None] + np.arange(int(np.ceil(support)) + 2)
    weights = _cubic((centre[:, None] - indices) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    indices %= 2 * size_in
    indices = np.where(indices < size_in, indices, 2 * size_in - 1 - indices)
    used = np.any(weights != 0, axis=0)
    indices, weights = indices[:, used], weights[:, used]
    # Both arrays live in the cache and are shared by all callers.
    indices.flags.writeable = weights.flags.writeable = False
    return indices, weights


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5, zero outside [-2, 2]."""
    distance = np.abs(x)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, np.where(distance <= 2, far, 0.0))
