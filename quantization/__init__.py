"""From a float network to one that computes in int8: schemes, fake quantization, calibration, QAT, QDQ graphs."""

from quantization.calibration import calibrate, search_ranges
from quantization.fake_quant import Mode
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork, prepare
from quantization.schemes import SCHEMES, Scheme, get_scheme

__all__ = [
    "SCHEMES",
    "Mode",
    "QuantizedNetwork",
    "Scheme",
    "calibrate",
    "get_scheme",
    "prepare",
    "search_ranges",
    "to_qdq",
]
