"""The main job in one call: export, verify, profile, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.exporting import DEFAULT_TILE, ExportReport, export_artifacts
from apps.profiling.host import profile_artifacts
from apps.progress import Progress, quiet
from apps.report import Comparison, Showcase, SummaryRow, make_showcase, mean_psnr, summarize, write_report
from apps.results import ProfileReport, envelope, write_json
from apps.verification.accuracy import VerifyReport, verify_artifacts
from apps.verification.rows import VerifyRow
from apps.verification.scoring import closing_runner
from apps.weights import resolve_weights
from converters.artifact import Artifact, load_artifact
from converters.self_test import open_checked_runner
from converters.targets import DEFAULT_TARGETS
from edge_sr.datasets import ImagePair, ImageSet
from edge_sr.errors import ConfigError
from edge_sr.evaluation import SetScore, image_drops, score_bicubic
from edge_sr.foreign_files import parse_json
from edge_sr.metrics import psnr_y
from edge_sr.resize import bicubic_resize
from edge_sr.runner import TorchRunner
from edge_sr.scorable import load_scorable_sets
from edge_sr.tiling import upscale_image

Image = NDArray[np.uint8]

DEFAULT_OUT = Path("out/demo")


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """Everything the demo made.

    ``summary`` has one row per artifact; ``bicubic`` is what bicubic enlarging scores on the same sets; ``artifacts``
    are those that were exported; ``seconds`` is the whole job.
    """

    export: ExportReport
    verify: VerifyReport
    profile: ProfileReport
    summary: tuple[SummaryRow, ...]
    bicubic: tuple[SetScore, ...]
    artifacts: tuple[Artifact, ...]
    html: Path
    json: Path
    seconds: float

    @property
    def bicubic_psnr_y_db(self) -> float | None:
        """Mean over the sets' means, as ``summary`` has it of the artifacts."""
        return mean_psnr(self.bicubic)

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "bicubic": [score.to_json() for score in self.bicubic],
            "summary": [row.to_json() for row in self.summary],
            "export": self.export.to_json(),
            "verify": self.verify.to_json(),
            "profile": self.profile.to_json(),
        }


def run_demo(
    out_dir: Path = DEFAULT_OUT,
    *,
    model: str = "idsa_net_mobile",
    scale: int = 4,
    schemes: Sequence[str] = ("fp32", "w8a8"),
    targets: Sequence[str] | None = None,
    tile: tuple[int, int] = DEFAULT_TILE,
    checkpoint: Path | None = None,
    data: Path | None = None,
    sets: Sequence[str] | None = None,
    threads: Sequence[int] = (1, 2),
    runs: int = 50,
    max_seconds: float = 10.0,
    command: str = "edge-sr demo",
    progress: Progress = quiet,
) -> DemoReport:
    """Export each scheme for each target, verify, profile, and write ``report.html`` and ``report.json``.

    Artifacts go to ``out_dir/artifacts``; those of an earlier demo are replaced.

    Args:
        out_dir: folder for everything; made where missing.
        model, scale, schemes, targets, tile, checkpoint: as for :func:`apps.exporting.export_artifacts`.
        data, sets: image sets; default the sample photos.
        threads, runs, max_seconds: as for :func:`apps.profiling.host.profile_artifacts`.
        command: printed in the report.
        progress: called throughout.
    """
    start = time.perf_counter()
    _make_folder(out_dir)
    export = export_artifacts(
        model=model,
        scale=scale,
        schemes=schemes,
        targets=DEFAULT_TARGETS if targets is None else targets,
        tile=tile,
        out_dir=out_dir / "artifacts",
        checkpoint=checkpoint,
        overwrite=True,
        progress=progress,
    )
    if not export.paths:
        raise ConfigError(f"expected at least one artifact, got none: {export.failures[0].error}")
    verify = verify_artifacts(
        export.paths,
        data=data,
        sets=sets,
        checkpoints=() if checkpoint is None else (checkpoint,),
        record=True,
        progress=progress,
    )
    profile = profile_artifacts(
        export.paths, threads=threads, runs=runs, max_seconds=max_seconds, until_settled=False, progress=progress
    )
    html, json_path = out_dir / "report.html", out_dir / "report.json"
    image_sets = load_scorable_sets(data, sets, scale)
    bicubic = tuple(score_bicubic(image_set) for image_set in image_sets)
    artifacts = tuple(load_artifact(path, compare_computation=False) for path in export.paths)
    comparisons, showcases = pictures_of(verify, image_sets, checkpoint=checkpoint)
    write_report(
        html,
        title=f"{model} ×{scale}: exported, verified, profiled",
        export=export,
        verify=verify,
        profile=profile,
        bicubic=bicubic,
        artifacts=artifacts,
        comparisons=comparisons,
        showcases=showcases,
        command=command,
    )
    report = DemoReport(
        export=export,
        verify=verify,
        profile=profile,
        summary=summarize(export, verify, profile),
        bicubic=bicubic,
        artifacts=artifacts,
        html=html,
        json=json_path,
        seconds=time.perf_counter() - start,
    )
    write_json(json_path, envelope("demo", report, command=command.split()))
    return report


def pictures_of(
    verify: VerifyReport, image_sets: Sequence[ImageSet], *, checkpoint: Path | None = None
) -> tuple[tuple[Comparison, ...], tuple[Showcase, ...]]:
    """The pictures for the report, from the first int8 artifact that runs here.

    Returns:
        two photos beside bicubic (one where there is one): that on which the artifact loses most against the float
        network, and the first of the others; and crops of the former. Nothing where no int8 artifact could run.
    """
    rows = [row for row in verify.rows if row.artifact is not None and "8" in row.scheme]
    if not rows:
        return (), ()
    own = [row for row in rows if row.artifact_path == rows[0].artifact_path and row.runtime == rows[0].runtime]
    losses = {(row.set_name, image): loss for row in own for image, loss in _losses(row).items()}
    worst = max(losses, key=lambda key: losses[key])
    chosen = [worst, *(key for key in losses if key != worst)][:2]
    artifact = load_artifact(rows[0].artifact_path)
    meta = artifact.meta
    pairs = {key: _pair(image_sets, *key) for key in chosen}
    runner = open_checked_runner(artifact, isolated=True)
    with closing_runner(runner):
        upscaled = {key: upscale_image(runner, pair.lr, overlap=meta.overlap) for key, pair in pairs.items()}
    network = resolve_weights(meta.model, meta.scale, "fp32", checkpoint=checkpoint).network
    showcase = make_showcase(
        pairs[worst],
        set_name=worst[0],
        artifact_name=rows[0].label,
        scale=meta.scale,
        float_sr=upscale_image(TorchRunner(network, tile=meta.tile), pairs[worst].lr, overlap=meta.overlap),
        int8_sr=upscaled[worst],
    )
    comparisons = tuple(
        _compare(pair, upscaled[key], set_name=key[0], artifact_name=rows[0].label, scale=meta.scale)
        for key, pair in pairs.items()
    )
    return comparisons, (showcase,)


def _pair(image_sets: Sequence[ImageSet], set_name: str, image_name: str) -> ImagePair:
    return next(
        pair for image_set in image_sets if image_set.name == set_name for pair in image_set if pair.name == image_name
    )


def _compare(pair: ImagePair, own: Image, *, set_name: str, artifact_name: str, scale: int) -> Comparison:
    bicubic = bicubic_resize(pair.lr, *pair.hr.shape[:2])
    return Comparison(
        image_name=pair.name,
        set_name=set_name,
        artifact_name=artifact_name,
        bicubic=bicubic,
        bicubic_psnr_y_db=psnr_y(bicubic, pair.hr, crop_border=scale),
        own=own,
        own_psnr_y_db=psnr_y(own, pair.hr, crop_border=scale),
    )


def _losses(row: VerifyRow) -> dict[str, float]:
    """dB that each image loses to the artifact's arithmetic."""
    if row.artifact is None:
        return {}
    return image_drops(row.float_tiled, row.artifact)


def _make_folder(out_dir: Path) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"expected a folder for the demo, got the file {out_dir}, name another --out")
    for name in ("report.html", "report.json"):
        path = out_dir / name
        if path.exists() and not _is_own_folder(out_dir):
            raise ConfigError(
                f"expected a new folder or one of an earlier demo, got {out_dir} with a {name} of its own"
            )
    out_dir.mkdir(parents=True, exist_ok=True)


def _is_own_folder(out_dir: Path) -> bool:
    try:
        content = parse_json((out_dir / "report.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == "edge-sr/demo"
