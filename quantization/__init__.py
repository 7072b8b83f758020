"""From a float network to one that computes in int8: schemes, fake quantization, calibration, QAT, QDQ graphs.

The names below are imported when they are first asked for: :mod:`quantization.schemes` alone needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantization.calibration import calibrate, search_ranges
    from quantization.fake_quant import Mode
    from quantization.qat import QATConfig, QATResult, train_qat
    from quantization.qdq import to_qdq
    from quantization.quantizer import QuantizedNetwork, prepare
    from quantization.schemes import SCHEMES, Scheme, get_scheme
    from quantization.state import LoadedQuantized, load_quantized, save_quantized

__all__ = [
    "SCHEMES",
    "LoadedQuantized",
    "Mode",
    "QATConfig",
    "QATResult",
    "QuantizedNetwork",
    "Scheme",
    "calibrate",
    "get_scheme",
    "load_quantized",
    "prepare",
    "save_quantized",
    "search_ranges",
    "to_qdq",
    "train_qat",
]

_HOMES = {
    "calibration": ("calibrate", "search_ranges"),
    "fake_quant": ("Mode",),
    "qat": ("QATConfig", "QATResult", "train_qat"),
    "qdq": ("to_qdq",),
    "quantizer": ("QuantizedNetwork", "prepare"),
    "schemes": ("SCHEMES", "Scheme", "get_scheme"),
    "state": ("LoadedQuantized", "load_quantized", "save_quantized"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"quantization.{home}"), name)
    raise AttributeError(f"module 'quantization' has no attribute {name!r}")
