"""Slices, gathering and scattering."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from converters.coreml_evaluator.node import Builder, Kernel, Node
from converters.coreml_evaluator.value_types import STORAGE

_SCATTER_MODES = {"update": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
Slices = Sequence[tuple[int, int, int]]


def _slice_by_index(node: Node) -> Kernel:
    rank = node.rank("x")
    strides = node.integers("stride", (1,) * rank)
    squeezed = _mask(node, "squeeze_mask", rank)
    slices_of = _slices(node, rank, strides)

    def compute(x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        x = _sliced(x, slices_of(x.shape, begin, end))
        return x.reshape([size for axis, size in enumerate(x.shape) if not squeezed[axis]]) if any(squeezed) else x

    return Kernel(parameters=("x", "begin", "end"), compute=compute, exact=True)


def _slices(
    node: Node, rank: int, strides: tuple[int, ...]
) -> Callable[[Sequence[int], Tensor, Tensor], list[tuple[int, int, int]]]:
    """A function of a shape, begins and ends that gives (first, end, step) of every axis, as Python's slices do."""
    node.require_integers("begin")
    node.require_integers("end")
    if len(strides) != rank or 0 in strides:
        node.damaged(f"{rank} strides other than 0", str(list(strides)))
    begin_mask, end_mask = _mask(node, "begin_mask", rank), _mask(node, "end_mask", rank)
    squeezed = _mask(node, "squeeze_mask", rank)

    def slices_of(shape: Sequence[int], begin: Tensor, end: Tensor) -> list[tuple[int, int, int]]:
        found = []
        for axis, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            if squeezed[axis]:
                position = first + shape[axis] if first < 0 else first
                found.append((position, position + 1, 1))
                continue
            chosen = slice(None if begin_mask[axis] else first, None if end_mask[axis] else last, strides[axis])
            found.append(chosen.indices(shape[axis]))
        return found

    return slices_of


def _sliced(x: Tensor, slices: Slices) -> Tensor:
    for axis, (first, last, step) in enumerate(slices):
        if step < 0:
            x = x.index_select(axis, torch.tensor(list(range(first, last, step)), dtype=torch.int64))
        elif (first, last, step) != (0, x.shape[axis], 1):
            x = x[(slice(None),) * axis + (slice(first, last, step),)]
    return x


def _slice_by_size(node: Node) -> Kernel:
    node.require_integers("begin")
    node.require_integers("size")

    def compute(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
        for axis, (first, length) in enumerate(zip(begin.tolist(), size.tolist(), strict=True)):
            first += x.shape[axis] if first < 0 else 0
            x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
        return x

    return Kernel(parameters=("x", "begin", "size"), compute=compute, exact=True)


def _slice_update(node: Node) -> Kernel:
    rank = node.rank("x")
    strides = node.integers("stride", (1,) * rank)
    slices_of = _slices(node, rank, strides)
    if min(strides) < 1:
        node.unsupported("positive strides", str(list(strides)))

    def compute(x: Tensor, update: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        result = x.clone()
        _sliced(result, slices_of(x.shape, begin, end)).reshape(update.shape).copy_(update)
        return result

    return Kernel(parameters=("x", "update", "begin", "end"), compute=compute, exact=True)


def _mask(node: Node, parameter: str, rank: int) -> tuple[bool, ...]:
    values = tuple(map(bool, node.integers(parameter, (0,) * rank)))
    if len(values) != rank:
        node.damaged(f"{rank} values for {parameter}", str(len(values)))
    return values


def _gather(node: Node) -> Kernel:
    axis, batch = node.axis("axis", 0), node.integer("batch_dims", 0)
    node.require_integers("indices")
    wraps = not node.newer_than_ios16

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        places = _places(indices, x.shape[axis], wraps)
        shape = (*x.shape[:axis], *places.shape[batch:], *x.shape[axis + 1 :])
        if batch == 0:
            return x.index_select(axis, places.reshape(-1)).reshape(shape)
        # batches one after the other: (B, *between, axis, *after) and (B, *rest)
        lead = x.shape[:batch]
        flat_x, flat_places = x.flatten(0, batch - 1), places.reshape(lead.numel(), -1)
        picked = [row.index_select(axis - batch, each) for row, each in zip(flat_x, flat_places, strict=True)]
        return torch.stack(picked).reshape(shape)

    return Kernel(parameters=("x", "indices"), compute=compute, exact=True)


def _gather_along_axis(node: Node) -> Kernel:
    axis, wraps = node.axis("axis", 0), not node.newer_than_ios16
    node.require_integers("indices")
    return Kernel(
        parameters=("x", "indices"),
        compute=lambda x, indices: x.gather(axis, _places(indices, x.shape[axis], wraps)),
        exact=True,
    )


def _gather_nd(node: Node) -> Kernel:
    batch, wraps = node.integer("batch_dims", 0), not node.newer_than_ios16
    node.require_integers("indices")

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        sizes = x.shape[batch : batch + depth]
        places = [_places(indices[..., k], size, wraps) for k, size in enumerate(sizes)]
        lead = [torch.arange(x.shape[axis]).reshape(-1, *([1] * (indices.ndim - 2 - axis))) for axis in range(batch)]
        return x[(*lead, *places)]

    return Kernel(parameters=("x", "indices"), compute=compute, exact=True)


def _places(indices: Tensor, size: int, wraps: bool) -> Tensor:
    """Indices as int64, in [0, size). A negative one counts from the end before iOS 17, and has no meaning since.

    Raises:
        RuntimeError: an index is out of bounds.
    """
    places = indices.long()
    if wraps:
        places = torch.where(places < 0, places + size, places)
    if places.numel() and not (int(places.amin()) >= 0 and int(places.amax()) < size):
        raise RuntimeError(f"indices from {int(indices.amin())} to {int(indices.amax())} in an axis of {size}")
    return places


def _scatter_along_axis(node: Node) -> Kernel:
    axis, wraps = node.axis("axis", 0, of="data"), not node.newer_than_ios16
    reduce = _SCATTER_MODES[node.text("mode", "add", allowed=tuple(_SCATTER_MODES))]

    def compute(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _places(indices, data.shape[axis], wraps)
        if reduce is None:
            return data.scatter(axis, places, updates)
        return data.scatter_reduce(axis, places, updates, reduce, include_self=True)

    return Kernel(parameters=("data", "indices", "updates"), compute=compute)


def _one_hot(node: Node) -> Kernel:
    size, axis = node.integer("one_hot_vector_size"), node.axis("axis", -1, of="indices", extra=1)
    dtype = node.type_of("on_value").dtype if node.has("on_value") else "int32"
    on = node.tensor("on_value") if node.has("on_value") else torch.tensor(1, dtype=torch.int32)
    off = node.tensor("off_value") if node.has("off_value") else torch.tensor(0, dtype=torch.int32)

    def compute(indices: Tensor) -> Tensor:
        shape = [1] * (indices.ndim + 1)
        shape[axis] = size
        hot = indices.long().unsqueeze(axis) == torch.arange(size).reshape(shape)
        return torch.where(hot, on, off).to(STORAGE[dtype])

    return Kernel(parameters=("indices",), compute=compute, dtypes=(dtype,), exact=True)


def _non_zero(node: Node) -> Kernel:
    return Kernel(parameters=("x",), compute=lambda x: torch.nonzero(x).to(torch.int32), dtypes=("int32",), exact=True)


BUILDERS: dict[str, Builder] = {
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "non_zero": _non_zero,
    "one_hot": _one_hot,
    "scatter_along_axis": _scatter_along_axis,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
}
