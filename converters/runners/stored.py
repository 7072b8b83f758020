"""A tile's pixels as a model file stores them, and back: what runners do alike, in either layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from converters.artifact_meta import TensorSpec
from edge_sr.errors import RunnerError, ShapeError


def check_pixels(lr: npt.NDArray[Any], spec: TensorSpec, dtype: type[np.unsignedinteger[Any]] = np.uint8) -> None:
    """Raise ShapeError unless ``lr`` is a tile of the size that the input has, of ``dtype``."""
    wanted = spec.shape[1:]
    if lr.shape != wanted or lr.dtype != dtype:
        raise ShapeError(
            f"expected a tile of {wanted} {dtype.__name__}, got {lr.shape} {lr.dtype}; cut the picture into tiles"
        )


def to_stored(pixels: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """Levels of 0..255 (or 0..65535) as the file's input wants them: uint8, int8, uint16, or float in 0..1."""
    if spec.dtype == "uint8":
        return pixels
    if spec.dtype == "int8":
        return (pixels ^ np.uint8(0x80)).view(np.int8)  # minus 128
    if spec.dtype == "uint16":
        return pixels * np.uint16(257)  # every level of 8 bits is one of 16
    floats: npt.NDArray[np.float32] = np.multiply(pixels, np.float32(1 / np.iinfo(pixels.dtype).max), dtype=np.float32)
    return floats


def from_stored(
    stored: npt.NDArray[Any], spec: TensorSpec, file: str, dtype: type[np.unsignedinteger[Any]] = np.uint8
) -> npt.NDArray[Any]:
    """The file's output as levels of ``dtype``, rounded half up; RunnerError where ``file`` gave NaN or infinity."""
    if spec.dtype == "uint8":
        return stored
    if spec.dtype == "int8":
        return stored.view(np.uint8) ^ np.uint8(0x80)  # plus 128
    if spec.dtype == "uint16":
        return ((stored.astype(np.uint32) + 128) // 257).astype(np.uint8)
    white = np.iinfo(dtype).max
    levels = stored * np.float32(white)
    if not np.isfinite(levels).all():
        raise RunnerError(f"expected finite values from {file}, got NaN or infinity; export the artifact again")
    levels += np.float32(0.5)
    np.clip(levels, 0, white, out=levels)
    rounded: npt.NDArray[Any] = levels.astype(dtype)  # the conversion cuts off, so halves were rounded up
    return rounded
