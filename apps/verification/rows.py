"""One line of verification: an artifact on an image set, beside the float network that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.results import plain
from edge_sr.evaluation import SetScore, mean_drop


@dataclass(frozen=True, kw_only=True)
class VerifyRow:
    """One artifact on one image set, beside the float network that it came from.

    Three scores, each on the same images: ``float_whole`` (float network, whole images), ``float_tiled`` (float
    network, through the artifact's tiles and overlap), ``artifact`` (the artifact's own file, executed by ``runtime``).
    What lies between them, image by image, splits the drop: see :func:`edge_sr.evaluation.mean_drop`. ``artifact`` is
    None where the runtime could not run it, and ``reason`` says why; no other number ever stands in for it. ``runtime``
    is the target's own, or ``coreml_evaluator``.
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
    def capped(self) -> tuple[str, ...]:
        """Images that one of the three scores reproduces: see :attr:`edge_sr.evaluation.SetScore.capped`."""
        scores = [score for score in (self.float_whole, self.float_tiled, self.artifact) if score is not None]
        return tuple(dict.fromkeys(name for score in scores for name in score.capped))

    @property
    def counted(self) -> str:
        """How many images were scored, for tables: ``5``, or ``5 (1 capped, 2 left out)``."""
        besides = ((len(self.capped), "capped"), (len(self.float_whole.left_out), "left out"))
        said = ", ".join(f"{count} {what}" for count, what in besides if count)
        return f"{len(self.float_whole.images)} ({said})" if said else str(len(self.float_whole.images))

    @property
    def tiling_drop_db(self) -> float:
        """What running in tiles costs the float network; negative where tiles happen to score better."""
        return mean_drop(self.float_whole, self.float_tiled)

    @property
    def quantization_drop_db(self) -> float | None:
        """What the artifact's arithmetic costs, tiles being equal."""
        return None if self.artifact is None else mean_drop(self.float_tiled, self.artifact)

    @property
    def drop_db(self) -> float | None:
        """The whole drop: float network on whole images against the artifact in tiles."""
        return None if self.artifact is None else mean_drop(self.float_whole, self.artifact)

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
            "images": len(self.float_whole.images),
            "capped": list(self.capped),
            "left_out": list(self.float_whole.left_out),
            "reason": self.reason,
            "failed": self.failed,
            "float_whole": self.float_whole.to_json(),
            "float_tiled": self.float_tiled.to_json(),
            "artifact": None if self.artifact is None else self.artifact.to_json(),
        }
