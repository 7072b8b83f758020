"""Latency of artifacts on this machine, each measured in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.progress import Progress, quiet
from apps.results import ProfileReport, ProfileRow, Timing
from apps.runnable import reason_not_timed
from converters.artifact import Artifact, load_artifact
from converters.isolation import run_in_child
from edge_sr.errors import ConfigError, RunnerError

DEVICE = "host"

# Loading the libraries, the model and the first runs; the timed runs come on top.
_STARTUP_SECONDS = 120.0


def profile_artifacts(
    paths: Sequence[Path],
    *,
    threads: Sequence[int] = (1,),
    runs: int = 50,
    max_seconds: float = 20.0,
    until_settled: bool = True,
    progress: Progress = quiet,
) -> ProfileReport:
    """Measure the latency of artifacts, one tile per run, one child process per artifact and thread count.

    Args:
        paths: artifact folders.
        threads: CPU thread counts of the runtime, each measured.
        runs: timed runs per measurement at least, after warm-up.
        max_seconds: stop timing one measurement after this long (at least ten runs are always made).
        until_settled: after ``runs``, go on until the median's 95% confidence interval is at most 3% of it wide, or
            ``max_seconds`` are over; ``Timing.settled`` says which it was.
        progress: called after each measurement.
    Returns:
        one row per artifact and thread count; a row without timing says why.
    Raises:
        ConfigError: no artifact, or a number out of range.
        ArtifactError: a folder is missing, damaged or altered. All are checked before any is run.
    """
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    if not threads or min(threads) < 1:
        raise ConfigError(f"threads must be at least 1, got {list(threads)}, use --threads 1")
    if runs < 1 or max_seconds <= 0:
        raise ConfigError(f"runs and seconds must be positive, got {runs} runs in {max_seconds} s")
    artifacts = [load_artifact(Path(path)) for path in paths]
    rows: list[ProfileRow] = []
    for artifact in artifacts:
        for count in dict.fromkeys(threads):
            what = f"profile {artifact.path.name}, {count} thread{'s' if count > 1 else ''}"
            progress(what, 0, 1)
            rows.append(_profile_one(artifact, count, runs, max_seconds, until_settled))
            progress(what, 1, 1)
    return ProfileReport(rows=tuple(rows), device=DEVICE)


def _profile_one(artifact: Artifact, threads: int, runs: int, max_seconds: float, until_settled: bool) -> ProfileRow:
    reason = reason_not_timed(artifact.meta.target)
    timing, failed = None, False
    if reason is None:
        try:
            timing = _time_in_child(artifact, threads, runs, max_seconds, until_settled)
        except RunnerError as error:
            reason, failed = str(error), True
    return ProfileRow(
        artifact_path=artifact.path,
        model=artifact.meta.model,
        scale=artifact.meta.scale,
        scheme=artifact.meta.scheme,
        target=artifact.meta.target,
        tile=artifact.meta.tile,
        overlap=artifact.meta.overlap,
        device=DEVICE,
        threads=threads,
        timing=timing,
        reason=reason,
        failed=failed,
    )


def _time_in_child(artifact: Artifact, threads: int, runs: int, max_seconds: float, until_settled: bool) -> Timing:
    arguments = {
        "artifact": str(artifact.path.resolve()),
        "threads": threads,
        "runs": runs,
        "max_seconds": max_seconds,
        "until_settled": until_settled,
    }
    # One run may take far longer than the budget, so the limit grows with it.
    limit = _STARTUP_SECONDS + 10.0 * max_seconds
    return timing_from_json(run_in_child("apps.profiling.host_child:measure", arguments, timeout_s=limit))


def timing_from_json(fields: dict[str, Any]) -> Timing:
    """Rebuild a :class:`Timing` from what the child wrote."""
    values = dict(fields)
    values["samples_ms"] = tuple(float(sample) for sample in values["samples_ms"])
    return Timing(**values)
