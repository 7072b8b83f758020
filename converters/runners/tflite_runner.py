"""Runs TFLite artifacts with ai-edge-litert or, where only that is installed, tflite-runtime."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.artifact import Artifact, IoVariant, TensorSpec
from converters.runners.stored import check_pixels, from_stored, to_stored
from edge_sr.errors import ArtifactError, MissingToolError, RunnerError
from edge_sr.quiet import quiet_native

_RUNTIMES = (("ai-edge-litert", "ai_edge_litert.interpreter"), ("tflite-runtime", "tflite_runtime.interpreter"))


class TFLiteRunner:
    """One TFLite file on the CPU (XNNPACK); see :class:`edge_sr.runner.Runner`."""

    def __init__(self, artifact: Artifact, *, threads: int = 1, file: str | None = None) -> None:
        """Load the file and allocate its tensors.

        Args:
            artifact: verified artifact.
            threads: CPU threads.
            file: name of another model file of the artifact, for its input and output types; default the main file.
        Raises:
            MissingToolError: neither runtime is installed.
            ArtifactError: the artifact has no such file.
            RunnerError: the runtime refuses the file, or the file is not what ``artifact.json`` says.
        """
        self._file = artifact.meta.main_file if file is None else file
        if self._file not in artifact.meta.io:
            raise ArtifactError(f"expected one of {', '.join(artifact.meta.io)} in {artifact.path}, got {self._file!r}")
        package, interpreter_class = _load_runtime()
        self.name = f"{package}{_version(package)}"
        self.scale = artifact.meta.scale
        self.tile: tuple[int, int] | None = artifact.meta.tile
        self._io: IoVariant = artifact.meta.io[self._file]
        self.deep = artifact.meta.is_float and self._io.input.dtype == self._io.output.dtype == "float32"
        try:
            with quiet_native():
                self._interpreter = interpreter_class(model_path=str(artifact.path / self._file), num_threads=threads)
                self._interpreter.allocate_tensors()
            self._input = _only(self._interpreter.get_input_details())
            self._output = _only(self._interpreter.get_output_details())
        except (ValueError, RuntimeError, OSError) as error:
            raise RunnerError(f"{self.name} refused {artifact.path / self._file}: {_first_line(error)}") from None
        for details, spec in ((self._input, self._io.input), (self._output, self._io.output)):
            self._check(details, spec)

    def run(self, lr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Upscale one tile.

        Args:
            lr: (height, width, 3) uint8 RGB, exactly ``tile``.
        Returns:
            (scale * height, scale * width, 3) uint8 RGB.
        Raises:
            ShapeError: another shape or type.
            RunnerError: the runtime failed, or computed NaN or infinity.
        """
        stored = self._invoke(lr, np.uint8)
        levels: npt.NDArray[np.uint8] = from_stored(stored, self._io.output, self._file)
        return levels

    def run_deep(self, lr: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        """As :meth:`run` in 16 bits; RunnerError unless ``deep``."""
        if not self.deep:
            raise RunnerError(f"expected a float model for 16 bits, got {self._file}, which takes 8")
        stored = self._invoke(lr, np.uint16)
        levels: npt.NDArray[np.uint16] = from_stored(stored, self._io.output, self._file, np.uint16)
        return levels

    def _invoke(self, lr: npt.NDArray[Any], dtype: type[np.unsignedinteger[Any]]) -> npt.NDArray[Any]:
        check_pixels(lr, self._io.input, dtype)
        try:
            self._interpreter.set_tensor(self._input["index"], to_stored(lr[np.newaxis], self._io.input))
            self._interpreter.invoke()
            result: npt.NDArray[Any] = self._interpreter.get_tensor(self._output["index"])[0]
        except (ValueError, RuntimeError) as error:
            raise RunnerError(f"{self.name} failed on {self._file}: {_first_line(error)}") from None
        return result

    def _check(self, details: dict[str, Any], spec: TensorSpec) -> None:
        found = (tuple(int(size) for size in details["shape"]), np.dtype(details["dtype"]).name)
        if found != (spec.shape, spec.dtype):
            raise RunnerError(
                f"expected {spec.name} {spec.shape} {spec.dtype} in {self._file}, got {found[0]} {found[1]}"
            )


def _load_runtime() -> tuple[str, Any]:
    """(pip package, Interpreter class) of the first runtime that is installed."""
    for package, module in _RUNTIMES:
        try:
            return package, import_module(module).Interpreter
        except ImportError:
            continue
    raise MissingToolError("running TFLite needs ai-edge-litert or tflite-runtime; pip install ai-edge-litert")


def _version(package: str) -> str:
    try:
        return f" {metadata.version(package)}"
    except metadata.PackageNotFoundError:  # built from source, as on some boards
        return ""


def _only(details: list[dict[str, Any]]) -> dict[str, Any]:
    if len(details) != 1:
        raise ValueError(f"expected one input and one output, got {len(details)}")
    return details[0]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
