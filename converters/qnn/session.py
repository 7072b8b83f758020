"""ONNX Runtime with Qualcomm's libraries; only for processes started with their environment (and that may print)."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.ahead_of_time import read_bytecode
from converters.artifact_meta import TensorSpec
from converters.qnn.socs import Soc, get_soc
from converters.qnn.toolchain import missing
from edge_sr.errors import ArtifactError, RunnerError, cause_of, refuse_damaged

PROVIDER = "QNNExecutionProvider"
_CONTEXT_DOMAIN, _CONTEXT = "com.microsoft", "EPContext"
_ELEMENT_TYPES = {"int8": "INT8", "uint16": "UINT16", "float32": "FLOAT"}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where ONNX Runtime put the operators: pieces that the NPU got, and operators left to the CPU by name."""

    partitions: int
    ops_outside: dict[str, int]


class Session:
    """One model in the emulated NPU.

    Args:
        path: ``.onnx`` of any kind, or a compiled ``.tflite``.
        soc: whose Hexagon is emulated; a compiled file brings its own.
        specs: input and output; a compiled ``.tflite`` does not name them.
        half_floats: compute in fp16 what is float in the file.
    Raises:
        MissingToolError: a package is not installed.
        RunnerError, ArtifactError: the libraries refuse the file.
    """

    def __init__(self, path: Path, soc: Soc, specs: tuple[TensorSpec, TensorSpec], *, half_floats: bool) -> None:
        self.path = path
        with tempfile.TemporaryDirectory(prefix="edge-sr-qnn-") as folder:
            source = _context_of(path, specs, Path(folder)) if path.suffix == ".tflite" else path
            self._session = _open(source, path, soc, {"enable_htp_fp16_precision": str(int(half_floats))})
        found = [
            (entry.name, entry.type, tuple(entry.shape))
            for entry in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        expected = [(spec.name, _onnx_type(spec.dtype), spec.shape) for spec in specs]
        if found != expected:
            raise RunnerError(f"expected {path} to map {expected}, got {found}; export the artifact again")

    def run(self, picture: NDArray[Any]) -> NDArray[Any]:
        """(1, h, w, 3) as stored -> (1, scale*h, scale*w, 3) as stored; RunnerError where the libraries fail."""
        try:
            (result,) = self._session.run(None, {self._session.get_inputs()[0].name: picture})
        # onnxruntime's exceptions have no common class of their own.
        except Exception as error:
            raise RunnerError(f"expected Hexagon's emulator to run {self.path}, got {cause_of(error)}") from error
        return np.asarray(result)


def compile_onnx(source: str, destination: str, soc: str) -> dict[str, Any]:
    """Compile ``source`` for a SoC into an ONNX file that holds the NPU's binary.

    Returns:
        ``partitions`` and ``ops_outside``, JSON-ready.
    Raises:
        RunnerError: the compiler refused the model.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    entries = {
        "ep.context_enable": "1",
        "ep.context_embed_mode": "1",
        "ep.context_file_path": destination,
        "session.record_ep_graph_assignment_info": "1",
    }
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    _add_provider(ort, options, get_soc(soc), {})
    try:
        session = ort.InferenceSession(source, options)
    except Exception as error:
        raise RunnerError(f"expected QNN to compile {source} for {soc}, got {cause_of(error)}") from error
    placed = session.get_provider_graph_assignment_info()
    taken = [part for part in placed if part.ep_name == PROVIDER]
    outside = Counter(node.op_type for part in placed if part.ep_name != PROVIDER for node in part.get_nodes())
    return {"partitions": len(taken), "ops_outside": dict(sorted(outside.items()))}


def _open(source: Path, path: Path, soc: Soc, provider_options: dict[str, str]) -> Any:
    ort = _onnxruntime()
    options = ort.SessionOptions()
    # A model of which something stays outside is an error here, never a slow mixture of two arithmetics.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    _add_provider(ort, options, soc, provider_options)
    try:
        return ort.InferenceSession(str(source), options)
    except Exception as error:
        raise RunnerError(
            f"expected Hexagon's emulator to load {path}, got {cause_of(error)}; export the artifact again"
        ) from error


def _add_provider(ort: Any, options: Any, soc: Soc, provider_options: dict[str, str]) -> None:
    import onnxruntime_qnn

    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        raise RunnerError("expected onnxruntime-qnn to bring a device, got none on this system; it wants x86-64 Linux")
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": str(soc.soc_model), **provider_options}
    options.add_provider_for_devices(devices[:1], settings)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
        import onnxruntime_qnn  # noqa: F401
    except ImportError as error:
        raise missing(str(error.name)) from None
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def _context_of(path: Path, specs: tuple[TensorSpec, TensorSpec], folder: Path) -> Path:
    """A one-node ONNX model around the binary of a compiled ``.tflite``."""
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise missing(str(error.name)) from None

    bytecode = read_bytecode(path)
    with refuse_damaged(f"a compiled file at {path}", ArtifactError):
        (folder / "context.bin").write_bytes(bytecode.data)
        node = helper.make_node(
            _CONTEXT,
            [specs[0].name],
            [specs[1].name],
            name=bytecode.name,
            domain=_CONTEXT_DOMAIN,
            embed_mode=0,
            ep_cache_context="context.bin",
            main_context=1,
            source=PROVIDER,
        )
        ends = [
            helper.make_tensor_value_info(spec.name, getattr(TensorProto, _ELEMENT_TYPES[spec.dtype]), spec.shape)
            for spec in specs
        ]
        graph = helper.make_graph([node], bytecode.name, ends[:1], ends[1:])
        domains = [helper.make_opsetid("", 21), helper.make_opsetid(_CONTEXT_DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=10)
        made = folder / "context.onnx"
        made.write_bytes(model.SerializeToString())
    return made


def _onnx_type(dtype: str) -> str:
    return f"tensor({'float' if dtype == 'float32' else dtype})"
