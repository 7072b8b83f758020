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
from itertools import takewhile

from rich.cells import cell_len
from rich.text import Text

from apps.columns import GAP, WRAPPED_LEAST, Column, Kind, joined, least_unwrapped, least_width, text_width

# A beginning or an end that is shorter is not worth a line.
_COMMON_LEAST = 4
# In place of a name.
_NO_NAMES = ("", "–")
# Parts that all begin with names; where it takes more, the rows are numbered.
_REPEATED_MOST = 2
# As far as a name is shortened that shares nothing with the others.
_NAME_LEAST = 12
_SEPARATORS = r"[_/.\- ]"


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
    if least_unwrapped(kept) > width:
        kept = _without_common(kept, above, ellipsis, _beginning)
    if least_unwrapped(kept) > width:
        kept = _with_notes(kept, above, notes)
    if least_unwrapped(kept) > width:
        kept = _without_shared(kept, above, lambda rest: least_unwrapped(rest) <= width, numbers=False)
    if least_width(kept) > width:
        kept = _without_shared(kept, above, lambda rest: least_width(rest) <= width, numbers=True)
    if least_width(kept) > width:
        kept = _without_common(kept, above, ellipsis, _end)
    parts = [kept] if least_width(kept) <= width else _parts(kept, width, ellipsis)
    heads = (column.head.plain for column in columns)
    said = [f"{head}: {above[head]}" for head in heads if head in above]
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

    Numbers stay where there is one row, which would be no table any more, and in a sum.
    """
    kept = list(columns)
    for column in sorted(columns, key=lambda column: -column.natural):
        number = column.kind is Kind.NUMBER
        stays = number != numbers or (number and len(column.cells) == 1) or _continues_sum(column)
        shared = None if stays else column.shared
        if shared is not None and len(kept) > 1 and not enough(kept):
            kept.remove(column)
            above[column.head.plain] = shared
    return kept


def _with_notes(columns: list[Column], above: dict[str, str], notes: list[str]) -> list[Column]:
    """Prose that all rows share is said above the table, other prose below it: its cells hold the note's mark."""
    long = [column for column in columns if column.kind is Kind.PROSE and column.content > WRAPPED_LEAST]
    shared = [column for column in long if column.shared is not None]
    above |= {column.head.plain: column.shared or "" for column in shared}
    long = [column for column in long if column not in shared]
    # Row by row, as they are read.
    texts = [joined(cell) for row in zip(*(column.cells for column in long), strict=True) for cell in row]
    marks: dict[str, str] = {}
    for text in texts:
        if cell_len(text) > WRAPPED_LEAST:
            marks.setdefault(text, f"[{len(marks) + 1}]")
    notes += [f"{mark} {text}" for text, mark in marks.items()]
    kept = []
    for column in columns:
        if column in long:
            cells = tuple(Text(marks[text]) if (text := joined(cell)) in marks else cell for cell in column.cells)
            kept.append(replace(column, kind=Kind.TEXT, cells=cells))
        elif column not in shared:
            kept.append(column)
    return kept


# ------------------------------------------------------------------------------------------------- parts and widths
def _parts(columns: list[Column], width: int, ellipsis: str) -> list[list[Column]]:
    """Columns in groups that fit, each after those that tell the rows apart."""
    count = _key_count(columns)
    rest = _sums(columns[count:])
    widest = max((least_width(group) + GAP for group in rest), default=0)
    key = _shortened(columns[:count], width - widest, ellipsis)
    repeated = _fewest(key, key, rest, width)
    if len(repeated) <= _REPEATED_MOST:
        return repeated
    count = len(columns[0].cells)
    number = Column(head=Text("#"), kind=Kind.NUMBER, cells=tuple(Text(str(row + 1)) for row in range(count)))
    numbered = _fewest([number, *key], [number], rest, width)
    return numbered if len(numbered) < len(repeated) else repeated


def _fewest(first: list[Column], later: list[Column], groups: list[list[Column]], width: int) -> list[list[Column]]:
    """The first part begins with ``first``, the others with ``later``, wrapped only where that saves a part."""
    return min((_filled(first, later, groups, width, measure) for measure in (least_unwrapped, least_width)), key=len)


def _filled(
    first: list[Column],
    later: list[Column],
    groups: list[list[Column]],
    width: int,
    measure: Callable[[list[Column]], int],
) -> list[list[Column]]:
    parts = [[*first]]
    left = width - measure(first)
    for group in groups:
        needed = least_width(group) + GAP
        if needed > left and len(parts[-1]) > len(later):
            parts.append([*later])
            left = width - measure(later)
        parts[-1] += group
        left -= needed
    return parts


def _sums(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns whose heads spell a sum, such as ``drop``, ``= tiling``, ``+ quant.``, together; the others alone."""
    groups: list[list[Column]] = []
    for column in columns:
        if groups and _continues_sum(column):
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _key_count(columns: list[Column]) -> int:
    """How many columns, from the left, it takes to tell the rows apart, and to name them."""
    rows = len(columns[0].cells)
    for count, column in enumerate(columns):
        if len({tuple(before.cells[row].plain for before in columns[:count]) for row in range(rows)}) == rows:
            return count + (column.kind is Kind.NAME and count < len(columns) - 1)
    return next((index + 1 for index, column in enumerate(columns[:-1]) if column.kind is Kind.NAME), 0)


def _continues_sum(column: Column) -> bool:
    return column.head.plain.startswith(("=", "+"))


def _shortened(columns: list[Column], width: int, ellipsis: str) -> list[Column]:
    """Columns whose names lose their beginnings until they fit, as far as that leaves them different."""
    kept = list(columns)
    for index, column in enumerate(columns):
        excess = least_width(kept) - width
        if column.kind is not Kind.NAME or excess <= 0:
            continue
        room = max(column.content - excess, _NAME_LEAST)
        cells = tuple(_last(cell, room, ellipsis) for cell in column.cells)
        if len({cell.plain for cell in cells}) == len({cell.plain for cell in column.cells}):
            kept[index] = replace(column, cells=cells)
    return kept


def _last(cell: Text, room: int, ellipsis: str) -> Text:
    """As much of a name's end as goes into ``room`` cells."""
    if text_width(cell) <= room:
        return cell
    name = cell.plain
    start = next(index for index in range(len(name) + 1) if cell_len(ellipsis + name[index:]) <= room)
    return _part(cell, start, 0, ellipsis)


def _with_widths(columns: list[Column], width: int) -> list[tuple[Column, int]]:
    """Prose gives way first, then heads, then words; always the widest."""
    widths = [column.natural for column in columns]
    prose = [column.least if column.kind is Kind.PROSE else column.natural for column in columns]
    # A head is whole or wrapped: one that is wrapped in its middle takes more room for nothing.
    steps = (
        (prose, False),
        ([column.unwrapped for column in columns], True),
        ([column.least for column in columns], False),
    )
    for floor, at_once in steps:
        while sum(widths) + GAP * (len(widths) - 1) > width:
            wider = [index for index, least in enumerate(floor) if widths[index] > least]
            if not wider:
                break
            widest = max(wider, key=widths.__getitem__)
            widths[widest] = floor[widest] if at_once else widths[widest] - 1
    return list(zip(columns, widths, strict=True))
