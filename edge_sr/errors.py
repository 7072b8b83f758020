"""The one tree of errors that this project raises on purpose.

Every message is one line that says what was expected, what was got and how to cure it. The command line prints that
line to stderr and leaves with :attr:`EdgeSRError.exit_code`.
"""

from __future__ import annotations


class EdgeSRError(Exception):
    """Base of every error a caller may want to catch. ``exit_code`` is the command line's exit status."""

    exit_code: int = 2


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
    return " ".join(str(error).split())[:200] or type(error).__name__
