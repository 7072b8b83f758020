"""SIGTERM does what Ctrl-C does: what is written is removed, a run leaves its snapshot, children are ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
# timeout(1) and others send one to a process and another one to its group.
_SAME_REQUEST_SECONDS = 1.0


class _Requests:
    """The last SIGTERM of this process: when it came, and which process asked to hear of it."""

    asked_at: float | None = None
    owner = 0


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handler that raises KeyboardInterrupt for a SIGTERM, once for two that come together."""
    if os.getpid() != _Requests.owner:  # a forked child, which its parent ends in this way
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    if note(number):
        raise KeyboardInterrupt


def note(number: int) -> bool:
    """Remember what ends this process; False for a SIGTERM that belongs to the one just before."""
    if number != signal.SIGTERM:
        return True
    before, _Requests.asked_at = _Requests.asked_at, time.monotonic()
    return before is None or _Requests.asked_at - before > _SAME_REQUEST_SECONDS


def interrupted_status() -> int:
    """What a process leaves with that was interrupted: 143 after a SIGTERM, 130 after Ctrl-C."""
    return INTERRUPTED if _Requests.asked_at is None else TERMINATED


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in the main thread while the block runs; a handler of others stays."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    _Requests.asked_at, _Requests.owner = None, os.getpid()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
