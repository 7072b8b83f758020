"""TFLite files written operator by operator, for tests that ask the real interpreter about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.tflite_graph import schema, write_model


class TinyModel:
    """A flatbuffer under construction: add tensors and operators, then write it."""

    def __init__(self) -> None:
        tools = schema()
        self.model = tools.ModelT()
        self.model.version = 3
        self.model.description = "tiny"
        self.model.operatorCodes, self.model.metadata = [], []
        empty = tools.BufferT()
        self.model.buffers = [empty]
        self.graph = tools.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.name = "main"
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        data: Any = None,
        scale: float | Sequence[float] | None = None,
        zero_point: int = 0,
        axis: int = 0,
        name: str = "",
    ) -> int:
        """Add a tensor and return its index; int8 and uint8 get a scale of 1/64 unless told, int32 none."""
        tools = schema()
        tensor = tools.TensorT()
        tensor.name = (name or f"tensor_{len(self.graph.tensors)}").encode()
        tensor.shape = list(shape)
        tensor.type = getattr(tools.TensorType, dtype.upper())
        tensor.buffer = 0
        if dtype in ("int8", "uint8", "int16") and scale is None:
            scale = 1 / 64
        if scale is not None:
            scales = [scale] if isinstance(scale, float) else list(scale)
            tensor.quantization = tools.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            buffer = tools.BufferT()
            buffer.data = (
                np.ascontiguousarray(np.asarray(data, np.dtype(dtype)).reshape(tuple(shape))).view(np.uint8).ravel()
            )
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        *,
        version: int = 1,
        **values: Any,
    ) -> None:
        """Add an operator; ``options`` names its option table (``Conv2D``), ``values`` are fields of it."""
        tools = schema()
        number = getattr(tools.BuiltinOperator, name)
        code = tools.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        self.model.operatorCodes.append(code)
        operator = tools.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptionsType = getattr(tools.BuiltinOptions, f"{options}Options")
            operator.builtinOptions = getattr(tools, f"{options}OptionsT")()
            for field, value in values.items():
                assert hasattr(operator.builtinOptions, field), field
                setattr(operator.builtinOptions, field, value)
        self.graph.operators.append(operator)

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        """Write the file and return its path."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        write_model(self.model, path)
        return path
