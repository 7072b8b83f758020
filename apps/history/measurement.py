"""One measurement as the history keeps it: what was measured, on what, with what, and the raw samples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NoReturn

from apps.results import plain
from edge_sr.errors import DataError, reason_of

LATENCY, ACCURACY = "latency", "accuracy"
KINDS = (LATENCY, ACCURACY)
_TEXTS = (
    *("artifact_name", "artifact_sha256", "model", "scheme", "target"),
    *("device_kind", "device", "runtime", "runtime_version", "backend"),
)
_NUMBERS = ("load_ms", "first_ms", "psnr_y_db", "ssim")  # or None
_COUNTS = ("peak_rss_bytes", "images")  # or None
_OBJECTS = ("statistics", "versions", "machine", "details")
_LARGEST_COUNT = 2**63 - 1
_DEEPEST = 50


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
        self._check_types()
        if self.kind == LATENCY and not self.samples_ms and "median_ms" not in self.statistics:
            raise DataError(f"expected samples or a median of {self.artifact_name}, got neither: nothing to keep")
        if self.kind == ACCURACY and (self.set_name is None or self.psnr_y_db is None):
            raise DataError(f"expected an image set and a PSNR of {self.artifact_name}, got none: nothing to keep")

    def _check_types(self) -> None:
        for name in _TEXTS:
            _expect(isinstance(getattr(self, name), str), name, "text", getattr(self, name))
        _expect(self.set_name is None or isinstance(self.set_name, str), "set_name", "text", self.set_name)
        tile = isinstance(self.tile, tuple) and len(self.tile) == 2 and all(_is_count(side) for side in self.tile)
        _expect(tile, "tile", "(height, width)", self.tile)
        for name in ("scale", "threads"):
            _expect(_is_count(getattr(self, name)), name, "a whole number", getattr(self, name))
        for name in _COUNTS:
            value = getattr(self, name)
            _expect(value is None or _is_count(value), name, "a whole number", value)
        for name in _NUMBERS:
            value = getattr(self, name)
            _expect(value is None or _is_number(value), name, "a number", value)
        for name in _OBJECTS:
            _expect(isinstance(getattr(self, name), dict), name, "an object", getattr(self, name))
        times = all(_is_number(value) and math.isfinite(value) for value in self.samples_ms)
        _expect(times, "samples_ms", "finite numbers", "others")
        _expect(all(map(_is_number, self.statistics.values())), "statistics", "numbers by name", self.statistics)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything: the same measurement is never kept twice."""
        return fingerprint_of(self.to_json())

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
            values |= {name: _number(values[name]) for name in _NUMBERS if name in values}
            if isinstance(values.get("statistics"), dict):
                values["statistics"] = {name: _number(value) for name, value in values["statistics"].items()}
            return cls(**values)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"expected a measurement, got one with a wrong or missing field ({reason_of(error)})"
            ) from None


def parsed_json(text: str) -> Any:
    """JSON that comes from anywhere, as far as a file and a terminal can take it.

    Raises:
        DataError: no JSON, or one with half a character, with numbers that are none, or nested without end.
    """
    try:
        data = json.loads(text, parse_constant=_no_number)
        if "\\ud" in text.lower():  # escaped, and none where its other half follows
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected JSON, got something else ({reason_of(error)})") from None
    if isinstance(data, dict | list) and not _is_flat(data, _DEEPEST):
        raise DataError(f"expected JSON nested {_DEEPEST} deep at most, got deeper")
    return data


def fingerprint_of(data: Any) -> str:
    """SHA-256 over JSON-ready data, however its text is spaced and ordered."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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


def _number(value: Any) -> Any:
    """JSON has no infinity: ``plain`` makes a text of it, "inf" for the PSNR of equal pictures."""
    return float(value) if isinstance(value, str) else value


def _is_flat(data: Any, depth: int) -> bool:
    values = data.values() if isinstance(data, dict) else data
    inner = [value for value in values if isinstance(value, dict | list)]
    return depth > 0 and all(_is_flat(value, depth - 1) for value in inner)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is none")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_COUNT
    return whole or isinstance(value, float)


def _expect(condition: bool, name: str, wanted: str, got: Any) -> None:
    if not condition:
        raise DataError(f"{name} of a measurement must be {wanted}, got {repr(got)[:100]}")
