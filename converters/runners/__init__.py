"""Runners: one small interface over the runtimes that execute artifacts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from converters.artifact import Artifact, ArtifactMeta, with_main_file
from converters.qnn.socs import soc_of
from converters.runners.runtime import Runtime
from converters.vendors import VENDORS
from edge_sr.errors import ConfigError

if TYPE_CHECKING:  # it imports torch, which a board that only runs artifacts need not have
    from edge_sr.runner import Runner

# Of one target, its own runtime first.
RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime(name="tflite", target="tflite", title="TFLite", runner="tflite_runner:TFLiteRunner"),
        *(
            Runtime(
                name=name,
                target="tflite",
                title=f"WebGPU ({driver})",
                runner=f"webgpu_runner:{runner}",
                own_process=True,
                slow=True,
                thorough=True,
                in_float=True,
                environment=f"converters.webgpu:{environment}",
            )
            for name, driver, runner, environment in (
                ("webgpu", "SwiftShader, fp32", "WebGpuRunner", "swiftshader_environment"),
                ("webgpu_fp16", "lavapipe, fp16", "WebGpuHalfRunner", "lavapipe_environment"),
            )
        ),
        Runtime(
            name="executorch", target="executorch", title="ExecuTorch", runner="executorch_runner:ExecuTorchRunner"
        ),
        Runtime(name="coreml", target="coreml", title="Core ML", runner="coreml_runner:CoreMLRunner"),
        Runtime(
            name="coreml_evaluator",
            target="coreml",
            title="Core ML, evaluated",
            runner="coreml_evaluator_runner:CoreMLEvaluatorRunner",
            stand_in=True,
        ),
        *(
            Runtime(
                name=f"{vendor.name}_cpu",
                target=vendor.name,
                title=f"{vendor.title}'s file on the CPU",
                runner="tflite_runner:TFLiteRunner",
            )
            for vendor in VENDORS.values()
        ),
        *(
            Runtime(
                name=f"hexagon_{kind}",
                target="qnn",
                title=title,
                runner=f"hexagon_runner:open_{kind}",
                own_process=True,
                slow=True,
                own_rounding=True,
                environment="converters.qnn.toolchain:emulator_environment",
                exact=True,
                timeout_s=1200.0,
            )
            for kind, title in (("v73", "Hexagon v73+, emulated"), ("v68", "Hexagon v68/v69, emulated"))
        ),
        Runtime(
            name="tosa_reference",
            target="vgf",
            title="Arm VGF, TOSA reference model",
            runner="tosa_reference_runner:TosaReferenceRunner",
            own_process=True,
            own_rounding=True,
            timeout_s=1200.0,
        ),
        Runtime(
            name="vgf_emulation",
            target="vgf",
            title="Arm VGF, emulated on Vulkan",
            runner="vgf_emulation_runner:VgfEmulationRunner",
            slow=True,
            thorough=True,
            own_rounding=True,
        ),
    )
}


def runtimes_of(target: str) -> tuple[str, ...]:
    """The runtimes that can execute a target's artifacts, its own first.

    Raises:
        ConfigError: there is no such target.
    """
    found = tuple(runtime.name for runtime in RUNTIMES.values() if runtime.target == target)
    if not found:
        targets = dict.fromkeys(runtime.target for runtime in RUNTIMES.values())
        raise ConfigError(f"target must be one of {', '.join(targets)}, got {target!r}")
    return found


def accuracy_runtimes(meta: ArtifactMeta, *, thorough: bool = False) -> tuple[str, ...]:
    """The runtimes in which an artifact's accuracy is measured on this system, the most telling first.

    Core ML itself predicts on macOS only; the evaluator executes the same package anywhere. Of Hexagon's two kinds of
    arithmetic, those that files are compiled for.

    Args:
        meta: of the artifact.
        thorough: name the slow ones too, and every kind of arithmetic that phones have, compiled for or not; opening
            one says why it cannot run. GPUs compute in float, and so are named of float artifacts only.
    Raises:
        ConfigError: there is no such target.
    """
    runtimes = [name for name in runtimes_of(meta.target) if thorough or not RUNTIMES[name].thorough]
    runtimes = [name for name in runtimes if meta.is_float or not RUNTIMES[name].in_float]
    if meta.target == "qnn":
        own = _emulators(meta).values()
        return tuple(dict.fromkeys([*own, *runtimes] if thorough or not own else own))
    return tuple(runtime for runtime in runtimes if runtime != "coreml" or sys.platform == "darwin")


def open_runner(
    artifact: Artifact,
    *,
    threads: int = 1,
    isolated: bool = False,
    runtime: str | None = None,
    file: str | None = None,
) -> Runner:
    """Open a runner for an artifact; its runtime is imported now.

    Args:
        artifact: as :func:`converters.artifact.load_artifact` or export gave it.
        threads: CPU threads of the runtime.
        isolated: run in a child process with a timeout. Some runtimes abort the process on a file they cannot read;
            use this for artifacts that were not made just now. A runtime with ``own_process`` always does.
        runtime: one of :data:`RUNTIMES` for the artifact's target; None for the target's own. "coreml_evaluator"
            executes Core ML packages on any system, where "coreml" needs macOS.
        file: which of the artifact's runnable files; None for the main one, or where the runtime is an NPU, for the
            one that is compiled for it.
    Raises:
        ArtifactError: the artifact has no such file.
        ConfigError: the runtime does not execute artifacts of this target.
        MissingToolError: the runtime is not installed.
        RunnerError: the runtime cannot load the file, or cannot run here at all.
    """
    chosen = _checked_runtime(artifact, threads, runtime)
    artifact = with_main_file(artifact, file or files_for(artifact.meta, chosen.name)[0])
    if isolated or chosen.own_process:
        from converters.isolation import IsolatedRunner

        return IsolatedRunner(
            artifact,
            threads=threads,
            runtime=chosen.name,
            environment=chosen.environment_here(),
            timeout_s=chosen.timeout_s,
        )
    return open_here(artifact, threads=threads, runtime=chosen.name)


def open_here(artifact: Artifact, *, threads: int = 1, runtime: str | None = None) -> Runner:
    """As :func:`open_runner`, in this process whatever the runtime."""
    chosen = _checked_runtime(artifact, threads, runtime)
    module, _, name = chosen.runner.partition(":")
    make: Callable[..., Any] = getattr(import_module(f"converters.runners.{module}"), name)
    runner: Runner = make(artifact, threads=threads)
    return runner


def files_for(meta: ArtifactMeta, runtime: str) -> tuple[str, ...]:
    """The files that a runtime can be asked to run, the one it runs unasked first."""
    if meta.target != "qnn":
        return (meta.main_file,)
    return (*(name for name, emulator in _emulators(meta).items() if emulator == runtime), meta.main_file)


def _emulators(meta: ArtifactMeta) -> dict[str, str]:
    """Compiled file -> the runtime that has the arithmetic of its chip."""
    return {name: f"hexagon_{soc_of(entry, name).arithmetic}" for name, entry in (meta.compiled or {}).items()}


def _checked_runtime(artifact: Artifact, threads: int, runtime: str | None) -> Runtime:
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(f"threads must be a whole number of at least 1, got {threads!r}")
    target = artifact.meta.target
    runtimes = runtimes_of(target)
    if runtime is not None and runtime not in runtimes:
        raise ConfigError(f"runtime for {target} must be one of {', '.join(runtimes)}, got {runtime!r}")
    return RUNTIMES[runtime or runtimes[0]]
