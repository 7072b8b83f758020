"""What a measurement with Core ML yields: times, Core ML's own plan, and whether the picture is right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.profiling.adb.results import NOT_RUN, DeviceNumerics, SampledTiming
from apps.results import plain


@dataclass(frozen=True, kw_only=True)
class DeviceShare:
    """What Core ML plans for one compute device.

    Attributes:
        operations: number of operations that prefer it.
        cost_percent: their share of the estimated cost; None where Core ML estimates none.
        by_name: operator name -> count.
    """

    operations: int
    cost_percent: float | None
    by_name: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ComputePlan:
    """Core ML's own plan: device name (``CPU``, ``GPU``, ``Neural Engine``) -> its share. A forecast by Core ML."""

    shares: dict[str, DeviceShare]

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class AppleRow:
    """One artifact with one compute unit; ``timing`` is None where ``reason`` says why.

    ``timing`` holds every prediction, in milliseconds: picture in, picture out. ``load_samples_ms`` are loads of the
    package; the first one also compiles it for the device. ``plan`` is None with ``plan_reason``.
    """

    artifact_path: Path
    model: str
    scheme: str
    target: str
    tile: tuple[int, int]
    artifact_sha256: str
    compute_unit: str
    device: str
    os: str
    runtime: str
    runtime_version: str
    timing: SampledTiming | None = None
    load_samples_ms: tuple[float, ...] = ()
    plan: ComputePlan | None = None
    plan_reason: str | None = None
    numerics: DeviceNumerics = NOT_RUN
    thermal_state: str | None = None
    reason: str | None = None
    failed: bool = False

    @property
    def label(self) -> str:
        return self.artifact_path.name

    def to_json(self) -> dict[str, Any]:
        fields = {
            name: getattr(self, name)
            for name in (
                *("model", "scheme", "target", "tile", "artifact_sha256", "compute_unit", "device", "os", "runtime"),
                *("runtime_version", "load_samples_ms", "plan_reason", "thermal_state", "reason", "failed"),
            )
        }
        parts = {
            name: None if getattr(self, name) is None else getattr(self, name).to_json()
            for name in ("timing", "plan", "numerics")
        }
        return plain({"artifact_name": self.label, **fields, **parts})  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class AppleReport:
    """All artifacts with all compute units on one Mac or iPhone."""

    device: str
    os: str
    rows: tuple[AppleRow, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "device": "apple",
            "device_title": self.device,
            "os": self.os,
            "rows": [row.to_json() for row in self.rows],
        }
