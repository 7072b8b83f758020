"""Normalisations. Means and variances are of the given values in float32; only the result is rounded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.coreml_evaluator.node import Builder, Kernel, Node


def _batch_norm(node: Node) -> Kernel:
    node.require_floats("x", "mean", "variance", "gamma", "beta")
    epsilon = node.number("epsilon", 1e-5)
    mean, variance = node.tensor("mean"), node.tensor("variance")
    gamma = node.tensor("gamma") if node.has("gamma") else None
    beta = node.tensor("beta") if node.has("beta") else None
    return Kernel(
        parameters=("x",), compute=lambda x: F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)
    )


def _instance_norm(node: Node) -> Kernel:
    node.require_floats("x", "gamma", "beta")
    axes = tuple(range(2, node.rank("x")))
    return _normalised(node, axes, affine_shape=(-1, *([1] * len(axes))))


def _layer_norm(node: Node) -> Kernel:
    node.require_floats("x", "gamma", "beta")
    rank = node.rank("x")
    axes = tuple(node.checked_axis(axis, rank) for axis in node.integers("axes", range(rank)))
    shape = node.type_of("x").shape
    if len(set(axes)) != len(axes):
        node.damaged("different axes", str(list(axes)))
    return _normalised(node, axes, affine_shape=tuple(shape[axis] if axis in axes else 1 for axis in range(rank)))


def _normalised(node: Node, axes: tuple[int, ...], affine_shape: tuple[int, ...]) -> Kernel:
    if not axes:
        node.damaged("axes to normalise over", "none")
    epsilon = node.number("epsilon", 1e-5)
    gamma = node.tensor("gamma").reshape(affine_shape) if node.has("gamma") else None
    beta = node.tensor("beta").reshape(affine_shape) if node.has("beta") else None

    def compute(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        factor = torch.rsqrt(variance + epsilon)
        result = (x - mean).mul_(factor if gamma is None else factor * gamma)
        return result if beta is None else result.add_(beta)

    return Kernel(parameters=("x",), compute=compute)


def _l2_norm(node: Node) -> Kernel:
    node.require_floats("x")
    if node.rank("x") < 3:
        node.damaged("x of at least 3 axes", str(node.rank("x")))
    epsilon = node.number("epsilon", 1e-6)
    return Kernel(
        parameters=("x",),
        compute=lambda x: x / ((x * x).sum((-3, -2, -1), keepdim=True) + epsilon).sqrt(),
    )


def _local_response_norm(node: Node) -> Kernel:
    node.require_floats("x")
    size, alpha = node.integer("size"), node.number("alpha", 1e-4)
    beta, k = node.number("beta", 0.75), node.number("k", 1.0)
    if size % 2 == 0:
        node.unsupported("an odd size", str(size))  # which side an even window leans to is not described
    return Kernel(parameters=("x",), compute=lambda x: F.local_response_norm(x, size, alpha, beta, k))


BUILDERS: dict[str, Builder] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
