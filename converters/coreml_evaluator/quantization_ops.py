"""Quantization of activations, and weights that are stored compressed.

``quantize``: clip(round(x / scale) + zero_point), halves to even, saturating at the ends of the 8-bit type.
``dequantize``: scale * (q - zero_point). Both in float32 inside; only what the program types as float16 is rounded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from converters.coreml_evaluator.node import Builder, Kernel, Node
from converters.coreml_evaluator.value_types import INTEGER_RANGES, SPELLINGS, STORAGE

_EIGHT_BITS = ("int8", "uint8")


def _grid(node: Node, of: str, axis_parameter: str = "axis") -> tuple[Tensor, Tensor | None]:
    """Scale and zero point (None where it is 0), shaped to go with the parameter ``of``; both float32."""
    scale = node.tensor("scale")
    zero_point = node.tensor("zero_point").float() if node.has("zero_point") else None
    if not bool((scale > 0).all()) and of == "input":
        node.unsupported("positive scales", f"one of {float(scale.amin()):g}")
    shape = [1] * node.rank(of)
    if scale.ndim == 1 or (zero_point is not None and zero_point.ndim == 1):
        axis = node.axis(axis_parameter, of=of)
        shape[axis] = -1
        length = node.type_of(of).shape[axis]
        for values in (scale, zero_point):
            if values is not None and values.ndim == 1 and values.numel() not in (1, length):
                node.damaged(f"{length} values along axis {axis}", str(values.numel()))
    parts = [None if part is None else part.reshape(shape if part.ndim else ()) for part in (scale, zero_point)]
    if parts[1] is not None and not bool(parts[1].any()):
        parts[1] = None
    assert parts[0] is not None
    return parts[0], parts[1]


def _quantize(node: Node) -> Kernel:
    node.require_floats("input")
    dtype = SPELLINGS[node.text("output_dtype", allowed=_EIGHT_BITS)]
    if node.has("zero_point") and node.type_of("zero_point").dtype != dtype:
        node.damaged(f"a zero point of type {dtype}", node.type_of("zero_point").dtype)
    scale, zero_point = _grid(node, "input")
    (low, high), storage = INTEGER_RANGES[dtype], STORAGE[dtype]

    def compute(x: Tensor) -> Tensor:
        levels = (x / scale).round_()
        if zero_point is not None:
            levels += zero_point
        if levels.numel() and bool(levels.amin().isnan()):  # it has no level, and would become a plausible one
            raise RuntimeError("NaN to quantize")
        return levels.clamp_(low, high).to(storage)

    return Kernel(parameters=("input",), compute=compute, dtypes=(dtype,))


def _dequantize(node: Node) -> Kernel:
    if node.type_of("input").dtype not in _EIGHT_BITS:
        node.unsupported("an input of 8 bits", node.type_of("input").dtype)
    scale, zero_point = _grid(node, "input")

    def compute(quantized: Tensor) -> Tensor:
        levels = quantized.float()
        if zero_point is not None:
            levels -= zero_point
        return levels.mul_(scale)

    return Kernel(parameters=("input",), compute=compute, dtypes=(node.type_of("scale").dtype,))


def _affine_dequantize(node: Node) -> Kernel:
    scale, zero_point = _grid(node, "quantized_data")

    def compute(quantized: Tensor) -> Tensor:
        levels = quantized.float()
        return (levels if zero_point is None else levels - zero_point) * scale

    return Kernel(parameters=("quantized_data",), compute=compute, dtypes=(node.type_of("scale").dtype,))


def _blockwise(node: Node) -> Kernel:
    data, scale = node.type_of("data").shape, node.type_of("scale").shape
    if len(data) != len(scale) or any(size % blocks for size, blocks in zip(data, scale, strict=True)):
        node.damaged(f"scales that divide a shape of {list(data)}", str(list(scale)))

    def compute(stored: Tensor, scales: Tensor, offsets: Tensor | None = None) -> Tensor:
        levels = stored.float()
        if offsets is not None:
            levels = levels - _over_blocks(offsets.float(), data)
        return levels * _over_blocks(scales, data)

    return Kernel(
        parameters=node.given("data", "scale", "offset"), compute=compute, dtypes=(node.type_of("scale").dtype,)
    )


def _over_blocks(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    for axis, size in enumerate(shape):
        values = values.repeat_interleave(size // values.shape[axis], axis)
    return values


def _lut_to_dense(node: Node) -> Kernel:
    if node.has("shape"):
        return _packed_lut(node)
    indices, table = node.type_of("indices").shape, node.type_of("lut").shape
    if len(table) != len(indices) + 2 or any(size % own for size, own in zip(indices, table, strict=False)):
        node.damaged(f"a table per block of a shape of {list(indices)}", str(list(table)))
    width = table[-1]
    along = node.axis("vector_axis", 0, of="indices") if width == 1 else node.axis("vector_axis", of="indices")

    def compute(index: Tensor, lut: Tensor) -> Tensor:
        for axis, size in enumerate(indices):
            lut = lut.repeat_interleave(size // lut.shape[axis], axis)
        rows = index.long()[..., None, None].expand(*indices, 1, width)
        vectors = lut.gather(-2, rows).squeeze(-2)  # (*indices, width)
        return vectors.movedim(-1, along + 1).flatten(along, along + 1)

    return Kernel(parameters=("indices", "lut"), compute=compute, dtypes=(node.type_of("lut").dtype,), exact=True)


def _packed_lut(node: Node) -> Kernel:
    """iOS 16: indices of 1, 2, 4, 6 or 8 bits without gaps, lowest bits first, of a table of as many values."""
    shape, entries = node.integers("shape"), math.prod(node.type_of("lut").shape)
    bits, count = entries.bit_length() - 1, math.prod(shape)
    if 1 << bits != entries or math.prod(node.type_of("indices").shape) != -(-bits * count // 8):
        node.damaged(f"{count} indices of a table of a power of 2", f"a table of {entries}")

    def compute(packed: Tensor, lut: Tensor) -> Tensor:
        places = _bits(packed)[: bits * count].reshape(count, bits)
        return lut[(places << torch.arange(bits)).sum(1)].reshape(shape)

    return Kernel(parameters=("indices", "lut"), compute=compute, dtypes=(node.type_of("lut").dtype,), exact=True)


def _sparse_to_dense(node: Node) -> Kernel:
    packed = node.has("shape")  # iOS 16 has a bit mask without a shape, iOS 18 one of type uint1 with its own
    shape = node.integers("shape") if packed else node.type_of("mask").shape
    where, count = node, math.prod(shape)

    def compute(values: Tensor, mask: Tensor) -> Tensor:
        chosen = (_bits(mask)[:count] if packed else mask.reshape(-1)) != 0
        if int(chosen.sum()) != values.numel():
            where.damaged(f"{int(chosen.sum())} values for the mask", str(values.numel()))
        dense = torch.zeros(count, dtype=values.dtype)
        dense[chosen] = values.reshape(-1)
        return dense.reshape(shape)

    return Kernel(
        parameters=("nonzero_data", "mask"),
        compute=compute,
        dtypes=(node.type_of("nonzero_data").dtype,),
        exact=True,
    )


def _bits(packed: Tensor) -> Tensor:
    """The bits of uint8 values, lowest first, as int64."""
    return ((packed.reshape(-1, 1).long() >> torch.arange(8)) & 1).reshape(-1)


def _constexpr_cast(node: Node) -> Kernel:
    node.text("output_dtype", allowed=("fp32",))
    return Kernel(parameters=("source_val",), compute=lambda x: x, dtypes=("float32",), exact=True)


BUILDERS: dict[str, Builder] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": _constexpr_cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "dequantize": _dequantize,
    "quantize": _quantize,
}
