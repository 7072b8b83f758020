"""What is measured, in a process that holds one artifact with one number of threads and nothing else.

:mod:`apps.profiling.host` calls :func:`measure` through :func:`converters.isolation.run_in_child`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.machine import package_version
from apps.profiling.certainty import is_settled
from converters.artifact import load_artifact
from converters.runners import open_runner
from converters.targets import get_target
from edge_sr.runner import Runner

Image = NDArray[np.uint8]

WARMUP_RUNS = 3
WARMUP_SECONDS = 0.5
FEWEST_RUNS = 10
# Runs between two looks at the median's certainty.
_LOOK_EVERY = 10


def measure(*, artifact: str, threads: int, runs: int, max_seconds: float, until_settled: bool) -> dict[str, Any]:
    """Load, warm up and time one artifact in this process.

    Args:
        artifact: path of the folder.
        threads: CPU threads of the runtime.
        runs: timed runs wanted at least.
        max_seconds: stop after this many seconds of timed runs, but never before ``FEWEST_RUNS`` of them.
        until_settled: go on after ``runs`` until the median is certain, see :mod:`apps.profiling.certainty`.
    Returns:
        the fields of :class:`apps.results.Timing`.
    """
    loaded = load_artifact(Path(artifact), compare_computation=False)  # nothing but the runtime may use memory here
    base_rss_bytes = peak_rss_bytes()
    # Opened twice: the first time imports the runtime's libraries, which is no part of loading a model.
    open_runner(loaded, threads=threads)
    start = time.perf_counter()
    runner = open_runner(loaded, threads=threads)
    load_ms = _since(start)
    # Seeded noise: the same picture everywhere, and no run of equal pixels that a kernel could profit from.
    tile = np.random.default_rng(0).integers(0, 256, (*loaded.meta.tile, 3), dtype=np.uint8)
    first_ms = _timed_run(runner, tile)
    warmup_runs, warmup_start = 0, time.perf_counter()
    while warmup_runs < WARMUP_RUNS or (time.perf_counter() - warmup_start < WARMUP_SECONDS and warmup_runs < runs):
        runner.run(tile)
        warmup_runs += 1
    return {
        "threads": threads,
        "load_ms": load_ms,
        "first_ms": first_ms,
        "warmup_runs": warmup_runs,
        "samples_ms": _sample(runner, tile, runs, max_seconds, until_settled),
        "peak_rss_bytes": peak_rss_bytes(),
        "base_rss_bytes": base_rss_bytes,
        **_runtime(loaded.meta.target),
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


def _sample(runner: Runner, tile: Image, runs: int, max_seconds: float, until_settled: bool) -> list[float]:
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < FEWEST_RUNS or time.perf_counter() - start <= max_seconds:
        # Looked at rarely: a rule that stops as soon as numbers please would make them look better than they are.
        enough = len(samples) >= runs and (not until_settled or len(samples) % _LOOK_EVERY == 0)
        if enough and (not until_settled or is_settled(samples)):
            break
        samples.append(_timed_run(runner, tile))
    return samples


def _timed_run(runner: Runner, tile: Image) -> float:
    start = time.perf_counter()
    runner.run(tile)
    return _since(start)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000.0
