"""Sizes of pictures and tiles as people read and type them: width first. In code they are (height, width)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge_sr.errors import ConfigError
from edge_sr.foreign_text import visible

_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})", re.IGNORECASE)


def parse_size(text: str, what: str, example: str) -> tuple[int, int]:
    """Read ``4000x3000``, WIDTHxHEIGHT.

    Args:
        text: as typed.
        what: what it is the size of, for the error.
        example: such a size, for the error.
    Returns:
        (height, width), each at least 1.
    Raises:
        ConfigError: anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise ConfigError(f"expected a {what} as WIDTHxHEIGHT, got {visible(text, limit=60)!r}, write {example}, say")
    return int(match[2]), int(match[1])


def short_size(size: Sequence[int]) -> str:
    """``128x64`` for (64, 128): in names of files, and where a column says which side is which."""
    height, width = size
    return f"{width}x{height}"


def format_size(size: Sequence[int]) -> str:
    """``128x128``; ``128 wide, 64 high`` for (64, 128), which nobody can take for the other order."""
    height, width = size
    return short_size(size) if height == width else f"{width} wide, {height} high"
