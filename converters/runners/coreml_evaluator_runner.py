"""Run Core ML artifacts on any system, with this project's own evaluator of their program."""

from __future__ import annotations

import numpy as np

from converters.artifact import Artifact
from converters.coreml_evaluator import VERSION, Evaluator, Precision
from edge_sr.errors import RunnerError
from edge_sr.pixels import Image
from edge_sr.runner import check_lr


class CoreMLEvaluatorRunner:
    """Runs an ``.mlpackage`` op by op in torch. Satisfies :class:`edge_sr.runner.Runner`.

    What it gives is what the package's program and weights say; Apple's engines may sum in another order and keep other
    intermediate precision, see :data:`converters.coreml_evaluator.NOTE`.

    Args:
        artifact: a verified Core ML artifact.
        threads: CPU threads.
        precision: "fp16" rounds every value that the program types as fp16; "fp32" rounds none of them.
    Raises:
        ArtifactError: the package is damaged, or is not what the artifact says.
        RunnerError: the program has an operation that the evaluator does not know.
        MissingToolError: coremltools, which brings the protobuf classes, is not installed.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1, precision: Precision = "fp16") -> None:
        meta = artifact.meta
        self.name = f"coreml evaluator {VERSION} ({precision})"
        self.scale: int = meta.scale
        self.tile: tuple[int, int] | None = meta.tile
        self._io = meta.io[meta.main_file]
        self.evaluator = Evaluator(artifact.main_path, precision=precision, threads=threads)
        for spec, features in ((self._io.input, self.evaluator.inputs), (self._io.output, self.evaluator.outputs)):
            found = {feature.name: feature.shape for feature in features if feature.is_image}
            if found != {spec.name: (*spec.shape, 3)}:
                raise RunnerError(
                    f"expected one picture {spec.name!r} of {spec.shape[0]}x{spec.shape[1]} in {artifact.main_path}, "
                    f"got {found or 'none'}: export the artifact again"
                )

    def run(self, lr: Image) -> Image:
        """Enlarge one tile: (h, w, 3) uint8 RGB of the artifact's tile size -> (scale*h, scale*w, 3) uint8 RGB.

        Raises:
            ShapeError: ``lr`` is not uint8 RGB of the tile's size.
            ArtifactError: an operation computed another shape or type than the program declares.
            RunnerError: an operation failed, or the result is not finite.
        """
        check_lr(lr, self.tile)
        sr = self.evaluator.run({self._io.input.name: lr})[self._io.output.name]
        return np.asarray(sr, dtype=np.uint8)
