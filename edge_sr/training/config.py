"""What a training run is made of."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edge_sr.errors import ConfigError
from edge_sr.training.losses import LOSSES

CONFIGS_DIR = Path(__file__).parent / "configs"
OPTIMIZERS = ("adam", "muon")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with one batch shape: small crops first are cheap, large ones last are exact at borders.

    Attributes:
        steps: optimizer steps.
        batch: crops per step, shared evenly by the processes that train.
        patch: LR pixels along a crop's side.
    """

    steps: int
    batch: int
    patch: int

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"phase.{item.name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A float training run.

    Attributes:
        model: a name in :data:`edge_sr.networks.MODELS`.
        scale: upscaling factor.
        network: further settings of the network's configuration.
        phases: batch shapes in order; their steps add up to the run.
        loss: "l1", or "l2" (mean squared error, what PSNR is made of) for a last run from a trained checkpoint.
        luma_weight: share of luma's error in the loss, 0..1, see :func:`~edge_sr.training.losses.pixel_loss`.
        optimizer: "muon" (hidden kernels; Adam for the rest) or "adam".
        lr: peak learning rate, reached after ``warmup_steps``, then a cosine down to ``final_lr_ratio`` of it.
        ema_decay: decay of the averaged weights that are kept.
        freeze_statistics_at: fraction of the run after which normalisation statistics are constants.
        clip_grad_norm: largest norm of a step's gradient; 0 clips nothing.
        precision: "auto" takes bf16 on a GPU and on CPUs with AMX tiles, else fp32: without tiles bf16 convolutions
            measured half as fast as fp32 (AVX-512, oneDNN, torch 2.13).
        compile: run the network through ``torch.compile``.
        hold_out: photos kept for validation.
        validate_every: steps between validations.
        snapshot_seconds: seconds between snapshots.
        seed: of weights and crops.
    """

    model: str
    scale: int
    network: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...]
    loss: str = "l1"
    luma_weight: float = 0.0
    optimizer: str = "muon"
    lr: float = 2e-3
    warmup_steps: int = 200
    final_lr_ratio: float = 0.01
    ema_decay: float = 0.999
    freeze_statistics_at: float = 0.5
    clip_grad_norm: float = 0.0
    precision: str = "auto"
    compile: bool = False
    hold_out: int = 20
    validate_every: int = 2000
    snapshot_seconds: float = 60.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("phases must hold at least one phase, got none")
        if self.loss not in LOSSES:
            raise ConfigError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.lr <= 0:
            raise ConfigError(f"lr must be above 0, got {self.lr}")
        for name in ("luma_weight", "final_lr_ratio", "ema_decay", "freeze_statistics_at"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be within 0..1, got {getattr(self, name)}")
        for name in ("warmup_steps", "hold_out", "clip_grad_norm", "snapshot_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.validate_every < 1:
            raise ConfigError(f"validate_every must be at least 1, got {self.validate_every}")

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase of a step (counted from 0)."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise ConfigError(f"step must be below {self.steps}, got {step + self.steps}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as :func:`config_from_mapping` takes them."""
        return asdict(self)


def config_from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from plain values; an unknown key is an error.

    Raises:
        ConfigError: unknown or missing keys, or values out of range.
    """
    known = {item.name for item in fields(TrainConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"training settings are {', '.join(sorted(known))}, got {', '.join(unknown)}")
    plain = dict(values)
    try:
        plain["phases"] = tuple(Phase(**phase) for phase in plain.get("phases", ()))
        return TrainConfig(**plain)
    except TypeError as error:
        raise ConfigError(f"expected model, scale and phases (steps, batch, patch each), got: {error}") from error


def load_config(path: Path) -> TrainConfig:
    """Read a TOML configuration.

    Raises:
        ConfigError: no such file, not TOML, or wrong settings.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected a TOML training configuration, got {path} ({error}); check --config") from error
    return config_from_mapping(values)


def default_config_path(model: str, scale: int) -> Path:
    """The configuration that comes with the package.

    Raises:
        ConfigError: there is none for this pair; the message lists those that exist.
    """
    path = CONFIGS_DIR / f"{model}_x{scale}.toml"
    if not path.is_file():
        existing = ", ".join(sorted(file.stem for file in CONFIGS_DIR.glob("*.toml")))
        raise ConfigError(f"training configurations exist for {existing}, got {path.stem}; write one and give --config")
    return path
