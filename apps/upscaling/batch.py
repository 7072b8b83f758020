"""Several photos and folders through one runner: what is to come is said first, what failed is listed last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from apps.progress import Progress, quiet
from apps.results import plain
from apps.upscaling.jobs import Failure, Job, JobList, list_jobs
from apps.upscaling.memory import picture_bytes
from apps.upscaling.photo import PhotoOptions, UpscaleResult, count_tiles, upscale_photo
from apps.upscaling.runners import Upscaler, UpscalerChoice, opened
from edge_sr.errors import EdgeSRError, ImageError, RunnerError

# Fewer tiles are done before a forecast would be.
_FORECAST_TILES = 8


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is about to happen.

    Attributes:
        name, weights_license: of the :class:`~apps.upscaling.runners.Upscaler`.
        sr_size: (height, width) of the largest result.
        photos, tiles: how many.
        seconds: from one timed tile; None where there are few.
        memory_bytes: of all processes together at the largest photo, runtime and model included.
    """

    name: str
    photos: int
    sr_size: tuple[int, int]
    tiles: int
    seconds: float | None
    memory_bytes: int
    weights_license: str = ""


@dataclass(frozen=True, kw_only=True)
class UpscaleReport:
    """What became of all photos.

    Attributes:
        upscaler: artifact or network, and its runtime.
        scale: factor.
        forecast: what was said before; None where nothing was left to do.
        photos, failures, skipped: results, photos without one, results that were there before.
    """

    upscaler: str
    scale: int
    forecast: Forecast | None
    photos: tuple[UpscaleResult, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def upscale_photos(
    sources: Sequence[Path],
    output: Path | None = None,
    *,
    choice: UpscalerChoice | None = None,
    options: PhotoOptions | None = None,
    suffix: str | None = None,
    skip_existing: bool = False,
    overwrite: bool = False,
    announce: Callable[[Forecast], None] = lambda forecast: None,
    progress: Progress = quiet,
) -> UpscaleReport:
    """Make photos larger, one after another.

    Args:
        sources, output, suffix, skip_existing, overwrite: as :func:`apps.upscaling.jobs.list_jobs`.
        choice: what runs the tiles; default the bundled mobile network in PyTorch.
        options: how.
        announce: told what is to come, after everything was checked and before the first photo.
        progress: called after each tile.
    Returns:
        the report. A photo that fails is in ``failures`` and the rest goes on; a single photo raises.
    Raises:
        EdgeSRError: nothing was written: bad input, places that cannot be written, too little memory, nothing to
            upscale with; or the only photo failed.
    """
    chosen, how = choice or UpscalerChoice(), options or PhotoOptions()
    artifact = chosen.loaded()
    scale = chosen.scale if artifact is None else artifact.meta.scale
    todo = list_jobs(
        sources,
        output,
        scale=scale,
        suffix=suffix,
        frames=how.frames,
        max_megapixels=how.max_megapixels,
        skip_existing=skip_existing,
        overwrite=overwrite,
    )
    if not todo.jobs:
        return UpscaleReport(
            upscaler="", scale=scale, forecast=None, photos=(), failures=todo.failures, skipped=todo.skipped
        )
    with ExitStack() as stack:
        upscaler = stack.enter_context(opened(chosen))
        coming = _forecast(todo, upscaler, how)
        announce(coming)
        photos, failures = _run(todo, upscaler, how, coming.tiles, progress, lambda: _reopened(stack, chosen))
    return UpscaleReport(
        upscaler=upscaler.name,
        scale=scale,
        forecast=coming,
        photos=tuple(photos),
        failures=(*todo.failures, *failures),
        skipped=todo.skipped,
    )


def _run(
    todo: JobList,
    upscaler: Upscaler,
    how: PhotoOptions,
    tiles: int,
    progress: Progress,
    reopen: Callable[[], Upscaler],
) -> tuple[list[UpscaleResult], list[Failure]]:
    photos: list[UpscaleResult] = []
    failures: list[Failure] = []
    done = 0
    progress("upscale", 0, tiles)
    for job in todo.jobs:
        detail = job.source.name if len(todo.jobs) > 1 else ""

        def tile_done(detail: str = detail) -> None:
            nonlocal done
            done += 1
            progress("upscale", done, tiles, detail)

        expected = done + _tiles_of(job, upscaler, how)
        try:
            photos.append(upscale_photo(job.source, job.output, upscaler, how, tile_done=tile_done))
        except (EdgeSRError, MemoryError) as error:
            if len(todo.jobs) + len(todo.failures) == 1:
                raise
            reason = str(error) if isinstance(error, EdgeSRError) else "expected enough memory, got none"
            failures.append(Failure(source=job.source, reason=reason))
            if isinstance(error, RunnerError):  # a runtime that crashed stays gone
                upscaler = reopen()
        done = expected
    return photos, failures


def _reopened(stack: ExitStack, choice: UpscalerChoice) -> Upscaler:
    stack.close()
    return stack.enter_context(opened(choice))


def _tiles_of(job: Job, upscaler: Upscaler, how: PhotoOptions) -> int:
    frames = job.header.frames if how.frames else 1
    return frames * count_tiles(upscaler, job.header.height, job.header.width, how.overlap)


def _forecast(todo: JobList, upscaler: Upscaler, how: PhotoOptions) -> Forecast:
    runner = upscaler.runner
    largest = max(todo.jobs, key=lambda job: job.header.megapixels)
    tiles = sum(_tiles_of(job, upscaler, how) for job in todo.jobs)
    seconds = tiles * _tile_seconds(upscaler) if tiles > _FORECAST_TILES else None
    pictures = max(_picture_bytes(job, upscaler, how) for job in todo.jobs)
    free = psutil.virtual_memory().available
    if pictures > free:
        raise ImageError(
            f"expected {pictures / 1e9:.1f} GB of free memory for {largest.source.name}, got {free / 1e9:.1f} GB; "
            "close other programs, write .png or .tif, or cut the photo into parts"
        )
    return Forecast(
        name=upscaler.name,
        photos=len(todo.jobs),
        sr_size=(runner.scale * largest.header.height, runner.scale * largest.header.width),
        tiles=tiles,
        seconds=seconds,
        memory_bytes=resident_bytes() + pictures,
        weights_license=upscaler.weights_license,
    )


def _picture_bytes(job: Job, upscaler: Upscaler, how: PhotoOptions) -> int:
    tile = upscaler.runner.tile
    return picture_bytes(
        job.header,
        scale=upscaler.runner.scale,
        tile_height=job.header.height if tile is None else tile[0],
        suffix=job.output.suffix.lower(),
        frames=job.header.frames if how.frames else 1,
    )


def _tile_seconds(upscaler: Upscaler) -> float:
    """Time of the second of two runs of a grey tile: the first one warms up."""
    assert upscaler.runner.tile is not None
    tile = np.full((*upscaler.runner.tile, 3), 128, dtype=np.uint8)
    upscaler.runner.run(tile)
    start = time.perf_counter()
    upscaler.runner.run(tile)
    return time.perf_counter() - start


def resident_bytes() -> int:
    """Memory of this process and its children now: the runtime with its model is one of them."""
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
