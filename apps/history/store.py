"""The history's file: SQLite, safe for several writers, with a versioned schema.

Nothing is ever deleted or rewritten here. A file that is damaged, of another program or of a newer release is refused
with the cure and left as it is.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from apps.history.measurement import Measurement
from edge_sr.atomic import atomic_path
from edge_sr.errors import DataError

ENVIRONMENT_VARIABLE = "EDGE_SR_HISTORY"
# "EdSR" in SQLite's header: no other program's file is taken for a history.
APPLICATION_ID = 0x45645352
_BUSY_SECONDS = 30.0

# Schema n is reached by running entry n - 1; entries are only ever added.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE measurements (
        id INTEGER PRIMARY KEY,
        fingerprint TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        created TEXT NOT NULL,
        artifact_name TEXT NOT NULL,
        artifact_sha256 TEXT NOT NULL,
        model TEXT NOT NULL,
        target TEXT NOT NULL,
        device_kind TEXT NOT NULL,
        device TEXT NOT NULL,
        content TEXT NOT NULL
    );
    CREATE INDEX by_artifact ON measurements (artifact_sha256, created);
    CREATE INDEX by_time ON measurements (created);
    """,
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
    with _opened(path) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        before = connection.total_changes
        connection.executemany(
            "INSERT OR IGNORE INTO measurements (fingerprint, kind, created, artifact_name, artifact_sha256, model, "
            "target, device_kind, device, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        return connection.total_changes - before


def read(path: Path, wanted: Filter | None = None) -> tuple[Measurement, ...]:
    """Measurements that fit, oldest first.

    Raises:
        DataError: there is no history, or it cannot be read.
    """
    if not path.is_file():
        raise DataError(
            f"expected a history at {path}, got none: profile or verify an artifact first, or name another "
            f"file with --history or {ENVIRONMENT_VARIABLE}"
        )
    clauses, values = _where(wanted or Filter())
    with _opened(path) as connection:
        found = connection.execute(
            f"SELECT content FROM measurements WHERE {' AND '.join(clauses) or '1'} ORDER BY created, id", values
        ).fetchall()
    kept = [Measurement.from_json(json.loads(content)) for (content,) in found]
    threads = None if wanted is None else wanted.threads
    return tuple(measurement for measurement in kept if threads is None or measurement.threads == threads)


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
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            measurements.append(Measurement.from_json(json.loads(line)))
        except ValueError:
            raise DataError(
                f"{source}, line {number}: expected JSON, got something else; nothing was imported"
            ) from None
        except DataError as error:
            raise DataError(f"{source}, line {number}: {error}; nothing was imported") from None
    new = append(measurements, path)
    return new, len(measurements) - new


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = None
    try:
        # Transactions are begun by hand: a write begins as a writer, so that two never wait for each other.
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        _prepare(connection, path)
        yield connection
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            cure = f"another process has kept it for {_BUSY_SECONDS:.0f} s: wait for it, or name another file"
        else:
            cure = "check the path, its permissions and the space on the disk, or name another file with --history"
        raise DataError(f"expected to use the history {path}, got {error}: {cure}") from None
    except sqlite3.DatabaseError as error:
        raise DataError(_damaged(path, str(error))) from None
    finally:
        if connection is not None:
            connection.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check whose file this is, and bring its schema up to date."""
    version, owner = _header(connection)
    if owner not in (0, APPLICATION_ID) or (owner == 0 and _tables(connection)):
        raise DataError(
            f"expected a history of edge-sr at {path}, got another program's database: name another file with --history"
        )
    if version > len(MIGRATIONS):
        raise DataError(
            f"expected a history of schema {len(MIGRATIONS)} or older at {path}, got {version}: "
            "update edge-sr, or name another file with --history"
        )
    if version == len(MIGRATIONS):
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DataError(_damaged(path, verdict))
        return
    # Readers go on while one writes. The switch is kept in the file.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version, _ = _header(connection)  # another process may have been quicker
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _header(connection: sqlite3.Connection) -> tuple[int, int]:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    return int(version), int(owner)


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _damaged(path: Path, what: str) -> str:
    what = " ".join(what.split())  # SQLite's own words span lines
    return (
        f"expected a history at {path}, got a damaged file ({what}); it was left as it is: rescue it with "
        f"`sqlite3 {path.name} .recover`, or name another file with --history"
    )


def _row(measurement: Measurement) -> tuple[str, ...]:
    return (
        measurement.fingerprint,
        measurement.kind,
        measurement.created,
        measurement.artifact_name,
        measurement.artifact_sha256,
        measurement.model,
        measurement.target,
        measurement.device_kind,
        measurement.device,
        json.dumps(measurement.to_json(), sort_keys=True),
    )


def _where(wanted: Filter) -> tuple[list[str], list[str]]:
    clauses: list[str] = []
    values: list[str] = []

    def need(clause: str, *bound: str) -> None:
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
    except ValueError:
        raise DataError(f"expected a day such as 2026-01-31 or a UTC time, got {text!r}") from None
    if len(text) == len("2026-01-31") and end:
        parsed = parsed.replace(hour=23, minute=59, second=59)
    parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    return parsed.isoformat(timespec="seconds")
