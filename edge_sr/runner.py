"""The one interface between everything that upscales and everything that measures."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_sr.errors import RunnerError, ShapeError
from edge_sr.pixels import Image, Levels, Pixels
from edge_sr.sizes import format_size


@runtime_checkable
class Runner(Protocol):
    """A network that upscales one image or tile, in whatever runtime it lives.

    Attributes:
        name: for reports, such as "torch" or "tflite".
        scale: upscaling factor.
        tile: (height, width) in LR pixels that :meth:`run` takes, or None where any size will do.
    """

    @property
    def name(self) -> str: ...

    @property
    def scale(self) -> int: ...

    @property
    def tile(self) -> tuple[int, int] | None: ...

    def run(self, lr: Image) -> Image:
        """Upscale (h, w, 3) uint8 RGB to (scale * h, scale * w, 3) uint8 RGB; h, w equal ``tile`` where it is set."""
        ...


@runtime_checkable
class DeepRunner(Runner, Protocol):
    """A runner that computes in float, and so has more than 8 bits to give.

    Attributes:
        deep: whether it does; a runner of artifacts knows only when it has opened one.
    """

    @property
    def deep(self) -> bool: ...

    def run_deep(self, lr: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """As :meth:`run` in 16 bits a channel; RunnerError unless ``deep``."""
        ...


def is_deep(runner: Runner) -> bool:
    """Whether ``runner`` gives 16-bit pictures for 16-bit pictures."""
    return isinstance(runner, DeepRunner) and runner.deep


class TorchRunner:
    """Runs a network in PyTorch, in eval mode, on the device of its parameters.

    Where the network needs sides that are multiples of ``tile_multiple``, images are mirrored at the bottom and right
    up to the next multiple and the result is cropped.
    """

    def __init__(self, network: nn.Module, name: str = "torch", tile: tuple[int, int] | None = None) -> None:
        """Take a network with ``scale`` and ``tile_multiple``; it is switched to eval mode.

        Args:
            network: (B, 3, H, W) float in [0, 1] -> (B, 3, scale * H, scale * W).
            name: for reports.
            tile: (height, width) in LR pixels to insist on, as an exported model would; None for any size.
        Raises:
            RunnerError: the network lacks ``scale`` or ``tile_multiple``, or the tile is not a multiple of it.
        """
        scale, multiple = getattr(network, "scale", None), getattr(network, "tile_multiple", None)
        if not isinstance(scale, int) or not isinstance(multiple, int):
            raise RunnerError(f"expected a network with scale and tile_multiple, got {type(network).__name__}")
        if tile is not None and (min(tile) < 1 or tile[0] % multiple or tile[1] % multiple):
            raise RunnerError(f"expected tile sides that are multiples of {multiple}, got {format_size(tile)}")
        self.network = network.eval()
        self.name = name
        self.scale: int = scale
        self.tile = tile
        self._multiple: int = multiple

    def run(self, lr: Image) -> Image:
        """Upscale one image or tile; see :class:`Runner`.

        Raises:
            ShapeError: not (h, w, 3) uint8, or not of the tile's size.
            RunnerError: the network's result has another shape than its scale promises, or holds NaN.
        """
        return to_uint8(self._run(lr))

    @property
    def deep(self) -> bool:
        """Always: everything in between is float."""
        return True

    def run_deep(self, lr: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """As :meth:`run`, 16 bits in and out."""
        return to_uint16(self._run(lr))

    def _run(self, lr: Levels) -> Tensor:
        check_lr(lr, self.tile)
        height, width = lr.shape[:2]
        padded = pad_to(lr, -height % self._multiple + height, -width % self._multiple + width)
        device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            output = self.network(to_float(padded).to(device))
        expected = (1, 3, self.scale * padded.shape[0], self.scale * padded.shape[1])
        if tuple(output.shape) != expected:
            raise RunnerError(f"expected a result of shape {expected}, got {tuple(output.shape)} from {self.name}")
        result: Tensor = output[:, :, : self.scale * height, : self.scale * width]
        return result


def check_lr(lr: Levels, tile: tuple[int, int] | None) -> None:
    """Raise ShapeError unless ``lr`` is (h, w, 3) uint8 or uint16 and, where ``tile`` is set, of that size."""
    if lr.ndim != 3 or lr.shape[2] != 3 or lr.dtype not in (np.uint8, np.uint16) or lr.size == 0:
        raise ShapeError(f"expected a (height, width, 3) uint8 image, got {lr.shape} {lr.dtype}")
    if tile is not None and lr.shape[:2] != tuple(tile):
        raise ShapeError(f"expected a tile of {format_size(tile)}, got {format_size(lr.shape[:2])}; use upscale_image")


def pad_to(image: Pixels, height: int, width: int) -> Pixels:
    """Mirror (h, w, C) at the bottom and right until it is at least height x width; repeats where it is tiny."""
    missing = [(0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)]
    if not any(after for _, after in missing):
        return image
    return cast(Pixels, np.pad(image, missing, mode="symmetric"))


def to_float(image: Levels) -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (1, 3, H, W) float32 in [0, 1], contiguous."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
    return torch.from_numpy(planes).to(torch.float32).div_(np.iinfo(image.dtype).max)


def to_uint8(output: Tensor | NDArray[np.floating]) -> Image:
    """A network's result as an image: clamped to [0, 1], times 255, rounded half up.

    Args:
        output: (3, H, W) or (1, 3, H, W) float, a tensor on any device or an array.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        ShapeError: another shape, or not floating point.
        RunnerError: a value is NaN.
    """
    levels = _to_levels(output, 255).to(torch.uint8)  # never negative, so the cast is a floor
    image: Image = levels.permute(1, 2, 0).contiguous().numpy()
    return image


def to_uint16(output: Tensor | NDArray[np.floating]) -> NDArray[np.uint16]:
    """As :func:`to_uint8` with 65535 for white."""
    levels = _to_levels(output, 65535).to(torch.int32)
    return levels.permute(1, 2, 0).contiguous().numpy().astype(np.uint16)


def _to_levels(output: Tensor | NDArray[np.floating], white: int) -> Tensor:
    values = output.detach() if isinstance(output, Tensor) else torch.from_numpy(np.asarray(output))
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 3 or values.shape[0] != 3 or not values.is_floating_point():
        raise ShapeError(f"expected a (3, H, W) or (1, 3, H, W) float result, got {tuple(output.shape)} {output.dtype}")
    values = values.to("cpu", torch.float32)
    if torch.isnan(values.amin()):  # a minimum is NaN where any value is, for a tenth of isnan's time
        raise RunnerError("expected finite pixel values, got NaN; the weights or the runtime are broken")
    return values.clamp(0, 1).mul_(white).add_(0.5)
