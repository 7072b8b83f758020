"""How MIL's types are held in torch, and the rounding that a type stands for.

Floats of any width are held as float32, so that an operation runs at full speed and accumulates in float32; what makes
a value a float16 is that :func:`rounded` was applied to it. Integers of less than a byte are held in a whole one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

STORAGE: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "float16": torch.float32,
    "float32": torch.float32,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    # torch 2.13 computes little with its own unsigned types of more than a byte
    "uint16": torch.int32,
    "uint32": torch.int64,
}
FLOATS = ("float16", "float32")
# MIL spells types in operations' attributes in another way than in the program.
SPELLINGS: dict[str, str] = {
    "fp16": "float16",
    "fp32": "float32",
    "half": "float16",
    "float": "float32",
    **{name: name for name in ("bool", "float16", "float32", "int8", "int16", "int32", "uint8", "uint16", "uint32")},
}
INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
}


def rounded(value: Tensor) -> Tensor:
    """float32 rounded to the nearest float16, ties to even; beyond 65504 it is infinite."""
    return value.half().float()


def from_array(array: np.ndarray[Any, np.dtype[Any]], dtype: str) -> Tensor:
    """A constant of MIL's type ``dtype`` as it is held."""
    wide = array.astype(np.int64) if array.dtype in (np.uint16, np.uint32) else array
    return torch.from_numpy(np.array(wide)).to(STORAGE[dtype])  # copied: what was read from a file is read-only
