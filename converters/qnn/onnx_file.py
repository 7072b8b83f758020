"""The QDQ graph as an ONNX file in the form that Hexagon's compiler takes whole.

PyTorch's exporter keeps every quantize and dequantize of the graph. Pictures go in and out as whole numbers (with a
float output the NPU rounds a quarter of the levels one up) and biases are int32, both as the graph has them. What is
left to do: 16-bit values become unsigned, as Hexagon has them, and what the exporter notes of this machine goes.
"""

from __future__ import annotations

import logging
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
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import get_scheme

OPSET = 21  # the first with quantized types of 16 bits
INPUT, OUTPUT = "input", "output"
# Of the graph's input: PyTorch has no arithmetic on uint16.
_INPUT_TYPES = {"w8a8": torch.int8, "w8a16": torch.int16, "fp16": torch.float32}


def write_onnx(job: LoweringJob, path: Path) -> None:
    """Write the job's network as ONNX with NHWC pictures named "input" and "output".

    Args:
        job: a float network for fp16, a ``QuantizedNetwork`` otherwise.
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
    example = (torch.zeros((1, height, width, 3), dtype=_INPUT_TYPES[job.scheme]),)
    try:
        with _quiet_exporter(), torch.no_grad():
            program: Any = torch.onnx.export(
                Pictures(_graph(job)).eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        model = program.model_proto
        _make_16_bits_unsigned(model.graph)
        del model.graph.value_info[:]  # the types of values in between, which have changed
        _drop_unused(model.graph)
        _drop_traces(model.graph)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(model), full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
    except EdgeSRError:
        raise
    # The exporter raises whatever it pleases.
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConversionError(f"expected ONNX to take {job.model} in {job.scheme}, got {line}") from error


def _graph(job: LoweringJob) -> nn.Module:
    if not get_scheme(job.scheme).quantized:
        return job.network.eval()
    if not isinstance(job.network, QuantizedNetwork):
        raise ConversionError(f"expected a QuantizedNetwork, got {type(job.network).__name__}; quantize it first")
    return to_qdq(
        job.network,
        weights="int8",
        duplicate_dequantize=False,
        int32_biases=True,
        integer_ends=True,
        round_before_clips=True,  # a convolution that a clipping keeps from its quantize stays outside of the NPU
    )


def _make_16_bits_unsigned(graph: Any) -> None:
    """int16 -> uint16, every stored value and zero point 32768 higher."""
    from onnx import TensorProto, numpy_helper

    for entry in graph.initializer:
        if entry.data_type == TensorProto.INT16:
            array = (numpy_helper.to_array(entry).astype(np.int32) + 2**15).astype(np.uint16)
            entry.CopyFrom(numpy_helper.from_array(array, entry.name))
    for value in (graph.input[0], graph.output[0]):
        if value.type.tensor_type.elem_type == TensorProto.INT16:
            value.type.tensor_type.elem_type = TensorProto.UINT16


def _drop_unused(graph: Any) -> None:
    """Forget constants that nothing reads."""
    read = {name for node in graph.node for name in node.input}
    for entry in [entry for entry in graph.initializer if entry.name not in read]:
        graph.initializer.remove(entry)


def _drop_traces(graph: Any) -> None:
    """Forget which lines of which files on this machine the exporter came by, counted anew in every process."""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without its log of operators it has no use for, and what it and all that it imports write and warn of."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_native():
            yield
    finally:
        logger.setLevel(level)
