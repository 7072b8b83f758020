"""Files that appear whole or not at all, whatever ends the process that writes them.

What is not finished lies in a hidden folder of its own beside its target (:func:`scratch_folder`). The folder's name
says nothing of the target's, so every name that a file system takes can be written. As long as its owner lives, the
system holds a lock on the folder; whoever writes to the same place next removes folders without one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_SCRATCH = re.compile(r"\.edge-sr-[0-9a-f]{12}")
# An empty file fits on a full disk.
_TRIAL_BYTES = 64 * 1024
# In a scratch folder: what stood at its own name in the folder above, moved aside while its successor takes the place.
ASIDE = "aside"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; it takes the name of ``target`` when the block ends well.

    If the block raises, what it wrote is removed and ``target`` stays as it was. A link is written through: it stays,
    and the file that it leads to is made or replaced.

    Args:
        target: file to create or replace; its folder must exist.
    Yields:
        a path of the same name on the same file system that does not exist yet.
    Raises:
        OSError: the folder is missing or cannot be written, ``target`` is a device, a pipe or a link to itself, or the
            block's own.
    """
    place = _place_of(Path(target))
    with scratch_folder(place.parent) as folder:
        yield folder / place.name
        os.replace(folder / place.name, place)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in ``parent``, removed with all it holds when the block ends, however it ends.

    Folders that killed processes left in ``parent`` are removed first; what they had moved to :data:`ASIDE` goes back
    to where it stood, unless something else stands there by now.
    """
    _sweep(parent)
    folder, descriptor = _claimed(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder with its parents where they are missing; what was made and is empty goes where the block fails."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # somebody put something there
                folder.rmdir()
        raise


def try_writing(folder: Path, name: str = "file") -> None:
    """Write a file on trial and remove it: permissions do not tell of read-only disks, full ones, quotas or long names.

    Raises:
        OSError: nothing of that name can be written there.
    """
    with scratch_folder(folder) as trial:
        (trial / name).write_bytes(bytes(_TRIAL_BYTES))


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same lock waiting until the block ends; nothing is left in the folder.

    The lock is the system's, on the folder itself, and ends with the process. Where folders cannot be locked (Windows,
    some network file systems), nobody waits.

    Raises:
        OSError: there is no such folder.
    """
    while True:
        descriptor = _opened(folder)
        try:
            _lock(descriptor, wait=True)
            if descriptor is None or _is_at(descriptor, folder):
                yield
                return
            # Another folder has taken its name while this one was waited for.
        finally:
            _release(descriptor)


def _place_of(target: Path) -> Path:
    """Where a file of this name really lies, links followed."""
    place = Path(os.path.realpath(target)) if target.is_symlink() else target
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return place
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "expected a file, got a link that leads to itself", str(target))
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "expected a file to write, got a device or a pipe", str(target))
    return place


def _claimed(parent: Path) -> tuple[Path, int | None]:
    """Make a folder and lock it; a sweep that comes between the two may take it away, and then another one is made."""
    while True:
        folder = parent / f".edge-sr-{secrets.token_hex(6)}"
        folder.mkdir()
        with suppress(FileNotFoundError):
            descriptor = _opened(folder)
            if _lock(descriptor, wait=False) and (descriptor is None or _is_at(descriptor, folder)):
                return folder, descriptor
            _release(descriptor)


def _sweep(parent: Path) -> None:
    # What cannot be listed, opened or removed is left to somebody who may.
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in [entry for entry in entries if _SCRATCH.fullmatch(entry.name)]:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    _remove_ownerless(Path(entry.path), parent)


def _remove_ownerless(folder: Path, parent: Path) -> None:
    descriptor = _opened(folder)
    if descriptor is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for moved in (folder / ASIDE).glob("*"):
            if not os.path.lexists(parent / moved.name):
                moved.rename(parent / moved.name)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int | None:
    """A descriptor of the folder to put a lock on; None on Windows, where a folder has none."""
    if sys.platform == "win32":
        return None
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _lock(descriptor: int | None, *, wait: bool) -> bool:
    """Take the lock; False where another process has it. A file system without locks gives everybody what they ask."""
    if descriptor is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL, errno.ENOSYS):
            raise
    return True


def _release(descriptor: int | None) -> None:
    """Unlock and close: a child process that was forked meanwhile has a copy, which would keep the lock otherwise."""
    if descriptor is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether the folder that was opened still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False
