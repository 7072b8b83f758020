"""The one way in which tables and lines are printed.

What a cell or a line holds may come from a model file or a phone: it is shown as text, never obeyed as markup or as a
terminal's code, see :mod:`edge_sr.foreign_text`.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

import rich.table
from rich import box
from rich.console import Console
from rich.text import Text

from apps.columns import GAP, Column, Kind
from apps.streams import lead_nowhere
from apps.table_layout import lay_out
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


class Table:
    """Heads and rows. How they are laid out is decided when they are shown: only then is the width known."""

    def __init__(self, heads: Sequence[Text], kinds: Sequence[Kind], title: Text | None) -> None:
        self.heads, self.kinds, self.title = heads, kinds, title
        self.rows: list[tuple[Text, ...]] = []
        self.styles: list[str | None] = []
        self.sections: set[int] = set()

    def add_section(self) -> None:
        """Draw a line below the last row."""
        self.sections.add(len(self.rows) - 1)

    def columns(self) -> list[Column]:
        """Each with its cells, from above."""
        cells = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.heads)
        triples = zip(self.heads, self.kinds, cells, strict=True)
        return [Column(head=head, kind=kind, cells=tuple(own)) for head, kind, own in triples]


def console() -> Console:
    """Stdout, as wide as ``COLUMNS`` asks, or as the terminal, or wide enough for whole tables. No text is markup."""
    width = None if sys.stdout.isatty() else shutil.get_terminal_size((_FILE_WIDTH, 1)).columns
    return _Console(width=width, highlight=False, markup=False, emoji=False)


def new_table(
    *heads: str,
    right: Iterable[int] = (),
    names: Iterable[int] = (),
    prose: Iterable[int] = (),
    title: str | None = None,
) -> Table:
    """An empty table. What its columns hold decides how they give way where it is wider than the terminal.

    Args:
        heads: one per column.
        right: places of the columns of numbers: set to the right, never broken.
        names: places of the columns of names, never broken: what all of them begin with is said above the table.
        prose: places of the columns of sentences, which become notes below the table.
        title: stands above it.
    """
    kinds = [Kind.TEXT] * len(heads)
    for places, kind in ((right, Kind.NUMBER), (names, Kind.NAME), (prose, Kind.PROSE)):
        for place in places:
            kinds[place] = kind
    return Table([styled(head) for head in heads], kinds, None if title is None else styled(title))


def add_row(table: Table, *cells: Cell, style: str | None = None) -> None:
    """Add a row, in a style such as ``yellow``."""
    table.rows.append(tuple(_text(cell) for cell in cells))
    table.styles.append(style)


def show(table: Table, out: Console | None = None) -> None:
    """Print a table, on stdout unless told otherwise."""
    out = out or console()
    # The box has a blank on either side.
    layout = lay_out(table.columns(), out.width - 2, ellipsis=_encodable("…"))
    if table.title is not None:
        _print_wrapped(table.title.plain, out, style="italic")
    for line in layout.above:
        _print_wrapped(line, out)
    for part in layout.parts:
        out.print(_drawn(table, part), crop=False)
    for note in layout.notes:
        _print_wrapped(note, out)


def say(text: str, out: Console | None = None) -> None:
    """Print one line, on stdout unless told otherwise; only at a terminal is it broken, and between words."""
    out = out or console()
    line = _encodable(visible(text, limit=_MAX_LINE))
    if out.is_terminal:
        _print_wrapped(line, out)
    else:
        out.print(Text(line), soft_wrap=True)


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


def _print_wrapped(line: str, out: Console, *, style: str = "") -> None:
    """Between words, so that what is longer than a line, such as a path, stays whole."""
    indent = " " * (len(line) - len(line.lstrip()))
    wrapper = textwrap.TextWrapper(
        max(out.width, 1), subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
    )
    for part in wrapper.wrap(line) or [""]:
        out.print(Text(part, style=style), soft_wrap=True)


def _drawn(table: Table, part: Sequence[tuple[Column, int]]) -> rich.table.Table:
    box_sides = 2
    whole = sum(width for _, width in part) + GAP * (len(part) - 1) + box_sides
    # Its width is given, or rich would break numbers in order to get into a terminal that is narrower still.
    drawn = rich.table.Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold", width=whole
    )
    for column, width in part:
        right = column.kind is Kind.NUMBER
        drawn.add_column(column.head, justify="right" if right else "left", width=width, overflow="fold")
    for index in range(len(table.rows)):
        cells = (column.cells[index] for column, _ in part)
        drawn.add_row(*cells, style=table.styles[index], end_section=index in table.sections)
    return drawn
