"""Files that a command will write: tried before the work, so that no result is lost for want of a place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edge_sr.atomic import atomic_path, try_writing
from edge_sr.errors import ConfigError, reason_of

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_claimed: list[TextIO] = []


def is_stdout(path: Path) -> bool:
    """Whether a path means standard output: ``-``, or one of its names in ``/dev``."""
    return str(path) in _STDOUT


@contextmanager
def own_stdout() -> Iterator[None]:
    """Give standard output back at the end, whoever has claimed it inside."""
    before = sys.stdout
    try:
        yield
    finally:
        sys.stdout = before
        _claimed.clear()


def claim_stdout() -> None:
    """Keep standard output for a result: what is printed from here on goes to standard error."""
    _claimed.append(sys.stdout)
    sys.stdout = sys.stderr


def write_claimed(text: str) -> None:
    """Write a result to the standard output that was claimed for it."""
    stream = _claimed[-1]
    stream.write(text)
    stream.flush()


def check_destination(path: Path, what: str, *, is_own: Callable[[Path], bool] | None = None) -> None:
    """Refuse, before any work is done, a file that could not be written after it.

    A file is really made in the folder, and removed: permissions do not tell of read-only disks, full ones or quotas.
    Standard output, pipes and devices are taken as they are.

    Args:
        path: the file.
        what: the option that names it, for the error.
        is_own: whether an existing file may be replaced; None where somebody else decides that.
    Raises:
        ConfigError: no such folder, a folder of that name, a file with other content, or nothing can be written there.
    """
    if is_stdout(path) or _is_special(path):
        return
    if path.is_dir():
        raise ConfigError(f"expected a file for {what}, got the folder {path}, name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"expected a folder for {what} {path}, got no {path.parent}, create it first")
    if is_own is not None and path.exists() and not is_own(path):
        raise ConfigError(
            f"expected a new file or an earlier result for {what}, got {path} with other content, choose another name"
        )
    _try(path.parent, f"{what} {path}")


def check_folder(path: Path, what: str) -> None:
    """The same of a folder that will be made, with those around it, where it is missing. Nothing is left behind.

    Raises:
        ConfigError: a file of that name, or nothing can be written there.
    """
    nearest = next((entry for entry in (path, *path.absolute().parents) if entry.exists()), path)
    if not nearest.is_dir():
        raise ConfigError(f"expected a folder for {what}, got the file {nearest}, name another {what}")
    _try(nearest, f"{what} {path}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a pipe or a device, which no rename may replace, gets the bytes themselves."""
    if _is_special(path):
        with path.open("wb") as stream:
            stream.write(content)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _try(folder: Path, named: str) -> None:
    try:
        try_writing(folder)
    except OSError as error:
        why = error.strerror or reason_of(error)
        raise ConfigError(f"expected to write {named}, got: {why}; choose another place, or make room") from None
