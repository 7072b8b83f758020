"""Pooling: the largest, the mean, or the root of the sum of squares in a window."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.coreml_evaluator.convolution import Pads, pad_spatial, padding, per_axis, spatial_rank
from converters.coreml_evaluator.node import Builder, Kernel, Node

_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LARGEST: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _window(node: Node) -> tuple[int, tuple[int, ...], tuple[int, ...], Callable[[Tensor], Pads], bool]:
    """Spatial rank, kernel sizes, strides, padding of an input, and whether sizes are rounded up."""
    node.require_floats("x")
    rank = spatial_rank(node)
    sizes, strides = per_axis(node, "kernel_sizes", 1, rank), per_axis(node, "strides", 1, rank)
    pads_of, ceil = padding(node, rank), node.flag("ceil_mode", False)
    if ceil:
        # Elements beyond the padding exist then, and torch's own padding has to know of them.
        pads = pads_of((1,) * rank, sizes, strides)
        if node.text("pad_type", "valid", allowed=("valid", "custom")) == "custom" and any(
            before != after or before > size // 2 for (before, after), size in zip(pads, sizes, strict=True)
        ):
            node.unsupported("equal padding of at most half the kernel with ceil_mode", str(pads))
    return rank, sizes, strides, lambda x: pads_of(x.shape[2:], sizes, strides), ceil


def _max_pool(node: Node) -> Kernel:
    rank, sizes, strides, pads_of, ceil = _window(node)
    function = _LARGEST[rank]

    def compute(x: Tensor) -> Tensor:
        pads = pads_of(x)
        if ceil:
            return cast(Tensor, function(x, sizes, strides, [before for before, _ in pads], ceil_mode=True))
        return cast(Tensor, function(pad_spatial(x, pads, -math.inf), sizes, strides))

    return Kernel(parameters=("x",), compute=compute, exact=True)


def _avg_pool(node: Node) -> Kernel:
    rank, sizes, strides, pads_of, ceil = _window(node)
    function, exclude = _AVERAGE[rank], node.flag("exclude_padding_from_average", False)

    def compute(x: Tensor) -> Tensor:
        pads = pads_of(x)
        if ceil:
            around = [before for before, _ in pads]
            result: Tensor = function(x, sizes, strides, around, ceil_mode=True, count_include_pad=not exclude)
            return result
        result = function(pad_spatial(x, pads), sizes, strides)
        if exclude and any(map(any, pads)):
            inside = pad_spatial(torch.ones(1, 1, *x.shape[2:]), pads)
            result = result / function(inside, sizes, strides)
        return result

    return Kernel(parameters=("x",), compute=compute)


def _l2_pool(node: Node) -> Kernel:
    rank, sizes, strides, pads_of, ceil = _window(node)
    if ceil:
        node.unsupported("ceil_mode to be False", "True")
    function, count = _AVERAGE[rank], math.prod(sizes)
    return Kernel(
        parameters=("x",),
        compute=lambda x: (function(pad_spatial(x * x, pads_of(x)), sizes, strides) * count).sqrt(),
    )


BUILDERS: dict[str, Builder] = {"avg_pool": _avg_pool, "l2_pool": _l2_pool, "max_pool": _max_pool}
