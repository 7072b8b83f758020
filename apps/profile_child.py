"""The process that a profile runs in: one artifact, one number of threads, nothing else.

Started by :mod:`apps.profiler` as ``python -m apps.profile_child``; its result is a JSON file, because runtimes print
what they like on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from apps.machine import package_version
from converters.artifact import Artifact, load_artifact
from converters.runners import open_runner
from converters.targets import get_target
from edge_sr.errors import EdgeSRError
from edge_sr.runner import Runner

WARMUP_RUNS = 3
WARMUP_SECONDS = 0.5
FEWEST_RUNS = 10


def main(argv: list[str] | None = None) -> int:
    """Measure and write the JSON file: ``{"timing": ...}``, or ``{"error": ...}`` for an error with a known cause."""
    options = _parse(argv)
    try:
        content: dict[str, Any] = {
            "timing": measure(
                load_artifact(options.artifact),
                threads=options.threads,
                runs=options.runs,
                max_seconds=options.max_seconds,
            )
        }
    except EdgeSRError as error:
        content = {"error": str(error)}
    options.out.write_text(json.dumps(content), encoding="utf-8")
    return 0


def measure(artifact: Artifact, *, threads: int, runs: int, max_seconds: float) -> dict[str, Any]:
    """Load, warm up and time one artifact in this process.

    Args:
        artifact: verified artifact.
        threads: CPU threads of the runtime.
        runs: timed runs wanted.
        max_seconds: stop after this many seconds of timed runs, but never before ``FEWEST_RUNS`` of them.
    Returns:
        the fields of :class:`apps.results.Timing`.
    """
    base_rss_bytes = peak_rss_bytes()
    start = time.perf_counter()
    runner = open_runner(artifact, threads=threads)
    load_ms = _since(start)
    # Seeded noise: the same picture everywhere, and no run of equal pixels that a kernel could profit from.
    tile = np.random.default_rng(0).integers(0, 256, (*artifact.meta.tile, 3), dtype=np.uint8)
    first_ms = _timed_run(runner, tile)
    warmup_runs, warmup_start = 0, time.perf_counter()
    while warmup_runs < WARMUP_RUNS or (time.perf_counter() - warmup_start < WARMUP_SECONDS and warmup_runs < runs):
        runner.run(tile)
        warmup_runs += 1
    samples: list[float] = []
    timed_start = time.perf_counter()
    while len(samples) < runs:
        if len(samples) >= FEWEST_RUNS and time.perf_counter() - timed_start > max_seconds:
            break
        samples.append(_timed_run(runner, tile))
    return {
        "threads": threads,
        "load_ms": load_ms,
        "first_ms": first_ms,
        "warmup_runs": warmup_runs,
        "samples_ms": samples,
        "peak_rss_bytes": peak_rss_bytes(),
        "base_rss_bytes": base_rss_bytes,
        **_runtime(artifact.meta.target),
    }


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: Linux carries the peak of the process that started this one over exec.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _runtime(target: str) -> dict[str, str]:
    # The runners take the first of these packages that is installed, in this order.
    for package in get_target(target).runtime_packages:
        version = package_version(package)
        if version is not None:
            return {"runtime": package, "runtime_version": version}
    # Built from source, as on some boards: it ran, but pip does not know it.
    return {"runtime": target, "runtime_version": "unknown"}


def _timed_run(runner: Runner, tile: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    start = time.perf_counter()
    runner.run(tile)
    return _since(start)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000.0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m apps.profile_child")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--max-seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
