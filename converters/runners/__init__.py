"""Runners: one small interface over the runtimes that execute artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters.artifact import Artifact
from edge_sr.errors import ConfigError

if TYPE_CHECKING:  # it imports torch, which a board that only runs artifacts need not have
    from edge_sr.runner import Runner


def open_runner(artifact: Artifact, *, threads: int = 1, isolated: bool = False) -> Runner:
    """Open the runner for an artifact's target; its runtime is imported now.

    Args:
        artifact: as :func:`converters.artifact.load_artifact` or export gave it.
        threads: CPU threads of the runtime.
        isolated: run in a child process with a timeout. Some runtimes abort the process on a file they cannot read;
            use this for artifacts that were not made just now.
    Raises:
        MissingToolError: the runtime is not installed.
        RunnerError: the runtime cannot load the file, or cannot run here at all.
    """
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(f"threads must be a whole number of at least 1, got {threads!r}")
    if isolated:
        from converters.isolation import IsolatedRunner

        return IsolatedRunner(artifact, threads=threads)
    match artifact.meta.target:
        case "tflite":
            from converters.runners.tflite_runner import TFLiteRunner

            return TFLiteRunner(artifact, threads=threads)
        case "executorch":
            from converters.runners.executorch_runner import ExecuTorchRunner

            return ExecuTorchRunner(artifact, threads=threads)
        case "coreml":
            from converters.runners.coreml_runner import CoreMLRunner

            return CoreMLRunner(artifact, threads=threads)
    raise ConfigError(f"target must be one of tflite, executorch, coreml, got {artifact.meta.target!r}")
