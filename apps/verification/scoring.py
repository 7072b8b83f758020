"""Run anything that upscales over an image set, and close what it holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

from apps.progress import Progress
from edge_sr.datasets import ImageSet
from edge_sr.evaluation import SetScore, evaluate_set
from edge_sr.runner import Runner
from edge_sr.tiling import upscale_image


def closing_runner(runner: Runner) -> Any:
    """A context that closes the runner where it holds something to close (a child process)."""
    close: Callable[[], None] | None = getattr(runner, "close", None)
    return nullcontext(runner) if close is None else closing(runner)


def score(runner: Runner, image_set: ImageSet, what: str, overlap: int, progress: Progress) -> SetScore:
    """Score any runner on a set; ``what`` names it in the progress, which goes on within an image, tile by tile."""
    label, total, done = f"{what} on {image_set.name}", len(image_set), 0

    def tile_done(tiles: int, of: int) -> None:
        if tiles < of:
            progress(label, done + tiles / of, total)

    def image_done(images: int, of: int) -> None:
        nonlocal done
        done = images
        progress(label, images, of)

    progress(label, 0, total)
    return evaluate_set(
        lambda lr: upscale_image(runner, lr, overlap=overlap, progress=tile_done), image_set, progress=image_done
    )
