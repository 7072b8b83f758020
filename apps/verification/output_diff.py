"""What two artifacts make of the same pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.progress import Progress, quiet
from apps.results import plain
from apps.verification.scoring import closing_runner
from converters.artifact import Artifact
from converters.runners import accuracy_runtimes, open_runner
from edge_sr.datasets import ImagePair, load_image_sets
from edge_sr.metrics import psnr_y
from edge_sr.runner import Runner
from edge_sr.scorable import check_size
from edge_sr.tiling import upscale_image

Image = NDArray[np.uint8]
_WHITE = 255.0


@dataclass(frozen=True, kw_only=True)
class OutputChange:
    """One picture through both artifacts.

    Attributes:
        set_name, image: which.
        psnr_y_db: of each against the ground truth.
        between_db: PSNR over all colours between the two results; ``inf`` where they are identical.
        max_levels, mean_levels: difference of their pixels, in levels of 255.
        differing_percent: share of the values that differ at all.
    """

    set_name: str
    image: str
    psnr_y_db: tuple[float, float]
    between_db: float
    max_levels: int
    mean_levels: float
    differing_percent: float

    def to_json(self) -> dict[str, Any]:
        return plain(  # type: ignore[no-any-return]
            {
                "set": self.set_name,
                "image": self.image,
                "psnr_y_db": list(self.psnr_y_db),
                "between_db": self.between_db,
                "max_levels": self.max_levels,
                "mean_levels": self.mean_levels,
                "differing_percent": self.differing_percent,
            }
        )


def compare_outputs(
    before: Artifact,
    after: Artifact,
    *,
    data: Path | None = None,
    sets: Sequence[str] | None = None,
    images: int | None = None,
    threads: int = 1,
    progress: Progress = quiet,
) -> tuple[OutputChange, ...]:
    """Upscale pictures with both, each with its own tile and overlap, in the runtime that measures its target.

    Args: as for :func:`apps.verification.artifact_diff.diff_artifacts`; both have one ``scale``.
    """
    changes: list[OutputChange] = []
    image_sets = load_image_sets(data, sets, before.meta.scale)
    total = sum(len(image_set) if images is None else min(images, len(image_set)) for image_set in image_sets)
    with _runners(before, after, threads) as (one, other):
        for image_set in image_sets:
            for number, pair in enumerate(image_set):
                if images is not None and number >= images:
                    break
                check_size(pair, image_set.name, image_set.scale, with_ssim=False)
                results = (
                    upscale_image(one, pair.lr, overlap=before.meta.overlap),
                    upscale_image(other, pair.lr, overlap=after.meta.overlap),
                )
                changes.append(_compare(image_set.name, pair, results, border=image_set.scale))
                progress("run both", len(changes), total, pair.name)
    return tuple(changes)


@contextmanager
def _runners(before: Artifact, after: Artifact, threads: int) -> Iterator[tuple[Runner, Runner]]:
    with ExitStack() as stack:
        opened = []
        for artifact in (before, after):
            runtime = accuracy_runtimes(artifact.meta)[0]
            runner = open_runner(artifact, threads=threads, isolated=True, runtime=runtime)
            stack.enter_context(closing_runner(runner))
            opened.append(runner)
        yield opened[0], opened[1]


def _compare(set_name: str, pair: ImagePair, results: tuple[Image, Image], *, border: int) -> OutputChange:
    one, other = (picture.astype(np.int16) for picture in results)
    apart = np.abs(one - other)
    squared = float(np.square(apart.astype(np.float64)).mean())
    return OutputChange(
        set_name=set_name,
        image=pair.name,
        psnr_y_db=(
            psnr_y(results[0], pair.hr, crop_border=border),
            psnr_y(results[1], pair.hr, crop_border=border),
        ),
        between_db=float("inf") if squared == 0 else float(10 * np.log10(_WHITE**2 / squared)),
        max_levels=int(apart.max()),
        mean_levels=float(apart.mean()),
        differing_percent=100.0 * float((apart > 0).mean()),
    )
