"""What every JSON file of this project makes of values that JSON does not have."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Turn paths, tuples and numpy numbers into what JSON has, and non-finite numbers into strings.

    The strings are ``"inf"``, ``"-inf"`` and ``"nan"``, which ``float`` reads: a number that was measured and has no
    spelling in JSON. ``null`` is left to what was not measured.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    numpy = sys.modules.get("numpy")  # where it is not loaded, nothing is of its types
    if numpy is not None and isinstance(value, numpy.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
