"""The one way in which tables and lines are printed.

What a cell or a line holds may come from a model file or a phone: it is shown as text, never obeyed as markup or as a
terminal's code, see :mod:`edge_sr.foreign_text`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apps.streams import lead_nowhere
from edge_sr.foreign_text import visible

# Wide enough for every table here: a pipe or a log file has no width of its own.
_FILE_WIDTH = 200
# Of a line on its own.
_MAX_LINE = 4000
# A tuple is lines below one another; a Text is from :func:`styled`.
Cell = str | tuple[str, ...] | Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would end the process here, and with it whatever is not written yet.
        lead_nowhere(self.file)


def console() -> Console:
    """Stdout, as wide as the terminal, or wide enough for whole tables where it is none. No text is markup to it."""
    return _Console(width=None if sys.stdout.isatty() else _FILE_WIDTH, highlight=False, markup=False, emoji=False)


def new_table(*heads: str, right: Iterable[int] = (), title: str | None = None) -> Table:
    """An empty table.

    Args:
        heads: one per column.
        right: places of the columns whose cells are set to the right.
        title: stands above it.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
        title=None if title is None else styled(title),
        title_justify="left",
    )
    for index, head in enumerate(heads):
        table.add_column(styled(head), justify="right" if index in right else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: Cell, style: str | None = None) -> None:
    """Add a row, in a style such as ``yellow``."""
    table.add_row(*(_text(cell) for cell in cells), style=style)


def show(table: Table, out: Console | None = None) -> None:
    """Print a table, on stdout unless told otherwise."""
    (out or console()).print(table)


def say(text: str, out: Console | None = None) -> None:
    """Print one line, on stdout unless told otherwise; it is not broken, however long."""
    (out or console()).print(Text(_encodable(visible(text, limit=_MAX_LINE))), soft_wrap=True)


def styled(text: str, style: str = "") -> Text:
    """A cell in a style such as ``bold red``."""
    return Text(_encodable(visible(text)), style=style)


def _text(cell: Cell) -> Text:
    if isinstance(cell, Text):
        return cell
    lines = (cell,) if isinstance(cell, str) else cell
    return Text("\n".join(_encodable(visible(line)) for line in lines))


def _encodable(text: str) -> str:
    # Here already, though the stream would do so: columns are as wide as what is in them.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
