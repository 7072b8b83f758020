"""Time a training step beside that of an older commit and write results/training_speed.json.

    python -m scripts.measure_training_step --against v0.1 --threads 1 --threads 2     # on an otherwise idle machine

Both trees take turns, each time in a process of its own with the same configuration and photos (scikit-image's), so
that what else the machine does falls on both alike. A factor is taken within a round; the result quotes the median over
the rounds with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apps.progress import Progress, progress_bars
from apps.results import envelope, write_json
from apps.scripting import run_script
from edge_sr.errors import ConfigError
from scripts.measure import ROOT, Section

RESULT = ROOT / "results" / "training_speed.json"
_UNTIMED_STEPS = 3
# Run in either tree: whatever both understand. Prints the seconds between one step's end and the next one's.
_CHILD = """
import json, sys, time
from pathlib import Path
import torch
from edge_sr.training import config_from_mapping, train
torch.set_num_threads(int(sys.argv[2]))
ends = []
settings = json.loads(sys.argv[1])
train(config_from_mapping(settings), None, Path(sys.argv[3]), cache=Path(sys.argv[4]),
      progress=lambda now: ends.append(time.monotonic()))
print(json.dumps([after - before for before, after in zip(ends, ends[1:])]))
"""


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The files of a commit in a folder that is removed afterwards.

    Raises:
        ConfigError: there is no such commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
        if archive.returncode:
            raise ConfigError(f"expected a commit of this repository, got {commit}: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def step_seconds(tree: Path, settings: dict[str, Any], threads: int, cache: Path) -> list[float]:
    """Seconds of each step after the first few of a short run in a tree.

    Raises:
        ConfigError: the run failed.
    """
    with tempfile.TemporaryDirectory() as out:
        arguments = [json.dumps(settings), str(threads), out, str(cache)]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-c", _CHILD, *arguments]
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    if done.returncode:
        raise ConfigError(f"expected a training run in {tree}, got: {done.stderr.strip()[-300:]}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds[_UNTIMED_STEPS:]


def compare(
    older: Path, settings: dict[str, Any], *, threads: int, rounds: int, work: Path, progress: Progress
) -> dict[str, Any]:
    """Both trees in turns; crops per second of each and the factor between them, round by round."""
    trees = {"older": older, "now": ROOT}
    medians: dict[str, list[float]] = {name: [] for name in trees}
    for number in range(rounds):
        for name in list(trees)[:: 1 if number % 2 == 0 else -1]:
            seconds = step_seconds(trees[name], settings, threads, work / name)
            medians[name].append(statistics.median(seconds))
        progress(f"{threads} threads", number + 1, rounds, f"{medians['older'][-1] / medians['now'][-1]:.2f} times")
    factors = [before / after for before, after in zip(medians["older"], medians["now"], strict=True)]
    batch = settings["phases"][0]["batch"]
    return {
        "threads": threads,
        "factor": {"median": statistics.median(factors), "low": min(factors), "high": max(factors), "rounds": factors},
        "crops_per_second": {name: batch / statistics.median(values) for name, values in medians.items()},
        "step_seconds": medians,
    }


def main(arguments: list[str] | None = None) -> int:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description="Time a training step beside that of an older commit.")
    parser.add_argument("--against", required=True, help="commit to compare with")
    parser.add_argument("--threads", type=int, action="append", help="CPU threads; may be given several times")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both")
    parser.add_argument("--steps", type=int, default=12, help="steps of a turn, the first three not timed")
    parser.add_argument("--batch", type=int, default=4, help="crops per step")
    parser.add_argument("--patch", type=int, default=32, help="LR pixels along a crop's side")
    parser.add_argument("--model", default="idsa_net", help="network to train")
    options = parser.parse_args(arguments)
    if options.steps <= _UNTIMED_STEPS + 1:
        raise ConfigError(f"expected more than {_UNTIMED_STEPS + 1} steps, of which the first are not timed; give more")
    settings = {
        "model": options.model,
        "scale": 4,
        "luma_weight": 0.8,
        "phases": [{"steps": options.steps, "batch": options.batch, "patch": options.patch}],
        "validate_every": options.steps,
    }
    with checked_out(options.against) as older, tempfile.TemporaryDirectory() as work, progress_bars() as progress:
        rows = [
            compare(older, settings, threads=threads, rounds=options.rounds, work=Path(work), progress=progress)
            for threads in options.threads or [1]
        ]
    for row in rows:
        factor = row["factor"]
        print(
            f"{row['threads']} threads: {row['crops_per_second']['now']:.1f} crops/s, "
            f"{factor['median']:.2f} times as many as before ({factor['low']:.2f} to {factor['high']:.2f})"
        )
    facts = {"against": options.against, "settings": settings, "rows": rows}
    write_json(RESULT, envelope("training_speed", Section(content=facts)))
    return 0


if __name__ == "__main__":
    run_script(main)
