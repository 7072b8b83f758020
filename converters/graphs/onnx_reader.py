"""ONNX files as a :class:`~converters.graphs.graph.ComputeGraph`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.graphs.graph import ComputeGraph, Node, Quantization, Value
from edge_sr.errors import ArtifactError, MissingToolError


def read_onnx(path: Path) -> ComputeGraph:
    """The file's graph. A constant behind its dequantize is one value with a grid, as in the other formats.

    Raises:
        ArtifactError: not an ONNX file, a damaged one, or one with graphs inside graphs or data in other files.
        MissingToolError: onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingToolError(f"reading ONNX files needs the package onnx, got {error}; pip install onnx") from None
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())[:200]
        raise ArtifactError(f"expected an ONNX file at {path}, got a damaged one ({line})") from None
    return _Reader(graph).read()


class _Reader:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.values: list[Value] = []
        self.index: dict[str, int] = {}

    def read(self) -> ComputeGraph:
        from onnx import numpy_helper

        for entry in self.graph.initializer:
            if entry.external_data:
                raise ArtifactError(f"expected data inside the file, got {entry.name!r} outside: not looked into")
            data = np.asarray(numpy_helper.to_array(entry))
            self._add(Value(name=entry.name, dtype=data.dtype.name, shape=tuple(data.shape), data=data))
        for entry in (*self.graph.input, *self.graph.value_info, *self.graph.output):
            if entry.name not in self.index:
                self._add(self._described(entry))
        nodes = [self._node(node) for node in self.graph.node if not self._is_stored_constant(node)]
        return ComputeGraph(
            values=tuple(self.values),
            nodes=tuple(nodes),
            inputs=tuple(self.index[entry.name] for entry in self.graph.input),
            outputs=tuple(self.index[entry.name] for entry in self.graph.output),
        )

    def _described(self, entry: Any) -> Value:
        from onnx import helper

        tensor = entry.type.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
        return Value(name=entry.name, dtype=dtype, shape=tuple(size.dim_value for size in tensor.shape.dim))

    def _node(self, node: Any) -> Node:
        from onnx import AttributeProto, helper

        if any(entry.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for entry in node.attribute):
            raise ArtifactError(f"expected no graph inside {node.name!r}, got one: not looked into")
        return Node(
            kind=f"{node.domain} {node.op_type}".strip(),
            inputs=tuple(self.index[name] if name else None for name in node.input),
            outputs=tuple(self._output(name) for name in node.output),
            attributes={entry.name: _plain(helper.get_attribute_value(entry)) for entry in node.attribute},
            name=node.name,
        )

    def _is_stored_constant(self, node: Any) -> bool:
        """Whether a node only dequantizes a constant, which then takes its grid along."""
        places = [self.index.get(name) for name in node.input]
        if node.op_type != "DequantizeLinear" or len(places) != 3 or None in places:
            return False
        stored, qscale, zero_point = (self.values[place] for place in places if place is not None)
        if stored.data is None or qscale.data is None or zero_point.data is None:
            return False
        axis = next((int(entry.i) for entry in node.attribute if entry.name == "axis"), 1)
        grid = Quantization(
            qscale=qscale.data.reshape(-1),
            zero_point=zero_point.data.reshape(-1),
            axis=axis if qscale.data.size > 1 else 0,
        )
        self.index[node.output[0]] = len(self.values)
        self.values.append(replace(stored, quantization=grid))
        return True

    def _output(self, name: str) -> int:
        if name not in self.index:
            self._add(Value(name=name, dtype="", shape=()))
        return self.index[name]

    def _add(self, value: Value) -> None:
        self.index[value.name] = len(self.values)
        self.values.append(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
