"""TFLite flatbuffers as a :class:`~converters.graphs.graph.ComputeGraph`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from converters.graphs.graph import ComputeGraph, Node, Quantization, Value
from converters.tflite_graph import Graph, Model, Operator, constant, operator_name, read_model, type_name
from edge_sr.errors import ArtifactError, ConversionError


def read_tflite(path: Path) -> ComputeGraph:
    """The file's one graph.

    Raises:
        ArtifactError: not a TFLite file, a damaged one, or one with several graphs or sparse tensors.
        MissingToolError: ai-edge-litert, which brings the schema, is not installed.
    """
    try:
        model = read_model(path)
        if len(model.subgraphs) != 1:
            raise ArtifactError(f"expected one graph in {path}, got {len(model.subgraphs)}: not looked into")
        graph = model.subgraphs[0]
        return ComputeGraph(
            values=tuple(_value(model, graph, index) for index in range(len(graph.tensors))),
            nodes=tuple(_node(model, graph, operator) for operator in graph.operators),
            inputs=tuple(map(int, graph.inputs)),
            outputs=tuple(map(int, graph.outputs)),
        )
    except ConversionError as error:
        raise ArtifactError(str(error)) from None


def _value(model: Model, graph: Graph, index: int) -> Value:
    tensor = graph.tensors[index]
    if tensor.sparsity is not None:
        raise ArtifactError(f"expected dense tensors, got the sparse {_text(tensor.name)!r}: not looked into")
    signature = () if tensor.shapeSignature is None else tuple(map(int, tensor.shapeSignature))
    return Value(
        name=_text(tensor.name),
        dtype=type_name(tensor),
        shape=() if tensor.shape is None else tuple(map(int, tensor.shape)),
        data=constant(model, graph, index),
        quantization=_quantization(tensor.quantization),
        open_shape=signature if min(signature, default=0) < 0 else None,
    )


def _quantization(parameters: Any) -> Quantization | None:
    if parameters is None or parameters.scale is None or len(parameters.scale) == 0:
        return None
    return Quantization(
        qscale=np.asarray(parameters.scale, np.float32),
        zero_point=np.asarray(parameters.zeroPoint, np.int64),
        axis=int(parameters.quantizedDimension),
    )


def _node(model: Model, graph: Graph, operator: Operator) -> Node:
    attributes: dict[str, Any] = {"version": int(model.operatorCodes[operator.opcodeIndex].version)}
    for options in (operator.builtinOptions, getattr(operator, "builtinOptions2", None)):
        attributes |= {} if options is None else {name: _plain(value) for name, value in vars(options).items()}
    custom = operator.customOptions
    if custom is not None and len(custom):
        attributes["custom_options"] = bytes(custom).hex()
    kind = operator_name(model, operator)
    if kind == "CUSTOM":
        kind = f"CUSTOM {_text(model.operatorCodes[operator.opcodeIndex].customCode)}"
    return Node(
        kind=kind,
        inputs=tuple(None if index < 0 else int(index) for index in operator.inputs),
        outputs=tuple(map(int, operator.outputs)),
        attributes=attributes,
        name=_text(graph.tensors[operator.outputs[0]].name),
    )


def _plain(value: Any) -> Any:
    """Options as JSON; floats by their shortest spelling, bytes as text."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")
