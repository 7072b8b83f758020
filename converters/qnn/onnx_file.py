"""The QDQ graph as an ONNX file in the form that Hexagon's compiler takes whole.

PyTorch's exporter keeps every quantize and dequantize of the graph. What it leaves to do: biases become int32 on the
grid that integer convolutions add them on, pictures go in and out as the stored whole numbers instead of floats (with
a float output the NPU rounds a quarter of the levels one up), and 16-bit values become unsigned, as Hexagon has them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from converters.lowering import LoweringJob
from converters.pictures import Pictures
from converters.qnn.toolchain import missing
from edge_sr.errors import ConversionError, EdgeSRError
from edge_sr.quiet import quiet_native

OPSET = 21  # the first with quantized types of 16 bits
INPUT, OUTPUT = "input", "output"


def write_onnx(network: nn.Module, job: LoweringJob, path: Path) -> None:
    """Write a network as ONNX with NHWC pictures named "input" and "output".

    Args:
        network: a float network, or what :func:`quantization.qdq.to_qdq` gave with ``weights="int8"``.
        job: its tile, and names for errors.
        path: the file.
    Raises:
        MissingToolError: onnx or onnxscript is not installed.
        ConversionError: the exporter refused the network, or gave a graph that ONNX does not check.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (PyTorch's exporter imports it)
    except ImportError as error:
        raise missing(str(error.name)) from None
    height, width = job.tile
    example = (torch.zeros(1, height, width, 3),)
    try:
        with _quiet_exporter(), torch.no_grad():
            program: Any = torch.onnx.export(
                Pictures(network).eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        model = program.model_proto
        graph = _Graph(model.graph)
        if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            graph.store_biases_as_int32()
            graph.take_stored_pictures()
            graph.make_16_bits_unsigned()
        del model.graph.value_info[:]  # the types of values in between, which have changed
        graph.drop_unused()
        graph.drop_traces()
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(model), full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
    except EdgeSRError:
        raise
    # The exporter raises whatever it pleases.
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConversionError(f"expected ONNX to take {job.model} in {job.scheme}, got {line}") from error


class _Graph:
    """Edits of an ONNX graph (``onnx.GraphProto``) in place."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.constants = {entry.name: entry for entry in proto.initializer}
        self.makers = {output: node for node in proto.node for output in node.output}

    def store_biases_as_int32(self) -> None:
        """Replace each float bias by int32 values and a dequantize of input scale x weight scale."""
        from onnx import helper

        nodes = []
        for node in self.proto.node:
            if node.op_type == "Conv" and len(node.input) > 2 and self._is_dequantized(node.input[1]):
                picture, weight = (self.makers[name] for name in node.input[:2])
                scale = (self._array(picture.input[1]) * self._array(weight.input[1])).astype(np.float32)
                bias = self._array(node.input[2]).astype(np.float64)
                name = node.input[2]
                stored = (
                    self._store(f"{name}_int32", np.rint(bias / scale.astype(np.float64)).astype(np.int32)),
                    self._store(f"{name}_scale", scale),
                    self._store(f"{name}_zero_point", np.zeros(bias.shape, np.int32)),
                )
                nodes.append(
                    helper.make_node("DequantizeLinear", stored, [f"{name}_real"], name=f"dequantize_{name}", axis=0)
                )
                node.input[2] = f"{name}_real"
            nodes.append(node)
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self.proto.node[:]
        self.proto.node.extend(kept)
        self.makers = {output: node for node in self.proto.node for output in node.output}

    def take_stored_pictures(self) -> None:
        """Drop the first quantize and the last dequantize: whole numbers go in and out."""
        first = next(node for node in self.proto.node if node.op_type == "QuantizeLinear")
        last = self.makers[self._before_moves(OUTPUT)]
        if self._before_moves(first.input[0]) != INPUT or last.op_type != "DequantizeLinear":
            raise ConversionError("expected a quantize behind the input and a dequantize before the output, got others")
        self._replace(first.output[0], first.input[0])
        self._replace(last.output[0], last.input[0])
        for node in (first, last):
            self.proto.node.remove(node)
        stored = self.constants[first.input[2]].data_type
        for value in (self.proto.input[0], self.proto.output[0]):
            value.type.tensor_type.elem_type = stored

    def make_16_bits_unsigned(self) -> None:
        """int16 -> uint16, every stored value and zero point 32768 higher."""
        from onnx import TensorProto, numpy_helper

        for name, entry in self.constants.items():
            if entry.data_type == TensorProto.INT16:
                array = (self._array(name).astype(np.int32) + 2**15).astype(np.uint16)
                entry.CopyFrom(numpy_helper.from_array(array, name))
        for value in (self.proto.input[0], self.proto.output[0]):
            if value.type.tensor_type.elem_type == TensorProto.INT16:
                value.type.tensor_type.elem_type = TensorProto.UINT16

    def drop_unused(self) -> None:
        """Forget constants that nothing reads any more."""
        read = {name for node in self.proto.node for name in node.input}
        for entry in [entry for entry in self.proto.initializer if entry.name not in read]:
            self.proto.initializer.remove(entry)

    def drop_traces(self) -> None:
        """Forget which lines of which files on this machine the exporter came by, counted anew in every process."""
        for part in (self.proto, *self.proto.node, *self.proto.initializer, *self.proto.input, *self.proto.output):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")

    def _before_moves(self, name: str) -> str:
        while name in self.makers and self.makers[name].op_type == "Transpose":
            name = self.makers[name].input[0]
        return name

    def _is_dequantized(self, name: str) -> bool:
        return name in self.makers and self.makers[name].op_type == "DequantizeLinear"

    def _replace(self, old: str, new: str) -> None:
        for node in self.proto.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def _array(self, name: str) -> np.ndarray[Any, Any]:
        from onnx import numpy_helper

        array: np.ndarray[Any, Any] = numpy_helper.to_array(self.constants[name])
        return array

    def _store(self, name: str, array: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        self.proto.initializer.append(numpy_helper.from_array(array, name))
        self.constants[name] = self.proto.initializer[-1]
        return name


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without its progress, its log of operators it has no use for, and the warnings of all that it imports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_native(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
