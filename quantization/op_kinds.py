"""What each node of a ``torch.fx`` graph does, as far as quantization is concerned.

An op that is not listed here stays float: int8 is an allowlist.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quantization.schemes import OpKind

_FUNCTIONS: dict[Any, OpKind] = {
    torch.relu: OpKind.RELU,
    F.relu: OpKind.RELU,
    F.hardtanh: OpKind.CLIP,
    F.relu6: OpKind.CLIP,
    operator.add: OpKind.ADD,
    torch.add: OpKind.ADD,
    operator.mul: OpKind.MUL,
    torch.mul: OpKind.MUL,
    torch.sigmoid: OpKind.SIGMOID,
    F.sigmoid: OpKind.SIGMOID,
    torch.cat: OpKind.CAT,
    torch.concat: OpKind.CAT,
    operator.getitem: OpKind.MOVE,
    F.pixel_shuffle: OpKind.MOVE,
    torch.pixel_shuffle: OpKind.MOVE,
    F.pixel_unshuffle: OpKind.MOVE,
    torch.reshape: OpKind.MOVE,
    torch.permute: OpKind.MOVE,
    torch.transpose: OpKind.MOVE,
    torch.flatten: OpKind.MOVE,
    torch.squeeze: OpKind.MOVE,
    torch.unsqueeze: OpKind.MOVE,
}
_METHODS: dict[str, OpKind] = {
    "relu": OpKind.RELU,
    "add": OpKind.ADD,
    "mul": OpKind.MUL,
    "sigmoid": OpKind.SIGMOID,
    "reshape": OpKind.MOVE,
    "view": OpKind.MOVE,
    "permute": OpKind.MOVE,
    "transpose": OpKind.MOVE,
    "flatten": OpKind.MOVE,
    "squeeze": OpKind.MOVE,
    "unsqueeze": OpKind.MOVE,
    "contiguous": OpKind.MOVE,
    "narrow": OpKind.MOVE,
}
_MODULES: dict[type[nn.Module], OpKind] = {
    nn.ReLU: OpKind.RELU,
    nn.Hardtanh: OpKind.CLIP,
    nn.ReLU6: OpKind.CLIP,
    nn.Sigmoid: OpKind.SIGMOID,
    nn.PixelShuffle: OpKind.MOVE,
    nn.PixelUnshuffle: OpKind.MOVE,
    nn.Identity: OpKind.MOVE,
    nn.UpsamplingNearest2d: OpKind.MOVE,
    nn.Flatten: OpKind.MOVE,
}


def classify(node: fx.Node, network: fx.GraphModule) -> OpKind:
    """The kind of a node; OTHER for whatever is not on the allowlist."""
    if node.op == "call_module":
        return _classify_module(network.get_submodule(str(node.target)))
    if node.op == "call_method":
        return _METHODS.get(str(node.target), OpKind.OTHER)
    if node.op != "call_function":
        return OpKind.OTHER
    if node.target is F.interpolate:
        mode = node.args[3] if len(node.args) > 3 else node.kwargs.get("mode", "nearest")
        return OpKind.MOVE if mode == "nearest" else OpKind.OTHER
    if node.target is torch.add and "alpha" in node.kwargs:
        return OpKind.OTHER
    return _FUNCTIONS.get(node.target, OpKind.OTHER)


def _classify_module(module: nn.Module) -> OpKind:
    if isinstance(module, nn.Conv2d):
        return OpKind.OTHER if is_averaging(module) else OpKind.CONV
    if isinstance(module, nn.Upsample):
        return OpKind.MOVE if module.mode == "nearest" else OpKind.OTHER
    return _MODULES.get(type(module), OpKind.OTHER)


def is_averaging(conv: nn.Conv2d) -> bool:
    """Whether the convolution is a mean over channels (all weights 1/in): a statistic, which must stay float."""
    if conv.groups != 1 or conv.in_channels == 1 or conv.weight[0, 0].numel() != 1:
        return False
    mean = 1.0 / conv.in_channels
    return all(math.isclose(value, mean, rel_tol=1e-5) for value in conv.weight.detach().flatten().tolist())


def is_copying(conv: nn.Conv2d) -> bool:
    """Whether every output channel is exactly one input channel (1x1, a single weight of 1, nothing added).

    Such a convolution repeats channels; its output lies on its input's grid and integer arithmetic keeps it exact.
    """
    if conv.stride != (1, 1) or conv.padding not in ((0, 0), "valid"):
        return False
    if conv.bias is not None and bool(conv.bias.detach().any()):
        return False
    return is_copying_weight(conv.weight)


def is_copying_weight(weight: Tensor) -> bool:
    """Whether a convolution's weight is 1x1 with exactly one weight per output channel, a 1, and zeros else."""
    weight = weight.detach()
    if weight[0, 0].numel() != 1:
        return False
    binary = bool(((weight == 0) | (weight == 1)).all())
    return binary and bool((weight.sum(dim=(1, 2, 3)) == 1).all())
