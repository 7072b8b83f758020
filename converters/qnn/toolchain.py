"""Qualcomm's libraries: where they lie, which version, under which licence, and what a process needs to load them.

They come with the package onnxruntime-qnn, whose licence is the user's to accept, so that nothing here depends on it
unless it is asked for. Where LiteRT's own SDK (ai-edge-litert-sdk-qualcomm) is installed, files are compiled with that.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from edge_sr.errors import MissingToolError

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "onnxruntime-qnn")
LICENSE = "Qualcomm AI Stack License"
INSTALL = "pip install 'edge-sr[qnn]'"
SDK_MODULE = "ai_edge_litert_sdk_qualcomm"


def qnn_version() -> str:
    """Of the libraries in onnxruntime-qnn, such as "2.51.0".

    Raises:
        MissingToolError: it is not installed.
    """
    libraries()
    try:
        return str(import_module("onnxruntime_qnn.build_and_package_info").qnn_version)
    except ImportError:
        raise missing("onnxruntime-qnn") from None


def tool_versions() -> dict[str, str]:
    """Package -> version of everything that makes or runs a file of target qnn.

    Raises:
        MissingToolError: one of them is not installed.
    """
    try:
        found = {name: metadata.version(name) for name in PACKAGES}
    except metadata.PackageNotFoundError as error:
        raise missing(str(error.name)) from None
    return found | {"qnn": qnn_version()}


def libraries() -> Path:
    """The folder of libQnnHtp.so with the emulator in it.

    Raises:
        MissingToolError: onnxruntime-qnn is not installed.
    """
    spec = find_spec("onnxruntime_qnn")
    if spec is None or not spec.submodule_search_locations:
        raise missing("onnxruntime-qnn")
    return Path(next(iter(spec.submodule_search_locations)))


def sdk_libraries() -> Path | None:
    """Where LiteRT's own SDK keeps the compiler's libraries; None where it is not installed or was not downloaded."""
    if find_spec(SDK_MODULE) is None:
        return None
    try:
        found = Path(str(import_module(SDK_MODULE).path_to_sdk_libs()))
    except (ImportError, OSError, AttributeError, RuntimeError):  # its download runs at install and may have failed
        return None
    return found if found.is_dir() else None


def emulator_environment() -> dict[str, str]:
    """Variables that must be set before a process starts in which the emulator is to run."""
    return {"LD_LIBRARY_PATH": os.pathsep.join([*_wheel_folders(), *_inherited()])}


@contextmanager
def compiler_libraries() -> Iterator[str]:
    """The search path that LiteRT's plugin for Qualcomm needs, for as long as it compiles."""
    sdk = sdk_libraries()
    if sdk is not None:
        yield str(sdk)
        return
    # The plugin of ai-edge-litert 2.3.0 is linked to libQnnLpai.so, for another kind of core, of which it calls nothing
    # here and which onnxruntime-qnn does not bring. Any library under that name satisfies the loader.
    with tempfile.TemporaryDirectory(prefix="edge-sr-qnn-") as folder:
        (Path(folder) / "libQnnLpai.so").symlink_to(libraries() / "libQnnSystem.so")
        yield os.pathsep.join([folder, *_wheel_folders()])


def _wheel_folders() -> list[str]:
    own = libraries()
    return [str(own), str(own.with_name("onnxruntime_qnn.libs"))]


def _inherited() -> list[str]:
    return [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]


def missing(package: str) -> MissingToolError:
    """What to raise where ``package`` is not installed."""
    return MissingToolError(f"Qualcomm's NPU needs {', '.join(PACKAGES)}, got no {package}; {INSTALL}")
