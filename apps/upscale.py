"""Upscale a photo of any size, with an artifact or with a float network in PyTorch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.progress import Progress, quiet
from apps.results import plain
from apps.runnable import reason_not_runnable
from apps.verification.scoring import closing_runner
from apps.weights import resolve_weights
from converters.artifact import load_artifact
from converters.self_test import open_checked_runner
from edge_sr.errors import ConfigError, ImageError, RunnerError
from edge_sr.images import read_image, write_image
from edge_sr.runner import Runner, TorchRunner
from edge_sr.tiling import plan_tiles, upscale_image

# Tiles of the float network: large enough that little is computed twice, small enough for any memory.
_TORCH_TILE = 256


@dataclass(frozen=True, kw_only=True)
class UpscaleResult:
    """A photo made larger."""

    source: Path
    output: Path
    runner: str
    scale: int
    lr_size: tuple[int, int]
    sr_size: tuple[int, int]
    tiles: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def upscale_photo(
    source: Path,
    output: Path,
    *,
    artifact: Path | None = None,
    model: str = "idsa_net_mobile",
    scale: int = 4,
    checkpoint: Path | None = None,
    overlap: int | None = None,
    threads: int = 1,
    isolated: bool = True,
    overwrite: bool = False,
    progress: Progress = quiet,
) -> UpscaleResult:
    """Upscale one photo through fixed tiles with overlap and write the result.

    Args:
        source: image file of any size; grey, palette and 16-bit ones become RGB, alpha is dropped.
        output: .png, .jpg or .webp.
        artifact: artifact folder to run; None for the float network in PyTorch.
        model, scale, checkpoint: that float network; default the bundled checkpoint. Only without ``artifact``.
        overlap: LR pixels shared by neighbouring tiles; default what the artifact (or the network) asks for.
        threads: CPU threads of the artifact's runtime.
        isolated: run the artifact in a child process, because runtimes may abort on a bad file.
        overwrite: replace ``output`` where it exists.
        progress: called after each tile.
    Raises:
        ImageError: the source is no image, or the output exists or cannot be written. Checked before any tile is run.
        ArtifactError, CheckpointError, RunnerError: nothing to upscale with.
    """
    start = time.perf_counter()
    if artifact is not None and checkpoint is not None:
        raise ConfigError("expected an artifact or a checkpoint, got both, leave one of them out")
    _check_output(output, overwrite=overwrite)
    lr = read_image(source)
    if artifact is None:
        opened = _torch_runner(model, scale, checkpoint)
    else:
        opened = _artifact_runner(artifact, threads, isolated)
    with opened as (runner, own_overlap):
        used = own_overlap if overlap is None else overlap
        tiles = 1 if runner.tile is None else len(plan_tiles(lr.shape[0], lr.shape[1], runner.tile, used))
        progress("upscale", 0, tiles)
        sr = upscale_image(runner, lr, overlap=used, progress=lambda done, total: progress("upscale", done, total))
        name, factor = runner.name, runner.scale
    write_image(output, sr, overwrite=overwrite)
    return UpscaleResult(
        source=source,
        output=output,
        runner=name,
        scale=factor,
        lr_size=(lr.shape[0], lr.shape[1]),
        sr_size=(sr.shape[0], sr.shape[1]),
        tiles=tiles,
        seconds=time.perf_counter() - start,
    )


@contextmanager
def _artifact_runner(path: Path, threads: int, isolated: bool) -> Iterator[tuple[Runner, int]]:
    artifact = load_artifact(path)
    reason = reason_not_runnable(artifact.meta.target)
    if reason is not None:
        raise RunnerError(f"{path.name} {reason}; use a tflite or executorch artifact")
    runner = open_checked_runner(artifact, threads=threads, isolated=isolated)
    with closing_runner(runner):
        yield runner, artifact.meta.overlap


@contextmanager
def _torch_runner(model: str, scale: int, checkpoint: Path | None) -> Iterator[tuple[Runner, int]]:
    deployed = resolve_weights(model, scale, "fp32", checkpoint=checkpoint).network
    multiple, context = int(deployed.tile_multiple), int(deployed.context)  # type: ignore[arg-type]
    side = _TORCH_TILE // multiple * multiple
    # Tiles are cut in the middle of what they share, so that exact ones share twice what the network reaches.
    yield TorchRunner(deployed, name=f"{model} float", tile=(side, side)), min(2 * context, side // 2)


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ImageError(f"expected an output called .png, .jpg or .webp, got {output}, rename it")
    if not output.parent.is_dir():
        raise ImageError(f"expected a folder for {output}, got no {output.parent}, create it first")
    if output.exists() and not overwrite:
        raise ImageError(f"expected a new output file, got existing {output}, choose another name or use --overwrite")
