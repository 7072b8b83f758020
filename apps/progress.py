"""Progress: the steps call a plain function, the command line draws bars with it.

A step reports ``progress(what, done, total)``: ``what`` names the piece of work, ``done`` of ``total`` parts of it are
finished. A new name starts a new bar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing: the default of every Python function."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on stderr while a terminal watches; elsewhere (a log file, CI) one line where a piece of work ends."""
    if not sys.stderr.isatty():
        yield _log_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _log_line(what: str, done: int, total: int) -> None:
    if done >= total:
        print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)
