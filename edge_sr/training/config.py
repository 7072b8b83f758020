"""What a training run is made of."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from edge_sr.choices import did_you_mean, expect_choice
from edge_sr.errors import ConfigError, reason_of
from edge_sr.foreign_text import visible
from edge_sr.networks import MODELS
from edge_sr.training.losses import LOSSES

CONFIGS_DIR = Path(__file__).parent / "configs"
OPTIMIZERS = ("adam", "muon")
PRECISIONS = ("auto", "fp32", "bf16")
SCHEDULES = ("cosine", "constant")
_COOLDOWN = ("cooldown_start", "cooldown_steps")


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
        minutes: length of the run by the clock, 0 for by its steps. The steps of the phases then are their shares of
            the time; compiling does not count.
        schedule: "cosine" down to ``final_lr_ratio`` at the run's end; or "constant", a run without an end, which stays
            in its last phase at its peak rate.
        cooldown_start, cooldown_steps: with "constant", from which step on and within how many the rate goes down to
            ``final_lr_ratio``, which ends the run; 0 steps for never.
        loss: "l1", or "l2" (mean squared error, what PSNR is made of) for a last run from a trained checkpoint.
        luma_weight: share of luma's error in the loss, 0..1, see :func:`~edge_sr.training.losses.pixel_loss`.
        optimizer: "muon" (hidden kernels; Adam for the rest) or "adam".
        lr: peak learning rate, reached after ``warmup_steps``; see ``schedule``.
        ema_decay: decay of the averaged weights that are kept.
        freeze_statistics_at: fraction of the phases' steps after which normalisation statistics are constants.
        clip_grad_norm: largest norm of a step's gradient; 0 clips nothing.
        precision: "auto" takes bf16 on a GPU and on CPUs with AMX tiles, else fp32: without tiles bf16 convolutions
            measured half as fast as fp32 (AVX-512, oneDNN, torch 2.13).
        compile: on a GPU, run the network's blocks through ``torch.compile``.
        hold_out: photos kept for validation.
        validate_every: steps between validations; by the clock there are ten, whatever this is.
        snapshot_seconds: seconds between snapshots.
        seed: of weights and crops.
    """

    model: str
    scale: int
    network: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...]
    minutes: float = 0.0
    schedule: str = "cosine"
    cooldown_start: int = 0
    cooldown_steps: int = 0
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
    compile: bool = True
    hold_out: int = 20
    validate_every: int = 2000
    snapshot_seconds: float = 60.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("phases must hold at least one phase, got none")
        for name, known in (
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
            ("schedule", SCHEDULES),
        ):
            expect_choice(name, str(getattr(self, name)), known)
        if self.lr <= 0:
            raise ConfigError(f"lr must be above 0, got {self.lr}")
        for name in ("luma_weight", "final_lr_ratio", "ema_decay", "freeze_statistics_at"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be within 0..1, got {getattr(self, name)}")
        for name in ("warmup_steps", "hold_out", "clip_grad_norm", "snapshot_seconds", "minutes", "seed", *_COOLDOWN):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        self._check_length()
        if self.validate_every < 1:
            raise ConfigError(f"validate_every must be at least 1, got {self.validate_every}")

    def _check_length(self) -> None:
        if not math.isfinite(self.minutes):
            raise ConfigError(f"minutes must be a number of them, got {self.minutes}; schedule constant has no end")
        if self.schedule != "constant" and any(getattr(self, name) for name in _COOLDOWN):
            raise ConfigError(f"a cool-down wants schedule constant, got {self.schedule}, which comes down by itself")
        if self.schedule == "constant" and self.minutes:
            raise ConfigError(
                "minutes set the length of a cosine, got schedule constant, which has none; leave them out"
            )

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def phase_ends(self) -> list[int]:
        """The step at which each phase is over."""
        return list(itertools.accumulate(phase.steps for phase in self.phases))

    def phase_at(self, step: int) -> Phase:
        """The phase of a step (counted from 0); the last one from there on."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as :func:`config_from_mapping` takes them."""
        return asdict(self)

    def scaled_to(self, steps: int) -> TrainConfig:
        """The same run in another number of steps, which its phases share as before."""
        cuts = [0, *(max(1, round(end / self.steps * steps)) for end in self.phase_ends)]
        phases = tuple(
            replace(phase, steps=stop - start)
            for phase, start, stop in zip(self.phases, cuts, cuts[1:], strict=False)
            if stop > start
        )
        return replace(self, phases=phases, warmup_steps=min(self.warmup_steps, steps // 10))


def trial_config(model: str, scale: int) -> TrainConfig:
    """A run of a minute and a half that shows the whole way: better than bicubic on two CPU cores, no more."""
    return TrainConfig(
        model=model,
        scale=scale,
        phases=(Phase(steps=1000, batch=4, patch=32),),
        minutes=1.5,
        lr=4e-3,
        luma_weight=0.8,
        warmup_steps=20,
        ema_decay=0.99,
        hold_out=1,
    )


def config_from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from plain values; an unknown key is an error.

    Raises:
        ConfigError: unknown or missing keys, or values out of range.
    """
    known = {item.name for item in fields(TrainConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"training settings are {', '.join(sorted(known))}, got {visible(', '.join(unknown))}"
            f"{did_you_mean(unknown[0], known)}"
        )
    hints = get_type_hints(TrainConfig)
    for name, value in values.items():
        wanted = hints[name]
        if wanted in (str, int, float, bool) and type(value) not in (wanted, int if wanted is float else wanted):
            raise ConfigError(f"{name} must be of type {wanted.__name__}, got {visible(repr(value), limit=60)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} must be a finite number, got {value}")
    if not isinstance(values.get("network", {}), Mapping):
        raise ConfigError(f"network must be a table of settings, got {visible(repr(values['network']), limit=60)}")
    plain = dict(values)
    try:
        plain["phases"] = tuple(Phase(**phase) for phase in plain.get("phases", ()))
        return TrainConfig(**plain)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected model, scale and phases (steps, batch, patch each), got: {reason_of(error)}"
        ) from error


def load_config(path: Path) -> TrainConfig:
    """Read a TOML configuration.

    Raises:
        ConfigError: no such file, not TOML, or wrong settings.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        own = {file.stem: file for file in sorted(CONFIGS_DIR.glob("*.toml"))}
        raise ConfigError(
            f"expected a TOML training configuration, got no {path}; check --config, or give one of "
            f"{CONFIGS_DIR}: {', '.join(own)}{did_you_mean(path.stem, own)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"expected a TOML training configuration, got {path} ({reason_of(error)}); check --config"
        ) from error
    return config_from_mapping(values)


def default_config_path(model: str, scale: int) -> Path:
    """The configuration that comes with the package.

    Raises:
        ConfigError: there is none for this pair; the message lists those that exist.
    """
    expect_choice("model", model, MODELS)
    path = CONFIGS_DIR / f"{model}_x{scale}.toml"
    if not path.is_file():
        existing = ", ".join(sorted(file.stem for file in CONFIGS_DIR.glob("*.toml")))
        raise ConfigError(
            f"training configurations exist for {existing}, got {path.stem}; copy one from {CONFIGS_DIR}, set "
            f"scale = {scale} in it, and give it with --config"
        )
    return path
