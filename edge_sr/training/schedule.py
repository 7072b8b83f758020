"""Where a run stands, and what follows of it: by its steps, by the clock, or without an end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_sr.training.config import Phase, TrainConfig

_CLOCK_VALIDATIONS = 10
# Share of the time: a slow machine may never come to the last step of the warm-up.
_CLOCK_WARM_UP = 0.03


@dataclass(frozen=True, kw_only=True)
class Position:
    """A point of a run: steps done and seconds trained, of which the configuration says which counts."""

    config: TrainConfig
    step: int
    seconds: float

    @property
    def done(self) -> float:
        """How much of the run is done, 0..1; 0 for a run without an end."""
        if self.config.minutes:
            return min(1.0, self.seconds / (60 * self.config.minutes))
        return 0.0 if self.last_step is None else min(1.0, self.step / self.last_step)

    @property
    def last_step(self) -> int | None:
        """The step that ends the run; None where the clock does, or nothing."""
        config = self.config
        if config.cooldown_steps:
            return config.cooldown_start + config.cooldown_steps
        return None if config.minutes or config.schedule == "constant" else config.steps

    @property
    def is_end(self) -> bool:
        """Whether the run is complete."""
        return self.done >= 1

    @property
    def phase(self) -> Phase:
        """The batch shape from here on."""
        return self.config.phase_at(self._nominal)

    @property
    def statistics_are_frozen(self) -> bool:
        """Whether normalisation statistics are constants from here on."""
        return self._nominal >= self.config.freeze_statistics_at * self.config.steps

    @property
    def validations(self) -> int:
        """How many validations are due until here."""
        if self.config.minutes:
            return int(self.done * _CLOCK_VALIDATIONS)
        return self.step // self.config.validate_every

    @property
    def rate_factor(self) -> float:
        """Share of the peak learning rate: linear warm-up, by the clock a short one, then what the schedule says."""
        config = self.config
        warm = min(1.0, (self.step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if config.minutes:
            warm = max(warm, min(1.0, self.done / _CLOCK_WARM_UP))
        if config.schedule == "constant":
            down = max(0, self.step - config.cooldown_start) / config.cooldown_steps if config.cooldown_steps else 0.0
            height = 1 - math.sqrt(min(1.0, down))
        else:
            height = 0.5 * (1 + math.cos(math.pi * self.done))
        return warm * (config.final_lr_ratio + (1 - config.final_lr_ratio) * height)

    @property
    def _nominal(self) -> int:
        """The step of the phases that this point corresponds to."""
        return int(self.done * self.config.steps) if self.config.minutes else self.step
