"""Lowering to TFLite through litert-torch: NHWC pictures in and out, true int8 operators where the scheme says so."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from converters.artifact import IoVariant, TensorSpec
from converters.graphs import file_canonical_sha256
from converters.inspect_tflite import TFLiteSummary, delegation_of, inspect_tflite
from converters.lowering import Lowered, LoweringJob
from converters.pictures import Pictures
from converters.tflite_graph import (
    Model,
    change_interface,
    fuse_depth_to_space,
    name_interface,
    only_graph,
    read_model,
    type_name,
    write_model,
)
from edge_sr.errors import ConversionError, MissingToolError
from edge_sr.quiet import quiet_native
from quantization.qdq import QDQConv2d, to_qdq
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import get_scheme

MAIN_FILE = "model.tflite"
# File name of each extra interface of an int8 model.
VARIANT_FILES = {"uint8": "model_uint8_io.tflite", "float32": "model_float_io.tflite"}
_TOOLS = ("litert-torch", "litert-converter", "ai-edge-litert")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_RANGES = {"float32": (0.0, 1.0), "uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}
_ZERO_POINTS = {"uint8": 0, "int8": -128}


def lower(job: LoweringJob) -> Lowered:
    """Write ``model.tflite`` and, for int8 models, the same network with uint8 and with float input and output.

    Args:
        job: a float network for fp32, a ``QuantizedNetwork`` for w8a8 and w8a8_mixed.
    Raises:
        MissingToolError: litert-torch or ai-edge-litert is not installed.
        ConversionError: the toolchain refused the network, or left float operators where int8 was asked for.
    """
    versions = _tool_versions()
    qdq = _to_qdq(job.network) if get_scheme(job.scheme).quantized else None
    raw = job.work_dir / "converted.tflite"
    _convert(qdq or job.network, job, raw, quantized=qdq is not None)
    model = read_model(raw)
    main = job.work_dir / MAIN_FILE
    name_interface(model, description=f"Edge SR {job.model} x{job.scale} {job.scheme}")
    fuse_depth_to_space(model)
    write_model(model, main)
    _check_same_output(raw, main)
    raw.unlink()
    summary = inspect_tflite(main)
    notes = () if qdq is None else _check_arithmetic(qdq, summary)
    io = {MAIN_FILE: _describe(model, job)}
    if summary.input_dtype == summary.output_dtype == "int8":
        for dtype, name in VARIANT_FILES.items():
            variant = read_model(main)
            change_interface(variant, dtype)
            write_model(variant, job.work_dir / name)
            io[name] = _describe(variant, job)
    return Lowered(
        main_file=MAIN_FILE,
        files=tuple(io),
        io=io,
        delegation=delegation_of(main),
        tool_versions=versions,
        notes=notes,
        canonical_sha256=file_canonical_sha256(main, "tflite"),
    )


def _to_qdq(network: nn.Module) -> fx.GraphModule:
    if not isinstance(network, QuantizedNetwork):
        raise ConversionError(
            f"expected a QuantizedNetwork, got {type(network).__name__}; prepare and calibrate it first"
        )
    # The converter (litert-torch 0.10.0) folds quantize(float weight) into an int8 constant; int8 buffers it refuses.
    # Its greedy layout pass, taken for graphs of more than about 2000 nodes, marks a dequantize as NHWC once its first
    # reader is, and a second reader then gets channels where it wants rows. So each reader has a dequantize of its own.
    return to_qdq(network, weights="float", duplicate_dequantize=True)


def _convert(network: nn.Module, job: LoweringJob, path: Path, *, quantized: bool) -> None:
    """Run litert-torch on ``network`` and write its flatbuffer to ``path``."""
    height, width = job.tile
    sample = torch.rand((1, height, width, 3), generator=torch.Generator().manual_seed(0))
    with _quiet_toolchain():
        try:
            import litert_torch
        except ImportError as error:
            raise _missing(error) from None
        config = _quant_config() if quantized else None
        try:
            with torch.no_grad():
                converted = litert_torch.convert(Pictures(network).eval(), (sample,), quant_config=config)
            converted.export(str(path))
        except Exception as error:  # litert-torch raises many kinds, MLIR's among them
            raise ConversionError(f"litert-torch refused {job.model} in {job.scheme}: {_first_line(error)}") from error


def _quant_config() -> Any:
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    # It quantizes nothing, the graph carries its own scales. Without it the converter (0.10.0) leaves float operators
    # between DEQUANTIZE and QUANTIZE.
    settings = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(settings))


@contextmanager
def _quiet_toolchain() -> Iterator[None]:
    """Without litert-torch's progress lines and the logs and warnings of all that it imports."""
    name = "LITERT_TORCH_SHOW_PROGRESS"
    before = os.environ.get(name)
    os.environ[name] = "n"
    try:
        with quiet_native():
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _check_same_output(before: Path, after: Path) -> None:
    """Run both files on one noisy picture; ConversionError unless the edits left every output value as it was."""
    with quiet_native():
        first, second = _run_on_noise(before), _run_on_noise(after)
    # int8 kernels are exact. Float ones may add up in another order where channels moved.
    allowed = 0.0 if first.dtype == np.int8 else 1e-5 * max(1.0, float(np.abs(first).max()))
    difference = float(np.abs(first.astype(np.float64) - second).max())
    if not difference <= allowed:
        raise ConversionError(f"expected the edited file to compute the same, got a difference of {difference:.3g}")


def _run_on_noise(path: Path) -> npt.NDArray[Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    noise = np.random.default_rng(0).random(tuple(entry["shape"]))
    stored = noise if entry["dtype"] == np.float32 else np.floor(noise * 256.0) - 128.0
    interpreter.set_tensor(entry["index"], stored.astype(entry["dtype"]))
    interpreter.invoke()
    result: npt.NDArray[Any] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def _check_arithmetic(qdq: fx.GraphModule, summary: TFLiteSummary) -> tuple[str, ...]:
    """Compare the file with the graph it came from.

    Returns:
        a line about the float operators, where the graph has some on purpose (norms, attention).
    Raises:
        ConversionError: operators are float that the graph has in int8.
    """
    float_nodes, float_convolutions, int8_convolutions = _count_nodes(qdq)
    found = sum(summary.int8_ops.get(name, 0) for name in _CONVOLUTIONS)
    left = sum(summary.float_ops.get(name, 0) for name in _CONVOLUTIONS)
    if left > float_convolutions or found < int8_convolutions:
        raise ConversionError(
            f"expected {int8_convolutions} int8 and at most {float_convolutions} float convolutions, "
            f"got {found} and {left}; the toolchain fell back to float"
        )
    if not summary.float_ops:
        return ()
    listed = _list_counts(summary.float_ops)
    if not float_nodes:
        raise ConversionError(f"expected int8 operators only, got float {listed}; the toolchain fell back to float")
    int8_count = sum(summary.int8_ops.values())
    return (f"float islands: {summary.float_islands} ({listed}), among {int8_count} int8 operators",)


def _count_nodes(qdq: fx.GraphModule) -> tuple[int, int, int]:
    """Nodes that compute in float, those of them that are convolutions, and convolutions that compute in int8."""
    operators = torch.ops.quantized_decomposed
    quantize, dequantize = operators.quantize_per_tensor.default, operators.dequantize_per_tensor.default
    counts: Counter[str] = Counter()
    for node in qdq.graph.nodes:
        if not node.op.startswith("call") or node.target in (quantize, dequantize):
            continue
        module = qdq.get_submodule(str(node.target)) if node.op == "call_module" else None
        counts["int8 convolution"] += isinstance(module, QDQConv2d)
        counts["float convolution"] += isinstance(module, nn.Conv2d)
        readers = [reader.target for reader in node.users]
        # A convolution hands its float sums to the ReLU that the converter fuses into it.
        counts["float"] += not isinstance(module, QDQConv2d) and any(target is not quantize for target in readers)
    return counts["float"], counts["float convolution"], counts["int8 convolution"]


def _describe(model: Model, job: LoweringJob) -> IoVariant:
    """Input and output as the flatbuffer has them; ConversionError where they are not what the network promises."""
    graph = only_graph(model)
    height, width = job.tile
    wanted = ((1, height, width, 3), (1, height * job.scale, width * job.scale, 3))
    specs = []
    for index, name, shape in zip((graph.inputs[0], graph.outputs[0]), ("input", "output"), wanted, strict=True):
        tensor = graph.tensors[index]
        dtype = type_name(tensor)
        found = tuple(int(size) for size in tensor.shape)
        if found != shape or dtype not in _RANGES:
            raise ConversionError(f"expected {name} {shape} of {', '.join(_RANGES)}, got {found} of {dtype}")
        qscale, zero_point = None, None
        if dtype in _ZERO_POINTS:
            qscale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
            if abs(qscale * 255.0 - 1.0) > 1e-5 or zero_point != _ZERO_POINTS[dtype]:
                wanted_grid = f"scale 1/255 and zero point {_ZERO_POINTS[dtype]}"
                raise ConversionError(f"expected {name} with {wanted_grid}, got {qscale} and {zero_point}")
        specs.append(
            TensorSpec(
                name=name,
                dtype=dtype,
                layout="NHWC",
                shape=shape,
                value_range=_RANGES[dtype],
                qscale=qscale,
                zero_point=zero_point,
            )
        )
    return IoVariant(input=specs[0], output=specs[1])


def _tool_versions() -> dict[str, str]:
    try:
        return {name: metadata.version(name) for name in _TOOLS}
    except metadata.PackageNotFoundError as error:
        raise _missing(error) from None


def _missing(error: ImportError) -> MissingToolError:
    cure = "pip install litert-torch ai-edge-litert"
    return MissingToolError(f"target tflite needs litert-torch and ai-edge-litert, got no {error.name}; {cure}")


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda entry: -entry[1]))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
