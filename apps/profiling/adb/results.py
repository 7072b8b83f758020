"""What a measurement on a device yields. Raw samples where the tool prints them, else the statistics that it prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.profiling.adb.device_state import DeviceInfo, DeviceState
from apps.profiling.adb.tools import Tool
from apps.profiling.sampled import NOISY_IQR_PERCENT, SampleStatistics
from apps.results import plain
from edge_sr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SampledTiming(SampleStatistics):
    """Every timed run, in milliseconds, in order: tensor in, tensor out, as the tool measures it on the device.

    ``load_ms`` is opening the model, ``first_ms`` the first run after that; None where the tool prints neither.
    """

    samples_ms: tuple[float, ...]
    warmup_runs: int
    load_ms: float | None = None
    first_ms: float | None = None

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ConfigError("expected at least one timed run, got none, raise the number of runs")

    @property
    def mean_ms(self) -> float:
        return float(np.mean(self.samples_ms))

    def to_json(self) -> dict[str, Any]:
        summary = {
            "kind": "samples",
            "count": self.count,
            "median_ms": self.median_ms,
            "mean_ms": self.mean_ms,
            "iqr_ms": self.iqr_ms,
            "p95_ms": self.p95_ms,
            "noisy": self.noisy,
        }
        return plain({**summary, **asdict(self)})  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class PrintedStatistics:
    """What a tool prints of its runs, in milliseconds, where it keeps the runs themselves to itself.

    Attributes:
        count: timed runs; ``warmup_runs`` came before and are not in the figures.
        median_ms, p5_ms, p95_ms: None from tools that print no percentiles.
        load_ms, first_ms: opening the model, and the first run ever; None where not printed.
        memory_mb: growth of the tool's memory over all of it, as the tool estimates it.
    """

    count: int
    warmup_runs: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    median_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    memory_mb: float | None = None

    @property
    def noisy(self) -> bool:
        """Standard deviation above 10% of the mean: there are no quartiles to judge by."""
        return 100.0 * self.std_ms > NOISY_IQR_PERCENT * self.mean_ms

    def to_json(self) -> dict[str, Any]:
        return plain({"kind": "statistics", "noisy": self.noisy, **asdict(self)})  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class DelegationSeen:
    """What the log says of the delegate.

    ``delegated_nodes`` of ``nodes`` went to it in ``partitions``; None where that is not printed. ``whole`` says
    whether the delegate runs the whole graph, None where the log says nothing. ``unsupported`` are the delegate's own
    lines about operators that it refuses.
    """

    delegate: str
    delegated_nodes: int | None = None
    nodes: int | None = None
    partitions: int | None = None
    whole: bool | None = None
    unsupported: tuple[str, ...] = ()

    @property
    def fallback(self) -> str | None:
        """One line where something runs outside of the delegate, else None."""
        if self.nodes is not None and self.delegated_nodes is not None:
            left = self.nodes - self.delegated_nodes
            if left > 0:
                inside = f"{self.delegated_nodes} inside"
                if self.partitions is not None:
                    inside += f", {self.partitions} partitions"
                return f"{left} of {self.nodes} nodes run outside of {self.delegate} ({inside})"
        if self.whole is False and self.delegated_nodes == 0:
            return f"nothing runs in {self.delegate}: all of it fell back"
        if self.whole is False:
            return f"part of the graph runs outside of {self.delegate}"
        return None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fallback": self.fallback}


@dataclass(frozen=True, kw_only=True)
class DeviceNumerics:
    """The device's own output against this machine's, same artifact, same tile.

    ``psnr_db`` (inf where equal), ``max_difference`` in 8-bit levels and ``different_percent`` of the values are None
    where ``reason`` says why nothing was compared. ``agrees`` is None then, never true.
    """

    reason: str | None = None
    reference: str | None = None
    psnr_db: float | None = None
    max_difference: int | None = None
    different_percent: float | None = None
    agrees: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


NOT_RUN = DeviceNumerics(reason="not run")


@dataclass(frozen=True, kw_only=True)
class CoolDown:
    """How long was waited for the device to cool before a run, and whether it did.

    ``sensor`` is what was watched, None where the device tells no temperature; then nothing was waited for.
    """

    limit_c: float
    waited_s: float
    sensor: str | None
    temperature_c: float | None
    reached: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AdbRow:
    """One artifact with one thread count, one backend, pinned or not; ``timing`` is None where ``reason`` says why.

    ``taskset_mask`` is the hexadecimal mask of the cores that the tool was pinned to, None where it ran unpinned.
    """

    artifact_path: Path
    model: str
    scheme: str
    target: str
    tile: tuple[int, int]
    artifact_sha256: str
    threads: int
    backend: str
    pinned: bool
    taskset_mask: str | None = None
    runtime: str
    runtime_version: str
    tool: Tool | None = None
    timing: SampledTiming | PrintedStatistics | None = None
    delegation: DelegationSeen | None = None
    numerics: DeviceNumerics = NOT_RUN
    before: DeviceState | None = None
    after: DeviceState | None = None
    cool_down: CoolDown | None = None
    notes: tuple[str, ...] = ()
    reason: str | None = None
    failed: bool = False

    @property
    def label(self) -> str:
        return self.artifact_path.name

    def to_json(self) -> dict[str, Any]:
        fields = {
            name: getattr(self, name)
            for name in (
                *("model", "scheme", "target", "tile", "artifact_sha256", "threads", "backend", "pinned"),
                *("taskset_mask", "runtime", "runtime_version", "notes", "reason", "failed"),
            )
        }
        parts = ("tool", "timing", "delegation", "numerics", "before", "after", "cool_down")
        results = {name: None if getattr(self, name) is None else getattr(self, name).to_json() for name in parts}
        return plain({"artifact_name": self.label, "device": "adb", **fields, **results})  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class AdbReport:
    """All measurements on one device.

    ``interrupted`` says that Ctrl-C ended it early, ``left_behind`` names a folder that could not be removed because
    the device was gone (the next session on that device removes it); the rows measured until then are whole.
    """

    device: DeviceInfo
    rows: tuple[AdbRow, ...]
    interrupted: bool = False
    left_behind: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "device": "adb",
            "device_info": self.device.to_json(),
            "interrupted": self.interrupted,
            "left_behind": self.left_behind,
            "rows": [row.to_json() for row in self.rows],
        }
