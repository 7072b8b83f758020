"""The one tree of errors that this project raises on purpose.

Every message is one line that says what was expected, what was got and how to cure it. The command line prints that
line to stderr and leaves with :attr:`EdgeSRError.exit_code`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from edge_sr.foreign_text import one_line

# Some name every file that is wrong.
_LONGEST_MESSAGE = 4000


class EdgeSRError(Exception):
    """Base of every error a caller may want to catch. ``exit_code`` is the command line's exit status."""

    exit_code: int = 2

    def __str__(self) -> str:
        """One printable line, whatever was put into it: names from files, other programs' words."""
        return one_line(super().__str__(), limit=_LONGEST_MESSAGE)


class ConfigError(EdgeSRError):
    """An option, a name or a configuration value is not one of those that exist."""


class ShapeError(EdgeSRError):
    """An array or tensor has another shape or type than the call needs."""


class ImageError(EdgeSRError):
    """A file is not an image that can be read, or cannot be written."""


class DataError(EdgeSRError):
    """A data folder is missing, empty or laid out in an unknown way."""


class CheckpointError(EdgeSRError):
    """A checkpoint is missing, damaged or belongs to another network."""


class ArtifactError(EdgeSRError):
    """An artifact folder is missing, damaged, altered, or would be overwritten."""


class ConversionError(EdgeSRError):
    """A toolchain refused the network."""


class UnsupportedScheme(EdgeSRError):
    """A quantization scheme is unknown, or the target cannot do it."""


class MissingToolError(EdgeSRError):
    """A package or program that this step needs is not installed."""


class RunnerError(EdgeSRError):
    """A runtime could not load or run an artifact."""


class GateError(EdgeSRError):
    """An artifact lost more accuracy than the gate allows."""

    exit_code = 3


def reason_of(error: BaseException) -> str:
    """What an exception of someone else's code says, in one line of at most 200 characters; its type where nothing."""
    return one_line(error, limit=200) or type(error).__name__


def cause_of(error: BaseException, *, limit: int = 300) -> str:
    """Like :func:`reason_of`, after the exception's type."""
    return one_line(f"{type(error).__name__}: {error}", limit=limit)


# What reading raises where a file contradicts itself: a place that does not exist, a number that is none, a name that
# means nothing, a size that no memory holds.
_CONTRADICTIONS = (
    *(
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        StopIteration,
        TypeError,
        ValueError,
    ),
    struct.error,
)


@contextmanager
def refuse_damaged(what: str, error_class: type[EdgeSRError], cure: str = "export it again") -> Iterator[None]:
    """Make one line of whatever reading a file of someone else's trips over.

    A file that was altered at any bit can contradict itself anywhere, also where each number by itself is allowed; no
    reader asks about all of it before it goes on.

    Args:
        what: which kind of file is expected, and where: ``a TFLite file at PATH``.
        error_class: raised in place of anything but an :class:`EdgeSRError`; the cause stays attached.
        cure: ends the message.
    """
    try:
        yield
    except _CONTRADICTIONS as error:
        raise error_class(f"expected {what}, got a damaged one ({cause_of(error)}); {cure}") from error
