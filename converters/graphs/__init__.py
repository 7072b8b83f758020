"""What model files compute, read into one form for all formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from converters.graphs.coreml_reader import read_coreml
from converters.graphs.executorch_reader import read_executorch
from converters.graphs.graph import ComputeGraph, canonical_sha256
from converters.graphs.onnx_reader import read_onnx
from converters.graphs.tflite_reader import read_tflite
from converters.graphs.vgf_reader import read_vgf
from converters.vendors import VENDORS
from edge_sr.errors import ArtifactError, ConfigError, MissingToolError, refuse_damaged

READERS: dict[str, Callable[[Path], ComputeGraph]] = {
    "tflite": read_tflite,
    "executorch": read_executorch,
    "coreml": read_coreml,
    "qnn": read_onnx,
    "vgf": read_vgf,
    **dict.fromkeys(VENDORS, read_tflite),
}
# The package whose schema a reader reads by: another release of it may know of more options, and hash those too.
_SCHEMA_PACKAGES = {
    "tflite": "ai-edge-litert",
    "executorch": "executorch",
    "coreml": "coremltools",
    "qnn": "onnx",
    "vgf": "executorch",
    **dict.fromkeys(VENDORS, "ai-edge-litert"),
}


def read_graph(path: Path, target: str) -> ComputeGraph:
    """Read a model file (or ``.mlpackage`` folder) of ``target``.

    Raises:
        ConfigError: there is no such target.
        ArtifactError: the file is damaged, or holds something that is not looked into; the message says what.
        MissingToolError: the package that brings the format's schema is not installed.
    """
    if target not in READERS:
        raise ConfigError(f"target must be one of {', '.join(READERS)}, got {target!r}")
    with refuse_damaged(f"a model file of {target} at {path}", ArtifactError):
        return READERS[target](path)


def file_canonical_sha256(path: Path, target: str) -> str | None:
    """:func:`converters.graphs.graph.canonical_sha256` of a model file that was just written.

    Returns:
        None where the file holds what the readers do not look into (an ExecuTorch program in several pieces, say).
    Raises:
        ConfigError, MissingToolError: as for :func:`read_graph`.
    """
    try:
        return _read_canonical_sha256(path, target)
    except ArtifactError:
        return None


def check_canonical_sha256(
    path: Path, target: str, *, recorded: str, tool_versions: Mapping[str, str], file_hashes: tuple[str, ...]
) -> None:
    """Refuse a model file that computes something else than was recorded of it at export.

    Nothing is compared, and hashes and self-test alone speak, where this machine would read the file otherwise: under
    another release of edge-sr or of the package that brings the format's schema, or without that package.

    Args:
        path: model file or ``.mlpackage`` folder.
        target: as recorded.
        recorded: the digest.
        tool_versions: as recorded, package -> version.
        file_hashes: SHA-256 of the bytes behind ``path``, just computed: equal ones are read once in a process.
    Raises:
        ArtifactError: the digests differ, or the file cannot be looked into any more.
    """
    package = _SCHEMA_PACKAGES.get(target)
    if package is None or any(_installed(name) != tool_versions.get(name) for name in ("edge-sr", package)):
        return
    try:
        found = _canonical_sha256(path, target, file_hashes)
    except MissingToolError:
        return
    if found != recorded:
        raise ArtifactError(
            f"{path}: expected what was exported, got a file that computes something else; export the artifact again"
        )


@lru_cache(maxsize=64)
def _canonical_sha256(path: Path, target: str, file_hashes: tuple[str, ...]) -> str:
    return _read_canonical_sha256(path, target)


def _read_canonical_sha256(path: Path, target: str) -> str:
    graph = read_graph(path, target)
    with refuse_damaged(f"a model file of {target} at {path}", ArtifactError):
        return canonical_sha256(graph, target=target)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from source" if package == "edge-sr" else None
