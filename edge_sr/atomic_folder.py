"""Folders that take their name in one step: readers find the old one or the new one, whole, and never none."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from edge_sr.atomic import ASIDE, folder_lock

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, renameat2
_RENAME_SWAP = 2  # macOS, renamex_np
# What a kernel or a file system says that cannot exchange two names.
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def place_new_folder(fresh: Path, target: Path) -> None:
    """Give ``fresh`` the name ``target``, which must be free: of several processes at once, one succeeds.

    Args:
        fresh: a folder that is not empty, on the same file system: no system renames one onto another that is not.
        target: its new name.
    Raises:
        FileExistsError: something stands there.
        OSError: the system refuses for another reason.
    """
    try:
        fresh.rename(target)
    except OSError as error:
        taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and os.path.lexists(target)
        raise (FileExistsError(errno.EEXIST, "it exists", str(target)) if taken else error) from None


def place_folder(fresh: Path, target: Path) -> None:
    """Give ``fresh`` the name ``target``; a folder that has it ends up in place of ``fresh`` or beside it.

    Where the system can exchange two names (Linux, macOS, and their usual file systems) there is no moment without a
    folder of that name. Elsewhere there is one between two renames; whoever is killed in it leaves the old folder to
    the next :func:`edge_sr.atomic.scratch_folder` in that place, which puts it back. Processes that hold
    :func:`edge_sr.atomic.folder_lock` of the old folder are waited for.

    Args:
        fresh: a folder that is not empty, inside of a :func:`edge_sr.atomic.scratch_folder` beside ``target``.
        target: its new name.
    Raises:
        OSError: the system refuses; ``target`` is what it was.
    """
    while True:
        try:
            with folder_lock(target):
                if not _exchanged(fresh, target):
                    _move_aside(fresh, target)
            return
        except FileNotFoundError:
            if not fresh.is_dir():
                raise
        try:
            place_new_folder(fresh, target)
            return
        except FileExistsError:
            if not target.is_dir():
                raise  # else another process was quicker


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where this system or file system cannot."""
    call = _system_call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _system_call() -> Callable[[bytes, bytes], int] | None:
    if sys.platform not in ("linux", "darwin"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    text, number = ctypes.c_char_p, ctypes.c_uint
    try:
        if sys.platform == "darwin":
            swap = libc.renamex_np
            swap.argtypes = (text, text, number)
            return lambda one, other: int(swap(one, other, _RENAME_SWAP))
        exchange = libc.renameat2  # glibc has it since 2.28, musl not everywhere
        exchange.argtypes = (ctypes.c_int, text, ctypes.c_int, text, number)
        return lambda one, other: int(exchange(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE))
    except AttributeError:
        return None


def _move_aside(fresh: Path, target: Path) -> None:
    aside = fresh.parent / ASIDE / target.name
    aside.parent.mkdir(exist_ok=True)
    target.rename(aside)
    try:
        fresh.rename(target)
    except BaseException:
        if not os.path.lexists(target):
            aside.rename(target)
        raise
