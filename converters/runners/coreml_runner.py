"""Run Core ML artifacts, where Core ML is: on macOS."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from converters.artifact import Artifact
from converters.coreml_toolchain import import_coremltools
from edge_sr.errors import RunnerError, cause_of
from edge_sr.pixels import Image as Image8
from edge_sr.runner import check_lr

COMPUTE_UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")


class CoreMLRunner:
    """Runs an ``.mlpackage`` with Apple's framework. Satisfies :class:`edge_sr.runner.Runner`.

    Args:
        artifact: a verified Core ML artifact.
        threads: must be 1. Core ML picks its own threads and has no switch for them.
        compute_units: one of :data:`COMPUTE_UNITS`.
    Raises:
        RunnerError: this is not macOS, or Core ML cannot load the package.
        MissingToolError: coremltools is not installed.
    """

    name = "coreml"

    def __init__(self, artifact: Artifact, *, threads: int = 1, compute_units: str = "ALL") -> None:
        if _platform() != "darwin":
            raise RunnerError(
                f"Core ML predicts on macOS only, got {_platform()}: copy {artifact.path.name} to a Mac and run the "
                "same command there, or load the package on an iPhone"
            )
        if threads != 1:
            raise RunnerError(f"expected threads=1 for Core ML, which picks its own threads, got {threads}")
        if compute_units not in COMPUTE_UNITS:
            raise RunnerError(f"compute_units must be one of {', '.join(COMPUTE_UNITS)}, got {compute_units!r}")
        coremltools = import_coremltools()
        meta = artifact.meta
        self.scale = meta.scale
        self.tile: tuple[int, int] | None = meta.tile
        self._io = meta.io[meta.main_file]
        try:
            self._model = coremltools.models.MLModel(
                str(artifact.main_path), compute_units=getattr(coremltools.ComputeUnit, compute_units)
            )
        except Exception as error:
            raise RunnerError(f"expected Core ML to load {artifact.main_path}, got {cause_of(error)}") from error

    def run(self, lr: Image8) -> Image8:
        """Enlarge one tile: (h, w, 3) uint8 RGB of the artifact's tile size -> (scale*h, scale*w, 3) uint8 RGB.

        Raises:
            ShapeError: ``lr`` is not uint8 RGB of the tile's size.
            RunnerError: Core ML failed, or gave a picture of another size.
        """
        check_lr(lr, self.tile)
        try:
            result = self._model.predict({self._io.input.name: Image.fromarray(lr)})
        except Exception as error:
            raise RunnerError(f"expected Core ML to predict, got {cause_of(error)}") from error
        sr: Image8 = np.asarray(result[self._io.output.name].convert("RGB"), dtype=np.uint8)
        if sr.shape != (*self._io.output.shape, 3):
            raise RunnerError(f"expected a picture of shape {(*self._io.output.shape, 3)} from Core ML, got {sr.shape}")
        return sr


def _platform() -> str:
    return sys.platform
