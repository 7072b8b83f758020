"""From the reports of profile and verify to measurements.

Any report whose rows have an ``artifact_path`` and a JSON form with a ``timing`` can be kept: this machine's, a
phone's over adb, a browser's, a Mac's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from apps.history.measurement import ACCURACY, LATENCY, Measurement, now
from apps.history.store import append
from apps.machine import describe_machine, package_versions
from apps.results import plain
from apps.verification.rows import VerifyRow
from converters.artifact import ArtifactMeta, load_artifact

_STATISTICS = ("count", "median_ms", "mean_ms", "std_ms", "min_ms", "max_ms", "p5_ms", "p95_ms")
_DEVICE_KINDS = ("host", "adb", "browser", "apple")
# What the columns of a measurement hold already.
_KEPT_ELSEWHERE = ("artifact_name", "model", "scale", "scheme", "target", "tile", "threads", "timing", "device")


class ProfiledRow(Protocol):
    """A row of any profile report."""

    @property
    def artifact_path(self) -> Path: ...

    def to_json(self) -> dict[str, Any]: ...


class ProfiledReport(Protocol):
    """Any profile report."""

    @property
    def rows(self) -> Sequence[ProfiledRow]: ...

    def to_json(self) -> dict[str, Any]: ...


class VerifiedReport(Protocol):
    """A verification: anything with its rows."""

    @property
    def rows(self) -> Sequence[VerifyRow]: ...


def append_profile(report: ProfiledReport, path: Path, *, created: str | None = None) -> int:
    """Keep every timing of a profile report; rows without one are left out.

    Args:
        report: of the host, or of any other kind of device.
        path: history file.
        created: time of the measurement, default now.
    Returns:
        how many measurements were new.
    Raises:
        DataError: the history cannot be written.
        ArtifactError: an artifact has changed or gone since it was measured.
    """
    return append(profile_measurements(report, created=created or now()), path)


def append_verify(report: VerifiedReport, path: Path, *, created: str | None = None) -> int:
    """Keep every score of a verification; see :func:`append_profile`."""
    return append(verify_measurements(report, created=created or now()), path)


def profile_measurements(report: ProfiledReport, *, created: str) -> list[Measurement]:
    """One measurement per row that has a timing."""
    whole = report.to_json()
    rows = [(row, row.to_json()) for row in report.rows]
    return [
        _latency(row.artifact_path, fields, whole, created) for row, fields in rows if fields.get("timing") is not None
    ]


def verify_measurements(report: VerifiedReport, *, created: str) -> list[Measurement]:
    """One measurement per artifact and image set that has a score of its own."""
    machine = describe_machine()
    found = []
    for row in report.rows:
        if row.artifact is None:
            continue
        meta = load_artifact(row.artifact_path).meta
        found.append(
            Measurement(
                kind=ACCURACY,
                created=created,
                **_identity(meta, row.artifact_path),
                device_kind="host",
                device=machine.cpu_model,
                runtime=row.runtime,
                set_name=row.set_name,
                psnr_y_db=row.artifact.psnr_y_db,
                ssim=row.artifact.ssim,
                images=len(row.artifact.images),
                versions=package_versions(),
                machine=machine.to_json(),
                details=plain({"drop_db": row.drop_db, "quantization_drop_db": row.quantization_drop_db}),
            )
        )
    return found


def artifact_digest(meta: ArtifactMeta) -> str:
    """SHA-256 of the main model file; of a package, over the sorted names and hashes of its files."""
    if meta.main_file in meta.files:
        return meta.files[meta.main_file].sha256
    inside = sorted((name, entry.sha256) for name, entry in meta.files.items() if name.startswith(f"{meta.main_file}/"))
    text = "".join(f"{digest}  {name}\n" for name, digest in inside)
    return hashlib.sha256(text.encode()).hexdigest()


def _latency(artifact: Path, fields: dict[str, Any], whole: dict[str, Any], created: str) -> Measurement:
    meta = load_artifact(artifact).meta
    timing = fields["timing"]
    samples = tuple(map(float, timing.get("samples_ms", ())))
    info = whole.get("device_info") or {}
    machine = describe_machine()
    named = str(fields.get("device") or whole.get("device") or "host")
    # Apple's rows give the device's own name where the others give their kind.
    kind = named if named in _DEVICE_KINDS else "apple"
    return Measurement(
        kind=LATENCY,
        created=created,
        **_identity(meta, artifact),
        device_kind=kind,
        device=str(info.get("title") or info.get("name") or (machine.cpu_model if kind == "host" else named)),
        runtime=str(fields.get("runtime") or timing.get("runtime") or meta.target),
        runtime_version=str(fields.get("runtime_version") or timing.get("runtime_version") or ""),
        backend=_backend(fields),
        threads=int(fields.get("threads") or timing.get("threads") or 0),
        samples_ms=samples,
        statistics={} if samples else {k: float(timing[k]) for k in _STATISTICS if timing.get(k) is not None},
        load_ms=timing.get("load_ms"),
        first_ms=timing.get("first_ms"),
        peak_rss_bytes=timing.get("peak_rss_bytes"),
        versions=package_versions(),
        machine=machine.to_json(),
        details=plain({**{k: v for k, v in fields.items() if k not in _KEPT_ELSEWHERE}, "device_info": info}),
    )


def _backend(fields: dict[str, Any]) -> str:
    """Backend or compute unit, and whether the cores were pinned: two such runs are two things."""
    parts = [fields.get("backend") or fields.get("compute_unit") or "", "pinned" if fields.get("pinned") else ""]
    return " ".join(part for part in parts if part)


def _identity(meta: ArtifactMeta, artifact: Path) -> dict[str, Any]:
    return {
        "artifact_name": artifact.name,
        "artifact_sha256": artifact_digest(meta),
        "model": meta.model,
        "scale": meta.scale,
        "scheme": meta.scheme,
        "target": meta.target,
        "tile": meta.tile,
    }
