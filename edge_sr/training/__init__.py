"""Float training: ``open_pool`` packs photos, :func:`train` runs a configuration on them.

Needs torch, numpy and pillow alone, so that it also runs on a borrowed GPU machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from edge_sr.training.config import Phase, TrainConfig, config_from_mapping, default_config_path, load_config
from edge_sr.training.crop_pool import CropPool
from edge_sr.training.loop import Progress, Trainer, TrainResult
from edge_sr.training.packing import open_pool
from edge_sr.training.validation import HeldOut

__all__ = [
    "CropPool",
    "HeldOut",
    "Phase",
    "Progress",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "config_from_mapping",
    "default_config_path",
    "load_config",
    "open_pool",
    "train",
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
) -> TrainResult:
    """Train a network, or go on with the run that ``out`` holds.

    Args:
        config: what to train; see :func:`load_config` and :func:`default_config_path`.
        data: folder of photos, or of a packed pool; None takes scikit-image's sample photos.
        out: the run's folder; ``network.safetensors`` appears there at the end.
        cache: folder for packed photos; ``out/pools`` where None.
        init: checkpoint to start a new run from; tensors of other shapes (another scale's tail) are left out.
        progress: called after every step.
        packing: called with (photos done, photos in all) while photos are packed.
        stop_at: stop after this many steps of the run, with a snapshot.
    Raises:
        ConfigError, DataError, CheckpointError: see :class:`Trainer` and :func:`open_pool`.
    """
    # The sample photos are five: holding the usual number out would leave none.
    hold_out = config.hold_out if data is not None else min(config.hold_out, 1)
    pool = open_pool(data, scale=config.scale, cache=cache or out / "pools", hold_out=hold_out, progress=packing)
    facts = {"command": " ".join(["edge-sr", *sys.argv[1:]]), "data": data.name if data else "scikit-image samples"}
    return Trainer(config, pool, out, init=init, metadata=facts).run(progress, stop_at)
