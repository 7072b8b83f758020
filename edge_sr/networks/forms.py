"""Convolutions in the form that trains fastest: the functions of ``nn.Conv2d``, spelled for the training form alone.

Weights stay those of the ``nn.Conv2d`` modules, so checkpoints and deployment forms know nothing of this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DEPTHWISE_FORMS = ("taps", "dense", "depthwise", "planes")
"""How a depthwise kernel is computed, see :func:`depthwise`; the first is the fastest on CPUs."""


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
        conv: as many groups as channels, stride 1, an output of the input's size.
        x: (B, channels, H, W), channels last.
        form: "dense" spreads the kernels on the diagonal of a dense kernel, whose zeros matrix units compute faster
            than a library computes depthwise gradients; "taps" does so too, but for the gradient of the kernels, a sum
            of products for each tap; "depthwise" leaves it to the library; "planes" as well, on planes, for which torch
            has kernels of its own on a GPU.
    """
    reach = tuple(d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    same = conv.stride == (1, 1) and reach == tuple(2 * int(p) for p in conv.padding)
    if form == "taps" and same and conv.bias is not None:
        taps: Tensor = _Taps.apply(x, conv.weight, conv.bias, conv.padding, conv.dilation)  # type: ignore[no-untyped-call]
        return taps
    if form == "dense":
        return functional.conv2d(x, _dense(conv.weight), conv.bias, conv.stride, conv.padding, conv.dilation)
    if form == "planes":
        out: Tensor = conv(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return out
    plain: Tensor = conv(x)
    return plain


def _dense(weight: Tensor) -> Tensor:
    """(C, 1, k, k) -> (C, C, k, k) with the kernels on the diagonal; the gradient picks the diagonal."""
    eye = torch.eye(weight.shape[0], dtype=weight.dtype, device=weight.device)[:, :, None, None]
    return (weight * eye).contiguous(memory_format=torch.channels_last)


class _Taps(torch.autograd.Function):
    """A dense convolution whose backward computes no more of the kernels' gradient than their diagonal.

    oneDNN's gradient of a dilated 24x24x7x7 kernel takes eight times as long as its forward pass (torch 2.13, AVX2),
    and 23 of 24 of it are thrown away.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
    ) -> Tensor:
        out = functional.conv2d(x, _dense(weight), bias, 1, padding, dilation)
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        (vertical, horizontal), dilation = ctx.padding, ctx.dilation
        # What an output pixel read, each input pixel now reads back: the kernels turned by half a turn.
        turned = _dense(weight.flip(2, 3)).to(gradient.dtype)
        towards_x = functional.conv2d(gradient, turned, None, 1, ctx.padding, dilation).to(x.dtype)
        channels, (height, width) = x.shape[1], gradient.shape[2:]
        pixels = gradient.permute(0, 2, 3, 1).contiguous()
        around = functional.pad(
            x.permute(0, 2, 3, 1).to(pixels.dtype), (0, 0, horizontal, horizontal, vertical, vertical)
        )
        sums, products = [], torch.empty_like(pixels)
        for row in range(0, weight.shape[2] * dilation[0], dilation[0]):
            for column in range(0, weight.shape[3] * dilation[1], dilation[1]):
                torch.mul(pixels, around[:, row : row + height, column : column + width], out=products)
                sums.append(products.view(-1, channels).sum(0, dtype=torch.float32))
        towards_weight = torch.stack(sums, 1).view(weight.shape).to(weight.dtype)
        return towards_x, towards_weight, gradient.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype), None, None
