"""Convolutions in the form that trains fastest: the functions of ``nn.Conv2d``, spelled for the training form alone.

Weights stay those of the ``nn.Conv2d`` modules, so checkpoints and deployment forms know nothing of this.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

DEPTHWISE_FORMS = ("dense", "depthwise", "planes")
"""How a depthwise kernel is computed, see :func:`depthwise`."""


def pointwise(conv: nn.Conv2d, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """A 1x1 convolution as a matrix product over channels-last pixels.

    oneDNN (torch 2.13, one thread) hands 1x1 convolutions to a fallback that is slower than the product.

    Args:
        conv: kernel 1, stride 1, one group.
        x: (B, in, H, W).
        weight: (out, in, 1, 1) in place of the module's own.
    Returns:
        (B, out, H, W), channels last.
    """
    matrix = (conv.weight if weight is None else weight).flatten(1)
    return functional.linear(x.permute(0, 2, 3, 1), matrix, conv.bias).permute(0, 3, 1, 2)


def depthwise(conv: nn.Conv2d, x: Tensor, form: str) -> Tensor:
    """A depthwise convolution in one of :data:`DEPTHWISE_FORMS`.

    Args:
        conv: as many groups as channels.
        x: (B, channels, H, W), channels last.
        form: "dense" spreads the kernels on the diagonal of a dense kernel, whose zeros matrix units compute faster
            than a library computes depthwise gradients; "depthwise" leaves it to the library; "planes" as well, on
            planes, for which torch has kernels of its own on a GPU.
    """
    if form == "dense":
        # (C, 1, k, k) * (C, C, 1, 1): the product's gradient picks the diagonal, so only the kernels themselves learn.
        weight = conv.weight * torch.eye(conv.out_channels, dtype=x.dtype, device=x.device)[:, :, None, None]
        weight = weight.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation)
    if form == "planes":
        out: Tensor = conv(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return out
    plain: Tensor = conv(x)
    return plain
