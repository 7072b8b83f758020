"""Float training: ``open_pool`` packs photos, :func:`train` runs a configuration on them.

Needs torch, numpy and pillow alone, so that it also runs on a borrowed GPU machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from edge_sr.errors import ConfigError
from edge_sr.training.config import (
    Phase,
    TrainConfig,
    config_from_mapping,
    default_config_path,
    load_config,
    trial_config,
)
from edge_sr.training.crop_pool import CropPool
from edge_sr.training.loop import CONFIG, SNAPSHOT, Progress, Trainer, TrainResult
from edge_sr.training.packing import open_pool
from edge_sr.training.run_folder import RunLock, read_json_object
from edge_sr.training.snapshots import load_snapshot, to_stderr
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
    "cooldown_of",
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
    branch_from: Path | None = None,
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
        branch_from: folder of a run whose last state a new run starts from, see :func:`cooldown_of`.
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
    first = os.environ.get("RANK", "0") == "0"
    with RunLock(out) if first else nullcontext():
        pool = open_pool(
            data, scale=config.scale, cache=cache or out / "pools", hold_out=hold_out, progress=packing, warn=say
        )
        facts = {"command": " ".join(["edge-sr", *sys.argv[1:]]), "data": data.name if data else "scikit-image samples"}
        trainer = Trainer(config, pool, out, init=init, branch_from=branch_from, metadata=facts, say=say)
        return trainer.run(progress, stop_at, stop_after)


def cooldown_of(run: Path, steps: int) -> tuple[TrainConfig, Path]:
    """What :func:`train` wants to finish a run without an end: its configuration and the finished run's folder.

    The run itself, which may be going on meanwhile, is only read: give it as ``branch_from``.

    Args:
        run: folder of a run with ``schedule = "constant"``.
        steps: how many it takes from the peak rate down.
    Raises:
        ConfigError: no such run, or one that comes down by itself.
        CheckpointError: it has no whole snapshot.
    """
    config = config_from_mapping(read_json_object(run / CONFIG))
    if config.schedule != "constant" or config.cooldown_steps:
        raise ConfigError(f"expected a run with schedule constant, got {run}, which comes down by itself")
    state = load_snapshot(run / SNAPSHOT, "cpu", steps=sys.maxsize)
    if state is None:
        raise ConfigError(f"expected a run with a snapshot, got none in {run}; let it train first")
    start = int(state["step"])
    return replace(config, cooldown_start=start, cooldown_steps=steps), run / f"cooldown_{start}_{steps}"
