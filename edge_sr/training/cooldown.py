"""Finishing a run that has no end, without touching it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from edge_sr.errors import ConfigError
from edge_sr.training.config import TrainConfig, config_from_mapping
from edge_sr.training.loop import CONFIG, SNAPSHOT
from edge_sr.training.run_folder import read_json_object
from edge_sr.training.snapshots import load_snapshot, save_snapshot


def branch_cooldown(run: Path, steps: int) -> tuple[TrainConfig, Path]:
    """Copy the last state of a run without an end into a new run that takes its rate down.

    The run itself, which may be going on meanwhile, is only read. A cool-down of as many steps that was cut goes on.

    Args:
        run: folder of a run with ``schedule = "constant"``.
        steps: how many it takes from the peak rate down.
    Returns:
        what :func:`~edge_sr.training.train` wants: the configuration, and the new run's folder inside ``run``.
    Raises:
        ConfigError: no such run, one that comes down by itself, or several processes.
        CheckpointError: it has no whole snapshot, or the branch cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("expected one process for a cool-down, got several; leave out torchrun")
    config = config_from_mapping(read_json_object(run / CONFIG))
    if config.schedule != "constant" or config.cooldown_steps:
        raise ConfigError(f"expected a run with schedule constant, got {run}, which comes down by itself")
    for cut in sorted(run.glob(f"cooldown_*_{steps}/{CONFIG}")):
        taken_up = config_from_mapping(read_json_object(cut))
        state = load_snapshot(cut.parent / SNAPSHOT, "cpu", steps=sys.maxsize)
        if state is not None and state["step"] < taken_up.cooldown_start + steps:
            return taken_up, cut.parent
    state = load_snapshot(run / SNAPSHOT, "cpu", steps=sys.maxsize)
    if state is None:
        raise ConfigError(f"expected a run with a snapshot, got none in {run}; let it train first")
    start = int(state["step"])
    place = run / f"cooldown_{start}_{steps}"
    if not (place / SNAPSHOT).is_file():
        place.mkdir(exist_ok=True)
        save_snapshot(place / SNAPSHOT, state)
    return replace(config, cooldown_start=start, cooldown_steps=steps), place
