"""Whether an artifact still does what it did when it was exported.

Runtimes run altered weights without a word, and hashes tell nothing once somebody has written them anew. So export
records what the artifact makes of one fixed tile, and :func:`open_checked_runner` compares before any picture is
trusted to it. The tile also shows what needs no record: weights that give NaN, or one flat colour whatever they see.
"""

from __future__ import annotations

import base64
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact import META_FILE, Artifact, ArtifactMeta, SelfTest, with_main_file, write_meta
from converters.runners import RUNTIMES, accuracy_runtimes, files_for, open_runner, runtimes_of
from edge_sr.errors import ArtifactError, ConversionError, MissingToolError, RunnerError
from edge_sr.quiet import quiet_native

if TYPE_CHECKING:  # it imports torch, which a board that only runs artifacts need not have
    from edge_sr.runner import Runner

Image = NDArray[np.uint8]

PATTERN = 1
# The samples fit into artifact.json (at most 6 KB) and fall on every position that a pixel shuffle has: no stride has a
# factor in common with a scale.
_SAMPLES_PER_SIDE = 40
_STRIDES = (1, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
# A picture that spans fewer levels than this, where the tile spans all, is no picture.
_LEAST_SPAN_LEVELS = 3


@dataclass(frozen=True, kw_only=True)
class _Tolerance:
    """Differences from the record within which a result is the same: their mean, and how many may be far off."""

    mean_levels: float
    far_levels: int
    far_percent: float = 2.0


# The same runtime on another processor rounds some values to the next level. Measured on the bundled w8a8 network: its
# SIMD kernels against its plain ones differ by 0.36 levels in the mean, with 0.4% of the values off by more than 2.
# Core ML's engines and the evaluator sum in other orders and keep half floats between.
_SAME_RUNTIME = _Tolerance(mean_levels=0.75, far_levels=2)
_OTHER_RUNTIME = _Tolerance(mean_levels=1.5, far_levels=6)
_EXACT = _Tolerance(mean_levels=0.0, far_levels=0, far_percent=0.0)
# An emulator that rounds otherwise, and a network that makes many levels of one rounding: the bundled idsa_net in v68
# differs from v73 by 1.84 in the mean, with 5.8% off by more than 6.
_OTHER_ARITHMETIC = _Tolerance(mean_levels=4.0, far_levels=6, far_percent=15.0)


@dataclass(frozen=True, kw_only=True)
class SelfTestResult:
    """How the samples compare with the record, in levels of 0 to 255; all zero where they are equal.

    Attributes:
        runtime, recorded_by: what computed the samples now, and at export; None where nothing was recorded.
        max_levels, mean_levels: largest and mean absolute difference.
        far_percent: share of values that are off by more than the tolerance of one value.
    """

    runtime: str
    recorded_by: str | None
    max_levels: int = 0
    mean_levels: float = 0.0
    far_percent: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def self_test_tile(height: int, width: int) -> Image:
    """The fixed tile, (height, width, 3) uint8: blocks of ramps, noise, lines, checkers and saturated colours.

    Whole-number arithmetic alone makes it, so it is the same on every machine and with every version of every library.
    """
    rows, columns, channels = np.mgrid[:height, :width, :3].astype(np.int64)
    block = max(2, min(height, width, 32) // 4)
    place = _hash(rows // block, columns // block, 0 * channels)
    noise = _hash(rows, columns, channels) % 256
    ramp = np.abs((rows * 9 + columns * 5 + channels * 85) % 510 - 255)
    checker = np.where((rows + columns) % 2 == 0, 255 - 40 * channels, 40 * channels)
    lines = np.where((columns + channels) % 4 < 2, 230, 25)
    saturated = np.where((place >> channels) % 2 == 0, 255, 0)
    faint = 120 + noise % 16
    return np.choose(place // 8 % 6, [ramp, noise, checker, lines, saturated, faint]).astype(np.uint8)


def record_self_test(meta: ArtifactMeta, folder: Path) -> ArtifactMeta:
    """Run freshly lowered files once; ``meta`` with what they make of the tile, or with a note why nothing could run.

    Args:
        meta: of the files in ``folder``.
        folder: where the files lie, the caller's alone: runtimes in other processes find ``artifact.json`` there.
    Raises:
        ConversionError: the target's own runtime refuses a file, or it gives no picture.
    """
    first, *others = accuracy_runtimes(meta)
    artifact = Artifact(path=folder, meta=meta)
    write_meta(folder / META_FILE, meta)
    try:
        with quiet_native():
            record = _record(artifact, first)
            if _is_exact(meta):
                made = [_record(artifact, runtime) for runtime in others]
                record = replace(record, others={one.runtime: one.pixels for one in made})
                _check_main_file(artifact, first, record)
    except MissingToolError as error:
        return _without(meta, error)
    except (RunnerError, ArtifactError) as error:
        if RUNTIMES[first].stand_in:
            return _without(meta, error)
        raise ConversionError(f"expected the exported file to run, got: {error}") from error
    return replace(meta, self_test=record)


def _record(artifact: Artifact, runtime: str) -> SelfTest:
    runner = open_runner(artifact, runtime=runtime)
    try:
        sr = _run(runner, artifact.meta)
    finally:
        _close(runner)
    if broken := _broken(sr):
        raise ConversionError(f"expected the exported network to give a picture, got {broken}; look at its weights")
    stride = _stride(sr)
    pixels = base64.b64encode(_samples(sr, stride).tobytes()).decode()
    return SelfTest(pattern=PATTERN, stride=stride, runtime=runner.name, pixels=pixels)


def _check_main_file(artifact: Artifact, runtime: str, record: SelfTest) -> None:
    """The file that others are compiled from runs too, and does what they do."""
    main = artifact.meta.main_file
    if files_for(artifact.meta, runtime)[0] == main:
        return
    runner = open_runner(artifact, runtime=runtime, file=main)
    try:
        samples = _samples(_run(runner, artifact.meta), record.stride)
        # Where parts are float, each compiler orders sums in its own way: near is enough.
        _compare(samples, replace(record, runtime="the compiled file"), runner.name, artifact)
    finally:
        _close(runner)


def open_checked_runner(
    artifact: Artifact, *, threads: int = 1, isolated: bool = False, runtime: str | None = None
) -> Runner:
    """As :func:`converters.runners.open_runner`, and the runner has shown on one tile that it does what export saw.

    Raises:
        RunnerError: also where the result differs from the record by more than another processor's rounding, or is one
            flat colour; the runner is closed then.
    """
    runner = open_runner(artifact, threads=threads, isolated=isolated, runtime=runtime)
    try:
        chosen = runtime or runtimes_of(artifact.meta.target)[0]
        sr = _run(runner, artifact.meta)
        _check_result(sr, runner, with_main_file(artifact, files_for(artifact.meta, chosen)[0]))
        _check_other_files(sr, runner, artifact, chosen)
    except BaseException:
        _close(runner)
        raise
    return runner


def check_self_test(runner: Runner, artifact: Artifact) -> SelfTestResult:
    """Run the tile and compare with the record, where the artifact has one.

    Raises:
        RunnerError: the result is flat, or is not what was recorded.
    """
    return _check_result(_run(runner, artifact.meta), runner, artifact)


def _check_result(sr: Image, runner: Runner, artifact: Artifact) -> SelfTestResult:
    if broken := _broken(sr):
        raise RunnerError(f"expected a picture from {artifact.main_path}, got {broken}: its weights are damaged")
    record = artifact.meta.self_test
    # A later release may draw another tile, whose record this one cannot compare.
    if record is None or record.pattern != PATTERN:
        return SelfTestResult(runtime=runner.name, recorded_by=None)
    kind = _kind(runner.name)
    record = record.of(next((name for name in record.others if _kind(name) == kind), record.runtime))
    samples = _samples(sr, record.stride)
    if samples.nbytes != len(record.samples):
        raise RunnerError(
            f"expected {samples.nbytes} bytes in the self-test of {artifact.path}, got {len(record.samples)}; "
            "export the artifact again"
        )
    return _compare(samples, record, runner.name, artifact)


def _check_other_files(sr: Image, runner: Runner, artifact: Artifact, runtime: str) -> None:
    """Files compiled for other chips of the same arithmetic compute the very same; RunnerError where one does not."""
    meta = artifact.meta
    for name in files_for(meta, runtime)[1:]:
        if name == meta.main_file:
            continue
        other = open_runner(artifact, runtime=runtime, file=name)
        try:
            same = np.array_equal(_run(other, meta), sr)
        finally:
            _close(other)
        if not same:
            raise RunnerError(
                f"expected {artifact.path / name} to give the very picture of {runner.name}, got another: the file is "
                "damaged; export the artifact again"
            )


def _compare(samples: Image, record: SelfTest, runtime: str, artifact: Artifact) -> SelfTestResult:
    expected = np.frombuffer(record.samples, np.uint8).reshape(samples.shape)
    off = np.abs(samples.astype(np.int16) - expected)
    tolerance = _tolerance(artifact.meta, runtime, record.runtime)
    result = SelfTestResult(
        runtime=runtime,
        recorded_by=record.runtime,
        max_levels=int(off.max()),
        mean_levels=float(off.mean()),
        far_percent=float(100 * np.mean(off > tolerance.far_levels)),
    )
    if result.mean_levels > tolerance.mean_levels or result.far_percent > tolerance.far_percent:
        raise RunnerError(
            f"expected {artifact.main_path} to give the picture it gave when it was exported, got one that differs by "
            f"{result.mean_levels:.3g} levels in the mean and {result.max_levels} at most: the file or {runtime} is "
            "damaged; export the artifact again"
        )
    return result


def _tolerance(meta: ArtifactMeta, runtime: str, recorded: str) -> _Tolerance:
    exact = _is_exact(meta)
    if exact and runtime == recorded:
        return _EXACT
    if _kind(runtime) == _kind(recorded):
        return _SAME_RUNTIME
    return _OTHER_ARITHMETIC if exact else _OTHER_RUNTIME


def _is_exact(meta: ArtifactMeta) -> bool:
    return not meta.is_float and all(RUNTIMES[name].exact for name in runtimes_of(meta.target))


def _run(runner: Runner, meta: ArtifactMeta) -> Image:
    sr = runner.run(self_test_tile(*meta.tile))
    expected = (meta.scale * meta.tile[0], meta.scale * meta.tile[1], 3)
    if sr.shape != expected:
        raise RunnerError(f"expected a picture of {expected}, got {sr.shape} from {runner.name}")
    return sr


def _broken(sr: Image) -> str | None:
    """What is wrong with a picture made of the tile, in words; None where it is one."""
    spans = np.ptp(sr.reshape(-1, 3), axis=0)
    flat = [name for name, span in zip(("red", "green", "blue"), spans, strict=True) if span < _LEAST_SPAN_LEVELS]
    if not flat:
        return None
    return "one flat colour" if len(flat) == 3 else f"constant {' and '.join(flat)}"


def _without(meta: ArtifactMeta, error: Exception) -> ArtifactMeta:
    return replace(meta, notes=(*meta.notes, f"no self-test was recorded: {error}"))


def _stride(sr: Image) -> int:
    side = max(sr.shape[:2])
    return next((stride for stride in _STRIDES if side <= stride * _SAMPLES_PER_SIDE), _STRIDES[-1])


def _samples(sr: Image, stride: int) -> Image:
    return np.ascontiguousarray(sr[::stride, ::stride])


def _close(runner: Runner) -> None:
    """End the process of a runner that has one."""
    close = getattr(runner, "close", None)
    if close is not None:
        close()


def _kind(runtime: str) -> str:
    """The runtime's name without its version: versions of one runtime round alike."""
    return re.sub(r"\b\d[\d.]*", "", runtime)


def _hash(rows: NDArray[np.int64], columns: NDArray[np.int64], channels: NDArray[np.int64]) -> NDArray[np.int64]:
    mixed = rows * 73856093 + columns * 19349663 + channels * 83492791
    mixed = (mixed ^ (mixed >> 13)) * 2654435761 % 2**32
    return (mixed ^ (mixed >> 15)) % 2**20
