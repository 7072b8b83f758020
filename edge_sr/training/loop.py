"""Float training: one loop for a laptop's cores, a GPU, or ``torchrun`` over several processes.

A run lives in a folder: ``config.json``, ``log.jsonl`` (a line per validation), ``snapshot.pt`` (weights, averaged
weights, optimizer state, step) and, at the end, ``network.safetensors`` with the averaged weights. A run that was cut
goes on from its snapshot with the crops it would have seen: on one machine with one thread count it ends at the same
loss.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_sr.atomic import atomic_path
from edge_sr.checkpoints import load_checkpoint, save_checkpoint
from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.networks import create_network
from edge_sr.training.config import TrainConfig
from edge_sr.training.crop_pool import CropPool, Crops
from edge_sr.training.distributed import Processes
from edge_sr.training.losses import pixel_loss
from edge_sr.training.muon import Muon, split_parameters
from edge_sr.training.prefetch import Prefetch
from edge_sr.training.validation import HeldOut

SNAPSHOT, LOG, CONFIG, NETWORK = "snapshot.pt", "log.jsonl", "config.json", "network.safetensors"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a progress bar shows: step of steps, running loss, last held-out PSNR in dB (NaN before the first)."""

    step: int
    steps: int
    loss: float
    psnr_y_db: float


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    steps: int
    psnr_y_db: float
    seconds: float
    checkpoint: Path


class Trainer:
    """One run.

    Args:
        config: what to train and how.
        pool: packed photos of the config's scale.
        out: the run's folder; an existing run of the same configuration goes on.
        init: checkpoint to start the weights from, when the run is new.
        metadata: facts to keep in the checkpoint (command, data, licences).
    Raises:
        ConfigError: the folder holds a run of another configuration, or the pool has another scale.
        CheckpointError: a snapshot that cannot be read, or ``init`` of another network.
    """

    def __init__(
        self,
        config: TrainConfig,
        pool: CropPool,
        out: Path,
        *,
        init: Path | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if pool.scale != config.scale:
            raise ConfigError(f"expected a pool of scale {config.scale}, got one of scale {pool.scale}")
        self.config, self.pool, self.out, self.metadata = config, pool, out, dict(metadata or {})
        self.processes = Processes.start()
        self.device = self.processes.device
        if any(phase.batch % self.processes.world_size for phase in config.phases):
            raise ConfigError(
                f"expected batches that {self.processes.world_size} processes share evenly, got "
                f"{', '.join(str(phase.batch) for phase in config.phases)}; change them or --nproc-per-node"
            )
        self.samplers = {phase.patch: pool.sampler(phase.patch) for phase in config.phases}
        torch.manual_seed(config.seed)
        network = create_network(config.model, config.scale, **config.network)
        if init is not None:
            _start_from(network, init, config.model)
        # channels_last convolutions measured up to 1.4 times as fast on CPUs; torch 2.13's stubs lack the argument.
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizers = _optimizers(self.network, config)
        self.step, self.loss, self.psnr_y_db, self.seconds = 0, math.nan, math.nan, 0.0
        self._claim_folder()
        self._resume()
        wrapped = self.processes.wrap(self.network)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(wrapped) if config.compile else wrapped
        self.held_out = HeldOut(pool)

    def run(self, progress: Callable[[Progress], None] | None = None, stop_at: int | None = None) -> TrainResult:
        """Train to the end (or to ``stop_at`` steps); an interrupt saves a snapshot and is raised again."""
        end = min(self.config.steps, stop_at if stop_at is not None else self.config.steps)
        began = time.monotonic() - self.seconds
        saved = time.monotonic()
        try:
            with Prefetch(self._crops, self.step, end, threads=_prefetch_threads(self.device)) as upcoming:
                for crops in upcoming:
                    self._train_step(crops)
                    self.seconds = time.monotonic() - began
                    if self._validates():
                        self._validate()
                    if time.monotonic() - saved >= self.config.snapshot_seconds:
                        self._save_snapshot()
                        saved = time.monotonic()
                    if progress is not None:
                        progress(self._progress())
        finally:
            self._save_snapshot()
        if self.step == self.config.steps:
            self._save_network()
        self.processes.wait()
        return TrainResult(
            steps=self.step, psnr_y_db=self.psnr_y_db, seconds=self.seconds, checkpoint=self.out / NETWORK
        )

    def _crops(self, step: int) -> Crops:
        phase, processes = self.config.phase_at(step), self.processes
        crops = self.samplers[phase.patch].crops(
            phase.batch, seed=self.config.seed, step=step, rank=processes.rank, world_size=processes.world_size
        )
        return crops.pinned() if self.device.type == "cuda" else crops

    def _train_step(self, crops: Crops) -> None:
        config, step = self.config, self.step
        if step >= config.freeze_statistics_at * config.steps:
            self.network.freeze_statistics()  # every network of MODELS has it
        factor = learning_rate_factor(config, step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * factor
            optimizer.zero_grad(set_to_none=True)
        batch = crops.on(self.device)
        with self._autocast():
            sr = self.forward(batch.lr)
        loss = pixel_loss(sr.float(), batch.hr, config.loss, luma_weight=config.luma_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self._average(step)
        self.step += 1
        if step % 20 == 0 or self._validates():  # not always: reading the value waits for a GPU
            value = loss.item()
            if not math.isfinite(value):
                raise ConfigError(f"expected a finite loss, got {value} at step {step}; lower lr or clip_grad_norm")
            self.loss = value if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * value

    def _autocast(self) -> AbstractContextManager[object]:
        if uses_bf16(self.config.precision, self.device):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Averaged weights; early on the average is short, so that it forgets the first steps."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        averaged, current = self.ema.state_dict(), self.network.state_dict()
        torch._foreach_lerp_(list(averaged.values()), list(current.values()), 1 - decay)

    def _validates(self) -> bool:
        return self.step % self.config.validate_every == 0 or self.step == self.config.steps

    def _validate(self) -> None:
        if not self.processes.is_first:
            return
        self.psnr_y_db = self.held_out.psnr_y_db(self.ema, self.device)
        line = {
            "step": self.step,
            "loss": round(self.loss, 6),
            "held_out_psnr_y_db": round(self.psnr_y_db, 4),
            "lr": self.config.lr * learning_rate_factor(self.config, self.step - 1),
            "seconds": round(self.seconds, 1),
        }
        with (self.out / LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _progress(self) -> Progress:
        return Progress(step=self.step, steps=self.config.steps, loss=self.loss, psnr_y_db=self.psnr_y_db)

    def _claim_folder(self) -> None:
        path, mine = self.out / CONFIG, json.loads(json.dumps(self.config.to_json()))
        if path.is_file():
            if json.loads(path.read_text()) != mine:
                raise ConfigError(
                    f"expected the configuration of {path}, got another; choose another --out or delete it"
                )
        elif self.processes.is_first:
            self.out.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(mine, indent=2) + "\n")

    def _save_snapshot(self) -> None:
        if not self.processes.is_first:
            return
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            return  # a run that diverged leaves its last good snapshot; the loss check ends it within steps
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
            "psnr_y_db": self.psnr_y_db,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with atomic_path(self.out / SNAPSHOT) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        path = self.out / SNAPSHOT
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.ema.load_state_dict(state["ema"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self.loss, self.psnr_y_db = float(state["loss"]), float(state["psnr_y_db"])
        except Exception as error:  # torch.load raises whatever its unpickler meets
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"expected a snapshot of this run, got {path} ({reason}); delete it") from error
        self._drop_log_after(self.step)

    def _drop_log_after(self, step: int) -> None:
        """A cut run may have logged steps that its last snapshot does not hold; they will be logged again."""
        path = self.out / LOG
        if path.is_file() and self.processes.is_first:
            lines = [line for line in path.read_text().splitlines() if line and json.loads(line)["step"] <= step]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines))

    def _save_network(self) -> None:
        if self.processes.is_first:
            facts = {
                "steps": self.step,
                "held_out_psnr_y_db": self.psnr_y_db,
                "train_seconds": round(self.seconds, 1),
                "device": self.processes.describe(),
                "torch": torch.__version__,
                "pool_sha256": self.pool.sha256,
                "train_images": len(self.pool.train_images),
                "held_out_images": len(self.pool.held_out_images),
                "training_config": self.config.to_json(),
            }
            save_checkpoint(self.out / NETWORK, self.ema, {**facts, **self.metadata})


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine from 1 down to ``final_lr_ratio`` at the run's end."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return warm * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether convolutions run in bf16; see :class:`TrainConfig` for what "auto" means."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(device.type == "cpu" and amx is not None and amx())


def _optimizers(network: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    if config.optimizer == "adam":
        return [torch.optim.Adam(network.parameters(), config.lr, betas=(0.9, 0.99))]
    tail = network.get_submodule("up")
    hidden, rest = split_parameters(network, tail.parameters())
    return [torch.optim.Adam(rest, config.lr, betas=(0.9, 0.99)), Muon(hidden, config.lr)]


def _start_from(network: nn.Module, init: Path, model: str) -> None:
    """Take over every tensor that fits: a network of another scale gives all but its up-convolution."""
    source = load_checkpoint(init, expect_model=model).network.state_dict()
    own = network.state_dict()
    fitting = {name: value for name, value in source.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(f"expected weights that fit this {model}, got {init}, of which none does")
    network.load_state_dict({**own, **fitting})


def _prefetch_threads(device: torch.device) -> int:
    """Threads that cut crops: beside a GPU as many as there are cores for it, on a CPU one, whose steps are long."""
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 1
