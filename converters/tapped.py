"""Run a network on a target with its inner values as outputs, to see where a runtime's numbers leave the network's.

The network is lowered by the same toolchain with the same settings as an artifact, but returns the values of its taps
(:mod:`quantization.taps`). Nothing is kept: the files live in a temporary folder while they run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_sr.errors import ConfigError, ConversionError, EdgeSRError, RunnerError
from edge_sr.quiet import quiet_native
from edge_sr.runner import check_lr, to_float
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork

Image = NDArray[np.uint8]
Shape = tuple[int, ...]


def run_tapped(
    network: nn.Module, lr: Image, shapes: Sequence[Shape], *, runtime: str, scheme: str, threads: int = 1
) -> list[Tensor]:
    """Lower a network with taps, run it on one tile, and return what its taps hold there.

    Args:
        network: what :meth:`quantization.taps.LayerTaps.build` gave: its ``forward`` returns a tuple of tensors.
        lr: (h, w, 3) uint8; the network is lowered for this size.
        shapes: of the taps, in order, as the network in PyTorch gives them.
        runtime: "tflite", "executorch", "coreml_evaluator", or "qdq" for the quantize/dequantize graph in PyTorch.
        scheme: name of the scheme that the network is of; Core ML takes the precision of its float values from it.
        threads: CPU threads of the runtime.
    Returns:
        float32 tensors of ``shapes``; int8 values are dequantized.
    Raises:
        ConfigError: there is no such runtime.
        MissingToolError: a toolchain is not installed.
        ConversionError: a toolchain refused the network with taps.
        RunnerError: the runtime refused or failed.
    """
    check_lr(lr, None)
    runs = {"qdq": _run_qdq, "tflite": _run_tflite, "executorch": _run_executorch, "coreml_evaluator": _run_coreml}
    if runtime not in runs:
        raise ConfigError(f"runtime for taps must be one of {', '.join(runs)}, got {runtime!r}")
    with tempfile.TemporaryDirectory(prefix="edge-sr-taps-") as folder:
        try:
            values = runs[runtime](network.eval(), lr, Path(folder), scheme, threads)
        except EdgeSRError:
            raise
        # Toolchains raise whatever they please.
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ConversionError(f"expected {runtime} to take the network with taps, got {line}") from error
    found = [tuple(value.shape) for value in values]
    if found != [tuple(shape) for shape in shapes]:
        raise RunnerError(f"expected taps of shapes {list(shapes)[:4]}... from {runtime}, got {found[:4]}...")
    return values


def _run_qdq(network: nn.Module, lr: Image, folder: Path, scheme: str, threads: int) -> list[Tensor]:
    if not isinstance(network, QuantizedNetwork):
        raise ConfigError(f"expected a QuantizedNetwork for runtime qdq, got {type(network).__name__}; quantize it")
    with torch.no_grad():
        return list(to_qdq(network, weights="int8", duplicate_dequantize=False)(to_float(lr)))


class _PictureTaps(nn.Module):
    """An NHWC picture in, as TFLite artifacts take it; taps with four axes come out NHWC too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        taps = self.network(picture.permute(0, 3, 1, 2))
        return tuple(tap.permute(0, 2, 3, 1) if tap.dim() == 4 else tap for tap in taps)


def _run_tflite(network: nn.Module, lr: Image, folder: Path, scheme: str, threads: int) -> list[Tensor]:
    from converters import to_tflite

    quantized = isinstance(network, QuantizedNetwork)
    graph = to_tflite._to_qdq(network) if quantized else network
    sample = torch.rand((1, *lr.shape), generator=torch.Generator().manual_seed(0))
    path = folder / "taps.tflite"
    with to_tflite._quiet_toolchain():
        try:
            import litert_torch
        except ImportError as error:
            raise to_tflite._missing(error) from None
        config = to_tflite._quant_config() if quantized else None
        with torch.no_grad():
            converted = litert_torch.convert(_PictureTaps(graph).eval(), (sample,), quant_config=config)
        converted.export(str(path))
    return _read_tflite(path, lr, threads)


def _read_tflite(path: Path, lr: Image, threads: int) -> list[Tensor]:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_native():
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    picture = to_float(lr).permute(0, 2, 3, 1).contiguous().numpy()
    interpreter.set_tensor(entry["index"], _quantize(picture, entry))
    interpreter.invoke()
    values = []
    for details in interpreter.get_output_details():
        value = torch.from_numpy(_dequantize(interpreter.get_tensor(details["index"]), details))
        values.append(value.permute(0, 3, 1, 2) if value.dim() == 4 else value)
    return values


def _quantize(picture: NDArray[np.float32], details: dict[str, Any]) -> NDArray[Any]:
    if details["dtype"] == np.float32:
        return picture
    qscale, zero_point = details["quantization"]
    stored: NDArray[Any] = np.clip(np.round(picture / np.float32(qscale)) + zero_point, -128, 127)
    return stored.astype(details["dtype"])


def _dequantize(stored: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    if details["dtype"] == np.float32:
        return stored
    qscale, zero_point = details["quantization"]
    values: NDArray[np.float32] = (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(qscale)
    return values


def _run_executorch(network: nn.Module, lr: Image, folder: Path, scheme: str, threads: int) -> list[Tensor]:
    from converters.runners.executorch_runner import _Runtime
    from converters.to_executorch import lower_network

    x = to_float(lr)
    program, _ = lower_network(network, tuple(x.shape), "a tapped network")
    runtime = _Runtime.get()
    runtime.resize(threads)
    loaded = runtime.load_program(program)
    method = loaded.load_method("forward")
    # The results point into the method's memory, which goes when this function ends.
    return [value.to(torch.float32).clone() for value in method([x])]


def _run_coreml(network: nn.Module, lr: Image, folder: Path, scheme: str, threads: int) -> list[Tensor]:
    from converters.coreml_evaluator import Evaluator
    from converters.coreml_package import write_package
    from converters.coreml_toolchain import import_coremltools, quiet_conversion

    coremltools = import_coremltools()
    graph: nn.Module = network
    if isinstance(network, QuantizedNetwork):
        graph = to_qdq(network, weights="int8", duplicate_dequantize=False)
    x = to_float(lr)
    with torch.no_grad():
        count = len(graph(x))
    names = [f"tap_{index}" for index in range(count)]
    precision = coremltools.precision.FLOAT32 if scheme == "fp32" else coremltools.precision.FLOAT16
    picture = coremltools.ImageType(
        name="image", shape=tuple(x.shape), color_layout=coremltools.colorlayout.RGB, scale=1.0 / 255.0
    )
    with quiet_conversion(), torch.no_grad():
        program = torch.export.export(graph, (torch.zeros_like(x),)).run_decompositions({})
        model = coremltools.convert(
            program,
            convert_to="mlprogram",
            inputs=[picture],
            outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in names],
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=precision,
            skip_model_load=True,
            package_dir=str(folder / "converted.mlpackage"),
        )
    package = folder / "taps.mlpackage"
    write_package(package, spec=model.get_spec(), weights_dir=Path(model.weights_dir))
    results = Evaluator(package, threads=threads).run({"image": lr})
    return [torch.from_numpy(np.asarray(results[name], dtype=np.float32)) for name in names]
