"""Run ExecuTorch programs with the XNNPACK build of the executorch wheel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.artifact import Artifact
from edge_sr.errors import MissingToolError, RunnerError, cause_of
from edge_sr.runner import check_lr, to_float, to_uint8, to_uint16

Image = NDArray[np.uint8]
# Offset and bytes of the flatbuffer identifier in every program this release of ExecuTorch writes.
_MAGIC = (4, b"ET12")


class ExecuTorchRunner:
    """Runs a ``.pte``. Satisfies :class:`edge_sr.runner.Runner`.

    The runtime aborts or crashes the whole process on some damaged programs. Open files that were not made just now
    through :class:`converters.isolation.IsolatedRunner`.

    Args:
        artifact: a verified ExecuTorch artifact.
        threads: CPU threads. ExecuTorch has one thread pool per process: runners with different ``threads`` may live
            side by side, but each switch between them loads the program again.
    Raises:
        MissingToolError: executorch is not installed.
        RunnerError: the file is no program, or one whose input or output is not what the artifact says.
    """

    name = "executorch"

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        meta = artifact.meta
        self.scale: int = meta.scale
        self.tile: tuple[int, int] | None = meta.tile
        self.deep = meta.is_float
        self._path = artifact.main_path
        self._io = meta.io[meta.main_file]
        self._threads = threads
        self._runtime = _Runtime.get()
        self._generation = -1
        # The method points into the program and that into the bytes; Python drops attributes in this order.
        self._method: Any = None
        self._program: Any = None
        self._bytes = _read_program(self._path)
        self._load()

    def run(self, lr: Image) -> Image:
        """Enlarge one tile: (h, w, 3) uint8 RGB of the artifact's tile size -> (scale*h, scale*w, 3) uint8 RGB.

        Raises:
            ShapeError: ``lr`` is not uint8 RGB of the tile's size.
            RunnerError: the runtime failed, or gave another shape or values that are not finite.
        """
        check_lr(lr, self.tile)
        return to_uint8(self.run_tensor(to_float(lr)))

    def run_deep(self, lr: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """As :meth:`run` in 16 bits, of which an int8 program has 8 to give; see ``deep``."""
        check_lr(lr, self.tile)
        return to_uint16(self.run_tensor(to_float(lr)))

    def run_tensor(self, x: torch.Tensor) -> torch.Tensor:
        """The program as it is, (1, 3, h, w) float32 in [0, 1] -> (1, 3, scale*h, scale*w) float32, not clamped."""
        if self._generation != self._runtime.generation:
            self._load()
        try:
            outputs = self._method([x])
        except RuntimeError as error:
            raise RunnerError(f"expected ExecuTorch to run {self._path}, got {cause_of(error)}") from error
        expected = self._io.output.shape
        if len(outputs) != 1 or tuple(outputs[0].shape) != expected:
            raise RunnerError(
                f"expected one result of shape {expected} from {self._path}, got {len(outputs)} of others"
            )
        output: torch.Tensor = outputs[0]
        # NaN and inf both survive aminmax, which takes a tenth of isfinite's time on an output of this size.
        low, high = torch.aminmax(output)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise RunnerError(
                f"expected finite pixel values from {self._path}, got NaN or inf: its weights are damaged; "
                "export the artifact again"
            )
        return output

    def _load(self) -> None:
        self._method = self._program = None
        self._runtime.resize(self._threads)
        try:
            program = self._runtime.load_program(self._bytes)
            method = program.load_method("forward")
        except RuntimeError as error:
            raise RunnerError(
                f"expected ExecuTorch to load {self._path}, got {cause_of(error)}; export the artifact again"
            ) from error
        self._check_io(method.method_meta())
        self._method, self._program = method, program
        self._generation = self._runtime.generation

    def _check_io(self, found: Any) -> None:
        expected = (self._io.input.shape, self._io.output.shape)
        if (found.num_inputs(), found.num_outputs()) != (1, 1):
            raise RunnerError(f"expected one input and one output in {self._path}, got others; export it again")
        shapes = (tuple(found.input_tensor_meta(0).sizes()), tuple(found.output_tensor_meta(0).sizes()))
        if shapes != expected:
            raise RunnerError(
                f"expected {self._path} to map {expected[0]} to {expected[1]}, got {shapes[0]} to {shapes[1]}; "
                "export the artifact again"
            )


class _Runtime:
    """ExecuTorch's runtime with its thread pool, of which a process has one.

    A loaded method keeps a pointer to the pool it was loaded with. ``_unsafe_reset_threadpool`` frees that pool: a
    method loaded earlier keeps its old number of threads and runs on freed memory (executorch 1.4.1). Hence the
    generation: a method of an older one has to be loaded again before it runs.
    """

    _instance: _Runtime | None = None

    def __init__(self) -> None:
        self.generation = 0
        try:
            # Not executorch.runtime: for one decorator it imports the whole exporter, torch's compilers included, five
            # CPU seconds in every process that only wants to run a file (executorch 1.4.1).
            import executorch.kernels.quantized  # noqa: F401  (registers operators that may stay outside)
            from executorch.extension.pybindings import _portable_lib
        except ImportError as error:
            raise MissingToolError(
                f"running .pte files needs the package executorch, got {error}; pip install executorch"
            ) from error
        self._library: Any = _portable_lib

    @classmethod
    def get(cls) -> _Runtime:
        """The one instance; imports the runtime the first time."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def load_program(self, program: bytes) -> Any:
        """Open bytes, which have to outlive the result. RuntimeError where the runtime notices damage."""
        return self._library._load_program_from_buffer(
            program,
            enable_etdump=False,
            debug_buffer_size=0,
            program_verification=self._library.Verification.InternalConsistency,
        )

    def resize(self, threads: int) -> None:
        """Make the pool ``threads`` wide; a new generation unless it is already."""
        if self._library._threadpool_get_thread_count() != threads:
            self._library._unsafe_reset_threadpool(threads)
            self.generation += 1


def _read_program(path: Path) -> bytes:
    try:
        program = path.read_bytes()
    except OSError as error:
        raise RunnerError(f"expected to read {path}, got {error.strerror}; export the artifact again") from None
    offset, magic = _MAGIC
    if program[offset : offset + len(magic)] != magic:
        raise RunnerError(f"expected an ExecuTorch program in {path}, got other bytes; export the artifact again")
    return program
