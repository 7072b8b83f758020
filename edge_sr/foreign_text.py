"""Text that came from outside (a file, a device, another program), made fit to be shown.

Names in models and checkpoints, properties of phones, messages of other programs: any of them may hold escape codes
that a terminal obeys, newlines, marks that turn the writing direction, or halves of characters that nothing can encode.
"""

from __future__ import annotations

import math
import re
import unicodedata

_DIGITS = re.compile(r"-?[0-9]{1,15}")
# More than any name or message of use; a header may hold megabytes.
MAX_SHOWN = 1000


def visible(text: object, *, limit: int = MAX_SHOWN) -> str:
    r"""Spell text on one line: what is not printable as its escape (``\n``, ``\x1b``, ``\u202e``, ``\udc80``).

    Args:
        text: anything; its ``str`` is shown.
        limit: characters of the result at most; what is longer ends in an ellipsis.
    Returns:
        printable characters only, encodable in UTF-8.
    """
    whole = str(text)
    shown = "".join(_spelled(character) for character in whole[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def one_line(text: object, *, limit: int = MAX_SHOWN) -> str:
    """Like :func:`visible`, for prose: line ends and other white space are single spaces."""
    return visible(" ".join(str(text).split()), limit=limit)


def whole_number(text: str | None, *, least: int = 0, most: int = 2**31 - 1) -> int | None:
    """The number that ``text`` spells in decimal digits; None where it spells none, or one out of range."""
    if text is None or not _DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if least <= number <= most else None


def real_number(text: str, *, least: float = 0.0, most: float = 1e12) -> float | None:
    """The number that ``text`` spells; None where it spells none, or one out of range (NaN and infinities are)."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and least <= number <= most else None


def _spelled(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":  # a space of another width
        return " "
    return character.encode("unicode_escape").decode("ascii")
