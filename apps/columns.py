"""How the columns of a table fit a width.

Numbers and names are never broken. Where columns are too wide, these give way in turn: what all names begin with is
said once above the table, long prose goes into notes below it, what every row has in common is said once, words are
wrapped, and in the end the table is printed in several parts, one below another, that all begin with what tells its
rows apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import takewhile

from rich.cells import cell_len
from rich.text import Text

# Blanks between two columns.
GAP = 2
# Words in a column of this width can be read, however many; a cell of at most so much is no prose.
_WRAPPED_LEAST = 30
# A beginning or an end that is shorter is not worth a line.
_COMMON_LEAST = 4
# In place of a name.
_NO_NAMES = ("", "–")
# As far as a name is shortened that shares nothing with the others.
_NAME_LEAST = 12
_SEPARATORS = r"[_/.\- ]"


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
        return max(map(_width, self.cells), default=0)

    @property
    def natural(self) -> int:
        """The width at which nothing is wrapped, the head neither."""
        return max(self.content, _width(self.head))

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
        enough = self.content if self.kind is Kind.PROSE else -(-self.content // 2)
        words = max(map(_longest_word, (self.head, *self.cells)))
        return max(min(enough, _WRAPPED_LEAST), words)

    @property
    def shared(self) -> str | None:
        """What all its cells are; None where they differ, or it has no head to say it under."""
        plain = {cell.plain for cell in self.cells}
        return _joined(self.cells[0]) if len(plain) == 1 and plain != {""} and self.head.plain else None


@dataclass(kw_only=True)
class Layout:
    """A table for one width: lines above, its parts (columns with their widths), notes below."""

    parts: list[list[tuple[Column, int]]]
    above: list[str]
    notes: list[str]


def lay_out(columns: Sequence[Column], width: int, *, ellipsis: str = "…") -> Layout:
    """Lay columns out.

    Args:
        columns: all with the same number of cells.
        width: of the whole table; a column that needs more by itself gets more.
        ellipsis: stands where a part of a name was left out.
    """
    above: dict[str, str] = {}
    notes: list[str] = []
    kept = list(columns)
    if _unwrapped(kept) > width:
        kept = _without_common(kept, above, ellipsis, _beginning)
    if _unwrapped(kept) > width:
        kept = _with_notes(kept, above, notes)
    if _unwrapped(kept) > width:
        kept = _without_shared(kept, above, lambda rest: _unwrapped(rest) <= width, numbers=False)
    if _least(kept) > width:
        kept = _without_shared(kept, above, lambda rest: _least(rest) <= width, numbers=True)
    if _least(kept) > width:
        kept = _without_common(kept, above, ellipsis, _end)
    parts = [kept] if _least(kept) <= width else _parts(kept, width, ellipsis)
    said = [f"{head}: {text}" for head, text in above.items()]
    return Layout(parts=[_with_widths(part, width) for part in parts], above=said, notes=notes)


# ------------------------------------------------------------------------------------------------ what is said once
def _beginning(names: Sequence[str]) -> tuple[str, int, int]:
    """What all names begin with, up to a separator; how much of each is left out at its beginning and at its end."""
    common = _common(names)
    ends = [match.end() for match in re.finditer(_SEPARATORS, common)]
    length = max((end for end in ends if end < min(map(len, names))), default=0)
    return common[:length], length, 0


def _end(names: Sequence[str]) -> tuple[str, int, int]:
    """The same of what all names end with, from a separator on."""
    common = _common([name[::-1] for name in names])[::-1]
    starts = [match.start() for match in re.finditer(_SEPARATORS, common)]
    length = max((len(common) - start for start in starts if len(common) - start < min(map(len, names))), default=0)
    return common[len(common) - length :], 0, length


def _common(names: Sequence[str]) -> str:
    alike = takewhile(lambda characters: len(set(characters)) == 1, zip(*names, strict=False))
    return "".join(characters[0] for characters in alike)


def _without_common(
    columns: list[Column],
    above: dict[str, str],
    ellipsis: str,
    find: Callable[[Sequence[str]], tuple[str, int, int]],
) -> list[Column]:
    """Names without what they have in common."""
    kept = []
    for column in columns:
        names = list(dict.fromkeys(cell.plain for cell in column.cells if cell.plain not in _NO_NAMES))
        common, start, stop = find(names) if column.kind is Kind.NAME and len(names) > 1 else ("", 0, 0)
        if len(common) < _COMMON_LEAST or not column.head.plain:
            kept.append(column)
            continue
        said = above.get(column.head.plain, ellipsis)
        above[column.head.plain] = f"{common}{said}" if start else f"{said}{common}"
        cells = [_part(cell, start, stop, ellipsis) for cell in column.cells]
        kept.append(replace(column, cells=tuple(cells)))
    return kept


def _part(cell: Text, start: int, stop: int, ellipsis: str) -> Text:
    if cell.plain in _NO_NAMES:
        return cell
    part = cell[start : len(cell.plain) - stop]
    return Text.assemble(ellipsis if start else "", part, ellipsis if stop else "")


def _without_shared(
    columns: list[Column], above: dict[str, str], enough: Callable[[list[Column]], bool], *, numbers: bool
) -> list[Column]:
    """Columns whose cells are all the same are said instead, the widest first, until it is enough.

    Numbers are looked at last, and stay where there is one row: it would be no table any more.
    """
    kept = list(columns)
    for column in sorted(columns, key=lambda column: -column.natural):
        number = column.kind is Kind.NUMBER
        shared = column.shared if number == numbers and (len(column.cells) > 1 or not number) else None
        if shared is not None and len(kept) > 1 and not enough(kept):
            kept.remove(column)
            above[column.head.plain] = shared
    return kept


def _with_notes(columns: list[Column], above: dict[str, str], notes: list[str]) -> list[Column]:
    """Prose that all rows share is said above the table, other prose below it: its cells hold the note's mark."""
    long = [column for column in columns if column.kind is Kind.PROSE and column.content > _WRAPPED_LEAST]
    shared = [column for column in long if column.shared is not None]
    above |= {column.head.plain: column.shared or "" for column in shared}
    long = [column for column in long if column not in shared]
    # Row by row, as they are read.
    texts = [_joined(cell) for row in zip(*(column.cells for column in long), strict=True) for cell in row]
    marks: dict[str, str] = {}
    for text in texts:
        if cell_len(text) > _WRAPPED_LEAST:
            marks.setdefault(text, f"[{len(marks) + 1}]")
    notes += [f"{mark} {text}" for text, mark in marks.items()]
    kept = []
    for column in columns:
        if column in long:
            cells = tuple(Text(marks[text]) if (text := _joined(cell)) in marks else cell for cell in column.cells)
            kept.append(replace(column, kind=Kind.TEXT, cells=cells))
        elif column not in shared:
            kept.append(column)
    return kept


# ------------------------------------------------------------------------------------------------- parts and widths
def _parts(columns: list[Column], width: int, ellipsis: str) -> list[list[Column]]:
    """Columns in groups that fit, each after those that tell the rows apart."""
    count = _key_count(columns)
    rest = columns[count:]
    widest = max((column.least + GAP for column in rest), default=0)
    key = _shortened(columns[:count], width - widest, ellipsis)
    # What stands in every part is not wrapped where that can be helped.
    taken = _unwrapped(key) if _unwrapped(key) + widest <= width else _least(key)
    parts: list[list[Column]] = []
    room = 0
    for group in _sums(rest):
        if _least(group) + GAP > room or not parts:
            room = width - taken
            parts.append([*key])
        room -= _least(group) + GAP
        parts[-1] += group
    return parts or [key]


def _sums(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns whose heads spell a sum, such as ``drop``, ``= tiling``, ``+ quant.``, together; the others alone."""
    groups: list[list[Column]] = []
    for column in columns:
        if groups and column.head.plain.startswith(("=", "+")):
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _key_count(columns: list[Column]) -> int:
    """How many columns, from the left, it takes to tell the rows apart, and to name them."""
    named = next((index + 1 for index, column in enumerate(columns) if column.kind is Kind.NAME), 0)
    rows = len(columns[0].cells)
    for count in range(named, len(columns)):
        if len({tuple(column.cells[row].plain for column in columns[:count]) for row in range(rows)}) == rows:
            return count
    return named


def _shortened(columns: list[Column], width: int, ellipsis: str) -> list[Column]:
    """Columns whose names lose their beginnings until they fit, as far as that leaves them different."""
    kept = list(columns)
    for index, column in enumerate(columns):
        excess = _least(kept) - width
        if column.kind is not Kind.NAME or excess <= 0:
            continue
        room = max(column.content - excess, _NAME_LEAST)
        cells = tuple(
            cell if _width(cell) <= room else _part(cell, len(cell.plain) - room + len(ellipsis), 0, ellipsis)
            for cell in column.cells
        )
        if len({cell.plain for cell in cells}) == len({cell.plain for cell in column.cells}):
            kept[index] = replace(column, cells=cells)
    return kept


def _with_widths(columns: list[Column], width: int) -> list[tuple[Column, int]]:
    """Prose gives way first, then heads, then words; always the widest."""
    widths = [column.natural for column in columns]
    prose = [column.least if column.kind is Kind.PROSE else column.natural for column in columns]
    # A head is whole or wrapped: one that is wrapped in its middle takes more room for nothing.
    steps = (
        (prose, 1),
        ([column.unwrapped for column in columns], width),
        ([column.least for column in columns], 1),
    )
    for floor, step in steps:
        while sum(widths) + GAP * (len(widths) - 1) > width:
            wider = [index for index, least in enumerate(floor) if widths[index] > least]
            if not wider:
                break
            widest = max(wider, key=widths.__getitem__)
            widths[widest] = max(widths[widest] - step, floor[widest])
    return list(zip(columns, widths, strict=True))


def _unwrapped(columns: Sequence[Column]) -> int:
    return sum(column.unwrapped + GAP for column in columns) - GAP


def _least(columns: Sequence[Column]) -> int:
    return sum(column.least + GAP for column in columns) - GAP


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))


def _longest_word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=0)


def _joined(text: Text) -> str:
    return " ".join(text.plain.split("\n"))
