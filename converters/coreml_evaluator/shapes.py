"""Operations that move values about and compute none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.coreml_evaluator.node import Builder, Kernel, Node
from converters.coreml_evaluator.value_types import SPELLINGS, STORAGE
from edge_sr.errors import RunnerError


def _moves(node: Node, compute: Callable[[Tensor], Tensor]) -> Kernel:
    return Kernel(parameters=("x",), compute=compute, exact=True)


def _reshape(node: Node) -> Kernel:
    node.require_integers("shape")
    return Kernel(
        parameters=("x", "shape"), compute=lambda x, shape: x.reshape(_target(x.shape, shape.tolist())), exact=True
    )


def _target(shape: Sequence[int], wanted: list[int]) -> list[int]:
    """0 stands for the size that x has on that axis; torch itself finds what -1 stands for."""
    return [shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]


def _reshape_like(node: Node) -> Kernel:
    begins, ends, masks = node.integers("begins"), node.integers("ends"), node.integers("end_masks")
    if any(node.integers("begins")) or not all(masks) or len(begins) != len(ends):
        node.unsupported("reshape_like of whole shapes", "parts of them")
    return Kernel(
        parameters=("x", "ref_tensors"),
        compute=lambda x, *like: x.reshape([size for each in like for size in each.shape]),
        exact=True,
    )


def _transpose(node: Node) -> Kernel:
    order = node.integers("perm")
    rank = node.rank("x")
    axes = [node.checked_axis(axis, rank) for axis in order]
    if sorted(axes) != list(range(rank)):
        node.damaged(f"an order of {rank} axes", str(list(order)))
    return _moves(node, lambda x: x.permute(axes))


def _squeeze(node: Node) -> Kernel:
    rank, shape = node.rank("x"), node.type_of("x").shape
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    axes = {node.checked_axis(axis, rank) for axis in node.integers("axes", ones)}

    def compute(x: Tensor) -> Tensor:
        return x.reshape([size for axis, size in enumerate(x.shape) if axis not in axes])

    return _moves(node, compute)


def _expand_dims(node: Node) -> Kernel:
    axes = node.integers("axes")
    rank = node.rank("x") + len(axes)
    added = {node.checked_axis(axis, rank) for axis in axes}

    def compute(x: Tensor) -> Tensor:
        sizes = iter(x.shape)
        return x.reshape([1 if axis in added else next(sizes) for axis in range(rank)])

    return _moves(node, compute)


def _flatten2d(node: Node) -> Kernel:
    axis = node.axis("axis", 1, extra=1)
    return _moves(node, lambda x: x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _concat(node: Node) -> Kernel:
    node.require_one_type("values")
    rank = node.rank("values")
    axis = node.axis("axis", of="values") if rank else 0
    dtypes = (node.type_of("values").dtype,)
    if not node.flag("interleave", False):
        return Kernel(
            parameters=("values",),
            # scalars come together as a vector
            compute=lambda *values: torch.cat([v.reshape(1) for v in values] if rank == 0 else values, axis),
            dtypes=dtypes,
            exact=True,
        )

    def interleaved(*values: Tensor) -> Tensor:
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)

    return Kernel(parameters=("values",), compute=interleaved, dtypes=dtypes, exact=True)


def _stack(node: Node) -> Kernel:
    node.require_one_type("values")
    axis = node.axis("axis", of="values", extra=1)
    dtypes = (node.type_of("values").dtype,)
    return Kernel(parameters=("values",), compute=lambda *values: torch.stack(values, axis), dtypes=dtypes, exact=True)


def _split(node: Node) -> Kernel:
    axis, outputs = node.axis("axis"), len(node.operation.outputs)
    sizes = node.integers("split_sizes") if node.has("split_sizes") else None
    count = len(sizes) if sizes is not None else node.integer("num_splits")
    if count != outputs:
        node.damaged(f"{outputs} parts", str(count))
    where = node.where

    def compute(x: Tensor) -> Sequence[Tensor]:
        size = x.shape[axis]
        if (sum(sizes) != size) if sizes is not None else (size % count):
            raise RunnerError(f"expected {size} elements to be split in {where}, got {sizes or count} parts")
        return torch.split_with_sizes(x, [size // count] * count if sizes is None else list(sizes), axis)

    return Kernel(parameters=("x",), compute=compute, dtypes=(node.type_of("x").dtype,) * outputs, exact=True)


def _tile(node: Node) -> Kernel:
    node.require_integers("reps")
    return Kernel(parameters=("x", "reps"), compute=lambda x, reps: x.repeat(reps.tolist()), exact=True)


def _pad(node: Node) -> Kernel:
    mode = node.text("mode", "constant", allowed=("constant", "reflect", "replicate"))
    value = node.number("constant_val", 0.0)
    node.require_integers("pad")

    def compute(x: Tensor, pad: Tensor) -> Tensor:
        pairs = pad.reshape(-1, 2).tolist()  # of the last axes
        if mode == "constant":
            return F.pad(x, [side for pair in reversed(pairs) for side in pair], value=value)
        for offset, (before, after) in enumerate(pairs):
            axis = x.ndim - len(pairs) + offset
            if before or after:
                x = x.index_select(axis, _around(x.shape[axis], before, after, mirrored=mode == "reflect"))
        return x

    return Kernel(parameters=("x", "pad"), compute=compute, exact=True)


def _around(size: int, before: int, after: int, *, mirrored: bool) -> Tensor:
    """Positions in an axis of ``size`` that padding repeats: the ends, or mirrored at them without repeating them."""
    positions = torch.arange(-before, size + after)
    if not mirrored:
        return positions.clamp(0, size - 1)
    if max(before, after) > size - 1:
        raise RuntimeError(f"padding of {max(before, after)} mirrored in an axis of {size}")
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def _reverse(node: Node) -> Kernel:
    rank = node.rank("x")
    axes = [node.checked_axis(axis, rank) for axis in node.integers("axes", range(rank))]
    return _moves(node, lambda x: x.flip(axes))


def _shape(node: Node) -> Kernel:
    dtype = SPELLINGS[node.text("output_dtype", "int32", allowed=("int32", "uint16", "int16"))]
    storage = STORAGE[dtype]
    return Kernel(
        parameters=("x",), compute=lambda x: torch.tensor(x.shape, dtype=storage), dtypes=(dtype,), exact=True
    )


def _fill(node: Node) -> Kernel:
    node.require_integers("shape")
    dtype = node.type_of("value").dtype if node.has("value") else "float32"
    value: float | int = node.tensor("value").item() if node.has("value") else 0.0
    return Kernel(
        parameters=("shape",),
        compute=lambda shape: torch.full(shape.tolist(), value, dtype=STORAGE[dtype]),
        dtypes=(dtype,),
        exact=True,
    )


def _fill_like(node: Node) -> Kernel:
    dtype, value = node.type_of("value").dtype, node.tensor("value").item()
    return Kernel(
        parameters=("ref_tensor",),
        compute=lambda like: torch.full(like.shape, value, dtype=STORAGE[dtype]),
        dtypes=(dtype,),
        exact=True,
    )


def _range(node: Node) -> Kernel:
    node.require_one_type("start", "end", "step")
    dtype = node.type_of("start").dtype
    return Kernel(
        parameters=("start", "end", "step"),
        compute=lambda start, end, step: torch.arange(start.item(), end.item(), step.item(), dtype=STORAGE[dtype]),
        dtypes=(dtype,),
    )


def _band_part(node: Node) -> Kernel:
    lower, upper = node.integer("lower", -1), node.integer("upper", -1)

    def compute(x: Tensor) -> Tensor:
        kept = x if upper < 0 else x.tril(upper)
        return kept if lower < 0 else kept.triu(-lower)

    return _moves(node, compute)


def _pixel_shuffle(node: Node) -> Kernel:
    factor = node.integer("upscale_factor")
    return _moves(node, lambda x: F.pixel_shuffle(x, factor))


def _pixel_unshuffle(node: Node) -> Kernel:
    factor = node.integer("downscale_factor")
    return _moves(node, lambda x: F.pixel_unshuffle(x, factor))


def _depth_to_space(node: Node) -> Kernel:
    """A channel's number is (row * block + column) * channels + channel, where pixel_shuffle has the channel first."""
    block = node.integer("block_size")

    def compute(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, block, block, channels // block**2, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // block**2, height * block, width * block)

    return _moves(node, compute)


def _space_to_depth(node: Node) -> Kernel:
    block = node.integer("block_size")

    def compute(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, channels, height // block, block, width // block, block)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block)

    return _moves(node, compute)


BUILDERS: dict[str, Builder] = {
    "band_part": _band_part,
    "concat": _concat,
    "depth_to_space": _depth_to_space,
    "expand_dims": _expand_dims,
    "fill": _fill,
    "fill_like": _fill_like,
    "flatten2d": _flatten2d,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "range_1d": _range,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "reverse": _reverse,
    "shape": _shape,
    "space_to_depth": _space_to_depth,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
