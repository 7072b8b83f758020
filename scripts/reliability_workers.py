"""Processes that :mod:`scripts.measure_reliability` starts several of: each line of standard input is a task, as JSON.

Each answers ``ready`` once and then one line of JSON per task.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from apps.history.measurement import LATENCY, Measurement
from apps.history.store import append
from converters.artifact import META_FILE, fingerprint, load_artifact, record_measured, write_artifact
from edge_sr.errors import EdgeSRError

EXAMPLE = Measurement(
    kind=LATENCY,
    created="2026-01-01T12:00:00+00:00",
    artifact_name="net_w8a8",
    artifact_sha256="a" * 64,
    model="idsa_net_mobile",
    scale=4,
    scheme="w8a8",
    target="tflite",
    tile=(128, 128),
    device_kind="host",
    device="a processor",
    runtime="tflite",
    threads=1,
    samples_ms=tuple(1 + number / 64 for number in range(40)),
)


def append_some(task: dict[str, Any]) -> dict[str, Any]:
    """Append ``writes`` measurements of this ``process`` to ``path``, each by itself."""
    failures: Counter[str] = Counter()
    for number in range(task["writes"]):
        row = replace(EXAMPLE, device=f"process {task['process']}", load_ms=float(number))
        try:
            append([row], Path(task["path"]))
        except EdgeSRError as error:
            failures[_without_paths(error, task["path"])] += 1
    return {"failures": failures}


def record_some(task: dict[str, Any]) -> dict[str, Any]:
    """Record ``writes`` results of this ``process`` in the artifact at ``path``, and load it after each."""
    failures: Counter[str] = Counter()
    artifact = load_artifact(Path(task["path"]))
    for number in range(task["writes"]):
        try:
            record_measured(artifact, {f"{task['process']} {number}": {"psnr_y_db": 30.0}})
            load_artifact(artifact.path)
        except EdgeSRError as error:
            failures[_without_paths(error, task["path"])] += 1
    return {"failures": failures}


def overwrite(task: dict[str, Any]) -> dict[str, Any]:
    """Tell the number of a process that overwrites the artifact at ``path`` until it is killed, and wait for that."""
    child = os.fork()  # a process that had to import everything first would take its time
    if child == 0:
        try:
            _overwrite_on(Path(task["path"]), Path(task["source"]))
        finally:
            os._exit(1)
    print(child, flush=True)
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


def _overwrite_on(path: Path, source: Path) -> None:
    meta = load_artifact(source, compare_computation=False).meta
    main_file = source / meta.main_file
    sound, number = main_file.read_bytes(), 0
    while True:
        number += 1
        main_file.write_bytes(sound + number.to_bytes(4, "little"))
        newer = replace(meta, files=fingerprint(source, meta.files), canonical_sha256=None)
        write_artifact(path, meta=newer, source=source, overwrite=True)


def read_on(task: dict[str, Any]) -> dict[str, Any]:
    """Load the artifact at ``path`` until ``stop`` exists."""
    outcomes: Counter[str] = Counter()
    path, stop = Path(task["path"]), Path(task["stop"])
    while not stop.exists():
        try:
            load_artifact(path)
            outcomes["loaded"] += 1
        except EdgeSRError:
            outcomes["damaged" if (path / META_FILE).exists() else "none"] += 1
    return dict(outcomes)


WORK: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "append": append_some,
    "record": record_some,
    "overwrite": overwrite,
    "read": read_on,
}


def _without_paths(error: EdgeSRError, path: str) -> str:
    return str(error).replace(path, "FILE")


def main() -> int:
    """Work on tasks until standard input ends."""
    work = WORK[sys.argv[1]]
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
