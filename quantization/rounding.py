"""Learned rounding: each weight goes down or up, whichever keeps the layer's output, not whichever is nearer.

Source: M. Nagel, R. A. Amjad, M. van Baalen, C. Louizos, T. Blankevoort, "Up or Down? Adaptive Rounding for
Post-Training Quantization", ICML 2020 (arXiv 2004.10568). Their layer objective, the squared error of the outputs, is
a quadratic form in the roundings with the second moments of the inputs as its matrix. The paper relaxes it and trains;
layers here read a few hundred values per output, so that the form itself fits in memory and is brought down by
flipping one rounding after another: no learning rate, no random numbers, and never worse than rounding to nearest.

As in the paper, the layer's target is the float network's output and its input that of the quantized network, so that
a layer also makes up for those before it. Errors are about the means, because the bias is then corrected as in
:mod:`quantization.bias_correction`; ReLUs are left out of the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_sr.errors import ConfigError
from quantization.fake_quant import WEIGHT_MAX, QuantizedConv2d
from quantization.layerwise import Layer, Progress, bias_of_float_means, walk_convolutions
from quantization.quantizer import QuantizedNetwork

MAX_SWEEPS = 20
# Pixels that the moments are taken over: a 3x3 of 48 channels has 432 inputs, a hundred times fewer.
MAX_PIXELS = 50_000


@dataclass(frozen=True, kw_only=True)
class LayerRounding:
    """One convolution's error against its float output before ReLU, both with the best bias.

    Attributes:
        layer: its name in the traced network.
        nearest_mse, learned_mse: mean squared error per output value, rounded to nearest and as learned.
        flipped: share of the weights that left the nearer grid point, 0..1.
    """

    layer: str
    nearest_mse: float
    learned_mse: float
    flipped: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def learn_rounding(
    network: QuantizedNetwork,
    float_network: nn.Module,
    batches: Sequence[Tensor],
    *,
    max_sweeps: int = MAX_SWEEPS,
    progress: Progress | None = None,
) -> tuple[LayerRounding, ...]:
    """Chooses for every weight one of the two grid points around it, and corrects every bias.

    Args:
        network: calibrated; its weights become grid points less than a step from the float network's, its biases
            change, its grids do not, nor do weight scales (but those that a huge bias enlarges, in a layer that reads
            next to nothing).
        float_network: the deployed network that it was prepared from.
        batches: (B, 3, H, W) float in [0, 1]. A few dozen tiles.
        max_sweeps: most passes over a layer's weights; it ends earlier when a pass changes nothing.
        progress: called with (convolutions done, convolutions in all).
    Returns:
        What was gained, from input to output.
    Raises:
        ConfigError: no batch, no sweep, a network without ranges, or two different networks.
    """
    if max_sweeps < 1:
        raise ConfigError(f"expected max_sweeps of at least 1, got {max_sweeps}; raise it")
    rows: list[LayerRounding] = []
    walk_convolutions(
        network, float_network, batches, lambda layer: rows.append(_round_layer(layer, max_sweeps)), progress=progress
    )
    return tuple(rows)


def _round_layer(layer: Layer, max_sweeps: int) -> LayerRounding:
    convolution, weight = layer.convolution, layer.reference.weight.detach().double()
    scales = convolution.weight_scale().double().view(-1, 1)
    rows = weight.flatten(1) / scales
    nearest = rows.round().clamp(-WEIGHT_MAX, WEIGHT_MAX)
    # The largest weight of a channel defines its scale and stays where it is.
    pinned = rows.abs() > WEIGHT_MAX - 1e-3
    low = torch.where(pinned, nearest, rows.floor())
    high = torch.where(pinned, nearest, rows.ceil())
    learned = nearest.clone()
    before = after = 0.0
    per_group = len(rows) // convolution.groups
    for group in range(convolution.groups):
        own = slice(group * per_group, (group + 1) * per_group)
        problem = _Problem.of(layer, group, rows[own], scales[own])
        learned[own] = problem.descend(nearest[own], low[own], high[own], max_sweeps)
        before += problem.error(nearest[own])
        after += problem.error(learned[own])
    convolution.weight.copy_((learned * scales).view_as(weight))
    if convolution.bias is not None:
        convolution.bias.copy_(bias_of_float_means(layer))
    return LayerRounding(
        layer=layer.name,
        nearest_mse=before / len(rows),
        learned_mse=after / len(rows),
        flipped=float((learned != nearest).double().mean()),
    )


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """The squared error of one group's outputs, about their means, as a form in its roundings (out, n).

    The quantized convolution gives q x where the float one gives w (x + e). The difference is (q - w) x - w e, and its
    moments are taken of these small terms, because the outputs' own would drown them in float32.

    Attributes:
        rows: w (out, n) in weight steps.
        inputs: (n, n) second moments of x.
        cross: (out, n) moments between w e and x.
        constant: (out,) second moments of w e.
        scales: (out,) one weight step.
    """

    rows: Tensor
    inputs: Tensor
    cross: Tensor
    constant: Tensor
    scales: Tensor

    @staticmethod
    def of(layer: Layer, group: int, rows: Tensor, scales: Tensor) -> _Problem:
        """The problem of a group whose float weights are ``rows`` (out, n) in steps of ``scales`` (out, 1)."""
        read = _centred_columns(layer.convolution, layer.inputs, group)
        missing = rows.float() @ (_centred_columns(layer.reference, layer.float_inputs, group) - read)  # (out, pixels)
        count = read.shape[1]
        return _Problem(
            rows=rows,
            inputs=(read @ read.T).double() / count,
            cross=(missing @ read.T).double() / count,
            constant=missing.double().square().mean(1),
            scales=scales.flatten(),
        )

    def error(self, rounding: Tensor) -> float:
        """Mean squared error of the outputs, summed over the group's channels."""
        away = rounding - self.rows
        form = ((away @ self.inputs) * away - 2 * away * self.cross).sum(1) + self.constant
        return float((form * self.scales.square()).sum())

    def descend(self, start: Tensor, low: Tensor, high: Tensor, max_sweeps: int) -> Tensor:
        """Flips roundings between ``low`` and ``high`` as long as one lowers its channel's error."""
        rounding = start.clone()
        slope = (rounding - self.rows) @ self.inputs - self.cross  # half the gradient
        for _ in range(max_sweeps):
            flips = 0
            for index in range(rounding.shape[1]):  # one weight of every channel at a time: channels do not interact
                change = low[:, index] + high[:, index] - 2 * rounding[:, index]
                curvature = change * self.inputs[index, index]
                # A gain below a thousandth of what a flip alone would cost is rounding noise, and might be undone.
                better = -(2 * slope[:, index] + curvature) * change > 1e-3 * curvature * change
                change = torch.where(better, change, 0.0)
                moved = int(change.count_nonzero())
                if moved:
                    rounding[:, index] += change
                    slope += change[:, None] * self.inputs[index]
                flips += moved
            if flips == 0:
                break
        return rounding


def _centred_columns(convolution: QuantizedConv2d, inputs: Sequence[Tensor], group: int) -> Tensor:
    """(n, pixels) what one output value is summed from, at some of the pixels, less the mean of each row."""
    pixels = sum(x.shape[0] * x.shape[2] * x.shape[3] for x in inputs)
    # Odd, so that it has no factor in common with the usual widths and falls on every column of a picture.
    every = -(-pixels // MAX_PIXELS) | 1
    columns = torch.cat([_columns(convolution, x, group)[:, ::every] for x in inputs], dim=1)
    return columns - columns.mean(dim=1, keepdim=True)


def _columns(convolution: QuantizedConv2d, x: Tensor, group: int) -> Tensor:
    """(n, pixels) of one group's channels, n in the order of a flattened weight."""
    width = convolution.weight.shape[1]
    padded = F.pad(x[:, group * width : (group + 1) * width], _padding(convolution))
    unfolded = F.unfold(padded, convolution.weight.shape[2:], convolution.dilation, 0, convolution.stride)
    return unfolded.transpose(0, 1).flatten(1)


def _padding(convolution: QuantizedConv2d) -> tuple[int, int, int, int]:
    """Zeros on the left, right, top and bottom."""
    if convolution.padding == "valid":
        return 0, 0, 0, 0
    if convolution.padding == "same":
        kernel, dilation = convolution.weight.shape[2:], convolution.dilation
        rows, columns = (each * (size - 1) for each, size in zip(dilation, kernel, strict=True))
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
    rows, columns = convolution.padding
    return columns, columns, rows, rows
