"""Ctrl-C during training: not in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits for a call of the function that is yielded: within a step weights and averages do not fit together.

    A second one does not wait.
    """
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def interrupt_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    # Signals reach the main thread alone; a handler of someone else's, or an ignored signal, is theirs.
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt_if_asked
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt_if_asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt_if_asked()  # after the last step
