"""Weights and quantization grids of two models, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.graphs.summary import ActivationScale, ArtifactSummary, Layer

Array = NDArray[Any]

# Scales that differ by less are equal: Core ML stores them as float16, which rounds by at most 2**-11.
_EQUAL_SCALES = 2.0**-11
# Output channels count as reordered where that leaves a tenth of the difference: a converter may permute them
# (a pixel shuffle spelled as DEPTH_TO_SPACE), and other weights would not come together so.
_REORDERED_GAIN = 0.1


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """One layer of each model, as float numbers.

    Attributes:
        before, after: labels.
        max_difference: largest difference of a weight; ``largest_weight`` is what to hold it against.
        bias_difference: largest difference of a bias; a layer without one counts as zeros.
        scale_ratio: largest ratio (1 or more) between their weight scales, None unless both are quantized alike.
        scales_changed: number of weight scales that differ.
        scale_count: number of weight scales compared.
        reordered: the second has its output channels in another order, undone for the comparison.
    """

    before: str
    after: str
    max_difference: float
    largest_weight: float
    bias_difference: float
    scale_ratio: float | None
    scales_changed: int
    scale_count: int
    reordered: bool

    @property
    def relative_difference(self) -> float:
        """``max_difference`` as a share of the largest weight."""
        return self.max_difference / self.largest_weight if self.largest_weight else float(self.max_difference > 0)

    @property
    def differs(self) -> bool:
        return self.max_difference > 0 or self.bias_difference > 0


@dataclass(frozen=True, kw_only=True)
class ScaleChange:
    """Quantization grids of two models.

    Attributes:
        counts: grids of each.
        compared: number that have a counterpart.
        changed: of those, how many have another scale or zero point.
        largest_ratio: of the larger to the smaller scale, 1 where all are equal; ``where`` is its label.
        note: how they were paired, where not one by one.
    """

    counts: tuple[int, int]
    compared: int
    changed: int
    largest_ratio: float
    where: str
    note: str = ""


def compare_layers(
    before: Sequence[Layer], after: Sequence[Layer]
) -> tuple[tuple[LayerChange, ...], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pair the layers and compare their weights.

    Where both models have layers of the same shapes in the same order, they are paired in that order. Otherwise each
    layer takes the one of its shape that is closest to it.

    Returns:
        the changes, in the first model's order, and the labels of what is left over, of the first and of the second.
    """
    if [layer.weight.shape for layer in before] == [layer.weight.shape for layer in after]:
        return tuple(map(_compare_layer, before, after)), ((), ())
    left = list(after)
    changes: list[LayerChange] = []
    alone: list[str] = []
    for layer in before:
        alike = [other for other in left if other.weight.shape == layer.weight.shape]
        if not alike:
            alone.append(layer.label)
            continue
        closest = min(alike, key=lambda other: _distance(layer, other))
        left = [other for other in left if other is not closest]
        changes.append(_compare_layer(layer, closest))
    return tuple(changes), (tuple(alone), tuple(layer.label for layer in left))


def compare_weights(layers: Sequence[LayerChange]) -> ScaleChange:
    """The weight scales of all paired layers together."""
    quantized = [layer for layer in layers if layer.scale_ratio is not None]
    worst = max(quantized, key=lambda layer: layer.scale_ratio or 1.0, default=None)
    count = sum(layer.scale_count for layer in quantized)
    return ScaleChange(
        counts=(count, count),
        compared=count,
        changed=sum(layer.scales_changed for layer in quantized),
        largest_ratio=1.0 if worst is None or worst.scale_ratio is None else worst.scale_ratio,
        where="" if worst is None else worst.before,
    )


def compare_activations(before: ArtifactSummary, after: ArtifactSummary) -> ScaleChange:
    """Grids of computed values: one by one within a target, as sets of distinct scales across targets.

    Formats round at different places (ExecuTorch converts between layouts, Core ML spells every rounding out), and the
    zero point counts from another end, so that across targets only the scales themselves can be held together.
    """
    one, other = before.activation_scales, after.activation_scales
    in_step = [entry.label for entry in one] == [entry.label for entry in other]
    if before.target == after.target and in_step:
        return _compare_in_step(one, other)
    return _compare_distinct(one, other)


def _compare_in_step(one: Sequence[ActivationScale], other: Sequence[ActivationScale]) -> ScaleChange:
    changed, largest, where = 0, 1.0, ""
    for left, right in zip(one, other, strict=True):
        changed += (left.qscale, left.zero_point) != (right.qscale, right.zero_point)
        ratio = _ratio(left.qscale, right.qscale)
        if ratio > largest:
            largest, where = ratio, f"grid {left.number}, after {left.label}"
    return ScaleChange(
        counts=(len(one), len(other)), compared=len(one), changed=changed, largest_ratio=largest, where=where
    )


def _compare_distinct(one: Sequence[ActivationScale], other: Sequence[ActivationScale]) -> ScaleChange:
    missing, largest, where, distinct = 0, 1.0, "", 0
    seen: list[float] = []
    for entry in one:
        if any(_ratio(entry.qscale, scale) - 1.0 <= _EQUAL_SCALES for scale in seen):
            continue
        seen.append(entry.qscale)
        distinct += 1
        ratio = min((_ratio(entry.qscale, right.qscale) for right in other), default=math.inf)
        if ratio - 1.0 > _EQUAL_SCALES:
            missing += 1
            if ratio > largest and math.isfinite(ratio):
                largest, where = ratio, f"grid {entry.number}, after {entry.label}"
    return ScaleChange(
        counts=(len(one), len(other)),
        compared=distinct if other else 0,
        changed=missing if other else 0,
        largest_ratio=largest,
        where=where,
        note="distinct scales of the first, each beside the nearest of the second",
    )


def _compare_layer(before: Layer, after: Layer) -> LayerChange:
    order = _order(before, after)
    weight = after.weight if order is None else after.weight[order]
    bias = _bias(after) if order is None else _bias(after)[order]
    scales = after.weight_qscale
    if order is not None and scales is not None and scales.size == len(order):
        scales = scales[order]
    ratio, changed, count = _compare_scales(before.weight_qscale, scales)
    return LayerChange(
        before=before.label,
        after=after.label,
        max_difference=float(np.abs(before.weight - weight).max(initial=0.0)),
        largest_weight=float(np.abs(before.weight).max(initial=0.0)),
        bias_difference=float(np.abs(_bias(before) - bias).max(initial=0.0)),
        scale_ratio=ratio,
        scales_changed=changed,
        scale_count=count,
        reordered=order is not None,
    )


def _compare_scales(before: Array | None, after: Array | None) -> tuple[float | None, int, int]:
    """(largest ratio, number that differ, number compared); (None, 0, 0) unless both have as many."""
    if before is None or after is None or before.shape != after.shape:
        return None, 0, 0
    ratios = np.maximum(before / after, after / before)
    return float(ratios.max()), int((before != after).sum()), before.size


def _order(before: Layer, after: Layer) -> NDArray[np.int64] | None:
    """Order in which ``after``'s output channels are those of ``before``, None where they are in place."""
    direct = _distance(before, after)
    if direct == 0 or len(before.weight) < 2:
        return None
    apart = np.abs(_rows(before)[:, np.newaxis] - _rows(after)[np.newaxis]).max(axis=2)
    order: list[int] = []
    for distances in apart:  # each channel takes the nearest that is left: channels may be equal
        free = np.where(np.isin(np.arange(len(distances)), order), np.inf, distances)
        order.append(int(free.argmin()))
    if float(apart[np.arange(len(order)), order].max()) > _REORDERED_GAIN * direct:
        return None
    return np.asarray(order)


def _rows(layer: Layer) -> Array:
    """(out, n): everything that belongs to one output channel."""
    return np.hstack([layer.weight.reshape(len(layer.weight), -1), _bias(layer)[:, np.newaxis]])


def _distance(before: Layer, after: Layer) -> float:
    return float(np.abs(before.weight - after.weight).max(initial=0.0))


def _bias(layer: Layer) -> Array:
    return np.zeros(len(layer.weight)) if layer.bias is None else layer.bias


def _ratio(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return high / low if low > 0 else (1.0 if high == low else math.inf)
