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
from converters.graphs.vgf_reader import read_vgf_payload
from converters.runners.vgf_runner import VgfRunner
from converters.vgf_toolchain import CURE, TOSA_FILE, compile_tosa
from edge_sr.errors import ConversionError, MissingToolError, RunnerError


class TosaReferenceRunner(VgfRunner):
    """Runs an artifact's ``model.tosa``.

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
        self._model = _import_model()
        super().__init__(artifact, f"tosa reference model {metadata.version('tosa-tools')}")
        if TOSA_FILE not in artifact.meta.files:
            raise RunnerError(f"expected {TOSA_FILE} beside {self._path}, got none; export the artifact again")
        self._tosa = (artifact.path / TOSA_FILE).read_bytes()
        self._check_compiled()

    def compute(self, stored: NDArray[Any]) -> NDArray[Any]:
        """See :meth:`VgfRunner.compute`."""
        results, status = self._model.run(self._tosa, [stored])
        if status != self._model.GraphStatus.TOSA_VALID or len(results) != 1:
            raise RunnerError(
                f"expected the TOSA reference model to run {TOSA_FILE} of {self._path.parent}, got {status} and "
                f"{len(results)} results; export the artifact again"
            )
        return np.asarray(results[0])

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
