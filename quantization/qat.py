"""Quantization-aware training: the quantized network learns to give the float network's images, or HR, or both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.training.interrupts import interrupts_between_steps
from edge_sr.training.run_folder import repaired_log
from edge_sr.training.snapshots import load_snapshot, save_snapshot, to_stderr
from quantization.qat_config import QATConfig, QATRecord, QATResult
from quantization.qat_trainer import Image, Trainer, measure
from quantization.quantizer import QuantizedNetwork

__all__ = ["QATConfig", "QATRecord", "QATResult", "measure", "train_qat"]

Progress = Callable[[QATRecord], None]
Batches = Iterable[tuple[Tensor, Tensor | None]]

# Of a training by the clock, whose steps may be short.
_SNAPSHOT_SECONDS = 30.0
_MOST_STEPS = 2**63


def train_qat(
    network: QuantizedNetwork,
    teacher: nn.Module,
    crops: Batches | Callable[[int], Batches],
    config: QATConfig,
    *,
    held_out: Sequence[tuple[Image, Image]],
    seconds: float | None = None,
    source: Mapping[str, Any] | None = None,
    snapshot: Path | None = None,
    log: Path | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = to_stderr,
) -> QATResult:
    """Trains a calibrated network to reproduce its float teacher; leaves it in its best state, in eval mode.

    The loss is the mean squared error to the teacher's output clamped to [0, 1], unless the configuration weighs in an
    L1 loss to HR or takes that alone. States are compared by luma PSNR on
    the held-out images; the state before training competes too, so the result is never worse than the start.

    It runs on the device of the network's parameters. An interrupt (Ctrl-C) takes effect at the end of a step, with a
    snapshot; a second one at once, with the last snapshot. With ``torch.distributed`` initialised, gradients are
    averaged over the processes; give each its own crops, and a snapshot and log to all: only rank 0 writes them.

    Args:
        network: calibrated; trained in place.
        teacher: the float network, (B, 3, H, W) -> (B, 3, sH, sW), on any device.
        crops: (lr, hr) float batches in [0, 1], on any device; hr may be None when ``hr_weight`` is 0. When training
            resumes, the batches of the steps already done are skipped, so a seeded source gives the run it would have
            been; a function from the first step to the batches from there on saves making those.
        config: how to train.
        held_out: (lr, hr) uint8 RGB images that are in no training set.
        seconds: train by the clock: for so long, snapshots' time before included, validating every eighth of it, with
            the cosine over time; ``config.steps`` is an upper bound then.
        source: what ``crops`` and ``teacher`` are a function of (seed, size, hashes...), as plain values; kept in the
            snapshot, which is refused where they differ.
        snapshot: file to resume from when it exists, and to save to, beside the one before it. They stay: remove them
            with :func:`~edge_sr.training.snapshots.remove_snapshots` once the result is written.
        log: JSON-lines file, appended to; damaged lines and those beyond the snapshot go.
        progress: called after every step.
        warn: told in one line of what was damaged or could not be written.
    Raises:
        ConfigError: not calibrated, no held-out image, HR missing, too few batches, or a loss that is not finite.
        CheckpointError: the snapshots are damaged or belong to another configuration or source, or a full disk.
    """
    if not held_out:
        raise ConfigError("expected at least one held-out image, got none; the best state is chosen on them")
    trainer = Trainer(network, teacher, config, held_out, source or {}, seconds)
    state = None if snapshot is None else load_snapshot(snapshot, trainer.device, steps=_MOST_STEPS, warn=warn)
    if state is None or snapshot is None:
        trainer.start()
    else:
        trainer.resume(state, snapshot)
    keeper = _Keeper(trainer, snapshot, log, warn)
    batches = crops(trainer.step) if callable(crops) else islice(crops, trainer.step, None)
    with interrupts_between_steps() as interrupt_if_asked:
        try:
            for record in trainer.run(iter(batches)):
                keeper.take(record)
                if progress is not None:
                    progress(record)
                interrupt_if_asked()
        except KeyboardInterrupt:
            if trainer.whole:
                keeper.save()
            raise
    keeper.save_last()
    return trainer.finish()


class _Keeper:
    """Writes a training's log and snapshots, in the first process only."""

    def __init__(self, trainer: Trainer, snapshot: Path | None, log: Path | None, warn: Callable[[str], None]) -> None:
        first = not dist.is_initialized() or dist.get_rank() == 0
        self._trainer, self._warn = trainer, warn
        self._snapshot, self._log = (snapshot, log) if first else (None, None)
        self._saved_step, self._saved_at = trainer.step, time.monotonic()
        if self._log is not None:
            _, damaged = repaired_log(self._log, trainer.step)
            if damaged:
                warn(f"removed {damaged} damaged lines from {self._log}")

    def take(self, record: QATRecord) -> None:
        """Log a record that was measured, and save a snapshot where one is due."""
        if self._log is not None and record.psnr_y_db is not None:
            try:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(record)) + "\n")
            except OSError as error:
                raise CheckpointError(
                    f"expected to write {self._log}, got: {error.strerror}; make room, then start the same run again"
                ) from error
        if self._trainer.clock is None:
            due = record.step % self._trainer.config.snapshot_every == 0
        else:
            due = time.monotonic() - self._saved_at >= _SNAPSHOT_SECONDS
        if due:
            self.save()

    def save(self) -> None:
        """Save a snapshot, unless that of this step is there."""
        if self._snapshot is not None and self._saved_step < self._trainer.step:
            save_snapshot(self._snapshot, self._trainer.state())
            self._saved_step, self._saved_at = self._trainer.step, time.monotonic()

    def save_last(self) -> None:
        """Save the complete training, for the case that its result cannot be written; that alone ends no run."""
        try:
            self.save()
        except CheckpointError as error:
            self._warn(str(error))
