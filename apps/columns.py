"""A table's columns: what they hold, and how narrow they can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rich.cells import cell_len
from rich.text import Text

# Blanks between two columns.
GAP = 2
# Words in a column of this width can be read, however many; a cell of at most so much is no prose.
WRAPPED_LEAST = 30
# In a narrower column prose is tall.
_PROSE_LEAST = 50


class Kind(Enum):
    """What a column holds, which decides how it gives way."""

    TEXT = "wrapped at spaces, into three lines at most where that is enough"
    NUMBER = "never broken"
    NAME = "never broken; what all rows have in common is said once"
    PROSE = "wrapped, or a note below the table"


@dataclass(frozen=True)
class Column:
    """A head and one cell per row, of which each may have several lines."""

    head: Text
    kind: Kind
    cells: tuple[Text, ...]

    @property
    def content(self) -> int:
        """Width of the widest line of a cell."""
        return max(map(text_width, self.cells), default=0)

    @property
    def natural(self) -> int:
        """The width at which nothing is wrapped, the head neither."""
        return max(self.content, text_width(self.head))

    @property
    def unwrapped(self) -> int:
        """The least width at which heads are wrapped, and of the cells prose only."""
        return max(self.least if self.kind is Kind.PROSE else self.content, _longest_word(self.head))

    @property
    def least(self) -> int:
        """The least width at which it can be read."""
        if self.kind in (Kind.NUMBER, Kind.NAME):
            return self.unwrapped
        # Wrapped words of any two lines together are longer than the column: at half of the whole, three at most.
        half = min(-(-self.content // 2), WRAPPED_LEAST)
        enough = min(self.content, _PROSE_LEAST) if self.kind is Kind.PROSE else half
        return max(enough, *map(_longest_word, (self.head, *self.cells)))

    @property
    def shared(self) -> str | None:
        """What all its cells are; None where they differ, or it has no head to say it under."""
        plain = {cell.plain for cell in self.cells}
        return joined(self.cells[0]) if len(plain) == 1 and plain != {""} and self.head.plain else None


def least_unwrapped(columns: Sequence[Column]) -> int:
    """Of several with the gaps between them, the least width at which no cell is wrapped but prose."""
    return sum(column.unwrapped + GAP for column in columns) - GAP


def least_width(columns: Sequence[Column]) -> int:
    """The same where words are wrapped."""
    return sum(column.least + GAP for column in columns) - GAP


def text_width(text: Text) -> int:
    """Terminal cells of its widest line."""
    return max(map(cell_len, text.plain.split("\n")))


def _longest_word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=0)


def joined(text: Text) -> str:
    """Its lines as one."""
    return " ".join(text.plain.split("\n"))
