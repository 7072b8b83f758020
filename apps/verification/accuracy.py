"""Accuracy of the artifacts themselves, each in its own runtime, beside the float network they came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.progress import Progress, quiet
from apps.results import VerifyReport, VerifyRow
from apps.weights import Weights, resolve_weights
from converters.artifact import Artifact, ArtifactMeta, load_artifact, record_measured
from converters.runners import accuracy_runtimes, open_runner
from edge_sr.checkpoints import bundled_checkpoint, sha256_file
from edge_sr.datasets import ImageSet, load_image_sets
from edge_sr.errors import CheckpointError, ConfigError, GateError, RunnerError
from edge_sr.evaluation import SetScore, evaluate_set
from edge_sr.runner import Runner, TorchRunner
from edge_sr.tiling import upscale_image

Image = NDArray[np.uint8]


def verify_artifacts(
    paths: Sequence[Path],
    *,
    data: Path | None = None,
    sets: Sequence[str] | None = None,
    max_drop_db: float | None = None,
    checkpoint: Path | None = None,
    threads: int = 1,
    isolated: bool = True,
    record: bool = False,
    progress: Progress = quiet,
) -> VerifyReport:
    """Score artifacts on image sets and split what they lose against the float network.

    Args:
        paths: artifact folders.
        data: folder of benchmark sets, or of images; None for the sample photos that come with scikit-image.
        sets: names of the sets in ``data``; None for all of them.
        max_drop_db: the gate: most decibels that an artifact may lose on any set against the float network on whole
            images. None for no gate. See :func:`check_gate`.
        checkpoint: float checkpoint to compare with; default the bundled one of the artifact's model and scale.
        threads: CPU threads of the runtimes.
        isolated: run each artifact in a child process with a timeout, because runtimes may abort on a bad file.
        record: write the scores into each ``artifact.json``.
        progress: called after each image.
    Returns:
        one row per artifact, runtime and set, in that order. A Core ML package is executed by the evaluator, and on
        macOS by Core ML as well.
    Raises:
        ArtifactError: a folder is missing, damaged or altered. All are checked before any is run.
        CheckpointError: the float network is not the one an artifact was made from.
        ConfigError, DataError: nothing to verify, or no such data.
    """
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    if max_drop_db is not None and not math.isfinite(max_drop_db):
        raise ConfigError(f"max drop must be a number of dB, got {max_drop_db}, use 0.05, say")
    artifacts = [load_artifact(Path(path)) for path in paths]
    networks = _FloatNetworks(checkpoint, progress)
    for artifact in artifacts:
        networks.check(artifact)
    image_sets = {
        scale: load_image_sets(data, sets, scale) for scale in dict.fromkeys(entry.meta.scale for entry in artifacts)
    }
    rows: list[VerifyRow] = []
    for artifact in artifacts:
        for runtime in accuracy_runtimes(artifact.meta.target):
            own = _verify_one(artifact, runtime, image_sets[artifact.meta.scale], networks, threads, isolated, progress)
            if record and not any(row.artifact is None for row in own):
                name = "verified" if runtime == artifact.meta.target else f"verified_in_{runtime}"
                artifact = record_measured(artifact, {name: {row.set_name: _measured(row) for row in own}})
            rows += own
    failures = () if max_drop_db is None else gate_failures(rows, max_drop_db)
    return VerifyReport(rows=tuple(rows), max_drop_db=max_drop_db, gate_failures=failures)


def gate_failures(rows: Sequence[VerifyRow], max_drop_db: float) -> tuple[str, ...]:
    """One line for each row that breaks the gate.

    A row that could not run here neither passes nor fails; if nothing could run, that is a failure of its own, because
    nothing was shown.
    """
    lines = []
    for row in rows:
        drop = row.drop_db
        # "not <=", so that a NaN fails.
        if drop is not None and not drop <= max_drop_db:
            lines.append(
                f"{row.label} on {row.set_name}: expected a drop of at most {max_drop_db:g} dB, got {drop:.3f} dB "
                f"(tiling {row.tiling_drop_db:+.3f}, quantization {row.quantization_drop_db:+.3f})"
            )
        elif row.failed:
            lines.append(f"{row.label} on {row.set_name}: expected a score, got none: {row.reason}")
    if not lines and all(row.artifact is None for row in rows):
        lines.append("expected at least one artifact that runs here, got none, so the gate has nothing to go by")
    return tuple(lines)


def check_gate(report: VerifyReport) -> None:
    """Raise GateError with the first broken promise, where there is one."""
    if report.gate_failures:
        raise GateError(report.gate_failures[0])


def _verify_one(
    artifact: Artifact,
    runtime: str,
    image_sets: Sequence[ImageSet],
    networks: _FloatNetworks,
    threads: int,
    isolated: bool,
    progress: Progress,
) -> list[VerifyRow]:
    meta = artifact.meta
    scores: list[SetScore | None] = [None] * len(image_sets)
    reason: str | None = None
    try:
        runner = open_runner(artifact, threads=threads, isolated=isolated, runtime=runtime)
        with closing_runner(runner):
            for index, image_set in enumerate(image_sets):
                scores[index] = score(runner, image_set, artifact.path.name, meta.overlap, progress)
    except RunnerError as error:
        reason = str(error)
    return [
        VerifyRow(
            artifact_path=artifact.path,
            model=meta.model,
            scheme=meta.scheme,
            target=meta.target,
            runtime=runtime,
            tile=meta.tile,
            overlap=meta.overlap,
            float_whole=networks.whole(meta, image_set),
            float_tiled=networks.tiled(meta, image_set),
            artifact=own,
            reason=None if own is not None else reason,
            failed=own is None,
        )
        for image_set, own in zip(image_sets, scores, strict=True)
    ]


def closing_runner(runner: Runner) -> Any:
    """A context that closes the runner where it holds something to close (a child process)."""
    close: Callable[[], None] | None = getattr(runner, "close", None)
    return nullcontext(runner) if close is None else closing(runner)


def score(runner: Runner, image_set: ImageSet, what: str, overlap: int, progress: Progress) -> SetScore:
    """Score any runner on a set; ``what`` names it in the progress."""
    label = f"{what} on {image_set.name}"
    return evaluate_set(
        lambda lr: upscale_image(runner, lr, overlap=overlap),
        image_set,
        progress=lambda done, total: progress(label, done, total),
    )


class _FloatNetworks:
    """Float networks and their scores, each loaded and run once however many artifacts are compared with it."""

    def __init__(self, checkpoint: Path | None, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._loaded: dict[tuple[str, int], Weights] = {}
        self._scores: dict[tuple[Any, ...], SetScore] = {}

    def check(self, artifact: Artifact) -> None:
        """Raise CheckpointError unless the float network is the one that ``artifact`` descends from."""
        meta = artifact.meta
        loaded = self.load(meta.model, meta.scale)
        if meta.checkpoint_sha256 == loaded.checkpoint_sha256:
            return
        if meta.scheme in ("fp32", "fp16") or (self._checkpoint is None and not _is_bundled_quantized(meta)):
            raise CheckpointError(
                f"expected the float checkpoint that {artifact.path.name} was made from "
                f"({meta.checkpoint_sha256[:12]}...), got {loaded.checkpoint_sha256[:12]}..., name it with --checkpoint"
            )

    def load(self, model: str, scale: int) -> Weights:
        key = (model, scale)
        if key not in self._loaded:
            self._loaded[key] = resolve_weights(model, scale, "fp32", checkpoint=self._checkpoint)
        return self._loaded[key]

    def whole(self, meta: ArtifactMeta, image_set: ImageSet) -> SetScore:
        return self._score(meta, image_set, None, 0)

    def tiled(self, meta: ArtifactMeta, image_set: ImageSet) -> SetScore:
        return self._score(meta, image_set, meta.tile, meta.overlap)

    def _score(self, meta: ArtifactMeta, image_set: ImageSet, tile: tuple[int, int] | None, overlap: int) -> SetScore:
        key = (meta.model, meta.scale, image_set.name, tile, overlap)
        if key not in self._scores:
            network = self.load(meta.model, meta.scale).network
            what = "float network, " + ("whole images" if tile is None else f"tiles {tile[0]}x{tile[1]}")
            runner = TorchRunner(network, name="float", tile=tile)
            self._scores[key] = score(runner, image_set, what, overlap, self._progress)
        return self._scores[key]


def _is_bundled_quantized(meta: ArtifactMeta) -> bool:
    try:
        path = bundled_checkpoint(meta.model, meta.scale, meta.scheme)
    except CheckpointError:
        return False
    return sha256_file(path) == meta.checkpoint_sha256


def _measured(row: VerifyRow) -> dict[str, Any]:
    kept = ("psnr_y_db", "ssim", "drop_db", "tiling_drop_db", "quantization_drop_db")
    full = row.to_json()
    return {name: full[name] for name in kept}
