"""One measurement as the history keeps it: what was measured, on what, with what, and the raw samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from apps.results import plain
from edge_sr.errors import DataError

LATENCY, ACCURACY = "latency", "accuracy"
KINDS = (LATENCY, ACCURACY)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Latency of an artifact on a device (``kind`` latency), or its score on an image set (accuracy).

    Attributes:
        created: UTC, ISO 8601 with seconds and offset.
        artifact_name, artifact_sha256: folder's name; SHA-256 of the main model file (of a package: over its files).
        model, scale, scheme, target, tile: what was exported; ``tile`` is (height, width) of the LR input.
        device_kind: ``host``, ``adb``, ``browser``, ``apple``; an emulator or headless browser says so in ``device``.
        device: the device's own name: processor, or maker and model.
        runtime, runtime_version, backend: what ran it; backend is "" where there is one only.
        threads: CPU threads, 0 where the device has no such number.
        samples_ms: every timed run in order, wall-clock milliseconds; empty for accuracy, and where a tool prints
            statistics only.
        statistics: what a tool printed in place of samples (``median_ms``, ``mean_ms``, ``std_ms``, ``count``).
        load_ms, first_ms, peak_rss_bytes: None where not measured.
        set_name, psnr_y_db, ssim, images: accuracy only.
        versions: package -> version; ``machine``: the machine that drove the measurement.
        details: anything else the measurement said (thermal state, delegation, notes).
    """

    kind: str
    created: str
    artifact_name: str
    artifact_sha256: str
    model: str
    scale: int
    scheme: str
    target: str
    tile: tuple[int, int]
    device_kind: str
    device: str
    runtime: str
    runtime_version: str = ""
    backend: str = ""
    threads: int = 0
    samples_ms: tuple[float, ...] = ()
    statistics: dict[str, float] = field(default_factory=dict)
    load_ms: float | None = None
    first_ms: float | None = None
    peak_rss_bytes: int | None = None
    set_name: str | None = None
    psnr_y_db: float | None = None
    ssim: float | None = None
    images: int | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"kind of a measurement must be one of {', '.join(KINDS)}, got {self.kind!r}")
        _check_time(self.created)
        if self.kind == LATENCY and not self.samples_ms and "median_ms" not in self.statistics:
            raise DataError(f"expected samples or a median of {self.artifact_name}, got neither: nothing to keep")
        if self.kind == ACCURACY and (self.set_name is None or self.psnr_y_db is None):
            raise DataError(f"expected an image set and a PSNR of {self.artifact_name}, got none: nothing to keep")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything: the same measurement is never kept twice."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_json` is its inverse."""
        return plain(asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Any) -> Measurement:
        """Rebuild a measurement.

        Raises:
            DataError: unknown or missing fields, or values that make no measurement.
        """
        if not isinstance(data, Mapping):
            raise DataError(f"expected a measurement as a JSON object, got {type(data).__name__}")
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise DataError(
                f"expected a measurement, got unknown fields {', '.join(unknown)}: a newer release wrote it?"
            )
        try:
            values = {**data, "tile": tuple(data["tile"]), "samples_ms": tuple(map(float, data.get("samples_ms", ())))}
            if values.get("psnr_y_db") is not None:
                values["psnr_y_db"] = float(values["psnr_y_db"])  # "inf" for equal pictures
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"expected a measurement, got one with a wrong or missing field ({error})") from None


def now() -> str:
    """This second, UTC, as measurements say it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_time(text: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise DataError(f"expected a time such as 2026-01-31T12:00:00+00:00, got {text!r}") from None
    if moment.tzinfo is None or moment.utcoffset() != UTC.utcoffset(None):
        raise DataError(f"expected a time in UTC with its offset +00:00, got {text!r}")
