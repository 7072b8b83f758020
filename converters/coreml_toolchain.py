"""coremltools, imported and used without the notices that mean nothing to a user of this project.

Every pattern below silences one message, in one logger, seen with coremltools 9.0, torch 2.13 and torchao 0.18.
Anything else that these packages have to say still reaches the user.
"""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from edge_sr.errors import MissingToolError

Item = TypeVar("Item")

# torch 2.13 is newer than what coremltools 9.0 was tested with: the tests of this project are the test. The wheel for
# Linux has no binding to the Core ML framework, which a conversion does not need.
_SILENCED_LOG_MESSAGES: dict[str, tuple[str, ...]] = {
    "coremltools": (
        r"scikit-learn version \S+ is not supported",
        r"Torch version \S+ has not been tested with coremltools",
        r"Failed to load _ML\w+: No module named 'coremltools\.libcoremlpython'",
    ),
    # coremltools imports torchao, whose CUDA extensions cannot load on a machine without CUDA.
    "torchao": (r"Failed to load \S*torchao/_C_\S+\.so",),
    "torch.utils._pytree": (r"<enum 'KernelPreference'> is an Enum subclass",),
}
# Importing coremltools imports executorch and more of torch, where they are installed, and those warn of themselves.
_SILENCED_AT_IMPORT: tuple[tuple[str, type[Warning]], ...] = (
    (r"(open|read)_text is deprecated", DeprecationWarning),
    (r"`torch\.jit\.script_method` is deprecated", DeprecationWarning),
)
# torch.export trips over a deprecation of torch, coremltools over one of its own, and it leaves the folder that it
# collects weights in to the garbage collector.
_SILENCED_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    (r"Function _TORCH_OPS_REGISTRY\.__contains__ is deprecated", DeprecationWarning),
    (r"Implicitly cleaning up <TemporaryDirectory", ResourceWarning),
)


class _KnownNotices(logging.Filter):
    """Drops the log records that match one of ``patterns`` at their beginning."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        super().__init__()
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(pattern.match(message) for pattern in self._patterns)


_FILTERS = {name: _KnownNotices(patterns) for name, patterns in _SILENCED_LOG_MESSAGES.items()}


def import_coremltools() -> Any:
    """The ``coremltools`` module.

    Raises:
        MissingToolError: it is not installed.
    """
    for name, notices in _FILTERS.items():
        logging.getLogger(name).addFilter(notices)  # adding the same filter again does nothing
    try:
        with warnings.catch_warnings():
            _ignore(_SILENCED_AT_IMPORT)
            return importlib.import_module("coremltools")
    except ModuleNotFoundError as error:
        if error.name != "coremltools":
            raise
        raise MissingToolError(
            "expected the package coremltools for Core ML, got none installed: pip install coremltools==9.0"
        ) from error


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """Inside, coremltools draws no progress bars, and neither it nor torch.export warns of its own doings.

    coremltools 9.0 has no switch for its bars, and tqdm reads ``TQDM_DISABLE`` only once, at import.
    """
    modules = [
        (importlib.import_module("coremltools.converters.mil.frontend.torch.ops"), "_tqdm"),
        (importlib.import_module("coremltools.converters.mil.mil.passes.pass_pipeline"), "tqdm"),
    ]
    bars = [getattr(module, name) for module, name in modules]
    for module, name in modules:
        setattr(module, name, _without_bar)
    try:
        with warnings.catch_warnings():
            _ignore(_SILENCED_WARNINGS)
            yield
    finally:
        for (module, name), bar in zip(modules, bars, strict=True):
            setattr(module, name, bar)


def _ignore(notices: tuple[tuple[str, type[Warning]], ...]) -> None:
    for pattern, category in notices:
        warnings.filterwarnings("ignore", message=pattern, category=category)


def _without_bar(items: Iterable[Item], *, desc: str, unit: str) -> Iterable[Item]:
    """Stands in for ``tqdm(items, desc=..., unit=...)``."""
    return items
