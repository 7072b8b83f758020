"""Float training: ``open_pool`` packs photos, :func:`train` runs a configuration on them.

Needs torch, numpy and pillow alone, so that it also runs on a borrowed GPU machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from edge_sr.training.config import (
    Phase,
    TrainConfig,
    config_from_mapping,
    default_config_path,
    load_config,
    trial_config,
)
from edge_sr.training.cooldown import branch_cooldown
from edge_sr.training.crop_pool import CropPool
from edge_sr.training.distributed import is_first_process
from edge_sr.training.loop import Progress, Trainer, TrainResult
from edge_sr.training.packing import open_pool
from edge_sr.training.run_folder import RunLock
from edge_sr.training.snapshots import to_stderr
from edge_sr.training.validation import HeldOut

__all__ = [
    "CropPool",
    "HeldOut",
    "Phase",
    "Progress",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "branch_cooldown",
    "config_from_mapping",
    "default_config_path",
    "load_config",
    "open_pool",
    "train",
    "trial_config",
]


def train(
    config: TrainConfig,
    data: Path | None,
    out: Path,
    *,
    cache: Path | None = None,
    init: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    packing: Callable[[int, int], None] | None = None,
    stop_at: int | None = None,
    stop_after: float | None = None,
    say: Callable[[str], None] = to_stderr,
) -> TrainResult:
    """Train a network, or go on with the run that ``out`` holds.

    Args:
        config: what to train; see :func:`load_config` and :func:`default_config_path`.
        data: folder of photos, or of a packed pool; None takes scikit-image's sample photos.
        out: the run's folder; ``network.safetensors`` is there in the end.
        cache: folder for packed photos; ``out/pools`` where None.
        init: checkpoint to start a new run from; tensors of other shapes (another scale's tail) are left out.
        progress: called after every step on a CPU, every few dozen on a GPU.
        packing: called with (photos done, photos in all) while photos are packed.
        stop_at: stop after this many steps of the run, with a snapshot.
        stop_after: likewise after so many seconds from now.
        say: told in one line of whatever is mended, left out or slower than it could be.
    Raises:
        ConfigError: also where another process trains in ``out``.
        DataError, CheckpointError: see :class:`Trainer` and :func:`open_pool`.
    """
    # The sample photos are five: holding the usual number out would leave none.
    hold_out = config.hold_out if data is not None else min(config.hold_out, 1)
    with RunLock(out) if is_first_process() else nullcontext():
        pool = open_pool(
            data, scale=config.scale, cache=cache or out / "pools", hold_out=hold_out, progress=packing, warn=say
        )
        facts = {"command": " ".join(["edge-sr", *sys.argv[1:]]), "data": data.name if data else "scikit-image samples"}
        trainer = Trainer(config, pool, out, init=init, metadata=facts, say=say)
        return trainer.run(progress, stop_at, stop_after)
