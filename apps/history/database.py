"""The history's SQLite file: whose it is, its schema, several processes at once, and damage.

A file that is damaged, of another program or of a newer release is refused with the cure and left as it is.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from edge_sr.errors import DataError, reason_of

# "EdSR" in SQLite's header: no other program's file is taken for a history.
APPLICATION_ID = 0x45645352
_BUSY_SECONDS = 30.0
_SECONDS_BETWEEN_TRIES = 0.02
# Another process is at work; SQLite waits by itself for most of these, but not where one creates the file, is the last
# to close it, or switches its journal.
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
# These are of the place. Every other error means that the file is not what it was.
_OF_THE_PLACE = {
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
}

Result = TypeVar("Result")

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


def in_history(path: Path, action: Callable[[sqlite3.Connection], Result]) -> Result:
    """Open the history, bring its schema up to date, and do something with it.

    Args:
        path: the file, made where there is none; its folder must exist.
        action: of one transaction; done again where another process came between.
    Raises:
        DataError: the file is damaged, of another program, of a newer release, cannot be used, or stays locked.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            # Transactions are begun by hand: a write begins as a writer, so that two never wait for each other.
            with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
                _prepare(connection, path)
                return action(connection)
        except sqlite3.Error as error:
            if _code(error) not in _BUSY or time.monotonic() >= deadline:
                raise DataError(_refusal(path, error)) from None
        except UnicodeDecodeError as error:  # SQLite's own words, made of what lies in a damaged file
            raise DataError(_damaged(path, reason_of(error))) from None
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest says more of the same


def _refusal(path: Path, error: sqlite3.Error) -> str:
    if _code(error) in _BUSY:
        cure = f"another process has kept it for {_BUSY_SECONDS:.0f} s: wait for it, or name another file"
    elif _code(error) in _OF_THE_PLACE:
        cure = "check the path, its permissions and the space on the disk, or name another file with --history"
    else:
        return _damaged(path, reason_of(error))
    return f"expected to use the history {path}, got {reason_of(error)}: {cure}"


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check whose file this is, and bring its schema up to date."""
    connection.execute("BEGIN")  # a reader's: what it sees is of one moment
    version = _checked_version(connection, path)
    connection.execute("COMMIT")
    if version == len(MIGRATIONS):
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DataError(_damaged(path, str(verdict)))
    else:
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _checked_version(connection, path)  # another process may have been quicker
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                for statement in filter(str.strip, script.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # Readers then go on while one writes. It is kept in the file, and refused while another process uses that:
        # whoever comes next switches.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")


def _checked_version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's number, within a transaction of the caller's.

    Raises:
        DataError: the file is another program's, or a newer release's.
    """
    version, owner = _header(connection)
    if owner not in (0, APPLICATION_ID) or (owner == 0 and _tables(connection)):
        raise DataError(
            f"expected a history of edge-sr at {path}, got another program's database: name another file with --history"
        )
    if not 0 <= version <= len(MIGRATIONS):
        raise DataError(
            f"expected a history of schema {len(MIGRATIONS)} or older at {path}, got {version}: "
            "update edge-sr, or name another file with --history"
        )
    return version


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
