"""Enlarging, shrinking and cropping of the last two axes (``resize``: of any last axes).

MIL describes linear interpolation by the points of the input at which each output is sampled; that is how it is done
here. Nearest neighbours are not described where they are ambiguous: floor(i * in / out) is taken, which is what
coremltools' frontends translate from, and other sampling modes are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from converters.coreml_evaluator.node import Builder, Kernel, Node

_SAMPLING = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def sampling_points(mode: str, size: int, target: int) -> Tensor:
    """Positions in an axis of ``size`` elements of the ``target`` elements that are made of it; (target,) float64."""
    steps = torch.arange(target, dtype=torch.float64)
    match mode:
        case "STRICT_ALIGN_CORNERS" | "ALIGN_CORNERS":
            points = steps * ((size - 1) / max(target - 1, 1))
            if target == 1 and mode == "ALIGN_CORNERS":
                points = points + (size - 1) / 2
        case "DEFAULT":  # (size - size / target) / (target - 1) is size / target
            points = steps * (size / target)
        case "OFFSET_CORNERS":
            delta = max(1, size - 1) / target
            points = 0.5 * delta + steps * delta
        case _:
            points = (steps + 0.5) * (size / target) - 0.5
    return points.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, points: Tensor) -> Tensor:
    if torch.equal(points, torch.arange(x.shape[axis], dtype=torch.float64)):
        return x
    lower = points.floor()
    weight = (points - lower).to(x.dtype).reshape(-1, *([1] * (x.ndim - 1 - axis)))
    first = lower.long()
    second = (first + 1).clamp(max=x.shape[axis] - 1)
    below, above = x.index_select(axis, first), x.index_select(axis, second)
    return torch.lerp(below, above, weight)


def _nearest(x: Tensor, axis: int, target: int) -> Tensor:
    return x.index_select(axis, (torch.arange(target) * x.shape[axis]).div(target, rounding_mode="floor"))


def _resized(x: Tensor, sizes: Sequence[int], mode: str, *, nearest: bool) -> Tensor:
    """``x`` with its last axes of these sizes."""
    for offset, target in enumerate(sizes):
        axis = x.ndim - len(sizes) + offset
        size = x.shape[axis]
        x = _nearest(x, axis, target) if nearest else _linear(x, axis, sampling_points(mode, size, target))
    return x


def _factors(node: Node) -> tuple[float, float]:
    factors = node.number("scale_factor_height", 1.0), node.number("scale_factor_width", 1.0)
    if min(factors) <= 0 or node.rank("x") < 3:
        node.damaged("positive factors for x of at least 3 axes", f"{factors} for {node.rank('x')}")
    return factors


def _upsample_nearest(node: Node) -> Kernel:
    factors = _factors(node)

    def compute(x: Tensor) -> Tensor:
        return _resized(x, _times(x, factors), "", nearest=True)

    return Kernel(parameters=("x",), compute=compute, exact=True)


def _upsample_bilinear(node: Node) -> Kernel:
    factors = _factors(node)
    align = node.flag("align_corners", True)
    half = node.flag("half_pixel_centers", not align)
    if align and half:
        node.damaged("one of align_corners and half_pixel_centers", "both")
    mode = "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS" if half else "DEFAULT"
    return Kernel(parameters=("x",), compute=lambda x: _resized(x, _times(x, factors), mode, nearest=False))


def _times(x: Tensor, factors: tuple[float, float]) -> list[int]:
    # a factor is a float32, such as 2/3 of 6 rounded to 3.9999998
    return [int(x.shape[axis] * factor + 1e-4) for axis, factor in zip((-2, -1), factors, strict=True)]


def _resize_nearest(node: Node) -> Kernel:
    sizes = node.integer("target_size_height"), node.integer("target_size_width")
    return Kernel(parameters=("x",), compute=lambda x: _resized(x, sizes, "", nearest=True), exact=True)


def _resize_bilinear(node: Node) -> Kernel:
    sizes = node.integer("target_size_height", 1), node.integer("target_size_width", 1)
    mode = node.text("sampling_mode", "DEFAULT", allowed=_SAMPLING)
    return Kernel(parameters=("x",), compute=lambda x: _resized(x, sizes, mode, nearest=False))


def _resize(node: Node) -> Kernel:
    count = node.integer("resized_dims")
    nearest = node.text("interpolation_mode", "LINEAR", allowed=("LINEAR", "NEAREST_NEIGHBOR")) != "LINEAR"
    mode = node.text("sampling_mode", "DEFAULT", allowed=("DEFAULT",) if nearest else _SAMPLING)

    def compute(x: Tensor, shape: Tensor) -> Tensor:
        own = x.shape[x.ndim - count :]
        wanted = shape.tolist()[shape.numel() - count :]
        return _resized(x, [size or kept for size, kept in zip(wanted, own, strict=True)], mode, nearest=nearest)

    return Kernel(parameters=("x", "shape"), compute=compute, exact=nearest)


def _crop(node: Node) -> Kernel:
    rows, columns = node.integers("crop_height"), node.integers("crop_width")
    if len(rows) != 2 or len(columns) != 2 or min(*rows, *columns) < 0:
        node.damaged("two numbers of at least 0 for crop_height and crop_width", f"{rows}, {columns}")
    return Kernel(
        parameters=("x",),
        compute=lambda x: x[..., rows[0] : x.shape[-2] - rows[1], columns[0] : x.shape[-1] - columns[1]],
        exact=True,
    )


BUILDERS: dict[str, Builder] = {
    "crop": _crop,
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest,
}
