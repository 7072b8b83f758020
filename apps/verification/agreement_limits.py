"""How close a runtime has to come to the network in PyTorch: equal where it rounds as XNNPACK does, else near."""

from __future__ import annotations

from dataclasses import dataclass

from converters.runners import RUNTIMES


@dataclass(frozen=True, kw_only=True)
class AgreementLimits:
    """What an artifact promises against the network behind it, on the same tiles.

    Attributes:
        psnr_y_db: both score within this many dB against ground truth.
        max_levels: largest difference of one channel value, in levels of 0..255; None where any may be explained.
        share_equal, share_over_1: at least and at most this share of the channel values, 0..1.
    """

    psnr_y_db: float = 0.01
    max_levels: int | None = None
    share_equal: float = 0.0
    share_over_1: float = 1.0


# Hexagon requantizes otherwise than XNNPACK, and its two generations do so differently (docs/npu.md has the figures);
# no operator is wrong.
_HEXAGON_INT8 = AgreementLimits(psnr_y_db=0.05, max_levels=10, share_equal=0.55, share_over_1=0.05)
_HEXAGON_WIDE = AgreementLimits(max_levels=2)
# One convolution in TOSA equals exact arithmetic; what differs comes from sums and products.
_TOSA_INT8 = AgreementLimits(max_levels=4, share_equal=0.97)

# A network may magnify one rounding to many levels: in the bundled idsa_net what falls to the other side of an edge in
# an early layer grows from block to block, and its quantize/dequantize graph gives 43% of the levels of the
# fake-quantized network, both in PyTorch. A runtime is asked for no more then, in the mean within this many times that.
MAGNIFIED = 1.5


def limits_of(runtime: str, scheme: str) -> AgreementLimits:
    """The limits of artifacts of ``scheme`` in ``runtime``."""
    if runtime in ("tosa_reference", "vgf_emulation") and scheme == "w8a8":
        return _TOSA_INT8
    if not runtime.startswith("hexagon_"):
        return AgreementLimits()
    return _HEXAGON_INT8 if scheme == "w8a8" else _HEXAGON_WIDE


def rounds_its_own_way(runtime: str) -> bool:
    """Whether a difference from others is no reason to look for the layer that makes it."""
    return runtime in RUNTIMES and RUNTIMES[runtime].own_rounding
