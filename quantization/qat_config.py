"""How a quantization-aware training is set up, and what it reports."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from edge_sr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class QATConfig:
    """How to train. The defaults did best of those tried on idsa_net_mobile x4 (160 steps of 4 crops of 48x48).

    Attributes:
        steps: batches to train on; at most so many where the training goes by the clock.
        learning_rate: of weights and biases, decayed by a cosine to ``final_ratio`` of itself.
        scale_learning_rate: of the activations' scales (LSQ); 0 keeps the calibrated ranges.
        warmup_steps: steps over which the learning rates rise linearly.
        final_ratio: last learning rate over the first, 0..1.
        distillation_weight: weight of the mean squared error to the float network's output; with 0 it learns from HR
            alone.
        hr_weight: weight of an L1 loss to the HR image; 0 needs no HR.
        ema_decay: decay of the average of weights that is measured and kept; 0 keeps the weights themselves.
        clip_norm: largest norm of the gradient; 0 does not clip.
        validate_every, snapshot_every: in steps.
        bf16: the trained network's convolutions in bfloat16, where activations have 8 bits. Quantization and teacher
            stay in float32: a bfloat16 image is off by up to half a level. Noisier: the first loss of a run rose by a
            third.
    """

    steps: int = 600
    learning_rate: float = 3e-4
    scale_learning_rate: float = 3e-4
    warmup_steps: int = 20
    final_ratio: float = 0.01
    distillation_weight: float = 1.0
    hr_weight: float = 0.0
    ema_decay: float = 0.97
    clip_norm: float = 0.0
    validate_every: int = 50
    snapshot_every: int = 50
    bf16: bool = False

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "steps": (1, math.inf),
            "learning_rate": (0, 1),
            "scale_learning_rate": (0, 1),
            "warmup_steps": (0, math.inf),
            "final_ratio": (0, 1),
            "distillation_weight": (0, math.inf),
            "hr_weight": (0, math.inf),
            "ema_decay": (0, 0.99999),
            "clip_norm": (0, math.inf),
            "validate_every": (1, math.inf),
            "snapshot_every": (1, math.inf),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"expected {name} in {low}..{high}, got {value}; change it")
        if self.distillation_weight == 0 and self.hr_weight == 0:
            raise ConfigError(
                "expected distillation_weight or hr_weight above 0, got 0 for both; give something to learn"
            )


@dataclass(frozen=True, kw_only=True)
class QATRecord:
    """One line of the log. ``psnr_y_db`` is set where the held-out images were measured.

    By the clock ``steps`` is what the time seems to suffice for.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    psnr_y_db: float | None = None
    best_psnr_y_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class QATResult:
    """What came out; the network itself holds the best state.

    Attributes:
        psnr_y_db: mean luma PSNR of the kept state on the held-out images, in dB.
        start_psnr_y_db: the same before training.
        float_psnr_y_db: the same of the float teacher.
        best_step: step of the kept state; 0 is the state before training.
        steps: steps trained in all.
    """

    psnr_y_db: float
    start_psnr_y_db: float
    float_psnr_y_db: float
    best_step: int
    steps: int

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)
