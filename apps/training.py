"""Training as one call each: a float network from photos, and a quantized one from a float network."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from apps.progress import Progress, quiet
from apps.qat_parts import QATCrops, claimed, described, quantized_with_ranges
from apps.results import plain
from edge_sr.checkpoints import load_checkpoint
from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.training import (
    HeldOut,
    TrainConfig,
    branch_cooldown,
    default_config_path,
    load_config,
    open_pool,
    train,
    trial_config,
)
from edge_sr.training import Progress as TrainProgress
from edge_sr.training.distributed import Processes, is_first_process
from edge_sr.training.snapshots import remove_snapshots
from quantization.qat import QATConfig, train_qat
from quantization.schemes import get_scheme
from quantization.state import save_quantized

DEFAULT_CACHE = Path(".cache/pools")


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """How a float training ended, or was cut (not ``finished``). PSNR is of the averaged weights on held-out photos."""

    model: str
    scale: int
    steps: int
    psnr_y_db: float
    bicubic_psnr_y_db: float
    seconds: float
    checkpoint: Path
    finished: bool

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
    trial: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    cooldown: int | None = None,
    data: Path | None = None,
    init: Path | None = None,
    cache: Path = DEFAULT_CACHE,
    stop_at: int | None = None,
    progress: Progress = quiet,
) -> TrainReport:
    """Train a float network; a run that was interrupted goes on from its last snapshot.

    Args:
        out: the run's folder; ``network.safetensors`` is in it whenever this returns.
        model, scale: choose the configuration that comes with the package.
        config: TOML file in its place; its model and scale count.
        trial: :func:`edge_sr.training.config.trial_config` in its place.
        steps: length of the run in place of the configuration's.
        minutes: length of the run by the clock; of a run without an end, how long it goes on now.
        cooldown: finish the run without an end that ``out`` holds in so many steps, in a folder inside ``out``; the run
            itself stays as it is.
        data: folder of photos; default the sample photos (a trial, not a training set).
        init: checkpoint to start from.
        cache: folder for packed photos.
        stop_at: leave after this step, with a snapshot.
        progress: called after every step.
    Raises:
        ConfigError, DataError, CheckpointError: see :func:`edge_sr.training.train`.
    """
    if sum(value is not None for value in (steps, minutes, cooldown)) > 1:
        raise ConfigError("expected one of steps, minutes and cooldown, got several; leave out the others")
    if trial and config is not None:
        raise ConfigError(f"expected a trial or a configuration, got both and {config}; leave out one")
    if cooldown is not None and (trial or config is not None or init is not None):
        raise ConfigError("expected a cool-down to take its settings from --out, got others as well; leave them out")
    stop_after = None
    if cooldown is not None:
        settings, out = branch_cooldown(out, cooldown)
    elif trial:
        settings = trial_config(model, scale)
    else:
        settings = load_config(config if config is not None else default_config_path(model, scale))
    if steps is not None and settings.schedule == "constant":
        raise ConfigError(
            "expected steps of a run that ends, got schedule constant; --stop-at leaves it, --cooldown ends it"
        )
    if steps is not None:
        settings = replace(settings.scaled_to(steps), minutes=0.0)
    if minutes is not None and settings.schedule == "constant":
        stop_after = 60 * minutes
    elif minutes is not None:
        settings = replace(settings, minutes=minutes)
    shown = progress if is_first_process() else quiet
    result = train(
        settings,
        data,
        out,
        cache=cache,
        init=init,
        progress=lambda now: _show(now, shown, stop_at),
        packing=lambda done, total: shown("pack photos", done, total),
        stop_at=stop_at,
        stop_after=stop_after,
    )
    return TrainReport(
        model=settings.model,
        scale=settings.scale,
        steps=result.steps,
        psnr_y_db=result.psnr_y_db,
        bicubic_psnr_y_db=result.bicubic_psnr_y_db,
        seconds=result.seconds,
        checkpoint=result.checkpoint,
        finished=result.finished,
    )


def _show(now: TrainProgress, shown: Progress, stop_at: int | None) -> None:
    """A bar of steps; where only the clock knows how many there will be, of as many as it seems."""
    total = max(now.step, round(now.step / now.done)) if now.done else now.step + 1  # without an end: one more
    if stop_at is not None:
        total = min(total, stop_at) if now.done else stop_at
    held_out = "" if math.isnan(now.psnr_y_db) else f", held-out {now.psnr_y_db:.3f} dB"
    shown("train", now.step, total, f"{now.steps_per_second:.1f} steps/s, loss {now.loss:.4f}{held_out}")


def _held_out(metadata: Mapping[str, Any], data: Path | None) -> int:
    """How many photos the float run kept out; the usual number where its checkpoint does not say."""
    settings = metadata.get("training_config")
    found = settings.get("hold_out") if isinstance(settings, dict) else None
    usual = found if isinstance(found, int) and found > 0 else TrainConfig.hold_out
    return usual if data is not None else min(usual, 1)


def train_quantized(
    out: Path,
    *,
    checkpoint: Path,
    scheme: str = "w8a8",
    config: QATConfig,
    minutes: float | None = None,
    data: Path | None = None,
    batch: int = 8,
    patch: int = 48,
    hold_out: int | None = None,
    seed: int = 1,
    cache: Path = DEFAULT_CACHE,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> QATReport:
    """Quantize a float network and train it to give the float network's pictures, or HR, as ``config`` weighs them.

    Ranges come first: true minimum and maximum over training crops, then a range search. An interrupted run goes on
    from ``out`` with ``.snapshot`` behind its name; that file and the one before it go once ``out`` is written. It runs
    on a GPU where there is one.

    Args:
        out: checkpoint file to write.
        checkpoint: float checkpoint: start and teacher.
        scheme: a quantized scheme.
        config: how to train.
        minutes: train by the clock: for everything, packing and ranges included; ``config.steps`` is an upper bound
            then. The best state until the end is kept.
        data: folder of photos; default the sample photos (a trial, not a training set).
        batch, patch: crops per step, and LR pixels along a crop's side.
        hold_out: photos kept out of training, by which the best state is chosen; default as many as the float run kept
            out, which are the same ones where the photos are.
        seed: of the crops.
        cache: folder for packed photos.
        overwrite: replace ``out`` where it exists.
        metadata: facts to keep in the checkpoint, beside those recorded here.
        progress: called after every step.
    Raises:
        CheckpointError: not a float checkpoint, ``out`` exists or cannot be written, or a snapshot of another run.
        ConfigError, DataError: settings or photos that cannot be used, or another process that trains for ``out``.
    """
    start = time.perf_counter()
    if out.exists() and not overwrite:
        raise CheckpointError(f"expected a new file for the checkpoint, got existing {out}, use --overwrite")
    if minutes is not None and not 0 < minutes < math.inf:
        raise ConfigError(f"minutes must be above 0, got {minutes}")
    loaded, processes = load_checkpoint(checkpoint), Processes.start()
    teacher: Any = loaded.network.deployed().to(processes.device)  # type: ignore[operator]
    if patch % teacher.tile_multiple:
        raise ConfigError(f"patch must be a multiple of {teacher.tile_multiple} for {teacher.model_name}, got {patch}")
    shown = progress if processes.is_first else quiet
    with claimed(out, processes):
        pool = open_pool(
            data,
            scale=teacher.scale,
            cache=cache,
            hold_out=_held_out(loaded.metadata, data) if hold_out is None else hold_out,
            progress=lambda done, total: shown("pack photos", done, total),
        )
        crops = QATCrops(pool=pool, batch=batch, patch=patch, seed=seed, processes=processes)
        network = quantized_with_ranges(teacher, get_scheme(scheme), crops, shown)
        made_of = {"pool_sha256": pool.sha256, "float_checkpoint_sha256": loaded.sha256}
        snapshot = out.with_name(out.name + ".snapshot")
        result = train_qat(
            network,
            teacher,
            crops.from_step,
            config,
            held_out=HeldOut(pool).crops,
            seconds=None if minutes is None else 60 * minutes - (time.perf_counter() - start),
            source=crops.settings | made_of | {"scheme": scheme},
            snapshot=snapshot,
            log=out.with_suffix(".log.jsonl"),
            progress=lambda record: shown("qat", record.step, record.steps, described(record)),
        )
        if processes.is_first:
            facts = _inherited(loaded.metadata) | made_of | {"qat_config": asdict(config) | crops.settings}
            facts |= {"data": data.name if data is not None else "scikit-image samples"}
            facts |= {} if minutes is None else {"qat_minutes": minutes}
            save_quantized(out, network, {**facts, **result.to_json(), **(metadata or {})})
            remove_snapshots(snapshot)  # not before: a full disk or a kill would lose the run
        processes.wait()
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
