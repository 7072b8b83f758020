"""Activation functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.coreml_evaluator.node import Builder, Compute, Kernel, Node

_GELU_MODES = ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")


def _plain(compute: Compute, *, exact: bool = False) -> Builder:
    def build(node: Node) -> Kernel:
        node.require_floats("x")
        return Kernel(parameters=("x",), compute=compute, exact=exact)

    return build


def _clamped_relu(node: Node) -> Kernel:
    alpha, beta = node.number("alpha"), node.number("beta")
    return _on_x(node, lambda x: torch.where(x >= 0, x, alpha * x).clamp(max=beta))


def _elu(node: Node) -> Kernel:
    alpha = node.number("alpha", 1.0)
    return _on_x(node, lambda x: F.elu(x, alpha))


def _gelu(node: Node) -> Kernel:
    match node.text("mode", "EXACT", allowed=_GELU_MODES):
        case "EXACT":
            return _on_x(node, F.gelu)
        case "TANH_APPROXIMATION":
            return _on_x(node, lambda x: F.gelu(x, approximate="tanh"))
        case _:
            return _on_x(node, lambda x: x * torch.sigmoid(1.702 * x))


def _leaky_relu(node: Node) -> Kernel:
    alpha = node.number("alpha", 0.01)
    return _on_x(node, lambda x: F.leaky_relu(x, alpha))


def _linear_activation(node: Node) -> Kernel:
    alpha, beta = node.number("alpha"), node.number("beta", 0.0)
    return _on_x(node, lambda x: alpha * x + beta)


def _prelu(node: Node) -> Kernel:
    alpha = _per_channel(node, "alpha")
    return _on_x(node, lambda x: torch.where(x >= 0, x, alpha * x))


def _scaled_tanh(node: Node) -> Kernel:
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    return _on_x(node, lambda x: alpha * torch.tanh(beta * x))


def _sigmoid_hard(node: Node) -> Kernel:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    return _on_x(node, lambda x: (alpha * x + beta).clamp(0, 1))


def _softmax(node: Node) -> Kernel:
    axis = node.axis("axis", -1)
    return _on_x(node, lambda x: torch.softmax(x, axis))


def _softplus_parametric(node: Node) -> Kernel:
    alpha, beta = _per_channel(node, "alpha"), _per_channel(node, "beta")
    return _on_x(node, lambda x: alpha * _softplus(beta * x))


def _thresholded_relu(node: Node) -> Kernel:
    alpha = node.number("alpha", 1.0)
    return _on_x(node, lambda x: torch.where(x >= alpha, x, 0.0), exact=True)


def _softplus(x: Tensor) -> Tensor:
    # not F.softplus, which is linear above 20
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype))


def _on_x(node: Node, compute: Compute, *, exact: bool = False) -> Kernel:
    node.require_floats("x")
    return Kernel(parameters=("x",), compute=compute, exact=exact)


def _per_channel(node: Node, parameter: str) -> Tensor:
    """A vector with an element per channel (axis 1), shaped to go with x."""
    vector = node.tensor(parameter)
    if node.rank("x") < 2 or vector.ndim != 1:
        node.damaged(f"{parameter} to be a vector, and x to have channels", f"ranks {vector.ndim}, {node.rank('x')}")
    return vector.reshape(-1, *([1] * (node.rank("x") - 2)))


BUILDERS: dict[str, Builder] = {
    "clamped_relu": _clamped_relu,
    "elu": _elu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "linear_activation": _linear_activation,
    "prelu": _prelu,
    "relu": _plain(torch.relu, exact=True),
    "relu6": _plain(lambda x: x.clamp(0, 6), exact=True),
    "scaled_tanh": _scaled_tanh,
    "sigmoid": _plain(torch.sigmoid),
    "sigmoid_hard": _sigmoid_hard,
    "silu": _plain(F.silu),
    "softmax": _softmax,
    "softplus": _plain(_softplus),
    "softplus_parametric": _softplus_parametric,
    "softsign": _plain(F.softsign),
    "thresholded_relu": _thresholded_relu,
}
