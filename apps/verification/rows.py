"""One line of verification: an artifact on an image set, beside the float network that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.results import plain
from edge_sr.evaluation import SetScore


@dataclass(frozen=True, kw_only=True)
class VerifyRow:
    """One artifact on one image set, beside the float network that it came from.

    Three scores, each on the same images: ``float_whole`` (float network, whole images), ``float_tiled`` (float
    network, through the artifact's tiles and overlap), ``artifact`` (the artifact's own file, executed by ``runtime``).
    Their differences split the drop. ``artifact`` is None where the runtime could not run it, and ``reason`` says why;
    no other number ever stands in for it. ``runtime`` is the target's own, or ``coreml_evaluator``.
    """

    artifact_path: Path
    model: str
    scheme: str
    target: str
    runtime: str
    tile: tuple[int, int]
    overlap: int
    float_whole: SetScore
    float_tiled: SetScore
    artifact: SetScore | None
    reason: str | None = None
    failed: bool = False

    @property
    def label(self) -> str:
        """The artifact's name, and the runtime where it is not the target's own."""
        name = self.artifact_path.name
        return name if self.runtime == self.target else f"{name} ({self.runtime})"

    @property
    def set_name(self) -> str:
        return self.float_whole.set_name

    @property
    def tiling_drop_db(self) -> float:
        """What running in tiles costs the float network; negative where tiles happen to score better."""
        return _drop(self.float_whole.psnr_y_db, self.float_tiled.psnr_y_db)

    @property
    def quantization_drop_db(self) -> float | None:
        """What the artifact's arithmetic costs, tiles being equal."""
        return None if self.artifact is None else _drop(self.float_tiled.psnr_y_db, self.artifact.psnr_y_db)

    @property
    def drop_db(self) -> float | None:
        """The whole drop: float network on whole images against the artifact in tiles."""
        return None if self.artifact is None else _drop(self.float_whole.psnr_y_db, self.artifact.psnr_y_db)

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact_name": self.artifact_path.name,
            "model": self.model,
            "scheme": self.scheme,
            "target": self.target,
            "runtime": self.runtime,
            "tile": list(self.tile),
            "overlap": self.overlap,
            "set": self.set_name,
            "psnr_y_db": None if self.artifact is None else plain(self.artifact.psnr_y_db),
            "ssim": None if self.artifact is None else plain(self.artifact.ssim),
            "drop_db": plain(self.drop_db),
            "tiling_drop_db": plain(self.tiling_drop_db),
            "quantization_drop_db": plain(self.quantization_drop_db),
            "reason": self.reason,
            "failed": self.failed,
            "float_whole": self.float_whole.to_json(),
            "float_tiled": self.float_tiled.to_json(),
            "artifact": None if self.artifact is None else self.artifact.to_json(),
        }


def _drop(before_db: float, after_db: float) -> float:
    # Two perfect results (inf dB each) differ by nothing, where plain subtraction says NaN.
    return 0.0 if before_db == after_db else before_db - after_db
