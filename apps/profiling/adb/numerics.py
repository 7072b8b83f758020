"""Whether a device computes what this machine computes: same artifact, same tile, two outputs compared."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apps.profiling.adb.results import DeviceNumerics
from converters.artifact import Artifact, TensorSpec
from converters.runners import open_runner
from edge_sr.errors import EdgeSRError

Image = NDArray[np.uint8]

# Rounding differs between processors, and one flipped rounding spreads in a quantized network: about 47 dB were seen
# from a disturbance of 1e-6. A wrong kernel or a mixed-up layout is below 30 dB.
AGREEMENT_DB = 40.0


def sample_tile(tile: tuple[int, int]) -> Image:
    """Seeded noise, the same everywhere: (height, width, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (*tile, 3), dtype=np.uint8)


def stored_bytes(image: Image, spec: TensorSpec) -> bytes:
    """A picture as the bytes of the input tensor that ``spec`` describes."""
    black, white = spec.value_range
    if spec.dtype in ("uint8", "int8"):
        # 255 levels on both sides, so this is a shift and exact.
        values = (image.astype(np.int16) + int(black)).astype(spec.dtype)
    else:
        values = (image.astype(np.float32) * np.float32((white - black) / 255) + np.float32(black)).astype(spec.dtype)
    values = values[None] if spec.layout == "NHWC" else values.transpose(2, 0, 1)[None]
    return np.ascontiguousarray(values).tobytes()


def picture(data: bytes, spec: TensorSpec) -> Image:
    """The bytes of an output tensor as a picture, (height, width, 3) uint8.

    Raises:
        ValueError: another number of bytes, or NaN or infinity among the values; one line.
    """
    expected = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    if len(data) != expected:
        raise ValueError(f"expected {expected} bytes of output, got {len(data)}")
    values = np.frombuffer(data, dtype=spec.dtype).reshape(spec.shape)[0]
    if spec.layout == "NCHW":
        values = values.transpose(1, 2, 0)
    black, white = spec.value_range
    # In float32, as the runners here do it: halves must round to the same side.
    levels = (values.astype(np.float32) - np.float32(black)) * np.float32(255.0 / (white - black))
    if not np.isfinite(levels).all():
        raise ValueError("expected finite values in the output, got NaN or infinity")
    image: Image = np.floor(np.clip(levels, 0, 255) + np.float32(0.5)).astype(np.uint8)
    return image


def reference_output(artifact: Artifact) -> tuple[Image | None, str]:
    """This machine's output of the artifact for :func:`sample_tile`, with the runtime's name; or None and why not."""
    try:
        runner = open_runner(artifact, threads=1, isolated=True)
        try:
            return runner.run(sample_tile(artifact.meta.tile)), f"{runner.name} on this machine"
        finally:
            close = getattr(runner, "close", None)
            if close is not None:
                close()
    except EdgeSRError as error:
        return None, f"nothing to compare with on this machine: {error}"


def compare(output: Path, spec: TensorSpec, reference: tuple[Image | None, str]) -> DeviceNumerics:
    """Compare the pulled output file with the reference."""
    image, name = reference
    try:
        device = picture(output.read_bytes(), spec)
    except (OSError, ValueError) as error:
        return DeviceNumerics(reason=str(error), agrees=False if isinstance(error, ValueError) else None)
    if image is None:
        return DeviceNumerics(reason=name)
    return compare_pictures(device, image, name)


def compare_pictures(device: Image, reference: Image, name: str) -> DeviceNumerics:
    """Compare two pictures of one shape value by value; ``name`` says what the reference is."""
    difference = np.abs(device.astype(np.int16) - reference.astype(np.int16))
    square = float(np.mean(difference.astype(np.float64) ** 2))
    psnr_db = math.inf if square == 0 else 10.0 * math.log10(255.0**2 / square)
    return DeviceNumerics(
        reference=name,
        psnr_db=psnr_db,
        max_difference=int(difference.max()),
        different_percent=100.0 * float(np.mean(difference > 0)),
        agrees=psnr_db >= AGREEMENT_DB,
    )
