"""Runners: one small interface over the runtimes that execute artifacts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from converters.artifact import Artifact
from edge_sr.errors import ConfigError

if TYPE_CHECKING:  # it imports torch, which a board that only runs artifacts need not have
    from edge_sr.runner import Runner

# Target -> the runtimes that can execute its artifacts, the target's own first.
RUNTIMES: dict[str, tuple[str, ...]] = {
    "tflite": ("tflite",),
    "executorch": ("executorch",),
    "coreml": ("coreml", "coreml_evaluator"),
}


def accuracy_runtimes(target: str) -> tuple[str, ...]:
    """The runtimes in which a target's accuracy is measured on this system, the most telling first.

    Core ML itself predicts on macOS only; the evaluator executes the same package anywhere.

    Raises:
        ConfigError: there is no such target.
    """
    runtimes = _runtimes(target)
    return tuple(runtime for runtime in runtimes if runtime != "coreml" or sys.platform == "darwin")


def open_runner(artifact: Artifact, *, threads: int = 1, isolated: bool = False, runtime: str | None = None) -> Runner:
    """Open a runner for an artifact; its runtime is imported now.

    Args:
        artifact: as :func:`converters.artifact.load_artifact` or export gave it.
        threads: CPU threads of the runtime.
        isolated: run in a child process with a timeout. Some runtimes abort the process on a file they cannot read;
            use this for artifacts that were not made just now.
        runtime: one of :data:`RUNTIMES` for the artifact's target; None for the target's own. "coreml_evaluator"
            executes Core ML packages on any system, where "coreml" needs macOS.
    Raises:
        ConfigError: the runtime does not execute artifacts of this target.
        MissingToolError: the runtime is not installed.
        RunnerError: the runtime cannot load the file, or cannot run here at all.
    """
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(f"threads must be a whole number of at least 1, got {threads!r}")
    runtimes = _runtimes(artifact.meta.target)
    if runtime is not None and runtime not in runtimes:
        raise ConfigError(f"runtime for {artifact.meta.target} must be one of {', '.join(runtimes)}, got {runtime!r}")
    if isolated:
        from converters.isolation import IsolatedRunner

        return IsolatedRunner(artifact, threads=threads, runtime=runtime)
    match runtime or runtimes[0]:
        case "tflite":
            from converters.runners.tflite_runner import TFLiteRunner

            return TFLiteRunner(artifact, threads=threads)
        case "executorch":
            from converters.runners.executorch_runner import ExecuTorchRunner

            return ExecuTorchRunner(artifact, threads=threads)
        case "coreml":
            from converters.runners.coreml_runner import CoreMLRunner

            return CoreMLRunner(artifact, threads=threads)
        case _:
            from converters.runners.coreml_evaluator_runner import CoreMLEvaluatorRunner

            return CoreMLEvaluatorRunner(artifact, threads=threads)


def _runtimes(target: str) -> tuple[str, ...]:
    try:
        return RUNTIMES[target]
    except KeyError:
        raise ConfigError(f"target must be one of {', '.join(RUNTIMES)}, got {target!r}") from None
