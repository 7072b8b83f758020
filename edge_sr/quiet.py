"""Silence for toolchains and decoders that log from native code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet_native() -> Iterator[None]:
    """Drop what is written to the process's stderr inside the block, and Python warnings.

    Converters and runtimes log each step from C++, which no logging level reaches; what matters they raise. Other
    threads' lines are dropped too, so keep the block short.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        # Where a progress bar has put itself in the place of sys.stderr, Python's own lines would go round the sink.
        with redirect_stderr(sys.__stderr__ or sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            sys.stderr.flush()
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
