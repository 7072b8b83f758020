"""From a float network to one that computes in int8: schemes, fake quantization, calibration, QAT, QDQ graphs."""

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
