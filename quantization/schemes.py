"""Names of the arithmetics a network can be exported in.

One name means one arithmetic on every target: a target that cannot do a scheme raises
:class:`edge_sr.errors.UnsupportedScheme` instead of doing something close to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edge_sr.choices import expect_choice
from edge_sr.errors import ConfigError, UnsupportedScheme


class OpKind(Enum):
    """What a node of a traced network does, as far as quantization is concerned."""

    CONV = "conv"
    RELU = "relu"
    CLIP = "clip"  # to constant limits other than those of a ReLU
    ADD = "add"
    MUL = "mul"
    SIGMOID = "sigmoid"
    MOVE = "move"  # slice, reshape, permute, pixel_shuffle, nearest upsampling: values are copied, never computed
    CAT = "cat"
    OTHER = "other"  # stays float


ACTIVATIONS = (OpKind.RELU, OpKind.CLIP)
"""What int8 engines fuse into the convolution, sum or product before it."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """An arithmetic.

    Attributes:
        name: the key in :data:`SCHEMES`.
        summary: one line for ``--help`` and reports.
        quantized: whether the network must be prepared and calibrated (or trained) before it can be exported.
        int8_ops: kinds of ops that run on whole numbers; everything else stays float. Empty for float schemes.
        activation_bits: 8 or 16; weights have 8 either way.
    """

    name: str
    summary: str
    quantized: bool
    int8_ops: frozenset[OpKind] = frozenset()
    activation_bits: int = 8

    def __post_init__(self) -> None:
        if self.quantized != bool(self.int8_ops):
            raise ConfigError(
                f"expected int8_ops exactly for a quantized scheme, got {self.name!r} with quantized={self.quantized} "
                f"and {len(self.int8_ops)} kinds; list the kinds of ops that run in int8"
            )
        if OpKind.OTHER in self.int8_ops:
            raise ConfigError(f"expected named kinds of ops in int8_ops, got OTHER in {self.name!r}; remove it")
        if self.activation_bits not in (8, 16):
            raise ConfigError(f"expected activations of 8 or 16 bits, got {self.activation_bits} in {self.name!r}")


_MOVING = frozenset({OpKind.RELU, OpKind.CLIP, OpKind.MOVE, OpKind.CAT})
_ALL = _MOVING | {OpKind.CONV, OpKind.ADD, OpKind.MUL, OpKind.SIGMOID}

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="fp32", summary="32-bit float", quantized=False),
        Scheme(name="fp16", summary="16-bit float weights and activations", quantized=False),
        Scheme(
            name="w8a8",
            summary="int8 weights and activations wherever the targets have int8 arithmetic",
            quantized=True,
            int8_ops=_ALL,
        ),
        Scheme(
            name="w8a8_mixed",
            summary="int8 convolutions and sigmoids; sums, products, attention and norms in float",
            quantized=True,
            # What docs/quantization.md measures: int8 sums and products cost most of what can be had back, sigmoids
            # nothing.
            int8_ops=_MOVING | {OpKind.CONV, OpKind.SIGMOID},
        ),
        Scheme(
            name="w8a16",
            summary="int8 weights, 16-bit activations: for NPUs that have them, where 8 bits show bands",
            quantized=True,
            int8_ops=_ALL,
            activation_bits=16,
        ),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        UnsupportedScheme: there is none.
    """
    expect_choice("scheme", name, SCHEMES, error_class=UnsupportedScheme)
    return SCHEMES[name]
