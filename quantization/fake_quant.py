"""The quantized arithmetic, emulated in float so that it can be trained.

Activations are int8 (-128..127; int16 where the scheme says so) with one scale and zero point per tensor (a *grid*);
several tensors that are only moved, never computed, share a grid. Weights are int8 (-127..127), symmetric, one scale
per output channel. Biases are int32 in units of (input scale x weight scale), as integer convolutions add them.

In eval mode a convolution is computed on integers held in float32 (exact below 2**24, which int8 x int8 sums of these
networks do not reach; sums of int16 values are off by some parts in 2**24, far below one of their steps) and rounded
once onto its output grid, exactly as XNNPACK's int8 kernels requantize; in training mode it is a float convolution of
fake-quantized operands with straight-through gradients.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_sr.errors import ConfigError, ShapeError

WEIGHT_MAX = 127
# XNNPACK wants every requantization scale above 2**-32; this floor only meets channels whose weights are all zero.
MIN_SCALE = 2.0**-24
# int32 biases keep one spare bit, so that the accumulator they are added to cannot overflow.
_BIAS_LIMIT = 2.0**30


class Mode(Enum):
    """What the quantized modules of a network do in ``forward``."""

    FLOAT = "float"  # nothing: the network computes as it did before
    OBSERVE = "observe"  # as FLOAT, and every grid takes down the smallest and largest value it sees
    QUANTIZE = "quantize"  # fake-quantized


def round_ste(x: Tensor) -> Tensor:
    """Rounds half to even; the gradient passes as if nothing had happened."""
    return x + (x.round() - x).detach()


class Grid(nn.Module):
    """The grid of 8 or 16 bits that one or several activation tensors lie on.

    Attributes:
        minimum, maximum: the whole numbers of the grid, -128 and 127 for 8 bits.
        scale: (1,) float32 parameter; it receives a gradient when ``scale.requires_grad`` (LSQ).
        zero_point: (1,) int32 from minimum to maximum; the one that stands for 0.0.
        low, high: (1,) float32, the range observed so far; ``inf``/``-inf`` before anything was.
        fixed: the grid is given (network input and output, sigmoid), not calibrated.

    Args:
        bits: 8 or 16.
        fixed_scale: of a grid that is given; its zero point is the minimum.
        device: of its tensors; None for PyTorch's default.
    """

    scale: nn.Parameter
    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        *,
        bits: int = 8,
        fixed_scale: float | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.minimum, self.maximum = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.fixed = fixed_scale is not None
        self.mode = Mode.FLOAT
        scale = float("nan") if fixed_scale is None else fixed_scale
        self.scale = nn.Parameter(torch.tensor([scale], dtype=torch.float32, device=device), requires_grad=False)
        self.register_buffer("zero_point", torch.tensor([self.minimum], dtype=torch.int32, device=device))
        self.register_buffer("low", torch.tensor([float("inf")], device=device))
        self.register_buffer("high", torch.tensor([float("-inf")], device=device))

    def forward(self, x: Tensor) -> Tensor:
        if self.mode is Mode.OBSERVE:
            self._observe(x)
        if self.mode is not Mode.QUANTIZE:
            return x
        if self.scale.requires_grad and torch.is_grad_enabled():
            # LSQ's gradient of the scale; 1/sqrt(elements * levels) keeps its step size independent of the tensor.
            grad_factor = 1.0 / (x.numel() * self.maximum) ** 0.5
            learned: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
                x, self.scale, self.zero_point.float(), self.minimum, self.maximum, grad_factor
            )
            return learned
        return torch.fake_quantize_per_tensor_affine(
            x, self.scale.detach(), self.zero_point, self.minimum, self.maximum
        )

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.detach())
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise ConfigError("expected finite activations while calibrating, got NaN or inf; check the checkpoint")
        self.low.copy_(torch.minimum(self.low, low.float()))
        self.high.copy_(torch.maximum(self.high, high.float()))

    @property
    def observed(self) -> bool:
        """Whether a range was seen since construction or :meth:`forget_range`."""
        return bool(self.low <= self.high)

    @property
    def calibrated(self) -> bool:
        """Whether scale and zero point are set."""
        return bool(torch.isfinite(self.scale))

    def forget_range(self) -> None:
        """Drops what was observed; scale and zero point stay."""
        self.low.fill_(float("inf"))
        self.high.fill_(float("-inf"))

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Sets scale and zero point to cover [low, high] and zero. A fixed grid ignores it.

        Raises:
            ConfigError: the range is empty or not finite.
        """
        if self.fixed:
            return
        if not (low <= high and abs(low) != float("inf") and abs(high) != float("inf")):
            raise ConfigError(f"expected a finite range low <= high, got [{low}, {high}]; calibrate on real images")
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / (self.maximum - self.minimum), MIN_SCALE)
        zero_point = round(self.minimum - low / scale)
        self.scale.fill_(scale)
        self.zero_point.fill_(min(max(zero_point, self.minimum), self.maximum))

    def qparams(self) -> tuple[float, int]:
        """Scale and zero point as Python numbers, as exported graphs hold them."""
        if not self.calibrated:
            raise ConfigError("expected a calibrated grid, got one without a scale; calibrate the network first")
        return float(self.scale), int(self.zero_point)

    def round_integers(self, accumulated: Tensor, scales: Tensor) -> Tensor:
        """Rounds ``accumulated * scales`` onto the grid with one float32 multiplication, as XNNPACK requantizes.

        Args:
            accumulated: integers held in float32.
            scales: size of one unit of them, broadcastable; multiplied by 1/scale before use.
        Returns:
            float32 values on the grid (zero point and clamp included).
        """
        zero_point = self.zero_point.float()
        steps = torch.round(accumulated * (scales / self.scale))
        low, high = self.minimum - zero_point, self.maximum - zero_point
        return torch.minimum(torch.maximum(steps, low), high) * self.scale


class QuantizedConv2d(nn.Module):
    """A Conv2d whose weight and bias are quantized, between an input that lies on a grid and an output grid.

    Attributes:
        weight: (out, in / groups, kh, kw) float32, trained in float.
        bias: (out,) float32 or None.
        input_grid: grid of the input. Not a submodule: several modules share it.
        output_grid: grid that follows directly or after a ReLU.
        training_dtype: type in which training mode convolves (bfloat16 holds every int8 value exactly, and only sums
            are rounded); None for float32. Eval mode ignores it.
    """

    def __init__(self, conv: nn.Conv2d, input_grid: Grid, output_grid: Grid) -> None:
        super().__init__()
        if conv.padding_mode != "zeros":
            raise ConfigError(
                f"expected zero padding in every quantized convolution, got {conv.padding_mode!r}; "
                "int8 kernels only pad with zeros"
            )
        self.weight = conv.weight
        self.bias = conv.bias
        self.stride: Any = conv.stride  # pairs or, for padding, a word, as nn.Conv2d keeps them
        self.padding: Any = conv.padding
        self.dilation: Any = conv.dilation
        self.groups = conv.groups
        self.mode = Mode.FLOAT
        self.training_dtype: torch.dtype | None = None
        self._grids = (input_grid, output_grid)  # in a tuple, so that they do not become submodules

    @property
    def input_grid(self) -> Grid:
        return self._grids[0]

    @property
    def output_grid(self) -> Grid:
        return self._grids[1]

    def forward(self, x: Tensor) -> Tensor:
        if self.mode is not Mode.QUANTIZE:
            return self._conv(x, self.weight, self.bias)
        weight_scale = self.weight_scale()
        bias_scale = weight_scale * self.input_grid.scale.detach()
        column = weight_scale.view(-1, 1, 1, 1)
        if self.training and self.training_dtype is not None:
            return self._forward_reduced(x, weight_scale, self.training_dtype)
        if self.training:
            bias = None if self.bias is None else round_ste(self.bias / bias_scale) * bias_scale
            return self._conv(x, round_ste(self.weight / column) * column, bias)
        integers = torch.round(x / self.input_grid.scale)  # q - zero_point, so zero padding stays zero
        bias = None if self.bias is None else torch.round(self.bias / bias_scale)
        accumulated = self._conv(integers, torch.round(self.weight / column), bias)
        return self.output_grid.round_integers(accumulated, bias_scale.view(1, -1, 1, 1))

    def _forward_reduced(self, x: Tensor, weight_scale: Tensor, dtype: torch.dtype) -> Tensor:
        input_scale = self.input_grid.scale.detach()
        integers = (x / input_scale).to(dtype)
        weight = round_ste(self.weight / weight_scale.view(-1, 1, 1, 1)).to(dtype)
        bias_scale = weight_scale * input_scale
        y = self._conv(integers, weight, None).float() * bias_scale.view(1, -1, 1, 1)
        if self.bias is None:
            return y
        return y + (round_ste(self.bias / bias_scale) * bias_scale).view(1, -1, 1, 1)

    def weight_scale(self) -> Tensor:
        """(out,) float32: the largest weight of each output channel over 127, no gradient."""
        weight = self.weight.detach()
        scale = weight.abs().amax(dim=(1, 2, 3)) / WEIGHT_MAX
        floor = torch.full_like(scale, MIN_SCALE)
        if self.bias is not None:
            floor = torch.maximum(floor, self.bias.detach().abs() / (self.input_grid.scale.detach() * _BIAS_LIMIT))
        return torch.maximum(scale, floor)

    @torch.no_grad()
    def integer_parameters(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(int8 weight, (out,) float32 weight scales, (out,) float32 bias rounded to its int32 grid or None)."""
        scale = self.weight_scale()
        weight = torch.round(self.weight / scale.view(-1, 1, 1, 1)).to(torch.int8)
        if self.bias is None:
            return weight, scale, None
        bias_scale = scale * self.input_grid.scale
        return weight, scale, torch.round(self.bias / bias_scale) * bias_scale

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.dim() != 4:
            raise ShapeError(f"expected (batch, channels, height, width), got shape {tuple(x.shape)}; add a batch axis")
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
