"""Accuracy of the artifacts themselves, each in its own runtime, beside the float network they came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.progress import Progress, quiet
from apps.verification.gate import GateCheck, GateLimits, check_rows, failure_lines
from apps.verification.references import References
from apps.verification.rows import VerifyRow
from apps.verification.scoring import closing_runner, score
from converters.artifact import Artifact, load_artifact, record_measured
from converters.runners import RUNTIMES, accuracy_runtimes
from converters.self_test import open_checked_runner
from edge_sr.datasets import ImageSet
from edge_sr.errors import ConfigError, MissingToolError, RunnerError
from edge_sr.evaluation import SetScore
from edge_sr.lr_check import check_lr_matches
from edge_sr.metrics import ONE_LEVEL_DB, PSNR_CAP_DB
from edge_sr.scorable import load_scorable_sets


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """All artifacts on all sets, what was asked of them, and what the gate said.

    ``notices`` are lines about the image sets that a reader of their scores should see.
    """

    rows: tuple[VerifyRow, ...]
    limits: GateLimits
    checks: tuple[GateCheck, ...]
    notices: tuple[str, ...] = ()

    @property
    def gate_failures(self) -> tuple[str, ...]:
        """One line per broken promise, worst first."""
        return failure_lines(self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "limits": asdict(self.limits),
            "gate_failures": list(self.gate_failures),
            "notices": list(self.notices),
            "checks": [check.to_json() for check in self.checks],
            "rows": [row.to_json() for row in self.rows],
        }


def verify_artifacts(
    paths: Sequence[Path],
    *,
    data: Path | None = None,
    sets: Sequence[str] | None = None,
    limits: GateLimits | None = None,
    checkpoints: Sequence[Path] = (),
    references: References | None = None,
    threads: int = 1,
    isolated: bool = True,
    record: bool = False,
    thorough: bool = False,
    progress: Progress = quiet,
) -> VerifyReport:
    """Score artifacts on image sets and split what they lose against the float network.

    Args:
        paths: artifact folders.
        data: folder of benchmark sets, or of images; None for the sample photos that come with scikit-image.
        sets: names of the sets in ``data``; None for all of them.
        limits: the gate; None asks nothing. Broken promises are in the report's ``checks``, see
            :func:`apps.verification.gate.enforce`.
        checkpoints: float and quantized checkpoints that the artifacts were made from, where those are not bundled.
        references: networks that are loaded already, in place of ``checkpoints``.
        threads: CPU threads of the runtimes.
        isolated: run each artifact in a child process with a timeout, because runtimes may abort on a bad file.
        record: write the scores into each ``artifact.json``.
        thorough: in slow runtimes too, see :func:`converters.runners.accuracy_runtimes`; hours for large sets.
        progress: called after each image.
    Returns:
        one row per artifact, runtime and set, in that order. A Core ML package is executed by the evaluator, and on
        macOS by Core ML as well.
    Raises:
        ArtifactError: a folder is missing, damaged or altered. All are checked before any is run.
        CheckpointError: the float network that an artifact descends from is not among those known.
        ConfigError, DataError: nothing to verify, or no such data.
    """
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    artifacts = [load_artifact(Path(path)) for path in paths]
    known = References(checkpoints, progress=progress) if references is None else references
    for artifact in artifacts:
        known.float_network(artifact.meta)
    image_sets = {
        scale: load_scorable_sets(data, sets, scale) for scale in dict.fromkeys(entry.meta.scale for entry in artifacts)
    }
    rows: list[VerifyRow] = []
    for artifact in artifacts:
        for runtime in accuracy_runtimes(artifact.meta, thorough=thorough):
            own = _verify_one(artifact, runtime, image_sets[artifact.meta.scale], known, threads, isolated, progress)
            if record and not any(row.artifact is None for row in own):
                name = "verified" if runtime == artifact.meta.target else f"verified_in_{runtime}"
                artifact = record_measured(artifact, {name: {row.set_name: _measured(row) for row in own}})
            rows += own
    asked = GateLimits() if limits is None else limits
    notices = [line for found in image_sets.values() for image_set in found for line in _notices(image_set)]
    notices += dict.fromkeys(line for row in rows for line in _capped(row))
    return VerifyReport(rows=tuple(rows), limits=asked, checks=check_rows(rows, asked), notices=tuple(notices))


def _verify_one(
    artifact: Artifact,
    runtime: str,
    image_sets: Sequence[ImageSet],
    references: References,
    threads: int,
    isolated: bool,
    progress: Progress,
) -> list[VerifyRow]:
    meta, path = artifact.meta, artifact.path
    what = path.name if runtime == meta.target else f"{RUNTIMES[runtime].title}: {path.name}"
    scores: list[SetScore | None] = [None] * len(image_sets)
    reason: str | None = None
    try:
        runner = open_checked_runner(artifact, threads=threads, isolated=isolated, runtime=runtime)
        with closing_runner(runner):
            for index, image_set in enumerate(image_sets):
                scores[index] = score(runner, image_set, what, meta.overlap, progress)
    except RunnerError as error:
        reason = str(error)
    except MissingToolError as error:
        if not RUNTIMES[runtime].thorough:  # what everybody is asked to install
            raise
        reason = str(error)
    return [
        VerifyRow(
            artifact_path=path,
            model=meta.model,
            scheme=meta.scheme,
            target=meta.target,
            runtime=runtime,
            tile=meta.tile,
            overlap=meta.overlap,
            float_whole=references.float_whole(meta, path, image_set),
            float_tiled=references.float_tiled(meta, path, image_set),
            artifact=own,
            reason=None if own is not None else reason,
            failed=own is None,
        )
        for image_set, own in zip(image_sets, scores, strict=True)
    ]


def _notices(image_set: ImageSet) -> tuple[str, ...]:
    """What a reader of the set's scores should know: how it was found, and LR files that bicubic did not make."""
    return (*image_set.notices, *check_lr_matches(image_set).notices)


def _capped(row: VerifyRow) -> Iterator[str]:
    """What a reader should know of images so good that their PSNR does not count in full."""
    scores = [score for score in (row.float_whole, row.float_tiled, row.artifact) if score is not None]
    if row.capped:
        yield (
            f"{row.set_name}: a result identical to the original counts as {PSNR_CAP_DB:g} dB in a mean: "
            f"{', '.join(row.capped)}"
        )
    good = dict.fromkeys(image.name for score in scores for image in score.images if image.psnr_y_db > ONE_LEVEL_DB)
    if good:
        yield (
            f"{row.set_name}: drops count no dB beyond {ONE_LEVEL_DB:.2f}, which is one level everywhere, and which is "
            f"reached on {', '.join(good)}"
        )


def _measured(row: VerifyRow) -> dict[str, Any]:
    kept = ("psnr_y_db", "ssim", "drop_db", "tiling_drop_db", "quantization_drop_db")
    full = row.to_json()
    return {name: full[name] for name in kept}
