"""Small checks of one operator that the accelerators' tables are built from.

Each returns a check: operator -> what is wrong, or None.
"""

from __future__ import annotations

from collections.abc import Sequence

from apps.lint.graph import Op, Tensor
from apps.lint.rules import Check

# ActivationFunctionType of the TFLite schema.
_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
RELU_LIKE = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")


def no_support(reason: str = "") -> Check:
    """Broken by every operator."""
    return lambda op: reason or f"{op.kind} is not among the supported operators"


def rank_at_most(most: int) -> Check:
    """No tensor has more axes than this; constants of shape and axes do not count."""

    def check(op: Op) -> str | None:
        rank = max(tensor.rank for tensor in op.tensors)
        return None if rank <= most else f"{rank} axes, at most {most} are taken"

    return check


def rank_one_of(position: int, ranks: Sequence[int]) -> Check:
    """Input ``position`` has one of these numbers of axes."""

    def check(op: Op) -> str | None:
        tensor = _at(op, position)
        if tensor is None or tensor.rank in ranks:
            return None
        return f"input {position} has {tensor.rank} axes, {' or '.join(map(str, ranks))} are taken"

    return check


def types(positions: Sequence[int], *allowed: str) -> Check:
    """Inputs at ``positions`` (those that are there) are of these types."""

    def check(op: Op) -> str | None:
        for position in positions:
            tensor = _at(op, position)
            if tensor is not None and tensor.dtype not in allowed:
                return f"input {position} is {tensor.dtype}, {' or '.join(allowed)} is taken"
        return None

    return check


def all_types(*allowed: str) -> Check:
    """Every input is of these types."""
    return lambda op: types(range(len(op.inputs)), *allowed)(op)


def output_types(*allowed: str) -> Check:
    """The result is of these types."""
    return lambda op: (
        None if op.output.dtype in allowed else f"result is {op.output.dtype}, {' or '.join(allowed)} is taken"
    )


def arithmetic(*allowed: str) -> Check:
    """The operator computes in one of these types."""
    return lambda op: (
        None if op.arithmetic in allowed else f"{op.kind} in {op.arithmetic}, {' or '.join(allowed)} is taken"
    )


def input_count(least: int, most: int) -> Check:
    """Between ``least`` and ``most`` inputs."""

    def check(op: Op) -> str | None:
        count = len([tensor for tensor in op.inputs if tensor is not None])
        return None if least <= count <= most else f"{count} inputs, {least} to {most} are taken"

    return check


def output_count(most: int) -> Check:
    """At most this many results."""
    return lambda op: None if len(op.outputs) <= most else f"{len(op.outputs)} results, at most {most} are taken"


def computed_inputs(most: int) -> Check:
    """At most this many inputs that are not constants."""
    return lambda op: (
        None if len(op.computed_inputs) <= most else f"{len(op.computed_inputs)} computed inputs, {most} are taken"
    )


def constant_at(*positions: int) -> Check:
    """Inputs at ``positions`` are constants; an absent one is allowed."""

    def check(op: Op) -> str | None:
        for position in positions:
            tensor = _at(op, position)
            if tensor is not None and not tensor.constant:
                return f"input {position} is computed, a constant is taken"
        return None

    return check


def present(position: int, what: str) -> Check:
    """There is an input ``position``."""
    return lambda op: f"no {what}" if _at(op, position) is None else None


def activation(*allowed: str) -> Check:
    """The fused activation is one of these."""

    def check(op: Op) -> str | None:
        name = _ACTIVATIONS[int(op.options.get("fusedActivationFunction", 0))]
        return None if name in allowed else f"fused {name}"

    return check


def version_at_most(most: int) -> Check:
    """Operator version."""
    return lambda op: None if op.version <= most else f"operator version {op.version}, at most {most} is taken"


def version_exactly(*versions: int) -> Check:
    """Operator version."""
    return lambda op: None if op.version in versions else f"operator version {op.version}, {versions} is taken"


def stride_at_most(most: int) -> Check:
    """Strides of a convolution or a pooling."""

    def check(op: Op) -> str | None:
        stride = max(int(op.options.get("strideH", 1)), int(op.options.get("strideW", 1)))
        return None if stride <= most else f"stride {stride}, at most {most} is taken"

    return check


def not_dilated(op: Op) -> str | None:
    """A convolution without dilation."""
    return f"dilation {dilation(op)}" if dilation(op) > 1 else None


def dilated_only_unstrided(op: Op) -> str | None:
    """Dilation only together with stride 1."""
    stride = max(int(op.options.get("strideH", 1)), int(op.options.get("strideW", 1)))
    return f"dilation {dilation(op)} with stride {stride}" if dilation(op) > 1 and stride > 1 else None


def dilation(op: Op) -> int:
    """Largest dilation of a convolution; 1 where there is none."""
    if "dilations" in op.options:  # Core ML
        return max(map(int, op.options["dilations"]))
    return max(int(op.options.get("dilationHFactor", 1) or 1), int(op.options.get("dilationWFactor", 1) or 1))


def option_is(name: str, *allowed: float) -> Check:
    """An attribute has one of these values."""

    def check(op: Op) -> str | None:
        value = op.options.get(name, allowed[0])
        return None if value in allowed else f"{name} {value}"

    return check


def scale_ratio(least: float, below: float, *, product: bool = False) -> Check:
    """For int8: scale of each input (or the product of both) over that of the result lies in [least, below)."""

    def check(op: Op) -> str | None:
        if op.arithmetic != "int8" or len(op.output.scales) != 1:
            return None
        scales = [tensor.scales[0] for tensor in op.inputs if tensor is not None and len(tensor.scales) == 1]
        if product:
            scales = [scales[0] * scales[1]] if len(scales) == 2 else []
        ratios = [scale / op.output.scales[0] for scale in scales]
        wrong = [ratio for ratio in ratios if not least <= ratio < below]
        return f"scale ratio {wrong[0]:.3g}, {least:.3g} to {below:.3g} are taken" if wrong else None

    return check


def same_scale(op: Op) -> str | None:
    """For int8: the result keeps the scale and the zero point of every quantized input."""
    if op.arithmetic != "int8":
        return None
    for tensor in op.inputs:
        if tensor is None or not tensor.scales or tensor.dtype != op.output.dtype:
            continue
        if (tensor.scales, tensor.zero_points) != (op.output.scales, op.output.zero_points):
            return f"scale {tensor.scales[0]:.4g} goes in and {op.output.scales[0]:.4g} comes out"
    return None


def _at(op: Op, position: int) -> Tensor | None:
    return op.inputs[position] if 0 <= position < len(op.inputs) else None
