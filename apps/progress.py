"""Progress: the steps call a plain function, the command line draws bars with it.

A step reports ``progress(what, done, total, detail)``: ``what`` names the piece of work, ``done`` of ``total`` parts of
it are finished (a part of a part counts: 2.5), ``detail`` is anything else worth a glance. A new name starts a new bar.
The time left is reckoned here, from what was done since the first report.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from apps.streams import lead_nowhere
from edge_sr.foreign_text import visible

# A log file gets a line when a piece of work ends, and one as often as this while it goes on.
_LOG_SECONDS = 30.0
# Terminals from this width on have room for a long bar; columns of a spinner, counts, two times and what is between.
_WIDE, _FIGURES = 120, 34


class Progress(Protocol):
    """What a step reports to."""

    def __call__(self, what: str, done: float, total: int, detail: str = "") -> None: ...


def quiet(what: str, done: float, total: int, detail: str = "") -> None:
    """Report nothing: the default of every Python function."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on stderr while a terminal watches; elsewhere (a log file, CI) lines of text, far fewer."""
    with _own_stderr() as stream:
        if stream.isatty():
            with _bars(stream) as report:
                yield report
        else:
            yield LogLines(stream)


class LogLines:
    """Progress as lines of text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started: dict[str, tuple[float, float]] = {}
        self._printed: dict[str, float] = {}

    def __call__(self, what: str, done: float, total: int, detail: str = "") -> None:
        now = time.monotonic()
        started, before = self._started.setdefault(what, (now, done))
        if done < total and now - self._printed.setdefault(what, now) < _LOG_SECONDS:
            return
        self._printed[what] = now
        took = now - started
        left = f", {_duration(took * (total - done) / (done - before))} left" if before < done < total else ""
        extra = f", {detail}" if detail else ""
        line = visible(f"{what}: {int(done)}/{total}{extra} ({took:.0f} s{left})")
        try:
            print(line, file=self._stream, flush=True)
        except OSError:  # whoever read has gone; the work goes on
            lead_nowhere(self._stream)


@contextmanager
def _bars(stream: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(file=stream)
    # In a narrow terminal names and details give way: how far it is and how long it takes stay whole.
    bar = 10 if console.width < _WIDE else 40
    room = max(console.width - bar - _FIGURES, 12)
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=bar),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}
        longest = 0

        def report(what: str, done: float, total: int, detail: str = "") -> None:
            nonlocal longest
            if what not in tasks:
                name = visible(what, limit=room)
                longest = max(longest, len(name))
                tasks[what] = bars.add_task(name, total=total, detail="")
            left = room - longest
            shown = visible(detail, limit=left) if left > 1 else ""
            bars.update(tasks[what], completed=done, total=total, detail=shown)

        yield report


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _own_stderr() -> TextIO:
    """A copy of stderr: converters silence the process's own while their native code talks."""
    try:
        return os.fdopen(
            os.dup(2), "w", encoding=getattr(sys.stderr, "encoding", None) or "utf-8", errors="backslashreplace"
        )
    except OSError:
        # Started without any stderr (a daemon): nobody watches.
        return Path(os.devnull).open("w", encoding="utf-8")
