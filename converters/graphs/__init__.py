"""What model files compute, read into one form for all three formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converters.graphs.coreml_reader import read_coreml
from converters.graphs.executorch_reader import read_executorch
from converters.graphs.graph import ComputeGraph, canonical_sha256
from converters.graphs.tflite_reader import read_tflite
from edge_sr.errors import ArtifactError, ConfigError, refuse_damaged

READERS: dict[str, Callable[[Path], ComputeGraph]] = {
    "tflite": read_tflite,
    "executorch": read_executorch,
    "coreml": read_coreml,
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
        return canonical_sha256(read_graph(path, target), target=target)
    except ArtifactError:
        return None
