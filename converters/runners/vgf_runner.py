"""What runs VGF artifacts has in common: pictures in and out, and a program that fits what the artifact says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact import Artifact
from converters.artifact_meta import IoVariant
from converters.graphs.vgf_reader import read_vgf
from converters.runners.stored import from_stored, to_stored
from edge_sr.errors import RunnerError
from edge_sr.pixels import Image, Levels
from edge_sr.runner import check_lr, to_float, to_uint8, to_uint16


class VgfRunner(ABC):
    """Runs one tile of an artifact of target vgf. Satisfies :class:`edge_sr.runner.Runner`.

    Args:
        artifact: a verified artifact of target vgf.
        name: of the runtime, with its version.
    Raises:
        ArtifactError: the program is damaged, or is no single VGF delegate.
        RunnerError: it does not fit the artifact.
    """

    def __init__(self, artifact: Artifact, name: str) -> None:
        meta = artifact.meta
        self.name = name
        self.scale: int = meta.scale
        self.tile: tuple[int, int] | None = meta.tile
        self.deep = meta.is_float
        self._path = artifact.main_path
        self._io = meta.io[meta.main_file]
        self._check_io(self._io)

    @abstractmethod
    def compute(self, stored: NDArray[Any]) -> NDArray[Any]:
        """(1, 3, h, w) as stored -> what comes out; RunnerError where the runtime fails."""

    def run(self, lr: Image) -> Image:
        """Enlarge one tile: (h, w, 3) uint8 RGB of the artifact's tile size -> (scale*h, scale*w, 3) uint8 RGB.

        Raises:
            ShapeError: ``lr`` is not uint8 RGB of the tile's size.
            RunnerError: the runtime refused, or computed NaN or infinity.
        """
        check_lr(lr, self.tile)
        if self.deep:
            return to_uint8(self._run_float(lr))
        result = self._run(to_stored(np.ascontiguousarray(lr.transpose(2, 0, 1)[None]), self._io.input))
        planes = from_stored(result, self._io.output, self._path.name)[0]
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
        result = self.compute(stored)
        if (result.shape, result.dtype.name) != (self._io.output.shape, self._io.output.dtype):
            raise RunnerError(
                f"expected {self._io.output.shape} {self._io.output.dtype} from {self._path}, "
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
