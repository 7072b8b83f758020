"""A TFLite file as the rules see it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from apps.lint import graph as roles
from apps.lint.graph import Graph, Op, Tensor
from converters.tflite_graph import constant, operator_name, read_model, type_name

_ROLES = {
    "CONV_2D": roles.CONVOLUTION,
    "TRANSPOSE_CONV": roles.CONVOLUTION,
    "DEPTHWISE_CONV_2D": roles.DEPTHWISE,
    "FULLY_CONNECTED": roles.MATMUL,
    "BATCH_MATMUL": roles.MATMUL,
    "TRANSPOSE": roles.TRANSPOSE,
    "RESHAPE": roles.RESHAPE,
    "QUANTIZE": roles.QUANTIZE,
    "DEQUANTIZE": roles.DEQUANTIZE,
    "CAST": roles.CAST,
}
# Axes, paddings and shapes are this small; weights are not read.
_SMALL = 32


def read_tflite(path: Path) -> Graph:
    """Read the operators and tensors of a TFLite file; no interpreter is involved.

    Raises:
        MissingToolError: ai-edge-litert is not installed.
        ConversionError: not a TFLite file.
    """
    model = read_model(path)
    source = model.subgraphs[0]
    tensors = [_tensor(model, source, index) for index in range(len(source.tensors))]
    ops = tuple(_op(model, operator, tensors, index) for index, operator in enumerate(source.operators))
    return Graph(
        format="tflite",
        ops=ops,
        inputs=tuple(tensors[index] for index in source.inputs),
        outputs=tuple(tensors[index] for index in source.outputs),
    )


def _tensor(model: Any, source: Any, index: int) -> Tensor:
    raw = source.tensors[index]
    dtype = type_name(raw)
    data = model.buffers[raw.buffer].data if raw.buffer else None
    size = 0 if data is None else len(data)
    known = size > 0
    value = None
    if known and dtype in ("int32", "int64") and size <= 8 * _SMALL:
        array = constant(model, source, index)
        value = None if array is None else tuple(int(item) for item in array.ravel())
    parameters = raw.quantization
    scales = () if parameters is None or parameters.scale is None else tuple(float(item) for item in parameters.scale)
    zeros = () if parameters is None or parameters.zeroPoint is None else tuple(int(i) for i in parameters.zeroPoint)
    signature = raw.shapeSignature if raw.shapeSignature is not None else raw.shape
    return Tensor(
        # Names may repeat in a file; positions do not.
        name=f"{_text(raw.name)}#{index}",
        dtype=dtype,
        shape=tuple(int(size) for size in (signature if signature is not None else ())),
        constant=known,
        scales=scales,
        zero_points=zeros,
        value=value,
    )


def _op(model: Any, operator: Any, tensors: list[Tensor], index: int) -> Op:
    kind = operator_name(model, operator)
    inputs = tuple(tensors[i] if i >= 0 else None for i in operator.inputs)
    outputs = tuple(tensors[i] for i in operator.outputs)
    return Op(
        index=index,
        kind=kind,
        name=outputs[0].name.rpartition("#")[0],
        role=_ROLES.get(kind, roles.OTHER),
        inputs=inputs,
        outputs=outputs,
        options={} if operator.builtinOptions is None else dict(vars(operator.builtinOptions)),
        version=int(model.operatorCodes[operator.opcodeIndex].version),
        arithmetic="int8" if outputs[0].dtype in roles.INT8 else outputs[0].dtype,
        macs=_macs(kind, inputs, outputs[0]),
        taps=_taps(kind, inputs),
    )


def _taps(kind: str, inputs: tuple[Tensor | None, ...]) -> int:
    # CONV_2D weights are (out, height, width, in), depthwise ones (1, height, width, channels).
    weight = inputs[1] if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV") else None
    return 0 if weight is None or weight.rank != 4 else weight.shape[1] * weight.shape[2]


def _macs(kind: str, inputs: tuple[Tensor | None, ...], output: Tensor) -> int:
    weight = inputs[1] if len(inputs) > 1 else None
    if weight is None:
        return 0
    if kind == "CONV_2D":
        return output.elements * prod(weight.shape[1:])
    if kind == "DEPTHWISE_CONV_2D":
        return output.elements * prod(weight.shape[1:3])
    if kind == "TRANSPOSE_CONV" and inputs[2] is not None:
        return inputs[2].elements * prod(weight.shape[:3])
    if kind == "FULLY_CONNECTED":
        return output.elements * weight.shape[-1]
    if kind == "BATCH_MATMUL" and inputs[0] is not None:
        # Whichever of the two last axes of the first operand is not in the result is summed over.
        rows_and_depth = inputs[0].elements
        columns = output.shape[-1]
        return int(np.int64(rows_and_depth) * columns)
    return 0


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
