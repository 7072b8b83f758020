"""Convolution, its transpose, and what they share with pooling: padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from converters.coreml_evaluator.node import Builder, Kernel, Node

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
PAD_TYPES = ("valid", "custom", "same", "same_lower")
Pads = tuple[tuple[int, int], ...]


def spatial_rank(node: Node) -> int:
    """Number of axes of x after batch and channels: 1, 2 or 3."""
    rank = node.rank("x") - 2
    if rank not in (1, 2, 3):
        node.damaged("x to have 1 to 3 spatial axes", str(rank))
    return rank


def per_axis(node: Node, parameter: str, default: int, rank: int) -> tuple[int, ...]:
    values = node.integers(parameter, (default,) * rank)
    if len(values) != rank or min(values) < 1:
        node.damaged(f"{rank} positive numbers for {parameter}", str(list(values)))
    return values


def padding(node: Node, rank: int) -> Callable[[Sequence[int], Sequence[int], Sequence[int]], Pads]:
    """A function of spatial sizes, kernel extents (dilated) and strides that gives (before, after) of every axis.

    "same" leaves ceil(size / stride) positions and puts an odd element after, "same_lower" before. MIL's description
    of ``conv`` also has a formula that says the reverse; the frontends of coremltools 9.0 rely on this reading.
    """
    kind = node.text("pad_type", "valid", allowed=PAD_TYPES)
    if kind == "valid":
        return lambda sizes, extents, strides: ((0, 0),) * rank
    if kind == "custom":
        flat = node.integers("pad", (0,) * (2 * rank))
        if len(flat) != 2 * rank or min(flat) < 0:
            node.damaged(f"{2 * rank} numbers of at least 0 for pad", str(list(flat)))
        pads = tuple(zip(flat[::2], flat[1::2], strict=True))
        return lambda sizes, extents, strides: pads

    def same(sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]) -> Pads:
        totals = [
            max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
            for size, extent, stride in zip(sizes, extents, strides, strict=True)
        ]
        smaller_first = [(total // 2, total - total // 2) for total in totals]
        return tuple(smaller_first if kind == "same" else [(after, before) for before, after in smaller_first])

    return same


def pad_spatial(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """x with ``value`` around its last axes."""
    flat = [side for pair in reversed(pads) for side in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(node: Node) -> Kernel:
    node.require_floats("x", "weight", "bias")
    rank = spatial_rank(node)
    strides, dilations = per_axis(node, "strides", 1, rank), per_axis(node, "dilations", 1, rank)
    groups, pads_of, function = node.integer("groups", 1), padding(node, rank), _CONV[rank]
    if node.rank("weight") != rank + 2:
        node.damaged(f"a weight of rank {rank + 2}", str(node.rank("weight")))

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        extents = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
        pads = pads_of(x.shape[2:], extents, strides)
        around: tuple[int, ...] = tuple(before for before, _ in pads)
        if any(before != after for before, after in pads):
            x, around = pad_spatial(x, pads), (0,) * rank
        return function(x, weight, bias, strides, around, dilations, groups)

    return Kernel(parameters=node.given("x", "weight", "bias"), compute=compute)


def _conv_transpose(node: Node) -> Kernel:
    node.require_floats("x", "weight", "bias")
    rank = spatial_rank(node)
    strides, dilations = per_axis(node, "strides", 1, rank), per_axis(node, "dilations", 1, rank)
    groups, kind = node.integer("groups", 1), node.text("pad_type", "valid", allowed=("valid", "custom", "same"))
    pad = node.integers("pad", (0,) * (2 * rank)) if kind == "custom" else (0,) * (2 * rank)
    if len(pad) != 2 * rank:
        node.damaged(f"{2 * rank} numbers for pad", str(list(pad)))
    wanted = node.integers("output_shape")[2:] if node.has("output_shape") else None
    function: Any = _CONV_TRANSPOSE[rank]

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        full = function(x, weight, bias=None, stride=strides, groups=groups, dilation=dilations)
        cut = []
        for axis in range(rank):
            size = full.shape[2 + axis]
            before, after = pad[2 * axis : 2 * axis + 2]
            if wanted is not None:
                length = wanted[axis]
            else:
                length = x.shape[2 + axis] * strides[axis] if kind == "same" else size - before - after
            if kind == "same":  # as "same" of the convolution it transposes: an odd element is cut after
                before = max(0, size - length) // 2
            cut.append((-before, length + before - size))
        result = pad_spatial(full, tuple(cut))
        return result if bias is None else result + bias.reshape(-1, *([1] * rank))

    return Kernel(parameters=node.given("x", "weight", "bias"), compute=compute)


BUILDERS: dict[str, Builder] = {"conv": _conv, "conv_transpose": _conv_transpose}
