"""Training as one call each: a float network from photos, and a quantized one from a float network."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from apps.progress import Progress, quiet
from apps.results import plain
from edge_sr.checkpoints import load_checkpoint
from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.training import HeldOut, default_config_path, load_config, open_pool, train
from edge_sr.training import Progress as TrainProgress
from edge_sr.training.distributed import Processes
from quantization.calibration import calibrate, search_ranges
from quantization.qat import QATConfig, QATRecord, train_qat
from quantization.quantizer import prepare
from quantization.schemes import get_scheme
from quantization.state import save_quantized

DEFAULT_CACHE = Path(".cache/pools")

# Ranges before QAT: this many batches of crops, cut like those trained on but from other steps' seeds.
_CALIBRATION_BATCHES = 8
_CALIBRATION_SEED_SHIFT = 1_000_000
# The range search passes over its batches dozens of times.
_SEARCH_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """How a float training ended. ``psnr_y_db`` is on held-out photos."""

    model: str
    scale: int
    steps: int
    psnr_y_db: float
    seconds: float
    checkpoint: Path

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class QATReport:
    """How a quantization-aware training ended; all PSNR on held-out photos, in dB.

    ``start_psnr_y_db`` is after calibration and range search, before training; ``psnr_y_db`` is of the state that was
    kept, from ``best_step``.
    """

    model: str
    scale: int
    scheme: str
    steps: int
    best_step: int
    float_psnr_y_db: float
    start_psnr_y_db: float
    psnr_y_db: float
    seconds: float
    checkpoint: Path

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def train_float(
    out: Path,
    *,
    model: str = "idsa_net_mobile",
    scale: int = 4,
    config: Path | None = None,
    data: Path | None = None,
    init: Path | None = None,
    cache: Path = DEFAULT_CACHE,
    stop_at: int | None = None,
    progress: Progress = quiet,
) -> TrainReport:
    """Train a float network; a run that was interrupted goes on from its last snapshot.

    Args:
        out: the run's folder; ``network.safetensors`` appears in it when the run is complete.
        model, scale: choose the configuration that comes with the package.
        config: TOML file in its place; its model and scale count.
        data: folder of photos; default the sample photos (a trial, not a training set).
        init: checkpoint to start from.
        cache: folder for packed photos.
        stop_at: leave after this step, with a snapshot.
        progress: called after every step.
    Raises:
        ConfigError, DataError, CheckpointError: see :func:`edge_sr.training.train`.
    """
    settings = load_config(config if config is not None else default_config_path(model, scale))
    shown = progress if _is_first() else quiet

    def report(now: TrainProgress) -> None:
        shown("train", now.step, now.steps, f"loss {now.loss:.4f}, held-out {now.psnr_y_db:.3f} dB")

    result = train(
        settings,
        data,
        out,
        cache=cache,
        init=init,
        progress=report,
        packing=lambda done, total: shown("pack photos", done, total),
        stop_at=stop_at,
    )
    return TrainReport(
        model=settings.model,
        scale=settings.scale,
        steps=result.steps,
        psnr_y_db=result.psnr_y_db,
        seconds=result.seconds,
        checkpoint=result.checkpoint,
    )


def train_quantized(
    out: Path,
    *,
    checkpoint: Path,
    scheme: str = "w8a8",
    config: QATConfig,
    data: Path | None = None,
    batch: int = 8,
    patch: int = 48,
    hold_out: int = 20,
    seed: int = 1,
    cache: Path = DEFAULT_CACHE,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> QATReport:
    """Quantize a float network and train it to give the float network's pictures, or HR, as ``config`` weighs them.

    Ranges come first: true minimum and maximum over training crops, then a range search. An interrupted run goes on
    from ``out`` with ``.snapshot`` behind its name; that file is removed at the end.

    Args:
        out: checkpoint file to write.
        checkpoint: float checkpoint: start and teacher.
        scheme: a quantized scheme.
        config: how to train.
        data: folder of photos; default the sample photos (a trial, not a training set).
        batch, patch: crops per step, and LR pixels along a crop's side.
        hold_out: photos kept out of training, by which the best state is chosen.
        seed: of the crops.
        cache: folder for packed photos.
        overwrite: replace ``out`` where it exists.
        metadata: facts to keep in the checkpoint, beside those recorded here.
        progress: called after every step.
    Raises:
        CheckpointError: not a float checkpoint, or ``out`` exists, or a snapshot of another run.
        ConfigError, DataError: settings or photos that cannot be used.
    """
    start = time.perf_counter()
    if out.exists() and not overwrite:
        raise CheckpointError(f"expected a new file for the checkpoint, got existing {out}, use --overwrite")
    loaded = load_checkpoint(checkpoint)
    teacher: Any = loaded.network.deployed()  # type: ignore[operator]
    if patch % teacher.tile_multiple:
        raise ConfigError(f"patch must be a multiple of {teacher.tile_multiple} for {teacher.model_name}, got {patch}")
    shown = progress if _is_first() else quiet
    pool = open_pool(
        data,
        scale=teacher.scale,
        cache=cache,
        hold_out=hold_out,
        progress=lambda done, total: shown("pack photos", done, total),
    )
    processes = Processes.start()
    sampler = pool.sampler(patch)
    network = prepare(teacher, get_scheme(scheme))
    ranges = [
        sampler.batch(batch, seed=seed + _CALIBRATION_SEED_SHIFT, step=step).lr for step in range(_CALIBRATION_BATCHES)
    ]
    calibrate(network, ranges, progress=lambda done, total: shown("calibrate", done, total))
    search_ranges(
        network,
        teacher,
        ranges[:_SEARCH_BATCHES],
        progress=lambda done, total: shown("search ranges", done, total),
    )

    def crops() -> Iterator[tuple[Tensor, Tensor | None]]:
        for step in count():
            both = sampler.batch(batch, seed=seed, step=step, rank=processes.rank, world_size=processes.world_size)
            yield both.lr, both.hr

    def report(record: QATRecord) -> None:
        best = "" if record.best_psnr_y_db is None else f", best {record.best_psnr_y_db:.3f} dB"
        shown("qat", record.step, record.steps, f"loss {record.loss:.6f}{best}")

    cut = {"batch": batch, "patch": patch, "seed": seed}
    source = cut | {"pool_sha256": pool.sha256, "float_checkpoint_sha256": loaded.sha256, "scheme": scheme}
    out.parent.mkdir(parents=True, exist_ok=True)
    result = train_qat(
        network,
        teacher,
        crops(),
        config,
        held_out=HeldOut(pool).crops,
        source=source,
        snapshot=out.with_name(out.name + ".snapshot"),
        log=out.with_suffix(".log.jsonl"),
        progress=report,
    )
    facts = {
        "float_checkpoint_sha256": loaded.sha256,
        "qat_config": asdict(config) | cut,
        "pool_sha256": pool.sha256,
        "data": data.name if data is not None else "scikit-image samples",
        **result.to_json(),
    }
    if _is_first():
        save_quantized(out, network, {**_inherited(loaded.metadata), **facts, **(metadata or {})})
    return QATReport(
        model=teacher.model_name,
        scale=teacher.scale,
        scheme=scheme,
        steps=result.steps,
        best_step=result.best_step,
        float_psnr_y_db=result.float_psnr_y_db,
        start_psnr_y_db=result.start_psnr_y_db,
        psnr_y_db=result.psnr_y_db,
        seconds=time.perf_counter() - start,
        checkpoint=out,
    )


def _inherited(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The terms of the float weights hold for what was made from them."""
    return {name: metadata[name] for name in ("weights_license", "weights_attribution") if name in metadata}


def _is_first() -> bool:
    """Whether this process is the one that writes and talks, under torchrun or alone."""
    return os.environ.get("RANK", "0") == "0"
