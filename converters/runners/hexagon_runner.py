"""Run artifacts of target qnn on Qualcomm's emulator of Hexagon, with the arithmetic of the NPU itself.

Its results are whole numbers of the NPU's, but its time is this computer's: it says nothing of a phone's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact import Artifact
from converters.artifact_meta import TensorSpec
from converters.qnn.session import Session
from converters.qnn.socs import Arithmetic, soc_for, soc_of
from converters.qnn.toolchain import qnn_version
from edge_sr.errors import RunnerError
from edge_sr.pixels import Image
from edge_sr.runner import check_lr, to_uint8


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
        self._io = meta.io[meta.main_file]
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
        check_lr(lr, self.tile)
        return _from_stored(self._session.run(_to_stored(lr, self._io.input)), self._io.output)


def open_v68(artifact: Artifact, *, threads: int = 1) -> HexagonRunner:
    """As Snapdragons of 2021 and 2022 compute."""
    return HexagonRunner(artifact, threads=threads, arithmetic="v68")


def open_v73(artifact: Artifact, *, threads: int = 1) -> HexagonRunner:
    """As Snapdragons from the 8 Gen 2 on compute."""
    return HexagonRunner(artifact, threads=threads, arithmetic="v73")


def _to_stored(lr: Image, spec: TensorSpec) -> NDArray[Any]:
    """Levels as the file stores them: both grids hold every level of 8 bits exactly."""
    match spec.dtype:
        case "int8":
            return (lr.astype(np.int16) - 128).astype(np.int8)[None]
        case "uint16":
            return (lr.astype(np.uint16) * np.uint16(257))[None]
        case _:
            return lr.astype(np.float32)[None] / np.float32(255.0)


def _from_stored(result: NDArray[Any], spec: TensorSpec) -> Image:
    sr: Image
    match spec.dtype:
        case "int8":
            sr = (result[0].astype(np.int16) + 128).astype(np.uint8)
        case "uint16":
            sr = ((result[0].astype(np.uint32) + 128) // 257).astype(np.uint8)
        case _:
            sr = to_uint8(result[0].transpose(2, 0, 1))
    return sr
