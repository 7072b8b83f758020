"""What the steps return: frozen dataclasses that print as tables and save as JSON.

Every JSON file written here is an envelope: ``kind`` (what it holds), when and with which command it was made, the
machine and the package versions, then the result itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from apps.destinations import check_destination, write_bytes
from apps.machine import describe_machine, package_versions
from apps.profiling.sampled import SampleStatistics
from edge_sr.errors import ConfigError
from edge_sr.foreign_files import parse_json
from edge_sr.json_values import plain as plain

KIND_PREFIX = "edge-sr/"


class Result(Protocol):
    """Anything a step returns."""

    def to_json(self) -> dict[str, Any]: ...


# ----------------------------------------------------------------------------------------------------------- profile
@dataclass(frozen=True, kw_only=True)
class Timing(SampleStatistics):
    """Latency of one artifact with one number of threads, from a process of its own.

    All times are wall-clock milliseconds. ``samples_ms`` are all timed runs, in order: image tile in (uint8), image
    tile out (uint8), conversions included. ``load_ms`` is opening the model, ``first_ms`` the first run after that.
    ``peak_rss_bytes`` is the process's largest resident memory, ``base_rss_bytes`` what it held before the model was
    opened.
    """

    threads: int
    load_ms: float
    first_ms: float
    warmup_runs: int
    samples_ms: tuple[float, ...]
    peak_rss_bytes: int
    base_rss_bytes: int
    runtime: str
    runtime_version: str

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ConfigError("expected at least one timed run, got none, raise the number of runs")

    def to_json(self) -> dict[str, Any]:
        summary = {
            "median_ms": self.median_ms,
            "iqr_ms": self.iqr_ms,
            "iqr_percent": self.iqr_percent,
            "p95_ms": self.p95_ms,
            "noisy": self.noisy,
            "median_interval_ms": self.median_interval_ms,
            "settled": self.settled,
        }
        return plain({**summary, **asdict(self)})  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class ProfileRow:
    """One artifact on one device with one number of threads; ``timing`` is None where ``reason`` says why."""

    artifact_path: Path
    model: str
    scale: int
    scheme: str
    target: str
    tile: tuple[int, int]
    overlap: int
    device: str
    threads: int
    timing: Timing | None
    reason: str | None = None
    failed: bool = False

    @property
    def label(self) -> str:
        return self.artifact_path.name

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact_name": self.label,
            "model": self.model,
            "scale": self.scale,
            "scheme": self.scheme,
            "target": self.target,
            "tile": list(self.tile),
            "overlap": self.overlap,
            "device": self.device,
            "threads": self.threads,
            "timing": None if self.timing is None else self.timing.to_json(),
            "reason": self.reason,
            "failed": self.failed,
        }


@dataclass(frozen=True, kw_only=True)
class ProfileReport:
    """All artifacts with all thread counts on one device."""

    rows: tuple[ProfileRow, ...]
    device: str

    def to_json(self) -> dict[str, Any]:
        return {"device": self.device, "rows": [row.to_json() for row in self.rows]}


# -------------------------------------------------------------------------------------------------------------- JSON
def envelope(kind: str, result: Result, *, command: Sequence[str] | None = None) -> dict[str, Any]:
    """Wrap a result with when, how and where it was made.

    Args:
        kind: short name of the content, such as ``verify``.
        result: what to save.
        command: the words that made it; default the words this process was started with.
    """
    return {
        "kind": KIND_PREFIX + kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command) if command is not None else [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": describe_machine().to_json(),
        "versions": package_versions(),
        **result.to_json(),
    }


def check_json_target(path: Path | None) -> None:
    """Refuse, before any work is done, a ``--json`` path that would destroy something else.

    An earlier result of ours is replaced; any other existing file is not.

    Raises:
        ConfigError: the folder is missing, the file exists and holds something else, or it cannot be written.
    """
    if path is not None:
        check_destination(path, "--json", is_own=_is_ours)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, whole or not at all; infinities and NaN become strings."""
    write_bytes(path, json_text(content).encode())


def json_text(content: Mapping[str, Any]) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"


def _is_ours(path: Path) -> bool:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and str(content.get("kind", "")).startswith(KIND_PREFIX)
