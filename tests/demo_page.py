"""A demo's page and the reports behind it, made of stand-ins."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apps.exporting import ExportReport, ExportRow
from apps.report import Comparison, write_report
from apps.results import ProfileReport, ProfileRow, Timing
from apps.verification.accuracy import VerifyReport
from apps.verification.gate import GateLimits
from apps.verification.rows import VerifyRow
from converters.artifact import Artifact, load_artifact
from edge_sr.evaluation import ImageScore, SetScore
from fakes import fake_artifact

TARGETS = ("tflite", "executorch", "coreml")
LONG_NOTE = "evaluated " * 40


def _score(psnr: float) -> SetScore:
    return SetScore(set_name="samples", scale=4, images=(ImageScore(name="cat", psnr_y_db=psnr, ssim=0.9),))


def _timing(threads: int) -> Timing:
    return Timing(
        threads=threads,
        load_ms=1.0,
        first_ms=2.0,
        warmup_runs=3,
        samples_ms=(130.0, 140.0, 180.0),
        peak_rss_bytes=1,
        base_rss_bytes=1,
        runtime="fake",
        runtime_version="1",
    )


class DemoPage:
    """A demo's reports on six artifacts, their folders beside the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = folder / "artifacts & more"
        paths.mkdir()
        made = [(s, t, fake_artifact(paths, t, scheme=s)) for s in ("fp32", "w8a8") for t in TARGETS]
        self.artifacts: list[Artifact] = [load_artifact(path, compare_computation=False) for _, _, path in made]
        shared = {"model": "idsa_net_mobile", "tile": (16, 16)}
        self.export = ExportReport(
            rows=tuple(
                ExportRow(
                    **shared,  # type: ignore[arg-type]
                    scale=4,
                    scheme=scheme,
                    target=target,
                    weights="bundled",
                    path=path,
                    size_bytes=3_280_000,
                    seconds=1.0,
                    delegates=1,
                    ops_outside={},
                    notes=(LONG_NOTE,),
                )
                for scheme, target, path in made
            )
        )
        rows = [
            VerifyRow(
                **shared,  # type: ignore[arg-type]
                artifact_path=path,
                scheme=scheme,
                target=target,
                runtime=target,
                overlap=4,
                float_whole=_score(30.0),
                float_tiled=_score(30.0),
                artifact=_score(29.98),
            )
            for scheme, target, path in made
        ]
        self.verify = VerifyReport(rows=tuple(rows), limits=GateLimits(), checks=(), notices=("a note on a set",))
        self.profile = ProfileReport(
            device="host",
            rows=tuple(
                ProfileRow(
                    **shared,  # type: ignore[arg-type]
                    artifact_path=path,
                    scale=4,
                    scheme=scheme,
                    target=target,
                    overlap=4,
                    device="host",
                    threads=threads,
                    timing=None if target == "coreml" else _timing(threads),
                    reason="macOS only" if target == "coreml" else None,
                )
                for scheme, target, path in made
                for threads in (1, 2)
            ),
        )
        self.bicubic = (_score(27.5),)
        rows, columns = np.mgrid[0:96, 0:128]
        self.photo = np.stack([rows * 2, columns, 255 - rows - columns], axis=2).astype(np.uint8)
        self.page = write_report(
            folder / "report.html",
            title="idsa_net_mobile ×4: exported, verified, profiled",
            export=self.export,
            verify=self.verify,
            profile=self.profile,
            bicubic=self.bicubic,
            artifacts=self.artifacts,
            comparisons=[self._comparison()],
            command="edge-sr demo",
        )
        self.text = self.page.read_text(encoding="utf-8")

    def _comparison(self) -> Comparison:
        return Comparison(
            image_name="cat",
            set_name="samples",
            artifact_name="net",
            bicubic=self.photo,
            bicubic_psnr_y_db=27.5,
            own=255 - self.photo,
            own_psnr_y_db=29.98,
        )
