"""Several processes at one file, and processes that are killed: what is lost, and what readers find meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from apps.history.store import read
from apps.progress import Progress
from converters.artifact import Artifact, load_artifact, write_artifact
from edge_sr.errors import ConfigError, EdgeSRError

HISTORY_PROCESSES, RECORDING_PROCESSES = 8, 4
# A history is begun once, so many are begun, and few measurements written to each.
_WRITES_PER_BEGINNING = 5
_LONGEST_LIFE_S = 0.5


class Worker:
    """A process of :mod:`scripts.reliability_workers`."""

    def __init__(self, work: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.reliability_workers", work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        if not said:
            raise ConfigError(f"expected an answer of a worker, got its end ({self.process.poll()}); see above")
        return said

    def begin(self, **task: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def workers(work: str, count: int) -> Iterator[list[Worker]]:
    """So many that are ready, gone at the end."""
    started = [Worker(work) for _ in range(count)]
    try:
        for worker in started:
            worker.line()
        yield started
    finally:
        for worker in started:
            worker.kill()


def begin_histories(work: Path, *, writes: int, progress: Progress) -> dict[str, Any]:
    """Writes lost where several processes write to a history that does not exist yet.

    Args:
        work: an empty folder.
        writes: of all processes to all histories together.
    """
    per_history = HISTORY_PROCESSES * _WRITES_PER_BEGINNING
    histories, kept = max(1, writes // per_history), 0
    failures: Counter[str] = Counter()
    with workers("append", HISTORY_PROCESSES) as all_of_them:
        for number in range(histories):
            progress("begin histories", number, histories)
            path = work / f"{number}.sqlite3"
            for process, worker in enumerate(all_of_them):
                worker.begin(path=str(path), process=process, writes=_WRITES_PER_BEGINNING)
            for worker in all_of_them:
                failures.update(json.loads(worker.line())["failures"])
            kept += len(read(path))
    total = histories * per_history
    return {
        "processes": HISTORY_PROCESSES,
        "histories": histories,
        "writes": total,
        "lost": total - kept,
        "failures": dict(failures),
    }


def record_at_once(artifact: Artifact, work: Path, *, writes: int, progress: Progress) -> dict[str, Any]:
    """Results lost where several processes record in one artifact, and loads in between that failed."""
    path = work / artifact.path.name
    shutil.copytree(artifact.path, path)
    before = len(artifact.meta.measured)
    each = max(1, writes // RECORDING_PROCESSES)
    failures: Counter[str] = Counter()
    with workers("record", RECORDING_PROCESSES) as all_of_them:
        for process, worker in enumerate(all_of_them):
            worker.begin(path=str(path), process=process, writes=each)
        for done, worker in enumerate(all_of_them):
            progress("record", done, RECORDING_PROCESSES)
            failures.update(json.loads(worker.line())["failures"])
    total = each * RECORDING_PROCESSES
    try:
        kept = len(load_artifact(path).meta.measured) - before
    except EdgeSRError:
        kept = 0
    return {
        "processes": RECORDING_PROCESSES,
        "writes": total,
        "lost": total - kept,
        "failures": dict(failures),
        "left_behind": sorted(
            {found.name for found in path.iterdir()} - {found.name for found in artifact.path.iterdir()}
        ),
    }


def kill_while_overwriting(
    artifact: Artifact, work: Path, *, kills: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Artifacts that are missing or damaged after their writer was killed, and what a reader finds all the while."""
    path, stop = work / "artifact", work / "stop"
    shutil.copytree(artifact.path, path)
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    most_left = 0
    with workers("read", 1) as (reader,), workers("overwrite", 1) as (writer,):
        reader.begin(path=str(path), stop=str(stop))
        for number in range(kills):
            progress("kill", number, kills)
            source = work / "source"
            shutil.copytree(artifact.path, source, dirs_exist_ok=True)
            writer.begin(path=str(path), source=str(source))
            process = int(writer.line())
            time.sleep(float(rng.uniform(0, _LONGEST_LIFE_S)))
            os.kill(process, signal.SIGKILL)
            if json.loads(writer.line())["status"] != -signal.SIGKILL:
                raise ConfigError("expected a writer that only a kill ends, got one that failed; see above")
            outcomes[_state(path)] += 1
            most_left = max(most_left, len(_hidden(work)))
        stop.touch()
        found = json.loads(reader.line())
    write_artifact(path, meta=artifact.meta, source=artifact.path, overwrite=True)
    return {
        "kills": kills,
        "missing": outcomes["missing"],
        "damaged": outcomes["damaged"],
        "reads": sum(found.values()),
        "reads_of_none": found.get("none", 0),
        "reads_of_damage": found.get("damaged", 0),
        "most_left_behind": most_left,
        "left_after_the_next_write": len(_hidden(work)),
    }


def _state(path: Path) -> str:
    if not path.exists():
        return "missing"
    try:
        load_artifact(path)
    except EdgeSRError:
        return "damaged"
    return "whole"


def _hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]
