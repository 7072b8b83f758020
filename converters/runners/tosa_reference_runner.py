"""Run VGF artifacts on Arm's reference model of TOSA, whose integer arithmetic is the specification's.

The program on a phone holds the network as VGF, which only Arm's GPUs with neural accelerators run. The reference model
runs the TOSA that it was compiled from, so the runner compiles that again first: the result has to be the very bytes
in the program. Its time is this computer's and says nothing of a phone's.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact import Artifact
from converters.artifact_meta import IoVariant
from converters.graphs.vgf_reader import read_vgf, read_vgf_payload
from converters.runners.stored import from_stored, to_stored
from converters.vgf_toolchain import CURE, TOSA_FILE, compile_tosa
from edge_sr.errors import ConversionError, MissingToolError, RunnerError
from edge_sr.pixels import Image, Levels
from edge_sr.runner import check_lr, to_float, to_uint8, to_uint16


class TosaReferenceRunner:
    """Runs an artifact's ``model.tosa``. Satisfies :class:`edge_sr.runner.Runner`.

    Only in a process of its own: the reference model prints, and aborts on some damaged files.

    Args:
        artifact: a verified artifact of target vgf.
        threads: not used: the reference model has one.
    Raises:
        ArtifactError: the program is damaged, or is no single VGF delegate.
        MissingToolError: a package is not installed.
        RunnerError: the TOSA is missing, is not what the program was compiled from, or does not fit the artifact.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        meta = artifact.meta
        self._model = _import_model()
        self.name = f"tosa reference model {metadata.version('tosa-tools')}"
        self.scale: int = meta.scale
        self.tile: tuple[int, int] | None = meta.tile
        self.deep = meta.is_float
        self._path = artifact.main_path
        self._io = meta.io[meta.main_file]
        self._check_io(self._io)
        if TOSA_FILE not in meta.files:
            raise RunnerError(f"expected {TOSA_FILE} beside {self._path}, got none; export the artifact again")
        self._tosa = (artifact.path / TOSA_FILE).read_bytes()
        self._check_compiled()

    def run(self, lr: Image) -> Image:
        """Enlarge one tile: (h, w, 3) uint8 RGB of the artifact's tile size -> (scale*h, scale*w, 3) uint8 RGB.

        Raises:
            ShapeError: ``lr`` is not uint8 RGB of the tile's size.
            RunnerError: the model refused, or computed NaN or infinity.
        """
        check_lr(lr, self.tile)
        if self.deep:
            return to_uint8(self._run_float(lr))
        result = self._run(to_stored(np.ascontiguousarray(lr.transpose(2, 0, 1)[None]), self._io.input))
        planes = from_stored(result, self._io.output, TOSA_FILE)[0]
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    def run_deep(self, lr: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """As :meth:`run` in 16 bits; RunnerError unless ``deep``."""
        check_lr(lr, self.tile)
        if not self.deep:
            raise RunnerError(f"expected a float model for 16 bits, got {self._path}, which takes 8")
        return to_uint16(self._run_float(lr))

    def _run_float(self, lr: Levels) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._run(to_float(lr).numpy())
        if not np.isfinite(result).all():
            raise RunnerError(f"expected finite values from {self._path}, got NaN or inf; export the artifact again")
        return result

    def _run(self, stored: NDArray[Any]) -> NDArray[Any]:
        results, status = self._model.run(self._tosa, [stored])
        if status != self._model.GraphStatus.TOSA_VALID or len(results) != 1:
            raise RunnerError(
                f"expected the TOSA reference model to run {TOSA_FILE} of {self._path.parent}, got {status} and "
                f"{len(results)} results; export the artifact again"
            )
        result: NDArray[Any] = np.asarray(results[0])
        if (result.shape, result.dtype.name) != (self._io.output.shape, self._io.output.dtype):
            raise RunnerError(
                f"expected {self._io.output.shape} {self._io.output.dtype} from {TOSA_FILE} of {self._path.parent}, "
                f"got {result.shape} {result.dtype.name}; export the artifact again"
            )
        return result

    def _check_io(self, io: IoVariant) -> None:
        graph = read_vgf(self._path)
        for spec, index in ((io.input, graph.inputs[0]), (io.output, graph.outputs[0])):
            found = graph.values[index]
            if (found.shape, found.dtype) != (spec.shape, spec.dtype):
                raise RunnerError(
                    f"expected {spec.name} {spec.shape} {spec.dtype} in {self._path}, got {found.shape} {found.dtype}; "
                    "export the artifact again"
                )

    def _check_compiled(self) -> None:
        """The program's VGF is, byte for byte, what this TOSA compiles to."""
        try:
            compiled = compile_tosa(self._tosa)
        except ConversionError as error:
            raise RunnerError(f"{error}: {TOSA_FILE} of {self._path.parent}; export the artifact again") from error
        if compiled != read_vgf_payload(self._path):
            raise RunnerError(
                f"expected {self._path} to hold what {TOSA_FILE} beside it compiles to, got another VGF, made by "
                "another release of model-converter or altered; export the artifact again"
            )


def _import_model() -> Any:
    try:
        import tosa_reference_model
    except ImportError as error:
        raise MissingToolError(f"running VGF artifacts needs the package tosa-tools, got {error}; {CURE}") from error
    return tosa_reference_model
