"""Where an artifact's time goes on this machine, layer by layer.

Two methods, by what a runtime gives:

- ``operator profile`` (TFLite): LiteRT's own profiler times every operator in place, in the very file, see
  :mod:`apps.profiling.litert_ops`. Its clock counts whole microseconds, cut off: an operator of a few microseconds is
  known roughly, and each is up to one microsecond too cheap, which ends up in the residual.
- ``prefixes`` (ExecuTorch): the executorch wheel is built without its event tracer (1.4.1: the trace is empty), so the
  network is lowered again and again, cut later and later; a layer is what a cut costs more than the one before it, see
  :mod:`apps.profiling.prefixes`. A layer is then a convolution with all that follows until the next one. Each cut gives
  its open values out, in float: what that costs is in the differences, and may make a cheap layer negative.

Either way the whole is timed too, in turns with the parts, and what the parts leave of it is the residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.lint.graph import Graph, Op
from apps.lint.reader import read_operators
from apps.profiling.layer_names import op_label, same_operator
from apps.profiling.layer_results import OPERATOR_PROFILE, PREFIXES, LayerCost, LayerProfile, quantile
from apps.progress import Progress, quiet
from converters.artifact import Artifact, load_artifact
from converters.isolation import run_in_child
from edge_sr.errors import ConfigError

_STARTUP_SECONDS = 180.0


def profile_layers(
    artifact: Path,
    *,
    checkpoint: Path | None = None,
    calibration: Path | None = None,
    threads: int = 1,
    runs: int = 50,
    max_seconds: float = 30.0,
    progress: Progress = quiet,
) -> LayerProfile:
    """Time every layer of an artifact on this machine, in a child process.

    Args:
        artifact: folder of a TFLite or ExecuTorch artifact.
        checkpoint: where the weights of an ExecuTorch artifact are; default those bundled. TFLite needs none.
        calibration: folder of the calibration images, where such an artifact was quantized on other than the samples.
        threads: CPU threads.
        runs: timed runs of everything.
        max_seconds: stop timing after this long (at least ten runs, or six rounds of prefixes, are always made).
        progress: called while the network is cut and lowered, and around the timing.
    Raises:
        ConfigError: a number is out of range, or the target cannot be looked into on this machine.
        ArtifactError: the folder is missing, damaged or altered.
        CheckpointError: the weights behind an ExecuTorch artifact are not at hand.
        MissingToolError, ConversionError, RunnerError: the toolchain or the runtime is missing or refused.
    """
    if threads < 1 or runs < 1 or max_seconds <= 0:
        raise ConfigError(f"threads, runs and seconds must be positive, got {threads}, {runs} and {max_seconds}")
    loaded = load_artifact(Path(artifact))
    if loaded.meta.target == "tflite":
        return _operator_profile(loaded, threads, runs, max_seconds, progress)
    if loaded.meta.target == "executorch":
        from apps.profiling.prefixes import profile_prefixes

        checkpoints = () if checkpoint is None else (checkpoint,)
        cuts = profile_prefixes(
            loaded,
            checkpoints=checkpoints,
            calibration=calibration,
            threads=threads,
            runs=runs,
            max_seconds=max_seconds,
            progress=progress,
        )
        return prefix_profile(loaded, threads, cuts, macs=file_macs(loaded))
    why = "its runtime tells of layers on a Mac only; use edge-sr profile --device apple there"
    if loaded.meta.target != "coreml":
        why = "nothing here takes the time that its chip takes; give one of those"
    raise ConfigError(f"layers are timed of tflite and executorch artifacts, got {loaded.meta.target}: {why}")


def file_macs(artifact: Artifact) -> int:
    """Multiply-accumulates of one run of an artifact's main file."""
    return file_graph(artifact).macs


def file_graph(artifact: Artifact) -> Graph:
    """The operators of an artifact's main file."""
    if artifact.meta.target not in ("tflite", "executorch"):
        raise ConfigError(f"expected a tflite or executorch artifact, got {artifact.meta.target}; give another")
    return read_operators(artifact.main_path, artifact.meta.target)


def _operator_profile(
    artifact: Artifact, threads: int, runs: int, max_seconds: float, progress: Progress
) -> LayerProfile:
    what = f"operators of {artifact.path.name}"
    progress(what, 0, 1)
    arguments = {
        "artifact": str(artifact.path.resolve()),
        "threads": threads,
        "runs": runs,
        "max_seconds": max_seconds,
    }
    limit = _STARTUP_SECONDS + 10.0 * max_seconds
    measured = run_in_child("apps.profiling.litert_ops:profile_ops", arguments, timeout_s=limit)
    progress(what, 1, 1)
    return operator_profile(artifact, threads, measured, file_graph(artifact))


def operator_profile(artifact: Artifact, threads: int, measured: dict[str, Any], graph: Graph) -> LayerProfile:
    """Put what :func:`apps.profiling.litert_ops.profile_ops` returned beside the file's operators."""
    names: Sequence[str] = measured["names"]
    notes = [f"{OPERATOR_PROFILE}: LiteRT's own, in whole microseconds (cut off)"]
    ops: list[Op | None] = [*graph.ops]
    if len(names) != len(ops) or not all(same_operator(n, op.kind) for n, op in zip(names, graph.ops, strict=True)):
        ops = [None] * len(names)
        notes.append(
            f"the runtime ran {len(names)} operators for the file's {len(graph.ops)}, in another order: "
            "MACs and names cannot be assigned to them"
        )
    layers = tuple(
        LayerCost(
            name=op_label(op) if op is not None else f"#{index}",
            kind=op.kind if op is not None else kernel,
            kernel=kernel,
            macs=op.macs if op is not None else None,
            samples_ms=tuple(sample / 1000.0 for sample in samples),
        )
        for index, (kernel, op, samples) in enumerate(zip(names, ops, measured["op_us"], strict=True))
    )
    whole, profiled = quantile(measured["plain_ms"], 0.5), quantile(measured["invoke_us"], 0.5) / 1000.0
    notes.append(f"with the profiler the whole takes {profiled:.3f} ms, without it {whole:.3f} ms")
    return LayerProfile(
        **_identity(artifact, threads),
        method=OPERATOR_PROFILE,
        layers=layers,
        total_samples_ms=tuple(measured["plain_ms"]),
        macs=graph.macs,
        notes=tuple(notes),
    )


def prefix_profile(artifact: Artifact, threads: int, cuts: Any, *, macs: int) -> LayerProfile:
    """Turn the times of cuts into layers: in each round, each cut's median less that of the one before it.

    Args:
        cuts: an :class:`apps.profiling.prefixes.TimedCuts`.
        macs: of the whole file.
    """
    rounds = [[quantile(samples, 0.5) for samples in cut] for cut in cuts.samples_ms]
    before = [0.0] * len(rounds[0])
    layers = []
    for cut, medians in zip(cuts.cuts, rounds, strict=True):
        samples = tuple(now - earlier for now, earlier in zip(medians, before, strict=True))
        layers.append(LayerCost(name=cut.name, kind=cut.kind, kernel="", macs=cut.macs, samples_ms=samples))
        before = medians
    limits = "cuts give open values out in float, so a cheap layer may be negative"
    notes = [f"{PREFIXES}: differences between cuts of the network, lowered again; {limits}"]
    counted = sum(cut.macs for cut in cuts.cuts)
    if counted != macs:
        notes.append(f"convolutions hold {counted:,} of the file's {macs:,} MACs; no layer has the others")
    return LayerProfile(
        **_identity(artifact, threads),
        method=PREFIXES,
        layers=tuple(layers),
        total_samples_ms=tuple(quantile(samples, 0.5) for samples in cuts.whole_ms),
        macs=macs,
        notes=tuple(notes),
    )


def _identity(artifact: Artifact, threads: int) -> dict[str, Any]:
    meta = artifact.meta
    return {
        "artifact_path": artifact.path,
        "model": meta.model,
        "scheme": meta.scheme,
        "target": meta.target,
        "tile": meta.tile,
        "threads": threads,
    }
