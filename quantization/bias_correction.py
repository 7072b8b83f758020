"""Bias correction: rounding shifts the mean of a convolution's outputs, and its bias can shift it back.

Source: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019 (arXiv 1906.04721), in its empirical form: means are measured on images, layer after layer,
each with the layers before it corrected already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from quantization.layerwise import Layer, Progress, bias_of_float_means, walk_convolutions
from quantization.quantizer import QuantizedNetwork


@dataclass(frozen=True, kw_only=True)
class BiasShift:
    """What one convolution's bias was moved by.

    Attributes:
        layer: its name in the traced network.
        largest: the largest shift of a channel, in the units of the activations.
        largest_steps: the same in steps of the grid that the outputs are rounded to.
    """

    layer: str
    largest: float
    largest_steps: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def correct_biases(
    network: QuantizedNetwork,
    float_network: nn.Module,
    batches: Sequence[Tensor],
    *,
    progress: Progress | None = None,
) -> tuple[BiasShift, ...]:
    """Moves every bias so that each channel's mean before ReLU is that of the float network.

    A convolution without a bias stays as it is: what it shifts, the next one with a bias takes up.

    Args:
        network: calibrated; its biases change, its weights and grids do not.
        float_network: the deployed network that it was prepared from.
        batches: (B, 3, H, W) float in [0, 1], which the means are taken over. A few dozen tiles.
        progress: called with (convolutions done, convolutions in all).
    Returns:
        What was moved, from input to output.
    Raises:
        ConfigError: no batch, a network without ranges, or two different networks.
    """
    shifts: list[BiasShift] = []

    def visit(layer: Layer) -> None:
        bias = layer.convolution.bias
        if bias is None:
            return
        corrected = bias_of_float_means(layer)
        largest = float((corrected - bias).abs().max())
        step = float(layer.convolution.output_grid.scale)
        bias.copy_(corrected)
        shifts.append(BiasShift(layer=layer.name, largest=largest, largest_steps=largest / step))

    walk_convolutions(network, float_network, batches, visit, progress=progress)
    return tuple(shifts)
