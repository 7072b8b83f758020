"""Parts of :func:`apps.training.train_quantized`: which crops it sees, and the ranges it starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from torch import Tensor, nn

from apps.progress import Progress
from edge_sr.training import CropPool
from edge_sr.training.distributed import Processes
from edge_sr.training.run_folder import RunLock, check_writable
from quantization.calibration import calibrate, search_ranges
from quantization.qat import QATRecord
from quantization.quantizer import QuantizedNetwork, prepare
from quantization.schemes import Scheme

# Ranges before QAT: this many batches of crops, cut like those trained on but from other steps' seeds.
_CALIBRATION_BATCHES = 8
_CALIBRATION_SEED_SHIFT = 1_000_000
# The range search passes over its batches dozens of times.
_SEARCH_BATCHES = 2


@contextmanager
def claimed(out: Path, processes: Processes) -> Iterator[None]:
    """Hold a file that is to be written, for all of these processes.

    Raises:
        CheckpointError: it cannot be written.
        ConfigError: another run is about to write it.
    """
    if not processes.is_first:
        yield
        return
    check_writable(out)
    with RunLock(out.parent, f"{out.name}.lock"):
        yield


@dataclass(frozen=True, kw_only=True)
class QATCrops:
    """Crops that are a function of seed and step.

    Attributes:
        pool: the packed photos.
        batch, patch: crops per step of all processes, and LR pixels along a crop's side.
        seed: of the crops.
        processes: which part of a batch is this process's, and the device that :meth:`for_ranges` gives.
    """

    pool: CropPool
    batch: int
    patch: int
    seed: int
    processes: Processes

    @property
    def settings(self) -> dict[str, int]:
        """What crops of one pool are a function of."""
        return {"batch": self.batch, "patch": self.patch, "seed": self.seed}

    def for_ranges(self) -> list[Tensor]:
        """LR batches (B, 3, patch, patch) in [0, 1], the same in all processes, for calibration."""
        sampler, seed = self.pool.sampler(self.patch), self.seed + _CALIBRATION_SEED_SHIFT
        batches = (sampler.batch(self.batch, seed=seed, step=step).lr for step in range(_CALIBRATION_BATCHES))
        return [lr.to(self.processes.device) for lr in batches]

    def from_step(self, first: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """This process's (lr, hr) batches without end, from a step on."""
        sampler, world = self.pool.sampler(self.patch), self.processes
        for step in count(first):
            both = sampler.batch(self.batch, seed=self.seed, step=step, rank=world.rank, world_size=world.world_size)
            yield both.lr, both.hr


def quantized_with_ranges(teacher: nn.Module, scheme: Scheme, crops: QATCrops, shown: Progress) -> QuantizedNetwork:
    """The network with ranges of true minimum and maximum, then searched for; on the teacher's device."""
    network, ranges = prepare(teacher, scheme), crops.for_ranges()
    calibrate(network, ranges, progress=lambda done, total: shown("calibrate", done, total))
    search_ranges(
        network,
        teacher,
        ranges[:_SEARCH_BATCHES],
        progress=lambda done, total: shown("search ranges", done, total),
    )
    return network


def described(record: QATRecord) -> str:
    """A step for a progress bar."""
    best = "" if record.best_psnr_y_db is None else f", best {record.best_psnr_y_db:.3f} dB"
    return f"loss {record.loss:.6f}{best}"
