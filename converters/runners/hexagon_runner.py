"""Run artifacts of target qnn on Qualcomm's emulator of Hexagon, with the arithmetic of the NPU itself.

Its results are whole numbers of the NPU's, but its time is this computer's: it says nothing of a phone's.
"""

from __future__ import annotations

import numpy as np

from converters.artifact import Artifact
from converters.qnn.session import Session
from converters.qnn.socs import Arithmetic, soc_for, soc_of
from converters.qnn.toolchain import qnn_version
from converters.runners.stored import check_pixels, from_stored, to_stored
from edge_sr.errors import RunnerError
from edge_sr.pixels import Image


class HexagonRunner:
    """Runs the artifact's main file in the emulator. Satisfies :class:`edge_sr.runner.Runner`.

    Only in a process of its own, started with :func:`converters.qnn.toolchain.emulator_environment`.

    Args:
        artifact: a verified artifact of target qnn; its main file is ONNX or compiled.
        threads: not used: the emulator has its own.
        arithmetic: which kind of Hexagon; a compiled file is of one kind already.
    Raises:
        MissingToolError: a package is not installed.
        RunnerError: the file is compiled for the other kind, or the libraries refuse it.
    """

    def __init__(self, artifact: Artifact, *, threads: int, arithmetic: Arithmetic) -> None:
        meta = artifact.meta
        self.name = f"hexagon {arithmetic}, emulated (QNN {qnn_version()})"
        self.scale: int = meta.scale
        self.tile: tuple[int, int] | None = meta.tile
        self._file = meta.main_file
        self._io = meta.io[self._file]
        compiled = (meta.compiled or {}).get(meta.main_file)
        half_floats = meta.scheme == "fp16"
        soc = soc_for(arithmetic, half_floats=half_floats) if compiled is None else soc_of(compiled, meta.main_file)
        if soc.arithmetic != arithmetic:
            raise RunnerError(f"expected a file for Hexagon {arithmetic}, got {meta.main_file} for {soc.architecture}")
        specs = (self._io.input, self._io.output)
        self._session = Session(artifact.main_path, soc, specs, half_floats=half_floats)

    def run(self, lr: Image) -> Image:
        """Enlarge one tile: (h, w, 3) uint8 RGB of the artifact's tile size -> (scale*h, scale*w, 3) uint8 RGB.

        Raises:
            ShapeError: ``lr`` is not uint8 RGB of the tile's size.
            RunnerError: the libraries failed, or a value is not finite.
        """
        check_pixels(lr, self._io.input)
        stored = self._session.run(to_stored(lr[np.newaxis], self._io.input))
        levels: Image = from_stored(stored[0], self._io.output, self._file)
        return levels


def open_v68(artifact: Artifact, *, threads: int = 1) -> HexagonRunner:
    """As Snapdragons of 2021 and 2022 compute."""
    return HexagonRunner(artifact, threads=threads, arithmetic="v68")


def open_v73(artifact: Artifact, *, threads: int = 1) -> HexagonRunner:
    """As Snapdragons from the 8 Gen 2 on compute."""
    return HexagonRunner(artifact, threads=threads, arithmetic="v73")
