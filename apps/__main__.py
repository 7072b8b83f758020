"""Where ``edge-sr`` begins: its imports take a second, in which Ctrl-C and SIGTERM are one line as they are later."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from edge_sr.signals import INTERRUPTED, TERMINATED

_LINE = "error: interrupted"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``edge-sr``; see :func:`apps.cli.main`."""
    usual = (signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)
    mine = threading.current_thread() is threading.main_thread()
    own = [number for number, handler in usual if mine and signal.getsignal(number) is handler]
    for number in own:
        signal.signal(number, _leave)
    try:
        from apps.cli import main as run

        for number, handler in usual:
            if number in own:
                signal.signal(number, handler)
        return run(arguments)
    except KeyboardInterrupt:  # between the two
        print(_LINE, file=sys.stderr)
        return INTERRUPTED


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: nothing is begun yet, and an exception would come up inside of somebody's import."""
    with suppress(OSError):
        os.write(2, f"{_LINE}\n".encode())
    os._exit(INTERRUPTED if number == signal.SIGINT else TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
