"""What a run's folder has to stand: a second process, a cut log, damaged settings, a place that cannot be written."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sr.atomic import atomic_path, try_writing
from edge_sr.errors import CheckpointError, ConfigError, reason_of
from edge_sr.foreign_files import parse_json

# Windows keeps others from reading the locked byte, so it is one behind the text.
_LOCKED_BYTE = 1 << 20
_SECONDS_BETWEEN_TRIES = 0.2


class RunLock:
    """Claims a folder for one process while the ``with`` block runs.

    The lock is the system's, on an open file: it ends with the process, however that ends, and is never stale.

    Args:
        folder: the run's folder; made where missing.
        name: the lock's file inside it, which holds the process id and the machine.
        wait: where given, another process that holds it is waited for, after telling so once; None refuses.
    Raises (on entering):
        ConfigError: another process holds it.
        CheckpointError: the file cannot be made, or the file system has no locks.
    """

    def __init__(self, folder: Path, name: str = "lock", *, wait: Callable[[str], None] | None = None) -> None:
        self.folder, self.path = folder, folder / name
        self._wait, self._descriptor = wait, -1

    def __enter__(self) -> RunLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not self._claim():
                time.sleep(_SECONDS_BETWEEN_TRIES)
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
        except OSError as error:
            if self._descriptor >= 0:
                self.__exit__()
            raise CheckpointError(f"expected to lock {self.path}, got: {error}; choose another place") from error
        return self

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32":  # where an open file cannot be removed
            self.path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile finds it gone
        os.close(self._descriptor)
        self._descriptor = -1

    def _claim(self) -> bool:
        """Open and lock the file; False where the holder is waited for, or removed it before it could be locked."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
            if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                self._descriptor = descriptor
        except (BlockingIOError, PermissionError) as error:
            words = os.read(descriptor, 300).decode(errors="replace").split()
            holder = f"process {words[0]} on {words[1]}" if len(words) == 2 else "another process"
            if self._wait is None:
                raise ConfigError(
                    f"expected a place of its own for this run, got {self.folder}, in which {holder} works (see "
                    f"{self.path}); wait for it or choose another --out"
                ) from error
            self._wait(f"waiting for {holder}, which works in {self.folder}")
            self._wait = _quiet
        finally:
            if self._descriptor < 0:
                os.close(descriptor)
        return self._descriptor >= 0


def repaired_log(path: Path, step: int) -> tuple[list[dict[str, Any]], int]:
    """Cut a JSON-lines log back to a step and rid it of damaged lines; the file is replaced whole, where it changes.

    Args:
        path: the log; a missing one counts as empty.
        step: of the snapshot that the run goes on from: later lines will be written again.
    Returns:
        the entries that are kept, and how many lines were damaged: not JSON, not an object, or without a step.
    Raises:
        CheckpointError: the file cannot be read or written.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
        lines = [line for line in content.split(b"\n") if line.strip()]
        entries = [_entry(line) for line in lines]
        kept = [(line, entry) for line, entry in zip(lines, entries, strict=True) if entry and entry["step"] <= step]
        mended = b"".join(line + b"\n" for line, _ in kept)
        if mended != content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(mended)
    except OSError as error:
        raise CheckpointError(f"expected to mend the log {path}, got: {error.strerror}; move it away") from error
    return [entry for _, entry in kept], entries.count(None)


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Find out whether a file, or a folder's files, can be written; missing folders are made and stay.

    Raises:
        CheckpointError: it cannot: a read-only or full place, a folder where a file is wanted or a file for a folder.
    """
    wanted = "a folder that can be written" if folder else "a file name that can be written"
    place = path if folder else path.parent
    try:
        if not folder and path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        place.mkdir(parents=True, exist_ok=True)
        try_writing(place)
    except OSError as error:
        raise CheckpointError(f"expected {wanted}, got {path} ({error.strerror}); choose another --out") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ConfigError: missing, damaged, or another kind of JSON.
    """
    try:
        value = parse_json(path.read_bytes())
        if isinstance(value, dict):
            return value
        reason = f"it holds a {type(value).__name__}"
    except (OSError, ValueError) as error:
        reason = reason_of(error)
    raise ConfigError(f"expected a JSON object, got {path} ({reason}); restore it or choose another --out")


def _quiet(line: str) -> None:
    pass


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(line)
    except ValueError:
        return None
    step = value.get("step") if isinstance(value, dict) else None
    return value if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def _lock(descriptor: int) -> None:
    """Lock an open file for this process or raise BlockingIOError (PermissionError on Windows) at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
