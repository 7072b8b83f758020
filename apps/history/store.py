"""The history: measurements are appended and read, and never deleted or rewritten.

:mod:`apps.history.database` opens the file. Each row has the fingerprint of its content, and every reading compares.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from apps.history.database import in_history
from apps.history.measurement import Measurement, fingerprint_of, parsed_json
from edge_sr.atomic import atomic_path
from edge_sr.errors import DataError

ENVIRONMENT_VARIABLE = "EDGE_SR_HISTORY"
_COLUMNS = (
    *("fingerprint", "kind", "created", "artifact_name", "artifact_sha256", "model"),
    *("target", "device_kind", "device", "content"),
)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which measurements are meant; None means any.

    Attributes:
        kind: ``latency`` or ``accuracy``.
        artifact: folder name (``*`` and ``?`` stand for any letters) or the first 6 or more digits of its SHA-256.
        model, target: exact names.
        device: part of the device's name or its kind, case ignored.
        since, until: UTC times or days, both included; a day means all of it.
        threads: exact number.
    """

    kind: str | None = None
    artifact: str | None = None
    model: str | None = None
    target: str | None = None
    device: str | None = None
    since: str | None = None
    until: str | None = None
    threads: int | None = None


def history_path(option: Path | None = None) -> Path:
    """The file in use: the option, else ``EDGE_SR_HISTORY``, else ``history.sqlite3`` in the user's data folder."""
    if option is not None:
        return option
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("edge-sr", appauthor=False) / "history.sqlite3"


def append(measurements: Iterable[Measurement], path: Path) -> int:
    """Add measurements; those that are there already are skipped.

    Args:
        path: history file, made with its folder where there is none.
    Returns:
        how many were new.
    Raises:
        DataError: the file is damaged, of another program, of a newer release, or stays locked.
    """
    rows = [_row(measurement) for measurement in measurements]
    path.parent.mkdir(parents=True, exist_ok=True)

    def insert(connection: sqlite3.Connection) -> int:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            before = connection.total_changes
            connection.executemany(
                f"INSERT OR IGNORE INTO measurements ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})",
                rows,
            )
            return connection.total_changes - before

    return in_history(path, insert)


def read(path: Path, wanted: Filter | None = None) -> tuple[Measurement, ...]:
    """Measurements that fit, oldest first. Every row is compared with its fingerprint, also those that do not fit.

    Raises:
        DataError: there is no history, it cannot be read, or a row is not what was appended.
    """
    if not path.is_file() or path.stat().st_size == 0:
        what = "an empty file" if path.exists() else "none"
        raise DataError(
            f"expected a history at {path}, got {what}: profile or verify an artifact first, or name another "
            f"file with --history or {ENVIRONMENT_VARIABLE}"
        )
    clauses, values = _where(wanted or Filter())

    def select(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
        return connection.execute(
            f"SELECT {' AND '.join(clauses) or '1'}, id, {', '.join(_COLUMNS)} FROM measurements ORDER BY created, id",
            values,
        ).fetchall()

    found = [(fits, _checked(path, row, columns)) for fits, row, *columns in in_history(path, select)]
    threads = None if wanted is None else wanted.threads
    return tuple(kept for fits, kept in found if fits and (threads is None or kept.threads == threads))


def export_lines(path: Path, target: Path, wanted: Filter | None = None) -> int:
    """Write measurements as JSON lines, whole or not at all; returns how many."""
    measurements = read(path, wanted)
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for measurement in measurements:
            stream.write(json.dumps(measurement.to_json(), sort_keys=True) + "\n")
    return len(measurements)


def import_lines(path: Path, source: Path) -> tuple[int, int]:
    """Add the measurements of a JSON lines file: all of it or, where a line is wrong, none.

    Returns:
        (new, already there).
    Raises:
        DataError: names the first line that is no measurement.
    """
    measurements = []
    for number, line in enumerate(source.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            measurements.append(Measurement.from_json(parsed_json(line.decode())))
        except UnicodeDecodeError:
            raise DataError(f"{source}, line {number}: expected UTF-8, got other bytes; nothing was imported") from None
        except DataError as error:
            raise DataError(f"{source}, line {number}: {error}; nothing was imported") from None
    new = append(measurements, path)
    return new, len(measurements) - new


def _checked(path: Path, row: int, columns: list[Any]) -> Measurement:
    """The measurement of a row, all of whose columns say what was appended."""
    fingerprint, *named, content = columns
    try:
        data = parsed_json(str(content))
        if fingerprint_of(data) != fingerprint:
            raise DataError("its fingerprint does not fit its content")
        measurement = Measurement.from_json(data)
        if tuple(named) != _named(measurement):
            raise DataError("a column does not fit its content")
    except DataError as error:
        raise DataError(
            f"expected row {row} of the history {path} as it was appended, got {error}: put back a copy of the file, "
            f"update edge-sr where a newer one wrote it, or give the row up: "
            f'sqlite3 {path.name} "DELETE FROM measurements WHERE id = {row}"'
        ) from None
    return measurement


def _row(measurement: Measurement) -> tuple[str, ...]:
    content = json.dumps(measurement.to_json(), sort_keys=True)
    return (measurement.fingerprint, *_named(measurement), content)


def _named(measurement: Measurement) -> tuple[str, ...]:
    """What is looked for: the columns between the fingerprint and the content."""
    return (
        measurement.kind,
        measurement.created,
        measurement.artifact_name,
        measurement.artifact_sha256,
        measurement.model,
        measurement.target,
        measurement.device_kind,
        measurement.device,
    )


def _where(wanted: Filter) -> tuple[list[str], list[str]]:
    clauses: list[str] = []
    values: list[str] = []

    def need(clause: str, *bound: str) -> None:
        if any(value.encode(errors="replace").decode() != value for value in bound):
            raise DataError(f"expected text to look for in the history, got {bound[0]!r}, which is no UTF-8")
        clauses.append(clause)
        values.extend(bound)

    for column in ("kind", "model", "target"):
        value = getattr(wanted, column)
        if value is not None:
            need(f"{column} = ?", value)
    if wanted.artifact is not None:
        prefix = wanted.artifact.lower()
        is_digest = len(prefix) >= 6 and set(prefix) <= set("0123456789abcdef")
        need("(artifact_name GLOB ? OR artifact_sha256 GLOB ?)", wanted.artifact, f"{prefix}*" if is_digest else "-")
    if wanted.device is not None:
        need("(instr(lower(device), ?) > 0 OR device_kind = ?)", wanted.device.lower(), wanted.device.lower())
    if wanted.since is not None:
        need("created >= ?", moment(wanted.since, end=False))
    if wanted.until is not None:
        need("created <= ?", moment(wanted.until, end=True))
    return clauses, values


def moment(text: str, *, end: bool) -> str:
    """A day or a UTC time as measurements say it; a day is its first second, or its last with ``end``.

    Raises:
        DataError: neither.
    """
    try:
        parsed = datetime.fromisoformat(text)
        if end and _is_day(text):
            parsed = parsed.replace(hour=23, minute=59, second=59)
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: no year that there is, in UTC
        raise DataError(f"expected a day such as 2026-01-31 or a UTC time, got {text!r}") from None
    return parsed.isoformat(timespec="seconds")


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
