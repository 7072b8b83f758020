"""Reductions, and what else looks along an axis: arg max, cumulative sums, sorting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from converters.coreml_evaluator.node import Builder, Kernel, Node
from converters.coreml_evaluator.value_types import FLOATS, SPELLINGS, STORAGE

Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(function: Reduce, *, exact: bool = False, floats_only: bool = False) -> Builder:
    def build(node: Node) -> Kernel:
        if floats_only:
            node.require_floats("x")
        rank, keep = node.rank("x"), node.flag("keep_dims", False)
        axes = tuple(node.checked_axis(axis, rank) for axis in node.integers("axes", range(rank)))
        storage = STORAGE[node.type_of("x").dtype]
        return Kernel(parameters=("x",), compute=lambda x: function(x, axes, keep).to(storage), exact=exact)

    return build


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Tensor]) -> Builder:
    def build(node: Node) -> Kernel:
        axis, keep = node.axis("axis", -1), node.flag("keep_dims", False)
        dtype = _index_type(node, "output_dtype")
        return Kernel(
            parameters=("x",),
            compute=lambda x: function(x, dim=axis, keepdim=keep).to(STORAGE[dtype]),
            dtypes=(dtype,),
        )

    return build


def _argsort(node: Node) -> Kernel:
    axis, ascending = node.axis("axis", -1), node.flag("ascending", False)
    dtype = _index_type(node, "output_dtype")
    return Kernel(
        parameters=("x",),
        compute=lambda x: torch.argsort(x, dim=axis, descending=not ascending, stable=True).to(STORAGE[dtype]),
        dtypes=(dtype,),
    )


def _cumsum(node: Node) -> Kernel:
    axis = node.axis("axis", 0)
    exclusive, reverse = node.flag("exclusive", False), node.flag("reverse", False)

    def compute(x: Tensor) -> Tensor:
        values = x.flip(axis) if reverse else x
        sums = values.cumsum(axis).to(x.dtype)
        if exclusive:
            sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums.narrow(axis, 0, x.shape[axis] - 1)], axis)
        return sums.flip(axis) if reverse else sums

    return Kernel(parameters=("x",), compute=compute)


def _topk(node: Node) -> Kernel:
    axis, smallest_first = node.axis("axis", -1), node.flag("ascending", False)
    if not node.flag("sort", True):
        node.unsupported("sort to be True", "False")  # any order would be right, and none could be compared
    dtype, k = _index_type(node, "output_indices_dtype"), node.integer("k", 1)

    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = torch.sort(x, dim=axis, descending=not smallest_first, stable=True)
        return values.narrow(axis, 0, k), indices.narrow(axis, 0, k).to(STORAGE[dtype])

    value_type = node.type_of("x").dtype
    if node.flag("return_indices", True):
        return Kernel(parameters=("x",), compute=compute, dtypes=(value_type, dtype), exact=True)
    return Kernel(parameters=("x",), compute=lambda x: compute(x)[0], exact=True)


def _index_type(node: Node, parameter: str) -> str:
    return SPELLINGS[node.text(parameter, "int32", allowed=("int32", "uint16", "int16"))]


def _mean(node: Node) -> Kernel:
    if node.type_of("x").dtype not in FLOATS:
        node.unsupported("float values for x", node.type_of("x").dtype)
    return _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep))(node)


BUILDERS: dict[str, Builder] = {
    "argsort": _argsort,
    "cumsum": _cumsum,
    "reduce_argmax": _arg(torch.argmax),
    "reduce_argmin": _arg(torch.argmin),
    "reduce_l1_norm": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "reduce_l2_norm": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(), floats_only=True),
    "reduce_log_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log(), floats_only=True),
    "reduce_log_sum_exp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep), floats_only=True),
    "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep), exact=True),
    "reduce_mean": _mean,
    "reduce_min": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep), exact=True),
    "reduce_prod": _reduction(_prod),
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "reduce_sum_square": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "topk": _topk,
}
