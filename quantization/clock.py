"""The time of a training that ends by the clock."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist


class Clock:
    """How much of a training's time is over; the same on all processes that train together.

    Args:
        seconds: of the whole training, from now on.
        device: where the processes exchange it.
    """

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.seconds, self._device = seconds, device
        self._began = time.monotonic()

    def start_steps(self, reserved: float = 0.0, spent: float = 0.0) -> None:
        """Let the steps have what is left: measuring the start, which may take long, is no part of the schedule.

        Args:
            reserved: seconds for the last validation.
            spent: seconds of steps before the snapshot that is taken up.
        """
        now = time.monotonic()
        self.seconds -= now - self._began + reserved
        self._began = now - spent

    @property
    def spent(self) -> float:
        """Seconds of steps until now."""
        return time.monotonic() - self._began

    def done(self) -> float:
        """Share of the time that is over, 0..1, by the first process's clock: all must end at the same step."""
        done = min(1.0, self.spent / self.seconds) if self.seconds > 0 else 1.0
        if not dist.is_initialized():
            return done
        shared = torch.tensor([done], dtype=torch.float64, device=self._device)
        dist.broadcast(shared, 0)
        return float(shared)
