"""Ctrl-C and SIGTERM during training: not in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from edge_sr import signals


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits for a call of the function that is yielded: within a step weights and averages do not fit together.

    A second one does not wait. SIGTERM is the same where :func:`edge_sr.signals.ended_like_interrupted` made it so.
    """
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not signals.note(number):
            return
        if asked:
            raise KeyboardInterrupt
        asked = True

    def interrupt_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    # Signals reach the main thread alone; a handler of someone else's, or an ignored signal, is theirs.
    usual = (signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signals.interrupt)
    mine = threading.current_thread() is threading.main_thread()
    own = [(number, handler) for number, handler in usual if mine and signal.getsignal(number) is handler]
    for number, _ in own:
        signal.signal(number, note)
    try:
        yield interrupt_if_asked
    finally:
        for number, handler in own:
            signal.signal(number, handler)
    interrupt_if_asked()  # after the last step
