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
from converters.vulkan import lavapipe, software_vulkan
from edge_sr.errors import ConversionError, MissingToolError

_ALONE = " ".join(f"{name}=={version}" for name, version in WITHOUT_DEPENDENCIES.items())
CURE = f"pip install executorch ai-ml-sdk-model-converter; pip install --no-deps {_ALONE}"
EMULATION_CURE = "pip install ai-ml-sdk-scenario-runner ai-ml-emulation-layer-for-vulkan"
# What the program was compiled from, beside it.
TOSA_FILE = "model.tosa"
_COMPILER_TIMEOUT_S = 120.0
# Where ExecuTorch looks for the compiler before it looks on PATH, on which a virtual environment need not be.
_COMPILER_VARIABLE = "MODEL_CONVERTER_PATH"


def compiler() -> Path:
    """The program that compiles TOSA to VGF.

    Raises:
        MissingToolError: it is not installed.
    """
    return _program("model-converter", f"compiling VGF needs the package ai-ml-sdk-model-converter, got none; {CURE}")


def scenario_runner() -> Path:
    """The program that runs a VGF through Vulkan.

    Raises:
        MissingToolError: it is not installed.
    """
    missing = f"running VGF needs the package ai-ml-sdk-scenario-runner, got none; {EMULATION_CURE}"
    return _program("scenario-runner", missing)


def emulation_environment() -> dict[str, str]:
    """Variables of a process whose Vulkan has Arm's extensions: lavapipe under Arm's emulation layers.

    Raises:
        MissingToolError: the layers or lavapipe are not installed.
    """
    layers = _inside("emulation_layer", "deploy")
    if layers is None or not layers.is_dir():
        raise MissingToolError(
            f"emulating VGF needs the package ai-ml-emulation-layer-for-vulkan, got none; {EMULATION_CURE}"
        )
    return software_vulkan(lavapipe(), libraries=(layers / "lib",)) | {
        "VK_LAYER_PATH": str(layers / "share" / "vulkan" / "explicit_layer.d"),
        # The first one is asked first.
        "VK_INSTANCE_LAYERS": "VK_LAYER_ML_Graph_Emulation:VK_LAYER_ML_Tensor_Emulation",
    }


def _program(name: str, missing: str) -> Path:
    """The program that a package of Arm's brings under its own name; MissingToolError with the line ``missing``."""
    path = _inside(name.replace("-", "_"), f"binaries/bin/{name}")
    if path is None or not os.access(path, os.X_OK):
        raise MissingToolError(missing)
    return path


def _inside(package: str, relative: str) -> Path | None:
    """Where a file or folder of an installed package is, which is not imported."""
    found = importlib.util.find_spec(package)
    folders = (found.submodule_search_locations or []) if found is not None else []
    return next((path for folder in folders if (path := Path(folder) / relative).exists()), None)


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
