"""Everything that can be said of artifacts without a phone: accuracy, drops, agreement, seams, colours, ARM."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from apps.progress import Progress, quiet
from apps.results import Result, plain
from apps.verification.accuracy import VerifyReport, verify_artifacts
from apps.verification.agreement import AgreementMatrix, measure_agreement
from apps.verification.arm import ArmCheck, check_arm, why_no_arm
from apps.verification.colour_card import ColourCard, run_colour_card
from apps.verification.full_checks import agreement_checks, arm_checks, colour_checks, seam_checks
from apps.verification.gate import GateCheck, GateLimits, check_rows, failure_lines
from apps.verification.references import References
from apps.verification.seam_certificate import SeamCertificate
from apps.verification.seams import certify_seams, reach_of
from apps.verification.waterfall import WaterfallReport, measure_waterfall
from converters.artifact import Artifact, load_artifact
from converters.export import export_artifact
from edge_sr.errors import ConfigError, EdgeSRError, MissingToolError

# An emulated tile: enough for every kernel, seconds in the emulator.
_ARM_TILE = (32, 32)
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class FullReport:
    """All parts of a full verification, and the gate's checks over all of them.

    ``problems`` are checks that a part could not be made (failed), or that a tool is missing for it (skipped).
    ``seconds`` maps a part to the wall time it took.
    """

    verify: VerifyReport
    waterfall: WaterfallReport
    agreement: tuple[AgreementMatrix, ...]
    seams: tuple[SeamCertificate, ...]
    colour_cards: tuple[ColourCard, ...]
    arm: tuple[ArmCheck, ...]
    problems: tuple[GateCheck, ...]
    seconds: dict[str, float]

    @property
    def checks(self) -> tuple[GateCheck, ...]:
        """Of every part, in the order of the report."""
        return (
            *self.verify.checks,
            *agreement_checks(self.agreement),
            *seam_checks(self.seams),
            *colour_checks(self.colour_cards),
            *arm_checks(self.arm),
            *self.problems,
        )

    def to_json(self) -> dict[str, Any]:
        parts: dict[str, Sequence[Result]] = {
            "agreement": self.agreement,
            "seams": self.seams,
            "colour_cards": self.colour_cards,
            "arm": self.arm,
        }
        return {
            "seconds": plain(self.seconds),
            "gate_failures": list(failure_lines(self.checks)),
            "checks": [check.to_json() for check in self.checks],
            "verify": self.verify.to_json(),
            "waterfall": self.waterfall.to_json(),
            **{name: [entry.to_json() for entry in part] for name, part in parts.items()},
        }


def verify_fully(
    paths: Sequence[Path],
    *,
    data: Path | None = None,
    sets: Sequence[str] | None = None,
    limits: GateLimits | None = None,
    checkpoints: Sequence[Path] = (),
    calibration: Path | None = None,
    threads: int = 1,
    jobs: int = 2,
    record: bool = False,
    progress: Progress = quiet,
) -> FullReport:
    """Make every check of the artifacts; a part that fails for one artifact costs that part only.

    Args:
        paths: artifact folders.
        data, sets: as :func:`edge_sr.datasets.load_image_sets` takes them.
        limits: of the gate.
        checkpoints: float and quantized checkpoints behind the artifacts, where those are not bundled.
        calibration: folder of the images that post-training quantization calibrated on; default the sample photos.
        threads: CPU threads of the runtimes.
        jobs: artifacts that are looked at side by side, each in a process of its own.
        record: write the scores into each ``artifact.json``.
        progress: called throughout.
    Raises:
        ArtifactError: a folder is missing, damaged or altered. All are checked before any is run.
        CheckpointError: the networks that the artifacts were made from are not all known.
        ConfigError, DataError: nothing to verify, or no such data.
    """
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}")
    artifacts = [load_artifact(Path(path)) for path in paths]
    references = References(checkpoints, calibration=calibration, progress=progress)
    for artifact in artifacts:
        references.float_network(artifact.meta)
        references.network(artifact.meta)
    work = _Work(artifacts=artifacts, references=references, jobs=jobs, progress=progress)
    asked = GateLimits() if limits is None else limits

    def scored(artifact: Artifact) -> VerifyReport:
        return verify_artifacts(
            [artifact.path],
            data=data,
            sets=sets,
            references=references,
            threads=threads,
            record=record,
            progress=progress,
        )

    reports = work.each("accuracy", scored)
    rows = tuple(row for report in reports for row in report.rows)
    notices = tuple(dict.fromkeys(line for report in reports for line in report.notices))
    verify = VerifyReport(rows=rows, limits=asked, checks=check_rows(rows, asked), notices=notices)
    waterfall = work.whole(
        "waterfall",
        lambda: measure_waterfall(
            artifacts,
            data=data,
            sets=sets,
            references=references,
            verified=verify,
            threads=threads,
            progress=progress,
        ),
        WaterfallReport(rows=()),
    )
    agreement: tuple[AgreementMatrix, ...] = work.whole(
        "agreement",
        lambda: measure_agreement(
            artifacts, data=data, sets=sets, references=references, threads=threads, thorough=True, progress=progress
        ),
        (),
    )
    reaches = {network: reach_of(network) for network in dict.fromkeys(map(work.network, artifacts))}
    seams = work.each(
        "seams",
        lambda artifact: certify_seams(
            artifact,
            data=data,
            sets=sets,
            references=references,
            reach=reaches[work.network(artifact)],
            threads=threads,
            photos_per_set=1,
            progress=progress,
        ),
    )
    colour_cards = work.each(
        "colour card",
        lambda artifact: run_colour_card(artifact, references=references, threads=threads, progress=progress),
    )
    arm = tuple(check for found in work.each("ARM numerics", work.check_arm, side_by_side=False) for check in found)
    return FullReport(
        verify=verify,
        waterfall=waterfall,
        agreement=agreement,
        seams=seams,
        colour_cards=colour_cards,
        arm=arm,
        problems=tuple(work.problems),
        seconds=work.seconds,
    )


@dataclass(kw_only=True)
class _Work:
    """Runs the parts, and keeps what went wrong and how long each took."""

    artifacts: Sequence[Artifact]
    references: References
    jobs: int
    progress: Progress
    problems: list[GateCheck] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def network(self, artifact: Artifact) -> nn.Module:
        """The network in PyTorch that an artifact was lowered from."""
        return self.references.network(artifact.meta)

    def each(self, part: str, make: Callable[[Artifact], Made], *, side_by_side: bool = True) -> tuple[Made, ...]:
        """What a part gives for every artifact, those left out for which it failed.

        Args:
            part: its name, for problems and times.
            make: must not trace networks where it runs ``side_by_side``: torch.fx patches every module's call.
            side_by_side: in several threads; else one after another.
        """
        start = time.monotonic()

        def attempt(artifact: Artifact) -> list[Made]:
            try:
                return [make(artifact)]
            except EdgeSRError as error:
                self.problems.append(_problem(part, artifact.path.name, error))
                return []

        with ThreadPoolExecutor(self.jobs if side_by_side else 1) as pool:
            made = [entry for found in pool.map(attempt, self.artifacts) for entry in found]
        self.seconds[part] = time.monotonic() - start
        return tuple(made)

    def whole(self, part: str, make: Callable[[], Made], otherwise: Made) -> Made:
        """What a part gives for all artifacts together."""
        start = time.monotonic()
        try:
            return make()
        except EdgeSRError as error:
            self.problems.append(_problem(part, "", error))
            return otherwise
        finally:
            self.seconds[part] = time.monotonic() - start

    def check_arm(self, artifact: Artifact) -> tuple[ArmCheck, ...]:
        """ARM numerics of a TFLite artifact; one of larger tiles is exported again, small."""
        if artifact.meta.target != "tflite":
            return ()
        if missing := why_no_arm():
            raise MissingToolError(missing)
        if max(artifact.meta.tile) <= max(_ARM_TILE):
            return check_arm(artifact, progress=self.progress)
        with tempfile.TemporaryDirectory(prefix="edge-sr-arm-") as folder:
            small = export_artifact(
                network=self.network(artifact),
                scheme=artifact.meta.scheme,
                target="tflite",
                tile=_ARM_TILE,
                out_dir=Path(folder),
                overlap=0,
                checkpoint_sha256=artifact.meta.checkpoint_sha256,
                calibration_sha256=artifact.meta.calibration_sha256,
            )
            return check_arm(small, progress=self.progress)


def _problem(part: str, artifact: str, error: EdgeSRError) -> GateCheck:
    skipped = isinstance(error, MissingToolError)
    return GateCheck(name=part, artifact=artifact, status="skipped" if skipped else "failed", message=str(error))
