"""Stdout and stderr: any text can be written to them, and a reader that goes away does not end the work."""

from __future__ import annotations

import atexit
import io
import os
import sys
from pathlib import Path
from typing import IO

from edge_sr.foreign_text import one_line

_NAMES = ("stdin", "stdout", "stderr")
# Of an error's line: it may name many files.
_MAX_ERROR = 4000


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, however this process was started; to be called before anything else.

    A stream that is closed leads nowhere: the next file that is opened would else get its number, and what native code
    prints would be written into it. A character that a stream's encoding lacks is written as its escape.
    """
    for descriptor, name in enumerate(_NAMES):
        try:
            os.fstat(descriptor)
        except OSError:
            _redirect(descriptor)
        if getattr(sys, name) is None:  # so Python leaves it where its descriptor was closed at the start
            mode = "w" if descriptor else "r"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (open until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    atexit.unregister(_drop_unread)
    atexit.register(_drop_unread)


def say_aside(text: str) -> None:
    """Print on stderr, beside a redirected result, as it is."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # a terminal that hung up, a reader that left
        lead_nowhere(sys.stderr)


def complain(message: object) -> None:
    """Print an error on stderr, in one line."""
    say_aside(f"error: {one_line(message, limit=_MAX_ERROR)}")


def lead_nowhere(stream: IO[str]) -> None:
    """Let what is written to a stream go nowhere from now on."""
    try:
        _redirect(stream.fileno())
    except (OSError, ValueError):  # it has no descriptor, as those of tests
        return


def _drop_unread() -> None:
    """Drop what nobody reads any more, before the interpreter writes it and prints its own exception's trace."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # ValueError: closed meanwhile
            lead_nowhere(stream)


def _redirect(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
