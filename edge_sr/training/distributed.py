"""Data parallel training under ``torchrun``: which process this is, on which device."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import nn


def is_first_process() -> bool:
    """Whether this process is the one that writes and talks, under ``torchrun`` or alone."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train together; a single one where ``torchrun`` did not start it."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def start(cls) -> Processes:
        """Join the processes that ``torchrun`` started: NCCL on GPUs, gloo on CPUs."""
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if world_size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank=rank, world_size=world_size, device=device)

    @property
    def is_first(self) -> bool:
        """The process that writes files."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over all processes."""
        if self.world_size == 1:
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)

    def agreed(self, seconds: float, loss: float) -> tuple[float, float]:
        """The first process's time and the mean loss: what decides when to stop must be the same in all."""
        if self.world_size == 1:
            return seconds, loss
        values = [seconds if self.is_first else 0.0, loss / self.world_size]
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(shared)
        seconds, loss = shared.tolist()
        return seconds, loss

    def least(self, value: int) -> int:
        """The smallest of all processes' values."""
        if self.world_size == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        distributed.all_reduce(shared, distributed.ReduceOp.MIN)
        return int(shared)

    def wait(self) -> None:
        """Wait for the others, so that none leaves while the first still writes."""
        if self.world_size > 1:
            distributed.barrier()

    def describe(self) -> str:
        """Device and number of processes, for the checkpoint's record."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.world_size} x {name}{threads}"
