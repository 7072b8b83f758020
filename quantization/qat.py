"""Quantization-aware training: the quantized network learns to give the float network's images, or HR, or both."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_sr.atomic import atomic_path
from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.metrics import psnr_y
from edge_sr.runner import TorchRunner
from quantization.fake_quant import MIN_SCALE, Mode, QuantizedConv2d
from quantization.op_kinds import is_copying_weight
from quantization.qat_config import QATConfig, QATRecord, QATResult
from quantization.quantizer import QuantizedNetwork

__all__ = ["QATConfig", "QATRecord", "QATResult", "measure", "train_qat"]

Image = NDArray[np.uint8]
Progress = Callable[[QATRecord], None]


def train_qat(
    network: QuantizedNetwork,
    teacher: nn.Module,
    crops: Iterable[tuple[Tensor, Tensor | None]],
    config: QATConfig,
    *,
    held_out: Sequence[tuple[Image, Image]],
    source: Mapping[str, Any] | None = None,
    snapshot: Path | None = None,
    log: Path | None = None,
    progress: Progress | None = None,
) -> QATResult:
    """Trains a calibrated network to reproduce its float teacher; leaves it in its best state, in eval mode.

    The loss is the mean squared error to the teacher's output clamped to [0, 1], unless the configuration weighs in an
    L1 loss to HR or takes that alone. States are compared by luma PSNR on
    the held-out images; the state before training competes too, so the result is never worse than the start.

    With ``torch.distributed`` initialised, gradients are averaged over the processes; give each its own crops, and a
    snapshot and log to all: only rank 0 writes them.

    Args:
        network: calibrated; trained in place.
        teacher: the float network, (B, 3, H, W) -> (B, 3, sH, sW).
        crops: (lr, hr) float batches in [0, 1]; hr may be None when ``hr_weight`` is 0. When training resumes, the
            batches of the steps already done are skipped, so a seeded source gives the run it would have been.
        config: how to train.
        held_out: (lr, hr) uint8 RGB images that are in no training set.
        source: what ``crops`` and ``teacher`` are a function of (seed, size, hashes...), as plain values; kept in the
            snapshot, which is refused where they differ.
        snapshot: file to resume from when it exists, and to save to; removed when training is complete.
        log: JSON-lines file, appended to.
        progress: called after every step.
    Raises:
        ConfigError: not calibrated, no held-out image, HR missing, too few batches, or a loss that is not finite.
        CheckpointError: the snapshot is damaged or belongs to another configuration or source.
    """
    if not held_out:
        raise ConfigError("expected at least one held-out image, got none; the best state is chosen on them")
    trainer = _Trainer(network, teacher, config, held_out, source or {})
    if snapshot is not None and snapshot.exists():
        trainer.resume(snapshot)
    else:
        trainer.start()
    writes = not dist.is_initialized() or dist.get_rank() == 0
    for record in trainer.run(iter(crops)):
        if writes and log is not None and (record.psnr_y_db is not None):
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")
        if writes and snapshot is not None and record.step % config.snapshot_every == 0:
            trainer.save(snapshot)
        if progress is not None:
            progress(record)
    result = trainer.finish()
    if writes and snapshot is not None:
        snapshot.unlink(missing_ok=True)
    return result


def measure(network: nn.Module, images: Sequence[tuple[Image, Image]]) -> float:
    """Mean luma PSNR in dB over (lr, hr) uint8 images; ``scale`` pixels are left out on each edge."""
    runner = TorchRunner(network)
    scores = [psnr_y(runner.run(lr), hr, crop_border=runner.scale) for lr, hr in images]
    return sum(scores) / len(scores)


class _Trainer:
    def __init__(
        self,
        network: QuantizedNetwork,
        teacher: nn.Module,
        config: QATConfig,
        held_out: Sequence[tuple[Image, Image]],
        source: Mapping[str, Any],
    ) -> None:
        self.network, self.config, self.held_out = network, config, held_out
        self.settings = {**asdict(config), **source}
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        network.set_mode(Mode.QUANTIZE)
        weights, scales = _choose_parameters(network, learn_scales=config.scale_learning_rate > 0)
        groups = [{"params": weights, "lr": config.learning_rate}]
        if scales:
            groups.append({"params": scales, "lr": config.scale_learning_rate})
        self.trained, self.scales = weights + scales, scales
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.average = [parameter.detach().clone() for parameter in self.trained]
        self.step = 0
        self.scores: dict[str, float] = {}
        self.best: dict[str, Tensor] = {}

    def start(self) -> None:
        """Measures teacher and untrained network; the latter is the state to beat."""
        score = measure(self.network, self.held_out)
        self.scores = {"float": measure(self.teacher, self.held_out), "start": score, "best": score, "best_step": 0}
        self.best = _clone_state(self.network)

    def run(self, crops: Iterator[tuple[Tensor, Tensor | None]]) -> Iterator[QATRecord]:
        """Trains, yielding one record per step."""
        for lr, hr in islice(crops, self.step, self.config.steps):
            begin = time.perf_counter()
            self.network.train()
            _set_conv_dtype(self.network, torch.bfloat16 if self.config.bf16 else None)
            loss = self._train_step(lr, hr)
            _set_conv_dtype(self.network, None)
            self.step += 1
            score = self._validate() if self._validates() else None
            yield QATRecord(
                step=self.step,
                steps=self.config.steps,
                loss=loss,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                seconds=time.perf_counter() - begin,
                psnr_y_db=score,
                best_psnr_y_db=self.scores["best"],
            )
        if self.step < self.config.steps:
            raise ConfigError(
                f"expected {self.config.steps} batches, got {self.step}; give an endless source of crops or fewer steps"
            )

    def finish(self) -> QATResult:
        """Puts the best state into the network."""
        self.network.load_state_dict(self.best)
        self.network.requires_grad_(False).eval()
        return QATResult(
            psnr_y_db=self.scores["best"],
            start_psnr_y_db=self.scores["start"],
            float_psnr_y_db=self.scores["float"],
            best_step=int(self.scores["best_step"]),
            steps=self.step,
        )

    def save(self, path: Path) -> None:
        """Writes everything that :meth:`resume` needs, whole or not at all."""
        state = {
            "settings": self.settings,
            "step": self.step,
            "scores": self.scores,
            "best": self.best,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Takes up a snapshot.

        Raises:
            CheckpointError: damaged, or of another network, configuration or source.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["settings"] != self.settings:
                raise CheckpointError(
                    f"expected a snapshot of the same settings, got {path} made with "
                    f"{_differences(state['settings'], self.settings)}; use its values or delete it"
                )
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.scores, self.best = state["step"], state["scores"], state["best"]
            for kept, saved in zip(self.average, state["average"], strict=True):
                kept.copy_(saved)
        except CheckpointError:
            raise
        except Exception as error:  # torch.load and load_state_dict raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"expected a snapshot of this training, got {path} ({type(error).__name__}: {reason}); delete it"
            ) from error

    def _train_step(self, lr: Tensor, hr: Tensor | None) -> float:
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * self._rate_factor()
        loss = self._loss(self.network(lr), lr, hr)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._average_gradients()
        if self.config.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(f"expected a finite loss, got {value} at step {self.step + 1}; lower the learning rate")
        self.optimizer.step()
        with torch.no_grad():
            for scale in self.scales:
                scale.clamp_(min=MIN_SCALE)
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1.0 - decay)
        return value

    def _loss(self, output: Tensor, lr: Tensor, hr: Tensor | None) -> Tensor:
        config, loss = self.config, torch.zeros(())
        if config.distillation_weight > 0:
            with torch.no_grad():
                target = self.teacher(lr).clamp(0, 1)
            loss = loss + config.distillation_weight * F.mse_loss(output, target)
        if config.hr_weight > 0:
            if hr is None:
                raise ConfigError("expected HR crops because hr_weight is above 0, got None; give them or set it to 0")
            loss = loss + config.hr_weight * F.l1_loss(output, hr)
        return loss

    def _rate_factor(self) -> float:
        config = self.config
        if self.step < config.warmup_steps:
            return (self.step + 1) / config.warmup_steps
        done = (self.step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * done))

    def _average_gradients(self) -> None:
        if not dist.is_initialized():
            return
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()

    def _validates(self) -> bool:
        return self.step % self.config.validate_every == 0 or self.step == self.config.steps

    def _validate(self) -> float:
        current = [parameter.detach().clone() for parameter in self.trained]
        self._put(self.average)
        score = measure(self.network, self.held_out)
        if score > self.scores["best"]:
            self.scores["best"], self.scores["best_step"] = score, self.step
            self.best = _clone_state(self.network)
        self._put(current)
        return score

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.trained, values, strict=True):
            parameter.copy_(value)


def _choose_parameters(
    network: QuantizedNetwork, *, learn_scales: bool
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(weights and biases, scales) to train, with ``requires_grad`` set on exactly them."""
    network.requires_grad_(False)
    grids = {id(grid.scale) for _, grid in network.grids()}
    frozen = {
        id(module.weight)
        for module in network.modules()
        if isinstance(module, QuantizedConv2d) and is_copying_weight(module.weight)
    }
    weights = [parameter for parameter in network.parameters() if id(parameter) not in grids | frozen]
    scales = [grid.scale for _, grid in network.grids() if learn_scales and not grid.fixed]
    for parameter in weights + scales:
        parameter.requires_grad_(True)
    return weights, scales


def _set_conv_dtype(network: QuantizedNetwork, dtype: torch.dtype | None) -> None:
    for module in network.modules():
        if isinstance(module, QuantizedConv2d):
            module.training_dtype = dtype


def _clone_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
    return ", ".join(f"{name}={saved.get(name)} (now {wanted.get(name)})" for name in names)
