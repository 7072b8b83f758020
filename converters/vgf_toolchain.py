"""Arm's tools for its neural accelerators: which packages they are, and the compiler from TOSA to VGF.

TOSA is the instruction set in which the Arm backend of ExecuTorch writes a network down, VGF the file in which Arm's
ML extensions for Vulkan take it: SPIR-V with TOSA's operators, and constants.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from converters.targets import WITHOUT_DEPENDENCIES
from edge_sr.errors import ConversionError, MissingToolError

_ALONE = " ".join(f"{name}=={version}" for name, version in WITHOUT_DEPENDENCIES.items())
CURE = f"pip install executorch ai-ml-sdk-model-converter; pip install --no-deps {_ALONE}"
# What the program was compiled from, beside it.
TOSA_FILE = "model.tosa"
_COMPILER_PACKAGE = "model_converter"
_COMPILER_TIMEOUT_S = 120.0
# Where ExecuTorch looks for the compiler before it looks on PATH, on which a virtual environment need not be.
_COMPILER_VARIABLE = "MODEL_CONVERTER_PATH"


def compiler() -> Path:
    """The program that compiles TOSA to VGF.

    Raises:
        MissingToolError: it is not installed.
    """
    found = importlib.util.find_spec(_COMPILER_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "binaries" / "bin" / "model-converter"
        if os.access(path, os.X_OK):
            return path
    raise MissingToolError(f"compiling VGF needs the package ai-ml-sdk-model-converter, got none; {CURE}")


@contextmanager
def compiler_known() -> Iterator[None]:
    """ExecuTorch finds :func:`compiler` inside the block."""
    before = os.environ.get(_COMPILER_VARIABLE)
    os.environ[_COMPILER_VARIABLE] = str(compiler())
    try:
        yield
    finally:
        if before is None:
            del os.environ[_COMPILER_VARIABLE]
        else:
            os.environ[_COMPILER_VARIABLE] = before


def compile_tosa(tosa: bytes) -> bytes:
    """The VGF that a TOSA flatbuffer compiles to; the same bytes each time.

    Raises:
        MissingToolError: the compiler is not installed.
        ConversionError: it refused.
    """
    with TemporaryDirectory(prefix="edge-sr-vgf-") as folder:
        source, result = Path(folder) / "model.tosa", Path(folder) / "model.vgf"
        source.write_bytes(tosa)
        command = [str(compiler()), "-i", str(source), "-o", str(result)]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_COMPILER_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConversionError(f"expected model-converter to compile TOSA, got {type(error).__name__}") from error
        if done.returncode or not result.is_file():
            raise ConversionError(f"expected model-converter to compile TOSA, got exit status {done.returncode}")
        return result.read_bytes()
