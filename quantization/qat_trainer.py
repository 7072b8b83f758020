"""The inside of quantization-aware training: steps, validation, the best state, and what a snapshot holds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
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

from edge_sr.errors import CheckpointError, ConfigError, reason_of
from edge_sr.metrics import mean_psnr_db, psnr_y
from edge_sr.runner import TorchRunner
from edge_sr.training.snapshots import checked_step
from quantization.clock import Clock
from quantization.fake_quant import MIN_SCALE, Mode, QuantizedConv2d
from quantization.op_kinds import is_copying_weight
from quantization.qat_config import QATConfig, QATRecord, QATResult
from quantization.quantizer import QuantizedNetwork

Image = NDArray[np.uint8]
Crops = Iterator[tuple[Tensor, Tensor | None]]

_CLOCK_VALIDATIONS = 8


def measure(network: nn.Module, images: Sequence[tuple[Image, Image]]) -> float:
    """Mean luma PSNR in dB over (lr, hr) uint8 images, on the network's device; ``scale`` edge pixels are left out."""
    runner = TorchRunner(network)
    scores = [psnr_y(runner.run(lr), hr, crop_border=runner.scale) for lr, hr in images]
    return mean_psnr_db(scores)


class Trainer:
    """One training of a calibrated network, on the network's device.

    Args:
        network: calibrated; trained in place.
        teacher: the float network; a copy of it is moved to the network's device.
        config: how to train.
        held_out: (lr, hr) uint8 images by which states are compared.
        source: what the crops and the teacher are a function of.
        seconds: time for everything from here on, by the clock; None for ``config.steps`` steps.
    Attributes:
        step: steps done.
        whole: the state is that between two steps, so that it may be saved.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        teacher: nn.Module,
        config: QATConfig,
        held_out: Sequence[tuple[Image, Image]],
        source: Mapping[str, Any],
        seconds: float | None,
    ) -> None:
        self.device = next(network.parameters()).device
        self.clock = None if seconds is None else Clock(seconds, self.device)
        self.network, self.config, self.held_out = network, config, held_out
        self.settings = {**asdict(config), **source}
        self.teacher = copy.deepcopy(teacher).to(self.device).eval().requires_grad_(False)
        network.set_mode(Mode.QUANTIZE)
        weights, scales = _choose_parameters(network, learn_scales=config.scale_learning_rate > 0)
        groups = [{"params": weights, "lr": config.learning_rate}]
        if scales:
            groups.append({"params": scales, "lr": config.scale_learning_rate})
        self.trained, self.scales = weights + scales, scales
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.average = [parameter.detach().clone() for parameter in self.trained]
        self.step, self.done, self.whole = 0, 0.0, True
        self.scores: dict[str, float] = {}
        self.best: dict[str, Tensor] = {}

    def start(self) -> None:
        """Measures teacher and untrained network; the latter is the state to beat."""
        teacher = measure(self.teacher, self.held_out)
        began = time.monotonic()
        score = measure(self.network, self.held_out)
        if self.clock is not None:
            self.clock.start_steps(reserved=time.monotonic() - began)
        self.scores = {"float": teacher, "start": score, "best": score, "best_step": 0}
        self.best = _clone_state(self.network)

    def run(self, crops: Crops) -> Iterator[QATRecord]:
        """Trains on the crops from :attr:`step` on, yielding one record per step."""
        self.done = self._done()
        for lr, hr in islice(crops, self.config.steps - self.step):
            if self.done >= 1:
                break
            begin, before = time.perf_counter(), self.done
            self.whole = False
            loss = self._train_step(lr.to(self.device), None if hr is None else hr.to(self.device))
            self.step += 1
            self.done = self._done()
            score = self._validate() if self._validates(before) else None
            self.whole = True
            yield QATRecord(
                step=self.step,
                steps=self._expected_steps(),
                loss=loss,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                seconds=time.perf_counter() - begin,
                psnr_y_db=score,
                best_psnr_y_db=self.scores["best"],
            )
        if self.step < self.config.steps and self.done < 1:
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

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`resume` needs."""
        return {
            "settings": self.settings,
            "step": self.step,
            "scores": self.scores,
            "best": self.best,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "spent_seconds": 0.0 if self.clock is None else self.clock.spent,
        }

    def resume(self, state: Mapping[str, Any], path: Path) -> None:
        """Takes up a :meth:`state` that was read from ``path``.

        Raises:
            CheckpointError: of another network, configuration or source.
        """
        try:
            if state["settings"] != self.settings:
                raise CheckpointError(
                    f"expected a snapshot of the same settings, got {path} made with "
                    f"{_differences(state['settings'], self.settings)}; use its values or delete it"
                )
            self.step = checked_step(state, self.config.steps, path)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scores, self.best = dict(state["scores"]), dict(state["best"])
            for kept, saved in zip(self.average, state["average"], strict=True):
                kept.copy_(saved)
            if self.clock is not None:
                self.clock.start_steps(spent=float(state["spent_seconds"]))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"expected a snapshot of this training, got {path} ({type(error).__name__}: {reason_of(error)}); "
                "delete it"
            ) from error

    def _done(self) -> float:
        return self.step / self.config.steps if self.clock is None else self.clock.done()

    def _expected_steps(self) -> int:
        if self.clock is None or self.done == 0:
            return self.config.steps
        return min(self.config.steps, max(self.step, round(self.step / self.done)))

    def _train_step(self, lr: Tensor, hr: Tensor | None) -> float:
        self.network.train()
        _set_conv_dtype(self.network, torch.bfloat16 if self.config.bf16 else None)
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
        _set_conv_dtype(self.network, None)
        return value

    def _loss(self, output: Tensor, lr: Tensor, hr: Tensor | None) -> Tensor:
        config, loss = self.config, output.new_zeros(())
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
        config, done = self.config, self.done
        if self.step < config.warmup_steps:
            return (self.step + 1) / config.warmup_steps
        if self.clock is None:
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

    def _validates(self, before: float) -> bool:
        if self.step == self.config.steps:
            return True
        if self.clock is not None:
            return int(self.done * _CLOCK_VALIDATIONS) > int(before * _CLOCK_VALIDATIONS)
        return self.step % self.config.validate_every == 0

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
    if network.scheme.activation_bits > 8:
        return  # bfloat16 would round activations of 16 bits to 8
    for module in network.modules():
        if isinstance(module, QuantizedConv2d):
            module.training_dtype = dtype


def _clone_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
    return ", ".join(f"{name}={saved.get(name)} (now {wanted.get(name)})" for name in names)
