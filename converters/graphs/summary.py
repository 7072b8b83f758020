"""A model file in the words that all three formats share: operations, layers with weights, scales of activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.graphs.graph import Array, ComputeGraph, Node, Quantization, Value

# Operations that mean the same under another name; anything else keeps its own.
COMMON_NAMES: dict[str, str] = {
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "conv",
    "Conv2d": "conv",
    "DepthwiseConv2d": "conv",
    "FULLY_CONNECTED": "linear",
    "FullyConnected": "linear",
    "MUL": "mul",
    "Multiply": "mul",
    "ADD": "add",
    "Add": "add",
    "SUB": "sub",
    "Subtract": "sub",
    "LOGISTIC": "sigmoid",
    "Sigmoid": "sigmoid",
    "CONCATENATION": "concat",
    "Concatenate2": "concat",
    "Concatenate3": "concat",
    "Concatenate4": "concat",
    "Concatenate5": "concat",
    "STRIDED_SLICE": "slice",
    "SLICE": "slice",
    "StaticSlice": "slice",
    "slice_by_index": "slice",
    "slice_by_size": "slice",
    "DEPTH_TO_SPACE": "pixel_shuffle",
    "RESHAPE": "reshape",
    "StaticReshape": "reshape",
    "TRANSPOSE": "transpose",
    "StaticTranspose": "transpose",
    "QUANTIZE": "quantize",
    "DEQUANTIZE": "dequantize",
    "CAST": "cast",
    "Clamp": "clip",
    "RELU": "relu",
    "GELU": "gelu",
    "Gelu": "gelu",
    "RSQRT": "rsqrt",
    "ReciprocalSquareRoot": "rsqrt",
    "BATCH_MATMUL": "matmul",
    "BatchMatrixMultiply": "matmul",
    "SOFTMAX": "softmax",
    "Softmax": "softmax",
    "MEAN": "reduce_mean",
    "Conv": "conv",
    "Mul": "mul",
    "Concat": "concat",
    "Slice": "slice",
    "DepthToSpace": "pixel_shuffle",
    "Reshape": "reshape",
    "Transpose": "transpose",
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
    "Relu": "relu",
    "MatMul": "matmul",
    "ReduceMean": "reduce_mean",
}
# Kind of a layer -> the axes of its stored weight in the order output, input, height, width; for linear layers two.
WEIGHT_AXES: dict[str, tuple[int, ...]] = {
    "CONV_2D": (0, 3, 1, 2),
    "Conv2d": (0, 3, 1, 2),
    "conv": (0, 1, 2, 3),
    "Conv": (0, 1, 2, 3),
    "DEPTHWISE_CONV_2D": (3, 0, 1, 2),
    "DepthwiseConv2d": (3, 0, 1, 2),
    "FULLY_CONNECTED": (0, 1),
    "FullyConnected": (0, 1),
    "linear": (0, 1),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A convolution or linear layer.

    Attributes:
        label: its number among the layers and what it is, ``#3 conv 3x3 32->8``.
        name: as the file has it; "" where it has none worth reading.
        dtype: type the weight is stored in.
        weight: (out, in, height, width) or (out, in), as the network means it.
        bias: (out,), or None.
        weight_qscale: (n,) of a quantized weight.
    """

    label: str
    name: str
    dtype: str
    weight: Array = field(repr=False)
    bias: Array | None = field(repr=False)
    weight_qscale: Array | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ActivationScale:
    """Grid of one computed value; ``label`` says after which operation, ``number`` counts the grids of the file."""

    label: str
    number: int
    qscale: float
    zero_point: int


@dataclass(frozen=True, kw_only=True)
class ArtifactSummary:
    """One model file.

    Attributes:
        target: whose format it is.
        ops: kind, as the format spells it -> count.
        layers: in execution order.
        activation_scales: in execution order.
        weight_bytes: of all constants that are read, each once.
        canonical_sha256: of what it computes.
    """

    target: str
    ops: dict[str, int]
    layers: tuple[Layer, ...]
    activation_scales: tuple[ActivationScale, ...]
    weight_bytes: int
    canonical_sha256: str

    @property
    def common_ops(self) -> dict[str, int]:
        """``ops`` by the names that the formats share, sorted."""
        return common_ops(self.ops)

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "ops": self.ops,
            "layers": [
                {
                    "label": layer.label,
                    "name": layer.name,
                    "dtype": layer.dtype,
                    "shape": list(layer.weight.shape),
                    "weight_qscale": None if layer.weight_qscale is None else layer.weight_qscale.tolist(),
                }
                for layer in self.layers
            ],
            "activation_scales": [
                {"label": entry.label, "qscale": entry.qscale, "zero_point": entry.zero_point}
                for entry in self.activation_scales
            ],
            "weight_bytes": self.weight_bytes,
            "canonical_sha256": self.canonical_sha256,
        }


def summarize(graph: ComputeGraph, *, target: str, canonical_sha256: str) -> ArtifactSummary:
    """Put a graph into the words that the formats share."""
    layers: list[Layer] = []
    scales: list[ActivationScale] = []
    labels: dict[int, str] = {}
    for node in graph.nodes:
        layer = _layer(graph, node, number=len(layers) + 1)
        if layer is not None:
            layers.append(layer)
        label = layer.label if layer is not None else COMMON_NAMES.get(node.kind, node.kind)
        for index in node.outputs:
            labels[index] = label
    for index in (*graph.inputs, *(index for node in graph.nodes for index in node.outputs)):
        grid = graph.values[index].quantization
        if grid is not None and grid.qscale.size == 1:
            scales.append(_activation_scale(labels.get(index, "input"), len(scales) + 1, grid))
    return ArtifactSummary(
        target=target,
        ops=graph.operations(),
        layers=tuple(layers),
        activation_scales=tuple(scales),
        weight_bytes=sum(value.data.nbytes for value in graph.constants() if value.data is not None),
        canonical_sha256=canonical_sha256,
    )


def common_ops(ops: Mapping[str, int]) -> dict[str, int]:
    """Counts by the names that the formats share, sorted."""
    counts: Counter[str] = Counter()
    for kind, count in ops.items():
        counts[COMMON_NAMES.get(kind, kind)] += count
    return dict(sorted(counts.items()))


def _layer(graph: ComputeGraph, node: Node, *, number: int) -> Layer | None:
    axes = WEIGHT_AXES.get(node.kind)
    if axes is None:
        return None
    weight, bias = _parameters(graph, node)
    if weight is None or weight.data is None or weight.data.ndim != len(axes):
        return None  # computed weights, or one of a layout that is not known
    real = weight.real.transpose(axes)
    out, inner, *kernel = real.shape
    what = f"conv {kernel[0]}x{kernel[1]}" if kernel else "linear"
    return Layer(
        label=f"#{number} {what} {inner}->{out}",
        name=node.name,
        dtype=weight.dtype,
        weight=real,
        bias=None if bias is None or bias.data is None else bias.real.reshape(-1),
        weight_qscale=None if weight.quantization is None else weight.quantization.qscale.astype(np.float64),
    )


def _parameters(graph: ComputeGraph, node: Node) -> tuple[Value | None, Value | None]:
    """Weight and bias: the second and third input, or the parameters of those names."""
    places = (node.input_at(1, "weight"), node.input_at(2, "bias"))
    weight, bias = (None if place is None else graph.values[place] for place in places)
    return weight, bias


def _activation_scale(label: str, number: int, grid: Quantization) -> ActivationScale:
    return ActivationScale(label=label, number=number, qscale=float(grid.qscale[0]), zero_point=int(grid.zero_point[0]))
