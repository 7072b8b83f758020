"""Products of matrices."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.coreml_evaluator.node import Builder, Kernel, Node


def _linear(node: Node) -> Kernel:
    node.require_floats("x", "weight", "bias")
    return Kernel(parameters=node.given("x", "weight", "bias"), compute=F.linear)


def _matmul(node: Node) -> Kernel:
    node.require_one_type("x", "y")
    flip_x, flip_y = node.flag("transpose_x", False), node.flag("transpose_y", False)
    if (flip_x and node.rank("x") < 2) or (flip_y and node.rank("y") < 2):
        node.damaged("matrices to transpose", "a vector")

    def compute(x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x.mT if flip_x else x, y.mT if flip_y else y)

    return Kernel(parameters=("x", "y"), compute=compute)


def _einsum(node: Node) -> Kernel:
    node.require_floats("values")
    equation = node.constants.get(node.operands.get("equation", ("",))[0])
    if not isinstance(equation, str) or not re.fullmatch(r"\s*\w+\s*,\s*\w+\s*->\s*\w+\s*", equation):
        node.unsupported("an equation of two terms", repr(equation))
    return Kernel(parameters=("values",), compute=lambda *values: torch.einsum(equation, *values))


def _attention(node: Node) -> Kernel:
    """softmax(query @ key^T / sqrt(E) + mask) @ value; a bool mask is True where a key may be looked at."""
    node.require_floats("query", "key", "value")
    return Kernel(parameters=node.given("query", "key", "value", "attn_mask"), compute=F.scaled_dot_product_attention)


BUILDERS: dict[str, Builder] = {
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
}
